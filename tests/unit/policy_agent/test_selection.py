from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.policy_agent.endpoints import Endpoint, ListedPod, Subject
from vpccni.components.policy_agent.policy import Direction, Policy, PolicyKey, Rule, Tier, prefix
from vpccni.components.policy_agent.selection import (
    NOTHING,
    PARTS_WITHIN_S,
    PROVISIONAL_S,
    Behind,
    Gathered,
    PodFacts,
    gathered,
    selecting,
)
from vpccni.components.policy_agent.selectors import Requirement, Selector, selects
from vpccni.shared.kube.objects import Key
from vpccni.shared.messages.base import PodRef

POD = Behind(PodRef("shop", "web-0"), ("10.0.3.7",), False, 100.0)
WEB = PodFacts("u", {"app": "web"})


def part(
    name: str, *, pods: tuple[ListedPod, ...] = (), subject: Subject | None = None, kind: str = "NetworkPolicy"
) -> Endpoint:
    namespace = "" if kind == "ClusterNetworkPolicy" else "shop"
    return Endpoint(
        PolicyKey(kind, namespace, name), Tier.NETWORK_POLICY, ((), ()), frozenset(), frozenset(pods), subject
    )


def names(
    parts: list[Endpoint], *, facts: PodFacts | None = WEB, now: float = 101.0, labels: dict[str, str] | None = None
) -> list[str]:
    objects = gathered({Key("shop", str(at)): one for at, one in enumerate(parts)}, NOTHING, now=now)
    return [one.key.name for one in selecting(objects.policies.values(), POD, facts, {"shop": labels or {}}, now=now)]


def test_a_listed_pod_is_selected_by_name_and_address_in_any_of_the_policys_objects() -> None:
    listed = ListedPod("shop", "web-0", "10.0.3.7")
    assert names([part("p"), part("p", pods=(listed,))], facts=None) == ["p"]
    assert names([part("p", pods=(ListedPod("shop", "web-0", "10.0.3.8"),))], facts=None) == []


@pytest.mark.spec("policy.T-081")
def test_a_new_pod_is_selected_by_its_labels_for_a_minute() -> None:
    by_label = part("p", subject=Subject(Selector({"app": "web"})))
    assert names([by_label]) == ["p"]
    assert names([by_label], now=100.0 + PROVISIONAL_S) == []
    assert names([part("p", subject=Subject(Selector({"app": "db"})))]) == []
    assert names([by_label], facts=PodFacts("u", {"app": "web"}, host_network=True)) == []


def test_of_policies_made_of_one_only_the_one_that_lists_a_new_pod_counts_and_before_none_opens_anything() -> None:
    """Pods that give a port's name different numbers are listed by different ones (decision 0009)."""
    everything = Rule(prefix("0.0.0.0/0"))
    by_label = Subject(Selector({"app": "web"}))
    groups = [
        replace(
            part(name, subject=by_label), owner="u1", rules=((everything,), ()), isolates=frozenset({Direction.INGRESS})
        )
        for name in ("p", "p.5316ca1c")
    ]

    def chosen(parts: list[Endpoint]) -> list[Policy]:
        objects = gathered({Key("shop", str(at)): one for at, one in enumerate(parts)}, NOTHING, now=101.0)
        return selecting(objects.policies.values(), POD, WEB, {}, now=101.0)

    before = chosen(groups)
    assert [(policy.isolates, policy.rules) for policy in before] == [(frozenset({Direction.INGRESS}), ((), ()))] * 2
    listed = replace(groups[1], pods=frozenset({ListedPod("shop", "web-0", "10.0.3.7")}))
    assert [policy.key.name for policy in chosen([groups[0], listed])] == ["p.5316ca1c"]
    assert [policy.key.name for policy in chosen(groups[:1])] == ["p"], "alone it is the pod's"


@pytest.mark.spec("policy.T-119")
def test_a_cluster_policy_selects_by_the_namespaces_labels() -> None:
    one = part("c", subject=Subject(Selector(), Selector({"team": "a"})), kind="ClusterNetworkPolicy")
    assert names([one], labels={"team": "a"}) == ["c"]
    assert names([one], labels={"team": "b"}) == []


def test_policies_that_did_not_change_stay_the_same_objects() -> None:
    endpoints = {Key("shop", "a"): part("a"), Key("shop", "b"): part("b")}
    before = gathered(endpoints, NOTHING, now=0.0)
    endpoints[Key("shop", "b")] = part("b", pods=(ListedPod("shop", "x", "1"),))
    after = gathered(endpoints, before, now=0.0)
    a, b = (PolicyKey("NetworkPolicy", "shop", name) for name in "ab")
    assert after.policies[a] is before.policies[a]
    assert after.policies[b] is not before.policies[b]


@pytest.mark.spec("policy.W-10")
def test_a_policy_is_applied_when_all_its_objects_are_there() -> None:
    def seen(*told: int) -> dict[Key, Endpoint]:
        return {Key("shop", str(at)): replace(part("p"), parts=number) for at, number in enumerate(told)}

    def parts(one: Gathered) -> int:
        return len(one.policies[name].parts) if name in one.policies else 0

    name = PolicyKey("NetworkPolicy", "shop", "p")
    alone = gathered(seen(0), NOTHING, now=0.0)
    assert parts(alone) == 1
    growing = gathered(seen(0, 3), alone, now=1.0)
    growing = gathered(seen(0, 3, 3), growing, now=2.0)
    assert parts(growing) == 1, "the first object still tells of no others: it was not changed yet"
    whole = gathered(seen(3, 3, 3), growing, now=3.0)
    assert (parts(whole), whole.waiting) == (3, {})
    shrinking = gathered(seen(0, 3, 3), whole, now=4.0)
    assert parts(shrinking) == 3
    assert parts(gathered(seen(0), shrinking, now=5.0)) == 1

    new = gathered(seen(2), NOTHING, now=0.0)
    assert parts(new) == 0
    assert parts(gathered(seen(2), new, now=PARTS_WITHIN_S - 1)) == 0
    assert parts(gathered(seen(2), new, now=PARTS_WITHIN_S)) == 1, "nobody waits for ever"
    assert parts(gathered(seen(2), NOTHING, now=0.0, first=True)) == 1, "it is in force from before a restart"
    assert parts(gathered(seen(0, 0), NOTHING, now=0.0)) == 2, "another controller tells no number"


@given(
    st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")),
    st.sampled_from("ab"),
    st.frozensets(st.sampled_from("xy")),
)
def test_operators_come_in_opposites(labels: dict[str, str], key: str, values: frozenset[str]) -> None:
    def holds(operator: str) -> bool:
        return selects(Selector({}, (Requirement(key, operator, tuple(values)),)), labels)

    assert holds("In") != holds("NotIn")
    assert holds("Exists") != holds("DoesNotExist")
    assert holds("In") == (labels.get(key) in values)
    assert not holds("Like")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("pqr"), st.booleans()), max_size=20))
@pytest.mark.spec("policy.W-14")
def test_after_any_changes_the_policies_are_those_of_a_fresh_look(changes: list[tuple[str, str, bool]]) -> None:
    endpoints: dict[Key, Endpoint] = {}
    seen = NOTHING
    for name, policy, is_there in changes:
        if is_there:
            endpoints[Key("shop", name)] = part(policy, pods=(ListedPod("shop", name, "1"),))
        else:
            endpoints.pop(Key("shop", name), None)
        seen = gathered(endpoints, seen, now=0.0)
    assert seen == gathered(endpoints, NOTHING, now=0.0)
