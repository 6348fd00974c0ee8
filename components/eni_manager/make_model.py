"""Make `model/`: botocore's EC2 model cut down to the actions of `ec2`: `python -m vpccni.components.eni_manager.make_model`.

The whole model is 700 actions and costs 15 MB of memory for as long as the process lives; ours has a dozen. The data is what the
locked botocore ships; run this after its update and commit the result (a test compares them). botocore takes the first
`service-2.json.gz` on its search path, so the cut model stands in for the whole one.
"""

from __future__ import annotations

import gzip
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

ACTIONS = (
    "AssignIpv6Addresses",
    "AssignPrivateIpAddresses",
    "AttachNetworkInterface",
    "CreateNetworkInterface",
    "CreateTags",
    "DeleteNetworkInterface",
    "DescribeInstanceTypes",
    "DescribeInstances",
    "DescribeNetworkInterfaces",
    "DescribeSubnets",
    "DetachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "UnassignPrivateIpAddresses",
)
VERSION = "2016-11-15"
FILES = ("service-2.json.gz", "endpoint-rule-set-1.json.gz")


def trim(model: dict[str, Any]) -> dict[str, Any]:
    """Return the model with our actions, the shapes they reach, and no documentation."""
    operations = {name: _bare(model["operations"][name]) for name in ACTIONS}
    shapes: dict[str, Any] = {}
    waiting = [shape for operation in operations.values() for shape in _named(operation)]
    while waiting:
        name = waiting.pop()
        if name not in shapes:
            shapes[name] = _bare(model["shapes"][name])
            waiting += _named(shapes[name])
    return {**_bare(model), "operations": operations, "shapes": dict(sorted(shapes.items()))}


def _bare(value: dict[str, Any]) -> dict[str, Any]:
    """Leave out texts and long lists of enum values: botocore validates neither."""
    return {
        key: _bare(part) if isinstance(part, dict) and key not in ("operations", "shapes") else part
        for key, part in value.items()
        if key not in ("documentation", "enum") or isinstance(part, dict)
    }


def _named(value: object) -> list[str]:
    if not isinstance(value, dict):
        return []
    here = [value["shape"]] if isinstance(value.get("shape"), str) else []
    return here + [name for part in value.values() for name in _named(part)]


def made() -> dict[str, bytes]:
    """Return the files by name, the same bytes each time."""
    source = files("botocore").joinpath("data/ec2", VERSION)
    whole = {name: json.loads(gzip.decompress(source.joinpath(name).read_bytes())) for name in FILES}
    cut = {FILES[0]: trim(whole[FILES[0]]), FILES[1]: whole[FILES[1]]}
    return {
        name: gzip.compress(json.dumps(document, separators=(",", ":")).encode(), mtime=0)
        for name, document in cut.items()
    }


def main() -> int:
    """Write the files beside this module."""
    folder = Path(__file__).with_name("model") / "ec2" / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    for name, packed in made().items():
        (folder / name).write_bytes(packed)
        sys.stdout.write(f"{name}: {len(packed)} bytes\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
