"""Lines appended to a file that continues another: the checkpoint's changes since it was last written whole."""

from __future__ import annotations

import os
from pathlib import Path

from vpccni.shared.effects import effect
from vpccni.shared.files import sync_folder

FILE_MODE = 0o600


class ChangeLog:
    """The file at `path`. Its first line names the generation of the file it continues; `size` is 0 when nothing stands in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self.size = 0

    def read(self, generation: str) -> list[bytes]:
        """Return the complete lines that continue `generation`. A torn last line was never answered for: it is left out."""
        try:
            head, *lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return lines[:-1] if generation and head.decode(errors="replace") == generation else []

    def append(self, generation: str, line: bytes) -> None:
        """Add a line; on return it is on disk. Raises OSError and leaves the log as it was then."""
        if self._descriptor < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, FILE_MODE)
            sync_folder(self._path.parent)
            self.size = 0
        text = line + b"\n" if self.size else generation.encode() + b"\n" + line + b"\n"
        try:
            with effect("checkpoint.append"):
                written = os.write(self._descriptor, text)
            if written != len(text):
                raise OSError(28, "no space left for the whole line")
            os.fdatasync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(text)

    def drop(self) -> None:
        """Forget the log: the file it continued was written anew."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self.size = 0
        self._path.unlink(missing_ok=True)
