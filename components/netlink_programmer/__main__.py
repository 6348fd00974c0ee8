"""Start the programmer: settings, netlink, front door."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vpccni.components.netlink_programmer.service import ProgrammerService
from vpccni.shared import names
from vpccni.shared.process import Process


def main(argv: Sequence[str]) -> int:
    """Run until told to end; return the exit status."""
    process = Process.start(names.NETLINK_PROGRAMMER, argv)
    ProgrammerService(process).start()
    return process.run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
