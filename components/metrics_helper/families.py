"""Which families of the nodes are forwarded, under which CloudWatch name, and how their series are put together (spec operations.md 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

COUNTER, GAUGE, SUMMARY = "counter", "gauge", "summary"


@dataclass(frozen=True, slots=True)
class Forwarded:
    """One family: its name in CloudWatch and its type on the page; a page that gives it another type is not believed."""

    metric: str
    kind: str


LATENCY: Final = "awscni_aws_api_latency_ms"
FORWARDED: Final[Mapping[str, Forwarded]] = {
    "awscni_assigned_ip_addresses": Forwarded("assignIPAddresses", GAUGE),
    "awscni_total_ip_addresses": Forwarded("totalIPAddresses", GAUGE),
    "awscni_total_ipv4_prefixes": Forwarded("totalIPv4Prefixes", GAUGE),
    "awscni_assigned_ip_per_cidr": Forwarded("totalAssignedIPv4sPerCidr", GAUGE),
    "awscni_eni_allocated": Forwarded("eniAllocated", GAUGE),
    "awscni_eni_max": Forwarded("eniMaxAvailable", GAUGE),
    "awscni_ip_max": Forwarded("maxIPAddresses", GAUGE),
    LATENCY: Forwarded("awsAPILatency", SUMMARY),
    "awscni_aws_api_error_count": Forwarded("awsAPIErr", COUNTER),
    "awscni_aws_utils_error_count": Forwarded("awsUtilErr", COUNTER),
    "awscni_ipamd_error_count": Forwarded("ipamdErr", COUNTER),
    "awscni_ipamd_action_inprogress": Forwarded("ipamdActionInProgress", GAUGE),
    "awscni_reconcile_count": Forwarded("reconcileCount", COUNTER),
    "awscni_add_ip_req_count": Forwarded("addReqCount", COUNTER),
    "awscni_del_ip_req_count": Forwarded("delReqCount", COUNTER),
    "awscni_pod_eni_error_count": Forwarded("podENIErr", COUNTER),
    "awscni_force_removed_enis": Forwarded("forceRemoveENI", COUNTER),
    "awscni_force_removed_ips": Forwarded("forceRemoveIPs", COUNTER),
    "awscni_ec2api_req_count": Forwarded("ec2ApiReqCount", COUNTER),
    "awscni_ec2api_error_count": Forwarded("ec2ApiErrCount", COUNTER),
}
REPUBLISHED: Final = (
    "awscni_eni_max",
    "awscni_ip_max",
    "awscni_eni_allocated",
    "awscni_total_ip_addresses",
    "awscni_assigned_ip_addresses",
    "awscni_total_ipv4_prefixes",
)
"""Gauges that a scrape of the helper shows as the cluster's sums (spec operations.md 4.6)."""
