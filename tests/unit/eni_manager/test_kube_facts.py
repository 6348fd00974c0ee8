"""Objects of the API into facts, and the rule that chooses an ENIConfig."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from vpccni.components.eni_manager.kube_facts import (
    EniConfig,
    EniConfigKeys,
    EniConfigWire,
    Node,
    NodeWire,
    PodWire,
    eni_config_from,
    eni_config_name,
    eni_config_of,
    node_of,
    pod_of,
)
from vpccni.shared.kube import Wire

KEY = "k8s.amazonaws.com/eniConfig"
EXTERNAL = "vpc.amazonaws.com/externalEniConfig"


def decoded(kind: type[Any], document: dict[str, Any]) -> Any:
    wire: Wire = msgspec.json.decode(json.dumps(document), type=kind)
    return wire


def node(labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> Node:
    return Node("n", "u", labels or {}, annotations or {}, unschedulable=False, max_pods=0)


@pytest.mark.parametrize(
    ("labels", "annotations", "name"),
    [
        ({}, {}, "default"),
        ({KEY: "label"}, {}, "label"),
        ({KEY: "label"}, {KEY: "annotation"}, "annotation"),
        ({KEY: "label", EXTERNAL: "external"}, {KEY: "annotation"}, "external"),
        ({"own/label": "other"}, {}, "default"),
    ],
)
def test_external_label_then_annotation_then_label_then_default(
    labels: dict[str, str], annotations: dict[str, str], name: str
) -> None:
    assert eni_config_name(node(labels, annotations), EniConfigKeys()) == name


def test_the_operator_names_annotation_and_label_and_empty_means_the_default() -> None:
    keys = EniConfigKeys.of({"ENI_CONFIG_ANNOTATION_DEF": "own/a", "ENI_CONFIG_LABEL_DEF": "own/l"})
    assert eni_config_name(node({"own/l": "label", KEY: "no"}, {KEY: "no"}), keys) == "label"
    assert eni_config_name(node({"own/l": "label"}, {"own/a": "annotation"}), keys) == "annotation"
    assert EniConfigKeys.of({"ENI_CONFIG_ANNOTATION_DEF": "", "ENI_CONFIG_LABEL_DEF": ""}) == EniConfigKeys()


def test_a_node_that_cannot_be_read_gets_the_default() -> None:
    config = EniConfig("default", "subnet-1", ("sg-1",))
    assert eni_config_of(None, {"default": config}, EniConfigKeys()) == config


def test_a_missing_or_incomplete_eni_config_is_a_sentence() -> None:
    configs = {"a": EniConfig("a", "subnet-1"), "empty": EniConfig("empty", "")}
    missing = eni_config_of(node({KEY: "b"}), configs, EniConfigKeys())
    assert isinstance(missing, str)
    assert "'b'" in missing
    assert "a, empty" in missing
    incomplete = eni_config_of(node({KEY: "empty"}), configs, EniConfigKeys())
    assert isinstance(incomplete, str)
    assert "spec.subnet" in incomplete


def test_an_eni_config_has_a_subnet_and_perhaps_groups() -> None:
    wire = decoded(EniConfigWire, {"metadata": {"name": "a"}, "spec": {"subnet": "s", "securityGroups": ["g"], "x": 1}})
    assert eni_config_from(wire) == EniConfig("a", "s", ("g",))
    assert eni_config_from(decoded(EniConfigWire, {"metadata": {"name": "a"}})) == EniConfig("a", "", ())


@pytest.mark.parametrize(("text", "pods"), [("29", 29), ("1k", 0), ("", 0), ("-3", 0), ("2.5", 0)])
def test_capacity_that_is_no_number_is_not_known(text: str, pods: int) -> None:
    wire = decoded(NodeWire, {"metadata": {"name": "n"}, "status": {"capacity": {"pods": text}}})
    assert node_of(wire).max_pods == pods


@pytest.mark.parametrize(
    ("taint", "cordoned"),
    [
        ({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, True),
        ({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule", "value": "x"}, True),
        ({"key": "node.kubernetes.io/unschedulable", "effect": "NoExecute"}, False),
        ({"key": "other", "effect": "NoSchedule"}, False),
    ],
)
def test_cordoned_is_the_taint_with_its_effect(taint: dict[str, str], cordoned: bool) -> None:
    wire = decoded(NodeWire, {"metadata": {"name": "n"}, "spec": {"taints": [taint]}})
    assert node_of(wire).unschedulable is cordoned


def test_a_pod_that_has_ended_has_no_address_any_more() -> None:
    meta = {"name": "p", "namespace": "d", "uid": "u"}
    running = pod_of(decoded(PodWire, {"metadata": meta, "status": {"phase": "Running", "podIP": "10.0.0.9"}}))
    ended = pod_of(decoded(PodWire, {"metadata": meta, "status": {"phase": "Succeeded", "podIP": "10.0.0.9"}}))
    assert (running.address, running.terminating) == ("10.0.0.9", False)
    assert (ended.address, ended.terminating) == ("", True)
