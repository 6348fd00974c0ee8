"""Adapter of CloudWatch, and of the one EC2 call that may tell the cluster's id: the only module that imports boto3.

Calls block and carry a time limit: run them in a thread. boto3's standard retries are left on (spec operations.md 4.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import boto3
from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError, ClientError

from vpccni.components.metrics_helper.outbox import Datum
from vpccni.shared.effects import effect
from vpccni.shared.errors import CloudRefused

NAMESPACE: Final = "Kubernetes"  # spec operations.md 4.5
DIMENSION: Final = "CLUSTER_ID"
CONNECT_TIMEOUT_S: Final = 3
FOR_EVER: Final = frozenset(
    {
        "InvalidParameterValue",
        "InvalidParameterCombination",
        "MissingParameter",
        "ValidationError",
        "MissingRequiredParameter",
    }
)
"""Codes about the figures themselves: the same call would fail again."""


class CloudWatch:
    """Publishes figures of one cluster."""

    def __init__(self, *, region: str, cluster_id: str, version: str, timeout_s: float) -> None:
        self._cluster_id = cluster_id
        with _refusals("CreateClient"):
            self._client: Any = boto3.client("cloudwatch", config=_config(region, version, timeout_s))

    def put(self, data: Sequence[Datum]) -> None:
        """PutMetricData, at most 20 data. Raises CloudRefused; after an empty code nobody knows whether it was taken."""
        dimension = [{"Name": DIMENSION, "Value": self._cluster_id}]
        rows = [
            {
                "MetricName": one.metric,
                "Dimensions": dimension,
                "Unit": one.unit,
                "Value": one.value,
                "Timestamp": datetime.fromtimestamp(one.at, tz=UTC),
            }
            for one in data
        ]
        with _refusals("PutMetricData"), effect("cloudwatch.put"):
            self._client.put_metric_data(Namespace=NAMESPACE, MetricData=rows)


def tags_of(instance_id: str, *, region: str, version: str, timeout_s: float) -> dict[str, str]:
    """DescribeTags of one instance. Raises CloudRefused."""
    with _refusals("DescribeTags"):
        client = boto3.client("ec2", config=_config(region, version, timeout_s))
        reply = client.describe_tags(Filters=[{"Name": "resource-id", "Values": [instance_id]}])
        client.close()
    return {tag["Key"]: tag["Value"] for tag in reply["Tags"]}


def is_final(error: CloudRefused) -> bool:
    """Return whether CloudWatch will never take these figures."""
    return error.error_code in FOR_EVER


def _config(region: str, version: str, timeout_s: float) -> ClientConfig:
    return ClientConfig(
        region_name=region,
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=timeout_s,
        retries={"mode": "standard"},
        user_agent=f"amazon-vpc-cni-k8s/{version}",
    )


@contextmanager
def _refusals(api: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise CloudRefused("AWS refuses", api=api, error_code=code, on=api, why=str(error)) from error
    except (BotoCoreError, OSError) as error:
        raise CloudRefused("AWS does not answer", api=api, error_code="", on=api, why=str(error)) from error
