"""`vpccni lab ec2 ...` and `vpccni lab fault ...`: what EC2 was asked, and how to make EC2 and metadata misbehave.

What can be mistyped is checked before anything is sent: an action, an error code, a metadata path. A fault that silently does nothing
would make a test pass for the wrong reason.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import Any, Final

from vpccni.lab.api import Lab
from vpccni.lab.ec2_actions import HANDLERS

EVERY_ACTION: Final = "*"
ERROR_CODES: Final = frozenset(
    """AddressLimitExceeded AttachmentLimitExceeded AuthFailure EC2ThrottledException IdempotentParameterMismatch IncorrectState
    InsufficientCidrBlocks InsufficientFreeAddressesInSubnet InternalError InternalFailure InvalidAttachmentID.NotFound
    InvalidInstanceID.NotFound InvalidNetworkInterface.InUse InvalidNetworkInterfaceID.NotFound InvalidParameterCombination
    InvalidParameterValue InvalidSubnetID.NotFound NetworkInterfaceLimitExceeded OperationNotPermitted
    PrivateIpAddressLimitExceeded RequestExpired RequestLimitExceeded ServiceUnavailable Throttling ThrottlingException
    Unavailable UnauthorizedOperation""".split()
)
"""Words of the EC2 API reference that calls about ENIs can answer with."""
METADATA_ROOTS: Final = ("meta-data/", "dynamic/", "api/token")

Say = Callable[[str], None]


def add_parsers(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the lab's."""
    ec2 = verbs.add_parser("ec2", help="what EC2 was asked and what it knows")
    asked = ec2.add_subparsers(dest="ec2_verb", required=True)
    calls = asked.add_parser("calls", parents=[common], help="the calls in order")
    calls.add_argument("--action", type=_action, help="only this action")
    calls.add_argument("--refused", action="store_true", help="only refused calls")
    calls.add_argument("--last", type=_count, metavar="N", help="only the last N")
    calls.add_argument("--json", action="store_true", help="with parameters, as JSON")
    asked.add_parser("counts", parents=[common], help="how often each action was called")
    asked.add_parser("picture", parents=[common], help="all ENIs as EC2 knows them, as JSON")
    asked.add_parser("forget", parents=[common], help="empty the call log")
    fault = verbs.add_parser("fault", help="make EC2 or metadata misbehave")
    kinds = fault.add_subparsers(dest="fault_verb", required=True)
    _call_faults(kinds, common)
    _subnet_fault(kinds, common)
    _metadata_fault(kinds, common)
    kinds.add_parser("list", parents=[common], help="what misbehaves now, as JSON")
    kinds.add_parser("clear", parents=[common], help="end all of it; tags of subnets stay")


def _call_faults(kinds: Any, common: argparse.ArgumentParser) -> None:
    one = kinds.add_parser("ec2", parents=[common], help="calls of an action fail, wait, or lose their reply")
    one.add_argument("action", type=_action, help='an EC2 action, or "*"')
    one.add_argument("--error", type=_error_code, metavar="CODE", help="answer with this AWS error code")
    one.add_argument("--times", type=_count, metavar="N", help="only the next N calls")
    one.add_argument("--latency-ms", type=_count, default=0, metavar="MS", help="answer this much later")
    one.add_argument("--lost-reply", action="store_true", help="carry the call out and cut the connection")
    for name, text in (("deny", "take the permission for actions away"), ("allow", "give it back")):
        kinds.add_parser(name, parents=[common], help=text).add_argument("actions", type=_action, nargs="+")
    throttle = kinds.add_parser("throttle", parents=[common], help="make the token buckets smaller")
    throttle.add_argument("scale", type=_share, help="size against AWS's: 1 usual, 0.1 a tenth")
    lag = kinds.add_parser("lag", parents=[common], help="let describe calls show an older picture")
    lag.add_argument("seconds", type=_seconds)


def _subnet_fault(kinds: Any, common: argparse.ArgumentParser) -> None:
    subnet = kinds.add_parser("subnet", parents=[common], help="fill, fragment or tag a subnet")
    subnet.add_argument("subnet", help="its id or its Name, see `vpccni lab status --json`")
    what = subnet.add_mutually_exclusive_group(required=True)
    what.add_argument("--leave", type=_count, metavar="N", help="leave N free addresses")
    what.add_argument("--fragment", action="store_true", help="leave addresses, but no free /28 block")
    what.add_argument("--give-back", action="store_true", help="end both, and reservations")
    what.add_argument("--tag", type=_tag, metavar="KEY=VALUE", help="set a tag")
    what.add_argument("--untag", metavar="KEY", help="remove a tag")


