"""The four custom resource definitions that the controller makes where they are absent (spec policy.md 2, 3.2). Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vpccni.components.policy_controller.model import ACTIONS, TIERS

GROUP, VERSION = "networking.k8s.aws", "v1alpha1"
LIST_AT_MOST: Final = 100
SET_AT_MOST: Final = 25
CIDR_AT_MOST: Final = 43
NAME_AT_MOST: Final = 100
DOMAIN_PATTERN: Final = (
    r"^(\*\.)?([a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$"
)
"""With the slip `A-z` of the published schema (spec policy.md 2.1): what it admits is stored in clusters already."""
Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
INT32: Final[Schema] = {"type": "integer", "format": "int32"}
STRINGS: Final[Schema] = {"type": "array", "items": STRING}
ONE: Final[Schema] = {"minProperties": 1, "maxProperties": 1}
DOMAIN: Final[Schema] = {"type": "string", "pattern": DOMAIN_PATTERN}


def _object(required: str = "", /, **properties: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    return {**schema, "required": required.split()} if required else schema


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


LABEL_SELECTOR: Final = {
    **_object(
        matchLabels={"type": "object", "additionalProperties": STRING},
        matchExpressions=_list(
            _object(
                "key operator", key=STRING, operator=STRING, values={**STRINGS, "x-kubernetes-list-type": "atomic"}
            ),
            **{"x-kubernetes-list-type": "atomic"},
        ),
    ),
    "x-kubernetes-map-type": "atomic",
}
PORT: Final = _object(protocol={"type": "string", "default": "TCP"}, port=INT32, endPort=INT32)
TARGET: Final = _object("hostIP podIP name namespace", hostIP=STRING, podIP=STRING, name=STRING, namespace=STRING)
TIER: Final = _one_of(*sorted(TIERS))
ACTION: Final = _one_of(*sorted(ACTIONS))
NAMESPACED_PODS: Final = _object(
    "namespaceSelector podSelector", namespaceSelector=LABEL_SELECTOR, podSelector=LABEL_SELECTOR
)
SUBJECT: Final = {**_object(namespaces=LABEL_SELECTOR, pods=NAMESPACED_PODS), **ONE}


def _conditions() -> Schema:
    condition = _object(
        "type status lastTransitionTime reason message",
        type=STRING,
        status=_one_of("True", "False", "Unknown"),
        observedGeneration={"type": "integer", "format": "int64"},
        lastTransitionTime={"type": "string", "format": "date-time"},
        reason=STRING,
        message=STRING,
    )
    return _list(condition, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})


def _policy_endpoint() -> Schema:
    entry = _object(cidr=STRING, **{"except": STRINGS}, ports=_list(PORT), domainName=DOMAIN)
    return _object(
        "policyRef",
        policyRef=_object("name namespace", name=STRING, namespace=STRING),
        podSelector=LABEL_SELECTOR,
        podIsolation=STRINGS,
        podSelectorEndpoints=_list(TARGET),
        ingress=_list(entry),
        egress=_list(entry),
    )


def _cluster_policy_endpoint() -> Schema:
    entry = _object("action", cidr=STRING, ports=_list(PORT), domainName=DOMAIN, action=ACTION)
    return _object(
        "policyRef tier priority subject",
        policyRef=_object("name", name=STRING),
        tier=TIER,
        priority=INT32,
        subject=SUBJECT,
        podSelectorEndpoints=_list(TARGET),
        ingress=_list(entry),
        egress=_list(entry),
    )


def _cluster_network_policy() -> Schema:
    number = {**INT32, "minimum": 1, "maximum": 65535}
    protocol = {"type": "string", "default": "TCP"}
    port_range = {
        **_object("start end", protocol=protocol, start=number, end=number),
        "x-kubernetes-validations": [
            {"rule": "self.start < self.end", "message": "Start port must be less than end port"}
        ],
    }
    port = _object(
        portNumber=_object("protocol port", protocol=protocol, port=number), portRange=port_range, namedPort=STRING
    )
    few = {"minItems": 1, "maxItems": LIST_AT_MOST}
    names = {"minItems": 1, "maxItems": SET_AT_MOST, "x-kubernetes-list-type": "set"}
    source = {**_object(namespaces=LABEL_SELECTOR, pods=NAMESPACED_PODS), **ONE}
    destination = {
        **_object(
            namespaces=LABEL_SELECTOR,
            pods=NAMESPACED_PODS,
            networks=_list({"type": "string", "maxLength": CIDR_AT_MOST}, **names),
            domainNames=_list(DOMAIN, **names),
        ),
        **ONE,
    }
    common = {"name": {"type": "string", "maxLength": NAME_AT_MOST}, "action": ACTION, "ports": _list(port, **few)}
    incoming = _object("action from", **common, **{"from": _list(source, **few)})
    outgoing = {
        **_object("action to", **common, to=_list(destination, **few)),
        "x-kubernetes-validations": [
            {
                "rule": "self.action == 'Accept' || !self.to.exists(peer, has(peer.domainNames))",
                "message": "domainNames peer can only be used with Accept action",
            }
        ],
    }
    return _object(
        "tier priority subject",
        tier=TIER,
        priority={**INT32, "minimum": 0, "maximum": 1000},
        subject=SUBJECT,
        ingress=_list(incoming, maxItems=LIST_AT_MOST),
        egress=_list(outgoing, maxItems=LIST_AT_MOST),
    )


def _application_network_policy() -> Schema:
    port = _object(protocol=STRING, port={"x-kubernetes-int-or-string": True}, endPort=INT32)
    block = _object("cidr", cidr=STRING, **{"except": STRINGS})
    source = _object(podSelector=LABEL_SELECTOR, namespaceSelector=LABEL_SELECTOR, ipBlock=block)
    domains = _list(DOMAIN, minItems=1, **{"x-kubernetes-list-type": "set"})
    destination = {
        **_object(podSelector=LABEL_SELECTOR, namespaceSelector=LABEL_SELECTOR, ipBlock=block, domainNames=domains),
        "x-kubernetes-validations": [
            {
                "rule": f"!(has(self.domainNames) && has(self.{other}))",
                "message": f"domainNames and {other} are mutually exclusive",
            }
            for other in ("ipBlock", "podSelector", "namespaceSelector")
        ],
    }
    return _object(
        "podSelector",
        podSelector=LABEL_SELECTOR,
        policyTypes=STRINGS,
        ingress=_list(_object(ports=_list(port), **{"from": _list(source)})),
        egress=_list(_object(ports=_list(port), to=_list(destination))),
    )


def _definition(
    kind: str, plural: str, spec: Schema, *, short: str = "", namespaced: bool, has_conditions: bool
) -> Schema:
    singular = kind.lower()
    status: Schema = _object(conditions=_conditions()) if has_conditions else {"type": "object"}
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": singular}
    schema = _object(apiVersion=STRING, kind=STRING, metadata={"type": "object"}, spec=spec, status=status)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {**names, **({"shortNames": [short]} if short else {})},
            "scope": "Namespaced" if namespaced else "Cluster",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


DEFINITIONS: Final[Mapping[str, Schema]] = {
    one["metadata"]["name"]: one
    for one in (
        _definition("PolicyEndpoint", "policyendpoints", _policy_endpoint(), namespaced=True, has_conditions=False),
        _definition("ClusterPolicyEndpoint", "clusterpolicyendpoints", _cluster_policy_endpoint(), short="cpe", namespaced=False, has_conditions=False),
        _definition("ApplicationNetworkPolicy", "applicationnetworkpolicies", _application_network_policy(), short="anp", namespaced=True, has_conditions=True),
        _definition("ClusterNetworkPolicy", "clusternetworkpolicies", _cluster_network_policy(), short="cnp", namespaced=False, has_conditions=True),
    )
}  # fmt: skip
