"""Reservations are host-local's own: what we write it reads, what it writes we read, and no address is given twice."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vpccni.components.netlink_programmer import reservations
from vpccni.components.netlink_programmer.reservations import Holder, Reservations
from vpccni.shared.errors import KernelRefused

V4_SUBNET, V6_SUBNET, SMALL = "169.254.172.0/22", "fd00::ac:0/118", "10.9.9.0/29"
HOST_LOCAL = Path("/usr/lib/cni/host-local")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def held(state: Path) -> Iterator[Reservations]:
    descriptor = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    yield Reservations(descriptor, "aws-cni")
    os.close(descriptor)


def pod(number: int) -> Holder:
    return Holder(f"container-{number}", "eth0")


@pytest.mark.spec("dataplane.12")
def test_the_files_are_host_locals(held: Reservations, state: Path) -> None:
    assert held.reserve(pod(1), V4_SUBNET) == ("169.254.172.2", True)
    folder = state / "aws-cni"
    assert (folder / "169.254.172.2").read_bytes() == b"container-1\r\neth0"
    assert (folder / "last_reserved_ip.0").read_text() == "169.254.172.2"
    assert sorted(path.name for path in folder.iterdir()) == ["169.254.172.2", "last_reserved_ip.0", "lock"]
    held.give_back("169.254.172.2", pod(1))
    assert held.held() == {}


def test_asking_again_gives_the_same_address(held: Reservations) -> None:
    first = held.reserve(pod(1), V6_SUBNET)
    assert first == ("fd00::ac:2", True)
    assert held.reserve(pod(1), V6_SUBNET) == ("fd00::ac:2", False)
    assert held.of(pod(1)) == ["fd00::ac:2"]
    assert held.of(pod(2)) == []


def test_an_address_given_back_rests_until_the_range_was_gone_around(held: Reservations) -> None:
    addresses = [held.reserve(pod(number), SMALL)[0] for number in range(3)]
    held.give_back(addresses[0], pod(0))
    assert held.reserve(pod(9), SMALL)[0] == "10.9.9.5"
    assert [held.reserve(pod(number), SMALL)[0] for number in (10, 11)] == ["10.9.9.6", addresses[0]]


def test_a_full_range_says_so_and_the_gateway_and_the_broadcast_address_are_no_pods(held: Reservations) -> None:
    addresses = {held.reserve(pod(number), SMALL)[0] for number in range(5)}
    assert addresses == {f"10.9.9.{host}" for host in range(2, 7)}
    with pytest.raises(KernelRefused, match="all 5 are reserved"):
        held.reserve(pod(9), SMALL)


def test_only_the_holder_gives_back(held: Reservations) -> None:
    address, _ = held.reserve(pod(1), V4_SUBNET)
    held.give_back(address, pod(2))
    assert held.of(pod(1)) == [address]
    held.give_back("169.254.172.200", pod(1))
    held.give_back(address, pod(1))
    held.give_back(address, pod(1))
    assert held.of(pod(1)) == []


def test_a_file_of_an_old_host_local_names_the_container_alone(held: Reservations, state: Path) -> None:
    held.reserve(pod(1), V4_SUBNET)
    (state / "aws-cni" / "169.254.172.9").write_text("container-7")
    assert held.of(pod(7)) == ["169.254.172.9"]
    held.give_back("169.254.172.9", pod(7))
    assert held.of(pod(7)) == []


def test_nothing_is_made_by_reading(held: Reservations, state: Path) -> None:
    assert held.held() == {}
    held.give_back("169.254.172.2", pod(1))
    assert list(state.iterdir()) == []


def test_a_lock_that_is_held_is_waited_for_but_not_for_ever(
    held: Reservations, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.reserve(pod(1), V4_SUBNET)
    monkeypatch.setattr(reservations, "LOCK_WITHIN_S", 0.05)
    with (state / "aws-cni" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(KernelRefused, match="are locked"):
            held.reserve(pod(2), V4_SUBNET)
    assert held.reserve(pod(2), V4_SUBNET)[1]


def test_many_at_once_get_an_address_each(held: Reservations) -> None:
    with ThreadPoolExecutor(8) as pool:
        given_out = list(pool.map(lambda number: held.reserve(pod(number), V4_SUBNET)[0], range(100)))
    assert len(set(given_out)) == 100


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(junk=st.dictionaries(st.text("ab.:0123456789", min_size=1, max_size=12), st.binary(max_size=40), max_size=6))
def test_files_of_anything_stop_no_reservation(
    junk: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = tmp_path_factory.mktemp("junk")
    (state / "aws-cni").mkdir()
    for name, content in junk.items():
        if name not in (".", ".."):
            (state / "aws-cni" / name).write_bytes(content)
    descriptor = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        address, is_new = Reservations(descriptor, "aws-cni").reserve(pod(1), V4_SUBNET)
    finally:
        os.close(descriptor)
    assert is_new
    assert ipaddress.ip_address(address) in ipaddress.ip_network(V4_SUBNET)


@pytest.mark.spec("dataplane.16.9", "dataplane.12")
@pytest.mark.parametrize("subnet", [V4_SUBNET, "fd00::ac:00/118"])
def test_host_local_itself_and_we_never_give_the_same_address(held: Reservations, state: Path, subnet: str) -> None:
    """Turn by turn: as on a node that goes over to us and back."""
    taken = []
    for number in range(0, 8, 2):
        taken.append(held.reserve(pod(number), str(ipaddress.ip_network(subnet, strict=False)))[0])
        taken.append(host_local("ADD", state, subnet, pod(number + 1)))
    assert len(set(taken)) == 8
    first = ipaddress.ip_network(subnet, strict=False).network_address
    assert [int(ipaddress.ip_address(one)) - int(first) for one in taken] == list(range(2, 10))
    assert {holder.container_id for holder in held.held().values()} == {f"container-{at}" for at in range(8)}
    host_local("DEL", state, subnet, pod(0))
    held.give_back(taken[1], pod(1))
    assert sorted(held.held(), key=taken.index) == taken[2:]


def host_local(command: str, state: Path, subnet: str, holder: Holder) -> str:
    """Run the real plugin; return the address it gives."""
    config: dict[str, Any] = {
        "cniVersion": "0.4.0",
        "name": "aws-cni",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]], "dataDir": str(state)},
    }
    env = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": holder.container_id,
        "CNI_IFNAME": holder.ifname,
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_PATH": str(HOST_LOCAL.parent),
    }
    done = subprocess.run([HOST_LOCAL], env=env, input=json.dumps(config).encode(), capture_output=True, check=True)
    return str(json.loads(done.stdout)["ips"][0]["address"]).split("/")[0] if command == "ADD" else ""
