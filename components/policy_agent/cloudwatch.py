"""Adapter of CloudWatch Logs: the only module of the agent that imports boto3, and imported only where shipping is on.

Calls block: run them in a thread. Nothing of it is needed for the agent's start: group and stream are made with the first lines, and
again when somebody deleted them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from vpccni.components.policy_agent.shipping import Line
from vpccni.shared.effects import effect
from vpccni.shared.errors import CloudRefused
from vpccni.shared.instance_identity import identity

CLUSTER_TAG: Final = "aws:eks:cluster-name"  # spec policy.md 5.14
UNNAMED_GROUP: Final = "/aws/k8s-cluster/cluster"
GROUP: Final = "/aws/eks/{}/cluster"
STREAM: Final = "aws-network-policy-agent-audit-{}"
ALREADY_THERE: Final = "ResourceAlreadyExistsException"
GONE: Final = "ResourceNotFoundException"
CONNECT_TIMEOUT_S: Final = 3
READ_TIMEOUT_S: Final = 10


class Logs:
    """One log stream, its name new with each process. `region` and `cluster` empty: the instance and its tags tell."""

    def __init__(self, *, region: str, cluster: str, metadata: str, version: str) -> None:
        self._region, self._cluster, self._metadata, self._version = region, cluster, metadata, version
        self._stream = STREAM.format(uuid.uuid4())
        self._client: Any = None
        self._group = ""

    def put(self, lines: Sequence[Line]) -> None:
        """PutLogEvents, at most as many as `shipping` takes. Raises CloudRefused; the same lines may be given again."""
        if not self._group:
            self._make_place()
        events = [{"timestamp": line.at_ms, "message": line.text} for line in lines]
        try:
            with _refusals("PutLogEvents"), effect("cloudwatch.put_log_events"):
                self._client.put_log_events(logGroupName=self._group, logStreamName=self._stream, logEvents=events)
        except CloudRefused as error:
            if error.error_code == GONE:
                self._group = ""
            raise

    def _make_place(self) -> None:
        region, instance = self._region, ""
        if not region or not self._cluster:
            found, instance = identity(self._metadata, remedy="Set AWS_REGION and CLUSTER_NAME")
            region = region or found
        cluster = self._cluster or self._tagged(instance, region)
        group = GROUP.format(cluster) if cluster else UNNAMED_GROUP
        with _refusals("CreateClient"):
            self._client = self._client or boto3.client("logs", config=self._config(region))
        with _refusals("CreateLogGroup", but=ALREADY_THERE):
            self._client.create_log_group(logGroupName=group)
        with _refusals("CreateLogStream", but=ALREADY_THERE):
            self._client.create_log_stream(logGroupName=group, logStreamName=self._stream)
        self._group = group

    def _tagged(self, instance: str, region: str) -> str:
        """Return the cluster's name by the instance's tag; empty when there is none, or nobody may ask."""
        try:
            with _refusals("DescribeTags"):
                client: Any = boto3.client("ec2", config=self._config(region))
                filters = [
                    {"Name": "resource-id", "Values": [instance]},
                    {"Name": "key", "Values": [CLUSTER_TAG]},
                ]
                tags = client.describe_tags(Filters=filters)["Tags"]
                client.close()
        except CloudRefused:
            return ""
        return str(tags[0]["Value"]) if tags else ""

    def _config(self, region: str) -> Config:
        return Config(
            region_name=region,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard"},
            user_agent=f"aws-network-policy-agent/{self._version}",
        )


@contextmanager
def _refusals(api: str, *, but: str = "") -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code != but:
            raise CloudRefused("AWS refuses", api=api, error_code=code, on=api, why=str(error)) from error
    except (BotoCoreError, OSError) as error:
        raise CloudRefused("AWS does not answer", api=api, error_code="", on=api, why=str(error)) from error
