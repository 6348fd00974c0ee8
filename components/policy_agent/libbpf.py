"""The kernel's bpf call through libbpf by ctypes: maps, programs, pins, and what the kernel says about them.

Only what the agent needs; no object files, no LLVM: a process that has this loaded stays at some 6 MB. libbpf 1.x gives
errors as negative return values.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from vpccni.components.policy_agent.layout import MapDefinition
from vpccni.shared.effects import effect
from vpccni.shared.errors import KernelRefused

LIBRARY: Final = "libbpf.so.1"
SCHED_CLS: Final = 3
LICENSE: Final = b"GPL"
LOG_BYTES: Final = 1 << 18
LOG_SHOWN: Final = 600
BATCH: Final = 1024
"""Elements a call of a batch; a bucket of a hash table that holds more would be refused, and none does."""
BPFFS_MAGIC: Final = 0xCAFE4A11
_UPDATE_ANY: Final = 0
_STATFS_BYTES: Final = 256


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts of libbpf 1.x up to the log."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("numbers", ctypes.c_uint32 * 8),
        ("fd_array", ctypes.c_void_p),
        ("function_info", ctypes.c_void_p),
        ("function_info_sizes", ctypes.c_uint32 * 2),
        ("line_info", ctypes.c_void_p),
        ("line_info_sizes", ctypes.c_uint32 * 2),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log", ctypes.c_char_p),
    ]


class _MapOptions(ctypes.Structure):
    """The head of struct bpf_map_create_opts of libbpf 1.x."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("btf", ctypes.c_uint32 * 4),
        ("inner_map", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
    ]


class _BatchOptions(ctypes.Structure):
    """struct bpf_map_batch_opts of libbpf 1.x."""

    _fields_ = [("size", ctypes.c_size_t), ("element_flags", ctypes.c_uint64), ("flags", ctypes.c_uint64)]


class _TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf 1.x."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("packet", ctypes.c_char_p),
        ("packet_out", ctypes.c_void_p),
        ("packet_bytes", ctypes.c_uint32),
        ("packet_out_bytes", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("context_out", ctypes.c_void_p),
        ("context_bytes", ctypes.c_uint32),
        ("context_out_bytes", ctypes.c_uint32),
        ("returned", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration_ns", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch", ctypes.c_uint32),
    ]


class _ProgramInfo(ctypes.Structure):
    """The head of struct bpf_prog_info (linux/bpf.h)."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_length", ctypes.c_uint32),
        ("translated_length", ctypes.c_uint32),
        ("jited", ctypes.c_uint64),
        ("translated", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("uid", ctypes.c_uint32),
        ("map_count", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
    ]


class _MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info (linux/bpf.h)."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_bytes", ctypes.c_uint32),
        ("value_bytes", ctypes.c_uint32),
        ("entries_at_most", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    ]


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """A program in the kernel."""

    descriptor: int
    id: int
    kind: int
    map_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class LoadedMap:
    """A map in the kernel; `definition` as the kernel tells it."""

    descriptor: int
    id: int
    definition: MapDefinition


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(LIBRARY)


@cache
def possible_cpus() -> int:
    """Return how many values a per-CPU lookup gives."""
    return _checked(_library().libbpf_num_possible_cpus(), "count the CPUs", LIBRARY)


def is_bpffs(folder: str) -> bool:
    """Return whether `folder` lies on a bpf filesystem: only there can a map or program be pinned."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    result = ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), buffer)
    kind = int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], "little")
    return result == 0 and kind == BPFFS_MAGIC


def create_map(definition: MapDefinition) -> LoadedMap:
    """Create an empty map."""
    with effect("bpf.create_map"):
        descriptor = _library().bpf_map_create(
            definition.kind,
            definition.name.encode(),
            definition.key_bytes,
            definition.value_bytes,
            definition.entries_at_most,
            ctypes.byref(_MapOptions(size=ctypes.sizeof(_MapOptions), flags=definition.flags)),
        )
    return map_info(_checked(descriptor, "create the map", definition.name))


