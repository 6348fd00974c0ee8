"""What of an object is read: structs that name the members we use; all others are skipped while decoding and never kept.

class PodWire(Wire, frozen=True):
    spec: PodSpecWire
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import msgspec


class Owner(msgspec.Struct, frozen=True):
    """One owner reference."""

    kind: str = ""
    uid: str = ""
    controller: bool | None = None


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """The metadata that every kind has. `deletion_timestamp` is empty unless the object is being deleted."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    generation: int = 0
    finalizers: list[str] = []
    owner_references: list[Owner] = []


class Wire(msgspec.Struct, frozen=True, rename="camel"):
    """Base of all kinds: subclass it with the members that matter, in snake case."""

    metadata: Metadata


class _NameOnly(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    resourceVersion: str = ""


class _Any(msgspec.Struct):
    metadata: _NameOnly


class Key(NamedTuple):
    """An object of one kind; `namespace` is empty for kinds of the cluster."""

    namespace: str
    name: str


W = TypeVar("W", bound=Wire)
T = TypeVar("T")
_decode_any = msgspec.json.Decoder(_Any).decode


def version_of(text: bytes | msgspec.Raw) -> str:
    """Return the resource version of any object. Raises `MsgspecError`."""
    return _decode_any(text).metadata.resourceVersion


class Projection(Generic[W, T]):
    """Text of an object in, our value out: what is not in the value is never kept.

    `project` returns None for objects that are not wanted. Where it raises, the object is left out and `bad` hears why.
    """

    def __init__(
        self, wire: type[W], project: Callable[[W], T | None], bad: Callable[[Key, Exception], None] | None = None
    ) -> None:
        self._decode = msgspec.json.Decoder(wire).decode
        self._project = project
        self._bad = bad

    def read(self, text: bytes | msgspec.Raw) -> tuple[Key, str, T | None]:
        """Return the object's key, resource version and value. Raises `MsgspecError` only for what is no object at all."""
        try:
            wire = self._decode(text)
            meta = wire.metadata
            return Key(meta.namespace, meta.name), meta.resource_version, self._project(wire)
        except Exception as error:  # noqa: BLE001  one object's edge: the others of the list are not lost with it
            named = _decode_any(text).metadata
            key = Key(named.namespace, named.name)
            if self._bad is not None:
                self._bad(key, error)
            return key, named.resourceVersion, None
