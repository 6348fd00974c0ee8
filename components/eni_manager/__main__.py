"""Run the ENI manager: `python -m vpccni.components.eni_manager --run-dir DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vpccni.components.eni_manager.startup import Service
from vpccni.shared import names
from vpccni.shared.process import Process


def main(argv: Sequence[str]) -> int:
    """Start the process and run it until it is told to stop."""
    process = Process.start(names.ENI_MANAGER, argv)
    Service(process)
    return process.run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
