"""A real gRPC client against the process on a node: what the original's plugin, probe and agent ask."""

from __future__ import annotations

import signal
import socket
import sys
import time
from typing import Any

import grpc
import pytest
from support.waiting import until
from tests.lab.compat.conftest import Compat, held

from vpccni.components.compat import messages
from vpccni.components.compat.messages import (
    AddNetworkReply,
    AddNetworkRequest,
    DeleteNpRequest,
    Empty,
    EnforceNpRequest,
    HealthCheckRequest,
    HealthCheckResponse,
    NetworkPolicyAgentConfigReply,
    NpReply,
)
from vpccni.components.compat.wire import decode, encode

ANSWERS_WITHIN_S = 10.0
PUT_BACK_WITHIN_S = 3.0
"""More than a repair takes, and than the programmer's heartbeat."""
LOOPBACK = """
import socket, sys
with socket.create_connection(("127.0.0.1", 50051), 2) as peer:
    peer.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes(3) + b"\\x04" + bytes(5))
    sys.exit(0 if peer.recv(9)[3] == 4 else 1)
"""
"""HTTP/2's preface and empty settings; settings (4) come back."""


@pytest.mark.spec("rpc.11.2", "rpc.11.3")
def test_an_address_is_given_once_however_often_it_is_asked_for_and_taken_back_once(compat: Compat) -> None:
    first = compat.add("c" * 64)
    assert first.success
    assert compat.add("c" * 64) == first
    assert held(compat) == [first.addresses[0].ipv4]
    assert first.addresses[0].route_table == 254
    assert first.vpc_cidrs == ["10.0.0.0/16"]
    gone = compat.delete("c" * 64)
    assert (gone.success, gone.addresses) == (True, first.addresses)
    with pytest.raises(grpc.RpcError) as refused:
        compat.delete("c" * 64)
    assert refused.value.code() == grpc.StatusCode.UNKNOWN
    assert "datastore: unknown pod" in refused.value.details()
    assert held(compat) == []


@pytest.mark.spec("dataplane.18.33")
def test_another_release_of_the_plugin_is_served_and_a_request_without_a_key_is_not(compat: Compat) -> None:
    assert compat.add("d" * 64, client_version="v1.22.2").success
    compat.delete("d" * 64)
    assert compat.add("") == AddNetworkReply()
    assert compat.add("e" * 64, multi_nic=True) == AddNetworkReply()  # ENABLE_MULTI_NIC is off


def test_an_agent_learns_of_the_node(compat: Compat) -> None:
    answer = compat.call(messages.POLICY_CONFIG, Empty())
    node = compat.node.node
    assert decode(NetworkPolicyAgentConfigReply, answer) == NetworkPolicyAgentConfigReply(
        mode="standard", node_ipv4=node.primary_address, instance_id=node.instance_id, region="us-west-2"
    )


def test_the_probe_is_answered_on_every_address(compat: Compat) -> None:
    assert compat.health() == compat.health("grpc.health.v1.aws-node") == messages.SERVING
    assert compat.health("grpc.health.v1.np-agent", of="npa.sock") == messages.SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        compat.health("somebody")
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
    assert compat.node.node.exec([sys.executable, "-c", LOOPBACK], check=False).returncode == 0


def test_a_pods_policy_is_put_in_force_for_the_originals_plugin(compat: Compat) -> None:
    pod = compat.node.add("judged")
    ask = EnforceNpRequest("judged", "default", "standard", 1)
    assert decode(NpReply, compat.call(messages.ENFORCE, ask, of="npa.sock")).success
    nobody = EnforceNpRequest("nobody", "default", "standard", 1)
    assert not decode(NpReply, compat.call(messages.ENFORCE, nobody, of="npa.sock")).success
    gone = DeleteNpRequest("judged", "default")
    assert decode(NpReply, compat.call(messages.DELETE, gone, of="npa.sock")).success
    compat.node.lab.delete_pod(pod.name)
    assert decode(NpReply, compat.call(messages.DELETE, gone, of="npa.sock")).success


