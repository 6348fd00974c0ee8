"""The manifests as they are kept: the original's pod in one shape, one container a process in the other."""

from __future__ import annotations

from typing import Any

import pytest
from charts.kube_schema import faults
from charts.objects import STATIC, Object, container, env, mounts, one, parsed

from vpccni.components.metrics_helper.election import NAME as LEASE

FILES = sorted(path.name for path in STATIC.glob("aws-k8s-cni*.yaml"))
HELPERS = sorted(path.name for path in STATIC.glob("cni-metrics-helper*.yaml"))
SPLIT = "aws-k8s-cni-split.yaml"
PROCESSES = {"aws-node", "eni-manager", "ip-allocator", "metrics-publisher", "aws-eks-nodeagent"}


def kept(name: str = "aws-k8s-cni.yaml") -> list[Object]:
    return parsed((STATIC / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_every_object_fits_the_kubernetes_schema(name: str) -> None:
    objects = kept(name)
    assert [fault for item in objects for fault in faults(item)] == []
    assert {item["kind"] for item in objects} == {
        "CustomResourceDefinition",
        "ServiceAccount",
        "ConfigMap",
        "ClusterRole",
        "ClusterRoleBinding",
        "DaemonSet",
    }


def test_the_schema_check_finds_what_is_wrong() -> None:
    daemon_set = one(kept(), "DaemonSet")
    pod = daemon_set["spec"]["template"]["spec"]
    pod["hostNetwrok"] = True
    pod["containers"][0]["ports"][0]["containerPort"] = "61678"
    pod["containers"][0].pop("name")
    pod["tolerations"] = {}
    assert len(faults(daemon_set)) == 4


@pytest.mark.parametrize("name", HELPERS)
def test_every_object_of_the_helper_fits_the_kubernetes_schema(name: str) -> None:
    assert [fault for item in kept(name) for fault in faults(item)] == []


@pytest.mark.parametrize("name", FILES + HELPERS)
def test_nothing_of_helm_is_in_it(name: str) -> None:
    text = (STATIC / name).read_text()
    assert "helm" not in text.lower()


def test_each_partition_has_its_registry() -> None:
    images = {name: container(kept(name), "aws-node")["image"] for name in FILES}
    assert images["aws-k8s-cni-cn.yaml"].startswith("961992271922.dkr.ecr.cn-northwest-1.amazonaws.com.cn/")
    assert images["aws-k8s-cni-us-gov-east-1.yaml"].startswith("151742754352.dkr.ecr.us-gov-east-1.amazonaws.com/")
    assert images["aws-k8s-cni-us-gov-west-1.yaml"].startswith("013241004608.dkr.ecr.us-gov-west-1.amazonaws.com/")


# -- the original's pod


def test_the_pod_of_the_swap_shape_is_the_originals() -> None:
    daemon_set = one(kept(), "DaemonSet")
    pod = daemon_set["spec"]["template"]["spec"]
    assert (daemon_set["metadata"]["name"], daemon_set["metadata"]["namespace"]) == ("aws-node", "kube-system")
    assert daemon_set["spec"]["selector"] == {"matchLabels": {"k8s-app": "aws-node"}}
    assert daemon_set["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}
    assert {
        key: value for key, value in pod.items() if key not in ("containers", "initContainers", "volumes", "affinity")
    } == {
        "priorityClassName": "system-node-critical",
        "serviceAccountName": "aws-node",
        "hostNetwork": True,
        "terminationGracePeriodSeconds": 10,
        "tolerations": [{"operator": "Exists"}],
        "securityContext": {},
    }
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [(rule["key"], rule["operator"], rule["values"]) for rule in term["matchExpressions"]] == [
        ("kubernetes.io/os", "In", ["linux"]),
        ("kubernetes.io/arch", "In", ["amd64", "arm64"]),
        ("eks.amazonaws.com/compute-type", "NotIn", ["fargate", "hybrid", "auto"]),
    ]
    assert [item["name"] for item in pod["initContainers"]] == ["aws-vpc-cni-init"]
    assert [item["name"] for item in pod["containers"]] == ["aws-node", "aws-eks-nodeagent"]


def test_volumes_and_mounts_of_the_swap_shape_are_the_originals() -> None:
    objects = kept()
    volumes = {
        volume["name"]: volume["hostPath"]
        for volume in one(objects, "DaemonSet")["spec"]["template"]["spec"]["volumes"]
    }
    assert volumes == {
        "bpf-pin-path": {"path": "/sys/fs/bpf"},
        "cni-bin-dir": {"path": "/opt/cni/bin"},
        "cni-net-dir": {"path": "/etc/cni/net.d"},
        "log-dir": {"path": "/var/log/aws-routed-eni", "type": "DirectoryOrCreate"},
        "run-dir": {"path": "/var/run/aws-node", "type": "DirectoryOrCreate"},
        "xtables-lock": {"path": "/run/xtables.lock", "type": "FileOrCreate"},
    }
    assert mounts(container(objects, "aws-vpc-cni-init")) == {"/host/opt/cni/bin": "cni-bin-dir"}
    assert mounts(container(objects, "aws-node")) == {
        "/host/opt/cni/bin": "cni-bin-dir",
        "/host/etc/cni/net.d": "cni-net-dir",
        "/host/var/log/aws-routed-eni": "log-dir",
        "/var/run/aws-node": "run-dir",
        "/run/xtables.lock": "xtables-lock",
    }
    assert mounts(container(objects, "aws-eks-nodeagent")) == {
        "/host/opt/cni/bin": "cni-bin-dir",
        "/sys/fs/bpf": "bpf-pin-path",
        "/var/log/aws-routed-eni": "log-dir",
        "/var/run/aws-node": "run-dir",
    }


def test_environment_rights_and_probes_of_aws_node_are_the_originals() -> None:
    item = container(kept(), "aws-node")
    names = [entry["name"] for entry in item["env"]]
    assert names[-3:] == ["MY_NODE_NAME", "MY_POD_NAME", "MY_POD_UID"]
    assert names[:-3] == sorted(names[:-3])
    assert {name: value for name, value in env(item).items() if not name.startswith("MY_")} == MANIFEST
    assert item["ports"] == [{"containerPort": 61678, "name": "metrics"}]
    assert item["securityContext"] == {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}
    assert item["resources"] == {"requests": {"cpu": "25m"}}
    asked = ["/app/grpc-health-probe", "-addr=:50051", "-connect-timeout=5s", "-rpc-timeout=5s"]
    assert item["readinessProbe"] == {"exec": {"command": asked}, "initialDelaySeconds": 1, "timeoutSeconds": 10}
    alive = {"exec": {"command": [*asked, "-service=liveness"]}, "initialDelaySeconds": 60, "timeoutSeconds": 10}
    assert item["livenessProbe"] == alive


def test_init_container_and_agent_of_the_swap_shape_are_the_originals() -> None:
    init, agent = container(kept(), "aws-vpc-cni-init"), container(kept(), "aws-eks-nodeagent")
    assert env(init) == {"DISABLE_TCP_EARLY_DEMUX": "false", "ENABLE_IPv6": "false"}
    assert init["securityContext"] == {"privileged": True}
    assert init["resources"] == {"requests": {"cpu": "25m"}}
    assert agent["securityContext"] == {"capabilities": {"add": ["NET_ADMIN"]}, "privileged": True}
    assert agent["ports"] == [{"containerPort": 8162, "name": "agentmetrics"}]
    assert not {"livenessProbe", "readinessProbe"} & set(agent)
    assert agent["args"] == [
        "--enable-ipv6=false",
        "--enable-network-policy=false",
        "--enable-cloudwatch-logs=false",
        "--enable-policy-event-logs=false",
        "--log-file=/var/log/aws-routed-eni/network-policy-agent.log",
        "--metrics-bind-addr=:8162",
        "--health-probe-bind-addr=:8163",
        "--conntrack-cache-cleanup-period=300",
        "--conntrack-cache-table-size=524288",
        "--log-level=debug",
    ]


def test_rights_at_the_api_server_are_the_originals() -> None:
    rules = {
        (tuple(rule.get("apiGroups", ())), tuple(rule.get("resources", rule.get("nonResourceURLs", ())))): set(
            rule["verbs"]
        )
        for rule in one(kept(), "ClusterRole")["rules"]
    }
    read = {"get", "list", "watch"}
    assert rules == {
        (("crd.k8s.amazonaws.com",), ("eniconfigs",)): read,
        (("",), ("namespaces",)): read,
        (("",), ("pods",)): read,
        (("",), ("nodes",)): read,
        (("", "events.k8s.io"), ("events",)): {"create", "patch", "list"},
        (("networking.k8s.aws",), ("policyendpoints", "clusterpolicyendpoints")): read,
        (("networking.k8s.aws",), ("policyendpoints/status", "clusterpolicyendpoints/status")): {"get"},
        (("vpcresources.k8s.aws",), ("cninodes",)): {*read, "patch"},
        ((), ("/apis/networking.k8s.aws", "/apis/networking.k8s.aws/*")): {"get"},
    }
    assert one(kept(), "ClusterRoleBinding")["subjects"] == [
        {"kind": "ServiceAccount", "name": "aws-node", "namespace": "kube-system"}
    ]


def test_the_controllers_config_map_has_the_originals_texts() -> None:
    assert one(kept(), "ConfigMap", "amazon-vpc-cni")["data"] == {
        "enable-windows-ipam": "false",
        "enable-network-policy-controller": "false",
        "enable-windows-prefix-delegation": "false",
        "warm-prefix-target": "0",
        "warm-ip-target": "1",
        "minimum-ip-target": "3",
        "branch-eni-cooldown": "60",
    }


def test_the_eni_config_definition_is_the_originals() -> None:
    definition = one(kept(), "CustomResourceDefinition")
    spec = definition["spec"]
    (version,) = spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    assert definition["metadata"]["name"] == "eniconfigs.crd.k8s.amazonaws.com"
    assert (spec["scope"], spec["group"], spec["names"]["kind"]) == ("Cluster", "crd.k8s.amazonaws.com", "ENIConfig")
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert spec["preserveUnknownFields"] is False
    assert schema["x-kubernetes-preserve-unknown-fields"] is True
    assert schema["properties"]["spec"]["required"] == ["subnet"]
    assert set(schema["properties"]["spec"]["properties"]) == {"subnet", "securityGroups"}
    assert not {"subresources", "additionalPrinterColumns"} & set(version)


# -- one container a process


def test_the_split_shape_has_a_container_a_process_and_keeps_the_names_others_use() -> None:
    objects = kept(SPLIT)
    pod = one(objects, "DaemonSet")["spec"]["template"]["spec"]
    assert {item["name"] for item in pod["containers"]} == PROCESSES
    named = container(objects, "aws-node")
    assert named["ports"] == [{"containerPort": 61678, "name": "metrics"}]
    assert mounts(named)["/host/opt/cni/bin"] == "cni-bin-dir"
    assert env(named) == env(container(kept(), "aws-node"))


@pytest.mark.spec("operations.17.29")
def test_each_container_of_the_split_shape_has_the_rights_of_its_process_alone() -> None:
    added = {
        "aws-node": {"NET_ADMIN", "NET_RAW"},
        "aws-eks-nodeagent": {"BPF", "NET_ADMIN", "PERFMON"},
        "eni-manager": set[str](),
        "ip-allocator": set[str](),
        "metrics-publisher": set[str](),
    }
    for name in PROCESSES:
        context = container(kept(SPLIT), name)["securityContext"]
        assert set(context["capabilities"].get("add", ())) == added[name], name
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert "privileged" not in context


def test_containers_of_the_split_shape_share_the_run_folder_alone() -> None:
    objects = kept(SPLIT)
    folders = {name: set(mounts(container(objects, name))) for name in PROCESSES}
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert folders["ip-allocator"] == folders["metrics-publisher"] == {"/var/run/aws-node"}
    assert folders["eni-manager"] == {"/var/run/aws-node", token}
    assert folders["aws-eks-nodeagent"] == {"/var/run/aws-node", token, "/sys/fs/bpf", "/var/log/aws-routed-eni"}
    assert token not in folders["aws-node"]
    assert one(objects, "DaemonSet")["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_every_container_of_the_split_shape_is_asked_whether_it_lives_and_one_whether_it_is_ready() -> None:
    for name in PROCESSES:
        item = container(kept(SPLIT), name)
        assert item["livenessProbe"]["exec"]["command"][-1] == "-service=liveness"
        assert ("readinessProbe" in item) == (name == "aws-node")


def test_every_container_knows_which_pod_it_is_of() -> None:
    for name in PROCESSES:
        uid: Any = env(container(kept(SPLIT), name))["MY_POD_UID"]
        assert uid["fieldRef"]["fieldPath"] == "metadata.uid"


# -- the helper


def test_the_helpers_deployment_is_the_originals() -> None:
    deployment = one(kept("cni-metrics-helper.yaml"), "Deployment")
    (item,) = deployment["spec"]["template"]["spec"]["containers"]
    assert deployment["metadata"]["namespace"] == "kube-system"
    assert deployment["spec"]["selector"] == {"matchLabels": {"k8s-app": "cni-metrics-helper"}}
    assert deployment["spec"]["revisionHistoryLimit"] == 10
    assert "replicas" not in deployment["spec"]
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "cni-metrics-helper"
    assert item["image"] == "602401143452.dkr.ecr.us-west-2.amazonaws.com/cni-metrics-helper:v0.1.0"
    assert {name: value for name, value in env(item).items() if name != "POD_NAMESPACE"} == {
        "AWS_CLUSTER_ID": "",
        "AWS_VPC_K8S_CNI_LOGLEVEL": "INFO",
        "USE_CLOUDWATCH": "true",
        "USE_PROMETHEUS": "false",
    }
    assert not {"ports", "livenessProbe", "readinessProbe", "resources"} & set(item)


def test_the_helper_may_read_pods_and_take_its_own_lease() -> None:
    objects = kept("cni-metrics-helper.yaml")
    assert one(objects, "ClusterRole")["rules"] == [
        {"apiGroups": [""], "resources": ["pods", "pods/proxy"], "verbs": ["get", "watch", "list"]}
    ]
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    assert one(objects, "Role")["rules"] == [
        {**leases, "resourceNames": [LEASE], "verbs": ["get", "patch"]},
        {**leases, "verbs": ["create"]},
    ]


MANIFEST = {
    "ADDITIONAL_ENI_TAGS": "{}",
    "AWS_VPC_CNI_NODE_PORT_SUPPORT": "true",
    "AWS_VPC_ENI_MTU": "9001",
    "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "false",
    "AWS_VPC_K8S_CNI_EXTERNALSNAT": "false",
    "AWS_VPC_K8S_CNI_LOGLEVEL": "DEBUG",
    "AWS_VPC_K8S_CNI_LOG_FILE": "/host/var/log/aws-routed-eni/ipamd.log",
    "AWS_VPC_K8S_CNI_RANDOMIZESNAT": "prng",
    "AWS_VPC_K8S_CNI_VETHPREFIX": "eni",
    "AWS_VPC_K8S_PLUGIN_LOG_FILE": "/var/log/aws-routed-eni/plugin.log",
    "AWS_VPC_K8S_PLUGIN_LOG_LEVEL": "DEBUG",
    "DISABLE_INTROSPECTION": "false",
    "DISABLE_METRICS": "false",
    "DISABLE_NETWORK_RESOURCE_PROVISIONING": "false",
    "ENABLE_IMDS_ONLY_MODE": "false",
    "ENABLE_IPv4": "true",
    "ENABLE_IPv6": "false",
    "ENABLE_MULTI_NIC": "false",
    "ENABLE_POD_ENI": "false",
    "ENABLE_PREFIX_DELEGATION": "false",
    "ENABLE_SUBNET_DISCOVERY": "true",
    "NETWORK_POLICY_ENFORCING_MODE": "standard",
    "VPC_CNI_VERSION": "v0.1.0",
    "WARM_ENI_TARGET": "1",
    "WARM_PREFIX_TARGET": "1",
}
"""The "Manifest" column of spec operations.md 6."""
