"""The forwarder as a runtime executes it: what it answers alone, what it passes on, and that no input breaks it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vpccni.components.netlink_programmer.frontdoor import (
    ENV_BYTES,
    HEAD,
    HOST_SYSCTL,
    LOG,
    NETLINK,
    NETNS,
    POD_SYSCTL,
    STDIN_BYTES,
    Frame,
    Reply,
)
from vpccni.components.netlink_programmer.plugin_log import PluginLog
from vpccni.components.netlink_programmer.rtnl import RouteSocket
from vpccni.components.netlink_programmer.spool import Spool

if TYPE_CHECKING:
    from tests.kernel.cni.conftest import Ended, OpenDoor, Plugin

VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
ANSWER = '{"door": "answers"}\n'
CASES = 200
STDIN = b'{"cniVersion": "1.0.0", "name": "aws-cni"}'


def env(command: str, **more: str) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        **more,
    }


def answer(frame: Frame, reply: Reply) -> None:
    reply(0, ANSWER)


def test_version_echoes_the_asked_version_and_lists_all(plugin: Plugin) -> None:
    ended = plugin.call({"CNI_COMMAND": "VERSION"}, b'{"cniVersion": "0.3.1", "x": {"cniVersion": "9"}}')
    assert ended.code == 0
    assert ended.json() == {"cniVersion": "0.3.1", "supportedVersions": VERSIONS}


def test_without_a_command_it_says_what_it_is(plugin: Plugin) -> None:
    ended = plugin.call({})
    assert (ended.code, ended.out) == (0, b"")
    assert "CNI protocol versions supported: " in ended.err


def test_an_unknown_command_is_refused(plugin: Plugin) -> None:
    ended = plugin.call(env('GO"\n\xff'), STDIN)
    assert (ended.code, ended.json()["code"], ended.json()["cniVersion"]) == (1, 4, "1.0.0")


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
        ("GC", ["CNI_PATH"]),
        ("STATUS", ["CNI_PATH"]),
    ],
)
def test_missing_variables_are_named(plugin: Plugin, command: str, needed: list[str]) -> None:
    for name in needed:
        ended = plugin.call(env(command, **{name: ""}))
        assert (ended.code, ended.json()["code"]) == (1, 4)
        assert ended.json()["msg"] == f"required env variables [{name}] missing"
    assert plugin.call({"CNI_COMMAND": command}).json()["msg"] == f"required env variables [{','.join(needed)}] missing"


@pytest.mark.parametrize("path", ["/run/netns/there-is-none", "/etc/passwd", "/"])
def test_a_netns_that_cannot_be_entered_fails_an_add(plugin: Plugin, path: str) -> None:
    ended = plugin.call(env("ADD", CNI_NETNS=path), STDIN)
    assert (ended.code, ended.json()["code"]) == (1, 4)
    assert path in ended.json()["msg"]


def test_a_netns_that_is_gone_does_not_fail_a_delete(plugin: Plugin, open_door: OpenDoor) -> None:
    frames: list[set[int]] = []

    def keep(frame: Frame, reply: Reply) -> None:
        frames.append(set(frame.descriptors))
        reply(0, "")

    open_door(keep)
    ended = plugin.call(env("DEL", CNI_NETNS="/run/netns/there-is-none"), STDIN)
    assert (ended.code, ended.out) == (0, b"")
    assert frames == [{HOST_SYSCTL}]


@pytest.mark.parametrize("path", ["/etc/passwd", "/"])
def test_a_delete_passes_on_no_descriptor_of_what_is_no_netns(plugin: Plugin, open_door: OpenDoor, path: str) -> None:
    frames: list[set[int]] = []

    def keep(frame: Frame, reply: Reply) -> None:
        frames.append(set(frame.descriptors))
        reply(0, "")

    open_door(keep)
    assert plugin.call(env("DEL", CNI_NETNS=path), STDIN).code == 0
    assert frames == [{HOST_SYSCTL}]


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_CONTAINERID", "-c1"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_CONTAINERID", "c\xe9"),
        ("CNI_IFNAME", "sixteen-letters0"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "eth 0"),
        ("CNI_IFNAME", "eth:0"),
    ],
)
def test_malformed_names_are_refused_and_never_kept(plugin: Plugin, command: str, name: str, value: str) -> None:
    ended = plugin.call(env(command, **{name: value}), STDIN)
    assert (ended.code, ended.json()["code"]) == (1, 4)
    assert name in ended.json()["msg"]
    assert not plugin.spool.exists()


def test_the_door_can_append_to_the_log_that_the_conflist_names(
    plugin: Plugin, open_door: OpenDoor, tmp_path: Path
) -> None:
    log = tmp_path / "plugin.log"
    log.write_text("before\n")

    def write(frame: Frame, reply: Reply) -> None:
        os.write(frame.descriptors[LOG], b"after\n")
        reply(0, ANSWER)

    open_door(write)
    assert plugin.call(env("ADD"), json.dumps({"pluginLogFile": str(log)}).encode()).code == 0
    assert log.read_text() == "before\nafter\n"


@pytest.mark.parametrize("config", [{}, {"pluginLogFile": ""}, {"pluginLogFile": "StdErr"}])
def test_standard_error_as_log_is_the_plugins_own_and_nobody_else_holds_it(
    plugin: Plugin, open_door: OpenDoor, config: dict[str, str]
) -> None:
    frames: list[set[int]] = []

    def keep(frame: Frame, reply: Reply) -> None:
        frames.append(set(frame.descriptors))
        reply(0 if frame.env["CNI_COMMAND"] == "ADD" else 1, ANSWER)

    open_door(keep)
    for command, level in (("ADD", "info"), ("DEL", "error")):
        ended = plugin.call(env(command), json.dumps(config).encode())
        assert ended.out.decode() == ANSWER
        line = json.loads(ended.err)
        assert (line["level"], line["msg"].split()[:2]) == (level, [command, "c1:"])
        assert "answers" in line["msg"]
        assert LOG not in frames.pop()


def test_a_standard_error_that_nobody_reads_holds_no_call(plugin: Plugin, open_door: OpenDoor) -> None:
    open_door(answer)
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
        done = subprocess.run(
            [plugin.path], env=env("ADD"), input=b"{}", stdout=subprocess.PIPE, stderr=writing, timeout=10, check=True
        )
        assert done.stdout.decode() == ANSWER
        assert os.get_blocking(writing), "those who share it still may wait"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("level", "lines"), [("debug", 1), ("Warn", 1), ("ERROR", 1), ("fatal", 0), ("no such level", 1)]
)
def test_what_the_plugin_alone_knows_stands_in_its_log(plugin: Plugin, tmp_path: Path, level: str, lines: int) -> None:
    config = {"pluginLogFile": str(tmp_path / "plugin.log"), "pluginLogLevel": level}
    plugin.call(env("ADD", CNI_NETNS='/etc/pass"wd\x01'), json.dumps(config).encode())
    told = [json.loads(line) for line in (tmp_path / "plugin.log").read_text().splitlines()]
    assert len(told) == lines
    for line in told:
        assert list(line) == ["level", "ts", "caller", "msg"]
        assert line["level"] == "error"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
        assert "c1" in line["msg"]
        assert "cannot be entered" in line["msg"]


def test_a_log_line_however_long_its_message_is_one_write(plugin: Plugin, tmp_path: Path) -> None:
    config = {"pluginLogFile": str(tmp_path / "plugin.log")}
    plugin.call(env("ADD", CNI_NETNS="/\x01" * 1000, CNI_CONTAINERID="c" * 3000), json.dumps(config).encode())
    (line,) = (tmp_path / "plugin.log").read_text().splitlines()
    assert json.loads(line)["level"] == "error"
    assert len(line) < 4096


@pytest.mark.spec("dataplane.18.40")
def test_a_log_of_100_mb_is_put_aside_five_are_kept(plugin: Plugin, open_door: OpenDoor, tmp_path: Path) -> None:
    log = tmp_path / "plugin.log"

    def write(frame: Frame, reply: Reply) -> None:
        os.write(frame.descriptors[LOG], b"new\n")
        reply(0, ANSWER)

    open_door(write)
    for number in range(1, 6):
        (tmp_path / f"plugin.log.{number}").write_text(f"{number}")
    log.touch()
    os.truncate(log, 100 << 20)  # sparse
    assert plugin.call(env("ADD"), json.dumps({"pluginLogFile": str(log)}).encode()).code == 0
    assert log.read_text() == "new\n"
    assert (tmp_path / "plugin.log.1").stat().st_size == 100 << 20
    assert [(tmp_path / f"plugin.log.{number}").read_text() for number in range(2, 6)] == ["1", "2", "3", "4"]
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("kind", ["pipe", "full pipe"])
def test_a_log_that_is_a_pipe_holds_no_call(plugin: Plugin, open_door: OpenDoor, tmp_path: Path, kind: str) -> None:
    pipe = tmp_path / "plugin.log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if kind == "full pipe" else -1
    outcomes: list[str] = []

    def write(frame: Frame, reply: Reply) -> None:
        log = PluginLog(frame, lost=lambda: outcomes.append("lost"))
        for _ in range(100):
            log.info("x" * 2000)
        reply(0, ANSWER)

    open_door(write)
    begin = time.monotonic()
    assert plugin.call(env("ADD"), json.dumps({"pluginLogFile": str(pipe)}).encode()).code == 0
    assert time.monotonic() - begin < 5
    if reader >= 0:
        os.close(reader)
        assert 50 < len(outcomes) < 100, "what fits into the pipe is written, the rest is lost and counted"
    else:
        assert outcomes == [], "without a reader there is no log"


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize("kind", ["pipe", "other namespace"])
def test_a_netns_that_is_none_holds_no_call(
    plugin: Plugin, open_door: OpenDoor, tmp_path: Path, command: str, kind: str
) -> None:
    open_door(answer)
    path = tmp_path / "netns" if kind == "pipe" else Path("/proc/self/ns/mnt")
    if kind == "pipe":
        os.mkfifo(path)
    begin = time.monotonic()
    ended = plugin.call(env(command, CNI_NETNS=str(path)), STDIN)
    assert time.monotonic() - begin < 2
    if command == "DEL":
        assert (ended.code, ended.out.decode()) == (0, ANSWER)
    else:
        assert (ended.code, ended.json()["code"]) == (1, 4)
        assert ended.json()["details"] == "It is no network namespace"


@pytest.mark.parametrize("path", ["stdout", "relative.log", "/run/there-is-none/plugin.log"])
def test_a_log_that_is_no_file_path_or_cannot_be_opened_fails_no_call(
    plugin: Plugin, open_door: OpenDoor, path: str
) -> None:
    frames: list[set[int]] = []

    def keep(frame: Frame, reply: Reply) -> None:
        frames.append(set(frame.descriptors))
        reply(0, ANSWER)

    open_door(keep)
    assert plugin.call(env("ADD"), json.dumps({"pluginLogFile": path}).encode()).code == 0
    assert LOG not in frames[0]


def test_the_door_gets_the_request_and_descriptors_of_the_pods_namespace(
    plugin: Plugin, open_door: OpenDoor, netns: Path
) -> None:
    seen: dict[str, Any] = {}
    started: list[subprocess.Popen[bytes]] = []

    def look(frame: Frame, reply: Reply) -> None:
        pod = RouteSocket(frame.take(NETLINK))
        seen["link"], seen["absent"] = pod.link("probe0"), pod.link("no-such-link")
        pod.close()
        seen["netns"] = os.fstat(frame.descriptors[NETNS]).st_ino
        seen["pod links"] = set(os.listdir(frame.descriptors[POD_SYSCTL]))
        seen["own netns"] = os.stat(f"/proc/{started[0].pid}/ns/net").st_ino
        seen["host folder"] = set(os.listdir(frame.descriptors[HOST_SYSCTL]))
        seen["env"], seen["stdin"], seen["deadline"] = frame.env, frame.stdin, frame.deadline_s
        reply(7, ANSWER)

    open_door(look)
    asked = env("ADD", CNI_NETNS=str(netns), CNI_ARGS="K8S_POD_NAME=a", SECRET="not to be told")
    started.append(plugin.start(asked))
    ended = plugin.finish(started[0], STDIN)
    assert (ended.code, ended.out.decode()) == (7, ANSWER)
    shown = json.loads(subprocess.check_output(["ip", "-n", netns.name, "-json", "link"]))
    probe = next(link for link in shown if link["ifname"] == "probe0")
    assert seen["link"] == (probe["ifindex"], probe["address"], "")
    assert seen["absent"] is None
    assert seen["netns"] == netns.stat().st_ino
    assert seen["pod links"] == {link["ifname"] for link in shown} | {"all", "default"}
    assert seen["own netns"] == os.stat("/proc/self/ns/net").st_ino, "it is back in its own namespace"
    assert {"core", "ipv4"} <= seen["host folder"]
    assert seen["env"] == {name: value for name, value in asked.items() if name.startswith("CNI_")}
    assert seen["stdin"] == STDIN
    assert 19 < seen["deadline"] <= 20


def test_under_the_egress_name_it_says_so(plugin: Plugin, open_door: OpenDoor) -> None:
    names: list[str | None] = []

    def keep(frame: Frame, reply: Reply) -> None:
        names.append(frame.env.get("VPCCNI_PLUGIN"))
        reply(0, ANSWER)

    open_door(keep)
    other = plugin.folder / "egress-cni"
    shutil.copy(plugin.path, other)
    assert plugin.call(env("ADD"), STDIN, path=other).code == 0
    assert plugin.call(env("ADD"), STDIN).code == 0
    assert names == ["egress-cni", None]


def test_a_door_that_dies_amid_a_request_is_asked_again(plugin: Plugin, open_door: OpenDoor) -> None:
    received: list[Frame] = []

    def keep(frame: Frame, reply: Reply) -> None:
        received.append(frame)
        reply(0, ANSWER)

    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(plugin.door))
        dying.listen()
        dying.settimeout(10)
        process = plugin.start(env("ADD"))
        assert process.stdin is not None
        process.stdin.write(STDIN)
        process.stdin.close()
        process.stdin = None
        connection, _ = dying.accept()
        assert len(connection.recv(HEAD.size, socket.MSG_WAITALL)) == HEAD.size
        connection.close()
    time.sleep(0.1)
    open_door(keep)
    ended = plugin.finish(process, b"")
    assert (ended.code, ended.out.decode()) == (0, ANSWER)
    assert [(frame.stdin, frame.env) for frame in received] == [(STDIN, env("ADD"))]


class TestNobodyAtTheDoor:
    """All these wait for seconds: started together, once."""

    @pytest.fixture(scope="class")
    def ends(self, plugin: Plugin, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Ended, float, Path]]:
        folder = tmp_path_factory.mktemp("lonely")
        (folder / "file").touch()
        silent = socket.socket(socket.AF_UNIX)  # accepted by the kernel, read by nobody
        silent.bind(str(plugin.folder / "silent.sock"))
        silent.listen()
        asks = {
            "status": ("STATUS", {}, b""),
            "kept": ("DEL", {"spoolDir": str(folder / "spool")}, b""),
            "not kept": ("DEL", {"spoolDir": str(folder / "file" / "spool")}, b""),
            "silent": ("STATUS", {"frontDoor": str(plugin.folder / "silent.sock")}, b" " * (STDIN_BYTES // 2)),
        }
        ends: dict[str, tuple[Ended, float, Path]] = {}

        def run(name: str) -> None:
            command, more, padding = asks[name]
            config = {"cniVersion": "1.1.0", "frontDoor": str(folder / "nobody.sock"), **more}
            begin = time.monotonic()
            ended = plugin.finish(plugin.start(env(command)), json.dumps(config).encode() + padding)
            ends[name] = (ended, time.monotonic() - begin, folder)

        threads = [threading.Thread(target=run, args=(name,)) for name in asks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        silent.close()
        assert set(ends) == set(asks)
        return ends

    def test_status_says_not_ready_in_time(self, ends: dict[str, tuple[Ended, float, Path]]) -> None:
        ended, took, _ = ends["status"]
        assert (ended.code, ended.json()["code"], ended.json()["cniVersion"]) == (1, 50, "1.1.0")
        assert took < 3.0

    def test_a_door_that_reads_nothing_delays_no_call_past_its_deadline(
        self, ends: dict[str, tuple[Ended, float, Path]]
    ) -> None:
        ended, took, _ = ends["silent"]
        assert (ended.code, ended.json()["code"]) == (1, 50)
        assert took < 3.5

    def test_a_delete_is_kept_for_later(self, ends: dict[str, tuple[Ended, float, Path]]) -> None:
        ended, took, folder = ends["kept"]
        assert (ended.code, ended.out) == (0, b"")
        assert 2.9 < took < 5.0
        (kept,) = Spool(folder / "spool").waiting()
        assert kept.env == env("DEL")
        assert json.loads(kept.stdin)["spoolDir"] == str(folder / "spool")
        assert (folder / "spool").stat().st_mode & 0o777 == 0o700
        assert [path.suffix for path in (folder / "spool").iterdir()] == [".req"]

    def test_a_delete_that_cannot_be_kept_is_to_be_tried_again(
        self, ends: dict[str, tuple[Ended, float, Path]]
    ) -> None:
        ended, _, _ = ends["not kept"]
        assert (ended.code, ended.json()["code"], ended.json()["cniVersion"]) == (1, 11, "1.1.0")


def test_variables_beyond_the_frame_are_refused(plugin: Plugin) -> None:
    ended = plugin.call(env("ADD", CNI_ARGS="x" * ENV_BYTES), STDIN)
    assert (ended.code, ended.json()["code"]) == (1, 4)


def test_whatever_stdin_and_environment_hold_there_is_an_answer(plugin: Plugin, open_door: OpenDoor) -> None:
    open_door(answer)
    chance = random.Random(18)
    for case in range(CASES):
        variables, stdin = some_environment(chance), some_stdin(chance)
        ended = plugin.call(variables, stdin)
        told = f"case {case}: {variables!r:.300} {stdin!r:.300} {ended}"
        if "CNI_COMMAND" not in variables:
            assert (ended.code, ended.out) == (0, b""), told
        elif ended.out.decode() != ANSWER:
            document = json.loads(ended.out)
            assert ended.code in (0, 1), told
            assert ("code" in document) == (ended.code == 1), told


def some_environment(chance: random.Random) -> dict[str | bytes, str | bytes]:
    """Mostly complete; values and further variables of any bytes."""
    command = chance.choice(["ADD", "ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION", "add", ""])
    made: dict[str | bytes, str | bytes] = dict(env(command).items())
    for name in list(made):
        if chance.random() < 0.03:
            del made[name]
    for _ in range(chance.randrange(4)):
        value = chance.randbytes(chance.choice([0, 10, 1000, 30_000])).replace(b"\0", b"\xff")
        made[b"CNI_" + chance.randbytes(6).replace(b"\0", b"x").replace(b"=", b"y")] = value
    if chance.random() < 0.1:
        made["CNI_NETNS"] = chance.randbytes(chance.choice([3, 300, 5000])).replace(b"\0", b"\xfe")
    return made


def some_stdin(chance: random.Random) -> bytes:
    """JSON that is cut, nested, quoted or repeated beyond reason, and plain noise."""
    head = b'{"cniVersion": "' + chance.randbytes(chance.randrange(20)).replace(b'"', b"") + b'", "name": "n'
    forms: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: chance.randbytes(chance.randrange(5000)),
        lambda: bytes(chance.choices(b'{}[]":,\\ cniVersion\0', k=chance.randrange(3000))),
        lambda: head + b'"}',
        lambda: head[: chance.randrange(len(head))],
        lambda: b'{"cniVersion":' + chance.choice([b"", b"  ", b"1", b'"', b'"\\', b"null}"]),
        lambda: chance.choice([b"[", b'{"a":', b"]"]) * chance.randrange(100_000),
        lambda: head + b"x" * chance.choice([STDIN_BYTES - len(head), STDIN_BYTES, 2 * STDIN_BYTES]),
        lambda: b'{"cniVersion": "' + b"1" * chance.choice([254, 255, 256, 257, 5000]) + b'"}',
    ]
    return chance.choice(forms)()


@pytest.mark.full
@pytest.mark.spec("dataplane.18.29")
def test_at_the_deadline_an_add_is_to_be_tried_again_and_a_delete_is_kept(plugin: Plugin, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(plugin.folder / "stopped.sock"))
        silent.listen()
        config = {"frontDoor": str(plugin.folder / "stopped.sock"), "spoolDir": str(tmp_path / "spool")}
        begin = time.monotonic()
        adding, deleting = plugin.start(env("ADD")), plugin.start(env("DEL"))
        for process in (adding, deleting):
            assert process.stdin is not None
            process.stdin.write(json.dumps(config).encode())
            process.stdin.close()
            process.stdin = None
        deleted = plugin.finish(deleting, b"")
        assert (deleted.code, deleted.out) == (0, b"")
        assert 9.5 < time.monotonic() - begin < 12
        added = plugin.finish(adding, b"")
        assert (added.code, added.json()["code"]) == (1, 11)
        assert 19.5 < time.monotonic() - begin < 22
    assert [kept.env for kept in Spool(tmp_path / "spool").waiting()] == [env("DEL")]
