"""The programs judge what the policies say: test runs in the kernel against the direct evaluation, then what a flow is."""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.frames import (
    ACK,
    FIN,
    MORE_FRAGMENTS,
    RST,
    SYN,
    echo,
    fragment_header,
    frame,
    icmp_error,
    ip_packet,
    layer4,
)
from tests.support.programs import POD4, POD6, Programs
from tests.support.rule_sets import packets, policy_sets

from vpccni.components.policy_agent import layout, libbpf
from vpccni.components.policy_agent.compiler import compile_rule_set
from vpccni.components.policy_agent.evaluate import Packet, evaluate
from vpccni.components.policy_agent.objects import ObjectSource, compiled_programs
from vpccni.components.policy_agent.policy import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Direction,
    Policy,
    PolicyKey,
    Ports,
    Prefix,
    Rule,
    Tier,
    prefix,
)

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
A4, B4 = "10.1.1.1", "10.1.1.2"
A6 = "2001:db8:1::7"


@pytest.fixture(scope="module")
def loaded(compiled: Path) -> Iterator[Programs]:
    one = Programs(compiled_programs(ObjectSource(Path("/nowhere"), compiled)))
    yield one
    one.close()


@pytest.fixture
def pod(loaded: Programs) -> Programs:
    loaded.forget_flows()
    loaded.select([])
    return loaded


def policy(*, ingress: tuple[Rule, ...] | None = None, egress: tuple[Rule, ...] | None = None) -> Policy:
    isolates = frozenset(way for way, rules in ((INGRESS, ingress), (EGRESS, egress)) if rules is not None)
    return Policy(PolicyKey("NetworkPolicy", "n", "p"), Tier.NETWORK_POLICY, (ingress or (), egress or ()), isolates)


def allow(peer: str, *ports: Ports) -> Rule:
    return Rule(prefix(peer), (), ports)


def text(address: Prefix) -> str:
    return str(address).split("/")[0]


