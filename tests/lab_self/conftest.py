"""One lab without node processes for all tests here: each test makes and removes its own pods and ENIs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from support.waiting import until

from vpccni.lab.api import Lab, Node


def write_conflist(node: Node, number: int) -> None:
    """Put a network of Debian's plugins on a node: no part of ours is needed."""
    ipam = {"type": "host-local", "subnet": f"10.99.{number}.0/24", "routes": [{"dst": "0.0.0.0/0"}]}
    plugins = [
        {"type": "ptp", "mtu": 9001, "ipMasq": False, "ipam": ipam},
        {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}},
    ]
    conf = {"cniVersion": "0.4.0", "name": "ptp", "plugins": plugins}
    (node.filesystem / "etc/cni/net.d/10-ptp.conflist").write_text(json.dumps(conf))


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    with Lab.up(f"self-{os.getpid()}", start_processes=False) as lab:
        for number, node in enumerate(lab.nodes, start=1):
            write_conflist(node, number)
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    yield shared_lab
    shared_lab.ec2_clear()
    for pod in shared_lab.pods():
        shared_lab.delete_pod(pod.name, pod.namespace)


@pytest.fixture
def ec2(lab: Lab) -> Iterator[Any]:
    """An EC2 client whose sockets are opened in the VPC's namespace."""
    yield Ec2InVpc(lab)
    Ec2InVpc(lab).remove_all_extra_enis()


class Ec2InVpc:
    """Calls EC2 actions as botocore's client methods, from inside the VPC."""

    def __init__(self, lab: Lab) -> None:
        import boto3
        from botocore.config import Config

        self._lab = lab
        self._new: Any = lambda: boto3.client(
            "ec2", endpoint_url=lab.status()["endpoints"]["ec2"], region_name="us-west-2", aws_access_key_id="a",
            aws_secret_access_key="b", config=Config(retries={"total_max_attempts": 1}, read_timeout=10),
        )  # fmt: skip

    def __getattr__(self, action: str) -> Any:
        def call(**params: Any) -> Any:
            def ask() -> Any:
                client: Any = self._new()
                try:
                    return getattr(client, action)(**params)
                finally:
                    client.close()

            return self._lab.in_vpc(ask)

        return call

    def remove_all_extra_enis(self) -> None:
        for eni in self._lab.ec2_picture():
            eni_id, attachment = eni["NetworkInterfaceId"], eni.get("Attachment", {})
            if attachment.get("DeviceIndex") == 0:
                continue
            if attachment and attachment["Status"] != "detaching":
                self.detach_network_interface(AttachmentId=attachment["AttachmentId"], Force=True)
            until(lambda eni_id=eni_id: self._status(eni_id) == "available", f"{eni_id} is attached", within_s=5.0)
            self.delete_network_interface(NetworkInterfaceId=eni_id)

    def _status(self, eni_id: str) -> str:
        (status,) = [row["Status"] for row in self._lab.ec2_picture() if row["NetworkInterfaceId"] == eni_id]
        return str(status)
