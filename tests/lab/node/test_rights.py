"""A node whose processes have what the split shape's containers have: their capabilities, a read-only root, and sysctls they cannot write.

The rights are taken from the manifest that is kept rendered; each process is started through a wrapper that gives up all others.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.waiting import until
from tests.lab.node.conftest import NodeUnderTest

from vpccni.lab.api import Lab
from vpccni.lab.fabric import INTERNET_ADDRESS
from vpccni.shared import names
from vpccni.shared.messages.common import GetStatus, Status

ROOT = Path(__file__).parents[3]
MANIFEST = ROOT / "charts" / "static" / "aws-k8s-cni-split.yaml"
COMPILE = ROOT / "images" / "policy_programs.py"
CONTAINERS = {
    names.ENI_MANAGER: "eni-manager",
    names.IP_ALLOCATOR: "ip-allocator",
    names.NETLINK_PROGRAMMER: "aws-node",
    names.POLICY_AGENT: "aws-eks-nodeagent",
    names.METRICS_PUBLISHER: "metrics-publisher",
}
WRAPPER = """#!/bin/sh
# $1 $2: -m MODULE. The process keeps its id: its supervisor watches over that.
case "$2" in
{cases}
esac
exec unshare --mount --propagation unchanged /bin/sh -c '
    mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && mount -o remount,bind,ro / || exit 1
    exec setpriv --bounding-set="-all$0" --inh-caps=-all --no-new-privs "$@"' "$rights" {python} "$@"
"""
CAPABILITIES = {name: bit for bit, name in enumerate(
    """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST
    NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE
    SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND
    AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE""".split()
)}  # fmt: skip
WITHIN_S = 40.0
PODS = 12  # nine fit on the primary ENI of an m5.large


def rights() -> dict[str, list[str]]:
    """Return the capabilities of each process's container."""
    documents = yaml.safe_load_all(MANIFEST.read_text())
    (daemon_set,) = (item for item in documents if item and item["kind"] == "DaemonSet")
    containers = {item["name"]: item for item in daemon_set["spec"]["template"]["spec"]["containers"]}
    return {
        process: containers[container]["securityContext"]["capabilities"].get("add", [])
        for process, container in CONTAINERS.items()
    }


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    wrapper = tmp_path_factory.mktemp("rights") / "python"
    cases = "\n".join(
        f"    vpccni.components.{process}) rights={''.join(f',+{name.lower()}' for name in granted)!r} ;;"
        for process, granted in rights().items()
    )
    wrapper.write_text(WRAPPER.format(cases=cases, python=sys.executable))
    wrapper.chmod(0o755)
    programs = wrapper.with_name("pod.json")  # as in the image: nothing is compiled on a node
    subprocess.run([sys.executable, COMPILE, programs], check=True, timeout=WITHIN_S)
    with contextlib.ExitStack() as stack:
        env = {"IP_COOLDOWN_PERIOD": "0", "VPCCNI_PYTHON": str(wrapper), "VPCCNI_BPF_OBJECT": str(programs)}
        yield NodeUnderTest(stack.enter_context(Lab.up(f"t{os.getpid()}", nodes=1, env=env)))


def status(node: NodeUnderTest, process: str) -> Status:
    answer = node.ask(process, GetStatus())
    assert isinstance(answer, Status)
    return answer


def reaches(pod: Any, address: str) -> bool:
    return bool(pod.exec(["ping", "-c1", "-W2", address], check=False).returncode == 0)


def kernel_view(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.spec("operations.17.29")
def test_every_process_has_the_capabilities_of_its_container_and_no_others(node: NodeUnderTest) -> None:
    for process, granted in rights().items():
        seen = kernel_view(status(node, process).pid)
        wanted = sum(1 << CAPABILITIES[name] for name in granted)
        assert {key: int(seen[key], 16) for key in ("CapPrm", "CapEff", "CapBnd")} == dict.fromkeys(
            ("CapPrm", "CapEff", "CapBnd"), wanted
        ), process
        assert seen["NoNewPrivs"] == "1"


def test_with_these_rights_every_process_serves_without_a_reason_not_to(node: NodeUnderTest) -> None:
    def well() -> bool:
        return all(status(node, process).state == "serving" for process in rights())

    until(well, lambda: {process: status(node, process).reasons for process in rights()}, within_s=WITHIN_S)


def test_pods_on_two_enis_come_reach_each_other_and_go(node: NodeUnderTest) -> None:
    pods: list[Any] = [node.add(f"p{number}") for number in range(PODS)]
    for pod in pods[1:]:
        assert reaches(pods[0], pod.address)
    assert reaches(pods[-1], INTERNET_ADDRESS)
    for pod in pods:
        node.lab.delete_pod(pod.name)
    until(lambda: "eni" not in node.shell("ip -br link show type veth | grep ^eni"), "no veth left", within_s=WITHIN_S)
    reasons = {process: status(node, process).reasons for process in rights()}
    assert reasons == {process: [] for process in rights()}


def test_a_killed_process_comes_back_with_these_rights_and_takes_over(node: NodeUnderTest) -> None:
    pod: Any = node.add("kept")
    for process in rights():
        node.kill_until_back(process, within_s=WITHIN_S)
    assert reaches(pod, INTERNET_ADDRESS)
    node.lab.delete_pod(pod.name)
