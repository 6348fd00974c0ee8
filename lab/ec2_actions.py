"""EC2's actions on the model: parameters and replies in the words of AWS's API.

A handler gets the model, the ENIs as the caller may see them (an older picture when describe lags) and the parsed parameters, and
returns the reply that botocore's model describes.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final

from vpccni.lab.ec2_model import Ec2Model
from vpccni.lab.ec2_objects import Attachment, Eni, Instance, NewEni, Refused, Subnet
from vpccni.lab.instance_types import limits_of

OWNER: Final = "123456789012"
PAGE_LEAST, PAGE_MOST = 5, 1000
Params = Mapping[str, Any]
Handler = Callable[[Ec2Model, Mapping[str, Eni], Params], dict[str, Any]]


def plain(value: Any) -> Any:
    """Return parameters as plain JSON values, for the call log."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def _when(monotonic: float) -> datetime:
    return datetime.fromtimestamp(time.time() - (time.monotonic() - monotonic), tz=UTC)


def _attachment_document(attachment: Attachment, *, with_instance: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "AttachmentId": attachment.id,
        "AttachTime": _when(attachment.attached_at),
        "DeleteOnTermination": attachment.delete_on_termination,
        "DeviceIndex": attachment.device_index,
        "NetworkCardIndex": attachment.card_index,
        "Status": attachment.status,
    }
    if with_instance:
        document |= {"InstanceId": attachment.instance_id, "InstanceOwnerId": OWNER}
    return document


def eni_document(model: Ec2Model, eni: Eni, *, on_instance: bool = False) -> dict[str, Any]:
    """Return an ENI as DescribeNetworkInterfaces (or DescribeInstances) shows it."""
    subnet = model.subnets[eni.subnet_id]
    addresses = [(eni.primary, True), *((address, False) for address in eni.secondaries)]
    document: dict[str, Any] = {
        "NetworkInterfaceId": eni.id,
        "MacAddress": eni.mac,
        "SubnetId": eni.subnet_id,
        "VpcId": model.vpc_id,
        "Description": eni.description,
        "OwnerId": OWNER,
        "Status": eni.status,
        "InterfaceType": eni.interface_type,
        "SourceDestCheck": eni.source_dest_check,
        "PrivateIpAddress": str(eni.primary),
        "PrivateDnsName": _dns_name(eni.primary),
        "PrivateIpAddresses": [
            {"PrivateIpAddress": str(a), "Primary": primary, "PrivateDnsName": _dns_name(a)} for a, primary in addresses
        ],
        "Ipv4Prefixes": [{"Ipv4Prefix": str(prefix)} for prefix in eni.prefixes],
        "Ipv6Addresses": [{"Ipv6Address": str(address), "IsPrimaryIpv6": False} for address in eni.addresses_v6],
        "Ipv6Prefixes": [{"Ipv6Prefix": str(prefix)} for prefix in eni.prefixes_v6],
        "Groups": [{"GroupId": group, "GroupName": "lab"} for group in eni.groups],
    }
    if eni.attachment is not None:
        document["Attachment"] = _attachment_document(eni.attachment, with_instance=not on_instance)
    if on_instance:
        return document
    return document | {"AvailabilityZone": subnet.zone, "RequesterManaged": False, "TagSet": _tags(eni.tags)}


def _dns_name(address: IPv4Address) -> str:
    return f"ip-{str(address).replace('.', '-')}.us-west-2.compute.internal"


# ---------------------------------------------------------------------- describe


def _values(params: Params, name: str) -> list[Any]:
    found = params.get(name)
    return list(found) if found else []


def _passes(filters: Iterable[Mapping[str, Any]], facts: Mapping[str, list[str]]) -> bool:
    """Tell whether an object with these facts passes all filters; wildcards as in EC2."""
    for one in filters:
        name = one["Name"]
        if name not in facts and not name.startswith("tag:"):
            raise Refused("InvalidParameterValue", f"The filter '{name}' is invalid")
        seen = facts.get(name, [])
        if not any(fnmatchcase(value, pattern) for value in seen for pattern in one.get("Values") or []):
            return False
    return True


def _page_start(token: str | None) -> int:
    if not token:
        return 0
    try:
        return int(base64.b64decode(token, validate=True))
    except ValueError as error:
        raise Refused("InvalidNextToken", "The token is invalid.") from error


def _page(items: list[Any], params: Params) -> tuple[list[Any], str | None]:
    start, size = _page_start(params.get("NextToken")), params.get("MaxResults")
    if size is not None and not PAGE_LEAST <= int(size) <= PAGE_MOST:
        raise Refused("InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid.")
    end = len(items) if size is None else start + int(size)
    token = base64.b64encode(str(end).encode()).decode() if end < len(items) else None
    return items[start:end], token


