"""The conflist of a node speaks what its whole chain speaks, and a runtime that takes the newest version gets a pod network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vpccni.cni.conflist import VERSIONS_VARIABLE
from vpccni.lab.api import Lab

NEWEST_CNITOOL = "github.com/containernetworking/cni/cnitool@v1.3.0"
"""The first releases that read `cniVersions` are of 2024."""


@pytest.mark.spec("dataplane.15")
def test_the_conflist_offers_what_portmap_speaks_and_lets_runtimes_check(lab: Lab) -> None:
    conflist = lab.nodes[0].runtime().conflist()
    portmap = lab.nodes[0].runtime().version("portmap")["supportedVersions"]
    assert conflist["cniVersion"] == "0.4.0"
    assert conflist["cniVersions"] == [one for one in ("0.4.0", "1.0.0", "1.1.0") if one in portmap]
    assert "disableCheck" not in conflist


def test_every_offered_version_adds_checks_and_deletes(lab: Lab) -> None:
    runtime = lab.nodes[0].runtime()
    conflist = runtime.conflist()
    for version in conflist["cniVersions"]:
        name = f"speaks-{version.replace('.', '-')}"
        ports = [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]
        pod = lab.make_pod("node-1", name, ports=ports)
        result = runtime.add(pod.sandbox(), {**conflist, "cniVersion": version})
        assert result["cniVersion"] == version
        runtime.check(pod.sandbox())
        lab.delete_pod(name)


@pytest.mark.parametrize("kind", ["missing", "silent"])
def test_a_chained_plugin_that_does_not_answer_keeps_the_node_at_the_references_conflist(
    lab: Lab, tmp_path: Path, kind: str
) -> None:
    node = lab.nodes[0]
    folder = f"/run/bin-{kind}"
    node.exec(["mkdir", "-p", f"{folder}/bin"])
    if kind == "silent":
        node.exec(
            ["sh", "-c", f"printf '#!/bin/sh\\nsleep 30\\n' > {folder}/bin/portmap; chmod +x {folder}/bin/portmap"]
        )
    argv = [sys.executable, "-m", "vpccni", "node-start", "--run-dir", folder]
    done = node.exec(argv, env={"HOST_CNI_BIN_PATH": f"{folder}/bin"}, timeout=20)
    assert f"{folder}/bin/portmap does not tell its versions" in done.stderr
    settings = json.loads(node.exec(["cat", f"{folder}/settings.json"]).stdout)
    assert settings["values"][VERSIONS_VARIABLE] == {"text": "", "source": "node-start"}
    node.exec(["rm", "-r", folder])


def test_with_every_chained_plugin_each_offered_version_adds_and_deletes() -> None:
    env = {"IP_COOLDOWN_PERIOD": "0", "ENABLE_BANDWIDTH_PLUGIN": "true", "DISABLE_POD_V6": "true"}
    with Lab.up(f"chn{os.getpid()}", nodes=1, env=env) as lab:
        runtime = lab.nodes[0].runtime()
        conflist = runtime.conflist()
        assert [plugin["type"] for plugin in conflist["plugins"][2:]] == ["portmap", "bandwidth", "tuning"]
        assert conflist["disableCheck"] is True
        for number, version in enumerate(conflist["cniVersions"]):
            pod = lab.make_pod("node-1", f"chained-{number}")
            assert runtime.add(pod.sandbox(), {**conflist, "cniVersion": version})["cniVersion"] == version
            lab.delete_pod(f"chained-{number}")


@pytest.mark.full
def test_the_projects_own_tool_takes_the_newest_version_and_checks(lab: Lab, tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("no Go on this machine")
    environment = {**os.environ, "GOBIN": str(tmp_path)}
    subprocess.run(["go", "install", NEWEST_CNITOOL], env=environment, check=True, capture_output=True, timeout=300)
    node, pod = lab.nodes[0], lab.make_pod("node-1", "by-new-tool")
    env = {
        "CNI_PATH": "/opt/cni/bin",
        "NETCONFPATH": "/etc/cni/net.d",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=by-new-tool",
    }

    def tool(verb: str) -> str:
        return node.exec([str(tmp_path / "cnitool"), verb, "aws-cni", pod.netns_path], env=env).stdout

    result = json.loads(tool("add"))
    assert result["cniVersion"] == node.runtime().conflist()["cniVersions"][-1]
    tool("check")
    node.exec(["ip", "route", "del", result["ips"][0]["address"]])
    with pytest.raises(subprocess.CalledProcessError):
        tool("check")
    tool("del")
    tool("del")
    lab.delete_pod("by-new-tool")
