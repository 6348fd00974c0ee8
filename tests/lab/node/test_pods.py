"""Pods on a node with all processes: what the runtime, the kernel, the ledger and EC2 say of them, and bad requests."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tests_node import addresses_in_use

from vpccni.lab.runtime import CniError
from vpccni.lab.runtime import Sandbox as LabSandbox

PREVIOUS_MISSING = "10.0.96.250"
FAILS_FAST_S = 2.0


@pytest.mark.spec("dataplane.13.1", "dataplane.4.5")
def test_a_pod_is_wired_as_the_contract_prints_it(node: Any) -> None:
    pod = node.add("sample-pod")
    host = pod.result["interfaces"][0]["name"]
    assert host == "enicc21c2d7785"
    link = json.loads(node.shell(f"ip -json link show {host}"))[0]
    assert link["mtu"] == 9001
    assert "UP" in link["flags"]
    routes = json.loads(node.shell(f"ip -json route show {pod.address}"))
    assert [(route["dst"], route["dev"], route["scope"]) for route in routes] == [(pod.address, host, "link")]
    rules = [
        rule for rule in json.loads(node.shell("ip -json rule")) if pod.address in (rule.get("src"), rule.get("dst"))
    ]
    assert (512, "main") in [(rule["priority"], rule["table"]) for rule in rules]
    inside = json.loads(pod.exec(["ip", "-json", "address", "show", "eth0"]).stdout)[0]
    assert [(item["local"], item["prefixlen"]) for item in inside["addr_info"] if item["family"] == "inet"] == [
        (pod.address, 32)
    ]
    neighbour = json.loads(pod.exec(["ip", "-json", "neigh"]).stdout)[0]
    assert (neighbour["dst"], neighbour["lladdr"], neighbour["state"]) == (
        "169.254.1.1",
        link["address"],
        ["PERMANENT"],
    )
    assert node.shell(f"cat /proc/sys/net/ipv6/conf/{host}/accept_ra").strip() == "0"
    node.lab.delete_pod("sample-pod")
    left = node.shell(f"ip rule; ip route; ip -br link show {host} 2>&1")
    assert pod.address not in left
    assert "does not exist" in left


@pytest.mark.spec("dataplane.18.41")
def test_a_second_add_for_a_live_sandbox_gives_the_same_answer_and_leaves_the_interface_alone(node: Any) -> None:
    pod = node.add("twice")
    before = json.loads(pod.exec(["ip", "-json", "link", "show", "eth0"]).stdout)[0]
    again = node.lab.runtime(node.node.name).add(pod.sandbox())
    after = json.loads(pod.exec(["ip", "-json", "link", "show", "eth0"]).stdout)[0]
    assert again["ips"] == pod.result["ips"]
    assert (after["ifindex"], after["address"]) == (before["ifindex"], before["address"])
    node.lab.delete_pod("twice")


@pytest.mark.spec("dataplane.18.4")
def test_a_new_sandbox_of_the_same_pod_name_outlives_the_deletion_of_the_old_one(node: Any) -> None:
    old = node.add("again")
    runtime = node.lab.runtime(node.node.name)
    new = node.lab.make_pod(node.node.name, "again-new")
    sandbox = new.sandbox()
    renamed = LabSandbox(**{**sandbox.__dict__, "pod": "again"})
    result = runtime.add(renamed)
    runtime.delete(old.sandbox())
    address = result["ips"][0]["address"].split("/")[0]
    assert address in node.shell("ip route")
    assert new.exec(["ping", "-c", "1", "-W", "1", node.node.primary_address], check=False).returncode == 0
    runtime.delete(renamed)


def test_deleting_twice_and_what_never_was_succeeds(node: Any) -> None:
    pod = node.add("gone")
    runtime = node.lab.runtime(node.node.name)
    sandbox = pod.sandbox()
    result = pod.result
    runtime.delete(sandbox)
    runtime.delete(sandbox, result=result)
    node.lab.delete_pod("gone")
    stranger = node.lab.make_pod(node.node.name, "never")
    runtime.delete(stranger.sandbox())
    node.lab.delete_pod("never")


@pytest.mark.spec("dataplane.15")
def test_check_passes_for_a_healthy_pod_and_names_what_is_missing(node: Any) -> None:
    pod = node.add("checked")
    config = json.loads(node.shell("cat /etc/cni/net.d/10-aws.conflist"))
    own = {**config["plugins"][0], "cniVersion": "0.4.0", "name": config["name"], "prevResult": pod.result}
    env = {
        "CNI_COMMAND": "CHECK",
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": pod.netns_path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=checked",
    }
    fine = node.node.exec(["/opt/cni/bin/aws-cni"], input=json.dumps(own), env=env, check=False)
    assert fine.returncode == 0, fine.stdout
    pod.exec(["ip", "address", "flush", "dev", "eth0"])  # what is taken from the host comes back too soon
    broken = node.node.exec(["/opt/cni/bin/aws-cni"], input=json.dumps(own), env=env, check=False)
    assert broken.returncode == 1
    assert pod.address in json.loads(broken.stdout)["details"]
    node.lab.delete_pod("checked")


def test_a_namespace_that_does_not_exist_is_refused_and_nothing_is_given_out(node: Any) -> None:
    before = addresses_in_use(node)
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "nobody",
        "CNI_NETNS": "/run/netns/does-not-exist",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    done = node.node.exec(
        ["/opt/cni/bin/aws-cni"], input='{"cniVersion":"0.4.0","name":"aws-cni"}', env=env, check=False
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 4
    assert "does-not-exist" in done.stdout
    assert addresses_in_use(node) == before


FILL = "while :; do cat /dev/zero >> /run/aws-node/filler 2>/dev/null; sleep 0.001; done"


def until_settled(node: Any) -> None:
    """Wait until the warm pool is what it will be: no process has a reason to write."""
    counts: list[int] = []
    for _ in range(50):
        counts.append(sum(len(eni["addresses"]) for eni in node.lab.ec2_picture()))
        if len(counts) > 5 and len(set(counts[-5:])) == 1:
            return
        time.sleep(0.2)
    raise AssertionError(f"the pool does not settle: {counts}")


def test_disk_full_fails_the_add_gives_nothing_out_and_lets_deletions_pass(node: Any) -> None:
    kept = node.add("before-full")
    until_settled(node)
    node.node.exec(["mount", "-o", "remount,size=128k", "/run/aws-node"])
    filler = node.node.popen(["sh", "-c", FILL])  # whatever another process gives back meanwhile is taken again
    try:
        time.sleep(0.5)
        before = addresses_in_use(node)
        with pytest.raises(CniError) as caught:
            node.add("while-full")
        assert caught.value.code == 11
        assert addresses_in_use(node) == before
    finally:
        filler.kill()
        filler.wait(10)
        node.shell("rm -f /run/aws-node/filler; mount -o remount,size=64m /run/aws-node")
    time.sleep(0.2)
    assert node.add("after-full").address
    node.lab.delete_pod("after-full")
    node.lab.delete_pod(kept.name)


def test_an_empty_pool_says_the_cause_with_numbers_and_fails_fast(node: Any) -> None:
    pods = [node.add(f"many-{number}").name for number in range(27 - len(addresses_in_use(node)))]
    begin = time.monotonic()
    with pytest.raises(CniError) as caught:
        node.add("one-too-many")
    assert time.monotonic() - begin < FAILS_FAST_S
    time.sleep(0.3)  # the programmer hears of the full pool
    conf = node.node.runtime().conflist()
    status = {**conf["plugins"][0], "name": conf["name"], "cniVersion": "1.1.0"}
    env = {"CNI_COMMAND": "STATUS", "CNI_PATH": "/opt/cni/bin"}
    node.node.exec(["/opt/cni/bin/aws-cni"], env=env, input=json.dumps(status))  # full is not broken
    assert caught.value.code == 11
    assert "ENI_LIMIT" in str(caught.value.details)
    assert "27 addresses" in str(caught.value.details)
    assert len(set(addresses_in_use(node))) == len(addresses_in_use(node)) == 27
    for name in pods:
        node.lab.delete_pod(name)
    assert addresses_in_use(node) == []
