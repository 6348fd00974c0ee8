"""What is done before the processes of a node: plugins and sysctls by the init container, the rest by node-start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpccni.lab.namespaces import make_netns, remove_netns

WITHIN_S = 60


@pytest.fixture
def node() -> Iterator[str]:
    """A namespace with a primary interface whose sysctls are not yet as they should be."""
    name = f"init-test-{os.getpid()}"
    make_netns(name)
    try:
        subprocess.run(["ip", "-n", name, "link", "add", "ens5", "type", "veth", "peer", "far"], check=True)
        for key in ("net.ipv4.conf.ens5.rp_filter=1", "net.ipv4.tcp_early_demux=0", "net.ipv6.conf.all.forwarding=0"):
            subprocess.run(["ip", "netns", "exec", name, "sysctl", "-qw", key], check=True)
        yield name
    finally:
        remove_netns(name)


def run(node: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["ip", "netns", "exec", node, sys.executable, "-m", "vpccni", *map(str, arguments)]
    env = {"PATH": os.environ["PATH"], "VPCCNI_PRIMARY_INTERFACE": "ens5", **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=WITHIN_S, check=False)


def sysctl(node: str, key: str) -> str:
    command = ["ip", "netns", "exec", node, "sysctl", "-n", key]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder as the image has it: plugins, a text, and a folder that is none of them."""
    folder = tmp_path / "init"
    (folder / "folder").mkdir(parents=True)
    (folder / "portmap").write_bytes(b"program")
    (folder / "portmap").chmod(0o755)
    (folder / "LICENSE").write_bytes(b"text")
    (folder / "LICENSE").chmod(0o644)
    return folder


def test_the_init_container_installs_plugins_and_sets_the_primary_interface(
    node: str, image: Path, tmp_path: Path
) -> None:
    target = tmp_path / "bin"
    target.mkdir()
    done = run(node, "node-init", "--plugins", image, HOST_CNI_BIN_PATH=str(target))
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name: path.stat().st_mode & 0o777 for path in target.iterdir()} == {"portmap": 0o755, "LICENSE": 0o644}
    assert (sysctl(node, "net.ipv4.conf.ens5.rp_filter"), sysctl(node, "net.ipv4.tcp_early_demux")) == ("2", "1")
    assert sysctl(node, "net.ipv6.conf.all.forwarding") == "0"


@pytest.mark.parametrize("name", ["ENABLE_IPv6", "ENABLE_V6_EGRESS"])
def test_ipv6_forwards_and_still_hears_its_router(node: str, image: Path, tmp_path: Path, name: str) -> None:
    environment = {"HOST_CNI_BIN_PATH": str(tmp_path), "DISABLE_TCP_EARLY_DEMUX": "true", name: "true"}
    assert run(node, "node-init", "--plugins", image, **environment).returncode == 0
    keys = ("net.ipv6.conf.all.forwarding", "net.ipv6.conf.ens5.accept_ra", "net.ipv4.tcp_early_demux")
    assert [sysctl(node, key) for key in keys] == ["1", "2", "0"]


def test_an_init_container_that_cannot_install_fails_with_one_line(node: str, image: Path) -> None:
    done = run(node, "node-init", "--plugins", image, HOST_CNI_BIN_PATH="/no/such/folder")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("vpccni node-init: ")


def test_node_start_leaves_the_sysctls_alone_and_becomes_the_command(node: str, tmp_path: Path) -> None:
    settings = {"HOST_CNI_BIN_PATH": str(tmp_path), "ENABLE_IPv4": "true", "WARM_IP_TARGET": "3", "MY_POD_UID": "u"}
    done = run(
        node, "node-start", "--run-dir", tmp_path, "--skip-sysctls", "--", "/bin/echo", "-n", "begun", **settings
    )
    assert (done.returncode, done.stdout) == (0, "begun")
    assert sysctl(node, "net.ipv4.conf.ens5.rp_filter") == "1"
    written = json.loads((tmp_path / "settings.json").read_text())
    assert (written["generation"], written["values"]["WARM_IP_TARGET"]["text"]) == ("u", "3")


def test_node_start_with_bad_settings_never_becomes_the_command(node: str, tmp_path: Path) -> None:
    settings = {"HOST_CNI_BIN_PATH": str(tmp_path), "IP_COOLDOWN_PERIOD": "soon"}
    done = run(node, "node-start", "--run-dir", tmp_path, "--skip-sysctls", "--", "/bin/echo", "begun", **settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert "IP_COOLDOWN_PERIOD" in done.stderr
