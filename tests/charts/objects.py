"""What the tests of the charts share: where things are, and how to find one's way in rendered objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"
CHART = CHARTS / "aws-vpc-cni"
STATIC = CHARTS / "static"

Object = dict[str, Any]
Render = Callable[..., list[Object]]


class Refused(Exception):
    """Helm would not render; the text is its own."""


def parsed(text: str) -> list[Object]:
    return [document for document in yaml.safe_load_all(text) if document]


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    (found,) = (item for item in objects if item["kind"] == kind and name in ("", item["metadata"]["name"]))
    return found


def container(objects: list[Object], name: str) -> Object:
    pod = one(objects, "DaemonSet")["spec"]["template"]["spec"]
    (found,) = (item for item in [*pod["initContainers"], *pod["containers"]] if item["name"] == name)
    return found


def env(item: Object) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in item["env"]}


def mounts(item: Object) -> dict[str, str]:
    return {mount["mountPath"]: mount["name"] for mount in item["volumeMounts"]}
