"""A pod's interface sends from the moment an ADD is over, however busy the kernel is with other links."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest
from tests.kernel.netlink_programmer.conftest import Node, Space
from tests.kernel.netlink_programmer.test_wiring import make_pair

from vpccni.components.netlink_programmer.carrier import can_send
from vpccni.components.netlink_programmer.naming import MAIN_TABLE
from vpccni.components.netlink_programmer.rtnl import RouteSocket
from vpccni.components.netlink_programmer.wiring import VethPair
from vpccni.shared.errors import KernelRefused
from vpccni.shared.loop import Loop

ADDRESS, GATEWAY = "10.0.97.30", "169.254.1.1"
PODS = 40
OTHERS = 3
MAKE_LINKS = "for i in 1 2 3 4 5 6; do ip link add type veth; done; ip link set veth0 up; ip link set veth1 up"


@pytest.fixture
def busy() -> Iterator[None]:
    """Others make and lose links all the time, in namespaces of their own: the kernel has one lock for all of them."""
    argv = ["sh", "-c", f"while :; do unshare -n sh -c '{MAKE_LINKS}'; done"]
    others = [subprocess.Popen(argv, stderr=subprocess.DEVNULL, start_new_session=True) for _ in range(OTHERS)]
    yield
    for other in others:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait(10)


def pod_of(node: Node, pod: Space) -> tuple[VethPair, RouteSocket]:
    """Wire a pod but for its host end."""
    pair, pod_socket = make_pair(node, pod), pod.socket()
    node.do(lambda: node.wirer.configure_pod(pod_socket, pair, address=ADDRESS))
    return pair, pod_socket


def wait_for(pod_socket: RouteSocket, *, within_s: float) -> None:
    loop = Loop()
    waiting = can_send(loop, pod_socket, "eth0", on="eth0", deadline=loop.clock() + within_s)
    try:
        loop.run_until(loop.spawn(waiting, name="wait"), timeout_s=10.0)
    finally:
        loop.close()


def test_nothing_that_a_pod_sends_at_once_is_dropped_by_its_own_interface(
    node: Node, new_pod: Callable[[], Space], busy: None
) -> None:
    for _ in range(PODS):
        pod = new_pod()
        pair, pod_socket = pod_of(node, pod)
        talk = pod.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        node.do(lambda pair=pair: node.wirer.open_host_end(pair, address=ADDRESS, table=MAIN_TABLE, host_sysctl=-1))
        wait_for(pod_socket, within_s=5.0)
        talk.sendto(b"hello", (GATEWAY, 9))
        (link,) = pod.ip("-s", "link", "show", "eth0")
        assert link["stats64"]["tx"]["dropped"] == 0
        talk.close()
        pod_socket.close()


def test_an_interface_without_carrier_or_none_at_all_is_not_waited_for_longer_than_the_deadline(
    node: Node, new_pod: Callable[[], Space]
) -> None:
    pair, pod_socket = pod_of(node, new_pod())
    with pytest.raises(KernelRefused, match="state is still"):
        wait_for(pod_socket, within_s=0.1)
    node.do(lambda: node.wirer.delete_now(pair.ifindex))
    with pytest.raises(KernelRefused, match="gone"):
        wait_for(pod_socket, within_s=0.1)
    pod_socket.close()
