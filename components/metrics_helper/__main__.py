"""Run the metrics helper: `python -m vpccni.components.metrics_helper [--cloudwatch=false] [--kubeconfig FILE]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from vpccni.components.metrics_helper.config import read
from vpccni.components.metrics_helper.service import Service
from vpccni.shared.errors import VpccniError
from vpccni.shared.log import Log

EXIT_UNUSABLE = 1


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM; return 1 at once, with one line, where the configuration cannot be used."""
    try:
        config = read(argv, os.environ)
        service = Service(config, Log("metrics_helper", level=config.log_level, path="stdout"))
    except VpccniError as error:
        sys.stderr.write(f"cni-metrics-helper: {error}\n")
        return EXIT_UNUSABLE
    return service.run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
