"""The primary interface is the link with metadata's MAC; metadata that is silent or odd gives one clear error."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vpccni.cni.primary import link_with, primary_mac
from vpccni.lab.namespaces import Place, call_in

MAC = "02:ab:CD:00:00:01"
TOKEN = "t"


class Metadata(BaseHTTPRequestHandler):
    """Version 2 with one document; a path below /broken answers with an error."""

    def do_PUT(self) -> None:
        self._say(200 if int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0 else 400, TOKEN)

    def do_GET(self) -> None:
        known = self.path == "/latest/meta-data/mac" and self.headers["X-aws-ec2-metadata-token"] == TOKEN
        self._say(200 if known else 404, MAC)

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def metadata() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_metadata_gives_the_mac_in_the_kernels_form(metadata: str) -> None:
    assert primary_mac(metadata, 2.0) == MAC.lower()


def test_an_error_status_is_told_with_its_path(metadata: str) -> None:
    with pytest.raises(OSError, match="/broken/latest/meta-data/mac with 404"):
        primary_mac(f"{metadata}/broken", 2.0)


@pytest.mark.parametrize("said", [b"", b"no HTTP\r\n\r\n"])
def test_whatever_is_no_http_is_an_os_error(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(OSError):
            primary_mac(f"http://127.0.0.1:{server.getsockname()[1]}", 2.0)
        thread.join()


@pytest.mark.spec("dataplane.18.37")
def test_the_link_is_found_by_its_mac_and_a_foreign_mac_is_named(netns: Path) -> None:
    shown = json.loads(subprocess.check_output(["ip", "-n", netns.name, "-json", "link"]))
    macs = {link["ifname"]: link["address"] for link in shown}
    assert call_in(Place(net=str(netns)), lambda: link_with(macs["probe1"])) == "probe1"
    with pytest.raises(LookupError, match="02:00:00:00:00:99"):
        call_in(Place(net=str(netns)), lambda: link_with("02:00:00:00:00:99"))


def node_start(netns: Path, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run it in the namespace, where metadata is out of reach unless it is named away."""
    plugin = folder / "built"
    plugin.write_bytes(b"plugin")
    (folder / "bin").mkdir()
    given = {"VPCCNI_PLUGIN_BINARY": str(plugin), "HOST_CNI_BIN_PATH": str(folder / "bin"), "HTTP_TIMEOUT": "1"}
    return subprocess.run(
        ["ip", "netns", "exec", netns.name, sys.executable, "-m", "vpccni", "node-start", "--run-dir", folder / "run"],
        env={"PATH": os.environ["PATH"], **given, **more},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_node_is_started_in_place_and_its_primary_link_checks_loosely(netns: Path, tmp_path: Path) -> None:
    ended = node_start(netns, tmp_path, VPCCNI_PRIMARY_INTERFACE="probe0", WARM_IP_TARGET="3", ENABLE_TYPO="x")
    assert ended.returncode == 0, ended.stderr
    assert "ENABLE_TYPO" in ended.stderr
    read = ["ip", "netns", "exec", netns.name, "cat", "/proc/sys/net/ipv4/conf/probe0/rp_filter"]
    assert subprocess.check_output(read, text=True) == "2\n"
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "bin").iterdir()} == {
        "aws-cni": 0o755,
        "aws-cni-support.sh": 0o755,
        "aws-eks-na-cli": 0o755,
        "egress-cni": 0o755,
    }
    written = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert written["values"]["WARM_IP_TARGET"]["text"] == "3"


def test_without_metadata_the_default_route_decides_and_it_is_said(netns: Path, tmp_path: Path) -> None:
    for command in ("link set probe0 up", "link set probe1 up", "addr add 192.0.2.1/24 dev probe1"):
        subprocess.run(["ip", "-n", netns.name, *command.split()], check=True)
    subprocess.run(["ip", "-n", netns.name, "route", "add", "default", "via", "192.0.2.2"], check=True)
    ended = node_start(netns, tmp_path, AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:1")
    assert ended.returncode == 0, ended.stderr
    assert "probe1, which the default route leaves by, is taken as primary" in ended.stderr


def test_a_wrong_setting_and_no_primary_link_end_it_with_one_line(netns: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    wrong = node_start(netns, tmp_path / "a", ENABLE_IPv6="true")
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1
    assert "ENABLE_IPv6" in wrong.stderr
    assert not (tmp_path / "a" / "run").exists()
    lost = node_start(netns, tmp_path / "b", AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:1")
    assert lost.returncode == 1
    assert "VPCCNI_PRIMARY_INTERFACE" in lost.stderr