def _tag_facts(tags: Mapping[str, str]) -> dict[str, list[str]]:
    facts = {f"tag:{key}": [value] for key, value in tags.items()}
    return facts | {"tag-key": list(tags)}


def _eni_facts(model: Ec2Model, eni: Eni) -> dict[str, list[str]]:
    attachment = eni.attachment
    return _tag_facts(eni.tags) | {
        "network-interface-id": [eni.id],
        "status": [eni.status],
        "vpc-id": [model.vpc_id],
        "subnet-id": [eni.subnet_id],
        "description": [eni.description],
        "mac-address": [eni.mac],
        "interface-type": [eni.interface_type],
        "group-id": list(eni.groups),
        "private-ip-address": [str(eni.primary)],
        "addresses.private-ip-address": [str(eni.primary), *map(str, eni.secondaries)],
        "ipv6-addresses.ipv6-address": list(map(str, eni.addresses_v6)),
        "availability-zone": [model.subnets[eni.subnet_id].zone],
        "attachment.instance-id": [attachment.instance_id] if attachment else [],
        "attachment.status": [attachment.status] if attachment else [],
        "attachment.attachment-id": [attachment.id] if attachment else [],
        "attachment.device-index": [str(attachment.device_index)] if attachment else [],
    }


def describe_network_interfaces(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    wanted = _values(params, "NetworkInterfaceIds")
    for eni_id in wanted:
        if eni_id not in enis:
            raise Refused("InvalidNetworkInterfaceID.NotFound", f"The networkInterface ID '{eni_id}' does not exist")
    chosen = [enis[eni_id] for eni_id in wanted] if wanted else sorted(enis.values(), key=lambda eni: eni.id)
    filters = _values(params, "Filters")
    kept, token = _page([eni for eni in chosen if _passes(filters, _eni_facts(model, eni))], params)
    reply: dict[str, Any] = {"NetworkInterfaces": [eni_document(model, eni) for eni in kept]}
    return reply | ({"NextToken": token} if token else {})


def _instance_document(model: Ec2Model, enis: Mapping[str, Eni], instance: Instance) -> dict[str, Any]:
    held = [eni for eni in enis.values() if eni.attachment and eni.attachment.instance_id == instance.id]
    primary = next(
        (e for e in held if e.attachment and (e.attachment.card_index, e.attachment.device_index) == (0, 0)), None
    )
    address = (
        {"PrivateIpAddress": str(primary.primary), "PrivateDnsName": _dns_name(primary.primary)} if primary else {}
    )
    return address | {
        "InstanceId": instance.id,
        "InstanceType": instance.limits.name,
        "ImageId": "ami-00000000000000001",
        "State": {"Code": 16, "Name": "running"},
        "LaunchTime": _when(instance.launched_at),
        "Placement": {"AvailabilityZone": instance.zone},
        "SubnetId": instance.subnet_id,
        "VpcId": model.vpc_id,
        "NetworkInterfaces": [eni_document(model, eni, on_instance=True) for eni in held],
        "Tags": _tags({"Name": instance.node}),
    }


def describe_instances(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    wanted = _values(params, "InstanceIds")
    chosen = [model.instance(instance_id) for instance_id in wanted] if wanted else list(model.instances.values())

    def facts(instance: Instance) -> dict[str, list[str]]:
        return {
            "instance-id": [instance.id],
            "instance-type": [instance.limits.name],
            "instance-state-name": ["running"],
            "vpc-id": [model.vpc_id],
            "subnet-id": [instance.subnet_id],
            "availability-zone": [instance.zone],
            "tag:Name": [instance.node],
        }

    kept = [instance for instance in chosen if _passes(_values(params, "Filters"), facts(instance))]
    documents = [_instance_document(model, enis, instance) for instance in kept]
    if not documents:
        return {"Reservations": []}
    return {"Reservations": [{"ReservationId": "r-0000000000000001", "OwnerId": OWNER, "Instances": documents}]}


def describe_instance_types(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    names = _values(params, "InstanceTypes") or sorted({i.limits.name for i in model.instances.values()})
    try:
        return {"InstanceTypes": [limits_of(name).described for name in names]}
    except LookupError as error:
        raise Refused("InvalidInstanceType", f"The following supplied instance types do not exist: {names}") from error


def _subnet_document(model: Ec2Model, subnet: Subnet) -> dict[str, Any]:
    return {
        "SubnetId": subnet.id,
        "VpcId": model.vpc_id,
        "CidrBlock": str(subnet.cidr),
        "AvailabilityZone": subnet.zone,
        "AvailableIpAddressCount": model.free_count(subnet),
        "State": "available",
        "OwnerId": OWNER,
        "MapPublicIpOnLaunch": False,
        "Ipv6CidrBlockAssociationSet": [
            {
                "AssociationId": f"subnet-cidr-assoc-{subnet.id.removeprefix('subnet-')}",
                "Ipv6CidrBlock": str(subnet.cidr_v6),
                "Ipv6CidrBlockState": {"State": "associated"},
            }
        ],
        "Tags": _tags(subnet.tags),
    }


def describe_subnets(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    wanted, filters = _values(params, "SubnetIds"), _values(params, "Filters")
    for subnet_id in wanted:
        if subnet_id not in model.subnets:
            raise Refused("InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist")

    def facts(subnet: Subnet) -> dict[str, list[str]]:
        return _tag_facts(subnet.tags) | {
            "vpc-id": [model.vpc_id],
            "availability-zone": [subnet.zone],
            "subnet-id": [subnet.id],
            "cidr-block": [str(subnet.cidr)],
            "state": ["available"],
        }

    chosen = [s for s in model.subnets.values() if not wanted or s.id in wanted]
    kept, token = _page([s for s in chosen if _passes(filters, facts(s))], params)
    return {"Subnets": [_subnet_document(model, s) for s in kept]} | ({"NextToken": token} if token else {})


def describe_tags(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    rows = [
        (eni.id, "network-interface", key, value) for eni in enis.values() for key, value in sorted(eni.tags.items())
    ]
    rows += [(i.id, "instance", "Name", i.node) for i in model.instances.values()]
    filters = _values(params, "Filters")
    kept = [
        {"ResourceId": resource, "ResourceType": kind, "Key": key, "Value": value}
        for resource, kind, key, value in rows
        if _passes(filters, {"resource-id": [resource], "resource-type": [kind], "key": [key], "value": [value]})
    ]
    page, token = _page(kept, params)
    return {"Tags": page} | ({"NextToken": token} if token else {})


def describe_security_groups(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    groups = sorted({group for eni in enis.values() for group in eni.groups} | {model.default_group})
    return {
        "SecurityGroups": [{"GroupId": g, "GroupName": "lab", "VpcId": model.vpc_id, "OwnerId": OWNER} for g in groups]
    }


# ---------------------------------------------------------------------- change


def create_network_interface(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    tags = [
        (tag["Key"], tag.get("Value", ""))
        for specification in _values(params, "TagSpecifications")
        if specification.get("ResourceType") == "network-interface"
        for tag in specification.get("Tags") or []
    ]
    ask = NewEni(
        subnet_id=params["SubnetId"],
        description=params.get("Description") or "",
        groups=tuple(_values(params, "Groups")),
        primary=IPv4Address(params["PrivateIpAddress"]) if params.get("PrivateIpAddress") else None,
        secondary_count=int(params.get("SecondaryPrivateIpAddressCount") or 0),
        prefix_count=int(params.get("Ipv4PrefixCount") or 0),
        ipv6_count=int(params.get("Ipv6AddressCount") or 0),
        ipv6_prefix_count=int(params.get("Ipv6PrefixCount") or 0),
        interface_type=params.get("InterfaceType") or "interface",
        tags=tuple(tags),
    )
    eni = model.create(ask, token=params.get("ClientToken"))
    return {"NetworkInterface": eni_document(model, eni), "ClientToken": params.get("ClientToken")}


def attach_network_interface(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    attachment = model.attach(
        params["NetworkInterfaceId"],
        params["InstanceId"],
        int(params["DeviceIndex"]),
        int(params.get("NetworkCardIndex") or 0),
        now=time.monotonic(),
    )
    return {"AttachmentId": attachment.id, "NetworkCardIndex": attachment.card_index}


def detach_network_interface(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    model.detach(params["AttachmentId"], force=bool(params.get("Force")), now=time.monotonic())
    return {}


def delete_network_interface(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    model.delete(params["NetworkInterfaceId"])
    return {}


def modify_network_interface_attribute(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    eni = model.eni(params["NetworkInterfaceId"])
    if wanted := params.get("Attachment"):
        if eni.attachment is None or eni.attachment.id != wanted.get("AttachmentId"):
            raise Refused(
                "InvalidAttachmentID.NotFound", f"The attachment '{wanted.get('AttachmentId')}' does not exist."
            )
        if "DeleteOnTermination" in wanted:
            eni.attachment.delete_on_termination = bool(wanted["DeleteOnTermination"])
    if groups := _values(params, "Groups"):
        eni.groups = groups
    if params.get("SourceDestCheck") is not None:
        eni.source_dest_check = bool(params["SourceDestCheck"].get("Value"))
    if params.get("Description") is not None:
        eni.description = params["Description"].get("Value", "")
    return {}


def assign_private_ip_addresses(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    addresses, prefixes = model.assign(
        params["NetworkInterfaceId"],
        count=int(params.get("SecondaryPrivateIpAddressCount") or 0),
        addresses=[IPv4Address(a) for a in _values(params, "PrivateIpAddresses")],
        prefix_count=int(params.get("Ipv4PrefixCount") or 0),
        prefixes=[IPv4Network(p) for p in _values(params, "Ipv4Prefixes")],
        reassign=bool(params.get("AllowReassignment")),
    )
    return {
        "NetworkInterfaceId": params["NetworkInterfaceId"],
        "AssignedPrivateIpAddresses": [{"PrivateIpAddress": str(address)} for address in addresses],
        "AssignedIpv4Prefixes": [{"Ipv4Prefix": str(prefix)} for prefix in prefixes],
    }


def unassign_private_ip_addresses(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    model.unassign(
        params["NetworkInterfaceId"],
        [IPv4Address(a) for a in _values(params, "PrivateIpAddresses")],
        [IPv4Network(p) for p in _values(params, "Ipv4Prefixes")],
    )
    return {}


def assign_ipv6_addresses(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    addresses, prefixes = model.assign_v6(
        params["NetworkInterfaceId"],
        count=int(params.get("Ipv6AddressCount") or 0),
        prefix_count=int(params.get("Ipv6PrefixCount") or 0),
        prefixes=[IPv6Network(p) for p in _values(params, "Ipv6Prefixes")],
    )
    return {
        "NetworkInterfaceId": params["NetworkInterfaceId"],
        "AssignedIpv6Addresses": [str(address) for address in addresses],
        "AssignedIpv6Prefixes": [str(prefix) for prefix in prefixes],
    }


def unassign_ipv6_addresses(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    addresses, prefixes = _values(params, "Ipv6Addresses"), _values(params, "Ipv6Prefixes")
    model.unassign_v6(
        params["NetworkInterfaceId"], [IPv6Address(a) for a in addresses], [IPv6Network(p) for p in prefixes]
    )
    return {
        "NetworkInterfaceId": params["NetworkInterfaceId"],
        "UnassignedIpv6Addresses": addresses,
        "UnassignedIpv6Prefixes": prefixes,
    }


def create_tags(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    model.tag(_values(params, "Resources"), {tag["Key"]: tag.get("Value", "") for tag in _values(params, "Tags")})
    return {}


def delete_tags(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    model.untag(_values(params, "Resources"), [tag["Key"] for tag in _values(params, "Tags")])
    return {}


def create_subnet_cidr_reservation(model: Ec2Model, enis: Mapping[str, Eni], params: Params) -> dict[str, Any]:
    made = model.reserve(params["SubnetId"], IPv4Network(params["Cidr"]), params["ReservationType"])
    return {
        "SubnetCidrReservation": {
            "SubnetCidrReservationId": made.id,
            "SubnetId": params["SubnetId"],
            "Cidr": str(made.block),
            "ReservationType": made.kind,
            "OwnerId": OWNER,
        }
    }


HANDLERS: Final[dict[str, Handler]] = {
    "DescribeInstances": describe_instances,
    "DescribeInstanceTypes": describe_instance_types,
    "DescribeNetworkInterfaces": describe_network_interfaces,
    "DescribeSubnets": describe_subnets,
    "DescribeTags": describe_tags,
    "DescribeSecurityGroups": describe_security_groups,
    "CreateNetworkInterface": create_network_interface,
    "AttachNetworkInterface": attach_network_interface,
    "DetachNetworkInterface": detach_network_interface,
    "DeleteNetworkInterface": delete_network_interface,
    "ModifyNetworkInterfaceAttribute": modify_network_interface_attribute,
    "AssignPrivateIpAddresses": assign_private_ip_addresses,
    "UnassignPrivateIpAddresses": unassign_private_ip_addresses,
    "AssignIpv6Addresses": assign_ipv6_addresses,
    "UnassignIpv6Addresses": unassign_ipv6_addresses,
    "CreateTags": create_tags,
    "DeleteTags": delete_tags,
    "CreateSubnetCidrReservation": create_subnet_cidr_reservation,
}
