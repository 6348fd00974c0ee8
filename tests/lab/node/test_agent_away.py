"""An ADD while the policy agent does not answer: late in the modes that need it, and none of its business where policy is not switched on."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from vpccni.lab.api import Lab

AWAY_S = 3.0
"""Longer than the original waits before it fails an ADD (spec policy.md 4)."""
BACK_WITHIN_S = 5.0
AT_ONCE_S = 2.0


@pytest.mark.spec("policy.T-082")
def test_an_add_waits_for_an_agent_that_is_away_and_is_judged_from_its_first_packet(node: Any) -> None:
    added: list[Any] = []
    node.node.kill("policy_agent", signal.SIGSTOP)
    adding = threading.Thread(target=lambda: added.append(node.add("patient")))
    adding.start()
    try:
        adding.join(AWAY_S)
        assert not added, "no pod starts without its verdict"
        assert adding.is_alive(), "and it is not refused"
    finally:
        node.node.kill("policy_agent", signal.SIGCONT)
    adding.join(BACK_WITHIN_S)
    (pod,) = added
    veth = pod.result["interfaces"][0]["name"]
    for hook in ("ingress", "egress"):
        assert "direct-action" in node.shell(f"tc filter show dev {veth} {hook}")
    node.lab.delete_pod("patient")


@pytest.mark.spec("policy.T-083")
def test_where_no_mode_is_set_the_agent_is_not_asked() -> None:
    with Lab.up(f"t{os.getpid()}m", nodes=1, env={"NETWORK_POLICY_ENFORCING_MODE": None}) as lab:
        one = lab.nodes[0]
        one.kill("policy_agent", signal.SIGSTOP)
        try:
            begin = time.monotonic()
            pod = lab.add_pod(one.name, "free")
            assert time.monotonic() - begin < AT_ONCE_S
            veth = pod.result["interfaces"][0]["name"]
            assert "bpf" not in one.exec(["tc", "filter", "show", "dev", veth, "egress"], check=False).stdout
            lab.delete_pod("free")
        finally:
            one.kill("policy_agent", signal.SIGCONT)
