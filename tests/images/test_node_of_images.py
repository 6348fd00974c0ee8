"""A node whose five processes run out of the images: their files alone, read-only, with the rights of the split shape's containers."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from images.image import BUILD_WITHIN_S, Image
from support.waiting import until
from tests.lab.node.conftest import NodeUnderTest
from tests.lab.node.test_rights import CAPABILITIES, CONTAINERS, reaches, rights, status

from vpccni.lab.api import STATE_ROOT, Lab
from vpccni.lab.fabric import INTERNET_ADDRESS
from vpccni.shared import names

pytestmark = [pytest.mark.full, pytest.mark.timeout(BUILD_WITHIN_S + 240)]

IMAGES = {process: f"vpccni-{process.replace('_', '-')}" for process in names.NODE_PROCESSES}
FOLDERS = {
    "aws-node": ("/opt/cni/bin", "/etc/cni/net.d", "/var/log/aws-routed-eni"),
    "aws-eks-nodeagent": ("/var/log/aws-routed-eni",),
}
"""What a container sees of the host beside the run folder; the lab's processes look for it in its own places."""
WRAPPER = """#!/bin/sh
# $1 $2: -m MODULE. The process keeps its id: its supervisor watches over that.
case "$2" in
{cases}
esac
exec unshare --mount /bin/sh -c '
    root=$0 folders=$1 dropped=$2; shift 2
    mount --bind "$root" "$root" || exit 1
    for folder in /proc /sys /dev; do mount --rbind "$folder" "$root$folder" || exit 1; done
    mount --bind /var/run/aws-node "$root/run/aws-node" || exit 1
    for folder in $folders; do mount --bind "$folder" "$root$folder" || exit 1; done
    mount --bind "$root/proc/sys" "$root/proc/sys" && mount -o remount,bind,ro "$root/proc/sys" || exit 1
    mount -o remount,bind,ro "$root" || exit 1
    shift
    exec capsh --chroot="$root" --drop="$dropped" --no-new-privs --shell=/usr/bin/python3 -- "$@"' \\
    "$root" "$folders" "$dropped" - "$@"
"""
WITHIN_S = 60.0
PODS = 12  # nine fit on the primary ENI of an m5.large


@pytest.fixture(scope="module")
def node(images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    lab = f"t{os.getpid()}"
    state = str(STATE_ROOT / lab)
    wrapper = tmp_path_factory.mktemp("images") / "python"
    cases = []
    for process, granted in rights().items():
        root = wrapper.with_name(process)  # a copy: a node's mounts are not those of the machine
        subprocess.run(["cp", "-a", images[IMAGES[process]].root, root], check=True)
        folders = [*FOLDERS.get(CONTAINERS[process], ()), state]
        for folder in ["/run/aws-node", *folders]:
            (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        dropped = ",".join(f"cap_{name.lower()}" for name in CAPABILITIES if name not in granted)
        cases.append(f"    vpccni.components.{process}) root={root} folders='{' '.join(folders)}' dropped={dropped} ;;")
    wrapper.write_text(WRAPPER.format(cases="\n".join(cases)))
    wrapper.chmod(0o755)
    env: dict[str, str | None] = {
        "IP_COOLDOWN_PERIOD": "0",
        "VPCCNI_PYTHON": str(wrapper),
        "PATH": "/usr/bin:/usr/sbin:/bin:/sbin",
    }
    with contextlib.ExitStack() as stack:
        yield NodeUnderTest(stack.enter_context(Lab.up(lab, nodes=1, env=env)))


def test_every_process_runs_out_of_its_image_and_serves(node: NodeUnderTest) -> None:
    def well() -> bool:
        return all(status(node, process).state == "serving" for process in IMAGES)

    until(well, lambda: {process: status(node, process).reasons for process in IMAGES}, within_s=WITHIN_S)
    for process in IMAGES:
        pid = status(node, process).pid
        assert Path(f"/proc/{pid}/root").readlink().name == process
        wanted = sum(1 << CAPABILITIES[name] for name in rights()[process])
        effective = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("CapEff")
        )
        assert int(effective.split()[1], 16) == wanted, process


def test_pods_come_talk_survive_the_death_of_every_process_and_go(node: NodeUnderTest) -> None:
    pods: list[Any] = [node.add(f"p{number}") for number in range(PODS)]
    assert all(reaches(pods[0], pod.address) for pod in pods[1:])
    for process in IMAGES:
        node.kill_until_back(process, within_s=WITHIN_S)
    assert all(reaches(pod, INTERNET_ADDRESS) for pod in pods)
    for pod in pods:
        node.lab.delete_pod(pod.name)
    reasons = {process: status(node, process).reasons for process in IMAGES}
    assert reasons == {process: [] for process in IMAGES}
