"""The plugin's log on a node: the story of an ADD and a DEL, and that no place it is given costs a pod its network."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vpccni.lab.api import CniError, Lab
from vpccni.lab.pod import Pod

LOG = "/var/log/aws-routed-eni/plugin.log"


def told(lab: Lab, path: str = LOG) -> list[dict[str, str]]:
    """Return the lines of a log on the node and empty it."""
    text = lab.nodes[0].exec(["cat", path]).stdout
    lab.nodes[0].exec(["truncate", "-s", "0", path])
    return [json.loads(line) for line in text.splitlines()]


def with_log(lab: Lab, path: str) -> dict[str, Any]:
    """Return the node's conflist with this pluginLogFile in its first plugin."""
    conflist = lab.nodes[0].runtime().conflist()
    conflist["plugins"][0]["pluginLogFile"] = path
    return conflist


def add_and_delete(lab: Lab, conflist: dict[str, Any]) -> None:
    pod = lab.make_pod("node-1", "logged")
    runtime = lab.runtime("node-1")
    try:
        runtime.add(pod.sandbox(), conflist)
        assert reaches_node(lab, pod)
    finally:
        runtime.delete(pod.sandbox(), conflist)
        lab.delete_pod("logged")


def reaches_node(lab: Lab, pod: Pod) -> bool:
    return pod.exec(["ping", "-c", "1", "-W", "1", lab.nodes[0].primary_address], check=False).returncode == 0


@pytest.mark.spec("dataplane.4.7")
def test_the_log_tells_what_was_asked_and_what_came_of_it(lab: Lab) -> None:
    pod = lab.add_pod("node-1", "told")
    lab.delete_pod("told")
    lines = told(lab)
    assert [(line["level"], " ".join(line["msg"].split()[:2]).rstrip(":")) for line in lines] == [
        ("debug", "ADD begins"),
        ("info", "ADD of"),
        ("debug", "DEL begins"),
        ("info", "DEL of"),
    ]
    assert all(pod.container_id in line["msg"] for line in lines)
    assert pod.address in lines[1]["msg"]
    assert "default/told" in lines[0]["msg"]


def test_a_failure_stands_in_the_log_with_its_reason(lab: Lab) -> None:
    pod = lab.make_pod("node-1", "refused")
    conflist = with_log(lab, LOG)
    conflist["plugins"][0]["vethPrefix"] = "too-long"
    with pytest.raises(CniError):
        lab.runtime("node-1").add(pod.sandbox(), conflist)
    lab.delete_pod("refused")
    errors = [line["msg"] for line in told(lab) if line["level"] == "error"]
    assert "vethPrefix is longer than 4 bytes" in errors[0]


def test_the_conflists_level_holds_for_the_programmer_too(lab: Lab) -> None:
    conflist = with_log(lab, LOG)
    conflist["plugins"][0]["pluginLogLevel"] = "Error"
    add_and_delete(lab, conflist)
    assert [line for line in told(lab) if "ADD" in line["msg"]] == []


@pytest.mark.parametrize(
    "path", ["stderr", "", "relative", "/no/such/folder/plugin.log", "/etc/cni/net.d", "/dev/full"]
)
def test_a_pod_gets_its_network_wherever_the_log_should_go(lab: Lab, path: str) -> None:
    add_and_delete(lab, with_log(lab, path))


def test_a_full_disk_under_the_log_costs_no_pod_its_network(lab: Lab) -> None:
    node = lab.nodes[0]
    node.exec(["sh", "-c", "mkdir -p /run/small && mount -t tmpfs -o size=4k small /run/small"])
    try:
        node.exec(["sh", "-c", "head -c 4096 /dev/zero > /run/small/filler"])
        add_and_delete(lab, with_log(lab, "/run/small/plugin.log"))
        assert node.exec(["sh", "-c", "wc -c < /run/small/plugin.log"]).stdout.strip() == "0"
    finally:
        node.exec(["umount", "/run/small"])
