"""Which policies a change touches: resolving only these gives what resolving everything gives."""

from __future__ import annotations

import json
import time
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policies import Doc, key_of, pod_document, policy
from support.policy_worlds import NAMESPACES, labels, pods, policies

from vpccni.components.policy_controller.facts import PodWire, pod_of
from vpccni.components.policy_controller.knowledge import Knowledge
from vpccni.components.policy_controller.model import Held, Kind, Pod, PolicyId, Service, ServicePort, Slice
from vpccni.components.policy_controller.policies import held_of
from vpccni.components.policy_controller.policy_wires import PolicyWire
from vpccni.components.policy_controller.resolve import Resolution, resolve
from vpccni.shared.kube.objects import Key

BACKENDS = ("10.0.0.1", "10.0.0.2", "10.0.7.7")


def projected(document: Doc) -> Pod | None:
    return pod_of(msgspec.json.decode(json.dumps(document), type=PodWire))


class Followed:
    """Knowledge, and what every policy came to when a change last touched it."""

    def __init__(self) -> None:
        self.knowledge = Knowledge()
        self.results: dict[PolicyId, Resolution] = {}
        self._pods: dict[Key, Pod | None] = {}
        self._namespaces: dict[str, dict[str, str]] = {}
        self._slices: dict[Key, Slice] = {}

    def pod(self, document: Doc, *, is_there: bool = True) -> set[PolicyId]:
        key, after = key_of(document), projected(document) if is_there else None
        touched = self.knowledge.put_pod(key, self._pods.get(key), after)
        self._pods[key] = after
        return self._again(touched)

    def namespace(self, name: str, labels: dict[str, str] | None) -> set[PolicyId]:
        before = self._namespaces.pop(name, None)
        if labels is not None:
            self._namespaces[name] = labels
        return self._again(self.knowledge.put_namespace(name, before, labels))

    def service(self, number: int, *, port: int, is_there: bool) -> set[PolicyId]:
        key = Key("n", f"s{number}")
        value = Service("n", key.name, (ip_address(f"172.20.0.{number}"),), (ServicePort("", "TCP", port),))
        return self._again(self.knowledge.put_service(key, value if is_there else None))

    def slice(self, number: int, backends: list[str], port: int) -> set[PolicyId]:
        key = Key("n", f"slice{number}")
        ready = frozenset(map(ip_address, backends))
        after = Slice("n", f"s{number % 2}", (ServicePort("", "TCP", port),), ready, frozenset()) if backends else None
        before = self._slices.pop(key, None)
        if after is not None:
            self._slices[key] = after
        return self._again(self.knowledge.put_slice(key, before, after))

    def policy(self, kind: Kind, document: Doc, *, is_there: bool = True) -> None:
        held = held_of(kind, msgspec.json.decode(json.dumps(document), type=PolicyWire))
        if self.knowledge.put_policy(held.policy.id, held if is_there else None) and is_there:
            self._again({held.policy.id})
        if not is_there:
            self.results.pop(held.policy.id, None)

    def _again(self, touched: set[PolicyId]) -> set[PolicyId]:
        for policy_id in touched:
            self.results[policy_id] = self.knowledge.resolve(policy_id)
        return touched

    def from_scratch(self) -> dict[PolicyId, Resolution]:
        return {key: resolve(held.policy, self.knowledge.cluster) for key, held in self.knowledge.policies.items()}


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    kind = draw(st.sampled_from(("pod", "pod", "namespace", "service", "slice", "policy")))
    is_there = draw(st.integers(0, 4)) > 0
    if kind == "pod":
        document = draw(pods(draw(st.integers(1, 3))))
        return kind, (document,), {"is_there": is_there}
    if kind == "namespace":
        return kind, (draw(st.sampled_from(NAMESPACES)), draw(labels) if is_there else None), {}
    if kind == "service":
        return kind, (draw(st.integers(0, 1)),), {"port": draw(st.sampled_from((80, 8080))), "is_there": is_there}
    if kind == "slice":
        backends = draw(st.lists(st.sampled_from(BACKENDS), unique=True, max_size=2))
        return kind, (draw(st.integers(0, 2)), backends, draw(st.sampled_from((80, 8080)))), {}
    of = draw(st.sampled_from(tuple(Kind)))
    return kind, (of, draw(policies(of, draw(st.sampled_from(("p", "q")))))), {"is_there": is_there}


