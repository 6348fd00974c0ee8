"""Files replaced as a whole: whoever reads, executes or crashes at any moment meets the old or the new one, complete."""

from __future__ import annotations

import os
from pathlib import Path

from vpccni.shared.effects import effect


def replace_file(path: Path, data: bytes, *, mode: int, owner: str, temporary: Path | None = None) -> None:
    """Give `path` this content: written, synced and with its mode before it gets its name, the name synced too.

    `owner` names the kill points (`<owner>.write`, `<owner>.rename`); `temporary`: another name beside `path` to write under.
    Raises OSError; the old file stays then and no temporary one.
    """
    temporary = temporary or path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        with effect(f"{owner}.write"):
            _write_synced(temporary, data, mode)
        with effect(f"{owner}.rename"):
            os.rename(temporary, path)
            sync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
