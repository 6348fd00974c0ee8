"""The operator's environment: each parsing rule with the texts that mean something else than they look."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.shared.settings import UNSUPPORTED_BOOLS, Settings, read
from vpccni.shared.settings_file import KNOWN, unknown_names


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("WARM_ENI_TARGET", "0", "warm_eni_target", 0),
        ("WARM_ENI_TARGET", "-1", "warm_eni_target", 1),
        ("WARM_ENI_TARGET", "two", "warm_eni_target", 1),
        ("WARM_ENI_TARGET", "+2", "warm_eni_target", 2),
        ("WARM_ENI_TARGET", " 2", "warm_eni_target", 1),
        ("WARM_IP_TARGET", "", "warm_ip_target", 0),
        ("MAX_ENI", "0", "max_eni", 0),
        ("ANNOTATE_POD_IP", "true", "annotate_pod_ip", True),
        ("ANNOTATE_POD_IP", "", "annotate_pod_ip", False),
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "yes", "external_snat", False),
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "T", "external_snat", True),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0x100", "connmark", 0x100),
        ("AWS_VPC_K8S_CNI_CONNMARK", "010", "connmark", 8),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0", "connmark", 0x80),
        ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "PRNG", "randomize_snat", "prng"),
        ("HTTP_TIMEOUT", "9", "http_timeout_s", 10),
        ("NETWORK_POLICY_ENFORCING_MODE", "Strict", "network_policy_mode", "strict"),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "10.1.2.3/8, bad ,fd00::/8", "exclude_snat_cidrs", ("10.0.0.0/8",)),
        ("ADDITIONAL_ENI_TAGS", '{"team":"a","x.k8s.amazonaws.com/y":"b"}', "additional_eni_tags", {"team": "a"}),
        ("ADDITIONAL_ENI_TAGS", '{"team":1}', "additional_eni_tags", {}),
        ("INTROSPECTION_BIND_ADDRESS", "", "introspection_bind_address", ""),
        ("ENABLE_MULTI_NIC", "true", "multi_nic", True),
        ("ENABLE_MULTI_NIC", "yes", "multi_nic", False),
        ("ENABLE_IPv6", "yes", "ipv6", False),
        ("ENABLE_IPv4", "", "ipv6", False),
    ],
)
@pytest.mark.spec("dataplane.18.38")
def test_a_text_means_what_its_rule_says(name: str, text: str, field: str, value: object) -> None:
    reading = read({name: text})
    assert not reading.errors
    assert getattr(reading.settings, field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("IP_COOLDOWN_PERIOD", "-1"),
        ("IP_COOLDOWN_PERIOD", ""),
        ("AWS_VPC_ENI_MTU", "9002"),
        ("POD_MTU", "575"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "eth"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "toolong"),
        ("AWS_VPC_K8S_PLUGIN_LOG_FILE", "stdout"),
        ("NETWORK_POLICY_ENFORCING_MODE", ""),
        ("ENABLE_IPv4", "false"),
        *((name, "true") for name in UNSUPPORTED_BOOLS),
    ],
)
def test_what_cannot_be_used_stops_the_start_and_is_named(name: str, text: str) -> None:
    errors = read({name: text}).errors
    assert len(errors) == 1
    assert name in errors[0]


IPV6 = {"ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}


def test_an_ipv6_node_has_no_leak_sweep_and_needs_no_word_on_ipv4() -> None:
    for more in ({}, {"ENABLE_IPv4": "false"}, {"ENABLE_IPv4": "junk"}):
        reading = read({**IPV6, **more})
        assert not reading.errors
        assert (reading.settings.ipv6, reading.settings.leaked_eni_cleanup) == (True, False)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"ENABLE_IPv4": "true"}, "ENABLE_IPv4"),
        ({"ENABLE_PREFIX_DELEGATION": "false"}, "ENABLE_PREFIX_DELEGATION"),
        ({"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true"}, "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"),
        ({"AWS_VPC_ENI_MTU": "1279"}, "AWS_VPC_ENI_MTU"),
        ({"POD_MTU": "1279"}, "POD_MTU"),
    ],
)
def test_what_does_not_go_with_ipv6_stops_the_start(change: dict[str, str], word: str) -> None:
    errors = read({**IPV6, **change}).errors
    assert len(errors) == 1
    assert word in errors[0]


@given(st.dictionaries(st.sampled_from(sorted(KNOWN)), st.text(max_size=12), max_size=8))
def test_no_environment_makes_reading_raise(raw: dict[str, str]) -> None:
    settings = read(raw).settings
    assert isinstance(settings, Settings)
    assert 576 <= settings.eni_mtu <= 9001


def test_a_misspelt_setting_is_found_and_a_known_one_is_not() -> None:
    assert unknown_names({"WARM_ENI_TARGTE": "1", "WARM_ENI_TARGET": "1", "PATH": "/bin"}) == ["WARM_ENI_TARGTE"]


def test_every_setting_has_a_value_without_any_environment() -> None:
    settings = read({}).settings
    assert all(getattr(settings, field.name) is not None for field in dataclasses.fields(settings))