@given(policy_sets(), st.lists(packets, min_size=1, max_size=12), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_programs_say_what_the_policies_say(
    pod: Programs, policies: list[Policy], sent: list[Packet], strict: bool
) -> None:
    pod.select(policies, strict=strict)
    for packet in sent:
        pod.forget_flows()
        allowed = evaluate(policies, _as_sent(packet), strict=strict).decision.allowed
        assert pod.sends(text(packet.peer), packet.protocol, packet.port, direction=packet.direction) == allowed, packet


def _as_sent(packet: Packet) -> Packet:
    """Protocols without ports are judged as port 0."""
    return packet if packet.protocol in (6, 17, 132) else Packet(packet.direction, packet.peer, packet.protocol, 0)


def test_a_pod_without_policy_is_open_and_has_no_flows(pod: Programs) -> None:
    for peer, protocol in ((A4, TCP), (A4, ICMP), (A6, UDP), (A6, ICMPV6)):
        assert pod.sends(peer, protocol, 80)
        assert pod.sends(peer, protocol, 80, direction=EGRESS)
    assert pod.flows() == 0


@pytest.mark.spec("policy.T-059", "policy.T-060", "policy.T-061", "policy.T-062")
@pytest.mark.parametrize(("peer", "protocol"), [(A4, TCP), (A4, UDP), (A6, TCP), (A6, UDP)])
def test_answers_pass_whatever_the_other_direction_says(pod: Programs, peer: str, protocol: int) -> None:
    pod.select([policy(ingress=())])
    assert pod.sends(peer, protocol, 80, direction=EGRESS)
    assert pod.sends(peer, protocol, 80, direction=EGRESS, answer=True, flags=SYN | ACK)
    assert not pod.sends(peer, protocol, 81)
    assert not pod.sends(peer, protocol, 40000, source_port=80, flags=SYN) or protocol == UDP, (
        "a new connection, reversed"
    )
    pod.select([policy(ingress=(allow(peer),), egress=())])
    assert pod.sends(peer, protocol, 8080)
    assert pod.sends(peer, protocol, 8080, answer=True, flags=SYN | ACK)
    assert not pod.sends(peer, protocol, 8081, direction=EGRESS)


@pytest.mark.spec("policy.W-9")
@pytest.mark.parametrize("peer", [A4, A6])
def test_a_revoked_connection_ends_and_its_other_side_does_not_revive_it(pod: Programs, peer: str) -> None:
    pod.select([policy(egress=(allow(peer),))])
    assert pod.sends(peer, TCP, 80, direction=EGRESS)
    assert pod.sends(peer, TCP, 80, direction=EGRESS, answer=True, flags=SYN | ACK)
    pod.select([policy(egress=(allow("192.0.2.1"),))])
    assert not pod.sends(peer, TCP, 80, direction=EGRESS, answer=True, flags=ACK), (
        "ingress is open, this connection is not"
    )
    assert not pod.sends(peer, TCP, 80, direction=EGRESS, flags=ACK)
    assert not pod.sends(peer, TCP, 80, direction=EGRESS, answer=True, flags=ACK)
    pod.select([policy(egress=(allow(peer),))])
    assert pod.sends(peer, TCP, 80, direction=EGRESS, answer=True, flags=ACK), "allowed again, it goes on"


@pytest.mark.spec("policy.T-067")
def test_a_wider_policy_leaves_connections_alone(pod: Programs) -> None:
    pod.select([policy(ingress=(allow(A4),))])
    assert pod.sends(A4, TCP, 80)
    pod.select([policy(ingress=(allow(A4), allow(B4)))])
    assert pod.sends(A4, TCP, 80, answer=True, flags=ACK)
    assert pod.sends(A4, TCP, 80, flags=ACK)
    assert pod.sends(B4, TCP, 80)


@pytest.mark.spec("policy.T-070")
def test_ports_that_are_used_again_begin_a_new_connection(pod: Programs) -> None:
    pod.select([policy(ingress=(allow(A4, Ports(TCP, 80, 80)),))])
    for _ in range(5):
        assert pod.sends(A4, TCP, 80)
        assert pod.sends(A4, TCP, 80, answer=True, flags=SYN | ACK)
        assert pod.sends(A4, TCP, 80, flags=FIN | ACK)
        assert pod.sends(A4, TCP, 80, answer=True, flags=FIN | ACK)
        assert pod.sends(A4, TCP, 80, flags=RST)
    assert pod.flows() == 1


@pytest.mark.spec("policy.T-051", "policy.T-053")
def test_echo_is_judged_by_rules_without_ports_and_its_reply_belongs_to_its_identifier(pod: Programs) -> None:
    pod.select([policy(ingress=(allow(A4), allow(B4, Ports(TCP, 80, 80))), egress=())])
    assert pod.sends(A4, ICMP, 0, source_port=7)
    assert pod.passes(frame(ip_packet(POD4, A4, ICMP, echo(ICMP, 7, reply=True))), EGRESS)
    assert not pod.passes(frame(ip_packet(POD4, A4, ICMP, echo(ICMP, 8, reply=True))), EGRESS)
    assert not pod.sends(B4, ICMP, 0)
    assert pod.passes(frame(bytes(28), ethertype=0x0806), INGRESS), "ARP"


@pytest.mark.spec("policy.T-054", "policy.W-8")
@pytest.mark.parametrize(("peer", "pod_address", "router"), [(A4, POD4, "10.250.0.1"), (A6, POD6, "2001:db8:ff::1")])
def test_an_icmp_error_passes_as_the_flow_it_quotes(pod: Programs, peer: str, pod_address: str, router: str) -> None:
    pod.select([policy(ingress=(), egress=(allow(peer, Ports(TCP, 443, 443)),))])
    sent = ip_packet(pod_address, peer, TCP, layer4(TCP, 40000, 443))
    error = frame(icmp_error(router, pod_address, sent))
    assert not pod.passes(error, INGRESS), "it quotes what was never sent"
    assert pod.passes(frame(sent), EGRESS)
    assert pod.passes(error, INGRESS)
    other = ip_packet(pod_address, peer, TCP, layer4(TCP, 40001, 443))
    assert not pod.passes(frame(icmp_error(router, pod_address, other)), INGRESS)


@pytest.mark.spec("policy.T-052")
@pytest.mark.parametrize("kind", [130, 131, 132, 133, 134, 135, 136, 137, 143])
def test_neighbour_and_listener_discovery_always_pass_and_echo_does_not(pod: Programs, kind: int) -> None:
    pod.select([policy(ingress=(), egress=())])
    for direction, (source, destination) in ((INGRESS, (A6, POD6)), (EGRESS, (POD6, A6))):
        assert pod.passes(frame(ip_packet(source, destination, ICMPV6, bytes([kind]) + bytes(23))), direction)
        assert not pod.passes(frame(ip_packet(source, destination, ICMPV6, echo(ICMPV6, 1))), direction)


@pytest.mark.spec("policy.T-055")
def test_later_fragments_go_the_way_of_the_first(pod: Programs) -> None:
    pod.select([policy(ingress=(allow(A4, Ports(UDP, 5000, 5000)), allow(A6, Ports(UDP, 5000, 5000))))])
    for port, passes in ((5000, True), (5001, False)):
        head = layer4(UDP, 40000, port) + bytes(24)
        first = ip_packet(A4, POD4, UDP, head, offset=MORE_FRAGMENTS, identification=port)
        later = ip_packet(A4, POD4, UDP, bytes(32), offset=4, identification=port)
        assert [pod.passes(frame(one), INGRESS) for one in (first, later)] == [passes, passes]
        v6 = [
            ip_packet(A6, POD6, UDP, body, first_header=44, extensions=fragment_header(UDP, at, more=not at, identification=port))
            for at, body in ((0, head), (4, bytes(32)))
        ]  # fmt: skip
        assert [pod.passes(frame(one), INGRESS) for one in v6] == [passes, passes]
    stray = ip_packet(A4, POD4, UDP, bytes(32), offset=4, identification=99)
    assert not pod.passes(frame(stray), INGRESS)


@pytest.mark.spec("policy.T-056")
def test_extension_headers_hide_no_port(pod: Programs) -> None:
    pod.select([policy(ingress=(allow(A6, Ports(TCP, 80, 80)),))])
    options = bytes([UDP, 0]) + bytes(6)
    hidden = ip_packet(A6, POD6, UDP, layer4(UDP, 40000, 53), first_header=0, extensions=options)
    assert not pod.passes(frame(hidden), INGRESS)
    for count, passes in ((1, True), (6, True), (7, False)):
        chain = b"".join(bytes([60 if at < count - 1 else TCP, 0]) + bytes(6) for at in range(count))
        shown = ip_packet(A6, POD6, TCP, layer4(TCP, 40000 + count, 80), first_header=60, extensions=chain)
        assert pod.passes(frame(shown), INGRESS) == passes, count


@pytest.mark.spec("policy.T-057")
def test_ipv4_options_are_skipped(pod: Programs) -> None:
    pod.select([policy(ingress=(allow(A4, Ports(TCP, 80, 80)),))])
    for port, passes in ((80, True), (81, False)):
        packet = ip_packet(A4, POD4, TCP, layer4(TCP, 40000, port), options=struct.pack(">I", 0x01010101))
        assert pod.passes(frame(packet), INGRESS) == passes


@pytest.mark.spec("policy.T-058", "policy.W-7")
def test_what_cannot_be_read_passes_an_open_direction_alone(pod: Programs) -> None:
    whole = ip_packet(A4, POD4, TCP, layer4(TCP, 40000, 80))
    v6 = ip_packet(A6, POD6, TCP, layer4(TCP, 40000, 80))
    unreadable = [
        frame(whole[:22]),
        frame(bytes([0x44]) + whole[1:]),
        frame(bytes([0x65]) + whole[1:], ethertype=0x0800),
        frame(v6[:50]),
        frame(ip_packet("::ffff:10.1.1.1", POD6, TCP, layer4(TCP, 40000, 80))),
        frame(ip_packet(A6, POD6, UDP, b"", first_header=0, extensions=bytes([UDP, 200, 0, 0, 0, 0, 0, 0]))),
        frame(bytes(60), ethertype=0x88CC),
    ]
    pod.select([policy(ingress=(allow("0.0.0.0/0"),))])
    assert [pod.passes(one, INGRESS) for one in unreadable] == [False] * len(unreadable)
    assert [pod.passes(one, EGRESS) for one in unreadable] == [True] * len(unreadable)


@given(st.binary(max_size=120), st.sampled_from([0x0800, 0x86DD, 0x0806, 0x8100]), st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_junk_gets_into_a_closed_pod(pod: Programs, junk: bytes, ethertype: int, data: st.DataObject) -> None:
    pod.select([policy(ingress=(), egress=())])
    start = data.draw(
        st.sampled_from([b"", b"\x45", b"\x60", ip_packet(A4, POD4, TCP, b""), ip_packet(A6, POD6, ICMPV6, b"")])
    )
    raw = frame(
        (start + junk).ljust(40, b"\0"), ethertype=ethertype
    )  # the kernel takes no shorter frame for a test run
    free = ethertype == 0x0806 or _is_discovery(raw)
    assert [pod.passes(raw, way) for way in Direction] == [free, free]


def _is_discovery(raw: bytes) -> bool:
    """Neighbour or listener discovery directly behind the header, or behind extensions the junk happened to spell."""
    packet = raw[14:]
    if raw[12:14] != b"\x86\xdd" or len(packet) < 48 or packet[0] >> 4 != 6:
        return False
    at, kind = 40, packet[6]
    while kind in (0, 43, 60, 51) and at + 2 <= len(packet):
        kind, at = packet[at], at + ((packet[at + 1] + 2) * 4 if kind == 51 else (packet[at + 1] + 1) * 8)
    mapped = any(ipaddress.IPv6Address(packet[one : one + 16]).ipv4_mapped for one in (8, 24))
    return kind == ICMPV6 and not mapped and len(packet) >= at + 8 and (130 <= packet[at] <= 137 or packet[at] == 143)


@pytest.mark.spec(
    "policy.T-093", "policy.T-094", "policy.T-095", "policy.T-103", "policy.T-114", "policy.W-19", "policy.W-33"
)
def test_the_nodes_addresses_are_exempt_both_ways_and_no_others(pod: Programs) -> None:
    pod.exempt("10.250.0.9")
    pod.exempt("2001:db8:fa::9")
    pod.select([], strict=True)
    for node in ("10.250.0.9", "2001:db8:fa::9"):
        assert pod.sends(node, TCP, 8080)
        assert pod.sends(node, TCP, 10250, direction=EGRESS)
    assert not pod.sends("10.250.0.10", TCP, 8080)
    assert pod.flows() == 0


@pytest.mark.spec("policy.T-068")
def test_a_long_quiet_connection_is_still_answered(pod: Programs) -> None:
    pod.select([policy(ingress=(), egress=(allow(A4, Ports(TCP, 80, 80)),))])
    assert pod.sends(A4, TCP, 80, direction=EGRESS)
    assert pod.sends(A4, TCP, 80, direction=EGRESS, answer=True, flags=SYN | ACK)
    pod.age_flows(3600.0)
    assert pod.sends(A4, TCP, 80, direction=EGRESS, answer=True, flags=ACK)


@pytest.mark.spec("policy.T-102")
def test_a_node_local_resolver_needs_a_rule_of_its_own(pod: Programs) -> None:
    resolvers = ("169.254.20.10", "169.254.169.254", "169.254.170.23")
    dns = (Ports(UDP, 53, 53), Ports(TCP, 53, 53))
    pod.select([policy(egress=(allow("10.96.0.10", *dns),))])
    assert pod.sends("10.96.0.10", UDP, 53, direction=EGRESS)
    assert not any(pod.sends(one, UDP, 53, direction=EGRESS) for one in resolvers)
    pod.select([policy(egress=(allow("10.96.0.10", *dns), allow("169.254.0.0/16", *dns)))])
    assert all(pod.sends(one, UDP, 53, direction=EGRESS) for one in resolvers)


@pytest.mark.spec("policy.T-139", "policy.W-29")
def test_a_ring_that_nobody_reads_changes_no_verdict(pod: Programs) -> None:
    pod.select([policy(ingress=(allow(A4),))])
    pod.write(layout.OPTIONS, layout.NUMBER.pack(layout.OPTION_FLAGS), layout.NUMBER.pack(layout.OPTION_EVENTS))
    until_s = time.monotonic() + 2.0  # 500 in 100 ms and CPU: the ring is full long before
    while time.monotonic() < until_s:
        assert not pod.sends(B4, UDP, 9)
    lost = libbpf.lookup(
        pod.maps[layout.EVENT_LIMITS.name],
        layout.NUMBER.pack(0),
        layout.EVENT_LIMIT.size * libbpf.possible_cpus(),
    )
    assert lost is not None
    assert sum(count for _, _, count in layout.EVENT_LIMIT.iter_unpack(lost)) > 0
    assert pod.sends(A4, UDP, 9)
    pod.write(layout.OPTIONS, layout.NUMBER.pack(layout.OPTION_FLAGS), layout.NUMBER.pack(0))


@pytest.mark.spec("policy.T-069")
def test_a_quiet_flow_is_no_more(pod: Programs) -> None:
    pod.select([policy(ingress=())])
    assert pod.sends(A4, UDP, 53, direction=EGRESS)
    pod.age_flows(layout.TIMEOUT_UDP_NEW_S - 5)
    assert pod.sends(A4, UDP, 53, direction=EGRESS, answer=True)
    pod.age_flows(layout.TIMEOUT_UDP_NEW_S + 5)
    assert pod.sends(A4, UDP, 53, direction=EGRESS, answer=True), "answered flows live longer"
    pod.age_flows(layout.TIMEOUT_UDP_S + 5)
    assert not pod.sends(A4, UDP, 53, direction=EGRESS, answer=True)


@pytest.mark.spec("policy.T-072", "policy.W-24")
def test_beyond_its_share_a_pods_flows_are_spare_and_still_answered(pod: Programs) -> None:
    pod.select([policy(ingress=())])
    pod.claim_flows(layout.FLOWS_A_POD)
    before = pod.flows()
    assert pod.sends(A4, TCP, 80, direction=EGRESS, source_port=50000)
    assert pod.sends(A4, TCP, 80, direction=EGRESS, source_port=50000, answer=True, flags=SYN | ACK)
    assert pod.flows() == before
    pod.claim_flows(0)


def test_drops_are_counted_for_their_direction(pod: Programs) -> None:
    pod.select([policy(ingress=())])
    before = pod.count(INGRESS)
    for _ in range(3):
        pod.sends(A4, TCP, 80)
    after = pod.count(INGRESS)
    assert after.dropped_packets - before.dropped_packets == 3
    assert after.dropped_bytes - before.dropped_bytes == 3 * (14 + 40)
    assert after.packets - before.packets == 3


def test_rules_count_the_flows_they_decide(pod: Programs) -> None:
    pod.select([policy(ingress=(allow(A4, Ports(TCP, 80, 80)), allow(B4, Ports(TCP, 81, 81))))])
    for port in range(5):
        pod.sends(A4, TCP, 80, source_port=1000 + port)
    assert sorted(pod.rule_maps.hits().values()) == [0, 5]


def test_what_was_taken_away_or_added_by_hand_is_mended(pod: Programs) -> None:
    policies = [policy(ingress=(allow(A4, Ports(TCP, 80, 80)), allow("10.2.0.0/16")))]
    pod.select(policies)
    rule_set = compile_rule_set(policies, strict=False)
    assert pod.rule_maps.mend({pod.number: rule_set}).wrong == 0
    for name in ("hosts", "networks", "classes", "ports"):
        one = pod.maps[name]
        libbpf.delete(one, libbpf.keys(one)[0])
    libbpf.update(pod.maps["rule_sets"], layout.rule_set_key(pod.number), bytes(layout.RULE_SET.size))
    foreign = layout.HOST_KEY.pack(rule_set.sides[0].addresses.name, layout.address(prefix(B4).value))
    libbpf.update(pod.maps["hosts"], foreign, bytes(4))
    mended = pod.rule_maps.mend({pod.number: rule_set})
    assert (mended.wrong, mended.surplus) == (5, 1)
    assert pod.sends(A4, TCP, 80)
    assert not pod.sends(B4, TCP, 80)
