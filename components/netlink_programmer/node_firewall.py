"""Keeps the node's firewall: chooses the back-end, brings every table to what is wanted, takes ours out of where it should not be.

    choose ─▶ connmark in nft ─▶ nat, mangle, filter ─▶ the other back-end's ─▶ connmark in nft goes (legacy)

What is new stands before what is old goes, so that a connection always meets one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vpccni.components.netlink_programmer import backend as backends
from vpccni.components.netlink_programmer import connmark, iptables, nfnetlink, nft_tables
from vpccni.components.netlink_programmer.firewall import Backend, FirewallFacts, Table, none_of_ours, plan, wanted
from vpccni.components.netlink_programmer.nft_tables import NftStep, NftTable
from vpccni.shared.errors import KernelRefused

CONNMARK_CHAINS: Final = (connmark.MARK_CHAIN, connmark.BASE_CHAIN)


class NodeFirewall:
    """`backend` is the one in use, None before the first pass. All but that blocks: call it in a thread, one at a time."""

    def __init__(self) -> None:
        self.backend: Backend | None = None

    def make_right(self, facts: FirewallFacts) -> int:
        """Make one pass and return how many tables had to change. Raises `KernelRefused`: what was not reached is as it was."""
        if facts.marks and not facts.vpc_cidrs:
            raise KernelRefused(
                "the firewall cannot be made",
                why="no CIDR of the VPC is known: every connection inside it would be taken for one that leaves it",
                remedy="Check instance metadata (vpc-ipv4-cidr-blocks)",
            )
        self.backend = chosen = backends.choose(self.backend)
        marks = _marks(facts, chosen)
        changed = 0 if marks is None else _carry_out(_nft_plan(marks))
        changed += sum(_mend(table, text, chosen) for table, text in _plans(wanted(facts, chosen), chosen))
        old = backends.other(chosen)
        if iptables.has_programs(old):
            changed += sum(_mend(table, text, old) for table, text in _plans(none_of_ours(), old))
        if marks is None:
            changed += _carry_out(nft_tables.removal(_connmark_table()))
        return changed

    def outlook(self, facts: FirewallFacts) -> list[tuple[Table, str]]:
        """Return our part of each table and what `make_right` would change now, "" where it is right. Raises `KernelRefused`."""
        chosen = backends.choose(self.backend)
        found = list(_plans(wanted(facts, chosen), chosen))
        old = backends.other(chosen)
        if iptables.has_programs(old):
            found += [(table, text) for table, text in _plans(none_of_ours(), old) if text]
        marks = _marks(facts, chosen)
        steps = nft_tables.removal(_connmark_table()) if marks is None else _nft_plan(marks)
        if marks is not None:
            found.append((connmark.in_words(marks), _told(steps)))
        elif steps:
            found.append((Table(connmark.TABLE, {}, ()), _told(steps)))
        return found

    def moved(self) -> bool:
        """Tell whether kubelet or kube-proxy chose another back-end since. Cheap: a few questions over netlink on most nodes."""
        if self.backend is None:
            return False
        return next(backends.signs(), self.backend) != self.backend


def _marks(facts: FirewallFacts, chosen: Backend) -> NftTable | None:
    return connmark.wanted_table(facts) if chosen is Backend.NFT and facts.marks else None


def _connmark_table() -> NftTable | None:
    return nfnetlink.table(connmark.TABLE, CONNMARK_CHAINS)


def _nft_plan(table: NftTable) -> tuple[NftStep, ...]:
    return nft_tables.plan(table, nfnetlink.table(table.name, [chain.name for chain in table.chains]))


def _carry_out(steps: tuple[NftStep, ...]) -> int:
    nfnetlink.carry_out(steps)
    return int(bool(steps))


def _plans(tables: Iterable[Table], backend: Backend) -> Iterable[tuple[Table, str]]:
    """Yield each table with the text that makes it right. One that the kernel does not have is taken as empty: asking would make it."""
    there = {ipv6: iptables.tables_there(backend, ipv6=ipv6) for ipv6 in (False, True)}
    for table in tables:
        known = table.name in there[table.ipv6]
        yield table, plan(table, iptables.save(table.name, backend=backend, ipv6=table.ipv6) if known else "")


def _mend(table: Table, text: str, backend: Backend) -> int:
    if text:
        iptables.restore(text, backend=backend, ipv6=table.ipv6)
    return int(bool(text))


def _told(steps: tuple[NftStep, ...]) -> str:
    return "".join(f"{step.text}\n" for step in steps)
