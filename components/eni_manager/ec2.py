"""Adapter of EC2: the only module that imports boto3. One method an action; replies become our values here.

Calls block and carry a time limit (HTTP_TIMEOUT): run them in a thread. An error becomes `CloudRefused` with AWS's own code, or
with an empty code when there was no answer: then nobody knows whether EC2 did it. boto3 repeats nothing by itself: pauses and
limits are the service's (spec ipam.md W5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader

from vpccni.components.eni_manager.facts import TAG_CLUSTER, TAG_INSTANCE, CloudEni, NewEni
from vpccni.components.eni_manager.hindrance import DENIALS
from vpccni.components.eni_manager.limits import InstanceLimits, limits_of
from vpccni.components.eni_manager.subnets import Subnet
from vpccni.shared.effects import effect
from vpccni.shared.errors import CloudRefused
from vpccni.shared.names import EniId, SubnetId

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client
    from types_boto3_ec2.type_defs import FilterTypeDef, TagSpecificationTypeDef, TagTypeDef

CONNECTIONS: Final = 4
CONNECT_TIMEOUT_S: Final = 3
PAGE: Final = 1000  # spec ipam.md 2
FILTER_VALUES_AT_MOST: Final = 200  # what one EC2 filter takes
VANISHED: Final = frozenset({"terminated", "shutting-down"})


class Ec2:
    """See the module. `endpoint`: empty for AWS's own. `of_ipv6_node`: an ENI's items are its IPv6 prefixes (see `facts`)."""

    def __init__(
        self, *, region: str, endpoint: str, version: str, timeout_s: float, of_ipv6_node: bool = False
    ) -> None:
        self._eni = partial(cloud_eni, of_ipv6_node=of_ipv6_node)
        config = Config(
            region_name=region,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=timeout_s,
            max_pool_connections=CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            user_agent=f"amazon-vpc-cni-k8s/{version}",
        )
        with _refusals("CreateClient", region):
            session = boto3.Session(botocore_session=_lean_session())
            self._client: EC2Client = session.client("ec2", config=config, endpoint_url=endpoint or None)

    def enis_of_instance(self, instance_id: str) -> list[CloudEni]:
        """DescribeNetworkInterfaces: every ENI attached (or attaching, detaching) to the instance."""
        with _refusals("DescribeNetworkInterfaces", instance_id):
            reply = self._client.describe_network_interfaces(
                Filters=[{"Name": "attachment.instance-id", "Values": [instance_id]}]
            )
        return [self._eni(described) for described in reply["NetworkInterfaces"]]

    def eni(self, eni_id: EniId) -> CloudEni | None:
        """DescribeNetworkInterfaces of one ENI; None when EC2 does not know it."""
        try:
            with _refusals("DescribeNetworkInterfaces", eni_id):
                reply = self._client.describe_network_interfaces(NetworkInterfaceIds=[eni_id])
        except CloudRefused as error:
            if error.error_code == "InvalidNetworkInterfaceID.NotFound":
                return None
            raise
        found = [self._eni(described) for described in reply["NetworkInterfaces"]]
        return found[0] if found else None

    def limits(self, instance_type: str) -> InstanceLimits:
        """DescribeInstanceTypes: the limits of a type that the table lacks."""
        with _refusals("DescribeInstanceTypes", instance_type):
            reply = self._client.describe_instance_types(InstanceTypes=[instance_type])  # type: ignore[list-item]  # types newer than the stubs
        if not reply["InstanceTypes"]:
            raise CloudRefused(
                "EC2 does not know the instance type",
                api="DescribeInstanceTypes",
                error_code="NotFound",
                on=instance_type,
            )
        described: Mapping[str, Any] = reply["InstanceTypes"][0]
        return limits_of(described)

    def create(self, new: NewEni) -> CloudEni:
        """CreateNetworkInterface with its client token: asking again gives the same ENI."""
        tags: list[TagTypeDef] = [{"Key": key, "Value": value} for key, value in new.tags]
        specification: TagSpecificationTypeDef = {"ResourceType": "network-interface", "Tags": tags}
        create = partial(
            self._client.create_network_interface,
            SubnetId=new.subnet_id,
            Description=new.description,
            Groups=list(new.groups),
            ClientToken=new.token,
            TagSpecifications=[specification],
        )
        with _refusals("CreateNetworkInterface", new.subnet_id):
            if new.ipv6:
                reply = create(Ipv6AddressCount=1)
            elif new.by_prefix:
                reply = create(Ipv4PrefixCount=new.addresses)
            else:
                reply = create(SecondaryPrivateIpAddressCount=new.addresses)
        return self._eni(reply["NetworkInterface"])

    def attach(self, eni_id: EniId, instance_id: str, *, device: int, card: int) -> str:
        """AttachNetworkInterface; return the attachment id."""
        with _refusals("AttachNetworkInterface", f"{eni_id}, {instance_id}, card {card}, device {device}"):
            if card:
                reply = self._client.attach_network_interface(
                    NetworkInterfaceId=eni_id, InstanceId=instance_id, DeviceIndex=device, NetworkCardIndex=card
                )
            else:
                reply = self._client.attach_network_interface(
                    NetworkInterfaceId=eni_id, InstanceId=instance_id, DeviceIndex=device
                )
        return reply["AttachmentId"]

    def delete_on_termination(self, eni_id: EniId, attachment_id: str) -> None:
        """ModifyNetworkInterfaceAttribute: the ENI goes with the instance."""
        with _refusals("ModifyNetworkInterfaceAttribute", eni_id):
            self._client.modify_network_interface_attribute(
                NetworkInterfaceId=eni_id, Attachment={"AttachmentId": attachment_id, "DeleteOnTermination": True}
            )

    def assign(self, eni_id: EniId, count: int, *, by_prefix: bool) -> list[str]:
        """AssignPrivateIpAddresses; return the new addresses, or the new prefixes."""
        assign = partial(self._client.assign_private_ip_addresses, NetworkInterfaceId=eni_id)
        with _refusals("AssignPrivateIpAddresses", eni_id):
            reply = assign(Ipv4PrefixCount=count) if by_prefix else assign(SecondaryPrivateIpAddressCount=count)
        addresses = [item["PrivateIpAddress"] for item in reply.get("AssignedPrivateIpAddresses", [])]
        return addresses + [item["Ipv4Prefix"] for item in reply.get("AssignedIpv4Prefixes", [])]

    def assign_ipv6_prefix(self, eni_id: EniId) -> list[str]:
        """AssignIpv6Addresses; return the new /80 prefix."""
        with _refusals("AssignIpv6Addresses", eni_id):
            reply = self._client.assign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6PrefixCount=1)
        return list(reply.get("AssignedIpv6Prefixes", []))

    def unassign(self, eni_id: EniId, items: Sequence[str]) -> None:
        """UnassignPrivateIpAddresses of addresses or of prefixes (`a.b.c.d/28`), all of one kind."""
        with _refusals("UnassignPrivateIpAddresses", eni_id):
            if "/" in items[0]:
                self._client.unassign_private_ip_addresses(NetworkInterfaceId=eni_id, Ipv4Prefixes=list(items))
            else:
                self._client.unassign_private_ip_addresses(NetworkInterfaceId=eni_id, PrivateIpAddresses=list(items))

    def subnets(self, vpc_id: str, zone: str) -> list[Subnet]:
        """DescribeSubnets: every subnet of the VPC in the zone."""
        filters: Sequence[FilterTypeDef] = [
            {"Name": "vpc-id", "Values": [vpc_id]},
            {"Name": "availability-zone", "Values": [zone]},
        ]
        with _refusals("DescribeSubnets", f"{vpc_id}, {zone}"):
            reply = self._client.describe_subnets(Filters=filters)
        return [
            Subnet(
                subnet_id=SubnetId(one["SubnetId"]),
                cidr=one.get("CidrBlock", ""),
                cidr_v6=_associated(one.get("Ipv6CidrBlockAssociationSet", [])),
                free=one.get("AvailableIpAddressCount", 0),
                tags={tag["Key"]: tag.get("Value", "") for tag in one.get("Tags", [])},
            )
            for one in reply["Subnets"]
        ]

    def set_groups(self, eni_id: EniId, groups: Sequence[str]) -> None:
        """ModifyNetworkInterfaceAttribute: the ENI's security groups."""
        with _refusals("ModifyNetworkInterfaceAttribute", eni_id):
            self._client.modify_network_interface_attribute(NetworkInterfaceId=eni_id, Groups=list(groups))

    def tag(self, eni_id: EniId, tags: Mapping[str, str]) -> None:
        """CreateTags on one ENI."""
        with _refusals("CreateTags", eni_id):
            self._client.create_tags(
                Resources=[eni_id], Tags=[{"Key": key, "Value": value} for key, value in sorted(tags.items())]
            )

    def unattached(self, vpc_id: str, *, instance_id: str = "*", cluster: str = "") -> list[CloudEni]:
        """DescribeNetworkInterfaces, all pages: ENIs of ours that no instance has (spec ipam.md 13.8)."""
        filters: list[FilterTypeDef] = [
            {"Name": f"tag:{TAG_INSTANCE}", "Values": [instance_id]},
            {"Name": "status", "Values": ["available"]},
            {"Name": "vpc-id", "Values": [vpc_id]},
        ]
        if cluster:
            filters.append({"Name": f"tag:{TAG_CLUSTER}", "Values": [cluster]})
        page = partial(self._client.describe_network_interfaces, Filters=filters, MaxResults=PAGE)
        found: list[CloudEni] = []
        token = ""
        while True:
            with _refusals("DescribeNetworkInterfaces", vpc_id):
                reply = page(NextToken=token) if token else page()
            found += [self._eni(described) for described in reply["NetworkInterfaces"]]
            token = reply.get("NextToken", "")
            if not token:
                return found

    def living_instances(self, instance_ids: Sequence[str]) -> frozenset[str]:
        """DescribeInstances: those of the instances that exist and are not terminated. An unknown one is no error."""
        living: set[str] = set()
        for start in range(0, len(instance_ids), FILTER_VALUES_AT_MOST):
            part = list(instance_ids[start : start + FILTER_VALUES_AT_MOST])
            with _refusals("DescribeInstances", f"{len(part)} instances"):
                reply = self._client.describe_instances(Filters=[{"Name": "instance-id", "Values": part}])
            described = [one for reservation in reply["Reservations"] for one in reservation.get("Instances", [])]
            living |= {one["InstanceId"] for one in described if one["State"]["Name"] not in VANISHED}
        return frozenset(living)

    def detach(self, eni_id: EniId, attachment_id: str) -> None:
        """DetachNetworkInterface, never forced; an attachment that is gone is a success."""
        with _already_gone("InvalidAttachmentID.NotFound"), _refusals("DetachNetworkInterface", eni_id):
            self._client.detach_network_interface(AttachmentId=attachment_id)

    def delete(self, eni_id: EniId) -> None:
        """DeleteNetworkInterface; an ENI that is gone is a success."""
        with _already_gone("InvalidNetworkInterfaceID.NotFound"), _refusals("DeleteNetworkInterface", eni_id):
            self._client.delete_network_interface(NetworkInterfaceId=eni_id)


