"""Whole nodes with all processes: pods get addresses by custom networking, by prefixes and by tagged subnets, and reach each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest
from tests.lab.eni_manager.test_custom import CONFIGS, LABEL

from vpccni.lab.api import Lab
from vpccni.lab.fabric import INTERNET_ADDRESS

PODS_A = IPv4Network("10.0.160.0/19")


@contextmanager
def lab_with(kind: str, env: Mapping[str, str], *, nodes: int = 2) -> Iterator[Lab]:
    """A lab whose node processes are not started yet."""
    with Lab.up(f"{kind}-{os.getpid() % 10000}", nodes=nodes, env=dict(env), start_processes=False) as lab:
        yield lab


def reaches(lab: Lab, pod: str, address: str) -> bool:
    return lab.pod(pod).exec(["ping", "-c1", "-W2", address], check=False).returncode == 0


def subnet_named(lab: Lab, name: str) -> str:
    return next(str(row["id"]) for row in lab.facts["subnets"] if row["name"] == name)


def test_pods_of_custom_networking_live_in_the_configs_subnet_and_reach_pods_nodes_and_the_internet() -> None:
    with lab_with("cus", {"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "WARM_IP_TARGET": "2"}) as lab:
        spec = {"subnet": subnet_named(lab, "pods-a"), "securityGroups": ["sg-pods"]}
        lab.kube("POST", CONFIGS, {"metadata": {"name": "zone-a"}, "spec": spec})
        for node in lab.nodes:
            lab.kube("PATCH", f"/api/v1/nodes/{node.name}", {"metadata": {"labels": {LABEL: "zone-a"}}})
        lab.start_processes()
        one, two = lab.add_pod("node-1", "one"), lab.add_pod("node-2", "two")
        assert IPv4Address(one.address) in PODS_A
        assert IPv4Address(two.address) in PODS_A
        assert reaches(lab, "one", two.address)
        assert reaches(lab, "one", lab.node("node-2").primary_address)
        assert reaches(lab, "one", INTERNET_ADDRESS)


@pytest.mark.spec("ipam.W22")
def test_a_node_by_prefix_serves_more_pods_than_it_has_slots_on_its_primary() -> None:
    settings = {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}
    with lab_with("pre", settings) as lab:
        lab.start_processes()
        pods = [lab.add_pod("node-1", f"pod-{number}") for number in range(12)]
        other = lab.add_pod("node-2", "other")
        assert all(reaches(lab, pod.name, other.address) for pod in pods[-2:])
        assert len([row for row in lab.ec2_picture() if row["node"] == "node-1"]) == 1
        lab.delete_pod("pod-3")
        again = lab.add_pod("node-1", "again")
        assert reaches(lab, "again", other.address)
        assert again.address not in {pod.address for pod in pods if pod.name != "pod-3"}


def test_pods_move_to_a_tagged_subnet_when_the_nodes_own_is_full() -> None:
    with lab_with("tag", {"WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1", "MINIMUM_IP_TARGET": "1"}) as lab:
        lab.ec2_subnet("pods-a", tags={"kubernetes.io/role/cni": "1"})
        lab.start_processes()
        lab.add_pod("node-1", "first")
        lab.ec2_subnet("nodes-a", leave=0)
        lab.ec2_subnet("pods-a", give_back=True)
        pods = [lab.add_pod("node-1", f"pod-{number}") for number in range(3)]
        there = [pod for pod in pods if IPv4Address(pod.address) in PODS_A]
        assert there
        other = lab.add_pod("node-2", "other")
        assert reaches(lab, there[0].name, other.address)