def load_program(name: str, code: bytes) -> LoadedProgram:
    """Load a classifier; raise `KernelRefused` with the end of the verifier's log when the kernel does not take it."""
    with effect("bpf.load"):
        descriptor = _load(name, code, None)
    if descriptor == -errno.EPERM:
        raise _refused(descriptor, "load the program", name)
    if descriptor < 0:
        log = ctypes.create_string_buffer(LOG_BYTES)
        options = _LoadOptions(size=ctypes.sizeof(_LoadOptions), log_level=1, log_size=LOG_BYTES)
        options.log = ctypes.cast(log, ctypes.c_char_p)
        _load(name, code, ctypes.byref(options))
        raise _refused(descriptor, "load the program", name, log.value.decode(errors="replace").strip()[-LOG_SHOWN:])
    return program_info(descriptor)


def _load(name: str, code: bytes, options: Any) -> int:
    result = _library().bpf_prog_load(SCHED_CLS, name.encode(), LICENSE, code, ctypes.c_size_t(len(code) // 8), options)
    assert isinstance(result, int)
    return result


def pin(descriptor: int, path: str) -> None:
    """Give a map or program a name that outlives this process."""
    with effect("bpf.pin"):
        _checked(_library().bpf_obj_pin(descriptor, os.fsencode(path)), "pin", path)


def pinned(path: str) -> int | None:
    """Return a new descriptor of what is pinned there, None when nothing is."""
    descriptor = _library().bpf_obj_get(os.fsencode(path))
    return None if descriptor == -errno.ENOENT else _checked(descriptor, "open the pin", path)


def every_program() -> Iterator[int]:
    """Yield a new descriptor of each program in the kernel; the caller closes it."""
    return _every("bpf_prog_get_next_id", "bpf_prog_get_fd_by_id")


def every_map() -> Iterator[int]:
    """Yield a new descriptor of each map in the kernel; the caller closes it."""
    return _every("bpf_map_get_next_id", "bpf_map_get_fd_by_id")


def _every(next_id: str, open_id: str) -> Iterator[int]:
    number = ctypes.c_uint32(0)
    while getattr(_library(), next_id)(number, ctypes.byref(number)) == 0:
        descriptor = getattr(_library(), open_id)(number)
        if descriptor >= 0:  # else it went meanwhile
            yield descriptor


def map_by_id(number: int) -> LoadedMap:
    """Return a map by the number that the kernel gave it."""
    return map_info(_checked(_library().bpf_map_get_fd_by_id(ctypes.c_uint32(number)), "open the map", str(number)))


def program_info(descriptor: int) -> LoadedProgram:
    """Return what the kernel says about a program; the descriptor must be of one."""
    ids = (ctypes.c_uint32 * 64)()
    info = _ProgramInfo(map_count=len(ids), map_ids=ctypes.addressof(ids))
    _info(descriptor, info)
    return LoadedProgram(descriptor, info.id, info.type, frozenset(ids[: info.map_count]))


def map_info(descriptor: int) -> LoadedMap:
    """Return what the kernel says about a map; the descriptor must be of one."""
    info = _MapInfo()
    _info(descriptor, info)
    definition = MapDefinition(
        info.name.decode(), info.type, info.key_bytes, info.value_bytes, info.entries_at_most, info.flags
    )
    return LoadedMap(descriptor, info.id, definition)


def _info(descriptor: int, info: ctypes.Structure) -> None:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    result = _library().bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(size))
    _checked(result, "ask the kernel about a map or program", f"descriptor {descriptor}")


def update(of: LoadedMap, key: bytes, value: bytes) -> None:
    """Write one element; a value replaces the one before at once, for packets on all CPUs."""
    with effect("bpf.update"):
        result = _library().bpf_map_update_elem(of.descriptor, key, value, ctypes.c_uint64(_UPDATE_ANY))
    _checked(result, "write the map", f"{of.definition.name}, key {key.hex()}")


def lookup(of: LoadedMap, key: bytes, value_bytes: int) -> bytes | None:
    """Return the value, None when there is none. `value_bytes`: all CPUs' values together for a per-CPU map."""
    buffer = ctypes.create_string_buffer(value_bytes)
    result = _library().bpf_map_lookup_elem(of.descriptor, key, buffer)
    if result == -errno.ENOENT:
        return None
    _checked(result, "read the map", f"{of.definition.name}, key {key.hex()}")
    return buffer.raw


def delete(of: LoadedMap, key: bytes) -> bool:
    """Take one element out; return whether it was there."""
    with effect("bpf.delete"):
        result = _library().bpf_map_delete_elem(of.descriptor, key)
    if result == -errno.ENOENT:
        return False
    _checked(result, "delete from the map", f"{of.definition.name}, key {key.hex()}")
    return True


def keys(of: LoadedMap) -> list[bytes]:
    """Return all keys. Only this process deletes, so the walk is not sent back to the start meanwhile."""
    found: list[bytes] = []
    previous: bytes | None = None
    buffer = ctypes.create_string_buffer(of.definition.key_bytes)
    while len(found) <= of.definition.entries_at_most:
        result = _library().bpf_map_get_next_key(of.descriptor, previous, buffer)
        if result == -errno.ENOENT:
            break
        _checked(result, "walk the map", of.definition.name)
        previous = buffer.raw
        found.append(previous)
    return found


def update_many(of: LoadedMap, elements: Sequence[tuple[bytes, bytes]]) -> None:
    """Write elements, a thousand a call; an error leaves some of them written."""
    for at in range(0, len(elements), BATCH):
        part = elements[at : at + BATCH]
        count = ctypes.c_uint32(len(part))
        keys_, values = b"".join(key for key, _ in part), b"".join(value for _, value in part)
        options = _BatchOptions(size=ctypes.sizeof(_BatchOptions))
        with effect("bpf.update_many"):
            result = _library().bpf_map_update_batch(
                of.descriptor, keys_, values, ctypes.byref(count), ctypes.byref(options)
            )
        _checked(result, "write the map", f"{of.definition.name}, element {at + count.value} of {len(elements)}")


def delete_many(of: LoadedMap, gone: Sequence[bytes]) -> int:
    """Take elements out; return how many were there. One by one: a batch would stop at the first that is absent."""
    return sum([delete(of, key) for key in gone])


def elements(of: LoadedMap, value_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a hash table, as they are while it is walked, a few thousand a call."""
    key_bytes = of.definition.key_bytes
    keys_, values = ctypes.create_string_buffer(BATCH * key_bytes), ctypes.create_string_buffer(BATCH * value_bytes)
    at: Any = None
    position = ctypes.create_string_buffer(max(8, key_bytes))
    options = _BatchOptions(size=ctypes.sizeof(_BatchOptions))
    while True:
        count = ctypes.c_uint32(BATCH)
        result = _library().bpf_map_lookup_batch(
            of.descriptor, at, position, keys_, values, ctypes.byref(count), ctypes.byref(options)
        )
        if result != -errno.ENOENT:
            _checked(result, "walk the map", of.definition.name)
        all_keys, all_values = keys_.raw, values.raw
        for number in range(count.value):
            yield (
                all_keys[number * key_bytes : (number + 1) * key_bytes],
                all_values[number * value_bytes : (number + 1) * value_bytes],
            )
        if result == -errno.ENOENT:
            return
        at = position


def dry_run(program: LoadedProgram, packet: bytes, *, repeat: int = 1) -> tuple[int, int]:
    """Run a classifier on a packet, as if on the loopback link; return its verdict and the mean time in ns."""
    options = _TestRunOptions(
        size=ctypes.sizeof(_TestRunOptions), packet=packet, packet_bytes=len(packet), repeat=repeat
    )
    result = _library().bpf_prog_test_run_opts(program.descriptor, ctypes.byref(options))
    _checked(result, "run the program", f"program {program.id}")
    return options.returned, options.duration_ns


def _checked(result: int, what: str, on: str) -> int:
    if result < 0:
        raise _refused(result, what, on)
    return result


def _refused(result: int, what: str, on: str, log: str = "") -> KernelRefused:
    remedy = ""
    if result in (-errno.EPERM, -errno.EACCES) and not log:
        remedy = "The agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or CAP_SYS_ADMIN"
    why = os.strerror(-result) + (f"; the verifier says: {log}" if log else "")
    return KernelRefused(f"the kernel did not {what}", on=on, why=why, remedy=remedy)
