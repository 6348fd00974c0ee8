"""Label selectors, and an index that finds, for labels, the selectors that may match them.

Each selector is filed under one thing that labels must have for it to match (an *anchor*): a pair of `matchLabels`, each value of an `In`, a
key of an `Exists`. Those without such a thing are filed under "anything" and looked at every time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

IN, NOT_IN, EXISTS, DOES_NOT_EXIST = "In", "NotIn", "Exists", "DoesNotExist"
OPERATORS: Final = frozenset({IN, NOT_IN, EXISTS, DOES_NOT_EXIST})
Anchor = tuple[str, ...]
"""(key, value), (key,) or () for anything."""


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One line of `matchExpressions`."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def is_met(self, labels: Mapping[str, str]) -> bool:
        """As Kubernetes has it: `NotIn` is met where the key is absent."""
        if self.operator == IN:
            return labels.get(self.key) in self.values
        if self.operator == NOT_IN:
            return labels.get(self.key) not in self.values
        return (self.key in labels) == (self.operator == EXISTS)


@dataclass(frozen=True, slots=True)
class Selector:
    """A LabelSelector; without requirements it selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.is_met(labels) for requirement in self.requirements)

    def anchors(self) -> tuple[Anchor, ...]:
        """Return what labels must have one of, the fewest there are."""
        found: list[tuple[Anchor, ...]] = []
        for requirement in self.requirements:
            if requirement.operator == IN:
                found.append(tuple((requirement.key, value) for value in requirement.values))
            elif requirement.operator == EXISTS:
                found.append(((requirement.key,),))
        return min(found, key=lambda anchors: (len(anchors), -len(anchors[0])), default=((),))


EVERYTHING: Final = Selector()


def equal_to(labels: Mapping[str, str]) -> Selector:
    """Return the selector of `matchLabels`."""
    return Selector(tuple(Requirement(key, IN, (value,)) for key, value in sorted(labels.items())))


def anchors_of(labels: Mapping[str, str]) -> Iterator[Anchor]:
    """Yield every anchor that these labels have."""
    yield ()
    for key, value in labels.items():
        yield (key,)
        yield (key, value)


class SelectorIndex(Generic[T]):
    """Items filed under the anchors of their selectors, each within a scope (a namespace; "" for all of them)."""

    def __init__(self) -> None:
        self._filed: dict[tuple[str, Anchor], dict[T, None]] = {}

    def add(self, scope: str, selector: Selector, item: T) -> None:
        for anchor in selector.anchors():
            self._filed.setdefault((scope, anchor), {})[item] = None

    def remove(self, scope: str, selector: Selector, item: T) -> None:
        for anchor in selector.anchors():
            items = self._filed.get((scope, anchor), {})
            items.pop(item, None)
            if not items:
                self._filed.pop((scope, anchor), None)

    def candidates(self, scope: str, labels: Mapping[str, str]) -> Iterator[T]:
        """Yield items whose selector may match, some of them twice."""
        for anchor in anchors_of(labels):
            yield from self._filed.get((scope, anchor), ())
            if scope:
                yield from self._filed.get(("", anchor), ())