def _lean_session() -> botocore.session.Session:
    """Return a session that finds our cut model before botocore's own: 19 MB less (see make_model)."""
    session = botocore.session.Session()
    loader = Loader(extra_search_paths=[str(Path(__file__).with_name("model"))])
    session.register_component("data_loader", loader)
    return session


@contextmanager
def _refusals(api: str, on: str) -> Iterator[None]:
    """Pass the kill points of the action and translate its errors."""
    try:
        with effect(f"ec2.{api}"):
            yield
    except ClientError as error:
        code, text = error.response["Error"]["Code"], error.response["Error"]["Message"]
        remedy = f"Allow ec2:{api} in the node's IAM policy" if code in DENIALS else ""
        raise CloudRefused(
            f"EC2 refuses {api}", api=api, error_code=code, on=on, why=f"{code}: {text}", remedy=remedy
        ) from error
    except BotoCoreError as error:
        raise CloudRefused(
            f"EC2 gives no answer to {api}",
            api=api,
            error_code="",
            on=on,
            why=str(error),
            remedy="Tried again by itself",
        ) from error


@contextmanager
def _already_gone(code: str) -> Iterator[None]:
    try:
        yield
    except CloudRefused as error:
        if error.error_code != code:
            raise


def _associated(associations: Sequence[Mapping[str, Any]]) -> str:
    """Return the IPv6 range of a subnet in DescribeSubnets: the first that is in force, empty without one."""
    in_force = [one for one in associations if one.get("Ipv6CidrBlockState", {}).get("State") == "associated"]
    return str(in_force[0]["Ipv6CidrBlock"]) if in_force else ""


