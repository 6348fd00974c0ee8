"""A lab's begin and end: nothing of it stays on the machine, killed or not, and its processes can be killed by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from vpccni.lab import cli
from vpccni.lab import node as node_module
from vpccni.lab.api import Lab, LabError

CONF = """[supervisord]
nodaemon=true
logfile=/dev/null
pidfile=/var/run/aws-node/supervisord.pid
[program:ip_allocator]
command=sh -c "touch /etc/cni/net.d/10-aws.conflist; exec sleep 1000"
startsecs=0
"""


def machine() -> dict[str, object]:
    """Return what a lab must not change; lines of other labs that run beside are left out."""
    settings = subprocess.run(["sysctl", "-a"], capture_output=True, text=True, check=False).stdout.splitlines()
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "/run/netns/" not in line]
    return {
        "links": [row["ifname"] for row in json.loads(subprocess.check_output(["ip", "-j", "link"]))],
        "routes": subprocess.check_output(["ip", "-4", "route", "show", "table", "all"], text=True),
        "rules": subprocess.check_output(["ip", "rule"], text=True),
        "firewall": subprocess.check_output(["nft", "list", "ruleset"], text=True),
        "mounts": mounts,
        "settings": [line for line in settings if line.startswith("net.ipv") and "neigh" not in line],
        "folders": sorted(
            str(p)
            for top in ("/etc/cni", "/opt", "/var/lib/cni", "/var/log/aws-routed-eni")
            for p in Path(top).glob("*")
        ),
    }


def traces(name: str) -> list[str]:
    """Return what the machine still shows of a lab."""
    found = [str(path) for path in Path("/run/netns").glob(f"{name}-*")] + [
        str(p) for p in Path("/run/vpccni-lab").glob(name)
    ]
    mark = f"VPCCNI_LAB_STATE=/run/vpccni-lab/{name}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in entry.read_bytes().split(b"\0"):
                found.append(str(entry))
        except OSError:
            continue
    return found + [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"/{name}-" in line]


def test_down_leaves_the_machine_as_it_was() -> None:
    name, before = f"life-{os.getpid()}", machine()
    lab = Lab.up(name, nodes=1, start_processes=False)
    lab.make_pod("node-1", "p")
    program = lab.nodes[0].popen(["sleep", "1000"])
    lab.down()
    lab.down()
    assert program.wait(5) != 0
    assert traces(name) == []
    assert machine() == before


def test_up_clears_what_a_killed_lab_left() -> None:
    name, before = f"dead-{os.getpid()}", machine()
    lab = Lab.up(name, nodes=1, start_processes=False)
    lab.make_pod("node-1", "p")
    os.kill(lab.nodes[0].holder, signal.SIGKILL)
    (lab.state / "lab.json").unlink()
    with pytest.raises(LabError, match="no lab"):
        Lab.attach(name)
    with Lab.up(name, nodes=1, start_processes=False) as again:
        assert again.pods() == []
        with pytest.raises(LabError, match="already up"):
            Lab.up(name, start_processes=False)
    assert traces(name) == []
    assert machine() == before


def test_a_node_writes_only_to_its_own_file_system() -> None:
    with Lab.up(f"fs-{os.getpid()}", nodes=1, start_processes=False, run_on_disk=True) as lab:
        script = "for f in /etc/cni/net.d /opt/cni/bin /var/log/aws-routed-eni /var/run/aws-node /sys/fs/bpf; do mkdir $f/mine || exit 1; done"
        lab.nodes[0].exec(["sh", "-c", script])
        assert (lab.nodes[0].root / "mine").is_dir()
        assert not any(
            Path(top, "mine").exists() for top in ("/etc/cni/net.d", "/opt/cni/bin", "/var/run/aws-node", "/sys/fs/bpf")
        )
        own = lab.nodes[0].exec(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
        assert own != Path("/proc/sys/kernel/random/boot_id").read_text()


def test_supervised_processes_are_listed_killed_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "supervisord.conf"
    conf.write_text(CONF)
    monkeypatch.setattr(node_module, "SUPERVISOR_CONF", conf)
    monkeypatch.setattr(node_module, "NODE_START", ("true",))
    with Lab.up(f"sup-{os.getpid()}", nodes=1, start_processes=False) as lab:
        node = lab.nodes[0]
        node.start_processes()
        first = node.pids()["ip_allocator"]
        assert node.kill("ip_allocator") == first
        with pytest.raises(LabError, match="Running"):
            node.kill("nobody")
        deadline = time.monotonic() + 10
        while node.pids().get("ip_allocator", first) == first and time.monotonic() < deadline:
            time.sleep(0.05)
        assert node.pids()["ip_allocator"] != first
        node.stop_processes()
        assert node.pids() == {}


def test_the_command_line_goes_from_up_to_down(capfd: pytest.CaptureFixture[str]) -> None:
    name = f"cli-{os.getpid()}"
    common = ["--name", name]
    try:
        assert (
            cli.main(
                [
                    "up",
                    *common,
                    "--nodes",
                    "1",
                    "--no-processes",
                    "--set",
                    "WARM_IP_TARGET=3",
                    "--unset",
                    "DISABLE_METRICS",
                ]
            )
            == 0
        )
        assert cli.main(["exec", *common, "node-1", "--", "sh", "-c", "ip -o addr show eth0; exit 7"]) == 7
        assert "10.0.96." in capfd.readouterr().out
        assert cli.main(["status", *common, "--json"]) == 0
        status = json.loads(capfd.readouterr().out)
        assert status["nodes"][0]["instance_type"] == "m5.large"
        env = Lab.attach(name).nodes[0].env
        assert (env["WARM_IP_TARGET"], env.get("DISABLE_METRICS")) == ("3", None)
        assert cli.main(["pod", "add", *common, "node-1", "x"]) == 1
        assert "no network configuration" in capfd.readouterr().err
        assert cli.main(["fault", "ec2", *common, "*", "--error", "InternalError", "--times", "1"]) == 0
        assert cli.main(["ec2", "counts", *common]) == 0
    finally:
        assert cli.main(["down", *common]) == 0
    assert traces(name) == []
