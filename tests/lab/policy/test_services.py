"""A ClusterIP is judged by the backends (spec policy.md 3.7, W-18, T-096 to T-105): pods connect to it, the node translates as kube-proxy does.

There is no kube-proxy in the lab: `Services` writes the translation into the nodes' namespaces.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from support.sockets import connects, serving
from support.waiting import until

from vpccni.lab import vpc_plan
from vpccni.lab.api import Lab
from vpccni.lab.pod import Pod

CORE, SLICES = "/api/v1/namespaces/default", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
VIPS = "172.20.0"
PORT, TARGET = 80, 8080
IN_FORCE_WITHIN_S = 15.0
NO_ANSWER_S = 0.15
WEB, CLIENT = {"matchLabels": {"app": "web"}}, {"matchLabels": {"app": "client"}}


@dataclass(frozen=True)
class Service:
    """One port of a ClusterIP and who answers behind it."""

    name: str
    vip: str
    backends: tuple[Pod, ...]
    target: int = TARGET


class Services:
    """A client, and web servers on both nodes, one of which has a second label and serves on a second port."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.client = lab.add_pod("node-1", "client", labels={"app": "client"})
        self.near = lab.add_pod("node-1", "near", labels={"app": "web", "tier": "front"})
        self.far = lab.add_pod("node-2", "far", labels={"app": "web", "tier": "front"})
        self.other = lab.add_pod("node-2", "other", labels={"app": "other"})
        self.pods = (self.client, self.near, self.far, self.other)
        self._numbers = iter(range(10, 200))
        lab.start_policy_controller()

    @contextlib.contextmanager
    def service(self, name: str, *backends: Pod, target: int = TARGET) -> Iterator[Service]:
        """Make a service with one port 80."""
        one = Service(name, f"{VIPS}.{next(self._numbers)}", backends, target)
        ports = [{"port": PORT, "targetPort": target, "protocol": "TCP"}]
        self.lab.kube("POST", f"{CORE}/services", {"metadata": {"name": name}, "spec": {"clusterIP": one.vip, "clusterIPs": [one.vip], "ports": ports}})  # fmt: skip
        self.lab.kube("POST", SLICES, {"metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}}, **endpoints(one)})  # fmt: skip
        self._translate("add", one)
        try:
            yield one
        finally:
            self._translate("delete", one)
            self.lab.kube("DELETE", f"{SLICES}/{name}-1")
            self.lab.kube("DELETE", f"{CORE}/services/{name}")

    def _translate(self, verb: str, service: Service) -> None:
        for node in self.lab.nodes:
            node.exec(["nft", "-f", "-"], input=translation(verb, service))

    @contextlib.contextmanager
    def policy(self, **egress: Any) -> Iterator[None]:
        """Let the client connect to what this rule says and to nothing else."""
        spec = {"podSelector": CLIENT, "policyTypes": ["Egress"], "egress": [egress] if egress else []}
        body = {"metadata": {"name": "p", "namespace": "default"}, "spec": spec}
        self.lab.kube("POST", POLICIES, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **body})
        try:
            yield
        finally:
            self.lab.kube("DELETE", f"{POLICIES}/p")
            self.becomes(reached=[(self.other.address, TARGET)])

    def becomes(self, *, reached: Sequence[tuple[str, int]] = (), refused: Sequence[tuple[str, int]] = ()) -> None:
        """Wait until the client gets an answer at exactly these of the places, and see that it stays so."""
        seen: dict[tuple[str, int], bool] = {}

        def is_so() -> bool:
            seen.clear()
            seen.update(
                {one: connects(self.client.netns_path, *one, within_s=NO_ANSWER_S) for one in (*reached, *refused)}
            )
            return all(seen[one] for one in reached) and not any(seen[one] for one in refused)

        until(is_so, lambda: str(seen), within_s=IN_FORCE_WITHIN_S)
        assert is_so(), seen


def endpoints(service: Service) -> dict[str, Any]:
    return {
        "addressType": "IPv4",
        "ports": [{"name": "", "port": service.target, "protocol": "TCP"}],
        "endpoints": [{"addresses": [pod.address], "conditions": {"ready": True}} for pod in service.backends],
    }


def translation(verb: str, service: Service) -> str:
    """Return the table of a service: one of its backends, and the node's address for a pod that gets to itself."""
    table = f"ip service-{service.name}"
    if verb == "delete":
        return f"delete table {table}\n"
    targets = ", ".join(f"{number} : {pod.address} . {service.target}" for number, pod in enumerate(service.backends))
    chosen = f"numgen random mod {len(service.backends)} map {{ {targets} }}"
    itself = "\n".join(f"ip saddr {pod.address} ip daddr {pod.address} masquerade" for pod in service.backends)
    return f"""
table {table} {{
    chain translate {{
        type nat hook prerouting priority dstnat
        ip daddr {service.vip} tcp dport {PORT} dnat ip addr . port to {chosen}
    }}
    chain itself {{
        type nat hook postrouting priority srcnat
        {itself}
    }}
}}
"""


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with Lab.up(f"sv{os.getpid()}", nodes=2, env={"IP_COOLDOWN_PERIOD": "0"}) as lab, contextlib.ExitStack() as stack:
        one = Services(lab)
        for pod in one.pods:
            stack.enter_context(serving(pod, TARGET, TARGET + 1))
        yield one


def block(cidr: str, *excepts: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}


def test_the_translation_works_without_a_policy(services: Services) -> None:
    with services.service("web", services.near, services.far) as web:
        services.becomes(reached=[(web.vip, PORT)] * 6, refused=[(web.vip, 443)])


@pytest.mark.spec("policy.T-096")
def test_egress_to_the_pods_of_a_service_opens_its_port_and_no_other(services: Services) -> None:
    with (
        services.service("web", services.near, services.far) as web,
        services.service("else", services.other) as other,
        services.policy(to=[{"podSelector": WEB}], ports=[{"port": TARGET}]),
    ):
        open_ones = [(web.vip, PORT), (services.near.address, TARGET), (services.far.address, TARGET)]
        closed = [(web.vip, 443), (other.vip, PORT), (services.other.address, TARGET), (services.near.address, 8081)]
        services.becomes(reached=open_ones, refused=closed)


@pytest.mark.spec("policy.W-18", "policy.T-097")
def test_a_service_whose_selector_says_less_than_the_peer_is_open_when_every_backend_is_allowed(
    services: Services,
) -> None:
    front = {"podSelector": {"matchLabels": {"app": "web", "tier": "front"}}}
    with (
        services.service("web", services.near, services.far) as web,
        services.service("mixed", services.near, services.other) as mixed,
        services.policy(to=[front], ports=[{"port": TARGET}]),
    ):
        services.becomes(reached=[(web.vip, PORT)], refused=[(mixed.vip, PORT), (services.other.address, TARGET)])


@pytest.mark.spec("policy.W-18")
def test_a_block_with_the_backend_opens_the_service_and_one_with_the_address_alone_does_not(services: Services) -> None:
    far = f"{services.far.address}/32"
    with services.service("web", services.far) as web:
        with services.policy(to=[block(far)]):
            services.becomes(reached=[(web.vip, PORT)], refused=[(services.near.address, TARGET)])
        with services.policy(to=[block(f"{VIPS}.0/24")]):
            services.becomes(refused=[(web.vip, PORT), (services.far.address, TARGET)])
        with services.policy(to=[block("0.0.0.0/0", far)]):
            services.becomes(
                reached=[(services.near.address, TARGET)], refused=[(web.vip, PORT), (services.far.address, TARGET)]
            )


@pytest.mark.spec("policy.W-18")
def test_mixed_backends_are_refused_by_blocks_too(services: Services) -> None:
    with (
        services.service("mixed", services.near, services.far) as mixed,
        services.policy(to=[block(str(vpc_plan.VPC_CIDR), f"{services.near.address}/32")]),
    ):
        services.becomes(
            reached=[(services.far.address, TARGET)], refused=[(mixed.vip, PORT), (services.near.address, TARGET)]
        )


@pytest.mark.spec("policy.T-098")
def test_the_pods_of_a_headless_service_are_reached_by_their_own_addresses(services: Services) -> None:
    spec = {"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": PORT, "protocol": "TCP"}]}
    services.lab.kube("POST", f"{CORE}/services", {"metadata": {"name": "headless"}, "spec": spec})
    with services.policy(to=[{"podSelector": WEB}]):
        services.becomes(
            reached=[(services.near.address, TARGET), (services.far.address, TARGET)],
            refused=[(services.other.address, TARGET)],
        )
    services.lab.kube("DELETE", f"{CORE}/services/headless")


