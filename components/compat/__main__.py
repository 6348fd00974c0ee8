"""Run the gRPC side for neighbours of the original: `python -m vpccni.components.compat --run-dir FOLDER`."""

from __future__ import annotations

import sys

from vpccni.components.compat.service import CompatService
from vpccni.shared import names
from vpccni.shared.process import Process


def main(argv: list[str]) -> int:
    """Start and serve until SIGTERM."""
    process = Process.start(names.COMPAT, argv)
    CompatService(process).start()
    return process.run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
