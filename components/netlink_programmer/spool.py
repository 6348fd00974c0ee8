"""Deletions that could not be finished: a folder of requests, written by the plugin or by us, replayed until they are done."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vpccni.components.netlink_programmer.frontdoor import HEAD, KIND_CNI, MAGIC_REQUEST, VERSION, parse_env
from vpccni.shared.effects import effect
from vpccni.shared.files import replace_file


@dataclass(frozen=True)
class Spooled:
    """One request on disk."""

    path: Path
    env: dict[str, str]
    stdin: bytes


class Spool:
    """The folder, made 0700 when missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def waiting(self) -> list[Spooled]:
        """Return what waits, oldest first. A file that is no request is kept aside."""
        found = []
        for path in sorted(self.folder.glob("*.req")):
            raw = path.read_bytes()
            spooled = _parse(path, raw)
            if spooled is None:
                os.rename(path, path.with_suffix(".bad"))
            else:
                found.append(spooled)
        return found

    def put(self, env: Mapping[str, str], stdin: bytes) -> Spooled:
        """Keep a request, durable before it returns. Raises OSError."""
        block = b"".join(f"{name}={value}".encode() + b"\0" for name, value in env.items())
        path = self.folder / f"{time.time_ns()}-{os.getpid()}.req"
        head = HEAD.pack(MAGIC_REQUEST, VERSION, KIND_CNI, 0, 0, len(block), len(stdin))
        replace_file(path, head + block + stdin, mode=0o600, owner="spool", temporary=path.with_suffix(".tmp"))
        return Spooled(path, dict(env), stdin)

    def done(self, spooled: Spooled) -> None:
        """Forget a request; idempotent."""
        with effect("spool.unlink"):
            spooled.path.unlink(missing_ok=True)


def _parse(path: Path, raw: bytes) -> Spooled | None:
    if len(raw) < HEAD.size:
        return None
    magic, version, _kind, _mask, _deadline, env_bytes, stdin_bytes = HEAD.unpack_from(raw)
    if magic != MAGIC_REQUEST or version != VERSION or len(raw) < HEAD.size + env_bytes + stdin_bytes:
        return None
    env = parse_env(raw[HEAD.size : HEAD.size + env_bytes])
    return Spooled(path, env, raw[HEAD.size + env_bytes : HEAD.size + env_bytes + stdin_bytes])
