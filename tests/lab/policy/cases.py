"""The conformance matrix: what is applied and changed in a cluster of three namespaces with three pods each.

Every case is a list of states that follow each other in the running cluster. A state is policies, and what is unlike the usual labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Doc = dict[str, Any]

NAMESPACES = ("x", "y", "z")
PODS = ("a", "b", "c")
PORTS = (80, 81)
ALL = [f"{namespace}/{pod}" for namespace in NAMESPACES for pod in PODS]
NAMED = {
    "a": (("web", "TCP", 80), ("dns", "UDP", 81)),
    "b": (("web", "TCP", 80), ("dns", "UDP", 80)),
    "c": (("web", "TCP", 81), ("dns", "UDP", 80)),
}
"""A name means another port in some pods."""


@dataclass(frozen=True)
class State:
    """`labels`: of pods ("x/a") or namespaces ("x") that are not the usual ones. `new`: pods that are deleted and made anew before."""

    policies: Sequence[Doc] = ()
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    new: Sequence[str] = ()


@dataclass(frozen=True)
class Addresses:
    """What ipBlocks of a case speak of: the whole VPC, everything, and a pod's own block by its name."""

    vpc: str
    everything: str
    of: Mapping[str, str]


def usual_labels(name: str) -> dict[str, str]:
    """Return the labels of a namespace or of a pod."""
    namespace, _, pod = name.partition("/")
    return {"pod": pod} if pod else {"ns": namespace}


def policy(name: str, spec: Doc, *, namespace: str = "x") -> Doc:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def labelled(**labels: str) -> Doc:
    return {"matchLabels": labels}


def expression(key: str, operator: str, *values: str) -> Doc:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


A: Doc = labelled(pod="a")
EVERY: Doc = {}


def one_way(direction: str, *rules: Doc, pods: Doc = A, namespace: str = "x") -> Doc:
    """Return a policy that isolates pods in one direction and has these rules."""
    spec = {"podSelector": pods, "policyTypes": [direction.capitalize()], direction: list(rules)}
    return policy(f"{direction}-{namespace}", spec, namespace=namespace)


