"""What others are told: the `Inventory`, and in it why growing does not go on."""

from __future__ import annotations

from typing import Final

from vpccni.components.eni_manager.hindrance import ENI_LIMIT, Hindrance
from vpccni.components.eni_manager.ipv6 import PREFIX_LOST
from vpccni.components.eni_manager.kube_facts import NOT_KNOWN_YET
from vpccni.components.eni_manager.planner import CORDONED, PROVISIONING_OFF, Plan
from vpccni.components.eni_manager.state import State
from vpccni.shared.messages.inventory import CardLimit, Growth, Inventory

NO_ENI_CONFIG: Final = "NO_ENI_CONFIG"
NO_SUBNET: Final = "NO_SUBNET"
NO_SUBNET_ADVICE: Final = (
    "no subnet may be used for pods: see the tags kubernetes.io/role/cni and cni.networking.k8s.aws/cluster/..."
)

RESTRAINTS: Final = {
    PREFIX_LOST: "the IPv6 prefix that pods have addresses of is no longer on its ENI: put it, or another, back; a start of the manager "
    "takes another by itself",
    CORDONED: "the node is cordoned: no ENI and no address is added (AWS_MANAGE_ENIS_NON_SCHEDULABLE=true would)",
    PROVISIONING_OFF: "EC2 is not to be changed: see DISABLE_NETWORK_RESOURCE_PROVISIONING and ENABLE_IMDS_ONLY_MODE",
}


def growth_of(hindrance: Hindrance, plan: Plan, state: State, *, now: float) -> Growth:
    """Return what keeps the pool from growing; the obstacle that ends first is told first.

    What has no end (`until` 0) lasts until an operator acts; that the API has not answered yet may end at any moment (`now`).
    """
    subnets = state.subnets
    if hindrance.cause:
        return hindrance.growth()
    if plan.restraint:
        return Growth(plan.restraint, RESTRAINTS[plan.restraint], 0.0)
    if plan.held_back and isinstance(state.custom, str):
        return Growth(NO_ENI_CONFIG, state.custom, now if state.custom == NOT_KNOWN_YET else 0.0)
    if plan.held_back and not state.candidates():
        return Growth(NO_SUBNET, NO_SUBNET_ADVICE, 0.0)
    full = subnets.obstacle(now=now) if plan.held_back else None
    if full is not None:
        names = ", ".join(sorted(subnets.closed(now=now)))
        return Growth(
            full.cause, f"{plan.held_back} addresses more are wished; EC2 finds no room in {names}", full.until
        )
    if plan.short:
        return Growth(
            ENI_LIMIT, f"{plan.short} addresses more than {state.instance.instance_type} allows are wished", 0.0
        )
    return Growth()


def inventory_of(state: State, *, cards: list[CardLimit], growth: Growth, pending_addresses: int) -> Inventory:
    """Return the whole picture as the message."""
    instance, limits = state.instance, state.limits
    return Inventory(
        instance_id=instance.instance_id,
        instance_type=instance.instance_type,
        region=instance.region,
        availability_zone=instance.availability_zone,
        primary_address=instance.primary_address,
        primary_mac=instance.primary_mac,
        vpc_cidrs=state.vpc_cidrs,
        cards=cards,
        slots=limits.slots,
        max_pods=limits.max_pods,
        enis=[eni.message() for _, eni in sorted(state.picture.enis.items())],
        growth=growth,
        pending_addresses=pending_addresses,
        by_prefix=state.by_prefix,
        ipv6=state.ipv6,
        vpc_ipv6_cidrs=state.vpc_ipv6_cidrs,
    )
