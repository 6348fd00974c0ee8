"""From the original's agent and back, by what it leaves on a node: pins in its folders, filters in its slots (spec policy.md 5.5, 5.9, 5.13).

The programs are stand-ins that do what the original's do for one policy: let one peer's IPv4 through, and ARP. Their maps and pins have its
names and sizes; the filters are put by `tc`.
"""

from __future__ import annotations

import ipaddress
import json
import struct
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.waiting import until

if TYPE_CHECKING:
    from tests.kernel.policy_agent.conftest import Node, Pod

GLOBALS = "/sys/fs/bpf/globals/aws"
PROBED_S = 5
MAKE_PINS = """
import sys
from vpccni.components.policy_agent import libbpf
from vpccni.components.policy_agent.layout import MapDefinition
folder, identity, code = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
for way in ("ingress", "egress"):
    for name, definition in (
        (f"{way}_map", MapDefinition(f"{way}_map", 11, 8, 288, 65536, 1)),
        (f"cp_{way}_map", MapDefinition(f"cp_{way}_map", 11, 8, 384, 65536, 1)),
        (f"{way}_pod_state_map", MapDefinition(f"{way}_pod_state", 1, 4, 1, 2, 1)),
    ):
        libbpf.pin(libbpf.create_map(definition).descriptor, f"{folder}/maps/{identity}_{name}")
    program = libbpf.load_program(f"handle_{way}", code)
    libbpf.pin(program.descriptor, f"{folder}/programs/{identity}_handle_{way}")
flows = MapDefinition("aws_conntrack_m", 9, 20, 1, 32768)
libbpf.pin(libbpf.create_map(flows).descriptor, f"{folder}/maps/global_aws_conntrack_map")
"""


def instruction(code: int, *, to: int = 0, by: int = 0, skip: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, by << 4 | to, skip, value)


def lets_only(peer: str, *, at: int) -> bytes:
    """A classifier that drops IPv4 unless the address at this offset is the peer's."""
    return b"".join(
        (
            instruction(0xBF, to=6, by=1),  # the packet into r6, where absolute loads want it
            instruction(0x28, value=12),  # the EtherType
            instruction(0x55, skip=2, value=0x0800),
            instruction(0x20, value=at),
            instruction(0x55, skip=2, value=int(ipaddress.IPv4Address(peer))),
            instruction(0xB7, value=0),
            instruction(0x95),
            instruction(0xB7, value=2),
            instruction(0x95),
        )
    )


def put_original(node: Node, pod: Pod, *, peer: str) -> None:
    """Leave what the original's agent leaves for a pod whose ingress one peer is allowed to; its egress filter lets it answer."""
    node.run("mkdir", "-p", f"{GLOBALS}/maps", f"{GLOBALS}/programs")
    identity = f"{pod.name.rpartition('-')[0]}@default"
    code = lets_only(peer, at=26)
    node.run(sys.executable, "-c", MAKE_PINS, GLOBALS, identity, code.hex())
    node.run("tc", "qdisc", "add", "dev", pod.host_veth, "clsact")
    put_filter(node, pod, f"{GLOBALS}/programs/{identity}_handle_ingress")


def put_filter(node: Node, pod: Pod, program: str) -> None:
    node.run(
        "tc", "filter", "add", "dev", pod.host_veth, "egress", "handle", "0x1", "prio", "1", "protocol", "all", "bpf",
        "direct-action", "object-pinned", program,
    )  # fmt: skip


LISTEN = """
import json, select, socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
udp.bind(("", 9))
print("listening", flush=True)
seen = {}
while True:
    ready, _, _ = select.select([udp, sys.stdin], [], [])
    if udp in ready:
        _, peer = udp.recvfrom(10)
        seen[peer[0]] = seen.get(peer[0], 0) + 1
    elif sys.stdin in ready:
        print(json.dumps(seen), flush=True)
        break
"""
SEND = """
import socket, sys, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
until, sent = time.monotonic() + float(sys.stdin.readline()), 0
while time.monotonic() < until:
    sent += udp.sendto(b"x", (sys.argv[1], 9))
    time.sleep(0.001)
print(sent, flush=True)
"""


