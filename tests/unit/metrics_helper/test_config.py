from __future__ import annotations

import pytest

from vpccni.components.metrics_helper.config import read
from vpccni.shared.errors import SettingsError


@pytest.mark.spec("operations.4.1")
def test_without_anything_cloudwatch_is_on_every_30_s_and_prometheus_is_off() -> None:
    config = read([], {})
    assert (config.use_cloudwatch, config.use_prometheus, config.interval_s) == (True, False, 30)
    assert (config.namespace, config.bind_address, config.latency_unit) == ("kube-system", ":61681", "Count")


@pytest.mark.parametrize(
    ("flag", "variable", "on"),
    [
        ("--cloudwatch=false", "", False),
        ("--cloudwatch=false", "YES", True),
        ("--cloudwatch=false", "true", True),
        ("--cloudwatch=true", "No", False),
        ("--cloudwatch", "maybe", True),
        ("--cloudwatch=0", "1", False),
        ("-cloudwatch=false", "", False),
    ],
)
@pytest.mark.spec("operations.4.1", "env.7")
def test_the_variable_overrides_the_flag_with_the_words_yes_true_no_false(flag: str, variable: str, on: bool) -> None:
    assert read([flag], {"USE_CLOUDWATCH": variable}).use_cloudwatch is on


@pytest.mark.parametrize("text", ["0", "-5", "x", "", "1.5", "1_0", "99999999", "٣"])
@pytest.mark.spec("operations.17.8")
def test_an_interval_that_is_no_positive_number_stops_the_start_and_says_what_is_right(text: str) -> None:
    with pytest.raises(SettingsError, match="Give whole seconds"):
        read([], {"METRIC_UPDATE_INTERVAL": text})


@pytest.mark.parametrize("argv", [["--cloudwatch=yes"], ["--nonsense"]])
def test_arguments_that_are_none_stop_the_start(argv: list[str]) -> None:
    with pytest.raises(SettingsError):
        read(argv, {})


def test_a_unit_that_is_none_stops_the_start() -> None:
    assert read([], {"VPCCNI_LATENCY_UNIT": "Milliseconds"}).latency_unit == "Milliseconds"
    with pytest.raises(SettingsError):
        read([], {"VPCCNI_LATENCY_UNIT": "ms"})


@pytest.mark.spec("operations.17.7")
def test_the_namespace_of_the_node_pods_can_be_told() -> None:
    config = read([], {"VPCCNI_AWS_NODE_NAMESPACE": "networking", "POD_NAMESPACE": "monitoring"})
    assert (config.namespace, config.own_namespace) == ("networking", "monitoring")


def test_the_http_timeout_is_at_least_ten_seconds() -> None:
    assert [read([], {"HTTP_TIMEOUT": text}).http_timeout_s for text in ("", "9", "x", "25")] == [10, 10, 10, 25]


def test_a_kubeconfig_flag_replaces_the_variable() -> None:
    assert read(["--kubeconfig", "/a"], {"KUBECONFIG": "/b"}).raw["KUBECONFIG"] == "/a"
