"""Pods that the reference wired and no process of ours ever knew: deleted by what their runtime stored, in every form it may have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vpccni.lab.api import Lab

VETH, ADDRESS = "enicc21c2d7785", "10.0.127.200"
LOOK = f"ip rule | grep 10.0.127; ip route | grep 10.0.127; ip -o link | grep {VETH}"


def reference_wires(lab: Lab, veth: str = VETH, address: str = ADDRESS) -> None:
    """What the reference leaves in the node's kernel for a pod on the second ENI (spec dataplane.md 13.1)."""
    gone = f"for i in $(seq 100); do ip link show p{veth[-8:]} >/dev/null 2>&1 || break; sleep 0.05; done"
    steps = [
        gone,  # deleted in the background by the test before
        f"ip link add {veth} type veth peer name p{veth[-8:]}",
        f"ip link set p{veth[-8:]} up",
        f"ip link set {veth} up",
        f"ip route replace {address} dev {veth} scope link",
        f"ip rule add to {address} priority 512 lookup main",
        f"ip rule add from {address} priority 1536 lookup 7",
    ]
    lab.nodes[0].exec(["sh", "-c", " && ".join(steps)])


def delete(lab: Lab, previous: Any, *, container: str = "of-the-reference") -> None:
    conflist = lab.nodes[0].runtime().conflist()
    config = {**conflist["plugins"][0], "cniVersion": "0.4.0", "name": "aws-cni"}
    if previous is not None:
        config["prevResult"] = previous
    env = {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": container,
        "CNI_NETNS": "",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=sample-pod",
    }
    lab.nodes[0].exec(["/opt/cni/bin/aws-cni"], env=env, input=json.dumps(config))


def stored(mac: str | None, *, egress: bool = False, dummy: bool = True) -> dict[str, Any]:
    container = {"name": "eth0", "sandbox": "/var/run/netns/cni-1", **({} if mac is None else {"mac": mac})}
    interfaces: list[dict[str, str]] = [{"name": VETH}, container]
    if dummy:
        interfaces.append({"name": "dummycc21c2d7785", "mac": "0", "sandbox": "6"})
    if egress:
        interfaces += [{"name": "veth12345678", "mac": "02:00:00:00:00:01"}]
        interfaces += [{"name": "v6if0", "mac": "02:00:00:00:00:02", "sandbox": "/var/run/netns/cni-1"}]
    ips = [{"version": "4", "interface": 1, "address": f"{ADDRESS}/32"}]
    return {"cniVersion": "0.4.0", "interfaces": interfaces, "ips": ips, "dns": {}}


@pytest.mark.spec("dataplane.4.5", "dataplane.18.32", "dataplane.16.2")
@pytest.mark.parametrize(
    "previous",
    [
        stored("7"),
        stored("7", egress=True),
        stored("1"),
        stored(None),
        stored("7", dummy=False),
        stored("0a:58:0a:00:61:1e"),
        {"cniVersion": "0.3.1", "interfaces": "junk", "ips": [{"address": f"{ADDRESS}/32"}, 5]},
        None,
    ],
    ids=["of today", "with egress", "before 1.20.3", "before 1.20", "no dummy", "real MAC", "junk", "none"],
)
def test_a_pod_that_no_process_knows_is_deleted_by_any_stored_result(lab: Lab, previous: Any) -> None:
    reference_wires(lab)
    delete(lab, previous)
    assert lab.nodes[0].exec(["sh", "-c", LOOK], check=False).stdout == ""
    delete(lab, previous)


@pytest.mark.spec("dataplane.18.6")
def test_a_late_deletion_leaves_a_pod_that_has_the_address_by_now_alone(lab: Lab) -> None:
    reference_wires(lab, "eni0123456789a")
    before = lab.nodes[0].exec(["sh", "-c", LOOK], check=False).stdout
    delete(lab, stored("7"))
    assert lab.nodes[0].exec(["sh", "-c", LOOK], check=False).stdout == before
    ours = lab.add_pod("node-1", "newer")
    result = stored("254")
    result["ips"][0]["address"] = f"{ours.address}/32"
    delete(lab, result)
    assert ours.exec(["ping", "-c", "1", "-W", "1", lab.nodes[0].primary_address], check=False).returncode == 0
    lab.delete_pod("newer")
    lab.nodes[0].exec(["sh", "-c", f"ip link del eni0123456789a; ip rule del to {ADDRESS}; ip rule del from {ADDRESS}"])
