"""The node in a terminal: what is shown is what the node has, with a process dead too."""

from __future__ import annotations

import os
import pty
import signal
import sys
from functools import partial
from typing import Any

from support.waiting import until as wait_until

until = partial(wait_until, within_s=15.0)


def run(node: Any, *words: str) -> Any:
    return node.node.exec([sys.executable, "-m", "vpccni", *words], check=False)


def test_top_shows_pods_addresses_and_calls_once(node: Any) -> None:
    pod = node.add("topped")
    until(lambda: "default/topped" in run(node, "top", "--once").stdout, "the pod")
    shown = run(node, "top", "--once")
    assert shown.returncode == 0
    (line,) = [line for line in shown.stdout.splitlines() if "default/topped" in line]
    assert pod.address in line
    assert "# 1 held" in shown.stdout
    assert "DescribeNetworkInterfaces" in shown.stdout
    assert "\x1b" not in shown.stdout, "no colours into a pipe"
    node.lab.delete_pod("topped")


def test_ps_tells_what_each_process_uses(node: Any) -> None:
    shown = run(node, "ps")
    assert shown.returncode == 0
    rows = {line.split()[0]: line for line in shown.stdout.splitlines()[1:]}
    pids = node.node.pids()
    assert {name: int(row.split()[2]) for name, row in rows.items()} == pids
    assert all("MiB" in row for row in rows.values())


def test_a_silent_process_is_shown_and_the_others_with_what_they_know(node: Any) -> None:
    node.add("stays")
    until(lambda: "default/stays" in run(node, "top", "--once").stdout, "the pod")
    pid = node.node.pids()["netlink_programmer"]
    os.kill(pid, signal.SIGSTOP)
    try:
        top, ps = run(node, "top", "--once"), run(node, "ps")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (top.returncode, ps.returncode) == (1, 1)
    assert "netlink_programmer    silent" in top.stdout
    assert "netlink_programmer  silent" in ps.stdout
    assert "default/stays" in top.stdout
    node.lab.delete_pod("stays")


def test_in_a_terminal_it_is_shown_again_and_again_in_colour_until_interrupted(node: Any) -> None:
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "vpccni", "top", "--every", "0.3"]
    child = node.node.popen(argv, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    told = b""
    try:
        while told.count(b"\x1b[H\x1b[2J") < 3:
            told += os.read(ours, 65536)
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=10) == 0
    finally:
        child.kill()
        child.wait()
        os.close(ours)
    assert b"\x1b[32mserving" in told
