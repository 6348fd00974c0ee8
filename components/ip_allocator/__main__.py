"""Start the allocator: settings, checkpoint, service."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vpccni.components.ip_allocator.checkpoint import Checkpoint
from vpccni.components.ip_allocator.service import AllocatorService
from vpccni.shared import names
from vpccni.shared.clock import boot_id, boottime
from vpccni.shared.process import Process


def main(argv: Sequence[str]) -> int:
    """Run until told to end; return the exit status."""
    process = Process.start(names.IP_ALLOCATOR, argv)
    checkpoint = Checkpoint(Path(process.settings.checkpoint_path), boot_id=boot_id(), clock=boottime)
    AllocatorService(process, checkpoint).start()
    return process.run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
