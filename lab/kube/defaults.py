"""What a real API server and its controllers add to new objects, as far as our processes build on it."""

from __future__ import annotations

import time
from typing import Any, Final

from vpccni.lab.kube.resources import Resource

Object = dict[str, Any]
NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"


def apply(resource: Resource, new: Object) -> None:
    """Add the defaults of a kind to a new object, in place."""
    if resource.kind == "Namespace":
        labels = new.setdefault("metadata", {}).setdefault("labels", {})
        labels.setdefault(NAMESPACE_LABEL, new["metadata"].get("name", ""))
    elif resource.kind == "CustomResourceDefinition":
        new["status"] = {"conditions": [_condition("NamesAccepted"), _condition("Established")]}
    elif resource.kind == "NetworkPolicy":
        _network_policy(new.setdefault("spec", {}))


def _condition(kind: str) -> Object:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"type": kind, "status": "True", "reason": "Lab", "message": "", "lastTransitionTime": now}


def _network_policy(spec: Object) -> None:
    """Kubernetes gives a NetworkPolicy its types and its ports their protocol."""
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
        for port in rule.get("ports", ()):
            port.setdefault("protocol", "TCP")
