"""Label and field selectors of list and watch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from vpccni.lab.kube.store import ApiError

Object = dict[str, Any]
_SET = re.compile(r"^\s*([\w./-]+)\s+(in|notin)\s+\(([^)]*)\)\s*$")
_EQUAL = re.compile(r"^\s*([\w./-]+)\s*(==|=|!=)\s*(.*?)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([\w./-]+)\s*$")


def selector(labels: str, fields: str) -> Callable[[Object], bool]:
    """Return a test for objects. Raises ApiError 400 for text that is no selector."""
    tests = [_label_test(part) for part in re.split(r",(?![^(]*\))", labels) if part.strip()]
    tests += [_field_test(part) for part in fields.split(",") if part.strip()]
    return lambda obj: all(test(obj) for test in tests)


def _labels(obj: Object) -> dict[str, str]:
    return obj.get("metadata", {}).get("labels") or {}


def _label_test(text: str) -> Callable[[Object], bool]:
    if found := _SET.match(text):
        key, operator, values = found[1], found[2], {value.strip() for value in found[3].split(",")}
        return lambda obj: (_labels(obj).get(key) in values) == (operator == "in")
    if found := _EQUAL.match(text):
        key, operator, value = found[1], found[2], found[3]
        return lambda obj: (_labels(obj).get(key) == value) == (operator != "!=")
    if found := _EXISTS.match(text):
        absent, key = found[1], found[2]
        return lambda obj: (key in _labels(obj)) != bool(absent)
    raise ApiError(400, "BadRequest", f"unable to parse label selector {text!r}")


def _field_test(text: str) -> Callable[[Object], bool]:
    found = _EQUAL.match(text)
    if not found:
        raise ApiError(400, "BadRequest", f"unable to parse field selector {text!r}")
    path, operator, value = found[1].split("."), found[2], found[3]

    def test(obj: Object) -> bool:
        at: Any = obj
        for key in path:
            at = at.get(key, "") if isinstance(at, dict) else ""
        return (str(at) == value) == (operator != "!=")

    return test
