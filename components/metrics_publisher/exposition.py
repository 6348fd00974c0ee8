"""The families by name, type and help, and what is shown under which name. Pure; `shared/exposition` knows the format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vpccni.components.metrics_publisher.sources import Series, Source
from vpccni.shared import exposition
from vpccni.shared.exposition import COUNTER, GAUGE, HISTOGRAM, SUMMARY, Family

PUBLIC: Final = "awscni_"

FAMILIES: Final[Mapping[str, Family]] = {
    "awscni_build_info": Family(GAUGE, "Always 1; the labels tell the release"),
    "awscni_ipamd_error_count": Family(COUNTER, "Failures of address management by function"),
    "awscni_ipamd_action_inprogress": Family(GAUGE, "Long actions under way by function"),
    "awscni_eni_max": Family(GAUGE, "ENIs this instance may have for pods"),
    "awscni_ip_max": Family(GAUGE, "Addresses this instance may have for pods"),
    "awscni_reconcile_count": Family(COUNTER, "Repairs made by comparing with EC2, by function"),
    "awscni_add_ip_req_count": Family(COUNTER, "CNI ADD requests received", scalar=True),
    "awscni_del_ip_req_count": Family(COUNTER, "CNI DEL requests received by reason"),
    "awscni_pod_eni_error_count": Family(COUNTER, "Failures around security groups for pods by function"),
    "awscni_aws_api_latency_ms": Family(SUMMARY, "Milliseconds of calls to EC2 and instance metadata"),
    "awscni_aws_api_error_count": Family(COUNTER, "Errors of EC2 and instance metadata by code"),
    "awscni_aws_utils_error_count": Family(COUNTER, "Failures left over after retries"),
    "awscni_ec2api_req_count": Family(COUNTER, "Calls to EC2 by action"),
    "awscni_ec2api_error_count": Family(COUNTER, "Failed calls to EC2 by action"),
    "awscni_eni_allocated": Family(GAUGE, "ENIs in the pool"),
    "awscni_total_ip_addresses": Family(GAUGE, "Addresses in the pool"),
    "awscni_assigned_ip_addresses": Family(GAUGE, "Addresses given to pods"),
    "awscni_total_ipv4_prefixes": Family(GAUGE, "IPv4 prefixes in the pool"),
    "awscni_assigned_ip_per_cidr": Family(GAUGE, "Addresses given to pods by CIDR"),
    "awscni_assigned_ip_per_eni": Family(GAUGE, "Addresses given to pods by ENI"),
    "awscni_no_available_ip_addresses": Family(COUNTER, "ADD requests that found the pool empty", scalar=True),
    "awscni_force_removed_enis": Family(COUNTER, "ENIs that went while pods used them", scalar=True),
    "awscni_force_removed_ips": Family(COUNTER, "Addresses that went while pods used them", scalar=True),
    "awscni_ipamd_startup_duration_seconds": Family(HISTOGRAM, "Seconds until the instance's ENIs were served"),
    "awscni_ipamd_node_initialization_duration_seconds": Family(HISTOGRAM, "Seconds until the node was ready for pods"),
    "awscni_connmark_backend": Family(GAUGE, "1 for the connmark backend in use"),
    "awscni_connmark_reconcile_total": Family(COUNTER, "Outcomes of programming connmark rules"),
    "process_cpu_seconds_total": Family(COUNTER, "CPU seconds that this publisher used"),
    "process_max_fds": Family(GAUGE, "Descriptors that this publisher may have open"),
    "process_open_fds": Family(GAUGE, "Descriptors that this publisher has open"),
    "process_resident_memory_bytes": Family(GAUGE, "Resident memory of this publisher"),
    "process_start_time_seconds": Family(GAUGE, "Start of this publisher in seconds since 1970"),
    "process_virtual_memory_bytes": Family(GAUGE, "Virtual memory of this publisher"),
    "process_virtual_memory_max_bytes": Family(GAUGE, "Virtual memory that this publisher may have; -1: no limit"),
    "vpccni_addresses": Family(GAUGE, "Addresses of the pool by network card and state"),
    "vpccni_enis": Family(GAUGE, "ENIs attached to the instance by network card, those not ours to use included"),
    "vpccni_source_up": Family(GAUGE, "1 while the process is heard and serves without a reason not to"),
    "vpccni_source_stale": Family(GAUGE, "1 when what is shown of the process is older than two heartbeats"),
    "vpccni_source_age_seconds": Family(GAUGE, "Seconds since the process was last heard"),
    "vpccni_source_restarts": Family(COUNTER, "Restarts of the process seen from here"),
}
"""Names and types of spec operations.md 2.1 and 2.2 that have a source, and our own."""


def source_series(source: Source, at: float) -> tuple[dict[Series, float], dict[Series, float]]:
    """Return (counters, gauges) about a source itself."""
    label = (("process", source.process),)
    serves = source.status is not None and source.status.state == "serving"
    is_stale = source.is_stale(at)
    gauges: dict[Series, float] = {
        ("vpccni_source_up", label): float(serves and not is_stale),
        ("vpccni_source_stale", label): float(is_stale),
    }
    if source.status is not None:
        gauges[("vpccni_source_age_seconds", label)] = round(max(0.0, at - source.heard_at), 3)
    return {("vpccni_source_restarts", label): float(source.restarts)}, gauges


def public_name(series: Series, process: str) -> Series:
    """Return the series as it is shown: processes share our own names, so these get the process as a label."""
    name, labels = series
    return series if name.startswith(PUBLIC) else (name, tuple(sorted({**dict(labels), "process": process}.items())))


def merged(
    sources: list[Source], extra: Mapping[Series, float], at: float
) -> tuple[dict[Series, float], dict[Series, float]]:
    """Return all (counters, gauges): what the sources count, `extra` (typed by its family), and what there is to say of the sources."""
    counters: dict[Series, float] = {(name, ()): 0.0 for name, family in FAMILIES.items() if family.scalar}
    gauges: dict[Series, float] = dict(extra)
    for source in sources:
        about_counters, about_gauges = source_series(source, at)
        for into, given in ((counters, source.totals()), (gauges, source.gauges())):
            for series, value in given.items():
                shown = public_name(series, source.process)
                into[shown] = into.get(shown, 0.0) + value
        counters.update(about_counters)
        gauges.update(about_gauges)
    return counters, gauges


def render(counters: Mapping[Series, float], gauges: Mapping[Series, float]) -> str:
    """Return the page."""
    return exposition.render(FAMILIES, counters, gauges, otherwise="Counted or measured by one process of this node")
