"""The controller's metric families (spec policy.md 3.11) and our own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vpccni.shared import exposition
from vpccni.shared.exposition import COUNTER, GAUGE, HISTOGRAM, Family, Series

RECONCILIATIONS: Final = "network_policy_reconciliations_total"
DURATION: Final = "network_policy_reconcile_duration_seconds"
OBJECTS: Final = "network_policy_objects_total"
ADVANCED: Final = "advanced_network_policy_enabled"
LEADS: Final = "leader_election_master_status"
QUEUE_DEPTH: Final = "workqueue_depth"
QUEUE_ADDS: Final = "workqueue_adds_total"
QUEUE_RETRIES: Final = "workqueue_retries_total"
REQUESTS: Final = "rest_client_requests_total"
PROBLEMS: Final = "vpccni_policy_problems"
WRITES: Final = "vpccni_policy_endpoint_writes"

FAMILIES: Final[Mapping[str, Family]] = {
    RECONCILIATIONS: Family(COUNTER, "Passes over policies by kind and result"),
    DURATION: Family(HISTOGRAM, "Seconds of a pass over a policy by kind"),
    OBJECTS: Family(GAUGE, "Policies there are by kind"),
    ADVANCED: Family(GAUGE, "1 if there is an ApplicationNetworkPolicy or a ClusterNetworkPolicy"),
    LEADS: Family(GAUGE, "1 while this replica leads"),
    QUEUE_DEPTH: Family(GAUGE, "Policies that wait for a pass"),
    QUEUE_ADDS: Family(COUNTER, "Reasons for passes"),
    QUEUE_RETRIES: Family(COUNTER, "Passes that are tried again"),
    REQUESTS: Family(COUNTER, "Writes to the Kubernetes API by method and code"),
    PROBLEMS: Family(GAUGE, "Policies with something wrong by reason"),
    WRITES: Family(COUNTER, "Endpoint objects created, updated and deleted"),
}


def render(counters: Mapping[Series, float], gauges: Mapping[Series, float]) -> str:
    """Return the page."""
    return exposition.render(FAMILIES, counters, gauges, otherwise="Counted or measured by the policy controller")
