from __future__ import annotations

import json

import pytest

from vpccni.components.metrics_publisher.introspection import COMMANDS, answer, is_found, rfc3339
from vpccni.components.metrics_publisher.pool import Picture
from vpccni.shared.messages.inventory import NodeFacts
from vpccni.shared.settings import read

SETTINGS = read({}).settings


@pytest.mark.spec("operations.3.3")
def test_enis_have_the_references_shape(picture: Picture) -> None:
    card = json.loads(answer("/v1/enis", picture, SETTINGS))["0"]
    assert (card["TotalIPs"], card["AssignedIPs"], sorted(card["ENIs"])) == (18, 1, ["eni-a", "eni-b"])
    primary = card["ENIs"]["eni-a"]
    assert primary | {"AvailableIPv4Cidrs": {}} == {
        "ID": "eni-a",
        "IsPrimary": True,
        "IsTrunk": False,
        "IsEFA": False,
        "DeviceNumber": 0,
        "AvailableIPv4Cidrs": {},
        "IPv6Cidrs": {},
        "IsExcludedForPodIPs": False,
        "RouteTableID": 254,
        "SubnetID": "subnet-1",
    }
    assert card["ENIs"]["eni-b"]["RouteTableID"] == 2
    assert primary["AvailableIPv4Cidrs"]["10.0.0.5/32"] == {
        "Cidr": {"IP": "10.0.0.5", "Mask": "/////w=="},
        "IPAddresses": {
            "10.0.0.5": {
                "Address": "10.0.0.5",
                "IPAMKey": {"networkName": "aws-cni", "containerID": "", "ifName": ""},
                "IPAMMetadata": {"k8sPodNamespace": "default", "k8sPodName": "web"},
                "AssignedTime": "2023-11-14T22:13:20.12Z",
                "UnassignedTime": "0001-01-01T00:00:00Z",
            }
        },
        "IsPrefix": False,
        "AddressFamily": "4",
    }
    prefix = card["ENIs"]["eni-b"]["AvailableIPv4Cidrs"]["10.0.0.16/28"]
    assert (prefix["Cidr"]["Mask"], prefix["IsPrefix"]) == ("////8A==", True)
    cooling = prefix["IPAddresses"]["10.0.0.17"]
    assert (cooling["IPAMKey"]["networkName"], cooling["UnassignedTime"]) == ("", "2023-11-14T22:13:21Z")


@pytest.mark.parametrize("path", ["/", "/v1/pods", "/v1/enis/"])
def test_an_unknown_path_gets_the_list_of_commands(path: str) -> None:
    assert json.loads(answer(path, Picture(), SETTINGS)) == {"AvailableCommands": list(COMMANDS)}


@pytest.mark.spec("operations.3.4")
def test_settings_are_shown_parsed() -> None:
    assert json.loads(answer("/v1/networkutils-env-settings", Picture(), SETTINGS)) == {
        "AWS_VPC_K8S_CNI_CONNMARK": 128,
        "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": None,
        "AWS_VPC_K8S_CNI_EXTERNALSNAT": False,
        "AWS_EXTERNAL_SERVICE_CIDRS": None,
        "AWS_VPC_ENI_MTU": 9001,
        "AWS_VPC_K8S_CNI_VETHPREFIX": "eni",
        "AWS_VPC_CNI_NODE_PORT_SUPPORT": True,
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT": 2,
    }


@pytest.mark.spec("operations.3.5")
def test_the_pools_settings_are_those_of_the_process() -> None:
    settings = read(
        {
            "WARM_IP_TARGET": "5",
            "WARM_ENI_TARGET": "2",
            "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true",
            "AWS_MANAGE_ENIS_NON_SCHEDULABLE": "true",
            "ENABLE_SUBNET_DISCOVERY": "false",
        }
    ).settings
    assert json.loads(answer("/v1/ipamd-env-settings", Picture(), settings)) == {
        "WARM_IP_TARGET": 5,
        "WARM_ENI_TARGET": 2,
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": True,
        "AWS_MANAGE_ENIS_NON_SCHEDULABLE": True,
        "ENABLE_SUBNET_DISCOVERY": False,
    }
    assert json.loads(answer("/v1/ipamd-env-settings", Picture(), SETTINGS)) == {
        "WARM_IP_TARGET": 0,
        "WARM_ENI_TARGET": 1,
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": False,
        "AWS_MANAGE_ENIS_NON_SCHEDULABLE": False,
        "ENABLE_SUBNET_DISCOVERY": True,
    }


@pytest.mark.spec("operations.3.2")
def test_the_eni_config_is_a_bare_name_and_not_found_without_the_node() -> None:
    assert not is_found("/v1/eni-configs", Picture())
    assert not is_found("/v1/eni-configs", Picture(node=NodeFacts(node_name="n", exists=False)))
    known = Picture(node=NodeFacts(node_name="n", exists=True, eni_config="zone-a"))
    assert is_found("/v1/eni-configs", known)
    assert answer("/v1/eni-configs", known, SETTINGS) == '"zone-a"'
    assert is_found("/v1/enis", Picture())


def test_times_are_printed_as_go_prints_them() -> None:
    assert rfc3339(0) == "0001-01-01T00:00:00Z"
    assert rfc3339(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
    assert rfc3339(1_700_000_000_000_000_000) == "2023-11-14T22:13:20Z"


def test_before_any_event_there_is_an_empty_card() -> None:
    assert json.loads(answer("/v1/enis", Picture(), SETTINGS)) == {"0": {"TotalIPs": 0, "AssignedIPs": 0, "ENIs": {}}}
