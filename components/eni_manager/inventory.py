"""The ENIs of this instance as EC2 and metadata agree on them, and what a new look may change (spec ipam.md 3, 12, 13.1).

EC2 decides what exists; metadata only says when to ask. Nothing is forgotten after one look (spec ipam.md W2, W3):

    seen by EC2 -> confirmed        not seen -> doubted (confirmed false, nothing is given out from it)
    doubted and not seen DOUBT_S later -> gone, with a finding        doubted and seen again -> confirmed

EC2's reads lag behind its writes: what we added or took away ourselves less than SETTLE_S ago is believed against a look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from vpccni.components.eni_manager.facts import TAG_INSTANCE, TAG_NO_MANAGE, CloudEni, InstanceFacts, MetadataEni
from vpccni.shared.messages.inventory import Eni
from vpccni.shared.names import EniId, SubnetId

DOUBT_S: Final = 55.0
"""One reconcile period (60 s), less what a timer may be early or late."""
SETTLE_S: Final = 60.0  # spec ipam.md 2: a released address stays out of reconcile
GONE: Final = frozenset({"detached", "detaching"})


@dataclass(frozen=True, slots=True)
class HeldEni:
    """One ENI in the picture.

    `doubted_since`: when a look first missed it or one of its items, else None. `excluded`: its subnet is kept from pods.
    """

    cloud: CloudEni
    subnet_cidr: str
    is_primary: bool
    managed: bool
    attached_at: float
    doubted_since: float | None = None
    problem: str = ""
    excluded: bool = False
    subnet_cidr_v6: str = ""

    @property
    def eni_id(self) -> EniId:
        return self.cloud.eni_id

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.cloud.addresses

    @property
    def all_items(self) -> tuple[str, ...]:
        """Secondary addresses, and prefixes as `a.b.c.d/28`; of an IPv6 node /80 prefixes alone."""
        return (*self.cloud.addresses, *self.cloud.prefixes)

    @property
    def items(self) -> int:
        """Slots in use: secondary addresses and prefixes alike (spec ipam.md 8)."""
        return len(self.all_items)

    @property
    def is_trunk(self) -> bool:
        return self.cloud.interface_type == "trunk"

    @property
    def is_efa(self) -> bool:
        return self.cloud.interface_type == "efa"

    @property
    def may_go(self) -> bool:
        """Tell whether it may ever be detached by us (spec ipam.md 3, table of kinds)."""
        return self.managed and not (self.is_primary or self.is_trunk or self.is_efa)

    @property
    def serves_pods(self) -> bool:
        """Tell whether new pods may be given what it holds (spec ipam.md 3, table of kinds)."""
        return self.managed and not self.is_trunk and not self.excluded

    @property
    def may_grow(self) -> bool:
        """Tell whether it may get addresses now."""
        return self.serves_pods and self.doubted_since is None and not self.problem

    def in_force(self, *, by_prefix: bool) -> tuple[str, ...]:
        """Return the items of the kind that new pods are given (spec ipam.md 3, "usable")."""
        return self.cloud.prefixes if by_prefix else self.cloud.addresses

    def with_items(self, items: Iterable[str], *, first: Sequence[str] = ()) -> HeldEni:
        """Return it with exactly these addresses and prefixes: those of `first`, then those it has, in their order, then new ones.

        The order tells which of several /80 prefixes pods are given addresses of (spec ipam.md 17): it must not follow EC2's.
        """
        wanted = set(items)
        ordered = [item for item in dict.fromkeys((*first, *self.all_items, *sorted(wanted))) if item in wanted]
        prefixes = tuple(item for item in ordered if "/" in item)
        addresses = tuple(item for item in ordered if "/" not in item)
        return replace(self, cloud=replace(self.cloud, addresses=addresses, prefixes=prefixes))

    def message(self) -> Eni:
        """Return it as the message others read."""
        cloud = self.cloud
        return Eni(
            eni_id=cloud.eni_id,
            mac=cloud.mac,
            card=cloud.card,
            device_number=cloud.device_number,
            primary_address=cloud.primary_address,
            subnet_id=cloud.subnet_id,
            subnet_cidr=self.subnet_cidr,
            is_primary=self.is_primary,
            addresses=sorted(cloud.addresses),
            prefixes=list(cloud.prefixes),
            is_trunk=self.is_trunk,
            is_efa=self.is_efa,
            managed=self.managed,
            excluded=self.excluded,
            confirmed=self.doubted_since is None and not self.problem,
            attached_at=self.attached_at,
            primary_ipv6=cloud.ipv6,
            subnet_ipv6_cidr=self.subnet_cidr_v6,
        )


FindingKind = Literal[
    "eniAppeared", "eniGone", "eniUnusable", "eniDoubted", "addressAppeared", "addressGone", "addressDoubted"
]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a look found that an operator may want to know."""

    kind: FindingKind
    on: str
    why: str


