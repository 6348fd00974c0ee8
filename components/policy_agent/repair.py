"""What a restart, or a link that went without a word, leaves to mend: observed entries, links and filters to a plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vpccni.components.policy_agent.layout import PodEntry, fingerprint


@dataclass(frozen=True, slots=True)
class SeenLink:
    """A link that an entry's index means now, and the program ids in our slots on it (by program name)."""

    name: str
    programs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """`refilter`: links whose filters are not ours and must be put; `forget`: entries whose link is gone."""

    refilter: tuple[int, ...]
    forget: tuple[int, ...]


def plan_repair(
    entries: Mapping[int, PodEntry], links: Mapping[int, SeenLink], programs: Mapping[str, int]
) -> RepairPlan:
    """Return the smallest plan after which every entry has its link and every link of an entry runs `programs` (name to id).

    An index whose link has another name than the entry's counts as gone: the kernel gave the index to a stranger.
    """
    alive = {ifindex for ifindex, entry in entries.items() if _is_same(entry, links.get(ifindex))}
    refilter = {ifindex for ifindex in alive if dict(links[ifindex].programs) != dict(programs)}
    return RepairPlan(refilter=tuple(sorted(refilter)), forget=tuple(sorted(set(entries) - alive)))


def _is_same(entry: PodEntry, link: SeenLink | None) -> bool:
    return link is not None and fingerprint(link.name) == entry.link
