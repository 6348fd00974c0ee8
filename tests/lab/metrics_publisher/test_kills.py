"""Death of the publisher before and after each of its effects: no pod notices, and what is shown goes on where it was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest
from support.waiting import until as wait_until

from vpccni.lab.api import Lab
from vpccni.shared.errors import VpccniError
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import ArmKillPoint, EffectsRecorded, RecordEffects
from vpccni.shared.names import METRICS_PUBLISHER
from vpccni.shared.node_cli import ask_all
from vpccni.shared.process import HEARTBEAT_S

BACK_WITHIN_S = 3.0
SETTLES_WITHIN_S = 15.0
until = partial(wait_until, within_s=SETTLES_WITHIN_S)
SCRAPE = """
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 61678, timeout=5)
connection.request("GET", "/metrics")
print(connection.getresponse().read().decode())
"""
HOLDER = """
import socket, sys, time
held = socket.socket(socket.AF_INET6)
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
print("waits", flush=True)
while True:
    try:
        held.bind(("", 61678))
        break
    except OSError:
        time.sleep(0.001)
held.listen()
print("held", flush=True)
sys.stdin.read()
"""
"""Takes the publisher's port as soon as that is dead, and lets go of it when told."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(f"pub{os.getpid()}", nodes=1, env={"IP_COOLDOWN_PERIOD": "0"}) as up:
        yield up


def ask(lab: Lab, message: Message) -> Message:
    answer = ask_all(lab.nodes[0].root, [METRICS_PUBLISHER], message)[METRICS_PUBLISHER]
    if isinstance(answer, VpccniError):
        raise answer
    return answer


def scrape(lab: Lab) -> str:
    """Return the page, empty when there is none."""
    done = lab.nodes[0].exec([sys.executable, "-c", SCRAPE], check=False)
    return done.stdout


def adds(lab: Lab) -> int:
    """Return how many ADD requests the page tells of, -1 when it does not."""
    found = re.search(r"^awscni_add_ip_req_count (\d+)$", scrape(lab), re.MULTILINE)
    return int(found[1]) if found else -1


def pid(lab: Lab) -> int:
    return lab.nodes[0].pids().get(METRICS_PUBLISHER, 0)


def test_a_scrape_passes_one_effect(lab: Lab) -> None:
    until(lambda: adds(lab) >= 0, "no page")
    ask(lab, RecordEffects(on=True))
    assert scrape(lab)
    answer = ask(lab, RecordEffects(on=False))
    assert isinstance(answer, EffectsRecorded)
    assert answer.effects == ["http.reply"], "a new effect needs its own kill"


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_a_reply_it_is_back_with_the_same_counts_and_pods_are_added_meanwhile(lab: Lab, before: bool) -> None:
    lab.add_pod("node-1", "counted")
    lab.delete_pod("counted")
    time.sleep(HEARTBEAT_S + 0.5)  # all that was counted is shown
    known, old = adds(lab), pid(lab)
    assert known > 0
    ask(lab, ArmKillPoint(effect="http.reply", before=before))
    page = scrape(lab)
    assert bool(page) is not before, "the page is there whole or not at all"
    until(lambda: pid(lab) not in (0, old), "it did not die", within_s=BACK_WITHIN_S)
    lab.add_pod("node-1", "meanwhile")
    until(lambda: adds(lab) >= known, "what is shown went back", within_s=BACK_WITHIN_S)
    lab.delete_pod("meanwhile")


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_taking_its_port_it_is_back_and_serves(lab: Lab, before: bool) -> None:
    node = lab.nodes[0]
    with node.popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdin is not None
            assert holder.stdout.readline() == "waits\n"
            old = node.kill(METRICS_PUBLISHER)
            assert holder.stdout.readline() == "held\n"
            until(lambda: pid(lab) not in (0, old), "it did not come back")
            waiting = pid(lab)
            ask(lab, ArmKillPoint(effect="http.listen", before=before))
            holder.stdin.close()
            until(lambda: pid(lab) not in (0, waiting), "it did not die at taking its port")
            until(lambda: adds(lab) >= 0, "no page")
        finally:
            holder.kill()
    lab.add_pod("node-1", "after")
    lab.delete_pod("after")
