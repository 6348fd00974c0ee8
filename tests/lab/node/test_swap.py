"""The swap on a live node: from the reference's state to ours with running pods, and what we leave for the way back (spec dataplane.md 13, 16)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from support.waiting import until as wait_until
from tests.lab.node import the_reference as reference
from tests.lab.node.conftest import NodeUnderTest
from tests.lab.node.the_reference import Place, Release
from tests_node import NewConnections

from vpccni.lab.api import Lab
from vpccni.lab.fabric import INTERNET_ADDRESS
from vpccni.lab.pod import Pod

SECONDARY = {"IP_COOLDOWN_PERIOD": "0", "WARM_IP_TARGET": "12", "MINIMUM_IP_TARGET": "12"}
TWO_ENIS = {
    "IP_COOLDOWN_PERIOD": "0", "WARM_IP_TARGET": "1", "MINIMUM_IP_TARGET": "12",
    "NETWORK_POLICY_ENFORCING_MODE": "none",  # an agent's clsact makes the kernel show `qlen 1000` on the veth
}  # fmt: skip
PREFIXES = {"IP_COOLDOWN_PERIOD": "0", "ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "10"}
PER_ENI = 2
PING_EVERY_S = "0.01"
NEW_A_SECOND = 100
STANDS_FOR_S = 30.0
"""More than the audit gives a sandbox without a veth: who was not adopted would be gone by then."""
until = partial(wait_until, within_s=40.0)
CASES = [
    pytest.param((reference.V1_23, SECONDARY), id="v1.23-nft-secondary"),
    pytest.param((reference.V1_22, PREFIXES), id="v1.22-nft-prefixes", marks=pytest.mark.full),
    pytest.param((reference.V1_22_LEGACY, SECONDARY), id="v1.22-legacy-secondary", marks=pytest.mark.full),
    pytest.param((reference.V1_23_LEGACY, PREFIXES), id="v1.23-legacy-prefixes", marks=pytest.mark.full),
]


@dataclass
class Swapped:
    """A node in the reference's state, its pods with address, device and kept result."""

    node: Any
    place: Place
    release: Release
    pods: list[tuple[Pod, str, int, dict[str, Any]]] = field(default_factory=list)


@pytest.fixture(params=CASES)
def as_the_reference_left_it(request: Any) -> Iterator[Swapped]:
    release, env = request.param
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab.up(f"s{os.getpid()}", nodes=1, env=env))
        node = NodeUnderTest(lab)
        until(lambda: has_two_enis(node), lab.ec2_picture)
        node.node.stop_processes()
        place = Place.of(lab, node.node.name)
        scrub(node)
        reference.kernel_of_node(node, place)
        reference.firewall_of_node(node, place, release)
        swapped = Swapped(node, place, release)
        for device in (0, 1):
            for number in range(PER_ENI):
                pod, address = lab.make_pod(node.node.name, f"pod-{device}-{number}"), place.addresses[device][number]
                swapped.pods.append((pod, address, device, reference.wire(node, pod, address, device)))
        reference.checkpoint(node, [reference.allocation(pod, address) for pod, address, _, _ in swapped.pods])
        yield swapped


def has_two_enis(node: Any) -> bool:
    enis = reference.enis_of(node.lab, node.node.name)
    return len(enis) > 1 and all(len(eni["addresses"]) > PER_ENI or eni["prefixes"] for eni in enis)


def scrub(node: Any) -> None:
    """Take away all that ours put into the node: no pod has run on it yet."""
    node.shell(
        "nft flush ruleset; rm -rf /etc/cni/net.d/10-aws.conflist /var/run/aws-node/*; "
        "ip rule del priority 1024; ip rule del priority 32765; ip route flush table 2; ip addr flush dev eth1"
    )
    assert "1024" not in node.shell("ip rule")


class Pings:
    """Pings from every pod to the internet and to the next pod while the block runs; `lost` afterwards."""

    def __init__(self, pods: list[tuple[Pod, str]]) -> None:
        self._pods = pods
        self._running: list[subprocess.Popen[str]] = []
        self.sent = self.lost = 0

    def __enter__(self) -> Pings:
        for at, (pod, _) in enumerate(self._pods):
            for target in (INTERNET_ADDRESS, self._pods[(at + 1) % len(self._pods)][1]):
                ping = ["ping", "-q", "-i", PING_EVERY_S, "-W", "2", target]
                self._running.append(pod.popen(ping, stdout=subprocess.PIPE))
        return self

    def __exit__(self, *_: object) -> None:
        for ping in self._running:
            ping.send_signal(signal.SIGINT)
        for ping in self._running:
            told = re.search(r"(\d+) packets transmitted, (\d+) received", ping.communicate(timeout=10)[0])
            assert told is not None
            self.sent += int(told[1])
            self.lost += int(told[1]) - int(told[2])