@settings(max_examples=150, deadline=None)
@given(st.lists(changes(), max_size=25))
def test_resolving_what_is_touched_is_resolving_everything(
    steps: list[tuple[str, tuple[Any, ...], dict[str, Any]]],
) -> None:
    followed = Followed()
    for name, arguments, more in steps:
        getattr(followed, name)(*arguments, **more)
        assert followed.results == followed.from_scratch(), name


ALLOW = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}  # fmt: skip


def followed_with(spec: Any, **more: Any) -> Followed:
    followed = Followed()
    followed.namespace("n", {})
    document = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}
    followed.policy(Kind.NETWORK, document, **more)
    return followed


@pytest.mark.parametrize(
    ("before", "after", "is_touched"),
    [
        ({"app": "web"}, None, True),
        ({"app": "other"}, None, False),
        ({"app": "web"}, {"app": "web", "more": "x"}, False),
        ({"app": "web"}, {"app": "other"}, True),
        ({"app": "other"}, {"app": "client"}, True),
        ({"app": "other"}, {"app": "another"}, False),
    ],
)
def test_a_pod_touches_the_policies_that_select_it(
    before: dict[str, str], after: dict[str, str] | None, is_touched: bool
) -> None:
    followed = followed_with(ALLOW)
    followed.pod(pod_document("a", "10.0.0.1", labels=before))
    changed = pod_document("a", "10.0.0.1", labels=after or {})
    assert bool(followed.pod(changed, is_there=after is not None)) == is_touched


def test_an_address_a_node_and_a_port_of_a_selected_pod_matter() -> None:
    followed = followed_with(ALLOW)
    followed.pod(pod_document("a", "10.0.0.1", labels={"app": "web"}))
    for changed in (
        pod_document("a", "10.0.0.2", labels={"app": "web"}),
        pod_document("a", "10.0.0.2", labels={"app": "web"}, node="10.0.9.2"),
        pod_document("a", "10.0.0.2", labels={"app": "web"}, node="10.0.9.2", ports=[("http", "TCP", 80)]),
    ):
        assert followed.pod(changed)


def test_a_policy_written_with_the_same_meaning_is_no_change() -> None:
    knowledge = Knowledge()
    meant = policy(Kind.NETWORK, ALLOW)
    assert knowledge.put_policy(meant.id, Held(meant, "1", is_deleting=False))
    assert not knowledge.put_policy(meant.id, Held(meant, "2", is_deleting=False, finalizers=("x",)))
    assert knowledge.put_policy(meant.id, Held(meant, "3", is_deleting=True))


@pytest.mark.spec("policy.W-26")
def test_one_pod_among_thousands_touches_only_its_policies_and_fast() -> None:
    followed = Followed()
    for number in range(100):
        followed.namespace(f"ns-{number}", {"team": f"t{number % 50}"})
    for number in range(50):
        spec = {
            "tier": "Admin",
            "priority": number,
            "subject": {"namespaces": {"matchLabels": {"team": f"t{number}"}}},
            "ingress": [{"action": "Deny", "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": f"a{number}"}}}}]}],
        }  # fmt: skip
        followed.policy(Kind.CLUSTER, {"metadata": {"name": f"c{number}", "uid": f"u{number}"}, "spec": spec})
    for number in range(5000):
        key = Key(f"ns-{number % 100}", f"pod-{number}")
        document = pod_document(
            key.name, f"10.1.{number // 250}.{number % 250}", namespace=key.namespace, labels={"app": f"a{number % 60}"}
        )
        followed.knowledge.put_pod(key, None, projected(document))
    took = []
    for number in range(3):
        new = pod_document(f"new-{number}", f"10.2.0.{number}", namespace="ns-7", labels={"app": "a9"})
        begun = time.thread_time()
        assert {policy_id.name for policy_id in followed.pod(new)} == {"c7", "c9"}
        took.append(time.thread_time() - begun)
    assert min(took) < 0.05, f"{min(took) * 1000:.1f} ms of CPU"


def test_a_service_touches_only_the_policies_to_whose_egress_it_makes_a_difference() -> None:
    followed = followed_with({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]})
    narrow = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/30"}}]}]}
    followed.policy(Kind.NETWORK, {"metadata": {"name": "narrow", "namespace": "n", "uid": "u2"}, "spec": narrow})
    followed.service(0, port=80, is_there=True)
    assert followed.slice(0, ["10.0.7.7"], 8080) == set()
    assert {one.name for one in followed.slice(0, ["10.0.0.1"], 8080)} == {"narrow"}
    assert followed.slice(0, ["10.0.0.1", "10.0.0.2"], 8080) == set()
    assert {one.name for one in followed.slice(0, ["10.0.0.1", "10.0.7.7"], 8080)} == {"narrow"}
