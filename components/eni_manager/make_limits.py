"""Make `limits.tsv` from the answer of DescribeInstanceTypes that moto ships: `python -m vpccni.components.eni_manager.make_limits`.

The data is AWS's own, collected from the public API by the moto project; nothing in the table is typed by hand. Run it after an
update of moto (a development dependency) and commit the result.
"""

from __future__ import annotations

import gzip
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from vpccni.components.eni_manager.limits import limits_of

HEAD = "# type\taddresses_per_eni\tdefault_card\tcards\thypervisor\tbare_metal; made by make_limits, do not edit\n"


def table() -> str:
    """Return the whole table."""
    packed = files("moto.ec2").joinpath("resources/instance_types.json.gz").read_bytes()
    types: dict[str, dict[str, Any]] = json.loads(gzip.decompress(packed))
    rows = [limits_of(described).row(name) for name, described in sorted(types.items()) if "NetworkInfo" in described]
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Write the table beside this module."""
    target = Path(__file__).with_name("limits.tsv")
    target.write_text(table())
    sys.stdout.write(f"{target.name}: {table().count(chr(10)) - 1} types\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
