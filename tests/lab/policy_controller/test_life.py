"""Switch, leadership, definitions, and death at every write."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from support.policy_lab import Api, Controller, until

from vpccni.components.policy_controller.crds import DEFINITIONS
from vpccni.shared.kube.election import LEASE_S, RETRY_S

TAKE_OVER_WITHIN_S = LEASE_S + 2 * RETRY_S + 3
BLOCKS = {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": f"10.{n}.0.0/16"}} for n in range(5)]}]}
WANTED = {f"10.{n}.0.0/16" for n in range(5)}


@pytest.mark.spec("policy.T-132")
def test_only_the_leader_writes_and_the_other_takes_over_when_it_is_killed(
    api: Api, replicas: list[Controller]
) -> None:
    api.switch()
    first, second = replicas
    first.start()
    until(first.is_at_work, first.log)
    second.start()
    until(second.is_ready, second.log)
    api.put("NetworkPolicy", "one", {"spec": BLOCKS})
    until(lambda: api.cidrs("one") == WANTED, first.log)
    assert not second.is_at_work()
    assert second.metric("vpccni_policy_endpoint_writes") == 0
    before, killed_at = api.versions(), time.monotonic()
    first.kill()
    api.put("NetworkPolicy", "two", {"spec": BLOCKS})
    until(lambda: api.cidrs("two") == WANTED, second.log, within_s=TAKE_OVER_WITHIN_S)
    assert time.monotonic() - killed_at >= LEASE_S - RETRY_S - 1, "it took over while the lease was still good"
    assert {key: version for key, version in api.versions().items() if not key[2].startswith("two")} == before


def test_a_leader_that_is_told_to_end_hands_over_at_once(api: Api, replicas: list[Controller]) -> None:
    api.switch()
    first, second = replicas
    first.start()
    until(first.is_at_work, first.log)
    second.start()
    until(second.is_ready, second.log)
    assert first.stop() == 0
    until(second.is_at_work, second.log, within_s=RETRY_S + 2)


def test_a_leader_whose_lease_is_taken_ends_without_another_write(api: Api, controller: Controller) -> None:
    api.switch()
    controller.start()
    until(controller.is_at_work, controller.log)
    lease = api.all("Lease")[0]["metadata"]["name"]
    api.change("Lease", lease, {"spec": {"holderIdentity": "somebody else"}}, namespace="kube-system")
    assert controller.wait() == 1
    assert "leadership lost" in controller.log()


def test_a_leader_that_cannot_renew_ends(api: Api, controller: Controller) -> None:
    api.switch()
    controller.start()
    until(controller.is_at_work, controller.log)
    api.refuse(503, "/apis/coordination.k8s.io")
    assert controller.wait() == 1


@pytest.mark.spec("policy.T-130")
@pytest.mark.parametrize("value", ["false", "True", None])
def test_switched_off_it_does_nothing_until_the_switch_changes(api: Api, controller: Controller, value: str | None) -> None:  # fmt: skip
    if value is not None:
        api.switch(value)
    controller.start()
    until(controller.is_ready, controller.log)
    assert {one["metadata"]["name"] for one in api.all("CustomResourceDefinition")} == set(DEFINITIONS)
    api.put("NetworkPolicy", "one", {"spec": BLOCKS})
    assert api.lease() == ""
    if value is None:
        api.switch("true")
    else:
        api.change("ConfigMap", "amazon-vpc-cni", {"data": {"enable-network-policy-controller": "true"}}, namespace="kube-system")  # fmt: skip
    assert controller.wait() == 0
    assert not api.endpoints("one")
    controller.start()
    until(lambda: api.cidrs("one") == WANTED, controller.log)
    api.change("ConfigMap", "amazon-vpc-cni", {"data": {"enable-network-policy-controller": "no"}}, namespace="kube-system")  # fmt: skip
    assert controller.wait() == 0
    assert api.cidrs("one") == WANTED


@pytest.mark.spec("policy.T-131")
def test_a_definition_that_is_deleted_is_made_again_by_the_next_start(api: Api, controller: Controller) -> None:
    api.switch()
    controller.start()
    until(controller.is_at_work, controller.log)
    name = "policyendpoints.networking.k8s.aws"
    api.delete("CustomResourceDefinition", name)
    assert controller.wait() == 1
    controller.start()
    until(controller.is_ready, controller.log)
    assert api.get("CustomResourceDefinition", name)


def test_a_definition_that_exists_is_left_as_it_is(api: Api, controller: Controller) -> None:
    name = "policyendpoints.networking.k8s.aws"
    old = json.loads(json.dumps(DEFINITIONS[name]))
    old["metadata"]["labels"] = {"made": "long ago"}
    old["spec"]["versions"][0]["schema"] = {}
    before = api.put("CustomResourceDefinition", name, old)
    api.switch()
    controller.start()
    until(controller.is_at_work, controller.log)
    assert api.get("CustomResourceDefinition", name) == before


def test_with_the_check_and_the_election_off_it_works_at_once(api: Api, controller: Controller) -> None:
    controller.flags = ["--enable-configmap-check=false", "--enable-leader-election=false"]
    controller.start()
    api.put("NetworkPolicy", "one", {"spec": BLOCKS})
    until(lambda: api.cidrs("one") == WANTED, controller.log)
    assert api.lease() == ""


EFFECTS = ("kube.post", "kube.patch", "kube.delete")
QUICK = {
    ("kube.post", 2, "before"),
    ("kube.post", 1, "after"),
    ("kube.patch", 2, "after"),
    ("kube.delete", 2, "before"),
}
STEPS = [
    pytest.param(*step, marks=() if step in QUICK else pytest.mark.full)
    for step in itertools.product(EFFECTS, (1, 2, 3), ("before", "after"))
]


@pytest.mark.parametrize(("effect", "nth", "side"), STEPS)
def test_killed_at_any_write_of_an_update_the_next_start_finishes_it(
    api: Api, controller: Controller, effect: str, nth: int, side: str
) -> None:
    """An update that creates, patches and deletes objects and tells a problem; each of its writes is the last of a process once."""
    controller.flags = ["--enable-configmap-check=false", "--enable-leader-election=false", "--endpoint-chunk-size=2"]
    api.put("NetworkPolicy", "one", {"spec": BLOCKS})
    api.put("NetworkPolicy", "going", {"spec": BLOCKS})
    controller.start()
    until(lambda: api.cidrs("one") == WANTED == api.cidrs("going"), controller.log)
    controller.stop()
    api.delete("NetworkPolicy", "going")
    api.change("NetworkPolicy", "one", {"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.4.0.0/16"}}]}]}})
    api.put("NetworkPolicy", "new", {"spec": {**BLOCKS, "policyTypes": ["Ingress", "Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "http"}]}]}})  # fmt: skip
    controller.env = {"VPCCNI_KILL_POINTS": "1", "VPCCNI_KILL_POINT": f"{effect} {nth} {side}"}
    controller.start()
    assert controller.wait() == -9
    controller.env = {}
    controller.start()
    until(lambda: api.cidrs("one") == {"10.4.0.0/16"} and api.cidrs("new") == WANTED and not api.endpoints("going"), controller.log)  # fmt: skip
    until(lambda: {one["metadata"]["name"] for one in api.all("NetworkPolicy")} == {"one", "new"}, controller.log)
    rows = sorted(row["cidr"] for row in api.rows("new", "ingress"))
    assert rows == sorted(WANTED), "a row is there twice"
    assert len(api.endpoints("new")) == 3