def cloud_eni(described: Mapping[str, Any], *, of_ipv6_node: bool = False) -> CloudEni:
    """Return one ENI of a reply; create and describe have the same form but for the name of the tags."""
    own_v6 = [item["Ipv6Address"] for item in described.get("Ipv6Addresses") or []]
    secondary = [
        item["PrivateIpAddress"] for item in described.get("PrivateIpAddresses", []) if not item.get("Primary")
    ]
    prefixes = [item["Ipv4Prefix"] for item in described.get("Ipv4Prefixes") or []]
    if of_ipv6_node:
        secondary, prefixes = [], [item["Ipv6Prefix"] for item in described.get("Ipv6Prefixes") or []]
    attachment: Mapping[str, Any] = described.get("Attachment") or {}
    tags = described.get("TagSet") or described.get("Tags") or []
    return CloudEni(
        eni_id=EniId(described["NetworkInterfaceId"]),
        mac=described.get("MacAddress", ""),
        status=described.get("Status", ""),
        interface_type=described.get("InterfaceType", "interface"),
        subnet_id=SubnetId(described.get("SubnetId", "")),
        primary_address=described.get("PrivateIpAddress", ""),
        addresses=tuple(secondary),
        prefixes=tuple(prefixes),
        ipv6=own_v6[0] if own_v6 else "",
        tags={tag["Key"]: tag["Value"] for tag in tags},
        groups=tuple(sorted(group["GroupId"] for group in described.get("Groups") or [])),
        description=described.get("Description", ""),
        attachment_id=attachment.get("AttachmentId", ""),
        instance_id=attachment.get("InstanceId", ""),
        attachment_status=attachment.get("Status", ""),
        card=attachment.get("NetworkCardIndex", 0),
        device_number=attachment.get("DeviceIndex", 0),
        delete_on_termination=attachment.get("DeleteOnTermination", False),
    )