@dataclass(frozen=True, slots=True)
class Picture:
    """All ENIs by id. `settling`: what we changed ourselves (ENI ids, items, groups, tags), believed until the time given."""

    enis: Mapping[EniId, HeldEni] = field(default_factory=dict)
    settling: Mapping[str, float] = field(default_factory=dict)

    def with_eni(self, eni: HeldEni, *, now: float) -> Picture:
        """Return the picture with a new or changed ENI of ours."""
        fresh = dict.fromkeys((eni.eni_id, *eni.all_items), now + SETTLE_S)
        return Picture({**self.enis, eni.eni_id: eni}, {**self.settling, **fresh})

    def with_items(self, eni_id: EniId, added: Iterable[str], *, now: float) -> Picture:
        """Return the picture after an assign of addresses or prefixes."""
        eni, new = self.enis[eni_id], frozenset(added)
        settling = {**self.settling, **dict.fromkeys(new, now + SETTLE_S)}
        return Picture({**self.enis, eni_id: eni.with_items({*eni.all_items, *new})}, settling)

    def without_items(self, eni_id: EniId, removed: Iterable[str], *, now: float) -> Picture:
        """Return the picture after an unassign of addresses or prefixes."""
        eni, gone = self.enis[eni_id], frozenset(removed)
        settling = {**self.settling, **dict.fromkeys(gone, now + SETTLE_S)}
        return Picture({**self.enis, eni_id: eni.with_items(set(eni.all_items) - gone)}, settling)

    def with_groups(self, eni_id: EniId, groups: tuple[str, ...], *, now: float) -> Picture:
        """Return the picture after we wrote the security groups of an ENI."""
        eni = self.enis[eni_id]
        settling = {**self.settling, _groups_of(eni_id): now + SETTLE_S}
        return Picture({**self.enis, eni_id: replace(eni, cloud=replace(eni.cloud, groups=groups))}, settling)

    def with_tags(self, eni_id: EniId, tags: Mapping[str, str], *, now: float) -> Picture:
        """Return the picture after we wrote tags of an ENI."""
        eni = self.enis[eni_id]
        settling = {**self.settling, _tags_of(eni_id): now + SETTLE_S}
        all_tags = {**eni.cloud.tags, **tags}
        return Picture({**self.enis, eni_id: replace(eni, cloud=replace(eni.cloud, tags=all_tags))}, settling)

    def with_excluded(self, subnets: frozenset[SubnetId]) -> Picture:
        """Return the picture where exactly the ENIs of these subnets are excluded."""
        enis = {
            eni_id: replace(eni, excluded=not eni.excluded) if (eni.cloud.subnet_id in subnets) != eni.excluded else eni
            for eni_id, eni in self.enis.items()
        }
        return Picture(enis, self.settling)

    def ordered_as(self, known: Iterable[CloudEni]) -> Picture:
        """Return the picture where each ENI's items stand in the order in which they are `known`."""
        order = {eni.eni_id: (*eni.addresses, *eni.prefixes) for eni in known}
        enis = {eni_id: eni.with_items(eni.all_items, first=order.get(eni_id, ())) for eni_id, eni in self.enis.items()}
        return Picture(enis, self.settling)

    def without_eni(self, eni_id: EniId, *, now: float) -> Picture:
        """Return the picture after a detach that EC2 confirmed."""
        left = {other: eni for other, eni in self.enis.items() if other != eni_id}
        return Picture(left, {**self.settling, eni_id: now + SETTLE_S})


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides whether an ENI is ours to use (spec ipam.md 3). `cards`: the network cards whose ENIs are (spec ipam.md 18)."""

    instance: InstanceFacts
    manage_untagged: bool
    cards: frozenset[int] = frozenset({0})

    def own_tags(self) -> dict[str, str]:
        """Return the tags by which an ENI is known as this instance's."""
        return {TAG_INSTANCE: self.instance.instance_id}

    def is_managed(self, eni: CloudEni) -> bool:
        """Apply the unmanaged rule; the primary always is managed, an efa-only ENI and one on another card never is."""
        if eni.eni_id == self.instance.primary_eni:
            return True
        if eni.interface_type == "efa-only" or eni.card not in self.cards:
            return False
        if (told := eni.tags.get(TAG_NO_MANAGE)) is not None:
            return told != "true"
        return eni.tags.get(TAG_INSTANCE) == self.instance.instance_id or self.manage_untagged