def _metadata_fault(kinds: Any, common: argparse.ArgumentParser) -> None:
    imds = kinds.add_parser(
        "imds", parents=[common], help="a node's metadata is old, refuses, hides an ENI, or is slow"
    )
    imds.add_argument("node")
    imds.add_argument("--stale", type=_seconds, metavar="SECONDS", help="show what was true this long ago")
    imds.add_argument("--path", type=_metadata_path, metavar="PREFIX", help="refuse paths that begin so")
    imds.add_argument("--status", type=_status, default=500, help="with which HTTP status (404, 500, ...)")
    imds.add_argument("--hide", action="append", default=[], metavar="ENI", help="leave an ENI out")
    imds.add_argument("--latency-ms", type=_count, metavar="MS", help="answer this much later")


def show(lab: Lab, args: argparse.Namespace, say: Say) -> int:
    """Carry out `vpccni lab ec2 ...`."""
    match args.ec2_verb:
        case "calls":
            _show_calls(lab, args, say)
        case "counts":
            for action, count in sorted(lab.ec2_counts().items()):
                say(f"{count:7d}  {action}")
        case "forget":
            lab.ec2_forget_calls()
        case _:
            say(json.dumps(lab.ec2_picture(), indent=2))
    return 0


def _show_calls(lab: Lab, args: argparse.Namespace, say: Say) -> None:
    calls = [
        call
        for call in lab.ec2_calls()
        if args.action in (None, EVERY_ACTION, call["action"]) and (call["error"] or not args.refused)
    ]
    calls = calls[-args.last :] if args.last else calls
    if args.json:
        say(json.dumps(calls, indent=2))
        return
    for call in calls:
        at = time.strftime("%H:%M:%S", time.localtime(call["at"])) + f"{call['at'] % 1:.3f}"[1:]
        on = call["params"].get("NetworkInterfaceId") or call["params"].get("SubnetId") or ""
        say(f"{at}  {call['action']:34}{call['error'] or 'ok':36}{on}".rstrip())


def misbehave(lab: Lab, args: argparse.Namespace, say: Say) -> int:
    """Carry out `vpccni lab fault ...`."""
    match args.fault_verb:
        case "ec2":
            lab.ec2_fault(args.action, args.error, args.times, args.latency_ms, lost_reply=args.lost_reply)
        case "deny":
            lab.ec2_permissions(deny=args.actions)
        case "allow":
            lab.ec2_permissions(allow=args.actions)
        case "throttle":
            lab.ec2_settings(throttle_scale=args.scale)
        case "lag":
            lab.ec2_settings(describe_lag_s=args.seconds)
        case "subnet":
            tags = {args.tag[0]: args.tag[1]} if args.tag else {args.untag: None} if args.untag else {}
            lab.ec2_subnet(args.subnet, tags=tags, leave=args.leave, fragment=args.fragment, give_back=args.give_back)
        case "imds":
            statuses = {args.path: args.status} if args.path else {}
            lab.node(args.node)
            lab.imds_fault(
                args.node, stale_s=args.stale, statuses=statuses, missing_enis=args.hide, latency_ms=args.latency_ms
            )
        case "list":
            say(json.dumps(lab.faults(), indent=2))
        case _:
            lab.ec2_clear()
    return 0


# ---------------------------------------------------------------------- what an argument may be


def _known(text: str, known: Collection[str], what: str) -> str:
    if text in known:
        return text
    close = get_close_matches(text, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"
    raise argparse.ArgumentTypeError(f"{text!r} is no {what}{hint}")


def _action(text: str) -> str:
    return text if text == EVERY_ACTION else _known(text, HANDLERS, "EC2 action of the lab")


def _error_code(text: str) -> str:
    return _known(text, ERROR_CODES, "EC2 error code")


def _metadata_path(text: str) -> str:
    path = text.removeprefix("/").removeprefix("latest/")
    if not path.startswith(METADATA_ROOTS):
        raise argparse.ArgumentTypeError(f"{text!r} is no metadata path: it begins with {', '.join(METADATA_ROOTS)}")
    return path


def _number(text: str, low: float, high: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    return _number(text, 0, 1e6, "number of seconds")


def _share(text: str) -> float:
    return _number(text, 0.0, 1000.0, "size of 0 to 1000 times AWS's")


def _status(text: str) -> int:
    return int(_number(text, 400, 599, "HTTP error status of 400 to 599"))


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value
