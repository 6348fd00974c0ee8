"""The helper's chart under a real Helm: every value does what it says."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from charts.kube_schema import faults
from charts.objects import Object, Refused, Render, env, one

pytestmark = pytest.mark.full


@pytest.fixture
def helper(render: Render) -> Render:
    return partial(render, chart="cni-metrics-helper")


def item(objects: list[Object]) -> Object:
    (found,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_the_image_is_made_of_its_parts_or_overridden(helper: Render) -> None:
    parts = {"account": 1, "region": "r", "domain": "d", "tag": "t"}
    assert item(helper({"image": parts}))["image"] == "1.dkr.ecr.r.d/cni-metrics-helper:t"
    assert item(helper({"image": {"override": "mine"}}))["image"] == "mine"


@pytest.mark.parametrize(("value", "is_open"), [("true", True), (True, True), ("false", False), ("yes", False)])
def test_the_port_is_named_where_prometheus_is_on(helper: Render, value: Any, is_open: bool) -> None:
    objects = helper({"env": {"USE_PROMETHEUS": value}})
    assert ("ports" in item(objects)) == is_open
    if is_open:
        assert item(objects)["ports"] == [{"name": "metrics", "containerPort": 61681}]


def test_the_deployments_fields_are_the_values(helper: Render) -> None:
    values: dict[str, Any] = {
        "fullnameOverride": "f",
        "replicas": 2,
        "revisionHistoryLimit": 3,
        "updateStrategy": {"type": "Recreate"},
        "resources": {"limits": {"memory": "64Mi"}},
        "podSecurityContext": {"fsGroup": 1},
        "containerSecurityContext": {"readOnlyRootFilesystem": True},
        "podAnnotations": {"a/b": 1},
        "nodeSelector": {"pool": "a"},
        "tolerations": [{"operator": "Exists"}],
        "imagePullSecrets": [{"name": "pull"}],
        "affinity": {"nodeAffinity": {}},
        "env": {"METRIC_UPDATE_INTERVAL": 60},
    }
    objects = helper(values, namespace="net")
    deployment = one(objects, "Deployment")
    spec, pod = deployment["spec"], deployment["spec"]["template"]["spec"]
    assert [fault for found in objects for fault in faults(found)] == []
    assert (deployment["metadata"]["name"], deployment["metadata"]["namespace"]) == ("f", "net")
    assert (spec["replicas"], spec["revisionHistoryLimit"], spec["strategy"]) == (2, 3, {"type": "Recreate"})
    assert spec["template"]["metadata"]["annotations"] == {"a/b": "1"}
    assert (pod["securityContext"], pod["nodeSelector"]) == ({"fsGroup": 1}, {"pool": "a"})
    assert (pod["tolerations"], pod["imagePullSecrets"]) == (values["tolerations"], values["imagePullSecrets"])
    assert pod["affinity"] == values["affinity"]
    assert item(objects)["resources"] == values["resources"]
    assert item(objects)["securityContext"] == values["containerSecurityContext"]
    assert env(item(objects))["METRIC_UPDATE_INTERVAL"] == "60"


def test_the_service_account_is_made_or_named(helper: Render) -> None:
    made = helper({"serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:x"}}})
    assert one(made, "ServiceAccount")["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:x"}
    named = helper({"serviceAccount": {"create": False, "name": "theirs"}})
    assert "ServiceAccount" not in {found["kind"] for found in named}
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        assert one(named, kind)["subjects"][0]["name"] == "theirs"


@pytest.mark.parametrize("values", [{"replicas": -1}, {"env": {"X": {}}}, {"serviceAccount": {"create": "yes"}}])
def test_what_cannot_be_meant_is_refused(helper: Render, values: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="values don't meet the specifications of the schema"):
        helper(values)
