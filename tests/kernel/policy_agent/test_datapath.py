"""Loading, pinning and switching without the bus: a child in namespaces of its own runs each scene and asserts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PREPARE = """
import json, os, pathlib, subprocess, sys
from vpccni.components.policy_agent import layout, libbpf
from vpccni.components.policy_agent.datapath import Datapath
from vpccni.components.policy_agent.filters import Filters
from vpccni.components.policy_agent.selection import Behind
from vpccni.shared.messages.base import PodRef
from vpccni.components.policy_agent.objectfile import ObjectFile, Program
from vpccni.components.policy_agent.objects import ObjectSource, compiled_programs
import msgspec
BPFFS = pathlib.Path("/sys/fs/bpf")
content = compiled_programs(ObjectSource(pathlib.Path("/nowhere"), pathlib.Path(sys.argv[1])))
other = msgspec.structs.replace(content, hash="another")
def link(name):
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", name + "p"], check=True)
    return json.loads(subprocess.run(["ip", "-json", "link", "show", name], capture_output=True, check=True).stdout)[0]["ifindex"]
def entry(index, name):
    return layout.PodEntry.of(index, link=name, sandbox="s")
WHO = Behind(PodRef("default", "pod"), ("10.0.0.1",), False, 0.0)
"""


def scene(compiled: Path, text: str, *, bpffs: bool = True) -> None:
    mount = "mount -t bpf bpf /sys/fs/bpf && " if bpffs else ""
    shell = f'{mount}exec "$0" -c "$SCENE" "$1"'
    command = [
        "unshare",
        "--net",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        shell,
        sys.executable,
        str(compiled),
    ]
    done = subprocess.run(
        command, env=os.environ | {"SCENE": PREPARE + text}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_second_start_takes_over_the_same_programs(compiled: Path) -> None:
    scene(
        compiled,
        """
first = Datapath(BPFFS, content, Filters())
second = Datapath(BPFFS, content, Filters())
assert (first.taken_over, second.taken_over) == (False, True)
assert first.program_ids == second.program_ids
""",
    )


def test_another_source_is_loaded_beside_switched_and_the_old_pins_go(compiled: Path) -> None:
    scene(
        compiled,
        """
old = Datapath(BPFFS, content, Filters())
index = link("eni1")
old.attach(index, entry(index, "eni1"), WHO)
new = Datapath(BPFFS, other, Filters())
assert not new.taken_over and new.program_ids != old.program_ids
assert Filters().seen(index) == old.program_ids
assert new.repair().refilter == (index,)
new.forget_others()
assert Filters().seen(index) == new.program_ids
assert [path.name for path in (BPFFS / "vpccni" / layout.LAYOUT).iterdir() if path.is_dir()] == ["another"]
""",
    )


def test_pods_of_another_layout_are_found_and_its_pins_go_when_told(compiled: Path) -> None:
    scene(
        compiled,
        """
index = link("eni1")
folder = BPFFS / "vpccni" / "oldlayout"
folder.mkdir(parents=True)
narrow = libbpf.create_map(layout.MapDefinition("pods", 1, 4, 8, 16))
libbpf.pin(narrow.descriptor, str(folder / "pods"))
for one in (index, 4711):
    libbpf.update(narrow, layout.pod_key(one), bytes(8))
datapath = Datapath(BPFFS, content, Filters())
assert datapath.left_behind() == {index: "eni1"}
datapath.attach(index, entry(index, "eni1"), WHO)
assert datapath.left_behind() == {} and datapath.behind(index) == WHO
datapath.forget_others()
assert not folder.exists()
""",
    )


def test_programs_whose_maps_lost_their_pins_are_loaded_again(compiled: Path) -> None:
    scene(
        compiled,
        """
first = Datapath(BPFFS, content, Filters())
(BPFFS / "vpccni" / layout.LAYOUT / "counters").unlink()
second = Datapath(BPFFS, content, Filters())
assert not second.taken_over
assert {name: second.programs[name].map_ids == first.programs[name].map_ids for name in second.programs} == {
    "handle_ingress": False, "handle_egress": False}
""",
    )


def test_a_foreign_filter_in_another_slot_stays(compiled: Path) -> None:
    scene(
        compiled,
        """
index = link("eni1")
subprocess.run(["tc", "qdisc", "add", "dev", "eni1", "clsact"], check=True)
subprocess.run(["tc", "filter", "add", "dev", "eni1", "ingress", "pref", "7", "protocol", "ip", "matchall", "action", "ok"], check=False)
before = subprocess.run(["tc", "filter", "show", "dev", "eni1", "ingress"], capture_output=True, text=True).stdout
datapath = Datapath(BPFFS, content, Filters())
assert datapath.attach(index, entry(index, "eni1"), WHO) and not datapath.attach(index, entry(index, "eni1"), WHO)
after = subprocess.run(["tc", "filter", "show", "dev", "eni1", "ingress"], capture_output=True, text=True).stdout
assert before in after and "handle_egress" in after
""",
    )


def test_a_program_the_verifier_refuses_says_why(compiled: Path) -> None:
    scene(
        compiled,
        """
from vpccni.shared.errors import KernelRefused
try:
    libbpf.load_program("bad", bytes.fromhex("9500000000000000"))
    raise SystemExit("loaded")
except KernelRefused as error:
    assert "R0 !read_ok" in str(error), str(error)
""",
    )


def test_without_a_bpf_filesystem_it_says_how_to_mount_one(compiled: Path, tmp_path: Path) -> None:
    scene(
        compiled,
        f"""
from vpccni.shared.errors import KernelRefused
try:
    Datapath(pathlib.Path("{tmp_path}"), content, Filters())
    raise SystemExit("taken")
except KernelRefused as error:
    assert "mount -t bpf" in str(error)
""",
        bpffs=False,
    )