def held_eni(
    rules: Rules,
    cloud: CloudEni,
    metadata: MetadataEni | None,
    *,
    subnet_cidr: str,
    now: float,
    subnet_cidr_v6: str = "",
) -> HeldEni:
    """Return an ENI newly seen. `subnet_cidr*`: what is known of its subnet where metadata does not list the ENI yet."""
    problem = metadata.problem if metadata is not None else ""
    if not cloud.primary_address and cloud.interface_type != "efa-only":
        problem = problem or "EC2 gives no IPv4 address for it"
    known_cidr = (metadata.subnet_cidr if metadata is not None else "") or subnet_cidr
    return HeldEni(
        cloud=cloud,
        subnet_cidr=known_cidr,
        is_primary=cloud.eni_id == rules.instance.primary_eni,
        managed=rules.is_managed(cloud),
        attached_at=now,
        problem=problem or ("" if known_cidr else "the CIDR of its subnet is not known"),
        subnet_cidr_v6=(metadata.subnet_cidr_v6 if metadata is not None else "") or subnet_cidr_v6,
    )


def differs(picture: Picture, listed: Sequence[MetadataEni], *, now: float) -> bool:
    """Tell whether metadata shows something else than the picture, our own changes of the last minute aside."""
    settled = {name for name, until in picture.settling.items() if until <= now}
    listed_ids = {eni.eni_id for eni in listed}
    for eni_id in listed_ids ^ set(picture.enis):
        if eni_id not in picture.settling or eni_id in settled:
            return True
    for eni in listed:
        held = picture.enis.get(eni.eni_id)
        if held is None or eni.problem:
            continue
        if held.problem:
            return True  # it can be read again
        odd = {*eni.addresses[1:], *eni.prefixes} ^ set(held.all_items)
        if any(name not in picture.settling or name in settled for name in odd):
            return True
    return any(eni.doubted_since is not None for eni in picture.enis.values())


