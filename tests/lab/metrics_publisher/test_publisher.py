"""The publisher as a process over real sockets, beside a peer that really publishes."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vpccni
from vpccni.shared.log import Log
from vpccni.shared.messages.allocation import PoolState
from vpccni.shared.process import Process
from vpccni.shared.settings import read

WITHIN_S = 15.0


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(self._path)


class Publisher:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        variables = {
            "VPCCNI_METRICS_BIND_ADDRESS": f"unix:{self.folder}/metrics",
            "INTROSPECTION_BIND_ADDRESS": f"unix:{self.folder}/introspection",
        }
        command = [sys.executable, "-m", "vpccni.components.metrics_publisher", "--run-dir", str(self.folder)]
        self.child = subprocess.Popen(command, env=os.environ | variables | environment)

    def get(self, path: str, at: str = "metrics") -> tuple[int, str]:
        connection = UnixConnection(f"{self.folder}/{at}")
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def page_with(self, text: str) -> str:
        def there() -> str:
            try:
                page = self.get("/metrics")[1]
            except OSError:
                return ""
            return page if text in page else ""

        return until(there, text)

    def stop(self) -> None:
        if self.child is not None:
            self.child.terminate()
            assert self.child.wait(timeout=10) == 0
            self.child = None


class Peer:
    """An allocator that counts and publishes, in a thread of this process."""

    def __init__(self, folder: Path, adds: int) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(folder, adds, ready))
        self._thread.start()
        assert ready.wait(5)

    def _run(self, folder: Path, adds: int, ready: threading.Event) -> None:
        process = self._process = Process(
            "ip_allocator", folder, read({}).settings, {}, Log("ip_allocator", level="error")
        )
        process.count("awscni_add_ip_req_count", adds)
        process.publish(
            PoolState(ready=True, total=9, assigned=2, assignable=7, cooling=0, fenced=0, unconfirmed=0, max_pods=29)
        )
        process.serving()
        ready.set()
        process.loop.run()
        process.server.close()
        process.publisher.close()
        os.close(process._lock)
        process._access.close()
        process._context.destroy(linger=0)
        process.loop.close()

    def stop(self) -> None:
        self._process.loop.call_from_thread(self._process.loop.stop)
        self._thread.join(5)
        assert not self._thread.is_alive()


def until(ready: Callable[[], str], what: str) -> str:
    deadline = time.monotonic() + WITHIN_S
    while not (found := ready()):
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.05)
    return found


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with tempfile.TemporaryDirectory(prefix="vmp-") as folder:
        one = Publisher(Path(folder))
        try:
            yield one
        finally:
            if one.child is not None:
                one.child.kill()
                one.child.wait()


def test_counters_of_a_peer_are_shown_and_go_on_after_its_restart(publisher: Publisher) -> None:
    publisher.start()
    peer = Peer(publisher.folder, adds=5)
    page = publisher.page_with("awscni_add_ip_req_count 5")
    assert "awscni_assigned_ip_addresses 2" in page
    assert 'vpccni_source_stale{process="ip_allocator"} 0' in page
    peer.stop()
    peer = Peer(publisher.folder, adds=1)
    page = publisher.page_with("awscni_add_ip_req_count 6")
    assert 'vpccni_source_restarts{process="ip_allocator"} 1' in page
    peer.stop()
    assert "awscni_add_ip_req_count 6" in publisher.page_with('vpccni_source_stale{process="ip_allocator"} 1')
    publisher.stop()


@pytest.mark.spec("operations.17.9")
def test_the_page_shows_the_release(publisher: Publisher) -> None:
    """Frames of a plugin of another version: tests/kernel/netlink_programmer/test_frontdoor.py."""
    publisher.start()
    (line,) = [
        one for one in publisher.page_with("awscni_build_info").splitlines() if one.startswith("awscni_build_info")
    ]
    assert f'version="{vpccni.__version__}"' in line
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", vpccni.__version__)


@pytest.mark.spec("operations.17.17")
def test_unknown_paths_are_answered_as_json_with_the_list(publisher: Publisher) -> None:
    publisher.start()
    until(lambda: "x" if Path(f"{publisher.folder}/introspection").is_socket() else "", "the introspection socket")
    connection = UnixConnection(f"{publisher.folder}/introspection")
    for path in ("/v1/pods", "/", "/no/such"):
        connection.request("GET", path)
        response = connection.getresponse()
        assert (response.status, response.getheader("Content-Type")) == (200, "application/json")
        assert "/v1/enis" in json.loads(response.read())["AvailableCommands"]
        connection.close()


def test_only_metrics_is_routed_and_introspection_answers_everything(publisher: Publisher) -> None:
    publisher.start()
    publisher.page_with('vpccni_source_stale{process="eni_manager"} 1')
    assert publisher.get("/")[0] == 404
    status, body = publisher.get("/v1/pods?x=1", at="introspection")
    assert (status, list(json.loads(body))) == (200, ["AvailableCommands"])
    assert publisher.get("/v1/enis", at="introspection") == (200, '{"0":{"TotalIPs":0,"AssignedIPs":0,"ENIs":{}}}')


def test_slow_and_broken_clients_do_not_keep_others_out(publisher: Publisher) -> None:
    publisher.start()
    publisher.page_with("awscni_build_info")
    idle = []
    for _ in range(3):
        one = socket.socket(socket.AF_UNIX)
        one.connect(f"{publisher.folder}/metrics")
        idle.append(one)
    broken = socket.socket(socket.AF_UNIX)
    broken.connect(f"{publisher.folder}/metrics")
    broken.sendall(b"no http at all\r\n\r\n")
    broken.settimeout(5)
    assert broken.recv(100).startswith(b"HTTP/1.1 400")
    assert publisher.get("/metrics")[0] == 200
    for one in [*idle, broken]:
        one.close()


def test_what_is_disabled_does_not_listen(publisher: Publisher) -> None:
    publisher.start(DISABLE_METRICS="true")
    until(lambda: "x" if Path(f"{publisher.folder}/introspection").is_socket() else "", "the introspection socket")
    assert publisher.get("/", at="introspection")[0] == 200
    assert not Path(f"{publisher.folder}/metrics").exists()


def test_a_taken_address_is_tried_again_until_it_is_free(publisher: Publisher) -> None:
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    port = holder.getsockname()[1]
    publisher.start(VPCCNI_METRICS_BIND_ADDRESS=f"127.0.0.1:{port}")
    time.sleep(0.5)
    holder.close()

    def answered() -> str:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except OSError:
            return ""

    assert "awscni_build_info" in until(answered, "the page")


def test_the_nodes_page_is_served_beside_introspection_and_tells_of_changes_by_events(publisher: Publisher) -> None:
    publisher.start()
    until(lambda: "x" if Path(f"{publisher.folder}/introspection").is_socket() else "", "the introspection socket")
    status, body = publisher.get("/node", at="introspection")
    assert (status, body.startswith("<!doctype html>")) == (200, True)
    stream = UnixConnection(f"{publisher.folder}/introspection")
    stream.request("GET", "/node/events")
    response = stream.getresponse()
    assert response.getheader("Content-Type") == "text/event-stream"

    def next_event() -> str:
        lines = iter(response.readline, b"")
        return next(line.decode() for line in lines if line.startswith(b"data: "))

    assert 'data-process="ip_allocator"' in next_event()
    peer = Peer(publisher.folder, adds=5)
    until(lambda: "x" if 'class="tile serving" data-process="ip_allocator"' in next_event() else "", "the news of it")
    peer.stop()
    assert publisher.get("/node", at="introspection")[0] == 200, "a listener keeps nobody out"
    response.close()
    stream.close()
    publisher.stop()
