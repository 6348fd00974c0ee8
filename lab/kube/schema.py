"""The schema of a custom resource, as far as the project's definitions use it: what does not fit is refused, what is unknown is dropped,
defaults are filled in. Rules in CEL (`x-kubernetes-validations`) are left to the real API server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

Object = dict[str, Any]
TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def faults(schema: Object, value: Any, path: str) -> Iterator[str]:
    """Yield what is wrong with a value, each with its path."""
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | str):
            yield f"{path}: Invalid value: must be an integer or a string"
        return
    kind = TYPES.get(schema.get("type", ""))
    if kind is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        yield f"{path}: Invalid value: must be of type {schema['type']}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: Unsupported value: {value!r}"
    yield from _size_faults(schema, value, path)
    if isinstance(value, dict):
        yield from (f"{path}.{name}: Required value" for name in schema.get("required", ()) if name not in value)
        for name, member in value.items():
            if (known := _member(schema, name)) is not None:
                yield from faults(known, member, f"{path}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from faults(schema.get("items", {}), item, f"{path}[{number}]")


def completed(schema: Object, value: Any) -> Any:
    """Return a value with the schema's defaults, without what the schema does not know and without nulls."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    if isinstance(value, list):
        return [completed(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict) or not ("properties" in schema or "additionalProperties" in schema):
        return value
    filled = {name: one["default"] for name, one in schema.get("properties", {}).items() if "default" in one} | value
    known = ((name, _member(schema, name), member) for name, member in filled.items() if member is not None)
    return {name: completed(one, member) for name, one, member in known if one is not None}


def _member(schema: Object, name: str) -> Object | None:
    """Return the schema of a member, None where it is unknown."""
    if name in (properties := schema.get("properties", {})):
        known: Object = properties[name]
        return known
    others = schema.get("additionalProperties")
    return others if isinstance(others, dict) else None


def _size_faults(schema: Object, value: Any, path: str) -> Iterator[str]:
    for least, most, kind in (
        ("minLength", "maxLength", str),
        ("minItems", "maxItems", list),
        ("minProperties", "maxProperties", dict),
    ):
        if isinstance(value, kind) and not schema.get(least, 0) <= len(value) <= schema.get(most, len(value)):
            yield f"{path}: Invalid value: has {len(value)} of at least {schema.get(least, 0)} and at most {schema.get(most)}"
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: Invalid value: {value} is not in {schema.get('minimum')} to {schema.get('maximum')}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: Invalid value: {value!r} does not match {schema['pattern']}"
