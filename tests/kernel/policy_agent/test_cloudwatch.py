"""The flow log in CloudWatch: moto's logs service in the node's namespace, stopped and started at will."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support.waiting import until

if TYPE_CHECKING:
    from tests.kernel.policy_agent.conftest import Node

URL = "http://127.0.0.1:5000"
GROUP = "/aws/eks/shop/cluster"
ACCESS = {
    "AWS_ENDPOINT_URL": URL,
    "AWS_REGION": "us-west-2",
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "CLUSTER_NAME": "shop",
}
READ = f"""
import boto3, json
logs = boto3.client("logs", endpoint_url="{URL}", region_name="us-west-2", aws_access_key_id="a", aws_secret_access_key="b")
streams = logs.describe_log_streams(logGroupName="{GROUP}")["logStreams"]
events = [one for stream in streams
          for one in logs.get_log_events(logGroupName="{GROUP}", logStreamName=stream["logStreamName"])["events"]]
print(json.dumps([[one["logStreamName"] for one in streams], [one["message"] for one in events]]))
"""


class Moto:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "5000"]
        self._running = subprocess.Popen(
            self._node.inside(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            self._running = None

    def seen(self) -> tuple[list[str], list[str]]:
        """Return the streams of the group and the lines in them."""
        command = self._node.inside(sys.executable, "-c", READ)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        if done.returncode != 0:
            return [], []
        streams, lines = json.loads(done.stdout)
        return streams, lines


@pytest.fixture
def moto(node: Node) -> Iterator[Moto]:
    one = Moto(node)
    yield one
    one.stop()


@pytest.mark.spec("policy.5.14", "policy.W-29", "policy.W-32")
def test_denials_are_shipped_in_batches_and_an_absent_service_only_delays_them(node: Node, moto: Moto) -> None:
    node.start_api()
    shipping = {"VPCCNI_AGENT_ENABLE_CLOUDWATCH_LOGS": "true", "LOG_LEVEL_POLICY_AGENT": "info", **ACCESS}
    node.start_agent(VPCCNI_AGENT_ENABLE_POLICY_EVENT_LOGS="true", **shipping)
    pod, friend, stranger = node.pod(), node.pod(), node.pod()
    for one in (pod, friend, stranger):
        node.add(one)
    node.put_policy("p", [pod], ingress=[{"cidr": friend.address}])
    until(lambda: node.count("vpccni_policy_switches") == 1, "the policy", within_s=5.0)
    assert friend.reaches(pod)
    assert not stranger.reaches(pod)
    failed: dict[str, Any] = {"code": "cloud"}
    until(lambda: node.count("vpccni_policy_ship_failures", **failed) >= 1, "the first try", within_s=30.0)
    assert any("does not reach CloudWatch" in reason for reason in node.status().reasons)

    moto.start()
    until(lambda: node.count("vpccni_policy_verdicts_shipped") == 3, "the batch", within_s=40.0)
    (stream,), lines = moto.seen()
    assert stream.startswith("aws-network-policy-agent-audit-")
    text = f"Node: node-1;SIP: {stranger.address};SPORT: "
    assert len(lines) == 3
    assert all(line.startswith(text) and "PolicyVerdict: DENY;Tier: NETWORK_POLICY" in line for line in lines)
    assert node.status().state == "serving"
    began = time.monotonic()
    assert not stranger.reaches(pod)
    until(lambda: node.count("vpccni_policy_verdicts_shipped") == 6, "the next batch", within_s=15.0)
    print(f"shipped after {time.monotonic() - began:.1f} s")
    assert len(moto.seen()[1]) == 6
