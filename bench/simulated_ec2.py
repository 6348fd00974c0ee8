"""The EC2 that a whole simulated fleet shares: ENIs, addresses, and AWS's token bucket for each API action of the account."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Final

from vpccni.bench.simulation import Stage
from vpccni.components.eni_manager.facts import CloudEni, InstanceFacts, MetadataEni, NewEni
from vpccni.components.eni_manager.subnets import Subnet
from vpccni.lab.ec2_limits import Limits
from vpccni.lab.ec2_objects import Refused
from vpccni.shared.errors import CloudRefused
from vpccni.shared.names import EniId, SubnetId

CALL_S: Final = 0.15
"""How long an EC2 call takes here; attaching takes longer until it shows (below)."""
ATTACHES_IN_S: Final = 1.5
DOWN_ANSWERS_AFTER_S: Final = 10.0
SUBNET: Final = SubnetId("subnet-fleet")
SUBNET_CIDR: Final = "10.0.0.0/8"
GROUP: Final = "sg-fleet"
FIRST_ADDRESS: Final = int(IPv4Address("10.0.1.0"))


@dataclass
class Account:
    """ENIs by id, calls and throttles by action. `down`: nothing is answered."""

    stage: Stage
    down: bool = False
    enis: dict[EniId, CloudEni] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    throttled: Counter[str] = field(default_factory=Counter)
    limits: Limits = field(default_factory=Limits)
    by_token: dict[str, EniId] = field(default_factory=dict)
    ready_at: dict[EniId, float] = field(default_factory=dict)
    made: int = 0
    _on_instance: defaultdict[str, set[EniId]] = field(default_factory=lambda: defaultdict(set))

    def enter(self, action: str, on: str = "") -> None:
        """Count a call; raise `CloudRefused` when EC2 is away or throttles."""
        self.calls[action] += 1
        self.stage.takes_s += DOWN_ANSWERS_AFTER_S if self.down else CALL_S
        if self.down:
            raise CloudRefused("EC2 does not answer", api=action, error_code="", on=on)
        try:
            self.limits.check(action, now=self.stage.now)
        except Refused as refusal:
            self.throttled[action] += 1
            raise CloudRefused("EC2 refuses", api=action, error_code=refusal.code, on=on) from refusal

    def addresses(self, count: int) -> tuple[str, ...]:
        """Return addresses that nobody had before."""
        first, self.made = FIRST_ADDRESS + self.made, self.made + count
        return tuple(str(IPv4Address(first + number)) for number in range(count))

    def prefixes(self, count: int) -> tuple[str, ...]:
        """Return /28 blocks that nobody had before."""
        self.made += -(FIRST_ADDRESS + self.made) % 16
        return tuple(f"{block[0]}/28" for block in (self.addresses(16) for _ in range(count)))

    def settled(self, eni: CloudEni) -> CloudEni:
        """Return the ENI with its attachment as it is by now."""
        if eni.attachment_status == "attaching" and self.stage.now >= self.ready_at[eni.eni_id]:
            eni = replace(eni, attachment_status="attached")
            self.put(eni)
        return eni

    def put(self, eni: CloudEni) -> None:
        """Let an ENI be as it is given."""
        before = self.enis.get(eni.eni_id)
        if before is not None and before.instance_id != eni.instance_id:
            self._on_instance[before.instance_id].discard(eni.eni_id)
        self.enis[eni.eni_id] = eni
        self._on_instance[eni.instance_id].add(eni.eni_id)

    def remove(self, eni_id: EniId) -> None:
        """Let an ENI be gone; one that is gone already stays so."""
        eni = self.enis.pop(eni_id, None)
        if eni is not None:
            self._on_instance[eni.instance_id].discard(eni_id)

    def of_instance(self, instance_id: str) -> list[CloudEni]:
        return [self.settled(self.enis[eni_id]) for eni_id in sorted(self._on_instance[instance_id])]

    def start_instance(self, instance_id: str) -> InstanceFacts:
        """Make an instance with its primary ENI."""
        self.made += 1
        [address] = self.addresses(1)
        eni = CloudEni(
            eni_id=EniId(f"eni-{self.made}"), mac=_mac(self.made), status="in-use", interface_type="interface",
            subnet_id=SUBNET, primary_address=address, groups=(GROUP,), attachment_id=f"attach-{self.made}",
            instance_id=instance_id, attachment_status="attached", delete_on_termination=True,
        )  # fmt: skip
        self.put(eni)
        return InstanceFacts(
            instance_id=instance_id, instance_type="m5.large", region="us-west-2", availability_zone="us-west-2a",
            primary_address=address, primary_mac=eni.mac, primary_eni=eni.eni_id, subnet_id=SUBNET, vpc_id="vpc-fleet",
        )  # fmt: skip

    def end_instance(self, instance_id: str) -> None:
        """Take an instance away with all ENIs that go with it."""
        for eni in self.of_instance(instance_id):
            self.remove(eni.eni_id)


class NodesEc2:
    """One node's adapter: the calls of `eni_manager.ec2.Ec2` that the fleet makes."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def enis_of_instance(self, instance_id: str) -> list[CloudEni]:
        self._account.enter("DescribeNetworkInterfaces", instance_id)
        return self._account.of_instance(instance_id)

    def eni(self, eni_id: EniId) -> CloudEni | None:
        self._account.enter("DescribeNetworkInterfaces", eni_id)
        found = self._account.enis.get(eni_id)
        return self._account.settled(found) if found else None

    def create(self, new: NewEni) -> CloudEni:
        account = self._account
        account.enter("CreateNetworkInterface", new.subnet_id)
        if new.token in account.by_token:
            return account.enis[account.by_token[new.token]]
        account.made += 1
        [primary] = account.addresses(1)
        eni = CloudEni(
            eni_id=EniId(f"eni-{account.made}"), mac=_mac(account.made), status="available", interface_type="interface",
            subnet_id=new.subnet_id, primary_address=primary, tags=dict(new.tags), groups=new.groups,
            description=new.description,
            addresses=() if new.by_prefix else account.addresses(new.addresses),
            prefixes=account.prefixes(new.addresses) if new.by_prefix else (),
        )  # fmt: skip
        account.put(eni)
        account.by_token[new.token] = eni.eni_id
        return eni

    def attach(self, eni_id: EniId, instance_id: str, *, device: int, card: int) -> str:
        account = self._account
        account.enter("AttachNetworkInterface", eni_id)
        attachment = f"attach-{eni_id}"
        self._change(
            eni_id, status="in-use", attachment_id=attachment, instance_id=instance_id,
            attachment_status="attaching", device_number=device, card=card,
        )  # fmt: skip
        account.ready_at[eni_id] = account.stage.now + ATTACHES_IN_S
        return attachment

    def delete_on_termination(self, eni_id: EniId, attachment_id: str) -> None:
        self._account.enter("ModifyNetworkInterfaceAttribute", eni_id)
        self._change(eni_id, delete_on_termination=True)

    def assign(self, eni_id: EniId, count: int, *, by_prefix: bool) -> list[str]:
        self._account.enter("AssignPrivateIpAddresses", eni_id)
        eni = self._account.enis[eni_id]
        if by_prefix:
            added = self._account.prefixes(count)
            self._change(eni_id, prefixes=eni.prefixes + added)
        else:
            added = self._account.addresses(count)
            self._change(eni_id, addresses=eni.addresses + added)
        return list(added)

    def unassign(self, eni_id: EniId, items: Sequence[str]) -> None:
        self._account.enter("UnassignPrivateIpAddresses", eni_id)
        eni = self._account.enis[eni_id]
        self._change(
            eni_id,
            addresses=tuple(one for one in eni.addresses if one not in items),
            prefixes=tuple(one for one in eni.prefixes if one not in items),
        )

    def subnets(self, vpc_id: str, zone: str) -> list[Subnet]:
        self._account.enter("DescribeSubnets", vpc_id)
        return [Subnet(SUBNET, SUBNET_CIDR, 1 << 20, {})]

    def set_groups(self, eni_id: EniId, groups: Sequence[str]) -> None:
        self._account.enter("ModifyNetworkInterfaceAttribute", eni_id)
        self._change(eni_id, groups=tuple(groups))

    def tag(self, eni_id: EniId, tags: Mapping[str, str]) -> None:
        self._account.enter("CreateTags", eni_id)
        self._change(eni_id, tags={**self._account.enis[eni_id].tags, **tags})

    def unattached(self, vpc_id: str, *, instance_id: str = "*", cluster: str = "") -> list[CloudEni]:
        self._account.enter("DescribeNetworkInterfaces", vpc_id)
        return [eni for eni in self._account.enis.values() if eni.status == "available"]

    def living_instances(self, instance_ids: Sequence[str]) -> frozenset[str]:
        self._account.enter("DescribeInstances", "")
        return frozenset(eni.instance_id for eni in self._account.enis.values() if eni.instance_id)

    def detach(self, eni_id: EniId, attachment_id: str) -> None:
        self._account.enter("DetachNetworkInterface", eni_id)
        self._change(eni_id, status="available", attachment_id="", instance_id="", attachment_status="")

    def delete(self, eni_id: EniId) -> None:
        self._account.enter("DeleteNetworkInterface", eni_id)
        self._account.remove(eni_id)

    def _change(self, eni_id: EniId, **fields: object) -> None:
        self._account.put(replace(self._account.enis[eni_id], **fields))  # type: ignore[arg-type]


class NodesMetadata:
    """One node's instance metadata: never stale, never away."""

    def __init__(self, account: Account, instance: InstanceFacts) -> None:
        self._account, self._instance = account, instance

    def vpc_cidrs(self, mac: str) -> list[str]:
        return [SUBNET_CIDR]

    def security_groups(self, mac: str) -> list[str]:
        return [GROUP]

    def macs(self) -> list[str]:
        return [eni.mac for eni in self._attached()]

    def enis(self) -> list[MetadataEni]:
        return [
            MetadataEni(
                mac=eni.mac, eni_id=eni.eni_id, device_number=eni.device_number, card=eni.card, subnet_id=eni.subnet_id,
                subnet_cidr=SUBNET_CIDR, addresses=(eni.primary_address, *eni.addresses), prefixes=eni.prefixes,
            )
            for eni in self._attached()
        ]  # fmt: skip

    def _attached(self) -> list[CloudEni]:
        found = self._account.of_instance(self._instance.instance_id)
        return [eni for eni in found if eni.attachment_status == "attached"]


def _mac(number: int) -> str:
    return "02:" + ":".join(f"{number >> shift & 255:02x}" for shift in (32, 24, 16, 8, 0))