@pytest.mark.spec("policy.T-099")
def test_a_service_that_leads_to_a_port_which_is_not_allowed_stays_closed(services: Services) -> None:
    with (
        services.service("right", services.near) as right,
        services.service("wrong", services.near, target=TARGET + 1) as wrong,
        services.policy(to=[{"podSelector": WEB}], ports=[{"port": TARGET}]),
    ):
        services.becomes(reached=[(right.vip, PORT)], refused=[(wrong.vip, PORT)])


@pytest.mark.spec("policy.T-100")
def test_a_range_of_ports_opens_the_one_port_of_a_service(services: Services) -> None:
    with (
        services.service("web", services.near) as web,
        services.policy(to=[{"podSelector": WEB}], ports=[{"port": TARGET, "endPort": TARGET + 100}]),
    ):
        services.becomes(reached=[(web.vip, PORT)], refused=[(web.vip, port) for port in (PORT + 1, PORT + 50, TARGET)])


@pytest.mark.spec("policy.T-104")
def test_a_pod_reaches_itself_through_its_own_service_where_its_policy_allows_itself(services: Services) -> None:
    with services.service("own", services.client) as own:
        with services.policy(to=[{"podSelector": CLIENT}]):
            services.becomes(reached=[(own.vip, PORT)], refused=[(services.near.address, TARGET)])
        with services.policy(to=[{"podSelector": WEB}]):
            services.becomes(reached=[(services.near.address, TARGET)], refused=[(own.vip, PORT)])


@pytest.mark.spec("policy.T-105")
def test_access_follows_the_backends_of_a_service(services: Services) -> None:
    with (
        services.policy(to=[{"podSelector": WEB}], ports=[{"port": TARGET}]),
        services.service("web", services.near) as web,
    ):
        services.becomes(reached=[(web.vip, PORT)])
        mixed = Service(web.name, web.vip, (services.near, services.other))
        services.lab.kube("PATCH", f"{SLICES}/web-1", endpoints(mixed))
        services.becomes(refused=[(web.vip, PORT)])
        services.lab.kube("PATCH", f"{SLICES}/web-1", endpoints(web))
        services.becomes(reached=[(web.vip, PORT)])
