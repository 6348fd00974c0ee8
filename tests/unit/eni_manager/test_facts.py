"""Tags of a new ENI."""

from __future__ import annotations

from vpccni.components.eni_manager.facts import eni_tags


def test_the_operators_tags_may_replace_the_owner_and_nothing_else() -> None:
    tags = eni_tags(
        "i-1", "c", {"eks:eni:owner": "me", "node.k8s.amazonaws.com/instance_id": "i-2", "team": "a"}, "now"
    )
    assert tags["eks:eni:owner"] == "me"
    assert tags["node.k8s.amazonaws.com/instance_id"] == "i-1"
    assert tags["team"] == "a"


def test_without_a_cluster_there_is_no_cluster_tag() -> None:
    assert set(eni_tags("i-1", "", {}, "now")) == {
        "node.k8s.amazonaws.com/createdAt", "node.k8s.amazonaws.com/instance_id",
    }  # fmt: skip
