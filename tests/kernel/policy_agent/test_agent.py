"""The agent on a real kernel: real packets, judged by ping, tc and bpftool, never by our own reader."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import pytest

from vpccni.shared.errors import PeerRefused
from vpccni.shared.messages.common import ArmKillPoint, Done, EffectsRecorded, RecordEffects
from vpccni.shared.messages.policy import Attached

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernel.policy_agent.conftest import Node


@pytest.mark.spec("policy.5.5")
def test_attach_puts_both_programs_at_the_references_slot(node: Node) -> None:
    node.start_agent()
    pod = node.pod()
    node.add(pod)
    for hook, name in (("egress", "handle_ingress"), ("ingress", "handle_egress")):
        (shown,) = node.filters(pod, hook)
        assert (shown["protocol"], shown["pref"], shown["kind"]) == ("all", 1, "bpf")
        assert shown["options"]["handle"] == "0x1"
        assert shown["options"]["direct-action"] is True
        assert node.bpftool("prog", "show", "id", str(shown["options"]["prog"]["id"]))["name"] == name


def test_packets_pass_and_are_counted_for_their_pod_alone(node: Node) -> None:
    node.start_agent()
    first, second = node.pod(), node.pod()
    for pod in (first, second):
        node.add(pod)
    quiet = node.kernel_count(second)
    before = node.kernel_count(first)
    assert first.ping(20)
    towards, outward = node.kernel_count(first)
    assert towards - before[0] >= 20
    assert outward - before[1] >= 20
    assert node.kernel_count(second)[0] - quiet[0] < 20, "the other pod counts none of these packets"


@pytest.mark.spec("policy.T-075", "policy.T-076")
def test_strict_isolates_a_pod_without_policy_from_its_first_packet_but_not_from_its_node(node: Node) -> None:
    node.start_agent("strict")
    pod, other = node.pod(), node.pod()
    node.add(pod, "strict")
    other.up()
    assert not other.reaches(pod)
    assert pod.ping(2), "the kubelet's probes come from the node"
    node.call(pod.detach())
    assert other.reaches(pod), "the way is there"


@pytest.mark.spec("policy.T-084")
def test_a_mode_that_is_none_is_refused_and_nothing_attached(node: Node) -> None:
    node.start_agent()
    pod = node.pod()
    with pytest.raises(PeerRefused, match="no such mode"):
        node.call(pod.attach("loose"))
    assert node.filters(pod, "egress") == []


def test_attach_again_leaves_the_filters_alone(node: Node) -> None:
    node.start_agent()
    pod = node.pod()
    node.add(pod)
    assert pod.ping(3)
    before, counted = node.filters(pod, "egress"), node.kernel_count(pod)
    assert isinstance(node.call(pod.attach()), Attached)
    assert node.filters(pod, "egress") == before
    assert node.count("vpccni_policy_attaches", filters="kept") == 1
    assert node.kernel_count(pod)[0] >= counted[0], "its counters go on"


def test_detach_forgets_the_interface_and_is_a_success_twice(node: Node) -> None:
    node.start_agent()
    pod = node.pod()
    node.add(pod)
    assert isinstance(node.call(pod.detach()), Done)
    assert node.kernel_count(pod) == (0, 0)
    assert isinstance(node.call(pod.detach()), Done)


def test_a_late_detach_of_another_sandbox_changes_nothing(node: Node) -> None:
    node.start_agent()
    pod, other = node.pod(), node.pod()
    node.add(pod)
    node.call(type(pod.detach())(sandbox=other.sandbox, ifindexes=[pod.ifindex]))
    assert node.count("vpccni_policy_foreign_detaches") == 1
    before = node.kernel_count(pod)
    assert pod.ping(3)
    assert node.kernel_count(pod)[0] >= before[0] + 3, "its counters are still there"


def test_attach_to_a_link_that_is_not_there_says_so(node: Node) -> None:
    node.start_agent()
    pod = node.pod()
    node.run("ip", "link", "del", pod.host_veth)
    with pytest.raises(PeerRefused, match="no link"):
        node.call(pod.attach())


def test_a_killed_agent_takes_over_its_programs_and_counters_go_on(node: Node) -> None:
    node.start_agent()
    pod = node.pod()
    node.add(pod)
    assert pod.ping(5)
    filters, counted = node.filters(pod, "ingress"), node.kernel_count(pod)
    node.kill_agent()
    assert pod.ping(5), "packets pass while the agent is away"
    started = time.monotonic()
    node.start_agent()
    print(f"kill to serving after {time.monotonic() - started:.3f} s")
    assert node.filters(pod, "ingress") == filters, "the very programs that were there"
    assert pod.ping(5)
    assert node.kernel_count(pod)[0] >= counted[0] + 10


def test_a_restart_mends_filters_and_forgets_links_that_went(node: Node) -> None:
    node.start_agent()
    pod, gone = node.pod(), node.pod()
    for one in (pod, gone):
        node.add(one)
    node.kill_agent()
    node.run("tc", "filter", "del", "dev", pod.host_veth, "egress")
    node.run("ip", "link", "del", gone.host_veth)
    node.start_agent()
    assert len(node.filters(pod, "egress")) == 1
    assert node.count("vpccni_policy_repairs", kind="filter") == 1
    assert node.count("vpccni_policy_repairs", kind="entry") == 1
    assert node.kernel_count(gone) == (0, 0)


def test_an_attach_that_comes_while_the_agent_is_away_is_answered_after_its_start(node: Node) -> None:
    pod = node.pod()
    node.spawn_agent()
    assert isinstance(node.call(pod.attach()), Attached)


def test_the_state_is_published_with_counters(node: Node) -> None:
    node.start_agent()
    pod = node.pod()
    node.add(pod)
    assert pod.ping(5)
    deadline = time.monotonic() + 10
    while (state := node.policy_state()) is None or not state.attached or state.attached[0].egress_packets < 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (state.attached[0].host_veth, state.attached[0].ifindex) == (pod.host_veth, pod.ifindex)


def test_policy_off_idles_and_refuses_attach_with_the_variables_name(node: Node) -> None:
    node.start_agent("none")
    assert node.status().detail == {"policy": "off"}
    with pytest.raises(PeerRefused, match="NETWORK_POLICY_ENFORCING_MODE"):
        node.call(node.pod().attach())


def test_death_before_and_after_every_effect_loses_no_packet_and_no_attach(node: Node) -> None:
    node.start_agent()
    pod = node.pod()
    pod.up()
    node.call(RecordEffects(on=True))
    node.call(pod.attach())
    node.call(pod.detach())
    recorded = node.call(RecordEffects(on=False))
    assert isinstance(recorded, EffectsRecorded)
    points = [(name, 1 + recorded.effects[:at].count(name)) for at, name in enumerate(recorded.effects)]
    assert {name for name, _ in points} == {"bpf.update", "tc.put", "bpf.delete"}
    for name, nth in points:
        for before in (True, False):
            node.run("tc", "qdisc", "del", "dev", pod.host_veth, "clsact")  # as on a new link: both filters must be put
            node.call(ArmKillPoint(effect=name, nth=nth, before=before))
            deaths = node.ask_through_deaths(pod.attach(), pod) + node.ask_through_deaths(pod.detach(), pod)
            assert deaths == 1, f"{name} {nth} was not passed"
            assert node.kernel_count(pod) == (0, 0), "the DEL was carried out"


def test_the_time_of_an_attach_is_reported(node: Node, record_property: Callable[[str, object], None]) -> None:
    node.start_agent()
    times = []
    for _ in range(30):
        pod = node.pod()
        started = time.perf_counter()
        assert isinstance(node.call(pod.attach()), Attached)
        times.append((time.perf_counter() - started) * 1000)
    p50, worst = statistics.median(times), max(times)
    record_property("attach_p50_ms", round(p50, 2))
    print(f"attach, request to answer: p50 {p50:.2f} ms, worst {worst:.2f} ms")
