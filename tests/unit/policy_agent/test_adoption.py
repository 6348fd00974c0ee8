from __future__ import annotations

import pytest

from vpccni.components.policy_agent.adoption import hash_of, unattached
from vpccni.components.policy_agent.selection import PodFacts
from vpccni.shared.kube.objects import Key

WEB = Key("default", "web-0")


@pytest.mark.spec("policy.5.3")
def test_links_are_named_as_the_reference_names_them() -> None:
    assert hash_of(WEB) == "0d7763386da"
    assert hash_of(WEB, 1) == "b813f772d20"


def test_only_links_of_running_pods_without_an_entry_are_found() -> None:
    links = {"eni0d7763386da": 7, "enib813f772d20": 8, "eth0": 2, "eniffffffffff0": 9}
    pods = {WEB: PodFacts("u", {}, addresses=("10.0.3.7",)), Key("default", "gone"): PodFacts("v", {})}
    assert [found.ifindex for found in unattached(pods, links, ())] == [7, 8]
    assert [found.ifindex for found in unattached(pods, links, {7})] == [8]
    host = {WEB: PodFacts("u", {}, host_network=True, addresses=("10.0.1.20",))}
    assert list(unattached(host, links, ())) == []
