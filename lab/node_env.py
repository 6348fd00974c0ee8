"""The environment of a node's processes: what the published manifest sets by default, plus the lab's own addresses."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vpccni.lab import vpc_plan

LAB_MARK: Final = "VPCCNI_LAB_STATE"
"""Every process of a lab carries this variable, so that `down` finds it even when the state file is gone."""

MANIFEST: Final = {  # spec/operations.md 6, column "Manifest"
    "ADDITIONAL_ENI_TAGS": "{}",
    "AWS_VPC_CNI_NODE_PORT_SUPPORT": "true",
    "AWS_VPC_ENI_MTU": "9001",
    "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "false",
    "AWS_VPC_K8S_CNI_EXTERNALSNAT": "false",
    "AWS_VPC_K8S_CNI_LOGLEVEL": "DEBUG",
    "AWS_VPC_K8S_CNI_LOG_FILE": "/var/log/aws-routed-eni/ipamd.log",  # no /host prefix: the node's folders are at their own place
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
    "VPC_CNI_VERSION": "lab",
    "WARM_ENI_TARGET": "1",
    "WARM_PREFIX_TARGET": "1",
}
IPV6: Final = {"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"}
"""What an operator changes in the manifest of an IPv6 cluster."""
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def node_environment(
    lab: str, node: str, state: Path, overrides: Mapping[str, str | None], *, ipv6: bool = False
) -> dict[str, str]:
    """Return the environment of a node; an override of None takes a variable away."""
    env: dict[str, str | None] = {
        **MANIFEST,
        **(IPV6 if ipv6 else {}),
        "MY_NODE_NAME": node,
        "MY_POD_NAME": f"aws-node-{node}",
        "CLUSTER_NAME": lab,
        "AWS_ACCESS_KEY_ID": "AKIALABLABLABLABLAB0",
        "AWS_SECRET_ACCESS_KEY": "lab",
        "AWS_EC2_ENDPOINT": vpc_plan.EC2_URL,
        "KUBECONFIG": str(state / "kubeconfig"),
        "HOST_CNI_BIN_PATH": "/opt/cni/bin",
        "HOST_CNI_CONFDIR_PATH": "/etc/cni/net.d",
        "VPCCNI_LAB": "1",
        "VPCCNI_KILL_POINTS": "1",
        "VPCCNI_PYTHON": sys.executable,
        "VPCCNI_COMPAT": "false",
        "VPCCNI_RUN_DIR": "/var/run/aws-node",
        "VPCCNI_LOG_DIR": "/var/log/aws-routed-eni",
        "PYTHONSAFEPATH": "1",
        "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}",
        "HOME": "/root",
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        LAB_MARK: str(state),
        **overrides,
    }
    return {key: value for key, value in env.items() if value is not None}


KUBECONFIG: Final = (
    json.dumps(  # JSON, which is YAML too: the processes then need no YAML reader, as in a pod with a service account
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": vpc_plan.KUBE_URL}}],
            "users": [{"name": "lab", "user": {"token": "lab"}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "default"}}],
        },
        indent=1,
    )
)
