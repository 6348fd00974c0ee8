"""Files put in place so that a runtime that reads or executes them at any moment meets the old or the new one, whole."""

from __future__ import annotations

import os
from pathlib import Path

from vpccni.shared.effects import effect


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Write `data` to `path`: complete, with its mode and on disk before it gets its name. Raises OSError; the old file stays then."""
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with effect("install.rename"):
            os.rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
