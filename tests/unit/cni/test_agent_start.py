"""The flags of the reference's agent as the environment of ours."""

from __future__ import annotations

import pytest

from vpccni.cni.agent_start import environment

CHART = """--enable-ipv6=false --enable-network-policy=true --enable-cloudwatch-logs=false --enable-policy-event-logs=false
    --log-file=/var/log/aws-routed-eni/network-policy-agent.log --metrics-bind-addr=:8162 --health-probe-bind-addr=:8163
    --conntrack-cache-cleanup-period=300 --conntrack-cache-table-size=524288 --log-level=info""".split()


def test_every_flag_of_the_chart_becomes_a_variable() -> None:
    assert environment(CHART, {"MY_NODE_NAME": "n"}) == {
        "MY_NODE_NAME": "n",
        "LOG_LEVEL_POLICY_AGENT": "info",
        "VPCCNI_LOG_FILE": "/var/log/aws-routed-eni/network-policy-agent.log",
        "VPCCNI_AGENT_ENABLE_IPV6": "false",
        "VPCCNI_AGENT_ENABLE_NETWORK_POLICY": "true",
        "VPCCNI_AGENT_ENABLE_CLOUDWATCH_LOGS": "false",
        "VPCCNI_AGENT_ENABLE_POLICY_EVENT_LOGS": "false",
        "VPCCNI_AGENT_LOG_FILE": "/var/log/aws-routed-eni/network-policy-agent.log",
        "VPCCNI_AGENT_METRICS_BIND_ADDR": ":8162",
        "VPCCNI_AGENT_HEALTH_PROBE_BIND_ADDR": ":8163",
        "VPCCNI_AGENT_CONNTRACK_CACHE_CLEANUP_PERIOD": "300",
        "VPCCNI_AGENT_CONNTRACK_CACHE_TABLE_SIZE": "524288",
        "VPCCNI_AGENT_LOG_LEVEL": "info",
    }


def test_without_flags_the_log_is_the_containers() -> None:
    assert environment([], {}) == {"VPCCNI_LOG_FILE": "stderr"}
    assert environment(["--log-file="], {})["VPCCNI_LOG_FILE"] == "stderr"


def test_a_level_of_the_chart_goes_before_the_flag() -> None:
    assert environment(CHART, {"LOG_LEVEL_POLICY_AGENT": "warn"})["LOG_LEVEL_POLICY_AGENT"] == "warn"


def test_a_flag_alone_is_true() -> None:
    assert environment(["--enable-network-policy"], {})["VPCCNI_AGENT_ENABLE_NETWORK_POLICY"] == "true"
    assert environment(["--enable-ipv6=T"], {})["VPCCNI_AGENT_ENABLE_IPV6"] == "true"


@pytest.mark.parametrize(
    "flag",
    [
        "--conntrack-cache-table-size=32767",
        "--conntrack-cache-table-size=1048577",
        "--conntrack-cache-cleanup-period=soon",
        "--enable-network-policy=maybe",
        "--enable-everything",
        "--log-lev=info",
    ],
)
def test_flags_that_cannot_be_meant_end_it(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        environment([flag], {})
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("vpccni agent-start: ")
