"""A node whose operator brings a conflist: it is the one that pods are added by."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import until

from vpccni.lab.api import Lab
from vpccni.shared.messages.common import GetStatus, Status
from vpccni.shared.names import NETLINK_PROGRAMMER
from vpccni.shared.node_cli import ask_all

OWN = """{
  "cniVersion": "0.4.0", "name": "aws-cni", "disableCheck": true, "theirs":   {"kept": true},
  "plugins": [
    {"name": "aws-cni", "type": "aws-cni", "vethPrefix": "__VETHPREFIX__", "mtu": "__MTU__", "pluginLogFile": "stderr", "x": 1}
  ]
}
"""
CONFLIST = "/etc/cni/net.d/10-aws.conflist"
WITHIN_S = 30.0


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "own.conflist"
    path.write_text(OWN)
    return path


@pytest.fixture
def lab(template: Path) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        env = {"VPCCNI_CONFLIST_TEMPLATE": str(template), "POD_MTU": "1400", "DISABLE_POD_V6": "true"}
        yield stack.enter_context(Lab.up(f"t{os.getpid()}", nodes=1, env=env))


@pytest.mark.spec("operations.17.25")
def test_pods_are_added_by_the_operators_conflist(lab: Lab, template: Path) -> None:
    node = lab.nodes[0]
    written = node.exec(["cat", CONFLIST]).stdout
    assert '"theirs":   {"kept": true},' in written
    assert [plugin["type"] for plugin in json.loads(written)["plugins"]] == ["aws-cni", "tuning"]
    assert json.loads(written)["plugins"][0]["mtu"] == "1400"
    pod = lab.add_pod(node.name, "web")
    assert "mtu 1400" in pod.exec(["ip", "link", "show", "eth0"]).stdout
    lab.delete_pod("web")

    template.write_text('{"plugins": []}')
    node.kill(NETLINK_PROGRAMMER)

    def told() -> bool:
        status = ask_all(node.root, [NETLINK_PROGRAMMER], GetStatus())[NETLINK_PROGRAMMER]
        return isinstance(status, Status) and any("cniConfig" in reason for reason in status.reasons)

    until(told, "the programmer does not say that the conflist cannot be used", within_s=WITHIN_S)
    assert node.exec(["cat", CONFLIST]).stdout == written
