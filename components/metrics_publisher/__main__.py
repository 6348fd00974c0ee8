"""Run the metrics publisher: `python -m vpccni.components.metrics_publisher --run-dir FOLDER`."""

from __future__ import annotations

import sys

from vpccni.components.metrics_publisher.service import Service
from vpccni.shared import names
from vpccni.shared.process import Process


def main(argv: list[str]) -> int:
    """Start and serve until SIGTERM."""
    process = Process.start(names.METRICS_PUBLISHER, argv)
    Service(process).start()
    return process.run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
