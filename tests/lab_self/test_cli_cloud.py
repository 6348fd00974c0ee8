"""`vpccni lab fault` and `vpccni lab ec2` from the shell: each fault takes effect, a typo is an error that names the right word."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError  # noqa: TID253  (a client from outside)

from vpccni.lab.api import Lab
from vpccni.lab.cli import main

USAGE = 2


def run(lab: Lab, *argv: str) -> int:
    return main([*argv, "--name", lab.name])


def refusal(call: Any, **params: Any) -> str:
    with pytest.raises(ClientError) as error:
        call(**params)
    return str(error.value.response["Error"]["Code"])


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["ec2", "AssignPrivateIPAddresses", "--error", "Throttling"], "did you mean AssignPrivateIpAddresses?"),
        (["ec2", "CreateTags", "--error", "RequestLimitExeeded"], "did you mean RequestLimitExceeded?"),
        (["ec2", "CreateTags", "--times", "few"], "no whole number"),
        (["deny", "CreateTag"], "did you mean CreateTags?"),
        (["throttle", "much"], "no size"),
        (["lag", "soon"], "no number of seconds"),
        (["subnet", "nodes-a"], "one of the arguments"),
        (["subnet", "nodes-a", "--tag", "novalue"], "KEY=VALUE"),
        (["imds", "node-1", "--path", "metadata/mac"], "no metadata path"),
        (["imds", "node-1", "--path", "meta-data/mac", "--status", "200"], "400 to 599"),
        (["imsd", "node-1"], "invalid choice"),
    ],
)
def test_a_typo_is_a_usage_error_that_helps(argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fault", *argv])
    assert end.value.code == USAGE
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [(["subnet", "nodes-z", "--leave", "1"], "nodes-a"), (["imds", "node-9", "--stale", "5"], "node-1")],
)
def test_what_the_lab_does_not_have_is_named_with_what_it_has(
    lab: Lab, argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(lab, "fault", *argv) == 1
    assert hint in capsys.readouterr().err


def test_faults_of_calls_take_effect_and_end(lab: Lab, ec2: Any) -> None:
    assert run(lab, "fault", "ec2", "DescribeSubnets", "--error", "InternalError", "--times", "1") == 0
    assert refusal(ec2.describe_subnets) == "InternalError"
    ec2.describe_subnets()
    run(lab, "fault", "deny", "DescribeSubnets", "CreateTags")
    assert refusal(ec2.describe_subnets) == "UnauthorizedOperation"
    run(lab, "fault", "allow", "*")
    ec2.describe_subnets()
    run(lab, "fault", "ec2", "DescribeSubnets", "--latency-ms", "300")
    begin = time.monotonic()
    ec2.describe_subnets()
    assert time.monotonic() - begin > 0.3
    run(lab, "fault", "throttle", "0.01")
    codes = {refusal(ec2.create_tags, Resources=["eni-0"], Tags=[{"Key": "a", "Value": "b"}]) for _ in range(3)}
    assert "RequestLimitExceeded" in codes
    run(lab, "fault", "clear")
    ec2.describe_subnets()


def test_faults_of_subnets_take_effect_and_end(lab: Lab, ec2: Any) -> None:
    def shown() -> Any:
        (row,) = ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": ["small-a"]}])["Subnets"]
        return row

    before = shown()["AvailableIpAddressCount"]
    run(lab, "fault", "subnet", "small-a", "--leave", "2")
    assert shown()["AvailableIpAddressCount"] == 2
    run(lab, "fault", "subnet", "small-a", "--fragment")
    assert shown()["AvailableIpAddressCount"] == before - 4
    run(lab, "fault", "subnet", "small-a", "--tag", "kubernetes.io/role/cni=0")
    assert {"Key": "kubernetes.io/role/cni", "Value": "0"} in shown()["Tags"]
    run(lab, "fault", "subnet", "small-a", "--untag", "kubernetes.io/role/cni")
    run(lab, "fault", "clear")
    assert shown()["AvailableIpAddressCount"] == before
    assert [tag["Key"] for tag in shown()["Tags"]] == ["Name"]


def test_list_shows_what_misbehaves(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run(lab, "fault", "lag", "3")
    run(lab, "fault", "imds", "node-1", "--path", "meta-data/mac", "--status", "404", "--hide", "eni-1")
    run(lab, "fault", "imds", "node-1", "--latency-ms", "5")
    capsys.readouterr()
    run(lab, "fault", "list")
    shown = json.loads(capsys.readouterr().out)
    assert shown["describe_lag_s"] == 3
    metadata = shown["metadata"]["node-1"]
    assert (metadata["statuses"], metadata["missing_enis"], metadata["latency_ms"]) == (
        {"meta-data/mac": 404},
        ["eni-1"],
        5,
    )


def test_calls_are_shown_in_order_with_their_outcome(lab: Lab, ec2: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(lab, "ec2", "forget")
    ec2.describe_subnets()
    refusal(ec2.delete_network_interface, NetworkInterfaceId="eni-0")
    capsys.readouterr()
    run(lab, "ec2", "calls")
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1:] == ["DescribeSubnets", "ok"]
    assert second.split()[1:] == ["DeleteNetworkInterface", "InvalidNetworkInterfaceID.NotFound", "eni-0"]
    run(lab, "ec2", "calls", "--refused", "--json")
    assert [call["action"] for call in json.loads(capsys.readouterr().out)] == ["DeleteNetworkInterface"]
    run(lab, "ec2", "counts")
    assert "1  DescribeSubnets" in capsys.readouterr().out
