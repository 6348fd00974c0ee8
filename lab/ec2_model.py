"""The ENI half of EC2 as a model: subnets, ENIs, addresses, prefixes, limits, tokens, tags and attach states.

    create -> available -> attach -> attaching -> in-use -> detach -> detaching -> available -> delete

No I/O and no clock of its own (`now` is an argument). A refused call raises `Refused` with AWS's own code and changes nothing;
after every change `check` proves that no address lives twice. One lock outside (`ec2_server`) makes calls one at a time.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from vpccni.lab.ec2_objects import RESERVED_FIRST, Attachment, Eni, Instance, NewEni, Refused, Reservation, Subnet
from vpccni.lab.instance_types import limits_of

PREFIX_LENGTH_V4 = 28
PREFIX_LENGTH_V6 = 80
RESERVATION_KINDS = ("prefix", "explicit")
UNATTACHED_ADDRESS_LIMIT = 50
"""An ENI on no instance yet has no type to limit it; EC2 then allows the largest type's number."""


class Ec2Model:
    """All ENIs of one VPC.

    `taken`: addresses by subnet that something outside the model holds. `reservations`: blocks by subnet kept for one use.
    """

    def __init__(self, vpc_cidr: IPv4Network, subnets: Iterable[Subnet], *, transition_s: float = 0.2) -> None:
        self.vpc_id = f"vpc-{secrets.token_hex(8)}"
        self.vpc_cidr = vpc_cidr
        self.more_vpc_cidrs: list[IPv4Network] = []
        self.subnets = {subnet.id: subnet for subnet in subnets}
        self.enis: dict[str, Eni] = {}
        self.instances: dict[str, Instance] = {}
        self.default_group = f"sg-{secrets.token_hex(8)}"
        self.transition_s = transition_s
        self.taken: dict[str, set[IPv4Address]] = {}
        self.reservations: dict[str, list[Reservation]] = {}
        self._tokens: dict[str, tuple[NewEni, str]] = {}
        self._cursor: dict[str, int] = {}
        self._macs = 0

    # ------------------------------------------------------------------ instances

    def run_instance(
        self, node: str, instance_type: str, subnet_id: str, *, now: float, ipv6: bool = False
    ) -> Instance:
        """Start an instance with its primary ENI attached at once; `ipv6`: the ENI has an IPv6 address too."""
        subnet = self.subnets[subnet_id]
        instance = Instance(
            id=f"i-{secrets.token_hex(8)}", node=node, limits=limits_of(instance_type),
            subnet_id=subnet_id, zone=subnet.zone, launched_at=now,
        )  # fmt: skip
        eni = self.create(NewEni(subnet_id=subnet_id, ipv6_count=int(ipv6)), token=None)
        self.instances[instance.id] = instance
        eni.attachment = self._attachment(instance.id, 0, 0, now=now)
        eni.attachment.status, eni.attachment.delete_on_termination = "attached", True
        return instance

    def enis_of(self, instance_id: str) -> list[Eni]:
        """Return the ENIs of an instance in the order of card and device index."""
        held = [e for e in self.enis.values() if e.attachment and e.attachment.instance_id == instance_id]
        return sorted(
            held, key=lambda e: (e.attachment.card_index, e.attachment.device_index) if e.attachment else (0, 0)
        )

    # ------------------------------------------------------------------ life of an ENI

    def create(self, ask: NewEni, *, token: str | None) -> Eni:
        """Create an ENI; the same token with the same request returns the first one."""
        if token is not None and token in self._tokens:
            before, eni_id = self._tokens[token]
            if before != ask:
                raise Refused(
                    "IdempotentParameterMismatch", f"The client token {token} was used with other parameters."
                )
            return self.eni(eni_id)
        subnet = self._subnet(ask.subnet_id)
        if ask.secondary_count and ask.prefix_count:
            raise Refused("InvalidParameterCombination", "Specify either secondary addresses or prefixes, not both.")
        if 1 + ask.secondary_count + ask.prefix_count > UNATTACHED_ADDRESS_LIMIT:
            raise Refused(
                "PrivateIpAddressLimitExceeded", f"Number of private addresses will exceed {UNATTACHED_ADDRESS_LIMIT}."
            )
        primary = self._claim(subnet, ask.primary) if ask.primary else self._free_addresses(subnet, 1)[0]
        self._macs += 1
        eni = Eni(
            id=f"eni-{secrets.token_hex(8)}", mac=_mac(self._macs), subnet_id=subnet.id, description=ask.description,
            groups=list(ask.groups) or [self.default_group], primary=primary, interface_type=ask.interface_type,
            tags=dict(ask.tags),
        )  # fmt: skip
        self.enis[eni.id] = eni
        try:
            self._grow(eni, ask.secondary_count, ask.prefix_count)
            self._grow_v6(eni, ask.ipv6_count, ask.ipv6_prefix_count)
        except Refused:
            del self.enis[eni.id]
            raise
        if token is not None:
            self._tokens[token] = (ask, eni.id)
        return eni

    def attach(self, eni_id: str, instance_id: str, device_index: int, card_index: int, *, now: float) -> Attachment:
        """Attach an available ENI; it is "attaching" for `transition_s`."""
        eni, instance = self.eni(eni_id), self.instance(instance_id)
        if eni.attachment is not None:
            raise Refused("InvalidNetworkInterface.InUse", f"Interface: [{eni_id}] in use.")
        if self.subnets[eni.subnet_id].zone != instance.zone:
            raise Refused(
                "InvalidParameterCombination", "You may not attach a network interface to an instance in another zone."
            )
        self._check_attach(eni, instance, device_index, card_index)
        eni.attachment = self._attachment(instance_id, device_index, card_index, now=now)
        return eni.attachment

    def detach(self, attachment_id: str, *, force: bool, now: float) -> Eni:
        """Begin to take an ENI off its instance; the primary stays."""
        eni = next((e for e in self.enis.values() if e.attachment and e.attachment.id == attachment_id), None)
        if eni is None or eni.attachment is None:
            raise Refused("InvalidAttachmentID.NotFound", f"The interface attachment '{attachment_id}' does not exist.")
        if eni.attachment.device_index == 0 and eni.attachment.card_index == 0:
            raise Refused("OperationNotPermitted", "The network interface at device index 0 cannot be detached.")
        if eni.attachment.status == "attaching" and not force:
            raise Refused("IncorrectState", f"The attachment '{attachment_id}' is not in the state 'attached'.")
        eni.attachment.status, eni.attachment.until = "detaching", now + self.transition_s
        return eni

    def delete(self, eni_id: str) -> None:
        """Delete an available ENI."""
        if self.eni(eni_id).attachment is not None:
            raise Refused("InvalidNetworkInterface.InUse", f"Network interface '{eni_id}' is currently in use.")
        del self.enis[eni_id]

    def settle(self, *, now: float) -> bool:
        """End the transitions that are due; return whether anything changed."""
        changed = False
        for eni in self.enis.values():
            if eni.attachment is None or eni.attachment.status == "attached" or eni.attachment.until > now:
                continue
            changed = True
            if eni.attachment.status == "attaching":
                eni.attachment.status = "attached"
            else:
                eni.attachment = None
        return changed

    def next_transition(self) -> float | None:
        """Return when the next transition ends, None if nothing is under way."""
        due = [e.attachment.until for e in self.enis.values() if e.attachment and e.attachment.status != "attached"]
        return min(due, default=None)

    # ------------------------------------------------------------------ addresses

    def assign(self, eni_id: str, *, count: int, addresses: Sequence[IPv4Address], prefix_count: int,
               prefixes: Sequence[IPv4Network], reassign: bool) -> tuple[list[IPv4Address], list[IPv4Network]]:  # fmt: skip
        """Assign secondary addresses or prefixes to an ENI; return only the new ones."""
        eni = self.eni(eni_id)
        if bool(count or addresses) == bool(prefix_count or prefixes):
            raise Refused("InvalidParameterCombination", "Specify either secondary addresses or prefixes.")
        wanted = count + len(addresses) + prefix_count + len(prefixes)
        limit = self._ipv4_limit(eni)
        if eni.slots_used() + wanted > limit:
            raise Refused(
                "PrivateIpAddressLimitExceeded", f"Number of private addresses will exceed {limit} for {eni_id}."
            )
        if addresses or prefixes:
            return self._assign_named(eni, addresses, prefixes, reassign=reassign)
        return self._grow(eni, count, prefix_count)

    def unassign(self, eni_id: str, addresses: Sequence[IPv4Address], prefixes: Sequence[IPv4Network]) -> None:
        """Take secondary addresses and prefixes off an ENI; all or nothing."""
        eni = self.eni(eni_id)
        if not addresses and not prefixes:
            raise Refused("MissingParameter", "Specify the addresses or prefixes to unassign.")
        if eni.primary in addresses:
            raise Refused(
                "InvalidParameterValue", f"The primary address {eni.primary} of {eni_id} cannot be unassigned."
            )
        strange = [str(a) for a in addresses if a not in eni.secondaries] + [
            str(p) for p in prefixes if p not in eni.prefixes
        ]
        if strange:
            raise Refused(
                "InvalidParameterValue", f"Some of {', '.join(strange)} are not assigned to interface {eni_id}"
            )
        eni.secondaries = [a for a in eni.secondaries if a not in addresses]
        eni.prefixes = [p for p in eni.prefixes if p not in prefixes]

    def assign_v6(self, eni_id: str, *, count: int, prefix_count: int, prefixes: Sequence[IPv6Network] = ()
                  ) -> tuple[list[IPv6Address], list[IPv6Network]]:  # fmt: skip
        """Assign IPv6 addresses or prefixes; return only the new ones."""
        eni = self.eni(eni_id)
        if bool(count) + bool(prefix_count) + bool(prefixes) != 1:
            raise Refused(
                "InvalidParameterCombination", "Specify exactly one of addresses, prefixes and a prefix count."
            )
        limit = self._ipv6_limit(eni)
        if eni.slots_used_v6() + count + prefix_count + len(prefixes) > limit:
            raise Refused("Ipv6AddressLimitExceeded", f"Number of IPv6 addresses will exceed {limit} for {eni_id}.")
        if not prefixes:
            return self._grow_v6(eni, count, prefix_count)
        subnet = self.subnets[eni.subnet_id]
        for block in prefixes:
            if block.prefixlen != PREFIX_LENGTH_V6 or not block.subnet_of(subnet.cidr_v6):
                raise Refused("InvalidParameterValue", f"{block} is no /{PREFIX_LENGTH_V6} of {subnet.cidr_v6}.")
            if any(block.overlaps(other) for other in self._used_v6()):
                raise Refused("InvalidIPAddress.InUse", f"The specified prefix is already in use: {block}")
        eni.prefixes_v6 += prefixes
        return [], list(prefixes)

    def unassign_v6(self, eni_id: str, addresses: Sequence[IPv6Address], prefixes: Sequence[IPv6Network]) -> None:
        """Take IPv6 addresses and prefixes off an ENI; all or nothing."""
        eni = self.eni(eni_id)
        if not addresses and not prefixes:
            raise Refused("MissingParameter", "Specify the addresses or prefixes to unassign.")
        if any(a not in eni.addresses_v6 for a in addresses) or any(p not in eni.prefixes_v6 for p in prefixes):
            raise Refused("InvalidParameterValue", f"Some of the addresses are not assigned to interface {eni_id}")
        eni.addresses_v6 = [a for a in eni.addresses_v6 if a not in addresses]
        eni.prefixes_v6 = [p for p in eni.prefixes_v6 if p not in prefixes]

    def tag(self, resources: Sequence[str], tags: Mapping[str, str]) -> None:
        """Add or replace tags of ENIs and subnets; all or nothing."""
        for tagged in [self._tags_of(resource) for resource in resources]:
            tagged.update(tags)

    def untag(self, resources: Sequence[str], keys: Sequence[str]) -> None:
        """Remove tags of ENIs and subnets; a tag that is not there is no error."""
        for tagged in [self._tags_of(resource) for resource in resources]:
            for key in keys:
                tagged.pop(key, None)

    # ------------------------------------------------------------------ what subnets have left

    def fill(self, subnet_id: str, *, leave: int) -> None:
        """Let something else hold all free addresses of a subnet but `leave`."""
        subnet = self._subnet(subnet_id)
        self.taken.pop(subnet_id, None)
        count = max(self.free_count(subnet) - leave, 0)
        self.taken[subnet_id] = set(self._free_addresses(subnet, count))

    def fragment(self, subnet_id: str) -> None:
        """Let something else hold one address of every free /28 block: addresses remain, blocks do not."""
        subnet = self._subnet(subnet_id)
        self.taken.pop(subnet_id, None)
        used = self._used(subnet)
        blocks = subnet.cidr.subnets(new_prefix=PREFIX_LENGTH_V4)
        self.taken[subnet_id] = {block[8] for block in blocks if block[8] not in used and subnet.is_usable(block[8])}

    def give_back(self, subnet_id: str) -> None:
        """End `fill`, `fragment` and reservations of a subnet."""
        self._subnet(subnet_id)
        self.taken.pop(subnet_id, None)
        self.reservations.pop(subnet_id, None)

    def reserve(self, subnet_id: str, block: IPv4Network, kind: str) -> Reservation:
        """Keep a block of a subnet for prefixes (`prefix`) or for addresses asked by name (`explicit`)."""
        subnet = self._subnet(subnet_id)
        if kind not in RESERVATION_KINDS:
            raise Refused(
                "InvalidParameterValue", f"Reservation type {kind} is none of {', '.join(RESERVATION_KINDS)}."
            )
        if not block.subnet_of(subnet.cidr):
            raise Refused("InvalidParameterValue", f"{block} is not within {subnet.cidr}.")
        if any(one.block.overlaps(block) for one in self.reservations.get(subnet_id, [])):
            raise Refused("InvalidSubnet.Conflict", f"{block} overlaps with a reservation of {subnet_id}.")
        made = Reservation(id=f"scr-{secrets.token_hex(8)}", block=block, kind=kind)
        self.reservations.setdefault(subnet_id, []).append(made)
        return made

    # ------------------------------------------------------------------ looking

    def eni(self, eni_id: str) -> Eni:
        """Return the ENI or refuse as EC2 does."""
        if eni_id not in self.enis:
            raise Refused("InvalidNetworkInterfaceID.NotFound", f"The networkInterface ID '{eni_id}' does not exist")
        return self.enis[eni_id]

    def instance(self, instance_id: str) -> Instance:
        """Return the instance or refuse as EC2 does."""
        if instance_id not in self.instances:
            raise Refused("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
        return self.instances[instance_id]

    def free_count(self, subnet: Subnet) -> int:
        """Return how many single addresses the subnet still has."""
        usable = subnet.cidr.num_addresses - RESERVED_FIRST - 1
        return usable - len(self._used(subnet))

    def snapshot(self) -> dict[str, Eni]:
        """Return a copy of all ENIs that later calls do not change."""
        return copy.deepcopy(self.enis)

    def check(self) -> None:
        """Raise AssertionError if an address lives twice, outside its subnet, or beyond a limit."""
        owner: dict[IPv4Address, str] = {}
        for eni in self.enis.values():
            subnet = self.subnets[eni.subnet_id]
            for address in _addresses_of(eni):
                assert address in subnet.cidr, f"{address} of {eni.id} is outside {subnet.cidr}"
                assert address not in owner, f"{address} is on {owner[address]} and on {eni.id}"
                owner[address] = eni.id
            limit = self._ipv4_limit(eni)
            assert eni.slots_used() <= limit, f"{eni.id} has {eni.slots_used()} of {limit} addresses"
            limit_v6 = self._ipv6_limit(eni)
            assert eni.slots_used_v6() <= limit_v6, f"{eni.id} has {eni.slots_used_v6()} of {limit_v6} IPv6 addresses"
        self._check_v6()
        for subnet_id, taken in self.taken.items():
            assert not taken & set(owner), f"something outside holds addresses of ENIs in {subnet_id}"

    def _check_v6(self) -> None:
        """Raise AssertionError if an IPv6 address or prefix lives twice or outside its subnet."""
        owner: dict[IPv6Network, str] = {}
        for eni in self.enis.values():
            for block in eni.prefixes_v6:
                assert block.subnet_of(self.subnets[eni.subnet_id].cidr_v6), f"{block} is no part of {eni.id}'s subnet"
                assert block not in owner, f"{block} is on {owner[block]} and on {eni.id}"
                owner[block] = eni.id
        for eni in self.enis.values():
            for address in eni.addresses_v6:
                assert address in self.subnets[eni.subnet_id].cidr_v6, f"{address} is no part of {eni.id}'s subnet"
                for block in (IPv6Network(address), IPv6Network((address, PREFIX_LENGTH_V6), strict=False)):
                    assert block not in owner, f"{address} is on {owner[block]} and on {eni.id}"
                owner[IPv6Network(address)] = eni.id

    # ------------------------------------------------------------------ inside

    def _tags_of(self, resource: str) -> dict[str, str]:
        return self._subnet(resource).tags if resource.startswith("subnet-") else self.eni(resource).tags

    def _reserved(self, subnet: Subnet, address: IPv4Address, *, for_prefix: bool) -> bool:
        """Tell whether a reservation keeps an address from a choice that EC2 makes."""
        kept = [one for one in self.reservations.get(subnet.id, []) if address in one.block]
        return any(one.kind != "prefix" or not for_prefix for one in kept)

    def _subnet(self, subnet_id: str) -> Subnet:
        if subnet_id not in self.subnets:
            raise Refused("InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist")
        return self.subnets[subnet_id]

    def _attachment(self, instance_id: str, device: int, card: int, *, now: float) -> Attachment:
        return Attachment(
            id=f"eni-attach-{secrets.token_hex(8)}", instance_id=instance_id, device_index=device, card_index=card,
            status="attaching", until=now + self.transition_s, attached_at=now,
        )  # fmt: skip

    def _check_attach(self, eni: Eni, instance: Instance, device_index: int, card_index: int) -> None:
        limits, held = instance.limits, self.enis_of(instance.id)
        card = limits.card(card_index)
        if card is None:
            raise Refused("InvalidParameterValue", f"Network card index {card_index} is not valid for {limits.name}.")
        on_card = [e.attachment.device_index for e in held if e.attachment and e.attachment.card_index == card_index]
        if len(held) >= limits.max_enis or len(on_card) >= card.max_enis:
            raise Refused(
                "AttachmentLimitExceeded", f"Interface count {len(held) + 1} exceeds the limit for {limits.name}."
            )
        if device_index in on_card:
            raise Refused(
                "InvalidParameterValue",
                f"Instance '{instance.id}' already has an interface attached at device index '{device_index}'.",
            )
        if eni.slots_used() > limits.ipv4_per_eni:
            raise Refused("PrivateIpAddressLimitExceeded", f"{eni.id} has more addresses than {limits.name} allows.")

    def _ipv4_limit(self, eni: Eni) -> int:
        if eni.attachment is None:
            return UNATTACHED_ADDRESS_LIMIT
        return self.instances[eni.attachment.instance_id].limits.ipv4_per_eni

    def _ipv6_limit(self, eni: Eni) -> int:
        if eni.attachment is None:
            return UNATTACHED_ADDRESS_LIMIT
        return self.instances[eni.attachment.instance_id].limits.ipv6_per_eni

    def _used_v6(self) -> list[IPv6Network]:
        return [
            block for eni in self.enis.values() for block in (*map(IPv6Network, eni.addresses_v6), *eni.prefixes_v6)
        ]

    def _used(self, subnet: Subnet) -> set[IPv4Address]:
        mine = (eni for eni in self.enis.values() if eni.subnet_id == subnet.id)
        return {address for eni in mine for address in _addresses_of(eni)} | self.taken.get(subnet.id, set())

    def _free_addresses(self, subnet: Subnet, count: int) -> list[IPv4Address]:
        """Choose free addresses, going round the subnet so that a freed one is not handed out again at once."""
        used, found = self._used(subnet), list[IPv4Address]()
        start, size = self._cursor.get(subnet.id, RESERVED_FIRST), subnet.cidr.num_addresses
        for step in range(size if count else 0):
            offset = (start + step) % size
            address = subnet.cidr.network_address + offset
            kept = self._reserved(subnet, address, for_prefix=False)
            if subnet.is_usable(address) and address not in used and not kept:
                found.append(address)
            if len(found) == count:
                self._cursor[subnet.id] = offset + 1
                return found
        if count:
            raise Refused(
                "InsufficientFreeAddressesInSubnet",
                f"The specified subnet does not have enough free addresses to satisfy the request ({subnet.id}).",
            )
        return []

    def _claim(self, subnet: Subnet, address: IPv4Address) -> IPv4Address:
        if not subnet.is_usable(address):
            raise Refused("InvalidParameterValue", f"Address {address} does not fall within the subnet's address range")
        if address in self._used(subnet):
            raise Refused("InvalidIPAddress.InUse", f"The specified address is already in use: {address}")
        return address

    def _free_prefixes(self, subnet: Subnet, count: int) -> list[IPv4Network]:
        used, found = self._used(subnet), list[IPv4Network]()
        blocks = (
            subnet.cidr.subnets(new_prefix=PREFIX_LENGTH_V4)
            if count and subnet.cidr.prefixlen <= PREFIX_LENGTH_V4
            else ()
        )
        # Reserved blocks first, then from the top: single addresses grow from the bottom, so the two meet late.
        reserved = [one.block for one in self.reservations.get(subnet.id, []) if one.kind == "prefix"]
        from_top = sorted(blocks, reverse=True)
        for block in sorted(from_top, key=lambda block: not any(block.subnet_of(one) for one in reserved)):
            if self._reserved(subnet, block[0], for_prefix=True):
                continue
            if all(subnet.is_usable(address) and address not in used for address in block):
                found.append(block)
            if len(found) == count:
                return found
        if count:
            raise Refused(
                "InsufficientCidrBlocks",
                "The specified subnet does not have enough free cidr blocks to satisfy the request.",
            )
        return []

    def _grow(self, eni: Eni, count: int, prefix_count: int) -> tuple[list[IPv4Address], list[IPv4Network]]:
        subnet = self.subnets[eni.subnet_id]
        addresses, prefixes = self._free_addresses(subnet, count), self._free_prefixes(subnet, prefix_count)
        eni.secondaries += addresses
        eni.prefixes += prefixes
        return addresses, prefixes

    def _assign_named(self, eni: Eni, addresses: Sequence[IPv4Address], prefixes: Sequence[IPv4Network],
                      *, reassign: bool) -> tuple[list[IPv4Address], list[IPv4Network]]:  # fmt: skip
        subnet = self.subnets[eni.subnet_id]
        others = [e for e in self.enis.values() if e.subnet_id == subnet.id]
        movable = {a: e for e in others for a in e.secondaries} if reassign else {}
        for address in addresses:
            if address not in movable:
                self._claim(subnet, address)
        for address in {a for block in prefixes for a in block}:
            self._claim(subnet, address)
        for address in addresses:
            if address in movable:
                movable[address].secondaries.remove(address)
        eni.secondaries += addresses
        eni.prefixes += prefixes
        return list(addresses), list(prefixes)

    def _grow_v6(self, eni: Eni, count: int, prefix_count: int) -> tuple[list[IPv6Address], list[IPv6Network]]:
        """Choose at random, as EC2 does: single addresses in the subnet's first /80, prefixes in the others."""
        subnet = self.subnets[eni.subnet_id]
        base, taken = int(subnet.cidr_v6.network_address), set(self._used_v6())
        addresses, prefixes = list[IPv6Address](), list[IPv6Network]()
        while len(addresses) < count:
            address = IPv6Address(base + (1 << 32) + secrets.randbelow(1 << 31))
            if IPv6Network(address) not in taken:
                addresses.append(address)
                taken.add(IPv6Network(address))
        while len(prefixes) < prefix_count:
            number = 1 + secrets.randbelow((1 << (PREFIX_LENGTH_V6 - subnet.cidr_v6.prefixlen)) - 1)
            block = IPv6Network((base + (number << (128 - PREFIX_LENGTH_V6)), PREFIX_LENGTH_V6))
            if block not in taken:
                prefixes.append(block)
                taken.add(block)
        eni.addresses_v6 += addresses
        eni.prefixes_v6 += prefixes
        return addresses, prefixes


def _addresses_of(eni: Eni) -> Iterable[IPv4Address]:
    yield eni.primary
    yield from eni.secondaries
    for block in eni.prefixes:
        yield from block


def _mac(number: int) -> str:
    octets = (0x02, 0x0A, (number >> 24) & 255, (number >> 16) & 255, (number >> 8) & 255, number & 255)
    return ":".join(f"{octet:02x}" for octet in octets)
