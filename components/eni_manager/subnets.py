"""Which subnets ENIs may come from, which exclude their ENIs from pods, and which are full (spec ipam.md 14, W6, W14, W31).

A picture of the subnets in this instance's VPC and zone, replaced by each DescribeSubnets that works; one that fails changes
nothing. A subnet that the picture lacks (another VPC or zone, or nothing read yet) excludes nothing, and while nothing was read ENIs
come from the node's own subnet.

    open -> refused as full -> closed for FULL_S -> one call may try (closed again meanwhile) -> open, or closed again
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from vpccni.shared.names import SubnetId

TAG_ROLE: Final = "kubernetes.io/role/cni"
TAG_CLUSTER: Final = "cni.networking.k8s.aws/cluster/"
FULL_S: Final = 120.0  # spec ipam.md 2: pause after "subnet full", here for the one subnet


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet as EC2 shows it. `free`: addresses that were free then."""

    subnet_id: SubnetId
    cidr: str
    free: int
    tags: Mapping[str, str]
    cidr_v6: str = ""

    def belongs_to(self, cluster: str) -> bool:
        """Tell whether the cluster tags admit this cluster; without such tags, or without a cluster name, they do."""
        named = [key for key in self.tags if key.startswith(TAG_CLUSTER)]
        return not cluster or not named or TAG_CLUSTER + cluster in named

    def excludes(self, cluster: str) -> bool:
        """Tell whether ENIs of this subnet are kept from pods."""
        role = self.tags.get(TAG_ROLE, "")
        return role == "0" or (role != "" and not self.belongs_to(cluster))

    def admits(self, cluster: str, *, is_own: bool) -> bool:
        """Tell whether new ENIs may come from it. The node's own subnet needs no tag, another one does."""
        role = self.tags.get(TAG_ROLE, "")
        return is_own if not role else role != "0" and self.belongs_to(cluster)


@dataclass(frozen=True, slots=True)
class Full:
    """EC2 refused addresses of a subnet. `until`: CLOCK_BOOTTIME seconds. `ask_at_most`: items a next try asks for, None: as wished."""

    cause: str
    until: float
    ask_at_most: int | None = None


@dataclass(frozen=True, slots=True)
class Subnets:
    """See the module.

    `discovery` false (ENABLE_SUBNET_DISCOVERY): the own subnet alone, and nothing excluded. `excluded_before`: what an earlier process
    knew, in force until subnets are read.
    """

    own: SubnetId
    cluster: str
    discovery: bool
    seen: Mapping[SubnetId, Subnet] = field(default_factory=dict)
    full: Mapping[SubnetId, Full] = field(default_factory=dict)
    excluded_before: frozenset[SubnetId] = frozenset()

    def with_seen(self, seen: Iterable[Subnet]) -> Subnets:
        """Return the picture after a complete read."""
        return replace(self, seen={subnet.subnet_id: subnet for subnet in seen})

    def candidates(self) -> tuple[SubnetId, ...]:
        """Return the subnets that new ENIs may come from, most free addresses first."""
        if not self.seen or (not self.discovery and self.own not in self.seen):
            return () if self.own in self.excluded() else (self.own,)
        if not self.discovery:
            return () if self.seen[self.own].excludes(self.cluster) else (self.own,)
        by_free = sorted(self.seen.values(), key=lambda subnet: -subnet.free)
        return tuple(one.subnet_id for one in by_free if one.admits(self.cluster, is_own=one.subnet_id == self.own))

    def excluded(self) -> frozenset[SubnetId]:
        """Return the subnets whose ENIs are kept from pods."""
        if not self.discovery:
            return frozenset()
        if not self.seen:
            return self.excluded_before
        return frozenset(one.subnet_id for one in self.seen.values() if one.excludes(self.cluster))

    def cidrs(self) -> dict[SubnetId, str]:
        """Return the CIDR of each subnet."""
        return {subnet_id: subnet.cidr for subnet_id, subnet in self.seen.items() if subnet.cidr}

    def cidr_v6(self, subnet_id: SubnetId) -> str:
        """Return the IPv6 CIDR of a subnet, empty where it has none or was not read."""
        return self.seen[subnet_id].cidr_v6 if subnet_id in self.seen else ""

    def closed(self, *, now: float) -> frozenset[SubnetId]:
        """Return the subnets not to ask now."""
        return frozenset(subnet_id for subnet_id, full in self.full.items() if now < full.until)

    def with_refusal(self, subnet_id: SubnetId, cause: str, *, now: float) -> Subnets:
        """Return the picture after EC2 refused addresses of a subnet."""
        return replace(self, full={**self.full, subnet_id: Full(cause, now + FULL_S)})

    def with_try(self, subnet_id: SubnetId, *, now: float) -> Subnets:
        """Return the picture while one call tries a subnet that was full: nobody else tries beside it."""
        if subnet_id not in self.full:
            return self
        return replace(self, full={**self.full, subnet_id: replace(self.full[subnet_id], until=now + FULL_S)})

    def with_untried(self, subnet_id: SubnetId, *, now: float) -> Subnets:
        """Return the picture after a try that ended for another reason: the subnet may be tried again."""
        if subnet_id not in self.full:
            return self
        return replace(self, full={**self.full, subnet_id: replace(self.full[subnet_id], until=now)})

    def with_rest(self, subnet_id: SubnetId, asked: int, *, now: float) -> Subnets:
        """Return the picture where a new read shows fewer free addresses than the refused call `asked` for: those may be had."""
        full, seen = self.full.get(subnet_id), self.seen.get(subnet_id)
        if full is None or seen is None or not 0 < seen.free < asked:
            return self
        return replace(self, full={**self.full, subnet_id: Full(full.cause, now, seen.free)})

    def with_success(self, subnet_id: SubnetId) -> Subnets:
        """Return the picture after EC2 gave addresses of a subnet."""
        return replace(self, full={other: full for other, full in self.full.items() if other != subnet_id})

    def without_refusals(self, cause: str) -> Subnets:
        """Return the picture where refusals of one cause are forgotten: something else is asked for from now on."""
        return replace(self, full={name: full for name, full in self.full.items() if full.cause != cause})

    def ask_at_most(self, subnet_id: SubnetId, count: int) -> int:
        """Return how many items to ask of a subnet."""
        full = self.full.get(subnet_id)
        return count if full is None or full.ask_at_most is None else min(count, full.ask_at_most)

    def obstacle(self, *, now: float) -> Full | None:
        """Return the refusal that ends first, None while no subnet is closed."""
        closed = [self.full[subnet_id] for subnet_id in self.closed(now=now)]
        return min(closed, key=lambda full: full.until, default=None)
