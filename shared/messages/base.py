"""The base of all messages, the registry of their tags, and the two values that nearly all carry."""

from __future__ import annotations

import msgspec

_BY_TAG: dict[str, type[Message]] = {}


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base class. A subclass names its wire tag: `class Assign(Message, frozen=True, kw_only=True, tag="allocation.assign")`."""


def tag_of(kind: type[Message]) -> str:
    """Return the wire tag of a message class."""
    tag = kind.__struct_config__.tag
    assert isinstance(tag, str), f"{kind.__name__} has no tag"
    return tag


def message_type(tag: str) -> type[Message] | None:
    """Return the class for a wire tag, or None when no module imported here defines it."""
    if tag not in _BY_TAG:
        _BY_TAG.update({tag_of(kind): kind for kind in Message.__subclasses__()})
    return _BY_TAG.get(tag)


class Sandbox(msgspec.Struct, frozen=True, order=True):
    """What a container runtime asks for: one interface of one container on one CNI network.

    The three parts are the key of the public checkpoint (spec ipam.md 3).
    """

    container_id: str
    ifname: str
    network: str = "aws-cni"

    def __str__(self) -> str:
        return f"{self.container_id[:13]}/{self.ifname}"


class PodRef(msgspec.Struct, frozen=True, order=True):
    """A pod by its Kubernetes names. All parts may be empty for callers that are not Kubernetes (spec rpc.md 3)."""

    namespace: str = ""
    name: str = ""
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
