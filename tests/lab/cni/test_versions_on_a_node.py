"""The conflist of a node speaks what its whole chain speaks, and a runtime that takes the newest version gets a pod network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fetched import go_program

from vpccni.cni.conflist import VERSIONS_VARIABLE
from vpccni.lab.api import Lab

CNITOOL = "github.com/containernetworking/cni/cnitool@v1.3.0"
"""It reads `cniVersions`; older ones take `cniVersion`."""
PORTMAP = "github.com/containernetworking/plugins/plugins/meta/portmap@v1.9.1"
PORTS = ({"hostPort": 18080, "containerPort": 80, "protocol": "tcp"},)
ENV = {"IP_COOLDOWN_PERIOD": "0"}


@pytest.mark.spec("dataplane.15")
def test_the_conflist_offers_what_portmap_speaks(lab: Lab) -> None:
    conflist = lab.nodes[0].runtime().conflist()
    portmap = lab.nodes[0].runtime().version("portmap")["supportedVersions"]
    assert conflist["cniVersion"] == "0.4.0"
    assert conflist["cniVersions"] == [one for one in ("0.4.0", "1.0.0", "1.1.0") if one in portmap]
    assert conflist.get("disableCheck", False) is ("1.1.0" not in portmap)


def test_every_offered_version_adds_and_deletes_and_is_checked_by_ourselves(lab: Lab) -> None:
    runtime = lab.nodes[0].runtime()
    conflist = runtime.conflist()
    for number, version in enumerate(conflist["cniVersions"]):
        pod = lab.make_pod("node-1", f"speaks-{number}")
        checked = {**conflist, "cniVersion": version, "disableCheck": False}
        assert runtime.add(pod.sandbox(), checked)["cniVersion"] == version
        runtime.check(pod.sandbox())
        lab.delete_pod(f"speaks-{number}")


@pytest.mark.parametrize("kind", ["missing", "silent"])
def test_a_chained_plugin_that_does_not_answer_keeps_the_node_at_the_references_conflist(lab: Lab, kind: str) -> None:
    node, folder = lab.nodes[0], f"/run/bin-{kind}"
    node.exec(["mkdir", "-p", f"{folder}/bin"])
    if kind == "silent":
        script = f"printf '#!/bin/sh\\nsleep 30\\n' > {folder}/bin/portmap; chmod +x {folder}/bin/portmap"
        node.exec(["sh", "-c", script])
    argv = [sys.executable, "-m", "vpccni", "node-start", "--run-dir", folder]
    done = node.exec(argv, env={"HOST_CNI_BIN_PATH": f"{folder}/bin"}, timeout=20)
    assert f"{folder}/bin/portmap does not tell its versions" in done.stderr
    settings = json.loads(node.exec(["cat", f"{folder}/settings.json"]).stdout)
    assert settings["values"][VERSIONS_VARIABLE] == {"text": "", "source": "node-start"}
    node.exec(["rm", "-r", folder])


def test_with_every_chained_plugin_each_offered_version_adds_and_deletes() -> None:
    env = {**ENV, "ENABLE_BANDWIDTH_PLUGIN": "true", "DISABLE_POD_V6": "true"}
    with Lab.up(f"chn{os.getpid()}", nodes=1, env=env) as lab:
        runtime = lab.nodes[0].runtime()
        conflist = runtime.conflist()
        assert [plugin["type"] for plugin in conflist["plugins"][2:]] == ["portmap", "bandwidth", "tuning"]
        assert conflist["disableCheck"] is True
        for number, version in enumerate(conflist["cniVersions"]):
            pod = lab.make_pod("node-1", f"chained-{number}", ports=PORTS)
            assert runtime.add(pod.sandbox(), {**conflist, "cniVersion": version})["cniVersion"] == version
            lab.delete_pod(f"chained-{number}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cnitool and a portmap of today."""
    folder = tmp_path_factory.mktemp("go-bin")
    for module in (CNITOOL, PORTMAP):
        go_program(module, folder, CGO_ENABLED="0")
    return folder


@pytest.fixture(scope="module")
def modern(built: Path) -> Iterator[Lab]:
    """A lab whose portmap speaks the newest version."""
    with Lab.up(f"new{os.getpid()}", nodes=1, env=ENV, start_processes=False) as lab:
        lab.nodes[0].exec(["cp", str(built / "portmap"), "/opt/cni/bin/portmap"])
        lab.nodes[0].start_processes()
        yield lab


@pytest.mark.full
@pytest.mark.spec("dataplane.15")
def test_a_chain_of_today_is_offered_1_1_0_and_checks_pods_with_host_ports(modern: Lab) -> None:
    runtime = modern.nodes[0].runtime()
    conflist = runtime.conflist()
    assert conflist["cniVersions"] == ["0.4.0", "1.0.0", "1.1.0"]
    assert "disableCheck" not in conflist
    for number, version in enumerate(conflist["cniVersions"]):
        pod = modern.make_pod("node-1", f"with-port-{number}", ports=PORTS)
        runtime.add(pod.sandbox(), {**conflist, "cniVersion": version})
        runtime.check(pod.sandbox())
        modern.delete_pod(f"with-port-{number}")


@pytest.mark.full
def test_the_projects_own_tool_takes_the_newest_version_and_sees_a_missing_route(modern: Lab, built: Path) -> None:
    node, pod = modern.nodes[0], modern.make_pod("node-1", "by-new-tool")
    env = {
        "CNI_PATH": "/opt/cni/bin",
        "NETCONFPATH": "/etc/cni/net.d",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=by-new-tool",
    }

    def tool(verb: str) -> str:
        return node.exec([str(built / "cnitool"), verb, "aws-cni", pod.netns_path], env=env).stdout

    result = json.loads(tool("add"))
    assert result["cniVersion"] == "1.1.0"
    tool("check")
    tool("status")
    node.exec(["ip", "route", "del", result["ips"][0]["address"]])
    with pytest.raises(subprocess.CalledProcessError):
        tool("check")
    tool("del")
    tool("del")
    modern.delete_pod("by-new-tool")
