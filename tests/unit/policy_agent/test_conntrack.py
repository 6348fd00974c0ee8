from __future__ import annotations

import ipaddress
import struct

from vpccni.components.policy_agent.conntrack import OpenFlow, _flows
from vpccni.components.policy_agent.policy import Direction, prefix
from vpccni.components.policy_agent.rtnetlink import attribute


def value(address: str) -> int:
    return prefix(address).value


def direction(kind: int, source: str, source_port: int, destination: str, port: int) -> bytes:
    addresses = [ipaddress.ip_address(one) for one in (source, destination)]
    first = 1 if addresses[0].version == 4 else 3
    ip = b"".join(attribute(first + at, one.packed) for at, one in enumerate(addresses))
    ports = attribute(1, b"\x06") + attribute(2, struct.pack(">H", source_port)) + attribute(3, struct.pack(">H", port))
    return attribute(kind, attribute(1, ip) + attribute(2, ports))


def test_each_pod_of_a_connection_sees_it_as_it_meets_it_nat_included() -> None:
    """client 10.0.0.5 called the service 172.20.0.9:80, which is server 10.0.0.7:8080, and was given 10.0.0.1 as its source."""
    body = (
        bytes(4) + direction(1, "10.0.0.5", 40000, "172.20.0.9", 80) + direction(2, "10.0.0.7", 8080, "10.0.0.1", 50000)
    )
    client = OpenFlow(value("10.0.0.5"), 40000, value("172.20.0.9"), 80, 6, Direction.EGRESS)
    server = OpenFlow(value("10.0.0.7"), 8080, value("10.0.0.1"), 50000, 6, Direction.INGRESS)
    assert _flows(body, lambda _: True) == [client, server]
    assert _flows(body, {value("10.0.0.7")}.__contains__) == [server]


def test_ipv6_is_read_and_junk_is_none() -> None:
    body = bytes(4) + direction(1, "2001:db8::5", 1, "2001:db8::7", 2)
    assert [flow.local for flow in _flows(body, lambda _: True)] == [value("2001:db8::5")]
    assert _flows(bytes(4) + attribute(1, b"junk!!"), lambda _: True) == []
