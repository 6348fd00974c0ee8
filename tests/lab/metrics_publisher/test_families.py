"""The families of the page on a node with all its processes: each moves when the thing happens that it counts."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3  # noqa: TID253  (a client from outside)
import pytest

from vpccni.components.metrics_publisher.exposition import FAMILIES
from vpccni.lab.api import Lab
from vpccni.shared.names import ENI_MANAGER, NETLINK_PROGRAMMER

WITHIN_S = 30.0
NO_SOURCE_YET = {"awscni_pod_eni_error_count"}
"""Listed in docs/differences.md."""
ON_TROUBLE = {
    "awscni_aws_api_error_count",
    "awscni_aws_utils_error_count",
    "awscni_ec2api_error_count",
    "awscni_ipamd_error_count",
    "awscni_reconcile_count",
}
"""Vectors of labels: they show nothing until their thing happened once."""
SCRAPE = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:61678/metrics', timeout=5).read().decode())"
STARTUP = "awscni_ipamd_startup_duration_seconds"
NODE_INIT = "awscni_ipamd_node_initialization_duration_seconds"

Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(f"fam{os.getpid()}", nodes=1, env={"IP_COOLDOWN_PERIOD": "0"}) as up:
        yield up


def scrape(lab: Lab) -> str:
    return lab.nodes[0].exec([sys.executable, "-c", SCRAPE]).stdout


def page_of(lab: Lab) -> Page:
    """Return the samples under their names on the page: the official parser gives counters other ones."""
    samples = [re.fullmatch(r"(\w+)(?:{(.*)})? (\S+)", line) for line in scrape(lab).splitlines() if line[:1] != "#"]
    return {(one[1], frozenset(re.findall(r'(\w+)="([^"]*)"', one[2] or ""))): float(one[3]) for one in samples if one}


def kinds(lab: Lab) -> dict[str, str]:
    """Return the type that the page gives to each family."""
    return dict(line.split()[2:4] for line in scrape(lab).splitlines() if line.startswith("# TYPE"))


def value(page: Page, name: str, **labels: str) -> float:
    return page.get((name, frozenset(labels.items())), 0.0)


def until(ready: Callable[[Page], bool], lab: Lab, what: str) -> Page:
    deadline = time.monotonic() + WITHIN_S
    while not ready(page := page_of(lab)):
        assert time.monotonic() < deadline, f"{what}: {sorted(page)}"
        time.sleep(0.5)
    return page


@pytest.mark.spec("operations.2.2", "operations.17.15")
def test_every_family_that_has_a_source_is_shown_with_its_type(lab: Lab) -> None:
    lab.add_pod("node-1", "counted")
    lab.add_pod("node-1", "stays")
    lab.delete_pod("counted")
    until(lambda page: value(page, "awscni_del_ip_req_count", reason="PodDeleted") >= 1, lab, "no DEL counted")
    page = until(lambda page: value(page, "awscni_assigned_ip_addresses") == 1, lab, "the other pod is not counted")
    assert sum(seen for (name, _), seen in page.items() if name == "awscni_assigned_ip_per_cidr") == 1
    public = {name: family.kind for name, family in FAMILIES.items() if not name.startswith("vpccni_")}
    wanted = public.keys() - NO_SOURCE_YET - ON_TROUBLE
    deadline = time.monotonic() + WITHIN_S
    while missing := wanted - (told := kinds(lab)).keys():
        assert time.monotonic() < deadline, f"families without a value: {sorted(missing)}"
        time.sleep(0.5)  # a source tells with its heartbeat
    assert {name: told[name] for name in public.keys() & told.keys()} == {
        name: kind for name, kind in public.items() if name in told
    }
    lab.delete_pod("stays")


@pytest.mark.spec("operations.2.2")
def test_each_start_is_observed_once_with_all_its_buckets(lab: Lab) -> None:
    ok = {"success": "true", "failure_reason": "", "with_api_server": "true"}
    before = until(lambda page: value(page, f"{STARTUP}_count", **ok) >= 1, lab, "no start observed")
    buckets = [seen for (name, labels), seen in before.items() if name == f"{STARTUP}_bucket" and ok.items() <= labels]
    assert len(buckets) == 12
    assert value(before, f"{STARTUP}_bucket", le="+Inf", **ok) == value(before, f"{STARTUP}_count", **ok)
    lines = [line for line in scrape(lab).splitlines() if line.startswith(f"{STARTUP}_bucket")]
    bounds = [float(line.split('le="')[1].split('"')[0]) for line in lines]
    assert bounds == sorted(bounds)
    for process in (ENI_MANAGER, NETLINK_PROGRAMMER):
        lab.nodes[0].kill(process)
    after = until(
        lambda page: (
            value(page, f"{STARTUP}_count", **ok) > value(before, f"{STARTUP}_count", **ok)
            and value(page, f"{NODE_INIT}_count", success="true") > value(before, f"{NODE_INIT}_count", success="true")
        ),
        lab,
        "the second start is not observed",
    )
    assert value(after, f"{STARTUP}_count", **ok) == value(before, f"{STARTUP}_count", **ok) + 1
    assert 0 < value(after, f"{STARTUP}_sum", **ok) < 60


@pytest.mark.spec("operations.17.14", "operations.17.15")
def test_a_start_that_fails_is_shown_and_under_way_until_it_works(lab: Lab) -> None:
    failed = {"success": "false", "failure_reason": "node_initialization"}
    lab.imds_fault("node-1", statuses={"meta-data": 500})
    try:
        lab.nodes[0].kill(ENI_MANAGER)
        page = until(
            lambda page: any(
                name == f"{STARTUP}_count" and failed.items() <= labels and seen > 0
                for (name, labels), seen in page.items()
            ),
            lab,
            "no failed start observed",
        )
        assert value(page, "awscni_ipamd_action_inprogress", fn="nodeInit") == 1
    finally:
        lab.ec2_clear()
    until(lambda page: value(page, "awscni_ipamd_action_inprogress", fn="nodeInit") == 0, lab, "the start never ended")


@pytest.mark.spec("operations.2.2")
def test_an_address_taken_from_a_running_pod_counts_as_removed_by_force(lab: Lab) -> None:
    pod = lab.add_pod("node-1", "robbed")
    used = "awscni_assigned_ip_addresses"
    before = until(lambda page: value(page, used) == len(lab.pods()), lab, "the pod is not counted")
    (eni,) = [one for one in lab.ec2_picture() if pod.address in one["addresses"]]

    def rob() -> None:
        client: Any = boto3.client(
            "ec2", endpoint_url=lab.status()["endpoints"]["ec2"], region_name="us-west-2",
            aws_access_key_id="a", aws_secret_access_key="b",
        )  # fmt: skip
        client.unassign_private_ip_addresses(
            NetworkInterfaceId=eni["NetworkInterfaceId"], PrivateIpAddresses=[pod.address]
        )
        client.close()

    lab.in_vpc(rob)
    lab.nodes[0].kill(ENI_MANAGER)  # the new one looks at once, the old one within a minute
    name = "awscni_force_removed_ips"
    after = until(lambda page: value(page, name) > value(before, name), lab, "the loss is not counted")
    assert value(after, used) == value(before, used), "the pod still has it"
    assert value(after, name) == value(before, name) + 1
    assert value(after, "awscni_force_removed_enis") == value(before, "awscni_force_removed_enis")
    lab.delete_pod("robbed")


@pytest.mark.spec("operations.2.2")
def test_firewall_passes_count_their_outcome_and_the_backend_is_named(lab: Lab) -> None:
    page = page_of(lab)
    assert value(page, "awscni_connmark_backend", backend="nftables") == 1
    assert value(page, "awscni_connmark_backend", backend="iptables") == 0
    assert value(page, "awscni_connmark_reconcile_total", result="success") >= 1
    assert ("awscni_connmark_reconcile_total", frozenset({("result", "error")})) in page
