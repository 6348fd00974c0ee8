"""What ENIs should carry beside addresses: our tags (spec ipam.md 13.7) and the primary ENI's security groups (spec ipam.md 15).

Only what differs is written. The primary ENI's groups are what everything is compared with, so they are never written; tags are
never removed. Neither is needed for pods to run: what EC2 refuses stops nothing (spec ipam.md W28).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vpccni.components.eni_manager.inventory import HeldEni, Picture
from vpccni.shared.names import EniId


@dataclass(frozen=True, slots=True)
class SetGroups:
    """Write the security groups of an ENI."""

    eni_id: EniId
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetTags:
    """Write tags that an ENI lacks or has with another value."""

    eni_id: EniId
    tags: Mapping[str, str]


def chores(picture: Picture, groups: tuple[str, ...], tags: Mapping[str, str]) -> list[SetGroups | SetTags]:
    """Return what is to be written, ENI by ENI. `groups` empty: not known. `tags`: what every ENI of ours carries."""
    todo: list[SetGroups | SetTags] = []
    for eni in sorted((eni for eni in picture.enis.values() if _is_ours(eni)), key=lambda eni: eni.eni_id):
        if groups and not eni.is_primary and set(eni.cloud.groups) != set(groups):
            todo.append(SetGroups(eni.eni_id, groups))
        lacking = {key: value for key, value in tags.items() if eni.cloud.tags.get(key) != value}
        if lacking and not eni.is_trunk:
            todo.append(SetTags(eni.eni_id, lacking))
    return todo


def _is_ours(eni: HeldEni) -> bool:
    return eni.managed and eni.doubted_since is None
