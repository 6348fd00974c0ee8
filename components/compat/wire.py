"""proto3 as far as the original's messages need it: texts, booleans, 32-bit integers, nested messages, and lists of these. Pure.

A message is a dataclass whose `FIELDS` names each member's number and kind. What stands at its default is not written; members that
are not known are skipped, so that a newer neighbour is understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

M = TypeVar("M", bound="ProtoMessage")

TEXT: Final = "text"
BOOL: Final = "bool"
INT32: Final = "int32"
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_SIZES: Final = {FIXED64: 8, FIXED32: 4}
VARINT_BYTES_AT_MOST: Final = 10
WORD: Final = 1 << 64
HALF: Final = 1 << 31


class Field(NamedTuple):
    """One member. `kind`: `TEXT`, `BOOL`, `INT32` or a message class; `many`: a list of it."""

    number: int
    name: str
    kind: Any
    many: bool = False


class ProtoMessage:
    """Base of the message classes."""

    FIELDS: ClassVar[tuple[Field, ...]] = ()


class Malformed(ValueError):
    """Bytes that are no message; the text says what is wrong."""


def encode(message: ProtoMessage) -> bytes:
    """Return a message as bytes."""
    out = bytearray()
    for field in message.FIELDS:
        value = getattr(message, field.name)
        for one in value if field.many else (value,):
            if field.many or one:
                out += _member(field, one)
    return bytes(out)


def decode(kind: type[M], data: bytes) -> M:
    """Return bytes as a message; raises `Malformed`."""
    fields = {field.number: field for field in kind.FIELDS}
    values: dict[str, Any] = {field.name: [] for field in kind.FIELDS if field.many}
    for number, form, raw in _members(data):
        field = fields.get(number)
        if field is None:
            continue
        value = _value(field, form, raw)
        if field.many:
            values[field.name].append(value)
        else:
            values[field.name] = value
    return kind(**values)


def _member(field: Field, value: Any) -> bytes:
    if field.kind in (BOOL, INT32):
        return _varint(field.number << 3 | VARINT) + _varint(int(value) % WORD)
    data = value.encode() if field.kind == TEXT else encode(value)
    return _varint(field.number << 3 | BYTES) + _varint(len(data)) + data


def _value(field: Field, form: int, raw: int | bytes) -> Any:
    if field.kind in (BOOL, INT32):
        if not isinstance(raw, int) or form != VARINT:
            raise Malformed(f"member {field.name} is no number")
        return bool(raw) if field.kind == BOOL else (raw + HALF) % (2 * HALF) - HALF
    if not isinstance(raw, bytes) or form != BYTES:
        raise Malformed(f"member {field.name} has no length")
    if field.kind != TEXT:
        return decode(field.kind, raw)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"member {field.name} is no UTF-8") from error


def _members(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, form = tag >> 3, tag & 7
        if form == VARINT:
            value, at = _read_varint(data, at)
            yield number, form, value
            continue
        if form == BYTES:
            size, at = _read_varint(data, at)
        elif form in FIXED_SIZES:
            size = FIXED_SIZES[form]
        else:
            raise Malformed(f"member {number} has the unknown form {form}")
        if at + size > len(data):
            raise Malformed(f"member {number} is cut short")
        yield number, form, data[at : at + size]
        at += size


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for position in range(VARINT_BYTES_AT_MOST):
        if at + position >= len(data):
            raise Malformed("a number is cut short")
        byte = data[at + position]
        value |= (byte & 0x7F) << 7 * position
        if not byte & 0x80:
            return value % WORD, at + position + 1
    raise Malformed("a number is too long")