def peers(at: Addresses) -> Iterator[tuple[str, list[Doc]]]:
    """Yield every kind of peer list."""

    def block(cidr: str, *excepts: str) -> Doc:
        return {"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}

    pod_b, in_y = {"podSelector": labelled(pod="b")}, {"namespaceSelector": labelled(ns="y")}
    yield "all pods of the namespace", [{"podSelector": EVERY}]
    yield "a pod by label", [pod_b]
    yield "pods by In", [{"podSelector": expression("pod", "In", "b", "c")}]
    yield "pods by NotIn", [{"podSelector": expression("pod", "NotIn", "b")}]
    yield "pods by Exists", [{"podSelector": expression("pod", "Exists")}]
    yield "pods by DoesNotExist", [{"podSelector": expression("pod", "DoesNotExist")}]
    yield "pods by label and expression", [{"podSelector": {**labelled(pod="b"), **expression("pod", "NotIn", "c")}}]
    yield "all namespaces", [{"namespaceSelector": EVERY}]
    yield "a namespace by label", [in_y]
    yield "namespaces by In", [{"namespaceSelector": expression("ns", "In", "y", "z")}]
    yield "namespaces by NotIn", [{"namespaceSelector": expression("ns", "NotIn", "x")}]
    yield "no namespace", [{"namespaceSelector": labelled(ns="none")}]
    yield "a pod of a namespace", [{**in_y, **pod_b}]
    yield "a pod of every namespace", [{"namespaceSelector": EVERY, **pod_b}]
    yield (
        "some pods of some namespaces",
        [
            {
                "namespaceSelector": expression("ns", "NotIn", "z"),
                "podSelector": expression("pod", "In", "a", "c"),
            }
        ],
    )
    yield "a pod here or a namespace", [pod_b, in_y]
    yield "everything", [block(at.everything)]
    yield "the VPC", [block(at.vpc)]
    yield "the VPC but a pod", [block(at.vpc, at.of["y/b"])]
    yield "the VPC but two pods", [block(at.vpc, at.of["x/b"], at.of["z/c"])]
    yield "a pod by address", [block(at.of["y/b"])]
    yield "an exception that another block allows", [block(at.vpc, at.of["y/b"]), block(at.of["y/b"])]
    yield "an exception that a selector allows", [block(at.vpc, at.of["x/b"]), pod_b]


def ports() -> Iterator[tuple[str, list[Doc]]]:
    """Yield every kind of port list."""
    yield "a TCP port", [{"protocol": "TCP", "port": 80}]
    yield "a port without a protocol", [{"port": 81}]
    yield "a UDP port", [{"protocol": "UDP", "port": 80}]
    yield "a protocol alone", [{"protocol": "UDP"}]
    yield "two ports", [{"protocol": "TCP", "port": 80}, {"protocol": "UDP", "port": 81}]
    yield "a named TCP port", [{"protocol": "TCP", "port": "web"}]
    yield "a named UDP port", [{"protocol": "UDP", "port": "dns"}]
    yield "a name of another protocol", [{"protocol": "UDP", "port": "web"}]
    yield "a name that nobody has", [{"port": "none"}]
    yield "a range", [{"protocol": "TCP", "port": 80, "endPort": 81}]
    yield "a range that ends before", [{"protocol": "TCP", "port": 79, "endPort": 80}]
    yield "a range of all ports", [{"protocol": "UDP", "port": 1, "endPort": 65535}]
    yield "a port that nobody serves", [{"port": 82}]
    yield "another protocol", [{"protocol": "SCTP", "port": 80}]


def cases(at: Addresses) -> dict[str, list[State]]:
    """Return all cases by name."""
    found: dict[str, list[State]] = {"no policy": [State()]}
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for what, listed in peers(at):
            found[f"{direction}: {what}"] = [State([one_way(direction, {side: listed})])]
        for what, chosen in ports():
            found[f"{direction}: {what}"] = [State([one_way(direction, {"ports": chosen})])]
            some = {side: [{"namespaceSelector": labelled(ns="y")}], "ports": chosen}
            found[f"{direction}: {what}, a namespace"] = [State([one_way(direction, some)])]
        found |= {f"{direction}: {what}": [State(made)] for what, made in shapes(direction, side)}
    found |= {f"both: {what}": [State(made)] for what, made in together()}
    found |= {f"change: {what}": states for what, states in changes()}
    return found


def shapes(direction: str, side: str) -> Iterator[tuple[str, list[Doc]]]:
    """Yield policies whose form is what matters."""
    web = {"ports": [{"port": 80}]}
    yield "nothing", [one_way(direction)]
    yield "nothing, the whole namespace", [one_way(direction, pods=EVERY)]
    yield "an empty rule", [one_way(direction, {})]
    yield "an empty list of peers", [one_way(direction, {side: []})]
    yield "no ports", [one_way(direction, {side: [{"podSelector": EVERY}], "ports": []})]
    yield "two rules", [one_way(direction, {side: [{"podSelector": labelled(pod="b")}]}, web)]
    yield "pods by expression", [one_way(direction, web, pods=expression("pod", "In", "a", "b"))]
    yield "pods by DoesNotExist", [one_way(direction, pods=expression("pod", "DoesNotExist"))]
    yield (
        "every namespace for itself",
        [
            one_way(direction, {side: [{"podSelector": EVERY}]}, pods=EVERY, namespace=namespace)
            for namespace in NAMESPACES
        ],
    )


def together() -> Iterator[tuple[str, list[Doc]]]:
    """Yield several policies, and such of both directions."""
    inward, outward = {"from": [{"podSelector": labelled(pod="b")}]}, {"to": [{"podSelector": labelled(pod="a")}]}
    nothing = {"podSelector": A, "policyTypes": ["Ingress", "Egress"]}
    web_b = policy("web-b", {"podSelector": A, "ingress": [{**inward, "ports": [{"port": 80}]}]})
    udp_y = policy(
        "udp-y",
        {
            "podSelector": A,
            "ingress": [{"from": [{"namespaceSelector": labelled(ns="y")}], "ports": [{"protocol": "UDP"}]}],
        },
    )
    yield "nothing", [policy("nothing", nothing)]
    yield (
        "nothing, everywhere",
        [policy("nothing", {**nothing, "podSelector": EVERY}, namespace=namespace) for namespace in NAMESPACES],
    )
    yield "types by their absence", [policy("absent", {"podSelector": A, "egress": [outward]})]
    yield (
        "ingress rules without the type",
        [policy("only-egress", {"podSelector": A, "policyTypes": ["Egress"], "ingress": [inward]})],
    )
    yield "rules of both", [policy("both", {**nothing, "ingress": [inward], "egress": [{"ports": [{"port": 80}]}]})]
    yield "two policies add up", [web_b, udp_y]
    yield "one denies, one allows", [policy("nothing", nothing), web_b]
    yield "one allows all", [policy("nothing", nothing), one_way("ingress", {}), one_way("egress", {})]
    yield (
        "out of the one, not into the other",
        [
            one_way("egress", {"to": [{"podSelector": labelled(pod="b")}]}),
            one_way("ingress", {"from": [{"podSelector": labelled(pod="c")}]}, pods=labelled(pod="b")),
        ],
    )
    yield (
        "out of the one and into the other",
        [
            one_way("egress", {"to": [{"podSelector": labelled(pod="b")}]}),
            one_way("ingress", {"from": [{"podSelector": A}], "ports": [{"port": 81}]}, pods=labelled(pod="b")),
        ],
    )
    yield (
        "namespaces in a ring",
        [
            one_way("egress", {"to": [{"namespaceSelector": labelled(ns=to)}]}, pods=EVERY, namespace=namespace)
            for namespace, to in (("x", "y"), ("y", "z"), ("z", "x"))
        ],
    )


def changes() -> Iterator[tuple[str, list[State]]]:
    """Yield what changes while traffic runs; the last state of each is unlike the first."""
    friends = one_way("ingress", {"from": [{"podSelector": labelled(role="friend")}]})
    of_team = one_way("ingress", {"from": [{"namespaceSelector": labelled(team="one")}]})
    only_b = [one_way("ingress", {"from": [{"podSelector": labelled(pod="b")}]})]
    befriended = {"x/b": {"pod": "b", "role": "friend"}}
    yield "a pod becomes a peer and is none again", [
        State([friends]), State([friends], befriended), State([friends])]  # fmt: skip
    yield "a namespace becomes a peer and is none again", [
        State([of_team]), State([of_team], {"y": {"ns": "y", "team": "one"}}), State([of_team])]  # fmt: skip
    yield "a pod comes under a policy and leaves it", [
        State(only_b), State(only_b, {"x/c": {"pod": "a"}}), State(only_b, {"x/a": {"pod": "other"}})]  # fmt: skip
    yield "a policy gets other peers", [
        State(only_b), State([one_way("ingress", {"from": [{"podSelector": labelled(pod="c")}]})])]  # fmt: skip
    yield "a policy gets other ports", [
        State([one_way("ingress", {"ports": [{"port": 80}]})]), State([one_way("ingress", {"ports": [{"port": 81}]})])]  # fmt: skip
    yield "a policy gets other pods", [
        State(only_b), State([one_way("ingress", *only_b[0]["spec"]["ingress"], pods=labelled(pod="c"))])]  # fmt: skip
    yield (
        "a policy turns round",
        [
            State([policy("turns", {"podSelector": A, "policyTypes": ["Ingress"]})]),
            State([policy("turns", {"podSelector": A, "policyTypes": ["Egress"]})]),
        ],
    )
    yield "policies come and go one by one", [
        State(only_b), State([*only_b, one_way("egress")]), State([one_way("egress")]), State()]  # fmt: skip
    yield "an isolated pod is made anew", [State(only_b), State(only_b, new=["x/a"])]
    yield "a peer is made anew", [State(only_b), State(only_b, new=["x/b"])]
    named = [one_way("ingress", {"ports": [{"protocol": "TCP", "port": "web"}]}, pods=EVERY)]
    yield "a pod of named ports is made anew", [State(named), State(named, new=["x/c", "x/a"])]
    yield "everybody is made anew", [State(only_b, new=[f"x/{pod}" for pod in PODS])]
