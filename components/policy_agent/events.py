"""The ring of verdicts, read through libbpf. Who reads slowly loses verdicts, never packets; the loss is counted."""

from __future__ import annotations

import ctypes
from typing import Final

from vpccni.components.policy_agent import layout, libbpf
from vpccni.components.policy_agent.libbpf import LoadedMap
from vpccni.shared.errors import KernelRefused

_LIBRARY: Final = "libbpf.so.1"
_CALLBACK: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Ring:
    """One consumer of a ring. `take` returns what is in it."""

    def __init__(self, of: LoadedMap, limits: LoadedMap) -> None:
        self._limits = limits
        self._taken: list[bytes] = []
        self._callback = _CALLBACK(self._one)  # kept: libbpf calls it for as long as the ring lives
        library = ctypes.CDLL(_LIBRARY)
        library.ring_buffer__new.restype = ctypes.c_void_p
        self._consume = library.ring_buffer__consume
        self._ring = ctypes.c_void_p(library.ring_buffer__new(of.descriptor, self._callback, None, None))
        if not self._ring:
            raise KernelRefused("the ring of verdicts cannot be read", on=of.definition.name)
        self._fileno: int = library.ring_buffer__epoll_fd(self._ring)

    def fileno(self) -> int:
        """Return what is readable when there are verdicts."""
        return self._fileno

    def take(self) -> list[bytes]:
        """Return the records that are there, at most as many as the ring holds."""
        self._consume(self._ring)
        taken, self._taken = self._taken, []
        return taken

    def lost(self) -> int:
        """Return how many verdicts were not reported since the maps were made: over the rate, or the ring was full."""
        size = layout.EVENT_LIMIT.size * libbpf.possible_cpus()
        raw = libbpf.lookup(self._limits, layout.NUMBER.pack(0), size) or b""
        return sum(lost for _, _, lost in layout.EVENT_LIMIT.iter_unpack(raw))

    def _one(self, _context: int, data: int, size: int) -> int:
        self._taken.append(ctypes.string_at(data, size))
        return 0
