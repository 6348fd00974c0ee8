"""Random namespaces, pods and policies for property tests; small alphabets, so that things meet."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from support.policies import Doc, World, pod_document

from vpccni.components.policy_controller.model import Kind

KEYS, VALUES = ("a", "b"), ("x", "y")
NAMESPACES = ("n", "m", "o")
PORT_NAMES, NUMBERS, PROTOCOLS = ("http", "dns"), (53, 80, 8080), ("TCP", "UDP")
CIDRS = ("10.0.0.0/24", "10.0.0.0/30", "10.0.0.4/31", "10.0.0.0/16", "172.20.0.0/28", "0.0.0.0/0", "10.0.0.3/32")
OUTSIDE = ("10.0.7.7", "192.0.2.9")
PODS_AT_MOST = 6

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)
ports_of_pods = st.lists(
    st.tuples(st.sampled_from(PORT_NAMES), st.sampled_from(PROTOCOLS), st.sampled_from(NUMBERS)), max_size=2
)


@st.composite
def expressions(draw: st.DrawFn) -> Doc:
    operator = draw(st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")))
    row: Doc = {"key": draw(st.sampled_from(KEYS)), "operator": operator}
    if operator in ("In", "NotIn"):
        row["values"] = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=2))
    return row


@st.composite
def selectors(draw: st.DrawFn) -> Doc:
    selector: Doc = {}
    if draw(st.booleans()):
        selector["matchLabels"] = draw(labels)
    if draw(st.integers(0, 3)) == 0:
        selector["matchExpressions"] = draw(st.lists(expressions(), min_size=1, max_size=2))
    return selector


@st.composite
def pods(draw: st.DrawFn, number: int) -> Doc:
    host = draw(st.integers(0, 6)) == 0
    return pod_document(
        f"pod-{number}",
        "10.0.9.1" if host else f"10.0.0.{number}",
        namespace=draw(st.sampled_from(NAMESPACES)),
        labels=draw(labels),
        ports=draw(ports_of_pods),
        host_network=host,
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(0, PODS_AT_MOST))
    namespaces = {name: draw(labels) for name in NAMESPACES}
    return World(namespaces, [draw(pods(number)) for number in range(1, count + 1)])


@st.composite
def ports(draw: st.DrawFn) -> Doc:
    port: Doc = {}
    if draw(st.booleans()):
        port["protocol"] = draw(st.sampled_from(PROTOCOLS))
    kind = draw(st.integers(0, 3))
    if kind == 1:
        port["port"] = draw(st.sampled_from(PORT_NAMES))
    elif kind > 1:
        port["port"] = draw(st.sampled_from(NUMBERS))
        if kind == 3:
            port["endPort"] = draw(st.sampled_from((port["port"], port["port"] + 30)))
    return port


@st.composite
def cluster_ports(draw: st.DrawFn) -> Doc:
    port: Doc = {}
    for name in draw(st.sets(st.sampled_from(("portNumber", "portRange", "namedPort")), min_size=1)):
        if name == "namedPort":
            port[name] = draw(st.sampled_from(PORT_NAMES))
        elif name == "portNumber":
            port[name] = {"protocol": draw(st.sampled_from(PROTOCOLS)), "port": draw(st.sampled_from(NUMBERS))}
        else:
            port[name] = {"start": draw(st.sampled_from(NUMBERS)), "end": 9000}
    return port


@st.composite
def blocks(draw: st.DrawFn) -> Doc:
    block: Doc = {"cidr": draw(st.sampled_from(CIDRS))}
    excepts = draw(st.lists(st.sampled_from(CIDRS), max_size=2))
    return {"ipBlock": {**block, **({"except": excepts} if excepts else {})}}


@st.composite
def peers(draw: st.DrawFn) -> Doc:
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(blocks())
    peer = {}
    if kind in (1, 3):
        peer["podSelector"] = draw(selectors())
    if kind in (2, 3):
        peer["namespaceSelector"] = draw(selectors())
    return peer


@st.composite
def cluster_peers(draw: st.DrawFn, side: str) -> Doc:
    kind = draw(st.integers(0, 2 if side == "to" else 1))
    if kind == 0:
        return {"namespaces": draw(selectors())}
    if kind == 1:
        return {"pods": {"namespaceSelector": draw(selectors()), "podSelector": draw(selectors())}}
    return {"networks": draw(st.lists(st.sampled_from(CIDRS), min_size=1, max_size=2))}


def _optional(draw: st.DrawFn, into: Doc, name: str, what: st.SearchStrategy[Any]) -> None:
    if draw(st.integers(0, 3)):
        into[name] = draw(what)


@st.composite
def policies(draw: st.DrawFn, kind: Kind, name: str = "p") -> Doc:
    if kind is Kind.CLUSTER:
        return _cluster_policy(draw, name)
    spec: Doc = {"podSelector": draw(selectors())}
    _optional(draw, spec, "policyTypes", st.sampled_from((["Ingress"], ["Egress"], ["Ingress", "Egress"])))
    for direction, side in (("ingress", "from"), ("egress", "to")):
        rules = []
        for _ in range(draw(st.integers(0, 2))):
            rule: Doc = {}
            _optional(draw, rule, side, st.lists(peers(), max_size=2))
            _optional(draw, rule, "ports", st.lists(ports(), max_size=2))
            rules.append(rule)
        if rules:
            spec[direction] = rules
    meta = {"name": name, "namespace": draw(st.sampled_from(NAMESPACES)), "uid": f"uid-{kind}-{name}"}
    return {"metadata": meta, "spec": spec}


def _cluster_policy(draw: st.DrawFn, name: str) -> Doc:
    spec: Doc = {"tier": "Admin", "priority": 5, "subject": draw(cluster_peers("from"))}
    for direction, side in (("ingress", "from"), ("egress", "to")):
        rules = []
        for _ in range(draw(st.integers(0, 2))):
            rule: Doc = {"action": draw(st.sampled_from(("Accept", "Deny", "Pass")))}
            rule[side] = draw(st.lists(cluster_peers(side), min_size=1, max_size=2))
            _optional(draw, rule, "ports", st.lists(cluster_ports(), max_size=2))
            rules.append(rule)
        spec[direction] = rules
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "spec": spec}
