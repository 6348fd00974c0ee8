"""The statements about traffic of spec policy.md 8.1 to 8.3, and of 8.6 and 8.7 some, each as it is written there, on real pods of two nodes.

Pod a of namespace x is the one under test. The matrix proves every cell against the evaluator; here the cells that a statement is about are
written down by hand. T-021 to T-023 are about changes: `test_changes_of_labels_and_pods_are_followed`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from support.sockets import connects
from support.traffic import Cell
from support.waiting import until
from tests.lab.policy.cases import EVERY, A, Addresses, Doc, State, expression, labelled, one_way, policy
from tests.lab.policy.conftest import CONVERGED_WITHIN_S, Conformance

from vpccni.lab.node import Node

Policies = Callable[[Addresses], list[Doc]]
POD_B, IN_Y = {"podSelector": labelled(pod="b")}, {"namespaceSelector": labelled(ns="y")}
MANY_PORTS = [{"port": port} for port in (*range(1000, 1022), 80, 81)]


@dataclass(frozen=True)
class Row:
    """Which cells the policies open and which they close. A cell is "source destination protocol port"."""

    names: tuple[str, ...]
    policies: Policies
    reached: str
    refused: str = ""


def always(*policies: Doc) -> Policies:
    return lambda _: list(policies)


def of_a(ingress: list[Doc], **more: Doc | list[Doc]) -> Doc:
    """Return a policy of pod a without policyTypes."""
    return policy("p", {"podSelector": A, "ingress": ingress, **more})


def block(cidr: str, *excepts: str) -> Doc:
    return {"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}


ROWS = [
    Row(("003",), always(one_way("egress")), "x/b x/a TCP 80, z/c x/a UDP 80", "x/a x/b TCP 80, x/a z/c UDP 80"),
    Row(("004",), always(of_a([{"from": [POD_B]}])), "x/a z/c TCP 80, x/b x/a TCP 80", "x/c x/a TCP 80"),
    Row(
        ("005",),
        always(policy("p", {"podSelector": A, "egress": [{"to": [POD_B]}]})),
        "x/a x/b TCP 80",
        "x/a x/c TCP 80, x/b x/a TCP 80",
    ),
    Row(("006",), always(one_way("ingress", {})), "x/b x/a TCP 80, y/a x/a UDP 81, z/c x/a TCP 81"),
    Row(
        ("009",),
        always(one_way("ingress", {"from": [{"podSelector": labelled(pod="none")}]})),
        "x/a x/b TCP 80",
        "x/b x/a TCP 80, y/b x/a UDP 80",
    ),
    Row(
        ("010",),
        always(one_way("egress", {"to": [POD_B]}), one_way("ingress", pods=labelled(pod="b"))),
        "x/b x/a TCP 80",
        "x/a x/b TCP 80, x/a x/c TCP 80",
    ),
    Row(
        ("010",),
        always(one_way("egress"), one_way("ingress", {"from": [{"podSelector": A}]}, pods=labelled(pod="b"))),
        "x/b x/a TCP 80",
        "x/a x/b TCP 80",
    ),
    Row(("012",), always(one_way("ingress")), "x/b y/a TCP 80, y/b y/a TCP 80", "x/b x/a TCP 80, y/b x/a TCP 80"),
    Row(
        ("017",),
        always(one_way("ingress", {"from": [IN_Y]})),
        "y/a x/a TCP 80, y/b x/a UDP 81, y/c x/a TCP 81",
        "x/b x/a TCP 80, z/a x/a TCP 80",
    ),
    Row(
        ("018",),
        always(one_way("ingress", {"from": [{**IN_Y, **POD_B}]})),
        "y/b x/a TCP 80",
        "y/a x/a TCP 80, x/b x/a TCP 80",
    ),
    Row(
        ("018",),
        always(one_way("ingress", {"from": [IN_Y, POD_B]})),
        "y/b x/a TCP 80, y/a x/a TCP 80, x/b x/a TCP 80",
        "x/c x/a TCP 80, z/b x/a TCP 80",
    ),
    Row(
        ("019",),
        always(one_way("ingress", {"from": [{"namespaceSelector": EVERY, **POD_B}]})),
        "x/b x/a TCP 80, y/b x/a TCP 80, z/b x/a TCP 80",
        "x/c x/a TCP 80, y/a x/a TCP 80",
    ),
    Row(
        ("020",),
        always(
            one_way(
                "ingress",
                {
                    "from": [
                        {
                            "namespaceSelector": expression("ns", "In", "y"),
                            "podSelector": expression("pod", "NotIn", "b"),
                        },
                        {
                            "namespaceSelector": expression("none", "DoesNotExist"),
                            "podSelector": expression("no", "Exists"),
                        },
                    ]
                },
            )
        ),
        "y/a x/a TCP 80, y/c x/a TCP 80",
        "y/b x/a TCP 80, x/b x/a TCP 80, z/a x/a TCP 80",
    ),
    Row(
        ("026",),
        lambda at: [one_way("ingress", {"from": [block(at.of["y/b"])]})],
        "y/b x/a TCP 80",
        "y/a x/a TCP 80, x/b x/a TCP 80",
    ),
    Row(
        ("028",),
        lambda at: [one_way("ingress", {"from": [block(at.everything, at.of["y/b"])]})],
        "y/a x/a TCP 80, z/c x/a UDP 81",
        "y/b x/a TCP 80, y/b x/a UDP 80",
    ),
    Row(
        ("035",),
        lambda at: [one_way("ingress", {"from": [block("0.0.0.0/0" if ":" in at.vpc else "::/0"), POD_B]})],
        "x/b x/a TCP 80",
        "y/b x/a TCP 80",
    ),
    Row(
        ("041", "042", "044"),
        always(one_way("ingress", {"ports": [{"port": "web"}]}, pods=EVERY)),
        "y/a x/a TCP 80, y/a x/c TCP 81",
        "y/a x/a TCP 81, y/a x/c TCP 80, y/a x/a UDP 80",
    ),
    Row(
        ("042",),
        always(one_way("ingress", {"ports": [{"protocol": "UDP", "port": "web"}]})),
        "x/a x/b TCP 80",
        "x/b x/a TCP 80, x/b x/a UDP 80, x/b x/a UDP 81",
    ),
    Row(
        ("043",),
        always(one_way("ingress", {"ports": [{"port": "nobody"}]})),
        "x/a x/b TCP 80",
        "x/b x/a TCP 80, x/b x/a UDP 81",
    ),
    Row(
        ("045",),
        always(one_way("egress", {"to": [{"podSelector": EVERY}], "ports": [{"protocol": "UDP", "port": "dns"}]})),
        "x/a x/b UDP 80, x/a x/c UDP 80",
        "x/a x/b UDP 81, x/a x/c TCP 80",
    ),
    Row(
        ("046",),
        lambda at: [one_way("egress", {"to": [block(at.everything)], "ports": [{"port": "web"}]})],
        "x/b x/a TCP 80",
        "x/a x/b TCP 80, x/a y/a TCP 80, x/a y/c TCP 81",
    ),
    Row(
        ("047",),
        always(one_way("ingress", {"from": [POD_B], "ports": [{"port": 80}, {"port": 81}]})),
        "x/b x/a TCP 80, x/b x/a TCP 81",
        "x/b x/a UDP 80, x/c x/a TCP 80",
    ),
    Row(
        ("048",),
        lambda at: [one_way("ingress", {"from": [block(at.vpc)], "ports": MANY_PORTS})],
        "x/b x/a TCP 80, x/b x/a TCP 81",
        "x/b x/a UDP 80",
    ),
]


def cells(text: str) -> set[Cell]:
    parts = [one.split() for one in text.split(",") if one.strip()]
    return {Cell(source, destination, protocol, int(port)) for source, destination, protocol, port in parts}


def _marked(row: Row, number: int) -> object:
    names = [f"policy.T-{name}" for name in row.names]
    return pytest.param(row, marks=pytest.mark.spec(*names), id=f"{'+'.join(row.names)}-{number}")


def becomes(conformance: Conformance, state: State, *, reached: str, refused: str) -> None:
    """Bring the cluster there; return when the cells are as said, and everything else as the evaluator says."""
    conformance.become(state)
    conformance.holds()
    table = conformance.traffic.table()
    assert cells(reached) - table == set()
    assert cells(refused) & table == set()


@pytest.mark.parametrize("row", [_marked(row, number) for number, row in enumerate(ROWS)])
def test_a_statement_holds(conformance: Conformance, row: Row) -> None:
    state = State(row.policies(conformance.addresses))
    becomes(conformance, state, reached=row.reached, refused=row.refused)


@pytest.mark.spec("policy.T-013")
def test_a_pod_that_a_changed_selector_leaves_is_free_though_another_namespace_has_a_policy_of_that_name(
    conformance: Conformance,
) -> None:
    elsewhere = policy("p", {"podSelector": EVERY, "policyTypes": ["Ingress"]}, namespace="y")
    closed = policy("p", {"podSelector": A, "policyTypes": ["Ingress"]})
    becomes(conformance, State([closed, elsewhere]), reached="x/a x/b TCP 80", refused="x/b x/a TCP 80")
    moved = policy("p", {"podSelector": labelled(pod="c"), "policyTypes": ["Ingress"]})
    becomes(conformance, State([moved, elsewhere]), reached="x/b x/a TCP 80", refused="x/b x/c TCP 80, x/b y/a TCP 80")


@pytest.mark.spec("policy.T-021", "policy.T-022")
def test_changes_of_labels_are_followed(conformance: Conformance) -> None:
    peers = [{"podSelector": labelled(role="friend")}, {"namespaceSelector": labelled(team="one")}]
    policies = [one_way("ingress", {"from": peers})]
    friend, team = {"x/b": {"pod": "b", "role": "friend"}}, {"y": {"ns": "y", "team": "one"}}
    nobody = "x/b x/a TCP 80, y/a x/a TCP 80"
    becomes(conformance, State(policies), reached="x/a x/b TCP 80", refused=nobody)
    becomes(conformance, State(policies, friend), reached="x/b x/a TCP 80", refused="y/a x/a TCP 80, x/c x/a TCP 80")
    becomes(conformance, State(policies, team), reached="y/a x/a TCP 80", refused="x/b x/a TCP 80, z/a x/a TCP 80")
    becomes(conformance, State(policies), reached="x/a x/b TCP 80", refused=nobody)


@pytest.mark.spec("policy.T-023")
def test_a_pod_that_gets_the_address_of_a_peer_does_not_get_its_access(conformance: Conformance) -> None:
    policies = [one_way("ingress", {"from": [{"podSelector": labelled(role="friend")}]})]
    friend = State(policies, {"x/b": {"pod": "b", "role": "friend"}})
    becomes(conformance, friend, reached="x/b x/a TCP 80", refused="x/c x/a TCP 80")
    wanted = conformance.addresses.of["x/b"]

    def has_it() -> bool:
        conformance.become(State(policies, new=["x/b"]))
        return conformance.addresses.of["x/b"] == wanted

    until(has_it, f"{wanted} is not given out again", within_s=4 * CONVERGED_WITHIN_S)
    becomes(conformance, State(policies), reached="x/a x/b TCP 80", refused="x/b x/a TCP 80")


# -- other kinds of policies, and nodes

AWS = "/apis/networking.k8s.aws/v1alpha1"
SUBJECT = {"pods": {"namespaceSelector": labelled(ns="x"), "podSelector": A}}
OF_Y = {"namespaces": labelled(ns="y")}


@contextlib.contextmanager
def applied(conformance: Conformance, path: str, spec: Doc) -> Iterator[None]:
    """Apply an object of AWS's kinds beside no other policy."""
    conformance.become(State())
    conformance.lab.kube("POST", f"{AWS}/{path}", {"metadata": {"name": "p"}, "spec": spec})
    try:
        yield
    finally:
        conformance.lab.kube("DELETE", f"{AWS}/{path}/p")
        conformance.holds()


