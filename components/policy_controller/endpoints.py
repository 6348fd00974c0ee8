"""The endpoint objects as we know them: what the watch shows, and what we wrote and it does not show yet. Pure; time is an argument.

Without the second part a pass right after another would not see what the first created, and would create it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vpccni.components.policy_controller.model import Stored
from vpccni.shared.kube.objects import Key

CONFIRMED_WITHIN_S: Final = 60.0
"""What we wrote and the watch has not shown by then is not there: somebody deleted it while the watch was away."""


class Endpoints:
    """See the module. One for each kind of endpoint objects."""

    def __init__(self) -> None:
        self._objects: dict[Key, Stored] = {}
        self._of_owner: dict[str, dict[Key, None]] = {}
        self._unconfirmed: dict[Key, float] = {}

    def of(self, owner_uid: str) -> list[Stored]:
        """Return a policy's objects in order of their names."""
        return [self._objects[key] for key in sorted(self._of_owner.get(owner_uid, ()))]

    def owners(self) -> set[str]:
        """Return the uids of all policies that have objects."""
        return set(self._of_owner)

    def shown(self, key: Key, stored: Stored | None) -> str:
        """Take in what the watch shows; return the owner's uid where this is not what we knew."""
        known = self._objects.get(key)
        if stored is not None and known is not None and _is_older(stored, known):
            return ""
        self._unconfirmed.pop(key, None)
        if stored == known:
            return ""
        self._set(key, stored)
        either = stored or known
        return either.owner_uid if either is not None else ""

    def written(self, stored: Stored, now: float) -> None:
        """Take in what the API has accepted."""
        key = Key(stored.namespace, stored.name)
        self._set(key, stored)
        self._unconfirmed[key] = now + CONFIRMED_WITHIN_S

    def deleted(self, stored: Stored) -> None:
        """The API has deleted it."""
        key = Key(stored.namespace, stored.name)
        self._unconfirmed.pop(key, None)
        self._set(key, None)

    def forget_unconfirmed(self, now: float) -> Iterator[str]:
        """Forget what the watch never showed; yield the owners' uids."""
        for key in [key for key, until in self._unconfirmed.items() if until <= now]:
            del self._unconfirmed[key]
            yield self._objects[key].owner_uid
            self._set(key, None)

    def _set(self, key: Key, stored: Stored | None) -> None:
        if (before := self._objects.pop(key, None)) is not None:
            keys = self._of_owner[before.owner_uid]
            del keys[key]
            if not keys:
                del self._of_owner[before.owner_uid]
        if stored is not None:
            self._objects[key] = stored
            self._of_owner.setdefault(stored.owner_uid, {})[key] = None


def _is_older(one: Stored, other: Stored) -> bool:
    versions = one.resource_version, other.resource_version
    return all(version.isdecimal() for version in versions) and int(versions[0]) < int(versions[1])
