"""Messages of the original, checked against Google's own implementation of protobuf."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.compat import messages, wire
from vpccni.components.compat.wire import Field, Malformed, ProtoMessage, decode, encode

KINDS = [
    messages.AddNetworkRequest,
    messages.AddNetworkReply,
    messages.DelNetworkRequest,
    messages.DelNetworkReply,
    messages.EnforceNpRequest,
    messages.NetworkPolicyAgentConfigReply,
    messages.HealthCheckResponse,
]
TYPES = {wire.TEXT: 9, wire.BOOL: 8, wire.INT32: 5}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="compat.proto", package="t", syntax="proto3")
    for kind in [messages.IPAllocationMetadata, *KINDS]:
        described = file.message_type.add(name=kind.__name__)
        for field in kind.FIELDS:
            row = described.field.add(name=field.name, number=field.number, label=3 if field.many else 1)
            if isinstance(field.kind, type):
                row.type, row.type_name = 11, f".t.{field.kind.__name__}"
            else:
                row.type = TYPES[field.kind]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


POOL = _pool()


def theirs(kind: type[ProtoMessage]) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"t.{kind.__name__}"))


def values(field: Field) -> st.SearchStrategy[Any]:
    if field.kind == wire.TEXT:
        one: st.SearchStrategy[Any] = TEXTS
    elif field.kind == wire.BOOL:
        one = st.booleans()
    elif field.kind == wire.INT32:
        one = st.integers(-(1 << 31), (1 << 31) - 1)
    else:
        one = of(field.kind)
    return st.lists(one, max_size=3) if field.many else one


def of(kind: type[ProtoMessage]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{field.name: values(field) for field in kind.FIELDS})


@given(st.data(), st.sampled_from(KINDS))
def test_both_implementations_write_the_same_bytes_and_read_each_other(data: st.DataObject, kind: Any) -> None:
    ours = data.draw(of(kind))
    other = theirs(kind)()
    for field in kind.FIELDS:
        value = getattr(ours, field.name)
        if isinstance(field.kind, type):
            for one in value:
                getattr(other, field.name).add(**one.__dict__)
        elif field.many:
            getattr(other, field.name).extend(value)
        else:
            setattr(other, field.name, value)
    assert encode(ours) == other.SerializeToString(deterministic=True)
    assert decode(kind, other.SerializeToString()) == ours


@given(st.binary(max_size=60))
def test_junk_is_a_message_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert isinstance(decode(messages.AddNetworkReply, data), messages.AddNetworkReply)


def test_members_that_are_not_known_are_skipped() -> None:
    newer = encode(messages.NetworkPolicyAgentConfigReply(mode="strict", region="r"))
    assert decode(
        messages.NpReply, bytes([0x10, 0x05, 0x1D, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x08, 1])
    ).success
    assert decode(messages.HealthCheckRequest, newer).service == "strict"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0a\x05ab", "cut short"),
        (b"\x0a", "cut short"),
        (b"\xff" * 11, "too long"),
        (b"\x0b", "unknown form 3"),
        (b"\x0a\x01\xff", "no UTF-8"),
        (b"\x08\x01", "has no length"),
        (b"\x4a\x01a", "no number"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        decode(messages.AddNetworkRequest, data)
