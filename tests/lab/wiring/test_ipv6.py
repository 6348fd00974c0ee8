"""Pods of an IPv6 node, with IPv4 egress: what the contract prints, what packets do, what is left behind."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from support.nodes import NodeOf, pod_lines, reaches

from vpccni.lab.fabric import INTERNET_ADDRESS_V6

STATE = "/run/cni/v6pd/egress-v4-ipam/aws-cni"
WITHIN_S = 2.0


def chains(node: NodeOf) -> list[str]:
    return [line for line in node.lines("iptables-nft-save -t nat") if "CNI-E4-" in line]


def comes_back(there: Any, within_s: float = WITHIN_S) -> None:
    until = time.monotonic() + within_s
    while not there():
        assert time.monotonic() < until, "not there in time"
        time.sleep(0.02)


@pytest.mark.spec("dataplane.13.2", "dataplane.4.5")
def test_a_pod_of_an_ipv6_node_is_wired_as_the_contract_prints_it(v6_node: NodeOf) -> None:
    pod = v6_node.add("sample-pod")
    result = pod.result
    assert [one["name"] for one in result["interfaces"][:3]] == ["enicc21c2d7785", "eth0", "dummycc21c2d7785"]
    assert result["interfaces"][1]["mac"] == "254"
    assert result["interfaces"][2]["mac"] == "0"
    assert result["ips"] == [{"version": "6", "interface": 1, "address": f"{pod.address}/128"}]
    rules = [rule for rule in v6_node.lines("ip -6 rule") if pod.address in rule.split()]
    assert rules == [f"512: from all to {pod.address} lookup main"]
    assert "1024: from all fwmark 0x80/0x80 lookup main" in v6_node.lines("ip -6 rule")
    assert "1024:" not in v6_node.shell("ip -4 rule")
    assert v6_node.lines(f"ip -6 route show {pod.address}") == [
        f"{pod.address} dev enicc21c2d7785 metric 1024 pref medium"
    ]
    assert not any("tentative" in line for line in pod_lines(pod, "ip -6 address show dev eth0"))
    assert v6_node.shell("vpccni plan").strip() == "nothing: the kernel is as it should be"
    v6_node.lab.delete_pod("sample-pod")
    assert pod.address not in v6_node.shell("ip -6 rule; ip -6 route")


def test_pods_reach_each_other_the_node_and_the_internet_as_soon_as_their_add_has_ended(v6_node: NodeOf) -> None:
    first, second = v6_node.add("first"), v6_node.add("second")
    assert reaches(first, second.address)
    assert reaches(second, first.address)
    assert reaches(first, v6_node.node.primary_ipv6)
    asked = first.exec(["curl", "-s", "-m", "2", f"http://[{INTERNET_ADDRESS_V6}]/"], check=False)
    assert asked.stdout.strip() == first.address, "IPv6 pods leave under their own address"
    for name in ("first", "second"):
        v6_node.lab.delete_pod(name)


@pytest.mark.spec("dataplane.18.12")
def test_what_is_taken_from_an_ipv6_pod_comes_back(v6_node: NodeOf) -> None:
    pod = v6_node.add("repaired")
    veth = pod.result["interfaces"][0]["name"]
    for taken, there in (
        (f"ip -6 rule del to {pod.address} priority 512", lambda: f"to {pod.address}" in v6_node.shell("ip -6 rule")),
        (f"ip -6 route del {pod.address}", lambda: veth in v6_node.shell(f"ip -6 route show {pod.address}")),
        ("ip -6 rule del priority 1024", lambda: "1024:" in v6_node.shell("ip -6 rule")),
        (f"ip link set {veth} down", lambda: "UP" in v6_node.ip("link", "show", veth)[0]["flags"]),
    ):
        v6_node.shell(taken)
        comes_back(there)
    comes_back(lambda: reaches(pod, v6_node.node.primary_ipv6), within_s=5.0)
    v6_node.lab.delete_pod("repaired")


@pytest.mark.spec("dataplane.13.6", "dataplane.14")
def test_an_ipv6_pods_ipv4_egress_is_as_the_contract_prints_it(v6_node: NodeOf) -> None:
    pod = v6_node.add("egress")
    host_end, pod_end = pod.result["interfaces"][3:]
    assert (pod_end["name"], pod_end["sandbox"]) == ("v4if0", pod.result["interfaces"][1]["sandbox"])
    (link,) = json.loads(pod.exec(["ip", "-json", "-4", "address", "show", "v4if0"]).stdout)
    address = link["addr_info"][0]["local"]
    assert (link["addr_info"][0]["prefixlen"], address.startswith("169.254.172.")) == (22, True)
    assert json.loads(pod.exec(["ip", "-json", "link", "show", "v4if0"]).stdout)[0]["address"] == pod_end["mac"]
    assert sorted(pod_lines(pod, "ip -4 route")) == [
        f"169.254.172.0/22 via 169.254.172.1 dev v4if0 src {address}",
        f"169.254.172.1 dev v4if0 scope link src {address}",
        "default via 169.254.172.1 dev v4if0",
    ]
    veth = host_end["name"]
    assert v6_node.ip("link", "show", veth)[0]["address"] == host_end["mac"]
    (held,) = v6_node.ip("-4", "address", "show", veth)[0]["addr_info"]
    assert (held["local"], held["prefixlen"], held["scope"]) == ("169.254.172.1", 32, "link")
    assert v6_node.lines(f"ip -4 route show {address}") == [f"{address} dev {veth} scope link"]
    comment = f'-m comment --comment "name: \\"aws-cni\\" id: \\"{pod.container_id}\\""'
    chain = next(line.split()[-1] for line in chains(v6_node) if line.startswith("-A POSTROUTING"))
    assert [line for line in chains(v6_node) if line.startswith("-A")] == [
        f"-A POSTROUTING -s {address}/32 {comment} -j {chain}",
        f"-A {chain} -d 224.0.0.0/4 {comment} -j ACCEPT",
        f"-A {chain} {comment} -j SNAT --to-source {v6_node.node.primary_address} --random-fully",
    ]
    assert v6_node.shell(f"cat {STATE}/{address}") == f"{pod.container_id}\neth0"  # text mode reads \r\n as \n
    assert v6_node.node.filesystem.joinpath(STATE[1:], address).read_bytes() == f"{pod.container_id}\r\neth0".encode()
    asked = pod.exec(["curl", "-s", "-m", "2", "http://203.0.113.10/"], check=False)
    assert asked.stdout.strip() == v6_node.node.primary_address
    v6_node.lab.delete_pod("egress")
    assert chains(v6_node) == []
    assert v6_node.lines(f"ip -4 route show {address}; ls {STATE}") == ["last_reserved_ip.0", "lock"]


@pytest.mark.spec("dataplane.11.4", "dataplane.14")
def test_pods_do_not_reach_each_others_egress_address(v6_node: NodeOf) -> None:
    first, second = v6_node.add("closed-1"), v6_node.add("closed-2")
    target = pod_lines(second, "ip -4 -o address show v4if0")[0].split()[3].split("/")[0]
    own = pod_lines(first, "ip -4 -o address show v4if0")[0].split()[3].split("/")[0]
    assert reaches(first, own)
    assert not reaches(first, target)
    for name in ("closed-1", "closed-2"):
        v6_node.lab.delete_pod(name)


@pytest.mark.spec("dataplane.18.20")
def test_a_pod_whose_namespace_is_gone_leaves_no_chain_behind(v6_node: NodeOf) -> None:
    pod = v6_node.add("vanished")
    sandbox = pod.sandbox()
    veth = pod.result["interfaces"][3]["name"]
    assert chains(v6_node) != []
    v6_node.shell(f"ip link del {veth}")
    gone = sandbox.__class__(**{**sandbox.__dict__, "netns": "/var/run/netns/not-there"})
    v6_node.lab.runtime(v6_node.node.name).delete(gone)
    assert chains(v6_node) == []
    assert v6_node.lines(f"ls {STATE}") == ["last_reserved_ip.0", "lock"]
    v6_node.lab.delete_pod("vanished")


@pytest.mark.spec("dataplane.18.22")
def test_egress_switched_off_meanwhile_is_still_cleaned_up(v6_node: NodeOf) -> None:
    pod = v6_node.add("switched-off")
    conflist = v6_node.node.runtime().conflist()
    conflist["plugins"][1] |= {"enabled": "false", "nodeIP": ""}
    v6_node.lab.runtime(v6_node.node.name).delete(pod.sandbox(), conflist, result=pod.result)
    assert chains(v6_node) == []
    assert v6_node.lines(f"ls {STATE}") == ["last_reserved_ip.0", "lock"]
    v6_node.lab.delete_pod("switched-off")


@pytest.mark.spec("dataplane.18.22")
def test_reservations_that_cannot_be_changed_keep_no_pod_from_being_deleted(v6_node: NodeOf) -> None:
    pod = v6_node.add("stuck")
    v6_node.shell(f"mkdir -p /run/ro && mount --bind {STATE} {STATE} && mount -o remount,ro,bind {STATE}")
    try:
        v6_node.lab.runtime(v6_node.node.name).delete(pod.sandbox())
        assert pod.address not in v6_node.shell("ip -6 rule; ip -6 route")
        assert chains(v6_node) == []
    finally:
        v6_node.shell(f"umount {STATE}")
    comes_back(lambda: v6_node.lines(f"ls {STATE}") == ["last_reserved_ip.0", "lock"], within_s=12.0)
    v6_node.lab.delete_pod("stuck")


def test_a_second_add_leaves_the_egress_interface_alone_and_gives_the_same_answer(v6_node: NodeOf) -> None:
    pod = v6_node.add("twice")
    before = pod_lines(pod, "ip -o link show v4if0; ip -4 -o address show v4if0")
    again = v6_node.lab.runtime(v6_node.node.name).add(pod.sandbox())
    assert again == pod.result
    assert pod_lines(pod, "ip -o link show v4if0; ip -4 -o address show v4if0") == before
    v6_node.lab.delete_pod("twice")


@pytest.mark.spec("dataplane.18.22")
def test_an_add_that_fails_at_the_egress_leaves_the_node_as_it_was(v6_node: NodeOf) -> None:
    v6_node.add("steady")
    before = v6_node.picture()
    pod = v6_node.lab.make_pod(v6_node.node.name, "refused")
    pod.exec(["ip", "link", "add", "v4if0", "type", "bridge"])
    with pytest.raises(Exception, match="egress is not possible"):
        v6_node.lab.runtime(v6_node.node.name).add(pod.sandbox())
    comes_back(lambda: v6_node.picture() == before, within_s=5.0)
    v6_node.lab.delete_pod("refused")
    v6_node.lab.delete_pod("steady")


def test_a_check_names_what_is_missing_of_the_egress(v6_node: NodeOf) -> None:
    pod = v6_node.add("checked")
    conflist = v6_node.node.runtime().conflist()
    netconf = {**conflist["plugins"][1], "cniVersion": "0.4.0", "name": "aws-cni", "prevResult": pod.result}
    env = {
        "CNI_COMMAND": "CHECK",
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": pod.netns_path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }

    def check() -> Any:
        return v6_node.node.exec(["/opt/cni/bin/egress-cni"], env=env, input=json.dumps(netconf), check=False)

    assert check().returncode == 0, check().stdout
    v6_node.shell("iptables-nft -t nat -F POSTROUTING")
    told = json.loads(check().stdout)
    assert "is not in force" in told["details"]
    v6_node.lab.delete_pod("checked")
    assert chains(v6_node) == [], "a chain whose jump is gone goes too"
