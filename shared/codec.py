"""Messages to bytes and back: MessagePack with a limit on every length, then one conversion into the message class.

An envelope is a MessagePack array: protocol number, request id, idempotency key, deadline (CLOCK_BOOTTIME seconds, 0: none),
trace id, body. The body is the message with its tag as `type`. Internal messages carry one exact protocol number (design 5).
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgpack
import msgspec

from vpccni.shared.messages.base import Message, message_type

PROTOCOL: Final = 1
MESSAGE_BYTES_AT_MOST: Final = 1 << 20
TEXT_BYTES_AT_MOST: Final = 1 << 16
ITEMS_AT_MOST: Final = 1 << 14


class BadMessage(ValueError):
    """Bytes that are no message of ours. `code`: "malformed", "protocol", "unknown_type" or "bad_body"."""

    def __init__(self, code: str, text: str, request_id: bytes = b"") -> None:
        super().__init__(text)
        self.code, self.request_id = code, request_id


class Envelope(msgspec.Struct, frozen=True):
    """A message with what it takes to answer it."""

    request_id: bytes
    key: str
    deadline: float
    trace_id: str
    body: Message


def pack(body: Message, *, request_id: bytes = b"", key: str = "", deadline: float = 0.0, trace_id: str = "") -> bytes:
    """Return the envelope as bytes."""
    return cast(bytes, msgpack.packb([PROTOCOL, request_id, key, deadline, trace_id, msgspec.to_builtins(body)]))


def unpack(raw: bytes) -> Envelope:
    """Return the envelope; raise `BadMessage` (and nothing else) on whatever is wrong with it."""
    parts = _parts(raw)
    protocol, request_id, key, deadline, trace_id, body = parts
    if protocol != PROTOCOL:
        raise BadMessage("protocol", f"protocol {protocol!r:.20} is not {PROTOCOL}", request_id)
    return Envelope(request_id, key, deadline, trace_id, to_message(body, request_id))


def to_message(body: dict[str, Any], request_id: bytes = b"") -> Message:
    """Return the message class that a body's `type` names, filled; raise `BadMessage` when it does not fit."""
    tag = body.get("type")
    kind = message_type(tag) if isinstance(tag, str) else None
    if kind is None:
        raise BadMessage("unknown_type", f"no message type {tag!r:.60}", request_id)
    try:
        return msgspec.convert(body, kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadMessage("bad_body", f"{tag}: {error}", request_id) from error


def _parts(raw: bytes) -> tuple[int, bytes, str, float, str, dict[str, Any]]:
    if len(raw) > MESSAGE_BYTES_AT_MOST:
        raise BadMessage("malformed", f"{len(raw)} bytes are more than {MESSAGE_BYTES_AT_MOST}")
    try:
        parts = msgpack.unpackb(
            raw,
            max_str_len=TEXT_BYTES_AT_MOST,
            max_bin_len=TEXT_BYTES_AT_MOST,
            max_array_len=ITEMS_AT_MOST,
            max_map_len=ITEMS_AT_MOST,
            max_ext_len=0,
            strict_map_key=True,
        )
    except (msgpack.exceptions.UnpackException, ValueError, RecursionError) as error:
        raise BadMessage("malformed", f"not MessagePack within limits: {error}") from error
    match parts:
        case [
            int() as protocol,
            bytes() as request_id,
            str() as key,
            int() | float() as deadline,
            str() as trace,
            dict() as body,
        ]:
            return protocol, request_id, key, float(deadline), trace, body
    raise BadMessage("malformed", "not an envelope of six parts")