@pytest.mark.spec("policy.5.5", "policy.5.13", "policy.T-087")
def test_the_originals_pods_are_taken_over_without_an_open_or_a_closed_moment(node: Node) -> None:
    node.start_api()
    pod, friend, stranger = (node.pod() for _ in range(3))
    for one in (pod, friend, stranger):
        one.up()
        node.make_pod_object(one)
    put_original(node, pod, peer=friend.address)
    node.put_policy("p", [pod], ingress=[{"cidr": friend.address}])
    assert friend.reaches(pod)
    assert not stranger.reaches(pod)
    before = sorted(node.run("find", GLOBALS, "-type", "f").split())
    original = node.filters(pod, "egress")[0]["options"]["prog"]["id"]

    with ExitStack() as stack:
        listener = stack.enter_context(pod.program(LISTEN))
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        probes = {one.address: stack.enter_context(one.program(SEND, pod.address)) for one in (friend, stranger)}
        for one in probes.values():
            assert one.stdin is not None
            one.stdin.write(f"{PROBED_S}\n")
            one.stdin.flush()
        node.start_agent()
        until(lambda: node.count("vpccni_policy_adopted") >= 1, "the take-over", within_s=5.0)
        (now,) = node.filters(pod, "egress")
        assert now["options"]["prog"]["id"] != original, "in its very slot"
        assert all(one.poll() is None for one in probes.values()), "the probes must outlive the take-over"
        sent = {address: int(one.communicate(timeout=PROBED_S + 10)[0]) for address, one in probes.items()}
        seen = json.loads(listener.communicate("\n", timeout=10)[0])
    assert min(sent.values()) > PROBED_S * 300, "some hundred a second of each"
    assert seen == {friend.address: sent[friend.address]}, "every allowed one, and not one denied"
    assert sorted(node.run("find", GLOBALS, "-type", "f").split()) == before, "its own pins are there for its return"


@pytest.mark.spec("policy.5.5", "policy.5.13")
def test_what_is_left_for_the_originals_return_is_what_it_expects(node: Node) -> None:
    """It attaches by add, and where the slot is taken by delete and add; it reads its own folder of pins, where nothing of ours is."""
    node.start_api()
    node.start_agent()
    pod, friend, stranger = (node.pod() for _ in range(3))
    for one in (pod, friend, stranger):
        node.add(one)
        node.make_pod_object(one)
    node.put_policy("p", [pod], ingress=[{"cidr": friend.address}])
    until(lambda: node.count("vpccni_policy_switches") == 1, "the policy", within_s=5.0)
    node.kill_agent()
    assert "globals" not in node.run("ls", "/sys/fs/bpf")
    node.run("tc", "qdisc", "del", "dev", pod.host_veth, "clsact")  # put_original adds it
    put_original(node, pod, peer=stranger.address)
    program = f"{GLOBALS}/programs/pod@default_handle_ingress"
    with pytest.raises(AssertionError, match="already exists"):
        put_filter(node, friend, program)
    node.run(
        "tc", "filter", "del", "dev", friend.host_veth, "egress", "handle", "0x1", "prio", "1", "protocol", "all", "bpf"
    )
    put_filter(node, friend, program)
    assert stranger.reaches(pod), "the original's program judges"
    assert not friend.reaches(pod)

    node.start_agent()  # and here again
    until(lambda: friend.reaches(pod) and not stranger.reaches(pod), "our programs", within_s=5.0)
    for one in (pod, friend):
        (filter_,) = node.filters(one, "egress")
        assert filter_["options"]["prog"]["name"] == "handle_ingress"


@pytest.mark.spec("policy.T-140")
def test_an_attach_that_fails_is_tried_again_without_any_change_of_the_api(node: Node) -> None:
    node.start_api()
    pod, stranger = node.pod(), node.pod()
    for one in (pod, stranger):
        one.up()
        node.make_pod_object(one)
    node.run("tc", "qdisc", "add", "dev", pod.host_veth, "ingress")  # of another kind, where ours must be
    node.put_policy("p", [pod], ingress=[])
    node.start_agent()
    until(lambda: node.count("vpccni_policy_write_failures", code="kernel") >= 1, "the failure", within_s=5.0)
    assert any("interfaces keep older rules" in reason for reason in node.status().reasons)
    assert stranger.reaches(pod)
    node.run("tc", "qdisc", "del", "dev", pod.host_veth, "ingress")
    began = time.monotonic()
    until(lambda: node.count("vpccni_policy_adopted") >= 1, "the next try", within_s=20.0)
    print(f"tried again with success after {time.monotonic() - began:.1f} s")
    assert not stranger.reaches(pod)
    assert node.status().state == "serving"
