"""Keeps the node's firewall: chooses the back-end, brings every table to what is wanted, takes ours out of where it should not be.

    choose ─▶ our own tables in nft ─▶ iptables' nat, mangle, filter ─▶ the other back-end's ─▶ tables in nft that are no longer ours go

What is new stands before what is old goes, so that a connection always meets one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from vpccni.components.netlink_programmer import backend as backends
from vpccni.components.netlink_programmer import connmark, iptables, nfnetlink, nft_only, nft_tables
from vpccni.components.netlink_programmer.firewall import Backend, FirewallFacts, Table, none_of_ours, plan, wanted
from vpccni.components.netlink_programmer.nft_tables import NftStep, NftTable
from vpccni.shared.errors import KernelRefused

OUR_NFT_TABLES: Final = ((connmark.TABLE, False), (nft_only.TABLE, False), (nft_only.TABLE, True))
"""Name, and whether it is of IPv6."""


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
        ours = _ours_in_nft(facts, chosen)
        changed = sum(_carry_out(_nft_plan(table)) for table in ours)
        for backend, table, text in _plans(facts, chosen):
            if text:
                iptables.restore(text, backend=backend, ipv6=table.ipv6)
                changed += 1
        return changed + sum(_carry_out(steps) for _, steps in _stale(ours))

    def outlook(self, facts: FirewallFacts) -> list[tuple[Table, str]]:
        """Return our part of each table and what `make_right` would change now, "" where it is right. Raises `KernelRefused`."""
        chosen = backends.choose(self.backend)
        ours = _ours_in_nft(facts, chosen)
        found = [(table, text) for backend, table, text in _plans(facts, chosen) if text or backend is chosen]
        found += [(connmark.in_words(table), _told(_nft_plan(table))) for table in ours]
        found += [(Table(name, {}, ()), _told(steps)) for name, steps in _stale(ours)]
        return found

    def moved(self) -> bool:
        """Tell whether kubelet or kube-proxy chose another back-end since."""
        return self.backend is not None and backends.moved_from(self.backend)


def _ours_in_nft(facts: FirewallFacts, chosen: Backend) -> tuple[NftTable, ...]:
    """Return the tables that we have in nft beside those of iptables."""
    if chosen is not Backend.NFT:
        return ()
    marks = (connmark.wanted_table(facts),) if facts.marks else ()
    return marks if iptables.has_programs(chosen) else (*marks, *nft_only.wanted_tables(facts))


def _nft_plan(table: NftTable) -> tuple[NftStep, ...]:
    names = [chain.name for chain in table.chains]
    return nft_tables.plan(table, nfnetlink.table(table.name, names, ipv6=table.ipv6))


def _stale(ours: Iterable[NftTable]) -> Iterator[tuple[str, tuple[NftStep, ...]]]:
    """Yield each table in nft that was ours and is no longer wanted, with the steps that take it away."""
    there = {ipv6: nfnetlink.table_names(ipv6=ipv6) for ipv6 in (False, True)}
    wanted_now = {(table.name, table.ipv6) for table in ours}
    for name, ipv6 in OUR_NFT_TABLES:
        if name in there[ipv6] and (name, ipv6) not in wanted_now:
            yield name, nft_tables.removal(name, ipv6=ipv6)


def _carry_out(steps: tuple[NftStep, ...]) -> int:
    nfnetlink.carry_out(steps)
    return int(bool(steps))


def _plans(facts: FirewallFacts, chosen: Backend) -> Iterator[tuple[Backend, Table, str]]:
    """Yield each table of iptables with the text that makes it right, the chosen back-end first. Where there is no program, none."""
    for backend in (chosen, backends.other(chosen)):
        if iptables.has_programs(backend):
            tables = wanted(facts, backend) if backend is chosen else none_of_ours()
            yield from ((backend, table, plan(table, _saved(table, backend))) for table in tables)


def _saved(table: Table, backend: Backend) -> str:
    """Return what a table holds. One that the kernel does not have is taken as empty: asking would make it."""
    there = table.name in iptables.tables_there(backend, ipv6=table.ipv6)
    return iptables.save(table.name, backend=backend, ipv6=table.ipv6) if there else ""


def _told(steps: Iterable[NftStep]) -> str:
    return "".join(f"{step.text}\n" for step in steps)
