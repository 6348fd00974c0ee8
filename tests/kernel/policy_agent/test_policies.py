"""Policies from the API to packets between pods, on a real kernel with the lab's API server."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.waiting import until
from tests.kernel.policy_agent.conftest import NODE_ADDRESS, octets

from vpccni.shared.messages.common import ArmKillPoint, EffectsRecorded, RecordEffects
from vpccni.shared.messages.policy import GetVerdict, Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernel.policy_agent.conftest import Node, Pod

ENFORCED_WITHIN_S = 5.0  # spec policy.md 8


def rule(pod: Pod, **more: Any) -> dict[str, Any]:
    return {"cidr": pod.address, **more}


@pytest.fixture
def api_node(node: Node) -> Node:
    node.start_api()
    node.start_agent()
    return node


def pods_of(node: Node, count: int) -> list[Pod]:
    pods = [node.pod() for _ in range(count)]
    for pod in pods:
        node.add(pod)
    return pods


def enforced(node: Node, count: float) -> None:
    """Wait until so many interfaces were switched to another rule set."""
    until(lambda: node.count("vpccni_policy_switches") >= count, "the switch", within_s=ENFORCED_WITHIN_S)


@pytest.mark.spec(
    "policy.T-001", "policy.T-002", "policy.T-007", "policy.T-008", "policy.T-011", "policy.T-073", "policy.T-090"
)
def test_a_policy_holds_for_its_pods_changes_and_goes(api_node: Node) -> None:
    pod, friend, stranger = pods_of(api_node, 3)
    assert friend.reaches(pod)
    api_node.put_policy("deny", [pod], ingress=[])
    enforced(api_node, 1)
    assert not friend.reaches(pod)
    assert pod.reaches(friend), "its own connections work"
    assert friend.reaches(stranger), "and nobody else is isolated"
    api_node.put_policy("allow", [pod], ingress=[rule(friend)])
    enforced(api_node, 2)
    assert friend.reaches(pod)
    assert not stranger.reaches(pod)
    api_node.put_policy("allow-more", [pod], ingress=[rule(stranger)])
    enforced(api_node, 3)
    assert friend.reaches(pod)
    assert stranger.reaches(pod)
    for name in ("allow", "allow-more"):
        api_node.delete_policy(name)
    until(lambda: not friend.reaches(pod), "the denial", within_s=ENFORCED_WITHIN_S)
    api_node.delete_policy("deny")
    until(lambda: friend.reaches(pod), "the opening", within_s=ENFORCED_WITHIN_S)


@pytest.mark.spec("policy.W-22", "policy.T-074")
def test_a_new_pod_is_isolated_before_its_attach_is_answered(api_node: Node) -> None:
    """By its labels: the controller lists it only when it has its address."""
    (other,) = pods_of(api_node, 1)
    api_node.put_policy("deny", [], ingress=[], labels={"app": "api"})
    until(lambda: "policies in force" in _story(api_node), "the policy", within_s=ENFORCED_WITHIN_S)
    pod = api_node.pod()
    api_node.make_pod_object(pod, app="api")
    api_node.add(pod)
    assert not other.reaches(pod)
    assert pod.reaches(other)
    unlike = api_node.pod()
    api_node.make_pod_object(unlike, app="web")
    api_node.add(unlike)
    assert other.reaches(unlike)


def _story(node: Node) -> str:
    detail = node.status().detail
    return "policies in force" if detail.get("policies") else ""


@pytest.mark.spec("policy.T-085", "policy.T-086", "policy.W-11", "policy.W-12")
def test_a_restart_changes_nothing_and_goes_on(api_node: Node) -> None:
    pod, friend, stranger = pods_of(api_node, 3)
    for number in range(5):
        api_node.put_policy(f"p{number}", [pod], ingress=[rule(friend)] if number == 4 else [])
    until(lambda: friend.reaches(pod) and not stranger.reaches(pod), "the policies", within_s=ENFORCED_WITHIN_S)
    filters = api_node.filters(pod, "egress")
    api_node.kill_agent()
    assert friend.reaches(pod)
    assert not stranger.reaches(pod)
    api_node.start_agent()
    until(lambda: api_node.status().state == "serving", "the lists", within_s=ENFORCED_WITHIN_S)
    assert api_node.count("vpccni_policy_switches") == 0
    assert api_node.filters(pod, "egress") == filters
    assert friend.reaches(pod)
    assert not stranger.reaches(pod)
    api_node.put_policy("p4", [pod], ingress=[rule(stranger)])
    enforced(api_node, 1)
    assert stranger.reaches(pod)
    assert not friend.reaches(pod)


@pytest.mark.spec("policy.W-1")
def test_pods_with_the_same_policies_share_a_rule_set(api_node: Node) -> None:
    pods = pods_of(api_node, 4)
    api_node.put_policy("deny", pods[:3], ingress=[rule(pods[3])])
    enforced(api_node, 3)
    path = api_node.run("find", "/sys/fs/bpf", "-name", "rule_sets").strip()
    shown = [octets(element["value"]) for element in api_node.bpftool("map", "dump", "pinned", path)]
    assert len([value for value in shown if any(value)]) == 1


@pytest.mark.spec("policy.W-10")
def test_a_death_at_any_step_of_a_change_leaves_the_old_rules_or_the_new(api_node: Node) -> None:
    pod, friend, stranger = pods_of(api_node, 3)
    rules = ([rule(friend), {"cidr": "10.77.0.0/16"}], [rule(friend, ports=[]), {"cidr": "10.78.0.0/16"}])
    api_node.put_policy("p", [pod], ingress=rules[0])
    enforced(api_node, 1)
    api_node.call(RecordEffects(on=True))
    api_node.put_policy("p", [pod], ingress=rules[1])
    enforced(api_node, 2)
    recorded = api_node.call(RecordEffects(on=False))
    assert isinstance(recorded, EffectsRecorded)
    steps = [one for one in recorded.effects if one.startswith("bpf.")]
    assert len(steps) >= 6
    points = [(name, 1 + steps[:at].count(name), before) for at, name in enumerate(steps) for before in (True, False)]
    for number, (name, nth, before) in enumerate(points):
        peers = rules[number % 2]
        api_node.call(ArmKillPoint(effect=name, nth=nth, before=before))
        api_node.put_policy("p", [pod], ingress=[*peers, {"cidr": f"10.{100 + number}.0.0/16"}])
        until(lambda: api_node.agent is None or api_node.agent.poll() is not None, "the death", within_s=10.0)
        assert friend.reaches(pod), f"{name} {nth}: both policies allow it"
        assert not stranger.reaches(pod), f"{name} {nth}: neither does"
        api_node.restart_dead_agent()
        until(lambda: api_node.status().state == "serving", "the restart", within_s=10.0)
        assert friend.reaches(pod)
        assert not stranger.reaches(pod)
    number = time.monotonic()
    api_node.put_policy("p", [pod], ingress=[rule(stranger)])
    until(lambda: stranger.reaches(pod) and not friend.reaches(pod), "the last change", within_s=ENFORCED_WITHIN_S)
    assert time.monotonic() - number < ENFORCED_WITHIN_S


@pytest.mark.spec("policy.T-138", "policy.5.14", "policy.5.15")
def test_a_denied_packet_is_counted_and_told_with_the_rule_that_decides(node: Node) -> None:
    node.start_api()
    log = node.run_dir / "flows.log"
    node.start_agent(
        VPCCNI_AGENT_ENABLE_POLICY_EVENT_LOGS="true",
        VPCCNI_AGENT_STRUCTURED_FLOW_LOG="true",
        VPCCNI_LOG_FILE=str(log),
        LOG_LEVEL_POLICY_AGENT="debug",
    )
    pod, friend, stranger = pods_of(node, 3)
    node.put_policy("p", [pod], ingress=[rule(friend)])
    enforced(node, 1)
    assert not stranger.reaches(pod)
    assert friend.reaches(pod)

    def flows() -> list[dict[str, Any]]:
        lines = [json.loads(text) for text in log.read_text().splitlines()]
        return [one for one in lines if one["msg"] == "flow"]

    until(lambda: len(flows()) >= 4, "the lines", within_s=5.0)
    lines = flows()
    denied = [one for one in lines if one["verdict"] == "DENY"]
    assert [(one["level"], one["pod"], one["peer_pod"]) for one in denied] == [
        ("info", f"default/{pod.name}", f"default/{stranger.name}")
    ] * 3
    (allowed,) = [one for one in lines if one["verdict"] == "ACCEPT"]
    assert allowed["rule"] == "NetworkPolicy default/p, ingress accept every port"
    until(lambda: node.count("network_policy_drop_count_total", direction="ingress") == 3, "the counter", within_s=8.0)
    assert node.count("network_policy_drop_count_total", direction="egress") == 0


def test_audit_mode_lets_pass_what_it_tells_of(node: Node) -> None:
    node.start_api()
    log = node.run_dir / "flows.log"
    node.start_agent(VPCCNI_AGENT_ENABLE_POLICY_EVENT_LOGS="true", VPCCNI_LOG_FILE=str(log))
    pod, friend, stranger = pods_of(node, 3)
    audit = {"networking.k8s.aws/policy-mode": "audit"}
    node.put_policy("p", [pod], ingress=[rule(friend)], annotations=audit)
    enforced(node, 1)
    assert friend.reaches(pod)
    assert stranger.reaches(pod), "it is told, not enforced"
    assert pod.ping(1), "the node is exempt from audit as from enforcement"

    def told() -> list[dict[str, Any]]:
        return [
            one for text in log.read_text().splitlines() if (one := json.loads(text)).get("verdict") == "AUDIT DENY"
        ]

    until(lambda: bool(told()), "the line", within_s=5.0)
    (line,) = told()
    assert (line["pod"], line["peer_pod"], line["tier"], line["policy"]) == (
        f"default/{pod.name}", f"default/{stranger.name}", "NETWORK_POLICY", "NetworkPolicy default/p",
    )  # fmt: skip
    denied = {"policy": "NetworkPolicy default/p", "direction": "ingress"}
    until(lambda: node.count("vpccni_policy_audit_denied_flows", **denied) == 1, "the count", within_s=8.0)
    assert node.count("network_policy_drop_count_total", direction="ingress") == 0
    answer = node.call(
        GetVerdict(
            namespace="default", name=pod.name, direction="ingress", address=stranger.address, protocol=6, port=80
        )
    )
    assert isinstance(answer, Verdicts)
    assert answer.stories[0].allowed
    assert answer.stories[0].because.startswith("it would be denied without audit mode")

    node.put_policy("p", [pod], ingress=[rule(friend)])
    until(lambda: not stranger.reaches(pod), "the enforcement", within_s=ENFORCED_WITHIN_S)
    assert friend.reaches(pod)
    node.put_policy("p", [pod], ingress=[rule(friend)], annotations=audit)
    until(lambda: stranger.reaches(pod), "the audit", within_s=ENFORCED_WITHIN_S)


@pytest.mark.spec("policy.W-10")
def test_a_policy_of_two_objects_is_not_applied_by_halves(api_node: Node) -> None:
    pod, friend, stranger = pods_of(api_node, 3)
    both = {"networking.k8s.aws/endpoint-parts": "2"}
    api_node.put_policy("p", [pod], ingress=[rule(friend)], annotations=both)
    until(lambda: api_node.gauge("vpccni_policy_incomplete") == 1, "the first half", within_s=ENFORCED_WITHIN_S)
    assert stranger.reaches(pod), "half a policy would cut off what the other half allows"
    api_node.put_policy("p-2", [], ingress=[rule(stranger)], annotations=both, of="p")
    until(lambda: api_node.gauge("vpccni_policy_incomplete") == 0, "the whole", within_s=ENFORCED_WITHIN_S)
    enforced(api_node, 1)
    assert friend.reaches(pod)
    assert stranger.reaches(pod)
    third = api_node.pod()
    api_node.add(third)
    assert not third.reaches(pod)


@pytest.mark.spec("policy.T-137", "policy.W-21")
def test_rules_that_do_not_fit_are_refused_whole_and_what_was_in_force_stays(api_node: Node) -> None:
    pod, friend, stranger = pods_of(api_node, 3)
    api_node.put_policy("p", [pod], ingress=[rule(friend)])
    enforced(api_node, 1)
    several = {"networking.k8s.aws/endpoint-parts": "3"}
    networks = [{"cidr": f"{20 + (at >> 15)}.{at >> 7 & 255}.{(at & 127) << 1}.0/23"} for at in range(132_000)]
    for nth, name in enumerate(("p", "p-2", "p-3")):
        part = networks[nth::3]
        api_node.put_policy(name, [pod], ingress=[rule(stranger), *part], annotations=several, of="p")
    until(
        lambda: any("too large" in reason and "default/p" in reason for reason in api_node.status().reasons),
        "the refusal",
        within_s=30.0,
    )
    assert api_node.count("vpccni_policy_write_failures", code="rule_set_too_large") >= 1
    used = api_node.bpftool("map", "dump", "pinned", api_node._pinned("networks"))
    assert used == [], "nothing of it is written"
    assert friend.reaches(pod)
    assert not stranger.reaches(pod)
    api_node.put_policy("p", [pod], ingress=[rule(stranger)])
    for name in ("p-2", "p-3"):
        api_node.delete_policy(name)
    until(lambda: stranger.reaches(pod) and not friend.reaches(pod), "the smaller one", within_s=10.0)
    assert api_node.status().state == "serving"


def test_why_names_the_rule(api_node: Node) -> None:
    pod, friend = pods_of(api_node, 2)
    api_node.put_policy("p", [pod], ingress=[rule(friend, ports=[{"protocol": "TCP", "port": 80}])])
    enforced(api_node, 1)

    def why(address: str, port: int, direction: str = "ingress") -> tuple[bool, str]:
        ask = GetVerdict(
            namespace="default", name=pod.name, direction=direction, address=address, protocol=6, port=port
        )
        answer = api_node.call(ask)
        assert isinstance(answer, Verdicts)
        (story,) = answer.stories
        return story.allowed, story.because

    assert why(friend.address, 80) == (True, f"NetworkPolicy default/p: accept from {friend.address}/32, TCP 80")
    assert why(friend.address, 81) == (False, "the pod's ingress is isolated and no rule allows it")
    assert why(friend.address, 81, "egress") == (True, "no policy isolates the pod's egress")
    assert why(NODE_ADDRESS, 81) == (True, "it is an address of the node, which is never cut off")


@pytest.mark.spec("policy.W-35")
def test_what_was_changed_by_hand_is_put_right(api_node: Node) -> None:
    pod, friend = pods_of(api_node, 2)
    api_node.put_policy("p", [pod], ingress=[])
    enforced(api_node, 1)
    path = api_node.run("find", "/sys/fs/bpf", "-name", "pods").strip()
    (element,) = [
        one
        for one in api_node.bpftool("map", "dump", "pinned", path)
        if octets(one["key"])[:4] == pod.ifindex.to_bytes(4, "little")
    ]
    opened = ["0x00"] * 4 + element["value"][4:]
    api_node.run(
        "bpftool", "map", "update", "pinned", path, "key", *(str(int(one, 16)) for one in element["key"]),
        "value", *(str(int(one, 16)) for one in opened),
    )  # fmt: skip
    api_node.run("tc", "filter", "del", "dev", friend.host_veth, "egress")
    assert friend.reaches(pod), "open by hand"
    until(lambda: not friend.reaches(pod), "the repair", within_s=65.0)
    assert len(api_node.filters(friend, "egress")) == 1
    assert api_node.count("vpccni_policy_repairs", kind="element") == 1


@pytest.mark.spec("policy.T-079", "policy.T-087")
def test_pods_of_other_programs_are_judged_by_these_as_soon_as_their_rules_are_complete(node: Node) -> None:
    """As after an upgrade whose layout differs: the filters are there, what they belong to is not this agent's."""
    node.start_api()
    node.start_agent()
    pod, friend, stranger = pods_of(node, 3)
    for one in (pod, friend, stranger):
        node.make_pod_object(one)
    node.put_policy("p", [pod], ingress=[rule(friend)])
    enforced(node, 1)
    node.kill_agent()
    folder = node.run("find", "/sys/fs/bpf/vpccni", "-mindepth", "1", "-maxdepth", "1").strip()
    node.run("mv", folder, "/sys/fs/bpf/vpccni/oldlayout")
    before = node.filters(pod, "egress")[0]["options"]["prog"]["id"]
    assert not stranger.reaches(pod), "the old programs judge"
    node.start_agent()
    until(lambda: node.count("vpccni_policy_adopted") == 3, "the take-over", within_s=ENFORCED_WITHIN_S)
    assert node.filters(pod, "egress")[0]["options"]["prog"]["id"] != before
    assert not stranger.reaches(pod)
    assert friend.reaches(pod)
    until(lambda: "oldlayout" not in node.run("ls", "/sys/fs/bpf/vpccni"), "the end of old pins", within_s=5.0)


