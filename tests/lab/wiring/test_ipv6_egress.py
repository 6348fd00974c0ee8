"""IPv6 egress of an IPv4 node's pods: what the contract prints, what packets do, what is left behind."""

from __future__ import annotations

import json

import pytest
from support.nodes import NodeOf, pod_lines, reaches, without_iptables

from vpccni.lab.fabric import INTERNET_ADDRESS_V6

STATE = "/run/cni/v4pd/egress-v6-ipam/aws-cni"


def chains(node: NodeOf) -> list[str]:
    return [line for line in node.lines("ip6tables-nft-save -t nat") if "CNI-E6-" in line and line.startswith("-A")]


@pytest.mark.spec("dataplane.13.7", "dataplane.14")
def test_an_ipv4_pods_ipv6_egress_is_as_the_contract_prints_it(egress_node: NodeOf) -> None:
    pod = egress_node.add("sample-pod")
    host_end, pod_end = pod.result["interfaces"][3:]
    assert pod_end["name"] == "v6if0"
    assert [entry["address"] for entry in pod.result["ips"]] == [f"{pod.address}/32"]
    (link,) = json.loads(pod.exec(["ip", "-json", "-6", "address", "show", "v6if0"]).stdout)
    addresses = {item["scope"]: item for item in link["addr_info"]}
    address = addresses["global"]["local"]
    assert (addresses["global"]["prefixlen"], address.startswith("fd00::ac:")) == (118, True)
    assert not any(item.get("tentative") for item in link["addr_info"])
    veth = host_end["name"]
    (own,) = [item["local"] for item in egress_node.ip("-6", "address", "show", veth)[0]["addr_info"]]
    assert sorted(pod_lines(pod, "ip -6 route")) == [
        f"default via {own} dev v6if0 metric 1024 pref medium",
        "fd00::ac:0/118 dev v6if0 proto kernel metric 256 pref medium",
        "fe80::/64 dev v6if0 proto kernel metric 256 pref medium",
    ]
    settings = (
        "cd /proc/sys/net/ipv6/conf; cat eth0/disable_ipv6 v6if0/disable_ipv6 lo/disable_ipv6 v6if0/keep_addr_on_down"
    )
    assert pod_lines(pod, settings) == ["1", "0", "0", "1"]
    assert egress_node.lines(f"ip -6 route show {address}") == [f"{address} dev {veth} metric 1024 pref medium"]
    comment = f'-m comment --comment "name: \\"aws-cni\\" id: \\"{pod.container_id}\\""'
    chain = chains(egress_node)[0].split()[-1]
    assert chains(egress_node) == [
        f"-A POSTROUTING -s {address}/128 {comment} -j {chain}",
        f"-A {chain} -d ff00::/8 {comment} -j ACCEPT",
        f"-A {chain} {comment} -j SNAT --to-source {egress_node.node.primary_ipv6} --random-fully",
    ]
    asked = pod.exec(["curl", "-s", "-m", "2", f"http://[{INTERNET_ADDRESS_V6}]/"], check=False)
    assert asked.stdout.strip() == egress_node.node.primary_ipv6
    assert (
        pod.exec(["curl", "-s", "-m", "2", "http://203.0.113.10/"]).stdout.strip() == egress_node.node.primary_address
    )
    egress_node.lab.delete_pod("sample-pod")
    assert chains(egress_node) == []
    assert egress_node.lines(f"ip -6 route show {address}; ls {STATE}") == ["last_reserved_ip.0", "lock"]


@pytest.mark.spec("dataplane.14")
def test_a_pod_reaches_its_own_ipv6_egress_address_and_nobody_elses(egress_node: NodeOf) -> None:
    first, second = egress_node.add("closed-1"), egress_node.add("closed-2")
    own, other = (
        pod_lines(pod, "ip -6 -o address show v6if0 scope global")[0].split()[3].split("/")[0]
        for pod in (first, second)
    )
    assert reaches(first, own)
    assert not reaches(first, other)
    assert reaches(first, second.address), "IPv4 is as ever"
    for name in ("closed-1", "closed-2"):
        egress_node.lab.delete_pod(name)


@pytest.mark.spec("dataplane.18.9", "dataplane.18.20")
def test_egress_of_pods_deleted_while_every_process_is_dead_goes_later(egress_node: NodeOf) -> None:
    pod = egress_node.add("spooled")
    egress_node.node.stop_processes()
    egress_node.lab.delete_pod("spooled")
    assert chains(egress_node) != []
    egress_node.node.start_processes()
    assert egress_node.node.exec(
        ["sh", "-c", f"for i in $(seq 100); do ls {STATE} | grep -q fd00 || exit 0; sleep 0.1; done; exit 1"]
    )
    assert chains(egress_node) == []
    assert pod.address not in egress_node.shell("ip rule; ip route")


@pytest.mark.spec("dataplane.18.23")
def test_egress_needs_no_iptables_and_what_was_made_without_goes_with_it(egress_node: NodeOf) -> None:
    table = "nft list table ip6 vpccni-egress"
    with without_iptables(egress_node.node):
        pods = [egress_node.add(name) for name in ("bare-0", "bare-1")]
        for pod in pods:
            asked = pod.exec(["curl", "-s", "-m", "2", f"http://[{INTERNET_ADDRESS_V6}]/"], check=False)
            assert asked.stdout.strip() == egress_node.node.primary_ipv6
        egress_node.lab.runtime(egress_node.node.name).check(pods[0].sandbox())
        egress_node.lab.delete_pod("bare-0")
        assert egress_node.shell(table).count("fd00::ac:") == 1
    assert chains(egress_node) == []
    assert reaches(pods[1], INTERNET_ADDRESS_V6)
    egress_node.lab.delete_pod("bare-1")
    assert "fd00::ac:" not in egress_node.shell(table)
