"""EC2 over HTTP with AWS's own client, and what an attach does to the node."""

from __future__ import annotations

import time
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError  # noqa: TID253  (a client from outside)

from vpccni.lab.api import Lab


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def node_subnet(lab: Lab) -> str:
    return str(lab.status()["subnets"][0]["id"])


def attach(lab: Lab, ec2: Any, *, device: int = 1, secondaries: int = 3) -> dict[str, Any]:
    made = ec2.create_network_interface(SubnetId=node_subnet(lab), SecondaryPrivateIpAddressCount=secondaries)[
        "NetworkInterface"
    ]
    ec2.attach_network_interface(
        NetworkInterfaceId=made["NetworkInterfaceId"], InstanceId=lab.nodes[0].instance_id, DeviceIndex=device
    )
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        (eni,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[made["NetworkInterfaceId"]])["NetworkInterfaces"]
        if eni["Attachment"]["Status"] == "attached":
            return dict(eni)
        time.sleep(0.02)
    raise AssertionError("still attaching after 5 s")


def test_an_attached_eni_appears_in_the_node_with_its_mac_and_down(lab: Lab, ec2: Any) -> None:
    eni = attach(lab, ec2)
    shown = lab.nodes[0].exec(["ip", "-o", "link", "show", "eth1"]).stdout
    assert eni["MacAddress"] in shown
    assert "state DOWN" in shown
    assert "mtu 9001" in shown
    ec2.detach_network_interface(AttachmentId=eni["Attachment"]["AttachmentId"])
    assert lab.nodes[0].exec(["ip", "link", "show", "eth1"], check=False).returncode != 0


def test_instances_show_their_interfaces_and_the_type_its_limits(lab: Lab, ec2: Any) -> None:
    attach(lab, ec2)
    (reservation,) = ec2.describe_instances(InstanceIds=[lab.nodes[0].instance_id])["Reservations"]
    (instance,) = reservation["Instances"]
    assert [e["Attachment"]["DeviceIndex"] for e in instance["NetworkInterfaces"]] == [0, 1]
    (kind,) = ec2.describe_instance_types(InstanceTypes=["m5.large"])["InstanceTypes"]
    assert kind["NetworkInfo"]["Ipv4AddressesPerInterface"] == 10


def test_assign_answers_only_the_new_addresses(lab: Lab, ec2: Any) -> None:
    eni = attach(lab, ec2)
    reply = ec2.assign_private_ip_addresses(
        NetworkInterfaceId=eni["NetworkInterfaceId"], SecondaryPrivateIpAddressCount=2
    )
    new = [row["PrivateIpAddress"] for row in reply["AssignedPrivateIpAddresses"]]
    assert len(new) == 2
    assert not set(new) & {row["PrivateIpAddress"] for row in eni["PrivateIpAddresses"]}
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni["NetworkInterfaceId"], PrivateIpAddresses=new)
    prefixes = ec2.assign_private_ip_addresses(NetworkInterfaceId=eni["NetworkInterfaceId"], Ipv4PrefixCount=1)[
        "AssignedIpv4Prefixes"
    ]
    assert prefixes[0]["Ipv4Prefix"].endswith("/28")
    (after,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni["NetworkInterfaceId"]])["NetworkInterfaces"]
    assert after["Ipv4Prefixes"] == prefixes


def test_ipv6_prefixes_are_assigned_and_taken_back(lab: Lab, ec2: Any) -> None:
    eni = attach(lab, ec2)
    prefixes = ec2.assign_ipv6_addresses(NetworkInterfaceId=eni["NetworkInterfaceId"], Ipv6PrefixCount=1)[
        "AssignedIpv6Prefixes"
    ]
    assert prefixes[0].endswith("/80")
    ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni["NetworkInterfaceId"], Ipv6Prefixes=prefixes)


