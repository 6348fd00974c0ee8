"""The images, built here: what is in them, what is not, whose they run as, their size, and that each starts."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from images.image import BUILD_WITHIN_S, SIZE_MB, Image

SHELLS = {"sh", "bash", "dash", "busybox"}
TOOLS = {
    "gcc",
    "cc",
    "as",
    "ld",
    "clang",
    "perl",
    "apt-get",
    "dpkg",
    "pip",
    "pip3",
    "ip",
    "nsenter",
    "mount",
    "tar",
    "curl",
    "wget",
}
PROCESSES = {
    "vpccni-eni-manager": "eni_manager",
    "vpccni-ip-allocator": "ip_allocator",
    "vpccni-metrics-publisher": "metrics_publisher",
    "vpccni-netlink-programmer": "netlink_programmer",
    "vpccni-policy-agent": "policy_agent",
    "amazon-k8s-cni": "eni_manager,ip_allocator,netlink_programmer,metrics_publisher",
}
PLUGINS = """bandwidth bridge dhcp dummy firewall host-device host-local ipvlan loopback macvlan portmap ptp sbr static tap
    tuning vlan vrf""".split()

pytestmark = [pytest.mark.full, pytest.mark.timeout(BUILD_WITHIN_S + 120)]


def test_no_image_has_a_shell_a_compiler_or_a_package_manager(images: dict[str, Image]) -> None:
    for name, image in images.items():
        assert image.programs() & (SHELLS | TOOLS) == set(), name
        assert not any((image.root / "usr/lib").rglob("libLLVM*")), name
        assert not any((image.root / "usr/lib").rglob("libbcc*")), name


def test_no_file_of_an_image_gives_its_user_more_rights(images: dict[str, Image]) -> None:
    for name, image in images.items():
        raising = [path for path in image.root.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o6000]
        assert raising == [], name


def test_what_runs_off_the_node_is_an_ordinary_user(images: dict[str, Image]) -> None:
    for name in ("cni-metrics-helper", "vpccni-policy-controller"):
        assert images[name].config["User"] == "65534:65534"
    assert {image.config.get("User", "") for name, image in images.items() if name in PROCESSES} == {""}


def test_images_are_small(images: dict[str, Image]) -> None:
    for name, image in images.items():
        files = (path.lstat() for path in image.root.rglob("*"))
        megabytes = sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in files}.values()) / 1e6
        assert megabytes < SIZE_MB[name], name


def test_images_share_their_common_layer(images: dict[str, Image]) -> None:
    assert len({image.root.joinpath("usr/bin/python3.11").stat().st_ino for image in images.values()}) == 1


def test_the_probe_asks_for_the_processes_of_its_container(images: dict[str, Image]) -> None:
    assert {name: images[name].env["VPCCNI_PROCESSES"] for name in PROCESSES} == PROCESSES
    for name in PROCESSES:
        assert os.access(images[name].root / "app/grpc-health-probe", os.X_OK)


@pytest.mark.parametrize("name", [name for name in PROCESSES if name != "amazon-k8s-cni"])
def test_each_entry_point_starts(images: dict[str, Image], name: str) -> None:
    image = images[name]
    assert os.access(image.root / image.config["Entrypoint"][0].lstrip("/"), os.X_OK)
    assert "--run-dir" in image.run("python3", "-m", f"vpccni.components.{PROCESSES[name]}", "--help")


def test_commands_can_be_executed_in_a_container(images: dict[str, Image]) -> None:
    image = images["amazon-k8s-cni"]
    assert "WARM_ENI_TARGET" in image.run("vpccni", "settings")
    assert "WARM_ENI_TARGET" in image.run("python", "-m", "vpccni", "settings")
    assert "HOST_CNI_BIN_PATH" in image.run("vpccni", "node-init", "--help")
    assert "4." in image.run("python3", "-m", "supervisor.supervisord", "--version")


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("vpccni-eni-manager", "import boto3; [boto3.client(s, region_name='x') for s in ('ec2', 'sts')]"),
        ("vpccni-eni-manager", "from vpccni.shared.kube.transport import _modules; _modules()"),
        ("vpccni-netlink-programmer", "from pyroute2 import IPBatch; IPBatch()"),
        ("vpccni-netlink-programmer", "from vpccni.components.netlink_programmer import service"),
        ("vpccni-metrics-publisher", "import ssl; assert ssl.create_default_context().get_ca_certs()"),
        ("amazon-k8s-cni", "from vpccni.components.compat.service import CompatService"),
        ("vpccni-policy-controller", "from vpccni.components.policy_controller.service import Service"),
        ("cni-metrics-helper", "import boto3; boto3.client('cloudwatch', region_name='x')"),
        ("cni-metrics-helper", "from vpccni.components.metrics_helper.service import Service"),
    ],
)
def test_what_is_imported_late_was_not_trimmed_away(images: dict[str, Image], name: str, statement: str) -> None:
    images[name].run("python3", "-c", statement)


@pytest.mark.parametrize("name", ["vpccni-netlink-programmer", "amazon-k8s-cni"])
def test_both_firewall_back_ends_are_there(images: dict[str, Image], name: str) -> None:
    for program in ("iptables-nft-restore", "iptables-legacy-restore", "ip6tables-nft-save", "ip6tables-legacy-save"):
        assert "v1.8" in images[name].run(program, "--version")


def test_the_agent_has_its_programs_compiled_and_a_library_to_load_them(images: dict[str, Image]) -> None:
    agent = images["vpccni-policy-agent"]
    statement = (
        "import ctypes; ctypes.CDLL('libbpf.so.1')\n"
        "from pathlib import Path; from vpccni.components.policy_agent.objects import ObjectSource, compiled_programs\n"
        "print(len(compiled_programs(ObjectSource(cache=Path('/none'))).programs))"
    )
    assert agent.run("python3", "-c", statement).strip() == "2"


def test_the_agents_command_line_tool_is_where_the_node_calls_it(images: dict[str, Image]) -> None:
    agent = images["vpccni-policy-agent"]
    assert os.access(agent.root / "opt/cni/bin/aws-eks-na-cli", os.X_OK)
    assert "ebpf" in agent.run("python3", "/opt/cni/bin/aws-eks-na-cli", "--help")


def test_plugin_and_chain_are_where_they_are_installed_from(images: dict[str, Image]) -> None:
    init, programmer = images["vpccni-init"], images["vpccni-netlink-programmer"]
    assert {path.name for path in (init.root / "init").iterdir()} == {*PLUGINS, "LICENSE", "aws-cni-support.sh"}
    assert os.access(init.root / "init" / "aws-cni-support.sh", os.X_OK)
    for plugin in PLUGINS:
        done = subprocess.run(
            [init.root / "init" / plugin], env={"CNI_COMMAND": "VERSION"}, input=b"{}", capture_output=True, check=True
        )
        assert "1.1.0" in json.loads(done.stdout)["supportedVersions"], plugin
    assert os.access(programmer.root / "app/aws-cni", os.X_OK)
    assert programmer.env["VPCCNI_PLUGIN_BINARY"] == "/app/aws-cni"


def test_the_swap_shapes_supervisor_leaves_the_agent_to_its_own_container(images: dict[str, Image]) -> None:
    conf = (images["amazon-k8s-cni"].root / "app/supervisord.conf").read_text()
    programs = [line for line in conf.splitlines() if line.startswith("[program:")]
    assert programs == [f"[program:{name}]" for name in [*PROCESSES["amazon-k8s-cni"].split(","), "compat"]]
    assert images["amazon-k8s-cni"].env["VPCCNI_COMPAT"] == "true"
