"""The images, built here: what is in them, what is not, whose they run as, their size, and that each starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BUILD_WITHIN_S = 1200
RUN_WITHIN_S = 60
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
SIZE_MB = {
    "vpccni-eni-manager": 95,
    "vpccni-ip-allocator": 95,
    "vpccni-metrics-publisher": 95,
    "vpccni-netlink-programmer": 100,
    "vpccni-policy-agent": 97,
    "vpccni-init": 170,
    "amazon-k8s-cni": 100,
    "cni-metrics-helper": 95,
    "vpccni-policy-controller": 95,
}
"""Each with the common layer, which a node stores once."""
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


@dataclass(frozen=True)
class Image:
    """A container made of an image, with its root mounted and the image's configuration."""

    container: str
    root: Path
    config: dict[str, Any]

    def run(self, *command: str) -> str:
        argv = ["buildah", "run", "--isolation=chroot", self.container, "--", *command]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=RUN_WITHIN_S).stdout

    @property
    def env(self) -> dict[str, str]:
        return dict(entry.partition("=")[::2] for entry in self.config["Env"])

    def programs(self) -> set[str]:
        folders = [self.root / name for name in ("usr/bin", "usr/sbin", "app", "init")]
        return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, Image]]:
    """Every image; left out where this machine cannot build them, and nothing of them is left afterwards but the images."""
    for program in ("buildah", "mmdebstrap", "go"):
        if subprocess.run(["which", program], capture_output=True, check=False).returncode != 0:
            pytest.skip(f"{program} is not on this machine: `make images` installs or names it")
    tag = f"test-{os.getpid()}"
    command = ["make", "-C", str(ROOT), "images", f"PYTHON={sys.executable}"]
    built = subprocess.run(
        command,
        env={**os.environ, "VPCCNI_IMAGE_TAG": tag},
        capture_output=True,
        text=True,
        timeout=BUILD_WITHIN_S,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    made = {name: _mounted(f"localhost/{name}:{tag}") for name in SIZE_MB}
    try:
        yield made
    finally:
        for image in made.values():
            subprocess.run(["buildah", "rm", image.container], check=True, capture_output=True)
        listed = json.loads(_buildah("images", "--json"))
        subprocess.run(
            [
                "buildah",
                "rmi",
                *(name for image in listed for name in image.get("names") or [] if name.endswith(f":{tag}")),
            ],
            check=True,
            capture_output=True,
        )


def _mounted(name: str) -> Image:
    container = _buildah("from", "--pull-never", name)
    config = json.loads(_buildah("inspect", "--type=image", name))["OCIv1"]["config"]
    return Image(container, Path(_buildah("mount", container)), config)


def _buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True).stdout.strip()


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
