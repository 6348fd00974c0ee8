"""The resolver against a direct evaluation of policies, over random policies, pods, namespaces, services and packets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.policies import Doc, World, actions_at, cluster_of, policy_from, put_service
from support.policy_worlds import NUMBERS, OUTSIDE, PROTOCOLS, policies, worlds

from vpccni.components.policy_controller.model import Kind
from vpccni.components.policy_controller.resolve import Resolution, resolve

DIRECTIONS = ("Ingress", "Egress")
kinds_and_policies = st.sampled_from(tuple(Kind)).flatmap(lambda kind: st.tuples(st.just(kind), policies(kind)))


def addresses(world: World) -> list[str]:
    return sorted({pod["status"]["podIP"] for pod in world.pods} | set(OUTSIDE))


def packets(world: World) -> list[tuple[str, str, int]]:
    return [(ip, protocol, port) for ip in addresses(world) for protocol in PROTOCOLS for port in (*NUMBERS, 81, 9001)]


def group_of(resolution: Resolution, pod: Doc) -> int:
    name = (pod["metadata"]["namespace"], pod["metadata"]["name"])
    found = [
        number
        for number, group in enumerate(resolution.groups)
        if name in {(target.namespace, target.name) for target in group.targets}
    ]
    assert len(found) == 1, f"{name} is in the groups {found}"
    return found[0]


@settings(max_examples=120, deadline=None)
@given(worlds(), kinds_and_policies)
def test_endpoints_say_of_every_packet_what_kubernetes_says(world: World, drawn: tuple[Kind, Doc]) -> None:
    kind, document = drawn
    resolution = resolve(policy_from(kind, document), cluster_of(world.pods, world.namespaces))
    subjects = world.subjects(kind, document)
    assert sum(len(group.targets) for group in resolution.groups) == len(subjects)
    for pod in subjects:
        group = resolution.groups[group_of(resolution, pod)]
        for ip, protocol, port in packets(world):
            for direction, entries in zip(DIRECTIONS, (group.ingress, resolution.egress), strict=True):
                wanted = world.actions(kind, document, pod, direction, ip, protocol, port)
                assert actions_at(entries, ip, protocol, port) == wanted, (direction, ip, protocol, port)


@settings(max_examples=120, deadline=None)
@given(worlds(), policies(Kind.NETWORK), st.data())
def test_a_virtual_address_is_open_exactly_where_every_backend_is(
    world: World, document: Doc, data: st.DataObject
) -> None:
    cluster = cluster_of(world.pods, world.namespaces)
    services = []
    for number in range(1, 4):
        backends = data.draw(st.lists(st.sampled_from(addresses(world)), unique=True, max_size=3))
        port, target = data.draw(st.sampled_from(NUMBERS)), data.draw(st.sampled_from(NUMBERS))
        put_service(cluster, f"s{number}", f"172.20.0.{number}", port, backends, target)
        services.append((f"172.20.0.{number}", port, backends, target))
    resolution = resolve(policy_from(Kind.NETWORK, document), cluster)
    pod: Doc = {"metadata": document["metadata"]}
    for vip, port, backends, target in services:
        reached = [world.actions(Kind.NETWORK, document, pod, "Egress", ip, "TCP", target) for ip in backends]
        if backends:
            assert bool(actions_at(resolution.egress, vip, "TCP", port)) == all(reached), (vip, port, backends, target)


@settings(max_examples=40, deadline=None)
@given(worlds(), policies(Kind.NETWORK), st.data())
def test_services_change_nothing_for_other_addresses(world: World, document: Doc, data: st.DataObject) -> None:
    cluster = cluster_of(world.pods, world.namespaces)
    plain = resolve(policy_from(Kind.NETWORK, document), cluster).egress
    backends = data.draw(st.lists(st.sampled_from(addresses(world)), unique=True, max_size=3))
    put_service(cluster, "s", "172.20.0.1", 80, backends, 8080)
    with_service = resolve(policy_from(Kind.NETWORK, document), cluster).egress
    for packet in packets(world):
        assert actions_at(with_service, *packet) == actions_at(plain, *packet)
