"""Debian's Chromium, fetched into a folder and not installed, for tests that look at a page as a browser does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support.fetched import debian_closure

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()
WITHIN_S = 90


class Browser:
    """Loads one page a call."""

    def __init__(self, folder: Path) -> None:
        root = debian_closure("chromium", folder / "chromium")
        self._program = root / "usr/lib/chromium/chromium"
        libraries = root / "usr/lib" / f"{os.uname().machine}-linux-gnu"
        self._env = {**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'pulseaudio'}"}
        self._profiles = folder

    def document(self, url: str) -> str:
        """Return the document as its script left it after three seconds of the page's own time, which waits for what it loads."""
        return self._run(["--virtual-time-budget=3000", "--dump-dom", url])

    def picture(self, url: str, path: Path, *, size: str = "1280,1400") -> None:
        """Save the page as a picture."""
        self._run([f"--window-size={size}", "--timeout=3000", f"--screenshot={path}", url])

    def _run(self, arguments: list[str]) -> str:
        profile = self._profiles / f"profile-{len(list(self._profiles.glob('profile-*')))}"
        argv = [str(self._program), *FLAGS, f"--user-data-dir={profile}", *arguments]
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True, timeout=WITHIN_S, check=True)
        return done.stdout
