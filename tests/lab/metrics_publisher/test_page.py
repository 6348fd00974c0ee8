"""The node's page of a real node: what it shows is what the node has, also to a browser, with a script and without."""

from __future__ import annotations

import http.server
import os
import re
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.browser import Browser
from support.waiting import until as wait_until

from vpccni.lab.api import Lab
from vpccni.shared.names import IP_ALLOCATOR, NODE_PROCESSES

until = partial(wait_until, within_s=20.0)
GET = "import sys, urllib.request as u; print(u.urlopen('http://127.0.0.1:61679' + sys.argv[1], timeout=5).read().decode())"
FIRST_EVENT = """
import urllib.request
reply = urllib.request.urlopen("http://127.0.0.1:61679/node/events", timeout=5)
print(next(line.decode() for line in reply if line.startswith(b"data: ")))
"""
CACHE = Path(__file__).parents[3] / "build" / "browser"
SHOWS_SOMETHING_BYTES = 20_000
"""An empty page of that size is a picture of some 5,000."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(
        f"pag{os.getpid()}", nodes=1, env={"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}
    ) as up:
        yield up


def page(lab: Lab) -> str:
    return lab.nodes[0].exec([sys.executable, "-c", GET, "/node"]).stdout


def cells(text: str, state: str) -> set[str]:
    return set(re.findall(rf'<i class="{state}" title="([^:"]*):', text))


def test_pods_and_addresses_of_a_real_node_are_shown(lab: Lab) -> None:
    pods = [lab.add_pod("node-1", f"shown-{number}") for number in range(3)]
    until(lambda: cells(page(lab), "held") == {pod.address for pod in pods}, "the pods' addresses")
    until(lambda: page(lab).count("<td>default/shown-") == 3, "the pods")
    assert "none of ours" not in page(lab)
    lab.delete_pod("shown-1")
    until(lambda: cells(page(lab), "cooling") == {pods[1].address}, "the released address")
    assert pods[1].address not in cells(page(lab), "held")
    for name in NODE_PROCESSES:
        until(lambda name=name: f'class="tile serving" data-process="{name}"' in page(lab), name)  # type: ignore[misc]
    assert re.search(r"<td>DescribeNetworkInterfaces</td><td class=\"n\">[1-9]", page(lab))


def test_a_process_that_dies_is_seen_to_have_been_restarted(lab: Lab) -> None:
    lab.nodes[0].kill(IP_ALLOCATOR)
    tile = re.compile(r'data-process="ip_allocator">.*?1 restart seen')
    until(lambda: tile.search(page(lab)), "the restart")


@pytest.mark.spec("operations.17.18")
def test_from_outside_the_node_the_metrics_alone_are_reachable(lab: Lab) -> None:
    """Ports 8162 and 8163 are the policy agent's, as in the reference; introspection and health stay inside the node."""
    pids = {str(pid) for pid in lab.nodes[0].pids().values()}
    listening = set()
    for line in lab.nodes[0].exec(["ss", "-Hltnp"]).stdout.splitlines():
        address, _, port = line.split()[3].rpartition(":")
        owners = set(re.findall(r"pid=(\d+)", line))
        if owners & pids and not address.strip("[]").startswith(("127.", "::1", "::ffff:127.")):
            listening.add(int(port))
    assert {61678} <= listening <= {61678, 8162, 8163}
    sockets = [line.split() for line in lab.nodes[0].exec(["ss", "-Hlxn"]).stdout.splitlines()]
    assert any("netlink_programmer.rpc" in " ".join(row) for row in sockets)


class Door:
    """A page at a port of this machine for a browser outside the node: the page as given, the events as the node tells them now.

    Under /still the browser gets the page and runs no script.
    """

    def __init__(self, lab: Lab, page: str) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                told = lab.nodes[0].exec([sys.executable, "-c", FIRST_EVENT]).stdout if "events" in self.path else page
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream" if "events" in self.path else "text/html")
                if "still" in self.path:
                    self.send_header("Content-Security-Policy", "sandbox")
                try:
                    self.end_headers()
                    self.wfile.write(told.encode())
                except OSError:
                    self.close_connection = True  # the browser has seen enough

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.full
def test_a_browser_puts_in_what_events_tell_and_shows_the_page_without_a_script(lab: Lab, tmp_path: Path) -> None:
    browser = Browser(CACHE)
    before = page(lab)
    lab.add_pod("node-1", "seen")
    until(lambda: "default/seen" in page(lab), "the pod on the page")
    door = Door(lab, before)
    try:
        assert "default/seen" not in before
        assert "default/seen" in browser.document(f"{door.url}/node")
        still = browser.document(f"{door.url}/still")
        assert "default/seen" not in still
        assert "Loaded once" in still
        browser.picture(f"{door.url}/node", tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > SHOWS_SOMETHING_BYTES
    finally:
        door.close()
        lab.delete_pod("seen")
