"""A pod's life under policy: churn, restarts, modes, names, what is detached, hosts, spoofers, large policies. Real packets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from support.waiting import until
from tests.kernel.policy_agent.conftest import NODE_ADDRESS

from vpccni.shared.messages.common import EffectsRecorded, RecordEffects
from vpccni.shared.messages.policy import Attached

if TYPE_CHECKING:
    from tests.kernel.policy_agent.conftest import Node, Pod

SERVE = """
import socket
listener = socket.create_server(("", 8080))
print("serving", flush=True)
while True:
    peer, _ = listener.accept()
    peer.sendall(b"hello")
    peer.close()
"""
CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], 8080), timeout=1.0) as peer:
    print(peer.recv(10).decode(), flush=True)
"""


@pytest.fixture
def api_node(node: Node) -> Node:
    node.start_api()
    node.start_agent()
    return node


def pods_of(node: Node, count: int, mode: str = "standard") -> list[Pod]:
    pods = [node.pod() for _ in range(count)]
    for pod in pods:
        node.add(pod, mode)
    return pods


def switched(node: Node, count: float) -> None:
    until(lambda: node.count("vpccni_policy_switches") >= count, "the switch", within_s=5.0)


def connects(source: Pod, target: Pod) -> bool:
    with source.program(CONNECT, target.address) as one:
        return one.communicate(timeout=5)[0] == "hello\n"


@pytest.mark.spec("policy.T-078")
def test_strict_cuts_a_pod_off_when_its_last_policy_goes(node: Node) -> None:
    node.start_api()
    node.start_agent("strict")
    pod, friend = pods_of(node, 2, "strict")
    assert not friend.reaches(pod)
    node.put_policy("pod", [pod], ingress=[{"cidr": friend.address}])
    node.put_policy("friend", [friend], ingress=[])
    until(lambda: friend.reaches(pod), "the opening", within_s=5.0)
    flow = friend.program(
        f"import socket, time\nudp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"while True:\n    udp.sendto(b'x', ('{pod.address}', 9)); time.sleep(0.01)\n"
    )
    listen = (
        "import socket, time\nudp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nudp.bind(('', 9))\n"
        "while True:\n    udp.recv(10); print(time.monotonic(), flush=True)\n"
    )
    with pod.program(listen) as heard, flow:
        assert heard.stdout is not None
        assert heard.stdout.readline(), "the flow is open"
        before = node.count("vpccni_policy_switches")
        node.delete_policy("pod")
        switched(node, before + 1)
        at = time.monotonic()
        time.sleep(0.5)
        heard.kill()
        late = [float(line) for line in heard.stdout.read().splitlines() if float(line) > at + 0.1]
        assert late == [], "the open flow is cut too"
    assert not friend.reaches(pod)
    assert not pod.reaches(friend)
    assert pod.ping(2), "probes of its own node pass"


