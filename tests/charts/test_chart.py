"""The chart under a real Helm: every value does what it says, and what cannot be meant is refused."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from charts.kube_schema import faults
from charts.objects import ROOT, Object, Refused, Render, container, env, mounts, one

pytestmark = pytest.mark.full

ALL_ON: dict[str, Any] = {
    "cniConfig": {"enabled": True, "fileContents": '{"cniVersion": "0.4.0"}'},
    "eniConfig": {"create": True, "subnets": {"us-west-2a": {"id": "subnet-0a", "securityGroups": ["sg-0a"]}}},
    "podMonitor": {"create": True},
    "prometheusRule": {"create": True},
    "dashboard": {"create": True},
    "logLevels": {"ip_allocator": "debug", "policy_agent": "warn"},
    "extraEnv": [{"name": "AWS_REGION", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "podAnnotations": {"a/b": True},
    "podLabels": {"team": "net"},
    "imagePullSecrets": [{"name": "pull"}],
    "nodeSelector": {"pool": "a"},
}


def pod(objects: list[Object]) -> Object:
    spec: Object = one(objects, "DaemonSet")["spec"]["template"]["spec"]
    return spec


@pytest.mark.spec("operations.17.27")
def test_the_kept_manifests_are_what_the_chart_renders(helm: Path) -> None:
    command = [sys.executable, ROOT / "charts" / "render.py", helm, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shape", ["swap", "split"])
def test_with_everything_on_all_objects_fit_the_kubernetes_schema(render: Render, shape: str) -> None:
    objects = render({**ALL_ON, "shape": shape})
    assert [fault for item in objects for fault in faults(item)] == []
    assert {item["kind"] for item in objects} >= {"ENIConfig", "PodMonitor", "PrometheusRule"}


def test_helm_finds_nothing_to_say(helm: Path) -> None:
    command = [helm, "lint", "--strict", ROOT / "charts" / "aws-vpc-cni"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


# -- images


@pytest.mark.parametrize(
    ("key", "of", "name"),
    [
        ("image", "aws-node", "amazon-k8s-cni"),
        ("init", "aws-vpc-cni-init", "amazon-k8s-cni-init"),
        ("nodeAgent", "aws-eks-nodeagent", "amazon/aws-network-policy-agent"),
    ],
)
def test_an_image_is_made_of_its_parts_or_overridden(render: Render, key: str, of: str, name: str) -> None:
    def image(parts: dict[str, Any]) -> Object:
        return container(render({key: parts if key == "image" else {"image": parts}}), of)

    parts = {"account": "1", "endpoint": "e", "region": "r", "domain": "d", "tag": "t", "pullPolicy": "Always"}
    assert image(parts)["image"] == f"1.dkr.e.r.d/{name}:t"
    assert image(parts)["imagePullPolicy"] == "Always"
    assert image({"overrideRepository": "mine/cni", "tag": "t"})["image"] == "mine/cni:t"
    assert image({"overrideRepository": "mine/cni", "override": "other@sha256:0"})["image"] == "other@sha256:0"


def test_images_of_the_split_shape_come_from_one_place_unless_overridden(render: Render) -> None:
    place = {"account": "1", "region": "r", "tag": "t"}
    objects = render({"shape": "split", "image": place, "split": {"ipAllocator": {"image": {"override": "mine"}}}})
    assert container(objects, "aws-node")["image"] == "1.dkr.ecr.r.amazonaws.com/vpccni-netlink-programmer:t"
    assert container(objects, "eni-manager")["image"] == "1.dkr.ecr.r.amazonaws.com/vpccni-eni-manager:t"
    assert container(objects, "ip-allocator")["image"] == "mine"


def test_an_override_of_aws_nodes_image_is_of_no_other_container(render: Render) -> None:
    objects = render({"shape": "split", "image": {"override": "mine"}})
    assert container(objects, "aws-node")["image"] == "mine"
    assert container(objects, "eni-manager")["image"].endswith("/vpccni-eni-manager:v0.1.0")


# -- names and labels


def test_names_of_all_objects_follow_the_full_name(render: Render) -> None:
    objects = render({"fullnameOverride": "x" * 70 + "-", "nameOverride": "y"})
    assert {one(objects, kind)["metadata"]["name"] for kind in ("DaemonSet", "ClusterRole", "ServiceAccount")} == {
        "x" * 63
    }
    assert one(objects, "DaemonSet")["metadata"]["labels"]["app.kubernetes.io/name"] == "y"
    assert one(objects, "ClusterRoleBinding")["roleRef"]["name"] == "x" * 63


def test_common_labels_are_on_every_object(render: Render) -> None:
    wanted = {
        "app.kubernetes.io/name": "aws-node",
        "helm.sh/chart": "aws-vpc-cni-0.1.0",
        "app.kubernetes.io/instance": "aws-vpc-cni",
        "k8s-app": "aws-node",
        "app.kubernetes.io/version": "v0.1.0",
        "app.kubernetes.io/managed-by": "Helm",
    }
    for item in render(ALL_ON):
        if item["kind"] != "CustomResourceDefinition":
            assert wanted.items() <= item["metadata"]["labels"].items(), item["kind"]


def test_the_selector_is_by_release_or_as_it_was_originally(render: Render) -> None:
    own = {"app.kubernetes.io/name": "aws-node", "app.kubernetes.io/instance": "aws-vpc-cni"}
    labels = {"podLabels": {"team": "net"}}
    ours, original = render(labels), render({**labels, "originalMatchLabels": True})
    assert one(ours, "DaemonSet")["spec"]["selector"]["matchLabels"] == {**own, "team": "net"}
    assert one(original, "DaemonSet")["spec"]["selector"]["matchLabels"] == {"k8s-app": "aws-node"}
    pod_labels = {**own, "k8s-app": "aws-node", "team": "net"}
    assert one(original, "DaemonSet")["spec"]["template"]["metadata"]["labels"] == pod_labels


def test_an_installation_that_is_there_already_can_be_taken_over(render: Render) -> None:
    """Helm adopts objects by kind, namespace and name: these are the five that the documented way annotates (9.4)."""
    objects = render({"originalMatchLabels": True})
    named = {(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace")) for item in objects}
    assert named - {("CustomResourceDefinition", "eniconfigs.crd.k8s.amazonaws.com", None)} == {
        ("DaemonSet", "aws-node", "kube-system"),
        ("ServiceAccount", "aws-node", "kube-system"),
        ("ConfigMap", "amazon-vpc-cni", "kube-system"),
        ("ClusterRole", "aws-node", None),
        ("ClusterRoleBinding", "aws-node", None),
    }


def test_the_namespace_is_the_releases(render: Render) -> None:
    objects = render(ALL_ON, namespace="net")
    namespaced = {"DaemonSet", "ServiceAccount", "PodMonitor", "PrometheusRule"}
    assert {item["metadata"]["namespace"] for item in objects if item["kind"] in namespaced} == {"net"}
    assert one(objects, "ClusterRoleBinding")["subjects"][0]["namespace"] == "net"
    assert one(objects, "PodMonitor")["spec"]["namespaceSelector"] == {"matchNames": ["net"]}


# -- environment


def test_the_environment_is_sorted_and_quoted_then_extra_then_identity(render: Render) -> None:
    values = {"env": {"ZED": 1, "ENABLE_POD_ENI": True}, "extraEnv": [{"name": "AAA", "value": "x"}]}
    entries = container(render(values), "aws-node")["env"]
    names = [entry["name"] for entry in entries]
    assert names[-4:] == ["AAA", "MY_NODE_NAME", "MY_POD_NAME", "MY_POD_UID"]
    assert names[:-4] == sorted(names[:-4])
    assert {"name": "ZED", "value": "1"} in entries
    assert {"name": "ENABLE_POD_ENI", "value": "true"} in entries


def test_without_an_agent_no_add_waits_for_one(render: Render) -> None:
    objects = render({"nodeAgent": {"enabled": False}, "podMonitor": {"create": True}})
    assert [item["name"] for item in pod(objects)["containers"]] == ["aws-node"]
    assert "NETWORK_POLICY_ENFORCING_MODE" not in env(container(objects, "aws-node"))
    assert "bpf-pin-path" not in {volume["name"] for volume in pod(objects)["volumes"]}
    assert [end["port"] for end in one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]] == ["metrics"]


@pytest.mark.spec("operations.17.26")
@pytest.mark.parametrize(
    ("value", "is_granted"),
    [
        ("true", True),
        (True, True),
        ("1", True),
        ("t", True),
        ("false", False),
        (False, False),
        ("", False),
        ("yes", False),
    ],
)
def test_patching_pods_is_granted_to_who_annotates_them(render: Render, value: Any, is_granted: bool) -> None:
    rules = one(render({"env": {"ANNOTATE_POD_IP": value}}), "ClusterRole")["rules"]
    (pods,) = (rule for rule in rules if rule.get("resources") == ["pods"])
    assert ("patch" in pods["verbs"]) == is_granted


@pytest.mark.parametrize("shape", ["swap", "split"])
def test_a_log_level_reaches_the_container_of_its_process(render: Render, shape: str) -> None:
    objects = render({"shape": shape, "logLevels": {"ip_allocator": "debug", "policy_agent": "warn"}})
    of = "ip-allocator" if shape == "split" else "aws-node"
    assert env(container(objects, of))["LOG_LEVEL_IP_ALLOCATOR"] == "debug"
    assert env(container(objects, "aws-eks-nodeagent"))["LOG_LEVEL_POLICY_AGENT"] == "warn"


# -- the agent, the controllers


def test_the_agents_values_are_its_flags(render: Render) -> None:
    agent = {
        "enableCloudWatchLogs": "true",
        "enablePolicyEventLogs": True,
        "networkPolicyAgentLogFileLocation": "/l",
        "enableIpv6": "true",
        "metricsBindAddr": 9162,
        "healthProbeBindAddr": "9163",
        "conntrackCacheCleanupPeriod": 60,
        "conntrackCacheTableSize": 1048576,
        "logLevel": "info",
    }
    item = container(render({"nodeAgent": agent, "enableNetworkPolicy": "true"}), "aws-eks-nodeagent")
    assert item["args"] == [
        "--enable-ipv6=true",
        "--enable-network-policy=true",
        "--enable-cloudwatch-logs=true",
        "--enable-policy-event-logs=true",
        "--log-file=/l",
        "--metrics-bind-addr=:9162",
        "--health-probe-bind-addr=:9163",
        "--conntrack-cache-cleanup-period=60",
        "--conntrack-cache-table-size=1048576",
        "--log-level=info",
    ]
    assert item["ports"][0]["containerPort"] == 9162


def test_the_controllers_read_their_values_as_texts(render: Render) -> None:
    values = {
        "enableNetworkPolicy": True,
        "enableWindowsIpam": "true",
        "enableWindowsPrefixDelegation": "true",
        "warmWindowsPrefixTarget": 2,
        "warmWindowsIPTarget": "4",
        "minimumWindowsIPTarget": 5,
        "branchENICooldown": 90,
    }
    assert one(render(values), "ConfigMap", "amazon-vpc-cni")["data"] == {
        "enable-windows-ipam": "true",
        "enable-network-policy-controller": "true",
        "enable-windows-prefix-delegation": "true",
        "warm-prefix-target": "2",
        "warm-ip-target": "4",
        "minimum-ip-target": "5",
        "branch-eni-cooldown": "90",
    }


# -- the pod's other fields


def test_the_pods_fields_are_the_values(render: Render) -> None:
    values: dict[str, Any] = {
        "priorityClassName": "p",
        "podSecurityContext": {"fsGroup": 1},
        "imagePullSecrets": [{"name": "pull"}],
        "nodeSelector": {"pool": "a"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "podAnnotations": {"a/b": True},
    }
    objects = render(values)
    spec = pod(objects)
    assert (spec["priorityClassName"], spec["securityContext"]) == ("p", {"fsGroup": 1})
    assert (spec["imagePullSecrets"], spec["nodeSelector"]) == ([{"name": "pull"}], {"pool": "a"})
    assert spec["tolerations"] == values["tolerations"]
    assert one(objects, "DaemonSet")["spec"]["template"]["metadata"]["annotations"] == {"a/b": "true"}


def test_the_affinity_can_be_taken_away_and_the_strategy_changed(render: Render) -> None:
    objects = render({"affinity": None, "updateStrategy": {"type": "OnDelete", "rollingUpdate": None}})
    assert "affinity" not in pod(objects)
    assert one(objects, "DaemonSet")["spec"]["updateStrategy"] == {"type": "OnDelete"}


@pytest.mark.parametrize("key", ["livenessProbe", "readinessProbe"])
def test_a_probe_is_rendered_whole_with_its_time_out_once(render: Render, key: str) -> None:
    probe = {"exec": None, "httpGet": {"path": "/x", "port": 1}, "timeoutSeconds": 3, "periodSeconds": 5}
    rendered = container(render({key: probe, f"{key}TimeoutSeconds": 7}), "aws-node")[key]
    assert (rendered["httpGet"], rendered["timeoutSeconds"], rendered["periodSeconds"]) == (probe["httpGet"], 7, 5)


def test_rights_and_resources_are_each_containers_own(render: Render) -> None:
    more = {"limits": {"memory": "1Gi"}}
    values: dict[str, Any] = {
        "resources": {"requests": {"cpu": "50m"}},
        "init": {"resources": more, "securityContext": {"privileged": False}, "env": {"ENABLE_IPv6": "true"}},
        "nodeAgent": {"securityContext": {"privileged": False}},
        "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}},
    }
    objects = render(values)
    init, node, agent = (container(objects, name) for name in ("aws-vpc-cni-init", "aws-node", "aws-eks-nodeagent"))
    assert (init["resources"], init["securityContext"]) == (more, {"privileged": False})
    assert env(init)["ENABLE_IPv6"] == "true"
    assert node["resources"] == agent["resources"] == {"requests": {"cpu": "50m"}}
    assert node["securityContext"] == {"capabilities": {"add": ["SYS_ADMIN"]}}
    assert agent["securityContext"]["privileged"] is False


def test_extra_volumes_reach_the_init_container_and_aws_node_alone(render: Render) -> None:
    objects = render(ALL_ON)
    assert {"name": "more", "emptyDir": {}} in pod(objects)["volumes"]
    having = {
        name
        for name in ("aws-vpc-cni-init", "aws-node", "aws-eks-nodeagent")
        if "/more" in mounts(container(objects, name))
    }
    assert having == {"aws-vpc-cni-init", "aws-node"}


@pytest.mark.parametrize(
    ("account", "name", "is_there"),
    [
        ({"create": True}, "aws-node", True),
        ({"create": True, "name": "own"}, "own", True),
        ({"create": False}, "default", False),
        ({"create": False, "name": "theirs"}, "theirs", False),
    ],
)
def test_the_service_account_is_made_or_named(render: Render, account: Any, name: str, is_there: bool) -> None:
    objects = render({"serviceAccount": {**account, "annotations": {"eks.amazonaws.com/role-arn": "arn:x"}}})
    assert pod(objects)["serviceAccountName"] == name
    assert one(objects, "ClusterRoleBinding")["subjects"][0]["name"] == name
    made = [item["metadata"] for item in objects if item["kind"] == "ServiceAccount"]
    assert [(item["name"], item["annotations"]) for item in made] == (
        [(name, {"eks.amazonaws.com/role-arn": "arn:x"})] if is_there else []
    )


# -- optional objects


def test_an_own_conflist_is_mounted_where_the_original_has_it(render: Render) -> None:
    objects = render(ALL_ON)
    own = one(objects, "ConfigMap", "aws-node")
    assert base64.b64decode(own["binaryData"]["10-aws.conflist"]) == b'{"cniVersion": "0.4.0"}'
    assert "namespace" not in own["metadata"]
    (mount,) = (item for item in container(objects, "aws-node")["volumeMounts"] if item["name"] == "cni-config")
    assert (mount["mountPath"], mount["subPath"]) == ("/app/10-aws.conflist", "10-aws.conflist")
    assert {"name": "cni-config", "configMap": {"name": "aws-node"}} in pod(objects)["volumes"]


def test_an_eni_config_is_made_for_each_entry(render: Render) -> None:
    subnets = {"us-west-2a": {"id": "subnet-0a", "securityGroups": ["sg-0a"]}, "b": {"id": "subnet-0b"}}
    objects = render({"eniConfig": {"create": True, "subnets": subnets}})
    made = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "ENIConfig"}
    assert made == {"us-west-2a": {"subnet": "subnet-0a", "securityGroups": ["sg-0a"]}, "b": {"subnet": "subnet-0b"}}
    with pytest.raises(Refused, match=r"eniConfig\.subnets"):
        render({"eniConfig": {"create": True}})


def test_the_pod_monitor_scrapes_both_ports(render: Render) -> None:
    relabelings = [{"action": "drop", "regex": "x"}]
    monitor = {"create": True, "interval": "15s", "scrapeTimeout": "10s", "relabelings": relabelings}
    item = one(render({"podMonitor": {**monitor, "labels": {"r": "s"}, "annotations": {"a": "b"}}}), "PodMonitor")
    assert (item["metadata"]["labels"]["r"], item["metadata"]["annotations"]) == ("s", {"a": "b"})
    assert item["spec"]["jobLabel"] == "aws-node"
    assert item["spec"]["selector"] == {"matchLabels": {"k8s-app": "aws-node"}}
    same = {"path": "/metrics", "interval": "15s", "scrapeTimeout": "10s", "relabelings": relabelings}
    ends = item["spec"]["podMetricsEndpoints"]
    assert ends == [{"port": "metrics", **same}, {"port": "agentmetrics", **same}]


# -- the schema


@pytest.mark.parametrize(
    "values",
    [
        {"shape": "both"},
        {"enableNetworkPolicy": "maybe"},
        {"nodeAgent": {"conntrackCacheTableSize": 1024}},
        {"nodeAgent": {"metricsBindAddr": ":8162"}},
        {"env": {"X": {"valueFrom": {}}}},
        {"logLevels": {"ipamd": "debug"}},
        {"logLevels": {"ip_allocator": "loud"}},
        {"eniConfig": {"create": True, "subnets": {"a": {}}}},
        {"split": {"ipAlocator": {}}},
        {"updateStrategy": {"type": "Recreate"}},
        {"branchENICooldown": -1},
    ],
)
def test_what_cannot_be_meant_is_refused(render: Render, values: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="values don't meet the specifications of the schema"):
        render(values)


@pytest.mark.spec("operations.17.27")
@pytest.mark.parametrize(
    "values",
    [
        {"cri": {"hostPath": {"path": "/var/run/dockershim.sock"}}},
        {"eniConfig": {"region": "eu-west-1"}},
        {"image": {"account": 602401143452}},
        {"nodeAgent": {"metricsBindAddr": "8162", "enableIpv6": False}},
        {"warmWindowsPrefixTarget": "0", "branchENICooldown": "60"},
        {"serviceAccount": {"name": None}},
        {"global": {"x": 1}, "somethingOfTomorrow": True},
    ],
)
def test_values_of_other_releases_are_accepted(render: Render, values: dict[str, Any]) -> None:
    assert one(render(values), "DaemonSet")
