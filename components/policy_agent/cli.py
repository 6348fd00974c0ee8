"""`aws-eks-na-cli ebpf ...` for this agent's maps (spec policy.md 5.16): what is loaded, and what is in it. Needs root, no API.

The commands and their shape are the reference's. Maps are one set for the node here, so `dump-maps` also knows those of rules, and
cluster rules are in the same ones: `dump-cp-maps` is `dump-maps`.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from vpccni.components.policy_agent import layout, libbpf
from vpccni.components.policy_agent.datapath import FOLDER
from vpccni.components.policy_agent.layout import LAYOUT
from vpccni.components.policy_agent.libbpf import LoadedMap
from vpccni.components.policy_agent.policy import V4_BITS
from vpccni.shared.errors import VpccniError

RULE: Final = "=" * 88
STARS: Final = "*" * 31
BPFFS: Final = "/sys/fs/bpf"
NS_A_MS: Final = 1_000_000


def main(argv: Sequence[str]) -> int:
    """Carry out one command. Returns 0 whatever happens, as the reference does; errors are on standard output."""
    arguments = _parser().parse_args(argv)
    if arguments.group != "ebpf" or not arguments.command:
        return 0
    try:
        for line in arguments.run(arguments):
            _say(line)
    except (VpccniError, OSError, ValueError) as error:
        _say(f"Failed to execute the cmd -  {error}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aws-eks-na-cli")
    ebpf = parser.add_subparsers(dest="group").add_parser("ebpf").add_subparsers(dest="command")
    commands: tuple[tuple[str, str, Callable[[argparse.Namespace], Iterator[str]]], ...] = (
        ("progs", "p", lambda _: programs()),
        ("maps", "m", lambda _: maps()),
        ("loaded-ebpfdata", "e", lambda _: loaded(_folder())),
        ("dump-maps", "d", lambda arguments: dump(arguments.id)),
        ("dump-cp-maps", "dcp", lambda arguments: dump(arguments.id)),
    )
    for name, alias, run in commands:
        command = ebpf.add_parser(name, aliases=[alias])
        command.set_defaults(run=run)
        if name.startswith("dump-"):
            command.add_argument("id", type=int)
    return parser


def programs() -> Iterator[str]:
    """Yield every program of the node."""
    yield "Programs currently loaded : "
    for descriptor in libbpf.every_program():
        found = libbpf.program_info(descriptor)
        os.close(descriptor)
        yield f"Type : {found.kind} ID : {found.id} Associated maps count : {len(found.map_ids)}"
        yield RULE


def maps() -> Iterator[str]:
    """Yield every map of the node."""
    yield "Maps currently loaded : "
    for descriptor in libbpf.every_map():
        found = libbpf.map_info(descriptor)
        os.close(descriptor)
        one = found.definition
        yield f"Type : {one.kind} ID : {found.id}"
        yield f"Keysize {one.key_bytes} Valuesize {one.value_bytes} MaxEntries {one.entries_at_most}"
        yield RULE


def loaded(folder: Path) -> Iterator[str]:
    """Yield this agent's pinned programs with their maps."""
    by_id = {}
    for path in sorted(path for path in folder.iterdir() if not path.is_dir()):
        found = _pinned(path)
        by_id[found.id] = path.name
    for path in sorted(path for path in folder.glob("*/*") if path.name in layout.PROGRAMS):
        descriptor = libbpf.pinned(str(path))
        if descriptor is None:
            continue
        program = libbpf.program_info(descriptor)
        os.close(descriptor)
        yield f"PinPath:  {path}"
        yield f"Pod Identifier : node  Direction : {path.name.removeprefix('handle_')} "
        yield f"Prog ID:  {program.id}"
        yield "Associated Maps -> "
        for number in sorted(program.map_ids):
            yield f"Map Name:  {by_id.get(number, '')}"
            yield f"Map ID:  {number}"
        yield RULE


def dump(number: int) -> Iterator[str]:
    """Yield what is in a map of this agent."""
    if number <= 0:
        raise ValueError("Invalid mapID")
    found = libbpf.map_by_id(number)
    try:
        show = _SHOWN.get(found.definition.name)
        if show is None or found.definition not in layout.MAPS:
            names = ", ".join(sorted(_SHOWN))
            raise ValueError(f"unsupported map: {found.definition.name} (expected one of {names})")
        empty = True
        for key, value in libbpf.elements(found, found.definition.value_bytes):
            empty = False
            yield from show(key, value)
            yield STARS
        yield "No Entries found, Empty map" if empty else "Done reading all entries"
    finally:
        os.close(found.descriptor)


