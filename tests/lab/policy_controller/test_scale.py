"""Ten thousand peers, and what the process costs."""

from __future__ import annotations

import os
import time
from pathlib import Path

from support.policy_lab import Api, Controller, until

PEERS = 10_000
NEW_PEER_WITHIN_S = 5.0
IDLE_S = 4.0
IDLE_CPU_AT_MOST = 0.05  # 0.01 on a quiet machine
MEMORY_AT_MOST_MB = 160


def cpu_s(controller: Controller) -> float:
    assert controller.process is not None
    fields = Path(f"/proc/{controller.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(controller: Controller) -> float:
    assert controller.process is not None
    lines = Path(f"/proc/{controller.process.pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def test_ten_thousand_peers_work_and_a_new_one_is_there_soon(api: Api, controller: Controller) -> None:
    api.switch()
    for number in range(PEERS):
        api.pod(f"peer-{number}", f"10.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", labels={"app": "client"})  # fmt: skip
    spec = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}
    api.put("NetworkPolicy", "p", {"spec": {**spec, "podSelector": {"matchLabels": {"app": "web"}}}})
    controller.start()
    until(lambda: len(api.cidrs("p")) == PEERS, controller.log, within_s=60, every_s=0.5)
    assert len(api.endpoints("p")) == PEERS // 200
    begun = time.monotonic()
    api.pod("peer-new", "10.9.0.1", labels={"app": "client"})
    until(lambda: "10.9.0.1" in api.cidrs("p"), controller.log, within_s=NEW_PEER_WITHIN_S)
    print(
        f"a new peer of {PEERS} was published after {time.monotonic() - begun:.2f} s, PSS {memory_mb(controller):.0f} MB"
    )
    assert memory_mb(controller) < MEMORY_AT_MOST_MB
    time.sleep(1.0)
    before = cpu_s(controller)
    time.sleep(IDLE_S)
    used = (cpu_s(controller) - before) / IDLE_S
    assert used <= IDLE_CPU_AT_MOST, f"{used * 100:.1f} % of a core when nothing happens"
