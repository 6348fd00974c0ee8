"""Pods on several network cards: what the contract prints, what packets do, and roll-back at every step."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from support.nodes import NodeOf, pod_lines, reaches

from vpccni.lab.runtime import CniError

EVERY_CARD = {"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"}
READY_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def node(two_cards: NodeOf) -> NodeOf:
    """The node once both cards have addresses."""
    until = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            two_cards.add("probe", annotations=EVERY_CARD)
        except CniError:
            assert time.monotonic() < until, two_cards.shell("vpccni status")
            time.sleep(0.5)
        else:
            two_cards.lab.delete_pod("probe")
            return two_cards


def rules_of(node: NodeOf, *addresses: str) -> list[str]:
    return sorted(line for line in node.lines("ip rule") if any(one in line.split() for one in addresses))


@pytest.mark.spec("dataplane.13.5", "dataplane.4.5")
def test_a_pod_on_two_cards_is_wired_as_the_contract_prints_it(node: NodeOf) -> None:
    pod = node.add("web-2", namespace="kube-system", annotations=EVERY_CARD)
    interfaces = pod.result["interfaces"]
    assert [one["name"] for one in interfaces] == [
        "enica82d32c244",
        "eth0",
        "eni7cd2485543c",
        "mNicIf1",
        "dummyca82d32c244",
    ]
    assert [entry["interface"] for entry in pod.result["ips"]] == [1, 3]
    first, second = (entry["address"].split("/")[0] for entry in pod.result["ips"])
    table = interfaces[3]["mac"]
    assert int(table) // 100 == 101, "card 1"
    expected = [
        f"512: from all to {first} lookup main",
        f"512: from all to {second} lookup main",
        f"1536: from {second} lookup {table}",
    ]
    if interfaces[1]["mac"] != "254":
        expected.append(f"1536: from {first} lookup {interfaces[1]['mac']}")
    assert rules_of(node, first, second) == sorted(expected)
    assert node.lines(f"ip route show {second}") == [f"{second} dev eni7cd2485543c scope link"]
    assert pod_lines(pod, "ip rule show priority 1") == [f"1: from {second} lookup 1"]
    assert pod_lines(pod, "ip route show table 1") == [
        "default via 169.254.1.2 dev mNicIf1",
        "169.254.1.2 dev mNicIf1 scope link",
    ]
    assert sorted(pod_lines(pod, "ip route show table main")) == [
        "169.254.1.1 dev eth0 scope link",
        "default via 169.254.1.1 dev eth0",
    ]
    assert len([line for line in pod_lines(pod, "ip neigh") if line.endswith("PERMANENT")]) == 2
    assert node.shell("vpccni plan").strip() == "nothing: the kernel is as it should be"
    node.lab.delete_pod("web-2", namespace="kube-system")
    assert rules_of(node, first, second) == []


def test_packets_leave_by_the_card_of_their_source(node: NodeOf) -> None:
    pod, other = node.add("sender", annotations=EVERY_CARD), node.add("receiver", annotations=EVERY_CARD)
    sources = [entry["address"].split("/")[0] for entry in pod.result["ips"]]
    targets = [entry["address"].split("/")[0] for entry in other.result["ips"]]
    for source in sources:
        for target in targets:
            done = pod.exec(["ping", "-c", "1", "-W", "1", "-I", source, target], check=False)
            assert done.returncode == 0, f"{source} to {target}: {done.stdout}"
    for name in ("sender", "receiver"):
        node.lab.delete_pod(name)


def test_a_pod_that_does_not_ask_for_it_has_one_interface(node: NodeOf) -> None:
    plain = node.add("plain", annotations={"k8s.amazonaws.com/nicConfig": "something else"})
    assert len(plain.result["ips"]) == 1
    assert reaches(plain, node.node.primary_address)
    node.lab.delete_pod("plain")


def test_both_interfaces_are_checked_repaired_and_known_after_a_restart(node: NodeOf) -> None:
    pod = node.add("restarted", annotations=EVERY_CARD)
    first, second = (entry["address"].split("/")[0] for entry in pod.result["ips"])
    before = rules_of(node, first, second)
    node.node.kill("netlink_programmer")
    node.node.wait_ready()
    again = node.lab.runtime(node.node.name).add(pod.sandbox())
    assert again == pod.result
    node.shell(f"ip rule del from {second}; ip rule del to {second}")
    until = time.monotonic() + 2.0
    while rules_of(node, first, second) != before:
        assert time.monotonic() < until
        time.sleep(0.02)
    told = node.shell("vpccni why restarted")
    assert first in told
    assert second in told
    node.lab.delete_pod("restarted")
    assert rules_of(node, first, second) == []


@pytest.mark.spec("dataplane.18.8")
@pytest.mark.parametrize(
    "obstacle",
    [
        "ip link add mNicIf1 type bridge",
        "ip rule add from all lookup 1 priority 1 && ip link add x0 type bridge && ip link set x0 up && ip route add default dev x0 table 1",
    ],
    ids=["name taken", "default route taken"],
)
def test_a_later_interface_that_fails_takes_the_first_with_it(node: NodeOf, obstacle: str) -> None:
    node.add("steady", annotations=EVERY_CARD)
    before = node.picture()
    pod = node.lab.make_pod(node.node.name, "refused", annotations=EVERY_CARD)
    pod.exec(["sh", "-c", obstacle])
    inside = pod_lines(pod, "ip -o link | sed 's/^[0-9]*: //'; ip rule; ip -4 route show table all | sort")
    conflist = node.node.runtime().conflist()
    own = {**conflist["plugins"][0], "cniVersion": "0.4.0", "name": "aws-cni", "runtimeConfig": {}}
    own["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] = EVERY_CARD
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": pod.netns_path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME=refused;K8S_POD_UID={pod.uid}",
    }
    done = node.node.exec(["/opt/cni/bin/aws-cni"], env=env, input=json.dumps(own), check=False)
    assert "EEXIST" in json.loads(done.stdout)["details"]
    assert node.picture() == before, "without a DEL"
    after = pod_lines(pod, "ip -o link | sed 's/^[0-9]*: //'; ip rule; ip -4 route show table all | sort")
    assert after == inside
    held = json.loads((node.node.root / "ipam.json").read_text())
    assert pod.container_id not in json.dumps(held)
    node.lab.delete_pod("refused")
    node.lab.delete_pod("steady")


@pytest.mark.spec("dataplane.18.5")
def test_a_pod_whose_veth_name_is_taken_fails_and_the_other_keeps_its_network(node: NodeOf) -> None:
    web = node.add("web", annotations=EVERY_CARD)
    second: Any = web.result["ips"][1]["address"].split("/")[0]
    with pytest.raises(CniError, match="failed to setup network") as caught:
        node.add("web.1")
    assert "default/web" in caught.value.details
    assert second in node.shell("ip rule")
    assert pod_lines(web, f"ping -c1 -W1 -I {second} {node.node.primary_address} >/dev/null && echo reached") == [
        "reached"
    ]
    node.lab.delete_pod("web")
