"""The commands an operator gives on a node: status, log-level, trace, plan, why. They ask the processes over the bus, with short deadlines."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import zmq

from vpccni.shared import names
from vpccni.shared.bus.access import endpoint
from vpccni.shared.bus.client import Client
from vpccni.shared.errors import VpccniError
from vpccni.shared.log import LEVELS
from vpccni.shared.loop import Loop
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import GetStatus, GetTrace, SetLogLevel, Status, Trace
from vpccni.shared.process import RUN_DIR_DEFAULT

ASK_WITHIN_S: Final = 1.0
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def main(argv: Sequence[str]) -> int:
    """Carry out one command; return 0, or 1 when a process did not answer."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "status":
        return _status(arguments.run_dir, as_json=arguments.json)
    if arguments.command == "log-level":
        ask = SetLogLevel(level=arguments.level, for_seconds=arguments.lasting)
        answer = ask_all(arguments.run_dir, [arguments.process], ask)[arguments.process]
        if isinstance(answer, VpccniError):
            sys.stderr.write(f"{answer}\n")
            return 1
        return 0
    if arguments.command in ("plan", "why"):
        from vpccni.shared import network_cli  # the two that read one process's long answer

        if arguments.command == "why" and (arguments.to or arguments.by):
            return network_cli.verdict(
                arguments, lambda ask: ask_all(arguments.run_dir, [names.POLICY_AGENT], ask)[names.POLICY_AGENT]
            )
        run = network_cli.plan if arguments.command == "plan" else network_cli.why
        return run(
            arguments, lambda ask: ask_all(arguments.run_dir, [names.NETLINK_PROGRAMMER], ask)[names.NETLINK_PROGRAMMER]
        )
    return _trace(arguments.run_dir, arguments.trace_id)


def ask_all(run_dir: Path, processes: Sequence[str], ask: Message) -> dict[str, Message | VpccniError]:
    """Ask each process the same; the answers, or the errors, by name."""
    loop = Loop()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    answers: dict[str, Message | VpccniError] = {}
    waiting = {
        name: Client(context, loop, name, endpoint(run_dir, name, "rpc")).call(ask, timeout_s=ASK_WITHIN_S)
        for name in processes
    }
    for name, future in waiting.items():
        try:
            answers[name] = loop.run_until(future, timeout_s=ASK_WITHIN_S * 2)
        except VpccniError as error:
            answers[name] = error
    context.destroy(linger=0)
    loop.close()
    return answers


def _status(run_dir: Path, *, as_json: bool) -> int:
    answers = ask_all(run_dir, names.NODE_PROCESSES, GetStatus())
    if as_json:
        document = {
            name: msgspec.to_builtins(answer) if isinstance(answer, Message) else {"error": str(answer)}
            for name, answer in answers.items()
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        for name, answer in answers.items():
            sys.stdout.write(f"{name:<20} {_line(answer)}\n")
    return 0 if all(isinstance(answer, Status) for answer in answers.values()) else 1


def _line(answer: Message | VpccniError) -> str:
    if not isinstance(answer, Status):
        return f"silent    {answer}"
    age = answer.now - answer.started_at
    reasons = "".join(f"\n{'':<21}- {reason}" for reason in answer.reasons)
    return f"{answer.state:<9} pid {answer.pid:<8} up {age:8.1f} s  log {answer.log_level}{reasons}"


def _trace(run_dir: Path, trace_id: str) -> int:
    answers = ask_all(run_dir, names.NODE_PROCESSES, GetTrace(trace_id=trace_id))
    lines = sorted(
        (line for answer in answers.values() if isinstance(answer, Trace) for line in answer.lines),
        key=lambda line: line.at,
    )
    for line in lines:
        stamp = time.strftime("%H:%M:%S", time.localtime(line.at)) + f".{int(line.at % 1 * 1000):03d}"
        fields = " ".join(f"{name}={value}" for name, value in line.fields.items())
        sys.stdout.write(f"{stamp} {line.process:<19} {line.level:<7} {line.event}  {fields}\n")
    if not lines:
        sys.stderr.write(f"no process remembers trace {trace_id}: each keeps its last 512 traces, since its start\n")
    return 0 if lines else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vpccni", description="Also: `vpccni lab --help`, `vpccni settings`, `vpccni node-start`."
    )
    parser.add_argument("--run-dir", type=Path, default=Path(os.environ.get("VPCCNI_RUN_DIR", RUN_DIR_DEFAULT)))
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="what each process of this node says of itself")
    status.add_argument("--json", action="store_true")
    level = commands.add_parser("log-level", help="change a process's log level at run time")
    level.add_argument("process", choices=names.NODE_PROCESSES)
    level.add_argument("level", choices=sorted(LEVELS))
    level.add_argument(
        "--for", dest="lasting", type=_duration, default=0.0, metavar="10m", help="then return to the level before"
    )
    trace = commands.add_parser("trace", help="what all processes remember of one trace")
    trace.add_argument("trace_id")
    plan = commands.add_parser("plan", help="what the programmer would change in this node's kernel now, and why")
    plan.add_argument("--json", action="store_true")
    why = commands.add_parser(
        "why", help="one pod's whole network: address, ENI, rules, chains, what is missing or foreign"
    )
    why.add_argument("pod", metavar="[NAMESPACE/]POD")
    flow = why.add_mutually_exclusive_group()
    flow.add_argument("--to", metavar="ADDRESS:PORT", help="what network policy says of a connection from the pod")
    flow.add_argument("--from", dest="by", metavar="ADDRESS:PORT", help="... of one from ADDRESS to the pod's PORT")
    why.add_argument("--protocol", choices=("tcp", "udp", "sctp"), default="tcp")
    why.add_argument("--json", action="store_true")
    return parser


def _duration(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 30s, 10m or 1h")
    return float(found[1]) * _UNITS[found[2]]
