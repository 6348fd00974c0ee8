"""`vpccni plan` and `vpccni why POD`: the programmer's answers as text, or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from vpccni.shared.errors import VpccniError
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import ErrorReply
from vpccni.shared.messages.policy import GetVerdict, Verdicts
from vpccni.shared.messages.wiring import GetPlan, GetPodStory, Plan, PodStory, SandboxStory

PORT_AT_MOST: Final = 65535
PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
Ask = Callable[[Message], Message | VpccniError]


def plan(arguments: argparse.Namespace, ask: Ask) -> int:
    """Print what would be changed; return 0 when nothing would, 2 when something, 1 when nobody answered."""
    answer = ask(GetPlan())
    if not isinstance(answer, Plan):
        return _no_answer(answer)
    rests = bool(answer.steps or answer.awaited or answer.firewall)
    if arguments.json:
        _say_json(answer)
        return 2 if rests else 0
    for step in answer.steps:
        _say(f"{step.owner:<28} {step.verb:<7} {step.what}: {step.why}")
    for owner in answer.awaited:
        _say(f"{owner:<28} waits    no link has its MAC")
    for text in answer.firewall:
        _say("firewall                     restore\n" + "".join(f"    {line}\n" for line in text.splitlines()).rstrip())
    if not rests:
        _say("nothing: the kernel is as it should be")
    return 2 if rests else 0


def why(arguments: argparse.Namespace, ask: Ask) -> int:
    """Print one pod's network; return 0 when all of it is there, 2 when something is missing, 1 when nobody knows the pod."""
    namespace, _, name = arguments.pod.rpartition("/")
    answer = ask(GetPodStory(namespace=namespace, name=name))
    if not isinstance(answer, PodStory):
        return _no_answer(answer)
    if arguments.json:
        _say_json(answer)
    else:
        for story in answer.sandboxes:
            _say_sandbox(story)
        _say_list(
            "what happened since the programmer's start",
            [_line(one.at, one.what, one.trace_id) for one in answer.changes],
        )
    if not answer.sandboxes:
        sys.stderr.write(f"no pod {arguments.pod} is wired on this node\n")
        return 1
    return 2 if any(story.missing for story in answer.sandboxes) else 0


def verdict(arguments: argparse.Namespace, ask: Ask) -> int:
    """Print what policy says of a connection and which rule decides; return 0 when it is allowed, 2 when denied, 1 for no answer."""
    namespace, _, name = arguments.pod.rpartition("/")
    address, _, port = (arguments.to or arguments.by).rpartition(":")
    if not address or not port.isdecimal() or int(port) > PORT_AT_MOST:
        sys.stderr.write("write ADDRESS:PORT, for instance 10.0.3.7:8080 or [2001:db8::7]:8080\n")
        return 1
    question = GetVerdict(
        namespace=namespace or "default",
        name=name,
        direction="egress" if arguments.to else "ingress",
        address=address.strip("[]"),
        protocol=PROTOCOLS[arguments.protocol],
        port=int(port),
    )
    answer = ask(question)
    if not isinstance(answer, Verdicts):
        return _no_answer(answer)
    if arguments.json:
        _say_json(answer)
    else:
        for story in answer.stories:
            _say(f"{'ALLOW' if story.allowed else 'DENY '} {story.host_veth} ({story.address}), tier {story.tier}")
            _say(f"    {story.because}")
            _say_list("policies that select the pod", story.policies)
        if not answer.known:
            _say("the policies are not known yet: the Kubernetes API has not told them")
    if not answer.stories:
        sys.stderr.write(f"no pod {arguments.pod} has policy on this node\n")
        return 1
    return 0 if all(story.allowed for story in answer.stories) else 2


def _say_sandbox(story: SandboxStory) -> None:
    _say(
        f"pod {story.pod.namespace}/{story.pod.name}, sandbox {story.sandbox.container_id[:13]}/{story.sandbox.ifname}"
    )
    _say(f"    address      {story.address or '(not known)'}")
    _say(f"    ENI          {story.eni_id or '(not told yet)'}, route table {story.route_table}")
    _say(f"    ledger       {story.ledger or '(not told yet)'}")
    _say(f"    host veth    {story.host_veth}, index {story.ifindex}")
    _say_list("there", story.present)
    _say_list("missing", story.missing)
    _say_list("about its address, and not ours", story.foreign)
    _say_list("firewall rules its packets meet", story.chains)


def _say_list(title: str, lines: Sequence[str]) -> None:
    if lines:
        _say(f"    {title}")
    for line in lines:
        _say(f"        {line}")


def _line(at: float, what: str, trace_id: str) -> str:
    stamp = time.strftime("%H:%M:%S", time.localtime(at))
    return f"{stamp} {what}" + (f"  trace {trace_id}" if trace_id else "")


def _no_answer(answer: Message | VpccniError) -> int:
    text = f"{answer.what}: {answer.why}" if isinstance(answer, ErrorReply) else str(answer)
    sys.stderr.write(text + "\n")
    return 1


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _say_json(answer: Message) -> None:
    sys.stdout.write(json.dumps(msgspec.to_builtins(answer), indent=2) + "\n")