@pytest.mark.full
def test_the_time_from_an_event_to_110_pods_is_reported(
    api_node: Node, record_property: Callable[[str, object], None]
) -> None:
    """From the write to the API server to the last pod's switch, as a bus question sees it: both are in the figure."""
    pods = pods_of(api_node, 110)
    for number in range(100):
        api_node.put_policy(f"other-{number}", pods[number : number + 2], ingress=[rule(pods[0])])
    until(lambda: api_node.status().detail["policies"] == 100, "the policies", within_s=20.0)
    times = []
    for number in range(30):
        before = api_node.count("vpccni_policy_switches")
        began = time.perf_counter()
        api_node.put_policy("all", pods, ingress=[{"cidr": f"10.{number}.0.0/16"}])
        while api_node.count("vpccni_policy_switches") < before + 110:
            assert time.perf_counter() - began < ENFORCED_WITHIN_S
        times.append((time.perf_counter() - began) * 1000)
    assert api_node.agent is not None
    pss = sum(
        int(line.split()[1])
        for line in Path(f"/proc/{api_node.agent.pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )
    record_property("event_to_110_pods_p50_ms", round(statistics.median(times), 1))
    print(
        f"event to 110 pods: p50 {statistics.median(times):.1f} ms, worst {max(times):.1f} ms; agent {pss / 1024:.1f} MB PSS"
    )
    print(api_node.status().detail)


@pytest.mark.spec("policy.T-063", "policy.T-064", "policy.T-065")
def test_connections_from_before_the_first_policy_are_judged_by_who_began_them(api_node: Node) -> None:
    api_node.run("nft", "add", "table", "ip", "track")
    api_node.run("nft", "add chain ip track seen { type filter hook forward priority 0; }")
    api_node.run("nft", "add rule ip track seen ct state new counter")  # as kube-proxy's rules do on a node
    caller, called = pods_of(api_node, 2)
    serve = (
        "import socket, time\n"
        "peer, _ = socket.create_server(('', 8080)).accept()\n"
        "while True:\n"
        "    peer.sendall(b'x'); time.sleep(0.05)\n"
    )
    listen = (
        "import socket, time\n"
        f"peer = socket.create_connection(({called.address!r}, 8080), timeout=3)\n"
        "while peer.recv(1):\n"
        "    print(time.monotonic(), flush=True)\n"
    )
    with called.program(serve), caller.program(listen, wait_s=0.5) as stream:

        def goes_on() -> bool:
            """Whether what was sent a second from now, by the called alone, arrives."""
            assert stream.stdout is not None
            until_s = time.monotonic() + 1.0
            while line := stream.stdout.readline():
                if float(line) > until_s:
                    return True
            return False

        assert goes_on()
        api_node.put_policy("in", [caller], ingress=[])
        enforced(api_node, 1)
        assert goes_on(), "the caller began it, and may go on to"
        api_node.put_policy("out", [called], egress=[])
        enforced(api_node, 2)
        assert goes_on(), "the called was called"
        api_node.put_policy("in", [caller], ingress=[], egress=[])
        enforced(api_node, 3)
        assert not goes_on(), "the caller may not call any more"
