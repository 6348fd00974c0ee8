"""The process on a node, and a client of its sockets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import tests.lab.node.conftest as of_a_node
from support.waiting import until

from vpccni.components.compat import messages
from vpccni.components.compat.messages import (
    AddNetworkReply,
    AddNetworkRequest,
    DelNetworkReply,
    DelNetworkRequest,
    HealthCheckRequest,
    HealthCheckResponse,
)
from vpccni.components.compat.wire import ProtoMessage, decode, encode

ANSWERS_WITHIN_S = 10.0


node = of_a_node.node
"""The fixture of the node's own tests."""


class Compat:
    """The process on the node, and a client of its two Unix sockets."""

    def __init__(self, of: Any) -> None:
        self.node = of
        self.log = open(of.node.folder / "compat.log", "ab")  # noqa: SIM115  closed in `close`
        self.process = of.node.popen(
            [sys.executable, "-m", "vpccni.components.compat", "--run-dir", "/run/aws-node"],
            stdout=self.log.fileno(),
            stderr=self.log.fileno(),
        )

    def path(self, name: str) -> str:
        return str(self.node.node.root / name)

    def call(self, method: str, request: ProtoMessage, *, of: str = "ipamd.sock", timeout_s: float = 10.0) -> bytes:
        with grpc.insecure_channel(f"unix:{self.path(of)}") as channel:
            answer: bytes = channel.unary_unary(method)(encode(request), timeout=timeout_s)
            return answer

    def add(self, container: str, **more: Any) -> AddNetworkReply:
        request = AddNetworkRequest(
            pod_name="web", pod_namespace="default", container_id=container, ifname="eth0", network_name="aws-cni", **more
        )  # fmt: skip
        return decode(AddNetworkReply, self.call(messages.ADD_NETWORK, request))

    def delete(self, container: str) -> DelNetworkReply:
        request = DelNetworkRequest(container_id=container, ifname="eth0", network_name="aws-cni", reason="PodDeleted")
        return decode(DelNetworkReply, self.call(messages.DEL_NETWORK, request))

    def health(self, service: str = "", *, of: str = "ipamd.sock") -> int:
        answer = self.call(messages.HEALTH, HealthCheckRequest(service), of=of, timeout_s=2.0)
        return decode(HealthCheckResponse, answer).status

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


@pytest.fixture(scope="module")
def compat(node: Any) -> Iterator[Compat]:
    one = Compat(node)
    try:
        until(lambda: _serves(one), lambda: one.log.name, within_s=ANSWERS_WITHIN_S)
        yield one
    finally:
        one.close()


def _serves(one: Compat) -> bool:
    try:
        return one.health() == messages.SERVING
    except grpc.RpcError:
        return False


def held(compat: Compat) -> list[str]:
    document = json.loads((compat.node.node.root / "ipam.json").read_text())
    return [entry["ipv4"] for entry in document["allocations"]]
