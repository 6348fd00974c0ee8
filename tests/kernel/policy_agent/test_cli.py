"""The agent's command line tool on maps with policies, flows and pods in them; `bpftool` knows the numbers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from support.waiting import until

if TYPE_CHECKING:
    from tests.kernel.policy_agent.conftest import Node


def tool(node: Node, *words: str) -> list[str]:
    return node.run(sys.executable, "-m", "vpccni.components.policy_agent.cli", "ebpf", *words).splitlines()


def map_id(node: Node, name: str) -> str:
    shown = tool(node, "loaded-ebpfdata")
    return shown[shown.index(f"Map Name:  {name}") + 1].removeprefix("Map ID:  ")


@pytest.mark.spec("policy.5.16")
def test_programs_maps_and_what_is_in_them_are_shown(node: Node) -> None:
    node.start_api()
    node.start_agent()
    pod, friend = node.pod(), node.pod()
    for one in (pod, friend):
        node.add(one)
    rules = [{"cidr": friend.address}, {"cidr": "10.7.0.0/16", "ports": [{"protocol": "TCP", "port": 80}]}]
    node.put_policy("p", [pod], ingress=rules)
    until(lambda: node.count("vpccni_policy_switches") >= 1, "the switch", within_s=5)
    assert friend.reaches(pod)

    for name, program in (("ingress", "handle_ingress"), ("egress", "handle_egress")):
        seen = next(one for one in node.bpftool("prog", "show") if one.get("name") == program)
        shown = tool(node, "e")
        at = shown.index(f"Pod Identifier : node  Direction : {name} ")
        assert shown[at - 1].endswith(f"/{program}")
        assert shown[at + 1] in {
            f"Prog ID:  {one['id']}" for one in node.bpftool("prog", "show") if one.get("name") == program
        }
        assert f"Type : 3 ID : {seen['id']} Associated maps count : {len(seen['map_ids'])}" in tool(node, "progs")
    flows = map_id(node, "flows")
    assert f"Type : 1 ID : {flows}" in tool(node, "m")

    (flow,) = [line for line in tool(node, "d", flows) if line.startswith("Conntrack Key")]
    assert f"Source IP - {friend.address} " in flow
    assert f"Dest IP - {pod.address} " in flow
    assert f"Ifindex - {pod.ifindex}" in flow
    assert any(friend.address in line for line in tool(node, "d", map_id(node, "hosts")))
    assert any("10.7.0.0/16" in line for line in tool(node, "dcp", map_id(node, "networks")))
    assert any("Protocol - 6 StartPort - 80" in line for line in tool(node, "d", map_id(node, "ports")))
    assert f"Key :  {pod.ifindex}" in tool(node, "d", map_id(node, "pods"))
    assert tool(node, "d", map_id(node, "spare_flows")) == ["No Entries found, Empty map"]
    assert tool(node, "d", map_id(node, "usage"))[0].startswith("Failed to execute the cmd -  unsupported map: usage")
