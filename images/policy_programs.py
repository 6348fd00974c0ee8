"""Compile the policy programs that images carry, because nodes have no compiler: `policy_programs.py TARGET.json`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vpccni.components.policy_agent.objects import ObjectSource, compiled_programs


def main(argv: Sequence[str]) -> int:
    """Return 0; programs that do not compile end the build with the compiler's words."""
    target = Path(argv[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        compiled_programs(ObjectSource(cache=Path(cache)))
        (made,) = Path(cache).glob("*.json")
        shutil.copyfile(made, target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
