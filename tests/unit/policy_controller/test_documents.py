"""Endpoint objects, conditions and events as the API has them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from support.policies import policy

from vpccni.components.policy_controller.chunks import Wanted
from vpccni.components.policy_controller.crds import DEFINITIONS
from vpccni.components.policy_controller.documents import (
    CHANGED_AT,
    PARTS,
    EndpointWire,
    conditions_of,
    event_of,
    head_of,
    new_object,
    object_patch,
    stored_of,
)
from vpccni.components.policy_controller.model import Entry, Held, Kind, Port, Problem, Rows, Stored, Target
from vpccni.lab.kube import events

AT, NOW = "2026-08-21T09:14:03.123456789Z", "2026-08-21T09:14:03Z"
SPECS: dict[Kind, Any] = {
    Kind.NETWORK: {"podSelector": {"matchLabels": {"a": "x"}}},
    Kind.APPLICATION: {"podSelector": {}},
    Kind.CLUSTER: {"tier": "Admin", "priority": 7, "subject": {"namespaces": {"matchLabels": {"a": "x"}}}},
}
ports = st.builds(Port, st.sampled_from(("TCP", "UDP")), st.integers(0, 99), st.sampled_from((0, 100)))
entries = st.builds(
    Entry,
    st.sampled_from(("10.0.0.1", "10.0.0.0/8")),
    st.sampled_from(((), ("10.1.0.0/16",))),
    st.frozensets(ports, max_size=2).map(lambda some: tuple(sorted(some))),
)
rows = st.builds(Rows, st.frozensets(entries, max_size=3), st.frozensets(entries, max_size=3), st.frozensets(st.builds(Target, st.just("n"), st.sampled_from(("a", "b")), st.just("10.0.0.1"), st.just("")), max_size=2))  # fmt: skip


def as_stored(document: Any) -> Stored:
    meta = {**document["metadata"], "name": "p-abcde", "resourceVersion": "5"}
    stored = stored_of(msgspec.json.decode(json.dumps({**document, "metadata": meta}), type=EndpointWire))
    assert stored is not None
    return stored


@given(st.sampled_from(tuple(Kind)), rows)
def test_what_is_written_is_read_back_as_the_same(kind: Kind, rows: Rows) -> None:
    owner = policy(kind, SPECS[kind])
    wanted = Wanted(head_of(owner, owner.id.name), rows)
    stored = as_stored(new_object(owner, wanted, changed_at=AT))
    assert (stored.head, stored.rows, stored.owner_uid) == (wanted.head, rows, owner.uid)


def test_every_member_written_is_one_of_the_definition() -> None:
    row = Entry("10.0.0.0/8", ("10.1.0.0/16",), (Port("TCP", 80, 90),), action="Deny")
    for kind, name in ((Kind.NETWORK, "policyendpoints"), (Kind.CLUSTER, "clusterpolicyendpoints")):
        owner = policy(kind, SPECS[kind])
        one = Entry(row.cidr, row.excepts if kind is Kind.NETWORK else (), row.ports, action=row.action if kind is Kind.CLUSTER else "")  # fmt: skip
        full = Rows(frozenset({one}), frozenset({one}), frozenset({Target("n", "a", "10.0.0.1", "10.0.9.1")}))
        document: Any = new_object(owner, Wanted(head_of(owner, owner.id.name), full), changed_at=AT)
        versions = DEFINITIONS[f"{name}.networking.k8s.aws"]["spec"]["versions"]
        fits(document["spec"], versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec")


def fits(value: Any, schema: Any, at: str) -> None:
    """Check members and required members against a schema."""
    if schema.get("type") == "array":
        for one in value:
            fits(one, schema["items"], at)
    elif "properties" in schema:
        assert set(value) <= set(schema["properties"]), at
        assert set(schema.get("required", ())) <= set(value), at
        for key, member in value.items():
            fits(member, schema["properties"][key], f"{at}.{key}")
    elif "enum" in schema:
        assert value in schema["enum"], at


def test_a_patch_keeps_annotations_of_others_and_needs_the_version_we_know() -> None:
    owner = policy(Kind.NETWORK, SPECS[Kind.NETWORK])
    document: Any = new_object(owner, Wanted(head_of(owner, owner.id.name), Rows()), changed_at=AT)
    document["metadata"]["annotations"] |= {"of": "others", PARTS: "3"}
    version, annotations, _ = object_patch(owner, as_stored(document), Wanted(head_of(owner, owner.id.name), Rows()), changed_at="later")  # fmt: skip
    assert version["value"] == "5"
    assert annotations["value"] == {"of": "others", CHANGED_AT: "later"}


def test_only_objects_under_the_policys_own_name_tell_its_selector() -> None:
    owner = policy(Kind.NETWORK, SPECS[Kind.NETWORK])
    for reference, is_told in (("p", True), ("p.0123abcd", False)):
        document: Any = new_object(owner, Wanted(head_of(owner, reference), Rows()), changed_at=AT)
        assert ("podSelector" in document["spec"]) == is_told
        assert as_stored(document).head == head_of(owner, reference)


def test_objects_of_no_policy_are_not_ours() -> None:
    wire = msgspec.json.decode(b'{"metadata": {"name": "x"}, "spec": {"policyRef": {"name": "p"}}}', type=EndpointWire)
    assert stored_of(wire) is None


def held(conditions: list[Any]) -> Held:
    return Held(policy(Kind.CLUSTER, SPECS[Kind.CLUSTER], generation=3), "1", is_deleting=False, conditions=tuple(conditions))  # fmt: skip


def test_conditions_say_what_is_wrong_and_are_the_same_when_nothing_changed() -> None:
    wrong = [Problem("Invalid", "spec.x: bad"), Problem("UnresolvedPort", "no such port")]
    first = conditions_of(held([]), wrong, now=NOW)
    assert {one["type"]: (one["status"], one["reason"], one["observedGeneration"]) for one in first} == {
        "Accepted": ("False", "Invalid", 3),
        "Resolved": ("False", "UnresolvedPort", 3),
    }
    assert conditions_of(held(first), wrong, now="later") == first
    better = conditions_of(held(first), wrong[:1], now="later")
    assert [one["lastTransitionTime"] for one in better] == [NOW, "later"]


def test_conditions_of_others_stay() -> None:
    foreign = {"type": "Programmed", "status": "True"}
    assert foreign in conditions_of(held([foreign]), [], now=NOW)


def test_an_event_is_one_the_api_takes_and_has_the_same_name_when_it_says_the_same() -> None:
    for kind in Kind:
        owner = policy(kind, SPECS[kind], name="n" * 253)
        event: Any = event_of(owner, Problem("Invalid", "x" * 3000), reporter="host_1", now="2026-08-21T09:14:03.000001Z")  # fmt: skip
        events.check_new(event, event["metadata"]["namespace"])
        assert len(event["metadata"]["name"]) <= 253
        again = event_of(owner, Problem("Invalid", "x" * 3000), reporter="host_2", now="2026-08-21T10:14:03.000001Z")
        other = event_of(owner, Problem("Invalid", "y"), reporter="host_1", now="2026-08-21T09:14:03.000001Z")
        names = [one["metadata"]["name"] for one in (event, again, other)]  # type: ignore[index]
        assert names[0] == names[1] != names[2]
