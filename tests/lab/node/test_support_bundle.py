"""The archive for supporters: complete with a process dead and a disk full, and without a secret in it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlLW9mLWl0"
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
LOGS = "/var/log/aws-routed-eni"
EXPECTED = {
    "ipamd/enis.json",
    "ipamd/pods.json",
    "ipamd/networkutils-env-settings.json",
    "ipamd/ipamd-env-settings.json",
    "ipamd/eni-configs.json",
    "ipamd/metrics.json",
    "ipamd/ipam.json",
    "cni/10-aws.conflist",
    "var_log/aws-routed-eni/ip_allocator.log",
    "var_log/aws-routed-eni/plugin.log",
    "networking/ip_rule.txt",
    "networking/ip_route_all.txt",
    "networking/iptables-save.txt",
    "sysctls/net.txt",
    "kernel/uname.txt",
    "storage/df.txt",
    "vpccni/status.json",
    "vpccni/snapshots.json",
    "vpccni/plan.json",
    "vpccni/top.txt",
    "errors.txt",
}


@contextmanager
def stopped(node: Any, process: str) -> Iterator[None]:
    """Have a process that is there and answers nothing."""
    pid = node.node.pids()[process]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def bundle(node: Any, *words: str) -> dict[str, bytes]:
    """Return the members of an archive written to standard output."""
    argv = [sys.executable, "-m", "vpccni", "support-bundle", "--out", "-", *words]
    child = node.node.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False)
    told, said = child.communicate(timeout=200)
    assert child.returncode == 0, said
    return members(told)


def content(node: Any, path: str) -> bytes:
    child = node.node.popen(["cat", path], stdout=subprocess.PIPE, text=False)
    data: bytes = child.communicate(timeout=30)[0]
    return data


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        files = {one.name.removeprefix("./"): archive.extractfile(one) for one in archive if one.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


@pytest.fixture(autouse=True)
def _planted(node: Any) -> Iterator[None]:
    """A pod, and credentials where careless programs leave them."""
    node.add("supported")
    node.shell(
        f"echo 'Authorization: Bearer {TOKEN}' >> {LOGS}/ip_allocator.log; echo '{{\"SecretAccessKey\": \"{SECRET}\"}}' >> {LOGS}/plugin.log;"
        f"printf 'users:\\n- user:\\n    token: {TOKEN}\\n' > /etc/cni/net.d/other-kubeconfig;"
        f'printf \'{{"name": "other", "password": "{SECRET}"}}\' > /etc/cni/net.d/99-other.conflist'
    )
    yield
    node.shell("rm -f /etc/cni/net.d/other-kubeconfig /etc/cni/net.d/99-other.conflist")
    node.lab.delete_pod("supported")


def assert_no_secret(files: dict[str, bytes]) -> None:
    for name, data in files.items():
        assert SECRET.encode() not in data, name
        assert TOKEN.encode() not in data, name


def test_it_has_everything_and_no_secret(node: Any) -> None:
    files = bundle(node)
    assert set(files) >= EXPECTED
    assert_no_secret(files)
    assert "cni/other-kubeconfig" not in files
    assert b"[REDACTED]" in files["cni/99-other.conflist"]
    assert json.loads(files["ipamd/ipam.json"])["allocations"]
    until(lambda: b"default/supported" in bundle(node)["vpccni/top.txt"], "the pod", within_s=15.0, every_s=1.0)
    assert {one["state"] for one in json.loads(files["vpccni/status.json"]).values()} == {"serving"}
    assert b"awscni_add_ip_req_count" in files["ipamd/metrics.json"]


@pytest.mark.parametrize("process", ["ip_allocator", "metrics_publisher"])
def test_with_a_process_dead_the_rest_is_there_and_what_is_missing_is_named(node: Any, process: str) -> None:
    with stopped(node, process):
        files = bundle(node)
    status = json.loads(files["vpccni/status.json"])
    assert "error" in status[process]
    assert sum("error" in one for one in status.values()) == 1
    missing = EXPECTED - set(files)
    told = files["errors.txt"].decode()
    assert missing == (
        {name for name in EXPECTED if name.startswith("ipamd/") and name != "ipamd/ipam.json"}
        if process == "metrics_publisher"
        else set()
    )
    assert all(f"{name}: " in told for name in missing)
    assert_no_secret(files)


def test_what_the_operator_does_not_want_is_left_out(node: Any) -> None:
    files = bundle(node, "--ignore_introspection=true", "--ignore_metrics=true")
    assert {name for name in files if name.startswith("ipamd/")} == {"ipamd/ipam.json"}


def test_on_a_full_disk_it_goes_elsewhere_and_is_whole(node: Any) -> None:
    full = "/run/full-disk"
    node.shell(f"mkdir -p {full} && mount -t tmpfs -o size=64k tmpfs {full}; head -c 1M /dev/zero > {full}/filler")
    try:
        done = node.node.exec(
            [sys.executable, "-m", "vpccni", "support-bundle", "--out", f"{full}/b.tar.gz"], check=False, timeout=200
        )
        assert done.returncode == 0
        path = done.stdout.strip()
        assert path == f"{node.node.env['VPCCNI_RUN_DIR']}/b.tar.gz"
        assert "the disk is full" in done.stderr
        assert node.shell(f"ls -A {full}").split() == ["filler"], "nothing half is left"
        data = content(node, path)
        assert set(members(data)) >= EXPECTED
    finally:
        node.shell(f"umount {full}; rm -rf {full} {node.node.env['VPCCNI_RUN_DIR']}/b.tar.gz")


def test_the_script_of_the_references_name_collects_on_the_node(node: Any) -> None:
    folder = "/run/bundles"
    path = f"{Path(sys.executable).parent}:{node.node.env['PATH']}"
    node.shell(f"mkdir -p {folder}")
    try:
        with stopped(node, "ip_allocator"):
            argv = ["/opt/cni/bin/aws-cni-support.sh", f"--out_folder={folder}"]
            done = node.node.exec(argv, check=False, timeout=240, env={"PATH": path})
        assert done.returncode == 0, done.stderr
        (name,) = node.shell(f"ls -A {folder}").split()
        assert done.stdout.strip() == f"{folder}/{name}"
        assert name.startswith("eks_")
        files = members(content(node, f"{folder}/{name}"))
    finally:
        node.shell(f"rm -rf {folder}")
    for wanted in (
        "ipamd/enis.json",
        "ipamd/ipam.json",
        "cni/10-aws.conflist",
        "networking/iptables-save.txt",
        "kernel/uname.txt",
    ):
        assert wanted in files, files["errors.txt"]
    assert_no_secret(files)
    assert set(members(files["vpccni/node.tar.gz"])) >= EXPECTED
    assert_no_secret(members(files["vpccni/node.tar.gz"]))


@pytest.mark.parametrize("word", ["--nonsense", "--ignore_metrics=perhaps"])
def test_the_script_refuses_what_it_does_not_know(node: Any, word: str) -> None:
    done = node.node.exec(["/opt/cni/bin/aws-cni-support.sh", word], check=False)
    assert done.returncode == 1
    assert "usage:" in done.stderr
