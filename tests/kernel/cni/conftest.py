"""The plugin under sanitizers, compiled for a front door of the test's own, and that door."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vpccni.components.netlink_programmer.frontdoor import Frame, FrontDoor, Reply
from vpccni.lab.namespaces import make_netns, remove_netns
from vpccni.shared.loop import Loop

SOURCE = Path(__file__).parents[3] / "cni" / "aws-cni.c"
ENDS_WITHIN_S = 30.0


@dataclass(frozen=True)
class Ended:
    """How a call of the plugin ended."""

    code: int
    out: bytes
    err: str

    def json(self) -> dict[str, Any]:
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


class Plugin:
    """The executable; `door` and `spool` are the places compiled into it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "aws-cni"
        self.door, self.spool = folder / "door.sock", folder / "spool"
        flags = "-std=c11 -Wall -Wextra -Werror -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all".split()
        places = [f'-DFRONT_DOOR="{self.door}"', f'-DSPOOL="{self.spool}"']
        subprocess.run(["gcc", *flags, *places, "-o", str(self.path), str(SOURCE)], check=True)

    def start(self, env: Mapping[Any, Any], *, path: Path | None = None) -> subprocess.Popen[bytes]:
        """Start it with this environment and nothing of ours; leaks are not looked for, it never allocates."""
        return subprocess.Popen(
            [path or self.path],
            env={"ASAN_OPTIONS": "detect_leaks=0:exitcode=99", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def call(self, env: Mapping[Any, Any], stdin: bytes = b"{}", *, path: Path | None = None) -> Ended:
        return self.finish(self.start(env, path=path), stdin)

    def finish(self, process: subprocess.Popen[bytes], stdin: bytes) -> Ended:
        """Feed and wait for a started plugin; no sanitizer may have said anything."""
        with process:
            out, err = process.communicate(stdin, timeout=ENDS_WITHIN_S)
        text = err.decode(errors="replace")
        assert "Sanitizer" not in text, text
        assert "runtime error" not in text, text
        return Ended(process.returncode, out, text)


class Door:
    """A real front door whose frames a function answers, in a thread."""

    def __init__(self, path: Path, answer: Callable[[Frame, Reply], None]) -> None:
        self.loop, self.counted = Loop(), list[str]()
        self._door = FrontDoor(self.loop, path, answer, count=self.counted.append)
        self._thread = threading.Thread(target=self.loop.run, name="front door")
        self._thread.start()

    def close(self) -> None:
        self.loop.call_from_thread(self.loop.stop)
        self._thread.join()
        self._door.close()
        self.loop.close()


@pytest.fixture(scope="session")
def plugin() -> Iterator[Plugin]:
    folder = Path(tempfile.mkdtemp(prefix="vpc-plugin-"))  # pytest's own paths are too long for a socket
    try:
        yield Plugin(folder)
    finally:
        shutil.rmtree(folder)


OpenDoor = Callable[[Callable[[Frame, Reply], None]], Door]


@pytest.fixture
def open_door(plugin: Plugin) -> Iterator[OpenDoor]:
    """Opens doors at the place that is compiled in."""
    doors: list[Door] = []

    def open_one(answer: Callable[[Frame, Reply], None]) -> Door:
        doors.append(Door(plugin.door, answer))
        return doors[-1]

    try:
        yield open_one
    finally:
        for door in doors:
            door.close()
        plugin.door.unlink(missing_ok=True)


@pytest.fixture
def netns() -> Iterator[Path]:
    """A pod's namespace with a link that is nowhere else."""
    name = f"plugin-test-{os.getpid()}"
    path = Path(make_netns(name))
    try:
        subprocess.run(["ip", "-n", name, "link", "add", "probe0", "type", "veth", "peer", "probe1"], check=True)
        yield path
    finally:
        remove_netns(name)
