"""What a real API server demands of an event in events.k8s.io/v1: a report that it would refuse must not pass here."""

from __future__ import annotations

import re
from typing import Any, Final

from vpccni.lab.kube.store import ApiError

Object = dict[str, Any]
REQUIRED: Final = ("eventTime", "reportingController", "reportingInstance", "action", "reason", "type")
LENGTHS: Final = {"reportingController": 253, "reportingInstance": 128, "action": 128, "reason": 128, "note": 1024}
MAY_CHANGE: Final = frozenset({"series", "metadata"})
CLUSTER_NAMESPACES: Final = ("", "default", "kube-system")
_MICRO_TIME: Final = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")


def check_new(event: Object, namespace: str) -> None:
    """Raise ApiError 422 for an event that cannot be created in the namespace."""
    for name in REQUIRED:
        if not event.get(name):
            _invalid(name, "Required value")
    for name, most in LENGTHS.items():
        if len(event.get(name, "").encode()) > most:
            _invalid(name, f"can have at most {most} characters")
    if event["type"] not in ("Normal", "Warning"):
        _invalid("type", f"unsupported value {event['type']!r}")
    about = event.get("regarding", {}).get("namespace", "")
    if about != namespace and not (about == "" and namespace in CLUSTER_NAMESPACES):
        _invalid("regarding.namespace", f"{about!r} does not match event.namespace {namespace!r}")
    _check_time("eventTime", event["eventTime"])
    _check_series(event)


def check_change(before: Object, after: Object) -> None:
    """Raise ApiError 422 where more than the series changes."""
    for name in sorted((before.keys() | after.keys()) - MAY_CHANGE):
        if before.get(name) != after.get(name):
            _invalid(name, "field is immutable")
    _check_series(after)


def _check_series(event: Object) -> None:
    series = event.get("series")
    if series is None:
        return
    if series.get("count", 0) < 2:
        _invalid("series.count", "should be at least 2")
    _check_time("series.lastObservedTime", series.get("lastObservedTime", ""))


def _check_time(name: str, text: str) -> None:
    if not _MICRO_TIME.match(text):
        raise ApiError(400, "BadRequest", f"{name}: {text!r} is no MicroTime")


def _invalid(field: str, why: str) -> None:
    raise ApiError(422, "Invalid", f"Event is invalid: {field}: {why}")
