"""The node's own addresses: of both families, without those that meet no pod's filter; a new host veth is no news."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable
from contextlib import closing

from vpccni.components.policy_agent.node_addresses import NodeAddresses
from vpccni.lab.namespaces import CLONE_NEWNET, Place, call_in, unshare

TIMES_THAT_OVERFLOW = 2000
"""So many notifications do not fit into a socket's buffer of the usual size."""


def ip(words: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=words, text=True, check=True)


def alone(test: Callable[[NodeAddresses], None]) -> None:
    """Run `test` in a network namespace that ends with it."""

    def run() -> None:
        unshare(CLONE_NEWNET)
        with closing(NodeAddresses()) as found:
            test(found)

    call_in(Place(), run)


def add_pair(name: str) -> str:
    return f"link add {name} type veth peer name {name}p\nlink set {name} up\nlink set {name}p up\n"


def test_both_families_are_read_without_loopback_and_link_local() -> None:
    def test(found: NodeAddresses) -> None:
        ip(
            "link set lo up\n"
            + add_pair("eth0")
            + "addr add 10.0.0.7/24 dev eth0\naddr add fd00::7/64 dev eth0 nodad\n"
        )
        ip("addr add 169.254.1.1/32 dev eth0\n")
        assert found.read() == {ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("fd00::7")}

    alone(test)


def test_a_new_host_veth_is_no_news_and_an_address_of_the_node_is() -> None:
    def test(found: NodeAddresses) -> None:
        assert not found.has_news()
        ip(add_pair("eni0"))  # the kernel gives it a link-local address
        ip("addr add fe80::1/64 dev eni0 nodad\n")
        assert not found.has_news()
        ip("addr add 10.0.0.7/24 dev eni0\n")
        assert found.has_news()
        assert not found.has_news()
        ip("addr del 10.0.0.7/24 dev eni0\n")
        assert found.has_news()

    alone(test)


def test_what_was_lost_may_have_been_news() -> None:
    def test(found: NodeAddresses) -> None:
        ip(add_pair("eni0"))
        flood = "addr add fe80::99/64 dev eni0 nodad\naddr del fe80::99/64 dev eni0\n"
        ip(flood * TIMES_THAT_OVERFLOW)
        assert found.has_news()

    alone(test)
