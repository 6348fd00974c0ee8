"""Why an ADD gets no address: one word an operator can look up in docs/errors.md, with the numbers, and when to ask again."""

from __future__ import annotations

from typing import Final

from vpccni.components.ip_allocator.pool import Census
from vpccni.shared.messages.inventory import Growth, Inventory

STARTING: Final = "STARTING"
MAX_PODS: Final = "MAX_PODS"
ENI_LIMIT: Final = "ENI_LIMIT"
COOLDOWN: Final = "COOLDOWN"
GROWING: Final = "GROWING"
MINIMUM_ONLY: Final = "MINIMUM_ONLY"

RETRY_SOON_MS: Final = 100
RETRY_LATER_MS: Final = 500
WORTH_WAITING_S: Final = 15.0
"""A cause that lasts longer than this is not waited for within one ADD (its deadline is 20 s, design 5)."""


def explain(
    inventory: Inventory | None,
    census: Census | None,
    *,
    can_grow: bool,
    cools_in_s: float | None,
    now: float,
    held_down: bool = False,
) -> tuple[str, str, int]:
    """Return cause, detail and retry_after_ms (0: not expected within this ADD).

    `held_down`: there is room, but MINIMUM_IP_TARGET without WARM_IP_TARGET keeps the pool from growing (spec ipam.md W23).
    """
    if inventory is None or census is None:
        return STARTING, "the ENIs of this node are not known yet", RETRY_SOON_MS
    numbers = (
        _ipv6_numbers(inventory, census)
        if inventory.ipv6
        else (
            f"{census.total} addresses: {census.assigned} assigned, {census.cooling} cooling, {census.fenced} being given back, "
            f"{census.unconfirmed} not usable yet, {census.unclaimed} in use by unknown pods; {len(inventory.enis)} ENIs of {inventory.instance_type}, "
            f"at most {sum(card.max_enis for card in inventory.cards)} with {inventory.slots} each; max pods {inventory.max_pods}"
        )
    )
    if inventory.max_pods and not inventory.ipv6 and census.pods >= inventory.max_pods:
        return MAX_PODS, numbers, 0
    if census.unconfirmed and not inventory.growth.cause:
        return GROWING, numbers, RETRY_SOON_MS
    if inventory.growth.cause:
        coming = inventory.pending_addresses > 0 or census.unconfirmed > 0
        soon = cools_in_s is not None and cools_in_s < WORTH_WAITING_S
        retry = RETRY_LATER_MS if coming or soon or _ends_soon(inventory.growth, now=now) else 0
        return inventory.growth.cause, f"{inventory.growth.detail}; {numbers}", retry
    if can_grow:
        return GROWING, numbers, RETRY_SOON_MS
    if cools_in_s is not None:
        return (
            COOLDOWN,
            f"the next address is free in {cools_in_s:.0f} s; {numbers}",
            RETRY_LATER_MS if cools_in_s < WORTH_WAITING_S else 0,
        )
    if held_down:
        return MINIMUM_ONLY, f"MINIMUM_IP_TARGET without WARM_IP_TARGET never grows beyond it; {numbers}", 0
    return ENI_LIMIT, numbers, 0


def _ipv6_numbers(inventory: Inventory, census: Census) -> str:
    prefixes = [prefix for eni in inventory.enis for prefix in eni.prefixes]
    state = ", of which none can be used yet" if prefixes and not census.assignable else ""
    return f"{len(prefixes)} IPv6 prefixes on {len(inventory.enis)} ENIs of {inventory.instance_type}{state}; {census.pods} addresses held"


def _ends_soon(growth: Growth, *, now: float) -> bool:
    """Return whether growing is tried again within an ADD. What has no end (`until` 0) lasts until an operator acts."""
    return growth.until > 0 and growth.until - now < WORTH_WAITING_S
