"""The helper's configuration from flags and environment (spec operations.md 4.1, env.md 7). Pure."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from vpccni.shared.errors import SettingsError

INTERVAL_DEFAULT_S: Final = 30
INTERVAL_AT_MOST_S: Final = 86_400
HTTP_TIMEOUT_DEFAULT_S: Final = 10
ON, OFF = frozenset({"yes", "true"}), frozenset({"no", "false"})  # spec env.md 0, rule H
NODES_NAMESPACE: Final = "kube-system"
LATENCY_UNITS: Final = ("Count", "Milliseconds")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Typed values; each field names its variable. `raw` is for the Kubernetes client."""

    use_cloudwatch: bool  # USE_CLOUDWATCH, else --cloudwatch
    use_prometheus: bool  # USE_PROMETHEUS
    interval_s: int  # METRIC_UPDATE_INTERVAL
    region: str  # AWS_REGION, empty: instance metadata tells
    cluster_id: str  # AWS_CLUSTER_ID, empty: the instance's tags tell
    log_level: str  # AWS_VPC_K8S_CNI_LOGLEVEL
    version: str  # VPC_CNI_VERSION, for user agents
    http_timeout_s: int  # HTTP_TIMEOUT
    metadata_endpoint: str  # AWS_EC2_METADATA_SERVICE_ENDPOINT
    namespace: str  # VPCCNI_AWS_NODE_NAMESPACE: where the aws-node pods are
    own_namespace: str  # POD_NAMESPACE, else that of the service account: where the lease is
    identity: str  # HOSTNAME: the pod's own name
    latency_unit: str  # VPCCNI_LATENCY_UNIT
    bind_address: str  # VPCCNI_HELPER_BIND_ADDRESS
    raw: Mapping[str, str]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError("the arguments cannot be used", why=message)


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Return the configuration. Raises SettingsError with what is wrong and what is right."""
    parser = _Parser(prog="cni-metrics-helper", description="Publish the sums of all aws-node pods' metrics.")
    parser.add_argument("--cloudwatch", "-cloudwatch", nargs="?", const="true", default="true", metavar="true|false")
    parser.add_argument("--kubeconfig", "-kubeconfig", default=environ.get("KUBECONFIG", ""), metavar="FILE")
    flags = parser.parse_args(list(argv))
    namespace = environ.get("VPCCNI_AWS_NODE_NAMESPACE") or NODES_NAMESPACE
    return Config(
        use_cloudwatch=_word(environ.get("USE_CLOUDWATCH", ""), _flag(flags.cloudwatch)),
        use_prometheus=_word(environ.get("USE_PROMETHEUS", ""), False),
        interval_s=_interval(environ.get("METRIC_UPDATE_INTERVAL", str(INTERVAL_DEFAULT_S))),
        region=environ.get("AWS_REGION", ""),
        cluster_id=environ.get("AWS_CLUSTER_ID", ""),
        log_level=environ.get("AWS_VPC_K8S_CNI_LOGLEVEL") or "debug",
        version=environ.get("VPC_CNI_VERSION", ""),
        http_timeout_s=_at_least_default(environ.get("HTTP_TIMEOUT", "")),
        metadata_endpoint=environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", ""),
        namespace=namespace,
        own_namespace=environ.get("POD_NAMESPACE") or namespace,
        identity=environ.get("HOSTNAME") or "cni-metrics-helper",
        latency_unit=_latency_unit(environ.get("VPCCNI_LATENCY_UNIT") or LATENCY_UNITS[0]),
        bind_address=environ.get("VPCCNI_HELPER_BIND_ADDRESS") or ":61681",  # spec operations.md 4.6
        raw={**environ, "KUBECONFIG": flags.kubeconfig},
    )


def _word(text: str, default: bool) -> bool:
    return True if text.lower() in ON else False if text.lower() in OFF else default


def _flag(text: str) -> bool:
    """A Go boolean flag: what the image's entry point gives."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise SettingsError("the arguments cannot be used", why=f"--cloudwatch={text!r} is neither true nor false")


def _interval(text: str) -> int:
    """The original hangs or panics on 0 and less (spec operations.md 17.8): here they stop the start."""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= INTERVAL_AT_MOST_S:
        raise SettingsError(
            "the interval cannot be used",
            on=f"METRIC_UPDATE_INTERVAL={text!r:.20}",
            remedy=f"Give whole seconds of 1 to {INTERVAL_AT_MOST_S}, or unset it for {INTERVAL_DEFAULT_S}",
        )
    return int(text)


def _at_least_default(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    return max(value, HTTP_TIMEOUT_DEFAULT_S)


def _latency_unit(text: str) -> str:
    if text not in LATENCY_UNITS:
        raise SettingsError(
            "the unit cannot be used",
            on=f"VPCCNI_LATENCY_UNIT={text!r:.20}",
            remedy="Use " + " or ".join(LATENCY_UNITS),
        )
    return text
