"""Label selectors of Kubernetes. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

IN, NOT_IN, EXISTS, DOES_NOT_EXIST = "In", "NotIn", "Exists", "DoesNotExist"


class Requirement(msgspec.Struct, frozen=True):
    """One of a selector's matchExpressions."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class Selector(msgspec.Struct, frozen=True, rename="camel"):
    """A LabelSelector; an empty one selects everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()


def selects(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Return whether all requirements hold. An operator that is none selects nothing."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _holds(one, labels) for one in selector.match_expressions
    )


def _holds(one: Requirement, labels: Mapping[str, str]) -> bool:
    if one.operator == EXISTS:
        return one.key in labels
    if one.operator == DOES_NOT_EXIST:
        return one.key not in labels
    if one.operator == IN:
        return labels.get(one.key) in one.values
    return one.operator == NOT_IN and labels.get(one.key) not in one.values
