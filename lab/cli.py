"""`vpccni lab ...`: a VPC on this machine from the command line."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from vpccni.lab import cli_cloud
from vpccni.lab.api import Lab, LabError
from vpccni.lab.node import Executor
from vpccni.lab.reboot import reboot
from vpccni.lab.runtime import CniError


def say(text: str) -> None:
    """Write one line for the reader, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def parser() -> argparse.ArgumentParser:
    """Return the parser of all lab commands."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default="lab", help="the lab's name (several can run side by side)")
    top = argparse.ArgumentParser(prog="vpccni lab", description="A VPC on this machine.")
    verbs = top.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", parents=[common], help="bring a VPC up")
    up.add_argument("--nodes", type=int, default=2)
    up.add_argument("--instance-type", default="m5.large")
    up.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="environment of the node processes",
    )
    up.add_argument("--unset", action="append", default=[], metavar="KEY")
    up.add_argument("--ipv6", action="store_true", help="an IPv6 cluster: pods have IPv6 addresses")
    up.add_argument("--run-on-disk", action="store_true", help="keep the nodes' run folder on disk instead of tmpfs")
    up.add_argument("--policy-controller", action="store_true", help="start the cluster's policy controller too")
    up.add_argument("--no-processes", action="store_true", help="leave the node processes to you")
    status = verbs.add_parser("status", parents=[common], help="what runs and how to reach it")
    status.add_argument("--json", action="store_true")
    verbs.add_parser("down", parents=[common], help="take everything away")
    run = verbs.add_parser("exec", parents=[common], help="run a command in a node or a pod: exec NODE|POD -- CMD")
    run.add_argument("where")
    run.add_argument("argv", nargs=argparse.REMAINDER)
    kill = verbs.add_parser("kill", parents=[common], help="kill a supervised process with SIGKILL")
    kill.add_argument("node")
    kill.add_argument("process")
    kill.add_argument("--signal", default="KILL")
    again = verbs.add_parser("reboot", parents=[common], help="let a node's power fail and come back")
    again.add_argument("node")
    again.add_argument("--keep-run-folder", action="store_true", help="/run/aws-node is on its disk")
    _pod_parser(verbs, common)
    cli_cloud.add_parsers(verbs, common)
    return top


def _pod_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    pod = verbs.add_parser("pod", help="add, delete and list pods").add_subparsers(dest="pod_verb", required=True)
    add = pod.add_parser("add", parents=[common])
    add.add_argument("node")
    add.add_argument("pod")
    delete = pod.add_parser("delete", parents=[common])
    delete.add_argument("pod")
    for one in (add, delete):
        one.add_argument("--namespace", default="default")
    pod.add_parser("list", parents=[common]).add_argument("--json", action="store_true")


def _place(lab: Lab, where: str) -> Executor:
    if any(node.name == where for node in lab.nodes):
        return lab.node(where)
    namespace, _, name = where.rpartition("/")
    return lab.pod(name, namespace or "default")


def _exec(lab: Lab, where: str, argv: Sequence[str]) -> int:
    command = list(argv[1:] if argv[:1] == ["--"] else argv)
    program = _place(lab, where).popen(command or ["sh"])
    while True:
        try:
            status = program.wait()
            return 128 - status if status < 0 else status
        except KeyboardInterrupt:
            continue  # the terminal sent it to the program as well, which decides


def _up(args: argparse.Namespace) -> int:
    env: dict[str, str | None] = {**dict(args.set), **dict.fromkeys(args.unset)}
    lab = Lab.up(
        args.name, nodes=args.nodes, instance_type=args.instance_type, env=env, start_processes=not args.no_processes,
        run_on_disk=args.run_on_disk, progress=say, ipv6=args.ipv6,
    )  # fmt: skip
    if args.policy_controller:
        lab.start_policy_controller()
    for node in lab.nodes:
        say(f"{node.name}: {node.instance_type} {node.instance_id} {node.primary_address} {node.primary_ipv6}".rstrip())
    return 0


def _status(lab: Lab, *, as_json: bool) -> int:
    status = lab.status()
    if as_json:
        say(json.dumps(status, indent=2))
        return 0
    for node in status["nodes"]:
        processes = ", ".join(f"{name} {pid}" for name, pid in sorted(node["processes"].items())) or "none"
        say(
            f"{node['name']}  {node['instance_type']}  {node['primary_address']}  pods {node['pods']}/{node['max_pods']}  netns {node['netns']}"
        )
        say(f"    processes: {processes}")
    for name, address in status["endpoints"].items():
        say(f"{name}: {address}")
    return 0


def _pod(lab: Lab, args: argparse.Namespace) -> int:
    if args.pod_verb == "add":
        pod = lab.add_pod(args.node, args.pod, namespace=args.namespace)
        say(f"{pod.name}: {pod.address} on {pod.node} ({pod.add_seconds * 1000:.1f} ms)")
    elif args.pod_verb == "delete":
        lab.delete_pod(args.pod, args.namespace)
        say(f"{args.pod}: deleted")
    elif args.json:
        say(json.dumps([{k: v for k, v in pod.__dict__.items() if k != "env"} for pod in lab.pods()], indent=2))
    else:
        for pod in lab.pods():
            say(f"{pod.namespace}/{pod.name}  {pod.node}  {pod.address}  {pod.netns}")
    return 0


def _run(args: argparse.Namespace) -> int:
    if args.verb == "up":
        return _up(args)
    if args.verb == "down":
        try:
            Lab.attach(args.name).down()
        except (LabError, ValueError, KeyError):
            Lab.clear(args.name)
        return 0
    lab = Lab.attach(args.name)
    match args.verb:
        case "status":
            return _status(lab, as_json=args.json)
        case "exec":
            return _exec(lab, args.where, args.argv)
        case "kill":
            pid = lab.node(args.node).kill(args.process, signal.Signals[f"SIG{args.signal.removeprefix('SIG')}"])
            say(f"{args.process} on {args.node} (process {pid}) got SIG{args.signal.removeprefix('SIG')}")
            return 0
        case "reboot":
            died = reboot(lab, lab.node(args.node), keep_run_folder=args.keep_run_folder)
            say(f"{args.node} is back; {len(died)} pods died with it")
            return 0
        case "pod":
            return _pod(lab, args)
        case "ec2":
            return cli_cloud.show(lab, args, say)
        case _:
            return cli_cloud.misbehave(lab, args, say)


def main(argv: Sequence[str]) -> int:
    """Run one lab command; return its exit status."""
    try:
        return _run(parser().parse_args(argv))
    except (LabError, CniError, subprocess.SubprocessError, OSError) as error:
        sys.stderr.write(f"vpccni lab: {error}\n")
        return 1