def becomes_so(conformance: Conformance, *, reached: str, refused: str) -> None:
    """Wait until the cells are as said."""

    def wrong() -> set[Cell]:
        table = conformance.traffic.table()
        return (cells(reached) - table) | (cells(refused) & table)

    until(lambda: not wrong(), lambda: f"other than said: {wrong()}", within_s=CONVERGED_WITHIN_S)


@pytest.mark.spec("policy.T-015")
def test_an_application_policy_without_types_and_rules_isolates_ingress(conformance: Conformance) -> None:
    with applied(conformance, "namespaces/x/applicationnetworkpolicies", {"podSelector": A}):
        becomes_so(conformance, reached="x/a x/b TCP 80, x/b x/c TCP 80", refused="x/b x/a TCP 80, z/c x/a UDP 80")


@pytest.mark.spec("policy.T-115")
def test_a_cluster_policy_treats_each_protocol_by_its_own_rule(conformance: Conformance) -> None:
    every_port = {"start": 1, "end": 65535}
    rules = [
        {"action": action, "from": [OF_Y], "ports": [{"portRange": {"protocol": protocol, **every_port}}]}
        for action, protocol in (("Accept", "UDP"), ("Deny", "TCP"))
    ]
    spec = {"tier": "Admin", "priority": 10, "subject": SUBJECT, "ingress": rules}
    with applied(conformance, "clusternetworkpolicies", spec):
        becomes_so(
            conformance,
            reached="y/b x/a UDP 80, y/b x/a UDP 81, z/b x/a TCP 80",
            refused="y/b x/a TCP 80, y/a x/a TCP 81",
        )


