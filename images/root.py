"""Make the root of the images out of Debian packages, without a package manager, a shell or maintainer scripts in it.

    root.py TARGET PACKAGE...       download the packages (exactly these) and unpack them; then leave out what nothing needs

Run in the build stage, where apt is. What is missing shows when a program of the image is started: the test of the images does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

UNUSED: Final = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/python3",
    "usr/share/bug",
    "usr/share/pixmaps",
    "usr/share/applications",
    "usr/lib/python3.11/test",
    "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/tkinter",
    "usr/lib/python3.11/turtledemo",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/ensurepip",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/curses",
    "usr/lib/python3.11/dbm",
    "usr/sbin/iptables-apply",
    "usr/sbin/ip6tables-apply",
    "usr/sbin/nfnl_osf",
)
LICENCES: Final = "usr/share/doc/{}/copyright"


def main(argv: Sequence[str]) -> int:
    """Return 0; a package that cannot be had ends the build with apt's own words."""
    target, *packages = argv
    root = Path(target)
    for name in ("tmp", "run", "proc", "sys", "dev", "etc", "var/lib", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        link = root / name
        if not link.is_symlink():
            link.symlink_to(f"usr/{name}")
    if not (root / "var/run").is_symlink():
        (root / "var/run").symlink_to("/run")
    unpack(packages, root)
    licences = {
        package: (root / LICENCES.format(package)).read_bytes() for package in packages if has_licence(root, package)
    }
    for name in UNUSED:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for package, text in licences.items():
        path = root / LICENCES.format(package)
        path.parent.mkdir(parents=True)
        path.write_bytes(text)
    return 0


def unpack(packages: Sequence[str], root: Path) -> None:
    """Download the packages and unpack them over the root. `tar` keeps links: of /lib, into which old packages still unpack."""
    with tempfile.TemporaryDirectory() as folder:
        download = ["apt-get", "-o=APT::Sandbox::User=root", "-q", "download"]
        subprocess.run([*download, *packages], cwd=folder, check=True)
        for package in sorted(Path(folder).glob("*.deb")):
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
                subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", root], stdin=archive.stdout, check=True)


def has_licence(root: Path, package: str) -> bool:
    """Whether the package carries its licence itself, rather than by a link to another's folder."""
    path = root / LICENCES.format(package)
    return path.is_file() and not path.parent.is_symlink()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