def alias(node: Any, veth: str) -> str:
    return str(json.loads(node.shell(f"ip -json link show {veth}") or "[{}]")[0].get("ifalias", ""))


def allocations(node: Any) -> dict[str, str]:
    """Addresses by container, as the checkpoint has them."""
    document = json.loads((node.node.root / "ipam.json").read_text())
    return {entry["containerID"]: entry["ipv4"] for entry in document["allocations"]}


@pytest.mark.spec("dataplane.16.1", "dataplane.16.2", "dataplane.16.3", "dataplane.16.4")
def test_the_reference_s_pods_lose_no_packet_and_go_without_a_trace(as_the_reference_left_it: Swapped) -> None:
    swapped = as_the_reference_left_it
    node, pods = swapped.node, swapped.pods
    veths = {pod.name: reference.host_veth(pod) for pod, _, _, _ in pods}
    before = {name: node.shell(f"ip -json link show {veth}") for name, veth in veths.items()}
    on_second = [pod for pod, _, device, _ in pods if device]
    with (
        NewConnections(node, on_second, each_a_second=NEW_A_SECOND) as load,
        Pings([(pod, address) for pod, address, _, _ in pods]) as pings,
    ):
        node.node.start_processes()
        until(lambda: all(alias(node, veth) for veth in veths.values()), lambda: node.shell("ip link") + node.story())
        new = node.add("new")
    assert pings.sent > 100
    assert pings.lost == 0
    assert load.wrong == []
    assert load.a_second > NEW_A_SECOND
    assert new.address not in {address for _, address, _, _ in pods}
    for name, veth in veths.items():
        link, now = json.loads(before[name])[0], json.loads(node.shell(f"ip -json link show {veth}"))[0]
        assert (now["ifindex"], now["address"]) == (link["ifindex"], link["address"])
    only_one_backend_holds_ours(node, swapped.release)
    held = {pod.container_id: address for pod, address, _, _ in pods} | {new.container_id: new.address}
    stands(lambda: allocations(node) == held, lambda: f"{allocations(node)} {held} {node.story()}")
    runtime = node.lab.runtime(node.node.name)
    for pod, address, _, result in pods:
        runtime.delete(pod.sandbox(), result=result)
        assert about(node, address) == []
        assert veths[pod.name] not in node.shell("ip -br link")
        node.lab.delete_pod(pod.name)
    until(lambda: allocations(node) == {new.container_id: new.address}, lambda: allocations(node))


