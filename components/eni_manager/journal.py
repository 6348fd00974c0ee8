"""Adapter of the intents on disk: what was about to be asked of EC2, so that a crash between two calls leaks no ENI.

Only the life of an ENI needs it. Assigning and unassigning addresses does not: after a crash EC2's own picture tells what came of
them, and the surrender is still in the allocator's target. One small JSON file, replaced as a whole (write, fsync, rename) before
each step; it is some hundred bytes an ENI under way.

    create -> attach -> own -> (done)          free: detach -> delete -> (done)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from vpccni.components.eni_manager.facts import NewEni
from vpccni.shared.files import replace_file

VERSION: Final = 1
CREATE: Final = "create"
ATTACH: Final = "attach"
OWN: Final = "own"
DETACH: Final = "detach"
DELETE: Final = "delete"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One ENI under way and the step that comes next. `token` names the intent; it is also EC2's client token."""

    token: str
    step: str
    card: int
    eni_id: str = ""
    mac: str = ""
    device: int = -1
    new: NewEni | None = None

    @property
    def frees(self) -> bool:
        return self.step in (DETACH, DELETE)


class _File(msgspec.Struct):
    version: int
    intents: list[Intent]


class Journal:
    """The file; the loop's thread alone uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lost = False

    def load(self) -> list[Intent]:
        """Return the intents; a file that cannot be read is kept aside as `.bad` and ValueError says why.

        `lost` is true afterwards where there was no file to tell what was under way.
        """
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            self.lost = True
            return []
        try:
            found = msgspec.json.decode(raw, type=_File)
            if found.version != VERSION:
                raise msgspec.ValidationError(f"version {found.version} is not {VERSION}")
        except (msgspec.MsgspecError, ValueError) as error:
            aside = self._path.with_suffix(".bad")
            self._path.rename(aside)
            self.lost = True
            raise ValueError(f"{self._path.name} cannot be read ({error}); it is kept as {aside.name}") from error
        return found.intents

    def save(self, intents: Sequence[Intent]) -> None:
        """Replace the file; on return it is on disk."""
        raw = msgspec.json.encode(_File(VERSION, list(intents)))
        replace_file(self._path, raw, mode=0o644, owner="journal", temporary=self._path.with_suffix(".tmp"))
