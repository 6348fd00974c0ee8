"""Drives the plugin inside a node's namespaces as a container runtime does, and prints one JSON document a phase.

    python -m vpccni.bench.drive pods --count N --at-once C [--chain | --ours] [--prefix NAME] [--together] [--hold] [--announce]
    python -m vpccni.bench.drive parts --count N
    python -m vpccni.bench.drive gone --count N

`pods`: each pod ADD then DEL, or with `--together` all ADDs and then all DELs, through `aws-cni` alone, `--ours` (egress-cni too) or the
whole chain; `--prefix` begins their names; `--hold` prints a line when all are up and waits for the end of standard input before it
deletes; `--announce` prints a line before the first ADD. `parts`: what an ADD is made of. `gone`: how long the interface outlives its DEL.
Pods' namespaces live in a private mount namespace: nothing is left when this is killed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import secrets
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vpccni.bench.execs import Ended, Job, Program, run_all
from vpccni.bench.parts import allocator_seconds, front_door_seconds
from vpccni.lab.namespaces import CLONE_NEWNS, MS_PRIVATE, MS_REC, make_netns, mount, remove_netns, unshare

BIN: Final = "/opt/cni/bin"
CONFLIST: Final = Path("/etc/cni/net.d/10-aws.conflist")
OWN: Final = "aws-cni"
OURS: Final = frozenset({OWN, "egress-cni"})
NOTHING: Final = Path("/dev/null")
WARM_UP: Final = 3
FAILURES_SHOWN: Final = 5
GONE_WITHIN_S: Final = 10.0
GONE_POLL_S: Final = 0.005


@dataclass
class Pod:
    """A pod to add: its namespace, names, and the result of its ADD."""

    name: str
    container: str = field(default_factory=lambda: secrets.token_hex(32))
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    result: dict[str, Any] | None = None

    def env(self, command: str) -> dict[str, str]:
        """Return what the runtime puts into a plugin's environment."""
        names = {"K8S_POD_NAMESPACE": "bench", "K8S_POD_NAME": self.name, "K8S_POD_UID": self.uid}
        args = ";".join(f"{key}={value}" for key, value in {"IgnoreUnknown": "1", **names}.items())
        return {
            "PATH": os.environ["PATH"], "CNI_COMMAND": command, "CNI_PATH": BIN, "CNI_IFNAME": "eth0", "CNI_ARGS": args,
            "CNI_CONTAINERID": self.container, "CNI_NETNS": f"/run/netns/{self.name}",
        }  # fmt: skip


@dataclass
class Driver:
    """Makes jobs of pods and keeps what they took."""

    folder: Path
    wants: Callable[[str], bool]
    """Which plugins of the conflist are run, by their type."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"ADD": [], "DEL": []})
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        conf = json.loads(CONFLIST.read_text())
        base = {"cniVersion": conf["cniVersion"], "name": conf["name"]}
        plugins = [one for one in conf["plugins"] if self.wants(one["type"])]
        self._confs = [
            {key: value for key, value in (plugin | base).items() if key != "capabilities"} for plugin in plugins
        ]

    def job(self, pod: Pod, *commands: str) -> Job:
        """Run the commands for the pod, one plugin after the other; the rest of a chain is skipped after a failure."""
        for command in commands:
            spent = 0.0
            for conf in self._confs if command == "ADD" else reversed(self._confs):
                program = self._program(pod, command, conf)
                ended: Ended = yield program
                spent += ended.seconds
                if ended.status != 0:
                    said = " ".join(program.output.read_text(errors="replace").split())
                    self.failures.append(f"{conf['type']} {command} of {pod.name}: status {ended.status}: {said[:300]}")
                    break
                if command == "ADD":
                    pod.result = json.loads(program.output.read_text())
            else:
                self.seconds[command].append(spent)

    def _program(self, pod: Pod, command: str, conf: dict[str, Any]) -> Program:
        given = self.folder / f"{pod.name}.in"
        given.write_text(json.dumps(conf if pod.result is None else {**conf, "prevResult": pod.result}))
        return Program(f"{BIN}/{conf['type']}", pod.env(command), given, self.folder / f"{pod.name}.out")

    def forget(self) -> None:
        """Drop what was measured so far: it was the warming up."""
        self.seconds = {"ADD": [], "DEL": []}


def pods(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Drive pods through ADD and DEL; return the seconds of each."""
    prefix = arguments.prefix or f"b{secrets.token_hex(3)}"
    made = [Pod(f"{prefix}-{number}") for number in range(arguments.count + WARM_UP)]
    for pod in made:
        make_netns(pod.name)
    driver = Driver(folder, _wanted(arguments))
    try:
        run_all([driver.job(pod, "ADD", "DEL") for pod in made[:WARM_UP]], at_once=1)
        driver.forget()
        measured = made[WARM_UP:]
        report: dict[str, Any] = {"true": baseline(arguments, folder)}
        gc.disable()
        if arguments.announce:
            say({"begins": len(measured)})
        if arguments.together or arguments.hold:
            report["add_wall_s"] = run_all([driver.job(pod, "ADD") for pod in measured], at_once=arguments.at_once)
            if arguments.hold:
                say({"up": len(driver.seconds["ADD"])})
                sys.stdin.read()
            report["del_wall_s"] = run_all([driver.job(pod, "DEL") for pod in measured], at_once=arguments.at_once)
        else:
            run_all([driver.job(pod, "ADD", "DEL") for pod in measured], at_once=arguments.at_once)
    finally:
        for pod in made:
            remove_netns(pod.name)
    return {**report, **driver.seconds, "failed": len(driver.failures), "failures": driver.failures[:FAILURES_SHOWN]}