@pytest.mark.spec("policy.T-080")
def test_a_container_that_starts_again_meets_the_same_rules(api_node: Node) -> None:
    pod, friend, stranger = pods_of(api_node, 3)
    api_node.put_policy("p", [pod], ingress=[{"cidr": friend.address, "ports": [{"protocol": "TCP", "port": 8080}]}])
    switched(api_node, 1)
    for _ in range(2):
        with pod.program(SERVE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "serving\n"
            assert connects(friend, pod)
            assert not connects(stranger, pod)


@pytest.mark.spec("policy.T-088", "policy.W-13")
def test_no_pin_and_no_entry_is_left_of_pods_that_went(api_node: Node) -> None:
    (friend,) = pods_of(api_node, 1)
    pins = sorted(api_node.run("find", "/sys/fs/bpf", "-type", "f").split())
    for number in range(12):
        pod = api_node.pod()
        api_node.put_policy("p", [pod], ingress=[{"cidr": friend.address}])
        api_node.add(pod)
        if number % 4 == 3:
            api_node.kill_agent()
            api_node.start_agent()
        api_node.call(pod.detach())
        api_node.run("ip", "link", "del", pod.host_veth)
    api_node.delete_policy("p")
    assert sorted(api_node.run("find", "/sys/fs/bpf", "-type", "f").split()) == pins
    for name in ("pods", "names"):
        assert (
            len(api_node.bpftool("map", "dump", "pinned", next(pin for pin in pins if pin.endswith(f"/{name}")))) == 1
        )


@pytest.mark.spec("policy.T-089")
def test_a_host_network_pod_is_left_alone(api_node: Node) -> None:
    pod, friend = pods_of(api_node, 2)
    api_node.put_policy("p", [pod], ingress=[])
    switched(api_node, 1)
    listed = {"name": "host", "namespace": "default", "podIP": NODE_ADDRESS, "hostIP": NODE_ADDRESS}
    body = {
        "metadata": {"name": "host", "namespace": "default"},
        "spec": {
            "policyRef": {"name": "host", "namespace": "default"},
            "podIsolation": ["Ingress", "Egress"],
            "podSelectorEndpoints": [listed],
        },
    }
    api_node.api("POST", "/apis/networking.k8s.aws/v1alpha1/namespaces/default/policyendpoints", body)
    until(lambda: api_node.status().detail["policies"] == 2, "the policy", within_s=5.0)
    with friend.program(f"import socket; socket.create_connection(('{NODE_ADDRESS}', 1), timeout=1)") as asking:
        asking.communicate(timeout=5)
    assert friend.ping(2), "the host reaches pods, and is answered"
    assert api_node.count("vpccni_policy_switches") == 1


@pytest.mark.spec("policy.T-091")
def test_a_name_with_dots_is_as_any_other(api_node: Node) -> None:
    pod, (friend, stranger) = api_node.pod("web.example.v1"), pods_of(api_node, 2)
    api_node.add(pod)
    api_node.put_policy("p", [pod], ingress=[{"cidr": friend.address}])
    switched(api_node, 1)
    assert friend.reaches(pod)
    assert not stranger.reaches(pod)
    api_node.kill_agent()
    api_node.start_agent()
    until(lambda: api_node.status().state == "serving", "the lists", within_s=5.0)
    assert api_node.count("vpccni_policy_switches") == 0
    assert not stranger.reaches(pod)
    api_node.delete_policy("p")
    until(lambda: stranger.reaches(pod), "the opening", within_s=5.0)


@pytest.mark.spec("policy.T-092")
def test_what_was_detached_is_not_taken_up_again_until_its_next_attach(api_node: Node) -> None:
    pod, other = pods_of(api_node, 2)
    api_node.make_pod_object(pod)
    api_node.put_policy("p", [pod], ingress=[])
    switched(api_node, 1)
    api_node.call(pod.detach())
    api_node.put_policy("q", [other], ingress=[])  # any change has it look for pods that nothing is attached to
    switched(api_node, 2)
    assert api_node.count("vpccni_policy_adopted") == 0
    assert api_node.kernel_count(pod) == (0, 0)
    assert isinstance(api_node.call(pod.attach()), Attached)
    assert not other.reaches(pod), "the next ADD is judged as ever"


@pytest.mark.spec("policy.T-071")
def test_frames_with_anothers_address_give_no_access_to_it(api_node: Node) -> None:
    pod, attacker = pods_of(api_node, 2)
    api_node.put_policy("deny", [pod], ingress=[])
    api_node.put_policy("flows", [attacker], egress=[{"cidr": "0.0.0.0/0"}], ingress=[{"cidr": "0.0.0.0/0"}])
    until(lambda: api_node.status().detail["rule_sets"] >= 1, "the policies", within_s=5.0)
    switched(api_node, 1)
    spoof = (
        "import socket, struct\n"
        "raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)\n"
        f"source, own = socket.inet_aton('{pod.address}'), socket.inet_aton('{attacker.address}')\n"
        "for _ in range(20):\n"
        "    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 29, 1, 0, 64, 17, 0, source, own)\n"
        f"    raw.sendto(ip + struct.pack('!HHHH', 9, 40000, 9, 0) + b'x', ('{pod.gateway}', 0))\n"
        "udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "udp.bind(('', 40000))\n"
        "for _ in range(20):\n"
        f"    udp.sendto(b'x', ('{pod.address}', 9))\n"
        "print('sent', flush=True)\n"
    )
    listen = (
        "import socket\nudp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nudp.bind(('', 9))\n"
        "udp.settimeout(1.5)\nprint('listening', flush=True)\n"
        "try:\n    print('got', udp.recv(10), flush=True)\nexcept TimeoutError:\n    print('nothing', flush=True)\n"
    )
    with pod.program(listen) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        with attacker.program(spoof) as sending:
            assert sending.stdout is not None
            assert sending.stdout.readline() == "sent\n"
        assert listener.stdout.readline() == "nothing\n"


@pytest.mark.spec("policy.T-136")
def test_of_ten_thousand_peers_a_new_one_is_let_in_within_five_seconds(api_node: Node) -> None:
    pod, friend, stranger = pods_of(api_node, 3)
    many = [{"cidr": f"10.{100 + (at >> 8)}.{at & 255}.9"} for at in range(10_000)]
    api_node.put_policy("p", [pod], ingress=[*many, {"cidr": friend.address}])
    switched(api_node, 1)
    assert friend.reaches(pod)
    assert not stranger.reaches(pod)
    began = time.monotonic()
    api_node.put_policy("p", [pod], ingress=[*many, {"cidr": friend.address}, {"cidr": stranger.address}])
    switched(api_node, 2)
    print(f"one peer more of 10,000 after {time.monotonic() - began:.2f} s")
    assert stranger.reaches(pod)
    assert friend.reaches(pod)


@pytest.mark.spec("policy.W-27")
def test_what_changes_nothing_writes_nothing(api_node: Node) -> None:
    pod, friend = pods_of(api_node, 2)
    peers = [{"cidr": friend.address}, {"cidr": "10.1.0.0/16", "ports": [{"protocol": "TCP", "port": 80}]}]
    api_node.put_policy("p", [pod], ingress=peers)
    switched(api_node, 1)
    time.sleep(1.0)
    api_node.call(RecordEffects(on=True))
    api_node.put_policy("p", [pod], ingress=peers[::-1], annotations={"changed": "by nobody"})
    api_node.put_policy("q", [], ingress=[])
    until(lambda: api_node.status().detail["policies"] == 2, "the change", within_s=5.0)
    recorded = api_node.call(RecordEffects(on=False))
    assert isinstance(recorded, EffectsRecorded)
    assert [one for one in recorded.effects if one.startswith("bpf.")] == []
