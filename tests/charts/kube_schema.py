"""Whether an object is one that the Kubernetes API takes: against the official client's models, which are made from its schema."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

KINDS = {
    ("apps/v1", "DaemonSet"): "V1DaemonSet",
    ("apps/v1", "Deployment"): "V1Deployment",
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("rbac.authorization.k8s.io/v1", "Role"): "V1Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "V1RoleBinding",
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): "V1ClusterRole",
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): "V1ClusterRoleBinding",
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): "V1CustomResourceDefinition",
}


def faults(document: dict[str, Any]) -> list[str]:
    """Return what is wrong with an object: unknown and missing keys, other types; nothing when its kind is not Kubernetes' own."""
    from kubernetes import client  # late: its models cost a second

    name = KINDS.get((document["apiVersion"], document["kind"]))
    if name is None:
        return []
    try:
        getattr(client, name).model_validate_json(json.dumps(document), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        return [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    return []
