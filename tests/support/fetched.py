"""Programs that long tests fetch: where they cannot be had the test is left out, saying why, and nothing else fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

GO_WITHIN_S = 900
DEBIAN_WITHIN_S = 300


def go_program(module: str, folder: Path, **env: str) -> Path:
    """Build the program of a Go module (`path@version`) into a folder, unless it is there."""
    program = folder / module.partition("@")[0].rpartition("/")[2]
    if not program.exists():
        if shutil.which("go") is None:
            pytest.skip(f"{module} is built with Go, which is not on this machine")
        _fetch(["go", "install", module], GO_WITHIN_S, env={**os.environ, "GOBIN": str(folder), **env})
    return program


def go_program_in_module(module: str, package: str, folder: Path, **env: str) -> Path:
    """Build a program inside its module (`path@version`), as `go install` refuses for one whose go.mod replaces others."""
    program = folder / package.rpartition("/")[2]
    if not program.exists():
        if shutil.which("go") is None:
            pytest.skip(f"{module} is built with Go, which is not on this machine")
        settings = {**os.environ, "CGO_ENABLED": "0", **env}
        told = _fetch(["go", "mod", "download", "-json", module], GO_WITHIN_S, env=settings)
        source = folder / "source"
        shutil.copytree(json.loads(told)["Dir"], source)
        for entry in (source, *source.rglob("*")):
            entry.chmod(entry.stat().st_mode | 0o200)  # the module cache is read-only
        _fetch(["go", "build", "-o", str(program), package], GO_WITHIN_S, env=settings, cwd=source)
    return program


def debian_programs(packages: tuple[str, ...], folder: Path) -> Path:
    """Unpack Debian packages, without installing them, into a folder, unless they are there; return its root."""
    root = folder / "root"
    if not root.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(["apt-get", "download", "-qq", *packages], DEBIAN_WITHIN_S, cwd=folder)
        for package in folder.glob("*.deb"):
            _fetch(["dpkg", "-x", str(package), str(root)], DEBIAN_WITHIN_S)
    return root


def debian_closure(package: str, folder: Path) -> Path:
    """Unpack a Debian package, and what it needs and this machine lacks, into a folder, unless they are there; return its root."""
    root = folder / "root"
    if not root.exists():
        archives = folder / "archives"
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        only = ["--no-install-recommends", "--download-only", "-o", f"Dir::Cache::archives={archives}"]
        _fetch(["apt-get", "install", "-y", "-qq", *only, package], DEBIAN_WITHIN_S)
        for one in archives.glob("*.deb"):
            _fetch(["dpkg", "-x", str(one), str(root)], DEBIAN_WITHIN_S)
    return root


def _fetch(argv: list[str], within_s: int, *, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=within_s, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{' '.join(argv[:3])} did not end within {within_s} s")
    if done.returncode != 0:
        pytest.skip(f"{' '.join(argv[:3])} cannot be had here: {done.stderr.strip()[-300:]}")
    return done.stdout
