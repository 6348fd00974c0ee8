"""What an operator types on a node."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from tests.support.waiting import until


def run(node: Any, *words: str, check: bool = True) -> Any:
    return node.node.exec([sys.executable, "-m", "vpccni", *words], check=check)


def test_status_names_all_processes_and_their_state(node: Any) -> None:
    def document() -> Any:
        return json.loads(run(node, "status", "--json").stdout)

    until(lambda: {answer["state"] for answer in document().values()} == {"serving"}, document, within_s=30)
    assert {name: answer["pid"] for name, answer in document().items()} == node.node.pids()


def test_a_log_level_changes_for_a_while_and_returns_by_itself(node: Any) -> None:
    def level() -> str:
        answer: str = json.loads(run(node, "status", "--json").stdout)["ip_allocator"]["log_level"]
        return answer

    before = level()
    run(node, "log-level", "ip_allocator", "error", "--for", "2s")
    assert level() == "error"
    time.sleep(2.3)
    assert level() == before


def test_a_trace_tells_one_add_from_all_processes(node: Any) -> None:
    node.add("traced")
    log = node.shell("grep 'address assigned' /var/log/aws-routed-eni/ip_allocator.log").splitlines()
    trace = json.loads(log[-1])["trace"]
    story = run(node, "trace", trace).stdout
    assert "ip_allocator" in story
    assert "address assigned" in story
    assert "netlink_programmer" in story
    node.lab.delete_pod("traced")


def test_an_unknown_trace_and_a_misspelt_word_end_with_a_clear_line(node: Any) -> None:
    unknown = run(node, "trace", "nope", check=False)
    assert unknown.returncode == 1
    assert "no process remembers" in unknown.stderr
    misspelt = run(node, "log-level", "ip_alocator", "debug", check=False)
    assert misspelt.returncode == 2
    assert "ip_allocator" in misspelt.stderr


def test_a_second_process_of_the_same_name_refuses_to_start(node: Any) -> None:
    second = node.node.exec([sys.executable, "-m", "vpccni.components.ip_allocator"], check=False)
    assert second.returncode == 1
    assert "another ip_allocator is running" in second.stderr


def test_the_metrics_page_counts_adds(node: Any) -> None:
    node.add("counted")
    time.sleep(5.5)
    page = node.shell(
        f"{sys.executable} -c \"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:61678/metrics').read().decode())\""
    )
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
    assert float(values["awscni_add_ip_req_count"]) >= 1
    assert float(values["awscni_assigned_ip_addresses"]) == 1
    enis = json.loads(
        node.shell(
            f"{sys.executable} -c \"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:61679/v1/enis').read().decode())\""
        )
    )
    assert enis["0"]["AssignedIPs"] == 1
    node.lab.delete_pod("counted")
