"""The init container: what needs rights over the whole node, done once, so that the containers after it do without.

Puts the plugins of the chain in place (every file of a folder of the image) and sets the sysctls of spec dataplane.md 10.1, which an
unprivileged container can read but not write. Ends with 1 and one line when it cannot.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vpccni.cni.install import write_atomically
from vpccni.cni.node_start import primary_interface, set_sysctls
from vpccni.shared.settings import read

PLUGINS: Final = Path("/init")


def main(argv: Sequence[str]) -> int:
    """Carry out both steps; return the exit status. What is wrong with settings of others is theirs to say."""
    parser = argparse.ArgumentParser(prog="vpccni node-init")
    parser.add_argument("--plugins", type=Path, default=PLUGINS, help="folder whose files go to HOST_CNI_BIN_PATH")
    arguments = parser.parse_args(argv)
    settings = read(os.environ).settings
    try:
        install_files(arguments.plugins, Path(settings.host_bin_path))
        set_sysctls(settings, primary_interface(settings))
    except (OSError, LookupError) as error:
        sys.stderr.write(f"vpccni node-init: the node cannot be prepared: {error}\n")
        return 1
    return 0


def install_files(source: Path, target: Path) -> None:
    """Copy every regular file of a folder, each atomically and with its mode; a runtime may execute them meanwhile."""
    for file in sorted(path for path in source.iterdir() if path.is_file()):
        write_atomically(target / file.name, file.read_bytes(), file.stat().st_mode & 0o777)
        sys.stdout.write(f"installed {target / file.name}\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
