"""The conflist is the contract's, key by key (spec dataplane.md 4.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vpccni.cni.conflist import VERSIONS_VARIABLE, chained, render, versions_in
from vpccni.shared.settings import read

DEFAULT: dict[str, Any] = {
    "cniVersion": "0.4.0",
    "name": "aws-cni",
    "disableCheck": True,
    "plugins": [
        {
            "name": "aws-cni",
            "type": "aws-cni",
            "vethPrefix": "eni",
            "mtu": "9001",
            "podSGEnforcingMode": "strict",
            "pluginLogFile": "/var/log/aws-routed-eni/plugin.log",
            "pluginLogLevel": "Debug",
            "capabilities": {"io.kubernetes.cri.pod-annotations": True},
        },
        {
            "name": "egress-cni",
            "type": "egress-cni",
            "mtu": "9001",
            "enabled": "false",
            "randomizeSNAT": "prng",
            "nodeIP": "",
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "fd00::ac:00/118"}]],
                "routes": [{"dst": "::/0"}],
                "dataDir": "/run/cni/v4pd/egress-v6-ipam",
            },
            "pluginLogFile": "/var/log/aws-routed-eni/egress-v6-plugin.log",
            "pluginLogLevel": "Debug",
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    ],
}
BANDWIDTH = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
TUNING = {
    "type": "tuning",
    "sysctl": {f"net.ipv6.conf.{name}.disable_ipv6": "1" for name in ("all", "default", "lo")},
}


def rendered(**environment: str) -> dict[str, Any]:
    reading = read(environment)
    assert not reading.errors
    document = json.loads(render(reading.settings))
    assert isinstance(document, dict)
    return document


def test_without_settings_it_is_the_contracts_in_the_contracts_order() -> None:
    document = rendered()
    assert document == DEFAULT
    assert list(document) == list(DEFAULT)
    assert [list(plugin) for plugin in document["plugins"]] == [list(plugin) for plugin in DEFAULT["plugins"]]


@pytest.mark.parametrize(
    ("environment", "more"),
    [
        ({"ENABLE_BANDWIDTH_PLUGIN": "true"}, [BANDWIDTH]),
        ({"DISABLE_POD_V6": "true"}, [TUNING]),
        ({"ENABLE_BANDWIDTH_PLUGIN": "true", "DISABLE_POD_V6": "true"}, [BANDWIDTH, TUNING]),
        ({"ENABLE_BANDWIDTH_PLUGIN": "false", "DISABLE_POD_V6": "false"}, []),
    ],
)
def test_bandwidth_and_tuning_come_last_and_only_when_asked_for(
    environment: dict[str, str], more: list[dict[str, Any]]
) -> None:
    document = rendered(**environment)
    assert document["plugins"] == DEFAULT["plugins"] + more
    assert document["plugins"][2]["snat"] is True


@pytest.mark.parametrize(
    ("environment", "mtu"),
    [
        ({"AWS_VPC_ENI_MTU": "1500"}, "1500"),
        ({"POD_MTU": "1400"}, "1400"),
        ({"AWS_VPC_ENI_MTU": "1500", "POD_MTU": "1400"}, "1400"),
    ],
)
def test_the_mtu_is_a_string_in_both_plugins(environment: dict[str, str], mtu: str) -> None:
    assert [plugin["mtu"] for plugin in rendered(**environment)["plugins"][:2]] == [mtu, mtu]


def test_settings_stand_where_the_plugins_look() -> None:
    own, egress, *_ = rendered(
        AWS_VPC_K8S_CNI_VETHPREFIX="abc",
        AWS_VPC_K8S_PLUGIN_LOG_LEVEL="INFO",
        AWS_VPC_K8S_CNI_RANDOMIZESNAT="none",
    )["plugins"]
    assert (own["vethPrefix"], own["pluginLogLevel"], egress["pluginLogLevel"]) == ("abc", "INFO", "INFO")
    assert egress["randomizeSNAT"] == "none"


def test_another_run_folder_is_told_to_both_plugins_and_to_no_other() -> None:
    document = json.loads(render(read({}).settings, Path("/somewhere")))
    places = [(plugin.get("frontDoor"), plugin.get("spoolDir")) for plugin in document["plugins"]]
    here = ("/somewhere/front-door.sock", "/somewhere/spool")
    assert places == [here, here, (None, None)]


@pytest.mark.parametrize(
    ("versions", "listed", "is_checked"),
    [
        ("", None, False),
        ("0.4.0", None, False),
        ("0.4.0,1.0.0", ["0.4.0", "1.0.0"], False),
        ("0.4.0,1.0.0,1.1.0", ["0.4.0", "1.0.0", "1.1.0"], True),
    ],
)
def test_versions_and_check_go_as_far_as_the_whole_chain(
    versions: str, listed: list[str] | None, is_checked: bool
) -> None:
    spoken = versions_in({VERSIONS_VARIABLE: versions})
    document = json.loads(render(read({}).settings, versions=spoken))
    assert document["cniVersion"] == "0.4.0"
    assert document.get("cniVersions") == listed
    assert document.get("disableCheck") == (None if is_checked else True)


def test_only_foreign_plugins_are_asked() -> None:
    environment = {"ENABLE_BANDWIDTH_PLUGIN": "true", "DISABLE_POD_V6": "true"}
    assert chained(read(environment).settings) == ["portmap", "bandwidth", "tuning"]


def test_check_stays_off_with_bandwidth_which_crashes_on_it() -> None:
    settings = read({"ENABLE_BANDWIDTH_PLUGIN": "true"}).settings
    document = json.loads(render(settings, versions=["0.4.0", "1.0.0", "1.1.0"]))
    assert document["disableCheck"] is True
    assert document["cniVersions"] == ["0.4.0", "1.0.0", "1.1.0"]