def look(
    picture: Picture,
    rules: Rules,
    listed: Sequence[MetadataEni],
    described: Sequence[CloudEni],
    *,
    now: float,
    subnets: Mapping[SubnetId, str] | None = None,
) -> tuple[Picture, list[Finding]]:
    """Return the picture after a complete look at both, and what was odd. An empty picture takes what EC2 shows.

    `subnets`: CIDRs known otherwise, for ENIs that metadata does not list.
    """
    by_id = {eni.eni_id: eni for eni in listed}
    cidrs = dict(subnets or {}) | {
        eni.subnet_id: eni.subnet_cidr for eni in listed if eni.subnet_id and eni.subnet_cidr
    }
    cidrs |= {eni.cloud.subnet_id: eni.subnet_cidr for eni in picture.enis.values() if eni.subnet_cidr}
    settling = {name: until for name, until in picture.settling.items() if until > now}
    findings: list[Finding] = []
    enis: dict[EniId, HeldEni] = {}
    for cloud in described:
        known = picture.enis.get(cloud.eni_id)
        if known is None and (cloud.attachment_status in GONE or cloud.eni_id in settling):
            continue
        if not cloud.is_attached_to(rules.instance.instance_id):
            continue
        new = held_eni(rules, cloud, by_id.get(cloud.eni_id), subnet_cidr=cidrs.get(cloud.subnet_id, ""), now=now)
        if new.problem:
            findings.append(Finding("eniUnusable", cloud.eni_id, new.problem))
        elif known is None and picture.enis and new.managed:
            findings.append(Finding("eniAppeared", cloud.eni_id, "attached to this instance, though not by us"))
        if known is None:
            enis[cloud.eni_id] = new
        else:
            enis[cloud.eni_id] = _seen_again(known, new, settling, findings, now)
    for eni_id, known in picture.enis.items():
        if eni_id not in enis and (kept := _not_seen(known, settling, findings, now)):
            enis[eni_id] = kept
    return Picture(enis, settling), findings


def _seen_again(
    known: HeldEni, new: HeldEni, settling: Mapping[str, float], findings: list[Finding], now: float
) -> HeldEni:
    ours, seen = set(known.all_items), set(new.all_items)
    added = {item for item in seen - ours if item not in settling}
    missing = {item for item in ours - seen if item not in settling}
    for item in sorted(added):
        findings.append(Finding("addressAppeared", f"{known.eni_id} {item}", "EC2 shows it, we did not ask for it"))
    doubted_since = (known.doubted_since if known.doubted_since is not None else now) if missing else None
    keep = ours | added
    if missing and now - (doubted_since or now) >= DOUBT_S:
        keep -= missing
        doubted_since = None
        for item in sorted(missing):
            findings.append(Finding("addressGone", f"{known.eni_id} {item}", "EC2 no longer shows it"))
    elif missing:
        findings.append(
            Finding("addressDoubted", f"{known.eni_id} {', '.join(sorted(missing))}", "EC2 does not show it")
        )
    cloud = replace(
        new.cloud,
        groups=known.cloud.groups if _groups_of(known.eni_id) in settling else new.cloud.groups,
        tags=known.cloud.tags if _tags_of(known.eni_id) in settling else new.cloud.tags,
    )
    seen_again = replace(
        new,
        cloud=cloud,
        attached_at=known.attached_at,
        doubted_since=doubted_since,
        subnet_cidr_v6=new.subnet_cidr_v6 or known.subnet_cidr_v6,
    )
    return replace(seen_again.with_items(keep, first=known.all_items), excluded=known.excluded)


def _groups_of(eni_id: EniId) -> str:
    return f"{eni_id} groups"


def _tags_of(eni_id: EniId) -> str:
    return f"{eni_id} tags"


def _not_seen(known: HeldEni, settling: Mapping[str, float], findings: list[Finding], now: float) -> HeldEni | None:
    if known.eni_id in settling:
        return known
    since = known.doubted_since
    if since is not None and now - since >= DOUBT_S:
        findings.append(Finding("eniGone", known.eni_id, "EC2 no longer shows it attached to this instance"))
        return None
    findings.append(Finding("eniDoubted", known.eni_id, "EC2 does not show it attached to this instance"))
    return replace(known, doubted_since=now if since is None else since)
