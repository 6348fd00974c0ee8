"""Which back-end of iptables the node uses: the one that kubelet and kube-proxy chose, and only that one (spec dataplane.md 10.4, 18.19).

They leave an empty chain as a sign in it. Where the sign comes after us, the next look moves our rules.
"""

from __future__ import annotations

from typing import Final

from vpccni.components.netlink_programmer import iptables, nfnetlink
from vpccni.components.netlink_programmer.firewall import SNAT_CHAIN, Backend

HINTS: Final = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
HINT_TABLE: Final = "mangle"


def other(backend: Backend) -> Backend:
    """Return the back-end that should hold nothing of ours."""
    return Backend.LEGACY if backend is Backend.NFT else Backend.NFT


def choose(current: Backend | None) -> Backend:
    """Return the node's back-end. Without a sign it stays what it was, else it is where our rules are, else nft. Raises `KernelRefused`."""
    if has_nft_sign():
        return Backend.NFT
    if has_legacy_sign():
        return Backend.LEGACY
    return current or _home()


def moved_from(current: Backend) -> bool:
    """Tell whether the sign is in the other back-end now. On most nodes that costs a few short questions and no process."""
    if has_nft_sign():
        return current is not Backend.NFT
    return current is not Backend.LEGACY and has_legacy_sign()


def has_nft_sign() -> bool:
    """Tell whether nft has the sign: four questions over netlink at most."""
    return any(nfnetlink.has_chain(HINT_TABLE, hint, ipv6=ipv6) for ipv6 in (False, True) for hint in HINTS)


def has_legacy_sign() -> bool:
    """Tell whether a legacy table has the sign and we can write there: a process a table, none where there is no legacy table."""
    return iptables.has_programs(Backend.LEGACY) and any(_legacy_sign(ipv6=ipv6) for ipv6 in (False, True))


def _legacy_sign(*, ipv6: bool) -> bool:
    there = iptables.tables_there(Backend.LEGACY, ipv6=ipv6)
    ordered = sorted(there, key=lambda name: name != HINT_TABLE)  # the usual place first: each look is a process
    return any(_legacy_has(name, HINTS, ipv6=ipv6) for name in ordered)


def _legacy_has(table: str, chains: tuple[str, ...], *, ipv6: bool = False) -> bool:
    saved = iptables.save(table, backend=Backend.LEGACY, ipv6=ipv6)
    return any(f"\n:{chain} " in saved for chain in chains)


def _home() -> Backend:
    """Return where our rules are when nobody gives a sign."""
    if nfnetlink.has_chain("nat", SNAT_CHAIN) or not iptables.has_programs(Backend.LEGACY):
        return Backend.NFT
    legacy = "nat" in iptables.tables_there(Backend.LEGACY) and _legacy_has("nat", (SNAT_CHAIN,))
    return Backend.LEGACY if legacy or not iptables.has_programs(Backend.NFT) else Backend.NFT