def _wanted(arguments: argparse.Namespace) -> Callable[[str], bool]:
    if arguments.chain:
        return lambda kind: True
    return lambda kind: kind in (OURS if arguments.ours else {OWN})


def baseline(arguments: argparse.Namespace, folder: Path) -> list[float]:
    """Time /bin/true the same way: what this harness and the kernel's exec cost together."""
    return repeat(Program("/bin/true", {}, NOTHING, folder / "true.out"), arguments.count, arguments.at_once)


def repeat(program: Program, count: int, at_once: int = 1) -> list[float]:
    """Run a program `count` times; return the seconds of each."""
    spent: list[float] = []

    def once() -> Job:
        ended = yield program
        spent.append(ended.seconds)

    run_all([once() for _ in range(count)], at_once=at_once)
    return spent


def parts(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time what an ADD is made of, one at a time."""
    version = Program(f"{BIN}/{OWN}", {"CNI_COMMAND": "VERSION"}, NOTHING, folder / "version.out")
    run_dir = Path(os.environ["VPCCNI_RUN_DIR"])
    assign, release = allocator_seconds(run_dir, arguments.count)
    return {
        "forwarder": repeat(version, arguments.count),
        "front_door": front_door_seconds(run_dir, arguments.count),
        "assign": assign,
        "release": release,
    }


def gone(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time from the end of each DEL until the pod's interface no longer exists, one pod at a time."""
    made = [Pod(f"g{secrets.token_hex(3)}-{number}") for number in range(arguments.count)]
    driver = Driver(folder, _wanted(arguments))
    spent: list[float] = []
    for pod in made:
        make_netns(pod.name)
        try:
            run_all([driver.job(pod, "ADD")], at_once=1)
            ifindex = socket.if_nametoindex(pod.result["interfaces"][0]["name"]) if pod.result else 0
            run_all([driver.job(pod, "DEL")], at_once=1)
            begin = time.perf_counter()
            while ifindex and _exists(ifindex) and time.perf_counter() - begin < GONE_WITHIN_S:
                time.sleep(GONE_POLL_S)
            spent.append(time.perf_counter() - begin)
        finally:
            remove_netns(pod.name)
    return {"gone": spent, "failed": len(driver.failures), "failures": driver.failures[:FAILURES_SHOWN]}


def _exists(ifindex: int) -> bool:
    try:
        socket.if_indextoname(ifindex)
    except OSError:
        return False
    return True


def say(document: dict[str, Any]) -> None:
    """Print one line of JSON at once."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str]) -> int:
    """Run one verb in a private mount namespace; return the exit status."""
    parser = argparse.ArgumentParser(prog="vpccni.bench.drive")
    parser.add_argument("verb", choices=("pods", "parts", "gone"))
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--prefix", default="")
    for flag in ("--chain", "--ours", "--together", "--hold", "--announce"):
        parser.add_argument(flag, action="store_true")
    arguments = parser.parse_args(argv)
    verbs: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
        "pods": pods,
        "parts": parts,
        "gone": gone,
    }
    unshare(CLONE_NEWNS)
    mount("none", "/", flags=MS_PRIVATE | MS_REC)
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/run") as folder:
        say(verbs[arguments.verb](arguments, Path(folder)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
