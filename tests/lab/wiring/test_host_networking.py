"""What the reference's own integration tests assert of a node's set-up and clean-up, under other prefixes and MTUs (spec dataplane.md 14)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.nodes import NodeOf, pod_lines, reaches
from support.waiting import until

from vpccni.lab.api import Lab
from vpccni.lab.pod import Pod

SETTINGS = {
    "IP_COOLDOWN_PERIOD": "0",
    "AWS_VPC_K8S_CNI_VETHPREFIX": "veth",
    "AWS_VPC_ENI_MTU": "1300",
    "POD_MTU": "1280",
    "AWS_EXTERNAL_SERVICE_CIDRS": "10.50.0.0/16,192.168.7.0/24",
}
SETTLED_WITHIN_S = 15.0
PODS = 11  # nine fit on the primary ENI of an m5.large


@pytest.fixture(scope="module")
def node() -> Iterator[NodeOf]:
    with Lab.up(f"hn{os.getpid()}", nodes=1, env=SETTINGS) as lab:
        yield NodeOf(lab)


@pytest.fixture(scope="module")
def pods(node: NodeOf) -> list[Pod]:
    return [node.add(f"host-{number}") for number in range(PODS)]


def faults(node: NodeOf, pod: Pod, address: str) -> list[str]:
    """The set-up check of the reference's agent: what is wrong with the wiring of a pod, were this its address."""
    found = []
    veth = pod.result["interfaces"][0]["name"]
    (link,) = node.ip("link", "show", veth)
    if not veth.startswith("veth") or "UP" not in link["flags"] or link["mtu"] != 1280:
        found.append(f"link {veth}")
    rules = node.ip("rule")
    if len([rule for rule in rules if rule.get("dst") == address and rule["table"] == "main"]) != 1:
        found.append("rule to the pod")
    if [(route["dev"], route.get("gateway")) for route in node.ip("route", "show", address)] != [(veth, None)]:
        found.append("route to the pod")
    tables = [rule["table"] for rule in rules if rule.get("src") == address and rule["table"] != "main"]
    if pod.result["interfaces"][1]["mac"] != "254" and tables != [pod.result["interfaces"][1]["mac"]]:
        found.append("rule from the pod")
    for table in tables:
        routes = node.ip("route", "show", "table", table)
        if [route["dst"] for route in routes] != ["default", "10.0.96.1"] or len({one["dev"] for one in routes}) != 1:
            found.append(f"table {table}")
    return found


@pytest.mark.spec("dataplane.14")
def test_pods_on_both_enis_pass_the_set_up_check_and_a_wrong_address_does_not(node: NodeOf, pods: list[Pod]) -> None:
    for pod in pods:
        assert faults(node, pod, pod.address) == []
    assert faults(node, pods[0], "1.1.1.1") != []
    on_secondary = [pod for pod in pods if pod.result["interfaces"][1]["mac"] != "254"]
    assert len(on_secondary) == PODS - 9
    mtus = lambda: {link["mtu"] for link in node.ip("link") if link["ifname"].startswith("eth")}  # noqa: E731
    until(lambda: mtus() == {1300}, mtus, within_s=SETTLED_WITHIN_S)
    assert "mtu 1280" in pod_lines(pods[0], "ip -o link show eth0")[0]


@pytest.mark.spec("dataplane.14")
def test_pods_of_every_placement_reach_each_other_and_closed_ports_are_refused(node: NodeOf, pods: list[Pod]) -> None:
    first, second, far = pods[0], pods[1], pods[-1]
    for source, target in ((first, second), (first, far), (far, first), (far, pods[-2])):
        assert reaches(source, target.address)
        refused = source.exec(["curl", "-s", "-m", "2", f"http://{target.address}:81/"], check=False)
        assert refused.returncode == 7, "refused at once, not lost"
    large = first.exec(["ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1252", far.address], check=False)
    assert large.returncode == 0, "a packet of the pods' MTU passes whole"


@pytest.mark.spec("dataplane.2.1", "dataplane.11.5")
def test_external_services_go_by_the_main_table_and_a_restart_changes_nothing(node: NodeOf, pods: list[Pod]) -> None:
    expected = [
        "1535: from all to 10.50.0.0/16 lookup main",
        "1535: from all to 192.168.7.0/24 lookup main",
    ]
    for _ in range(2):
        assert sorted(line for line in node.lines("ip rule") if line.startswith("1535:")) == expected
        until(lambda: "netlink_programmer" in node.node.pids(), "a programmer", within_s=SETTLED_WITHIN_S)
        node.node.kill("netlink_programmer")
        until(lambda: "nothing" in node.shell("vpccni plan"), "an empty plan", within_s=SETTLED_WITHIN_S)


@pytest.mark.spec("dataplane.14")
def test_deleted_pods_pass_the_clean_up_check(node: NodeOf, pods: list[Pod]) -> None:
    gone = [pods.pop(0), pods.pop()]
    for pod in gone:
        node.lab.delete_pod(pod.name)
        assert pod.address not in node.shell("ip rule; ip route").replace("\n", " ").split()
        assert pod.result["interfaces"][0]["name"] not in node.shell("ip -br link")
    for pod in pods:
        assert faults(node, pod, pod.address) == []
