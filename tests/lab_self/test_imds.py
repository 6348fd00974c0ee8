"""Instance metadata as a node reads it."""

from __future__ import annotations

import time
from typing import Any

from vpccni.lab.api import Lab, Node

BASE = "http://169.254.169.254/latest"


def fetch(node: Node, path: str, *more: str) -> tuple[int, str]:
    out = node.exec(["curl", "-s", "-m", "5", "-w", "\n%{http_code}", *more, f"{BASE}/{path}"]).stdout
    text, _, status = out.rpartition("\n")
    return int(status), text


def token(node: Node) -> str:
    status, text = fetch(node, "api/token", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 300")
    assert status == 200
    return text


def read(node: Node, path: str) -> tuple[int, str]:
    return fetch(node, path, "-H", f"X-aws-ec2-metadata-token: {token(node)}")


def test_without_a_token_metadata_is_refused(lab: Lab) -> None:
    assert fetch(lab.nodes[0], "meta-data/mac")[0] == 401
    assert fetch(lab.nodes[0], "api/token", "-X", "PUT")[0] == 400


def test_each_node_reads_its_own_identity(lab: Lab) -> None:
    for node in lab.nodes:
        assert read(node, "meta-data/instance-id") == (200, node.instance_id)
        assert read(node, "meta-data/local-ipv4") == (200, node.primary_address)
        mac = read(node, "meta-data/mac")[1]
        assert read(node, "meta-data/network/interfaces/macs/") == (200, f"{mac}/")
        assert read(node, f"meta-data/network/interfaces/macs/{mac}/local-ipv4s") == (200, node.primary_address)
        assert read(node, f"meta-data/network/interfaces/macs/{mac}/vpc-ipv4-cidr-blocks") == (200, "10.0.0.0/16")
        assert read(node, f"meta-data/network/interfaces/macs/{mac}/ipv4-prefix")[0] == 404
        assert '"region": "us-west-2"' in read(node, "dynamic/instance-identity/document")[1]


def test_metadata_shows_new_addresses_late_when_stale(lab: Lab, ec2: Any) -> None:
    node = lab.nodes[0]
    eni = next(e for e in lab.ec2_picture() if e["node"] == node.name)
    path = f"meta-data/network/interfaces/macs/{eni['MacAddress']}/local-ipv4s"
    time.sleep(0.3)
    lab.imds_fault(node.name, stale_s=0.2)
    new = ec2.assign_private_ip_addresses(
        NetworkInterfaceId=eni["NetworkInterfaceId"], SecondaryPrivateIpAddressCount=1
    )
    address = new["AssignedPrivateIpAddresses"][0]["PrivateIpAddress"]
    lab.imds_fault(node.name, stale_s=60)
    assert address not in read(node, path)[1]
    lab.ec2_clear()
    assert address in read(node, path)[1].split()
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni["NetworkInterfaceId"], PrivateIpAddresses=[address])


def test_a_path_can_be_refused_and_an_eni_hidden(lab: Lab) -> None:
    node = lab.nodes[0]
    lab.imds_fault(node.name, statuses={"meta-data/mac": 500})
    assert read(node, "meta-data/mac")[0] == 500
    eni = next(e for e in lab.ec2_picture() if e["node"] == node.name)
    lab.imds_fault(node.name, missing_enis=[eni["NetworkInterfaceId"]])
    assert read(node, "meta-data/network/interfaces/macs/")[0] == 404