def test_filters_tags_and_pages(lab: Lab, ec2: Any) -> None:
    tag = {"ResourceType": "network-interface", "Tags": [{"Key": "who", "Value": "test"}]}
    made = [
        ec2.create_network_interface(SubnetId=node_subnet(lab), TagSpecifications=[tag])["NetworkInterface"]
        for _ in range(7)
    ]
    filters = [{"Name": "tag:who", "Values": ["te*"]}, {"Name": "status", "Values": ["available"]}]
    first = ec2.describe_network_interfaces(Filters=filters, MaxResults=5)
    second = ec2.describe_network_interfaces(Filters=filters, MaxResults=5, NextToken=first["NextToken"])
    found = [e["NetworkInterfaceId"] for page in (first, second) for e in page["NetworkInterfaces"]]
    assert sorted(found) == sorted(e["NetworkInterfaceId"] for e in made)
    ec2.create_tags(Resources=[found[0]], Tags=[{"Key": "more", "Value": "yes"}])
    tags = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [found[0]]}])["Tags"]
    assert {t["Key"] for t in tags} == {"who", "more"}


def test_delete_on_termination_is_set_on_the_attachment(lab: Lab, ec2: Any) -> None:
    eni = attach(lab, ec2)
    ec2.modify_network_interface_attribute(
        NetworkInterfaceId=eni["NetworkInterfaceId"],
        Attachment={"AttachmentId": eni["Attachment"]["AttachmentId"], "DeleteOnTermination": True},
    )
    (after,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni["NetworkInterfaceId"]])["NetworkInterfaces"]
    assert after["Attachment"]["DeleteOnTermination"] is True


def test_an_unknown_eni_is_refused_with_its_name(lab: Lab, ec2: Any) -> None:
    with pytest.raises(ClientError) as error:
        ec2.describe_network_interfaces(NetworkInterfaceIds=["eni-0123"])
    assert code(error) == "InvalidNetworkInterfaceID.NotFound"
    assert "eni-0123" in error.value.response["Error"]["Message"]


@pytest.mark.parametrize(
    ("word", "status"), [("RequestLimitExceeded", 503), ("UnauthorizedOperation", 403), ("InternalError", 500)]
)
def test_a_fault_gives_its_error_so_often_and_is_logged(lab: Lab, ec2: Any, word: str, status: int) -> None:
    lab.ec2_forget_calls()
    lab.ec2_fault("DescribeSubnets", word, times=1)
    with pytest.raises(ClientError) as error:
        ec2.describe_subnets()
    assert (code(error), error.value.response["ResponseMetadata"]["HTTPStatusCode"]) == (word, status)
    assert len(ec2.describe_subnets()["Subnets"]) == 5
    assert [call["error"] for call in lab.ec2_calls()] == [word, None]
    assert lab.ec2_counts() == {"DescribeSubnets": 2}


def test_a_lost_reply_leaves_the_change_made(lab: Lab, ec2: Any) -> None:
    lab.ec2_fault("CreateNetworkInterface", times=1, lost_reply=True)
    ask = {"SubnetId": node_subnet(lab), "ClientToken": "again", "Description": "once"}
    with pytest.raises(BotoCoreError):
        ec2.create_network_interface(**ask)
    made = ec2.create_network_interface(**ask)["NetworkInterface"]["NetworkInterfaceId"]
    assert [e["NetworkInterfaceId"] for e in lab.ec2_picture() if e["Description"] == "once"] == [made]


def test_describe_can_lag_behind_a_change(lab: Lab, ec2: Any) -> None:
    lab.ec2_settings(describe_lag_s=30)
    made = ec2.create_network_interface(SubnetId=node_subnet(lab))["NetworkInterface"]["NetworkInterfaceId"]
    with pytest.raises(ClientError) as error:
        ec2.describe_network_interfaces(NetworkInterfaceIds=[made])
    assert code(error) == "InvalidNetworkInterfaceID.NotFound"
    lab.ec2_clear()
    assert ec2.describe_network_interfaces(NetworkInterfaceIds=[made])["NetworkInterfaces"]
