"""Pods of an IPv6 node come and go: at the end each egress address leads to the veth of the pod that has it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.nodes import NodeOf, pod_lines

STATE = "/run/cni/v6pd/egress-v4-ipam/aws-cni"
AT_ONCE = 8


def churn(node: NodeOf, pods: int, staying: int) -> None:
    """Add and delete pods, several at once; those with the highest numbers stay."""

    def live(number: int) -> None:
        node.add(f"churn-{number}")
        if number < pods - staying:
            node.lab.delete_pod(f"churn-{number}")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(live, range(pods)))


@pytest.mark.spec("dataplane.18.21", "dataplane.18.20")
@pytest.mark.parametrize(
    ("pods", "staying"), [(40, 10), pytest.param(300, 30, marks=[pytest.mark.full, pytest.mark.timeout(600)])]
)
def test_after_a_churn_every_egress_address_leads_to_its_own_pod(v6_node: NodeOf, pods: int, staying: int) -> None:
    churn(v6_node, pods, staying)
    led = {route["dst"]: route["dev"] for route in v6_node.ip("-4", "route") if str(route["dev"]).startswith("veth")}
    expected = {}
    names = [f"churn-{number}" for number in range(pods - staying, pods)]
    for name in names:
        pod = v6_node.lab.pod(name)
        address = pod_lines(pod, "ip -4 -o address show v4if0")[0].split()[3].split("/")[0]
        expected[address] = pod.result["interfaces"][3]["name"]
        asked = pod.exec(["curl", "-s", "-m", "2", "http://203.0.113.10/"], check=False)
        assert asked.stdout.strip() == v6_node.node.primary_address
    assert led == expected
    jumps = [
        line for line in v6_node.lines("iptables-nft-save -t nat") if line.startswith("-A POSTROUTING -s 169.254.")
    ]
    assert len(jumps) == staying
    assert set(v6_node.lines(f"ls {STATE}")) == {*expected, "last_reserved_ip.0", "lock"}
    for name in names:
        v6_node.lab.delete_pod(name)
    assert "169.254.17" not in v6_node.shell("iptables-nft-save -t nat; ip route")