def stands(holds: Any, how: Any) -> None:
    """Fail as soon as it no longer holds, within `STANDS_FOR_S`."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not holds(), "", within_s=STANDS_FOR_S, every_s=0.5)
        raise RuntimeError(how())


def about(node: Any, address: str) -> list[str]:
    return [line for line in node.shell("ip rule; ip route").splitlines() if f"{address} " in f"{line} "]


def only_one_backend_holds_ours(node: Any, release: Release) -> None:
    other = "legacy" if release.backend == "nft" else "nft"
    assert "AWS" in node.shell(f"iptables-{release.backend}-save")
    assert "AWS" not in node.shell(f"iptables-{other}-save 2>/dev/null")
    in_nft = node.shell("nft list table ip aws-cni 2>/dev/null")
    assert bool(in_nft) is (release.backend == "nft")
    assert ("AWS-CONNMARK" in node.shell(f"iptables-{release.backend}-save")) is (release.backend == "legacy")


# -- the way back


@pytest.fixture(params=["nft", "legacy"])
def left_by_us(request: Any) -> Iterator[tuple[Any, Place, list[Pod], str]]:
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab.up(f"b{os.getpid()}", nodes=1, env=TWO_ENIS))
        node = NodeUnderTest(lab)
        node.node.exec([f"iptables-{request.param}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"])
        until(lambda: has_two_enis(node), lab.ec2_picture)
        pods = [node.add(f"pod-{number}") for number in range(11)]
        place = Place.of(lab, node.node.name)
        chain = f"iptables-{request.param}-save -t nat | grep -c AWS-SNAT-CHAIN-0"
        until(lambda: node.shell(chain).strip() not in ("", "0"), lambda: node.shell("nft list ruleset"))
        node.node.stop_processes()
        yield node, place, pods, request.param


def lines(text: str) -> list[str]:
    return sorted(" ".join(line.split()) for line in text.splitlines() if line.strip())


@pytest.mark.spec("dataplane.13.0", "dataplane.13.1", "dataplane.16.2", "dataplane.16.3", "operations.15.1")
def test_what_we_leave_is_what_the_reference_expects(left_by_us: tuple[Any, Place, list[Pod], str]) -> None:
    node, place, pods, backend = left_by_us
    on_second = [pod for pod in pods if pod.address in place.addresses[1]]
    assert 0 < len(on_second) < len(pods)
    rules = [
        "0: from all lookup local",
        "1024: from all fwmark 0x80/0x80 lookup main",
        f"32765: from {place.second} lookup 2",
    ]
    rules += ["32766: from all lookup main", "32767: from all lookup default"]
    rules += [f"512: from all to {pod.address} lookup main" for pod in pods]
    rules += [f"1536: from {pod.address} lookup 2" for pod in on_second]
    assert lines(node.shell("ip rule")) == sorted(rules)
    routes = [f"{pod.address} dev {reference.host_veth(pod)} scope link" for pod in pods]
    gateway = place_router(place.primary_subnet)
    routes.append(f"{place.primary_subnet} dev eth0 proto kernel scope link src {place.primary}")
    routes.append(f"default via {gateway} dev eth0")
    assert lines(node.shell("ip route show table main")) == sorted(routes)
    assert lines(node.shell("ip route show table 2")) == sorted(
        [f"default via {place.router} dev eth1", f"{place.router} dev eth1 scope link"]
    )
    firewall_is_the_reference_s(node, place, backend)
    for pod in pods:
        pod_is_the_reference_s(node, pod)
    checkpoint_is_the_reference_s(node, pods)


def place_router(subnet: str) -> str:
    return subnet.split("/")[0].rsplit(".", 1)[0] + ".1"


def firewall_is_the_reference_s(node: Any, place: Place, backend: str) -> None:
    """But for two lines that docs/differences.md explains: the restore in nft, and the exception for local addresses in legacy."""
    saved = node.shell(f"iptables-{backend}-save -t nat; iptables-{backend}-save -t mangle")
    seen = [line for line in lines(saved) if line.startswith("-A") and "AWS CONNMARK CHAIN, LOCAL" not in line]
    wanted = [
        *reference.snat_chain(place),
        *reference.mangle_hooks(),
        '-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0',
    ]
    if backend == "legacy":
        wanted += [*reference.connmark_hooks(), *reference.connmark_chain("AWS CONNMARK CHAIN, VPC CIDR")]
        assert node.shell("nft list table ip aws-cni 2>/dev/null") == ""
    assert seen == sorted(wanted)
    if backend == "nft":
        listed = re.sub(r"counter packets \d+ bytes \d+", "counter ...", node.shell("nft list table ip aws-cni"))
        restores = [
            "ct mark & 0x00000080 == 0x00000080 counter ... meta mark set meta mark | 0x00000080",
            "ct mark & 0x00000080 == 0x00000000 counter ... meta mark set meta mark & 0xffffff7f",
        ]
        assert lines(listed) == sorted(
            ["table ip aws-cni {", "chain nat-prerouting {", "chain snat-mark {", "}", "}", "}",
             "type nat hook prerouting priority dstnat + 10; policy accept;", "fib daddr type local return",
             'iifname "eni*" counter ... jump snat-mark', f"counter ... ip daddr {reference.VPC} return",
             "counter ... ct mark set ct mark | 0x00000080", *restores]
        )  # fmt: skip


def pod_is_the_reference_s(node: Any, pod: Pod) -> None:
    """13.1"""
    veth = reference.host_veth(pod)
    link = json.loads(node.shell(f"ip -json -details link show {veth}"))[0]
    assert (link["mtu"], link["operstate"]) == (9001, "UP")
    assert " qlen " not in node.shell(f"ip link show {veth}")
    settings = "".join(
        node.shell(f"cat /proc/sys/net/ipv6/conf/{veth}/{name}")
        for name in ("accept_ra", "accept_redirects", "forwarding")
    )
    assert settings.split() == ["0", "1", "0"]
    addresses = lines(pod.exec(["ip", "-o", "-4", "addr", "show", "eth0"]).stdout)
    assert len(addresses) == 1
    assert f" eth0 inet {pod.address}/32 " in addresses[0]
    routes = ["169.254.1.1 dev eth0 scope link", "default via 169.254.1.1 dev eth0"]
    assert lines(pod.exec(["ip", "route"]).stdout) == routes
    neighbours = lines(pod.exec(["ip", "neigh", "show", "169.254.1.1"]).stdout)
    assert neighbours == [f"169.254.1.1 dev eth0 lladdr {link['address']} PERMANENT"]


def checkpoint_is_the_reference_s(node: Any, pods: list[Pod]) -> None:
    """operations.md 15.1: what the reference reads, and beside it only keys of our name, which it ignores."""
    document = json.loads((node.node.root / "ipam.json").read_text())
    assert document["version"] == "vpc-cni-ipam/1"
    assert document.keys() == {"version", "allocations", "vpccni"}
    for entry in document["allocations"]:
        assert isinstance(entry.pop("allocationTimestamp"), int)
        entry.pop("vpccni")
    expected = [reference.allocation(pod, pod.address) for pod in pods]
    for entry in expected:
        del entry["allocationTimestamp"]
    key = lambda entry: str(entry["containerID"])  # noqa: E731
    assert sorted(document["allocations"], key=key) == sorted(expected, key=key)
