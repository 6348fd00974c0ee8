"""The agent's command line, as the reference's container has it (spec policy.md 5.1). Pure.

Flags may stand in VPCCNI_POLICY_AGENT_FLAGS as well, for a supervisor whose command line is fixed; those on the line win. What
belongs to the controller framework or to ports that another process serves is taken and has no effect here.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WITHOUT_EFFECT: Final = (
    "enable-ipv6", "log-level", "log-file-max-size", "log-file-max-backups", "conntrack-cache-cleanup-period",
    "conntrack-cache-table-size", "metrics-bind-addr", "health-probe-bind-addr", "max-concurrent-reconciles", "kubeconfig",
    "enable-profiling", "enable-cloudwatch-logs",
)  # fmt: skip
"""Both families are always judged, flows have a fixed table and own timeouts, and level and ports are the process's settings."""
DEFAULT_LOG: Final = "/var/log/aws-routed-eni/network-policy-agent.log"  # spec policy.md 5.1


@dataclass(frozen=True, slots=True)
class Flags:
    """`enabled` None: not said, NETWORK_POLICY_ENFORCING_MODE decides. `ignored`: flags that were given and do nothing here."""

    enabled: bool | None
    event_logs: bool
    structured_log: bool
    log_file: str
    ignored: tuple[str, ...]


def parse(argv: Sequence[str], more: str) -> tuple[Flags, list[str]]:
    """Return the flags, and the words that are not ours. `more`: what the variable holds."""
    parser = argparse.ArgumentParser(prog="vpccni policy_agent", add_help=False, allow_abbrev=False)
    parser.add_argument("--enable-network-policy", nargs="?", const=True, type=_truth)
    parser.add_argument("--enable-policy-event-logs", nargs="?", const=True, default=False, type=_truth)
    parser.add_argument("--structured-flow-log", nargs="?", const=True, default=False, type=_truth)
    parser.add_argument("--log-file", default=DEFAULT_LOG)
    for name in WITHOUT_EFFECT:
        parser.add_argument(f"--{name}", nargs="?")
    known, rest = parser.parse_known_args([*shlex.split(more), *argv])
    ignored = tuple(name for name in WITHOUT_EFFECT if getattr(known, name.replace("-", "_")) is not None)
    flags = Flags(
        known.enable_network_policy, known.enable_policy_event_logs, known.structured_flow_log, known.log_file, ignored
    )
    return flags, rest


def _truth(text: str) -> bool:
    if text.lower() in ("true", "t", "1"):
        return True
    if text.lower() in ("false", "f", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
