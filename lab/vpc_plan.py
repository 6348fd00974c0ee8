"""The addresses of the lab's VPC: one /19 a zone for nodes, small subnets for tests, and where the control plane answers."""

from __future__ import annotations

import secrets
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Final

from vpccni.lab.ec2_objects import Subnet

REGION: Final = "us-west-2"
VPC_CIDR: Final = IPv4Network("10.0.0.0/16")
VPC_CIDR_V6: Final = IPv6Network("2001:db8:0:100::/56")
SERVICE: Final = IPv4Address("10.0.255.10")
EC2_PORT: Final = 8000
KUBE_PORT: Final = 6443
EC2_URL: Final = f"http://{SERVICE}:{EC2_PORT}"
KUBE_URL: Final = f"http://{SERVICE}:{KUBE_PORT}"

_LAYOUT: Final = (
    ("10.0.96.0/19", "us-west-2a", {"Name": "nodes-a"}),
    ("10.0.128.0/19", "us-west-2b", {"Name": "nodes-b"}),
    ("10.0.160.0/19", "us-west-2a", {"Name": "pods-a"}),
    ("10.0.192.0/26", "us-west-2a", {"Name": "small-a"}),
    ("10.0.192.64/28", "us-west-2a", {"Name": "tiny-a"}),
)


def subnets() -> list[Subnet]:
    """Return the subnets with fresh ids; the first is where nodes live."""
    blocks = VPC_CIDR_V6.subnets(new_prefix=64)
    return [
        Subnet(
            id=f"subnet-{secrets.token_hex(8)}",
            cidr=IPv4Network(cidr),
            cidr_v6=next(blocks),
            zone=zone,
            tags=dict(tags),
        )
        for cidr, zone, tags in _LAYOUT
    ]