@pytest.mark.spec("policy.T-118")
def test_a_peer_that_matches_nothing_does_not_keep_the_next_from_being_used(conformance: Conformance) -> None:
    rules = [{"action": "Deny", "from": [{"namespaces": labelled(ns="none")}, OF_Y]}]
    spec = {"tier": "Admin", "priority": 10, "subject": SUBJECT, "ingress": rules}
    with applied(conformance, "clusternetworkpolicies", spec):
        becomes_so(conformance, reached="x/b x/a TCP 80, z/a x/a UDP 80", refused="y/a x/a TCP 80, y/c x/a UDP 81")


@pytest.mark.spec("policy.T-095")
def test_who_comes_from_another_node_itself_needs_to_be_allowed(conformance: Conformance) -> None:
    pod = conformance.lab.pod("a", "x")
    own, other = sorted(conformance.lab.nodes, key=lambda node: node.name != pod.node)

    def lets_in(node: Node) -> bool:
        return connects(node.netns_path, pod.address, 80, source=address_of(node))

    becomes(conformance, State([one_way("ingress")]), reached="x/a x/b TCP 80", refused="x/b x/a TCP 80")
    assert lets_in(own)
    assert not lets_in(other)
    bits = 128 if ":" in address_of(other) else 32
    allowed = one_way("ingress", {"from": [block(f"{address_of(other)}/{bits}")]})
    becomes(conformance, State([allowed]), reached="x/a x/b TCP 80", refused="x/b x/a TCP 80")
    assert lets_in(other)


def address_of(node: Node) -> str:
    return node.primary_ipv6 or node.primary_address
