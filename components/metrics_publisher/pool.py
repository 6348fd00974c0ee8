"""The pool's gauges, recounted from inventory and ledger each time (spec operations.md 2.2): they cannot drift. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from vpccni.components.metrics_publisher.sources import Series
from vpccni.shared.messages.allocation import LedgerEntry
from vpccni.shared.messages.inventory import Eni
from vpccni.shared.node_view import Copies, EniMap

Cidr = IPv4Network | IPv6Network


class Picture(Copies):
    """The copies this process keeps, as the pool's figures read them."""

    def enis(self) -> list[Eni]:
        """Return the ENIs that pods' addresses come from; those we do not manage are none of the pool's."""
        return [] if self.inventory is None else [eni for eni in self.inventory.enis if eni.managed]

    def entries(self) -> list[LedgerEntry]:
        return [] if self.ledger is None else self.ledger.entries


def cidrs_of(eni: Eni) -> list[Cidr]:
    """Return what the ENI holds for pods: its secondary addresses as /32 and its prefixes, of an IPv6 node /80."""
    return [ip_network(item) for item in (*eni.addresses, *eni.prefixes)]


def is_assigned(entry: LedgerEntry) -> bool:
    """Return whether a sandbox holds the address now; else it cools down."""
    return entry.released_at_ns == 0


def pool_gauges(picture: Picture) -> dict[Series, float]:
    """Return the pool's gauges. Scalars are 0 until their source spoke; series of ENIs or CIDRs that are gone do not exist."""
    enis, entries = picture.enis(), picture.entries()
    cards = picture.inventory.cards if picture.inventory is not None else []
    slots = picture.inventory.slots if picture.inventory is not None else 0
    eni_max = sum(card.max_enis for card in cards)
    told = (
        picture.pool if picture.ledger is None else None
    )  # its count leaves out pods on addresses that new ones may not use
    omitted = picture.ledger.omitted if picture.ledger is not None else 0
    assigned = sum(map(is_assigned, entries)) + omitted if told is None else told.assigned
    scalars = {
        "awscni_eni_max": eni_max,
        "awscni_ip_max": eni_max * slots,
        "awscni_eni_allocated": len(enis),
        "awscni_total_ip_addresses": sum(cidr.num_addresses for eni in enis for cidr in cidrs_of(eni)),
        "awscni_assigned_ip_addresses": assigned,
        "awscni_total_ipv4_prefixes": sum(":" not in prefix for eni in enis for prefix in eni.prefixes),
    }
    gauges: dict[Series, float] = {(name, ()): float(value) for name, value in scalars.items()}
    by_eni = Counter(entry.eni_id for entry in entries if is_assigned(entry))
    for eni in enis:
        gauges[("awscni_assigned_ip_per_eni", (("eni", eni.eni_id),))] = float(by_eni[eni.eni_id])
    return gauges | _by_cidr(enis, entries)


def _by_cidr(enis: list[Eni], entries: list[LedgerEntry]) -> dict[Series, float]:
    """Return the count of each CIDR that is, or lately was, in use."""
    prefixes = {eni.eni_id: [ip_network(prefix) for prefix in eni.prefixes] for eni in enis}
    counts: Counter[str] = Counter()
    for entry in entries:
        if entry.eni_id in prefixes:
            counts[_cidr_of(entry.address, prefixes[entry.eni_id])] += int(is_assigned(entry))
    return {("awscni_assigned_ip_per_cidr", (("cidr", cidr),)): float(count) for cidr, count in counts.items()}


def _cidr_of(address: str, prefixes: list[Cidr]) -> str:
    at = ip_address(address)
    return str(next((prefix for prefix in prefixes if at in prefix), ip_network(address)))


def card_gauges(enis: Sequence[EniMap]) -> dict[Series, float]:
    """Return ENIs and addresses by network card and state: the public scalars are sums over all cards (spec operations.md 17.13)."""
    gauges: dict[Series, float] = {}
    for eni in enis:
        card = str(eni.card)
        attached: Series = ("vpccni_enis", (("card", card),))
        gauges[attached] = gauges.get(attached, 0.0) + 1
        for state, count in eni.counts.items():
            series: Series = ("vpccni_addresses", (("card", card), ("state", state)))
            gauges[series] = gauges.get(series, 0.0) + count
    return gauges
