"""Lines of the plugin's log: their form, their level, their size, and that losing one is only counted."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

import pytest

from vpccni.components.netlink_programmer import plugin_log
from vpccni.components.netlink_programmer.frontdoor import KIND_CNI, LOG, Frame
from vpccni.components.netlink_programmer.request import parse

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/run/netns/n1",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web",
}
STDIN = b'{"cniVersion": "0.4.0", "name": "aws-cni", "pluginLogLevel": "Info"}'


def lines(level: object, *, write: str = "debug info error") -> list[dict[str, str]]:
    """Return what a log of this level holds after one line of each given kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plugin.log"
        frame = Frame(KIND_CNI, {}, b"", 1.0, {LOG: os.open(path, os.O_WRONLY | os.O_CREAT)})
        log = plugin_log.PluginLog(frame, lost=pytest.fail)
        log.set_level(level)
        for kind in write.split():
            getattr(log, kind)(f"{kind} é")
        frame.close()
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.spec("dataplane.4.7")
def test_a_line_has_level_time_caller_and_message() -> None:
    (line,) = lines("debug", write="info")
    assert list(line) == ["level", "ts", "caller", "msg"]
    assert (line["level"], line["msg"]) == ("info", "info é")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert re.fullmatch(r"netlink_programmer/\w+\.py:\d+", line["caller"])


@pytest.mark.parametrize(
    ("level", "kept"),
    [
        ("Debug", "debug info error"),
        ("INFO", "info error"),
        ("warn", "error"),
        ("error", "error"),
        ("fatal", ""),
        ("no such word", "debug info error"),
        (None, "debug info error"),
        (7, "debug info error"),
    ],
)
def test_the_conflists_level_filters(level: object, kept: str) -> None:
    assert [line["level"] for line in lines(level)] == kept.split()


@pytest.mark.parametrize("msg", ["x" * 100_000, '"' * 100_000, "\U0001f40b" * 50_000, "\udcff\n\0" * 9000])
def test_a_line_is_one_write_whatever_its_message(msg: str) -> None:
    line = plugin_log._line("info", msg, "here:1", 1_700_000_000.9999)
    assert len(line) <= plugin_log.LINE_BYTES
    assert line.count(b"\n") == 1
    assert json.loads(line)["ts"] == "2023-11-14T22:13:20.999Z"


def test_a_line_that_cannot_be_written_is_counted_and_nothing_else() -> None:
    lost: list[int] = []
    with open("/dev/full", "wb", buffering=0) as full:
        log = plugin_log.PluginLog(
            Frame(KIND_CNI, {}, b"", 1.0, {LOG: os.dup(full.fileno())}), lost=lambda: lost.append(1)
        )
        log.error("nowhere to go")
    assert lost == [1]


def test_without_a_descriptor_or_after_the_reply_nothing_is_written() -> None:
    reading, writing = os.pipe()
    frame = Frame(KIND_CNI, {}, b"", 1.0, {LOG: writing})
    log = plugin_log.PluginLog(frame, lost=pytest.fail)
    frame.close()
    log.error("to whoever has that number now")
    assert os.read(reading, 100) == b""
    os.close(reading)


def test_the_story_of_a_call_names_pod_sandbox_result_and_trace() -> None:
    request = parse(ENV, STDIN)
    assert plugin_log.level_of(request) == "Info"
    begun = plugin_log.begun(request, "t1")
    assert all(word in begun for word in ("ADD", "c1", "eth0", "/run/netns/n1", "default/web", "[t1]"))
    done = plugin_log.done(request, '{\n  "ips": []\n}\n', 3.2, "t1")
    assert done == 'ADD of c1 done in 3.2 ms: { "ips": [] } [t1]'
    assert plugin_log.failed("ADD", "c1", ValueError("no address"), "t1") == "ADD of c1 failed: no address [t1]"


def test_a_runtimes_constant_questions_are_logged_only_when_they_fail() -> None:
    assert plugin_log.level_of(parse({**ENV, "CNI_COMMAND": "STATUS"}, STDIN)) == "error"