def _flow(key: bytes, value: bytes) -> Iterator[str]:
    local, peer, ifindex, local_port, peer_port, protocol = layout.FLOW_KEY.unpack(key)
    seen_ns, rule_set, rule, origin, state = layout.FLOW.unpack(value)
    pod, other = (local, local_port), (peer, peer_port)
    (source, source_port), (destination, port) = (other, pod) if origin == layout.DIRECTION_INGRESS else (pod, other)
    yield (
        f"Conntrack Key : Source IP - {_address(source)} Source port - {int.from_bytes(source_port, 'big')} "
        f"Dest IP - {_address(destination)} Dest port - {int.from_bytes(port, 'big')} Protocol - {protocol} "
        f"Owner IP - {_address(local)} Ifindex - {ifindex}"
    )
    yield "Value : "
    yield f"Conntrack Val -  rule set {rule_set}, rule {rule:08x}, state {state}"
    yield f"Last Seen (ns) -  {seen_ns}  ({duration((time.monotonic_ns() - seen_ns) // NS_A_MS)} ago)"


def _host(key: bytes, value: bytes) -> Iterator[str]:
    table, address = layout.HOST_KEY.unpack(key)
    yield f"Key : IP/Prefixlen - {_address(address)} table {table:016x} class {int.from_bytes(value, 'little')}"


def _network(key: bytes, value: bytes) -> Iterator[str]:
    bits, table, address = layout.NETWORK_KEY.unpack(key)
    is_v4 = ipaddress.IPv6Address(address).ipv4_mapped is not None
    length = bits - 64 - (V4_BITS if is_v4 else 0)
    number = int.from_bytes(value, "little")
    yield f"Key : IP/Prefixlen - {_address(address)}/{length} table {table:016x} class {number}"


def _class(key: bytes, value: bytes) -> Iterator[str]:
    rule_set, number = layout.CLASS_KEY.unpack(key)
    direction = "egress" if number >> 31 else "ingress"
    yield f"Key : rule set {rule_set} {direction} class {number & 0x7FFFFFFF}"
    yield f"Value : {_decision(value)}"


def _port(key: bytes, value: bytes) -> Iterator[str]:
    bits, table, protocol, _, port = layout.PORT_KEY.unpack(key)
    yield f"Key : table {table:016x} Protocol - {protocol} StartPort - {int.from_bytes(port, 'big')} bits {bits - 64}"
    yield f"Value : {_decision(value)}"


def _pod(key: bytes, value: bytes) -> Iterator[str]:
    entry = layout.PodEntry.unpacked(value)
    yield f"Key :  {layout.ifindex_of(key)}"
    yield f"State -  rule set {entry.rule_set}, slot {entry.slot}"


def _exempt(key: bytes, _value: bytes) -> Iterator[str]:
    yield f"Key : {_address(key)}"


_SHOWN: Final[dict[str, Callable[[bytes, bytes], Iterator[str]]]] = {
    "flows": _flow,
    "spare_flows": _flow,
    "hosts": _host,
    "networks": _network,
    "classes": _class,
    "ports": _port,
    "pods": _pod,
    "exempt": _exempt,
}


def _decision(value: bytes) -> str:
    ports, rule, allowed, tier, _ = layout.DECISION.unpack(value)
    return f"port table {ports:016x}" if ports else f"{'accept' if allowed else 'deny'}, tier {tier}, rule {rule:08x}"


def duration(ms: int) -> str:
    """Return milliseconds in the reference's words, as 1h2m3.5s."""
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest_ms / 1000:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _address(raw: bytes) -> str:
    one = ipaddress.IPv6Address(raw)
    return str(one.ipv4_mapped or one)


def _folder() -> Path:
    return Path(os.environ.get("VPCCNI_BPFFS", "") or BPFFS) / FOLDER / LAYOUT


def _pinned(path: Path) -> LoadedMap:
    descriptor = libbpf.pinned(str(path))
    if descriptor is None:
        raise FileNotFoundError(str(path))
    found = libbpf.map_info(descriptor)
    os.close(descriptor)
    return found


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
