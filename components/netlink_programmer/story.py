"""What the programmer knows of one pod's network, out of what is wanted, seen, planned and remembered. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vpccni.components.netlink_programmer.facts import LinkState, Route, Rule, Seen, Setting, host_prefix
from vpccni.components.netlink_programmer.firewall import Table
from vpccni.components.netlink_programmer.node_plan import PodWant, Step, Wanted
from vpccni.components.netlink_programmer.wiring import Wired
from vpccni.shared.messages.allocation import LedgerEntry
from vpccni.shared.messages.wiring import SandboxStory

NOTHING_SAID: Final = "the firewall was not looked at: no inventory yet"


@dataclass(frozen=True)
class Look:
    """One look at the node, and the plan that came of it."""

    seen: Seen
    want: Wanted
    steps: tuple[Step, ...]
    firewall: Sequence[tuple[Table, str]]


def owner_of(pod: object) -> str:
    """Return the name under which a pod owns what is wanted for it."""
    return f"pod {pod}"


def sandbox_story(wired: Wired, entry: LedgerEntry | None, look: Look, *, veth_prefix: str) -> SandboxStory:
    """Return the story of one wired sandbox."""
    owner = owner_of(wired.pod)
    off = {step.what: step.why for step in look.steps if step.owner == owner and step.verb != "remove"}
    wanted = [one for one in _of_owner(look.want, owner) if _concerns(one, wired)]
    missing = [f"{one}: {off[one]}" for one in wanted if one in off]
    if wired.ifindex not in look.seen.links:
        missing.append(f"link {wired.host_veth}: it is gone, and everything that needs it")
    if not wired.address:
        missing.append("its address: neither route, rule nor ledger tells it")
    return SandboxStory(
        sandbox=wired.sandbox,
        pod=wired.pod,
        host_veth=wired.host_veth,
        ifindex=wired.ifindex,
        address=wired.address,
        route_table=wired.table,
        eni_id=entry.eni_id if entry is not None else "",
        ledger=f"{entry.address} of {entry.eni_id}" if entry is not None else "",
        present=[str(one) for one in wanted if one not in off],
        missing=missing,
        foreign=_foreign(wired, look),
        chains=_chains(look.firewall, wired.host_veth, veth_prefix),
    )


def _of_owner(want: Wanted, owner: str) -> list[Rule | Route | LinkState | Setting]:
    return [
        *(rule for rule, holder in want.rules.items() if holder == owner),
        *(route for route, holder in want.routes.values() if holder == owner),
        *(state for state, holder in want.links.values() if holder == owner),
        *(setting for setting, holder in want.settings.items() if holder == owner),
    ]


def _concerns(one: Rule | Route | LinkState | Setting, wired: Wired) -> bool:
    """Two sandboxes of one pod name have one owner: tell them apart by address, link and veth."""
    if isinstance(one, Rule):
        return host_prefix(wired.address) in (one.src, one.dst)
    if isinstance(one, Setting):
        return f"/{wired.host_veth}/" in one.path
    return one.ifindex == wired.ifindex


def _foreign(wired: Wired, look: Look) -> list[str]:
    if not wired.address:
        return []
    prefix = host_prefix(wired.address)
    removed = {step.what: step.why for step in look.steps if step.verb == "remove"}
    rules = [rule for rule in look.seen.rules if prefix in (rule.src, rule.dst) and rule not in look.want.rules]
    routes = [route for route in look.seen.routes if route.dst == prefix and route.ifindex != wired.ifindex]
    others: list[Rule | Route] = [*rules, *routes]
    return [f"{one}: {removed.get(one, 'not ours, left alone')}" for one in others]


def _chains(firewall: Sequence[tuple[Table, str]], host_veth: str, veth_prefix: str) -> list[str]:
    """Return the rules of built-in chains that the pod's packets meet, and where they lead, a table after the other."""
    if not firewall:
        return [NOTHING_SAID]
    lines = []
    for table, text in firewall:
        lines.append(f"table {table.name}: {'not as it should be' if text else 'as it should be'}")
        met = [hook for hook in table.hooks if _meets(hook, host_veth, veth_prefix)]
        lines += met
        for chain, rules in table.chains.items():
            if any(hook.endswith((f"-j {chain}", f"jump {chain}")) for hook in met):
                lines += rules
    return lines


def _meets(hook: str, host_veth: str, veth_prefix: str) -> bool:
    """Tell whether a rule, as iptables or as nft writes it, is for the veth."""
    if " -i " not in hook and "iifname " not in hook:
        return True
    by_prefix = f" -i {veth_prefix}+ " in hook or f'iifname "{veth_prefix}*" ' in hook
    return by_prefix and host_veth.startswith(veth_prefix)


def pod_want(wired: Wired) -> PodWant:
    """Return what the kernel should hold for a wired sandbox, as the plan takes it."""
    return PodWant(owner_of(wired.pod), wired.address, wired.table, wired.ifindex, wired.host_veth)