def test_a_hung_programmer_is_not_serving_and_one_that_was_killed_is(compat: Compat) -> None:
    compat.node.node.kill("netlink_programmer", signal.SIGSTOP)
    try:
        assert compat.health() == messages.NOT_SERVING
    finally:
        compat.node.node.kill("netlink_programmer", signal.SIGCONT)
    until(lambda: compat.health() == messages.SERVING, "it is not serving again", within_s=ANSWERS_WITHIN_S)
    compat.node.node.kill("netlink_programmer")
    until(lambda: compat.health() == messages.SERVING, "it is not serving although it was started again", within_s=3.0)


@pytest.mark.spec("rpc.11.6")
def test_a_hung_allocator_fails_the_call_at_its_deadline(compat: Compat) -> None:
    compat.node.node.kill("ip_allocator", signal.SIGSTOP)
    began = time.monotonic()
    try:
        request = AddNetworkRequest(container_id="f" * 64, ifname="eth0", network_name="aws-cni")
        with pytest.raises(grpc.RpcError) as late:
            compat.call(messages.ADD_NETWORK, request, timeout_s=2.0)
        assert late.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert time.monotonic() - began < 4.0
    finally:
        compat.node.node.kill("ip_allocator", signal.SIGCONT)
    until(lambda: compat.add("f" * 64).success, "the allocator is back", within_s=ANSWERS_WITHIN_S)
    compat.delete("f" * 64)


@pytest.mark.spec("rpc.11.8")
@pytest.mark.parametrize(
    "junk",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(200), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 400, b"PRI * HTTP"],
    ids=["http1", "zeros", "broken frames", "cut"],
)
def test_junk_ends_its_own_connection_and_nothing_else(compat: Compat, junk: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(compat.path("ipamd.sock"))
        peer.sendall(junk)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(4096):
            pass
    assert compat.health() == messages.SERVING


def test_a_malformed_message_and_an_unknown_method_are_named(compat: Compat) -> None:
    with grpc.insecure_channel(f"unix:{compat.path('ipamd.sock')}") as channel:
        with pytest.raises(grpc.RpcError) as malformed:
            channel.unary_unary(messages.ADD_NETWORK)(b"\x0a\x05ab", timeout=5)
        with pytest.raises(grpc.RpcError) as unknown:
            channel.unary_unary("/rpc.CNIBackend/Nothing")(b"", timeout=5)
    assert malformed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_many_calls_on_one_connection_are_answered_beside_each_other(compat: Compat) -> None:
    with grpc.insecure_channel(f"unix:{compat.path('ipamd.sock')}") as channel:
        ask = channel.unary_unary(messages.HEALTH)
        answers = [ask.future(encode(HealthCheckRequest()), timeout=10) for _ in range(200)]
        assert {decode(HealthCheckResponse, answer.result()).status for answer in answers} == {messages.SERVING}


def test_a_socket_that_somebody_else_serves_is_left_to_him(compat: Compat) -> None:
    """The original's daemon and agent may run beside: their sockets are not taken away."""
    other = Compat(compat.node)
    try:
        assert other.process.wait(10) != 0  # the process is there already: one lock
    finally:
        other.log.close()
    assert compat.health() == messages.SERVING


def test_a_pod_that_the_originals_plugin_deletes_is_neither_put_back_nor_given_its_address_again(
    compat: Compat,
) -> None:
    node: Any = compat.node
    pod = node.add("leaves")
    to_pod = f"ip rule show to {pod.address} priority 512"
    assert node.shell(to_pod)
    compat.delete(pod.container_id)
    node.shell(f"ip rule del to {pod.address} priority 512; ip route del {pod.address}")  # as that plugin does next
    time.sleep(PUT_BACK_WITHIN_S)
    assert node.shell(to_pod) == ""
    assert pod.address not in held(compat)
    node.lab.delete_pod(pod.name)
