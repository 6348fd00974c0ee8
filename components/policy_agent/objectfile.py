"""The compiled programs as a file, and how they become loadable: a pure reader of what compile.py leaves."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Final

import msgspec

from vpccni.components.policy_agent.layout import PROGRAM_MAPS, PROGRAMS, MapDefinition
from vpccni.shared.errors import VpccniError

FORMAT: Final = 2
INSTRUCTION_BYTES: Final = 8
IMMEDIATE_OFFSET: Final = 4


class ObjectRefused(VpccniError):
    """The compiled programs cannot be had or cannot be used."""

    code = "bpf_object"


class Program(msgspec.Struct, frozen=True):
    """One program: instructions as hex, and (instruction index, map name) wherever a map's descriptor belongs."""

    name: str
    code: str
    maps: list[tuple[int, str]]


class ObjectFile(msgspec.Struct, frozen=True):
    """The file. `hash` names the source it was made of; `maps` are (name, kind, key, value, entries, flags) as the compiler saw them."""

    format: int
    hash: str
    programs: list[Program]
    maps: list[tuple[str, int, int, int, int, int]]


def source_hash(source: str, header: str) -> str:
    """Return the name of a source: files, pins and programs that carry the same one are interchangeable."""
    return hashlib.blake2b(f"{FORMAT}\n{header}\n{source}".encode(), digest_size=8).hexdigest()


def read(raw: bytes, *, of: str, where: str) -> ObjectFile:
    """Return the file's content; raise `ObjectRefused` unless it is whole, of source `of`, and fits this process's layout."""
    try:
        content = msgspec.json.decode(raw, type=ObjectFile)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _refused(where, f"it does not read as format {FORMAT}: {error}") from error
    seen = tuple(sorted((MapDefinition(*one) for one in content.maps), key=lambda one: one.name))
    if content.format != FORMAT:
        raise _refused(where, f"it has format {content.format}, this agent reads {FORMAT}")
    if content.hash != of:
        raise _refused(where, f"it was made of source {content.hash}, this agent's source is {of}")
    if seen != tuple(sorted(PROGRAM_MAPS, key=lambda one: one.name)):
        raise _refused(where, f"its maps {seen} are not those of this agent")
    if tuple(sorted(program.name for program in content.programs)) != tuple(sorted(PROGRAMS)):
        raise _refused(where, f"it must hold the programs {', '.join(PROGRAMS)} and no other")
    return content


def patched(program: Program, descriptors: Mapping[str, int]) -> bytes:
    """Return the instructions with each map's descriptor in its place, ready for the kernel."""
    code = bytearray.fromhex(program.code)
    for index, name in program.maps:
        struct.pack_into("<i", code, index * INSTRUCTION_BYTES + IMMEDIATE_OFFSET, descriptors[name])
    return bytes(code)


def _refused(where: str, why: str) -> ObjectRefused:
    return ObjectRefused(
        "the compiled programs cannot be used",
        on=where,
        why=why,
        remedy="Build the file again with this release's sources",
    )
