"""The command line, with the reference's flags, defaults and way of writing (spec policy.md 3.1). Pure."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
CHUNK_AT_MOST: Final = 2000
"""Rows of a list: an object of three such lists stays under the 1.5 MiB that the API stores."""
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says. Addresses: `[HOST]:PORT`, `0` serves nothing."""

    log_level: str = "info"
    max_concurrent_reconciles: int = 3
    endpoint_chunk_size: int = 200
    enable_configmap_check: bool = True
    pod_update_batch_period_s: float = 1.0
    kubeconfig: str = ""
    metrics_bind_addr: str = ":8080"
    health_probe_bind_addr: str = ":8081"
    enable_leader_election: bool = True
    leader_election_id: str = "amazon-network-policy-controller-k8s"
    leader_election_namespace: str = ""
    watch_namespace: str = ""


def read(argv: Sequence[str]) -> Flags:
    """Return the flags, or end (SystemExit 2) with a line that says what cannot be read."""
    default = Flags()
    parser = argparse.ArgumentParser(prog="vpccni policy_controller", allow_abbrev=False)
    add = parser.add_argument
    add("--log-level", default=default.log_level, help="info or debug; another word means info")
    add("--max-concurrent-reconciles", type=_within(1, 64), default=default.max_concurrent_reconciles)
    add("--endpoint-chunk-size", type=_within(1, CHUNK_AT_MOST), default=default.endpoint_chunk_size)
    _switch(parser, "--enable-configmap-check", default.enable_configmap_check)
    add("--pod-update-batch-period-duration", type=duration_s, default=default.pod_update_batch_period_s, dest="pod_update_batch_period_s")  # fmt: skip
    _switch(parser, "--enable-goprofiling", False)
    add("--kubeconfig", default=default.kubeconfig)
    add("--metrics-bind-addr", default=default.metrics_bind_addr)
    add("--health-probe-bind-addr", default=default.health_probe_bind_addr)
    _switch(parser, "--enable-leader-election", default.enable_leader_election)
    add("--leader-election-id", default=default.leader_election_id)
    add("--leader-election-namespace", default=default.leader_election_namespace)
    add("--watch-namespace", default=default.watch_namespace)
    given = vars(parser.parse_args(argv))
    if given.pop("enable_goprofiling"):
        parser.error("--enable-goprofiling: there is no Go profile to serve")
    if given["log_level"] not in ("info", "debug"):
        given["log_level"] = "info"
    return Flags(**given)


def duration_s(text: str) -> float:
    """Return Go's duration (`1s`, `1m30s`, `500ms`, `0`) in seconds. Raises ValueError."""
    if text == "0":
        return 0.0
    found = _DURATION.findall(text)
    if not found or "".join(number + unit for number, unit in found) != text:
        raise ValueError(f"{text!r} is no duration")
    return sum(float(number) * _UNITS[unit] for number, unit in found)


def _switch(parser: argparse.ArgumentParser, name: str, default: bool) -> None:
    """A flag alone means true; a value is given with `=` only, as in Go."""
    parser.add_argument(name, type=_boolean, nargs="?", const=True, default=default)


def _boolean(text: str) -> bool:
    if text not in TRUE | FALSE:
        raise ValueError(f"{text!r} is no boolean")
    return text in TRUE


def _within(low: int, high: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not in {low} to {high}")
        return value

    return number
