"""Public labels of EC2 calls, and how many series failures make."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vpccni.components.eni_manager.cloud import Cloud
from vpccni.shared.errors import CloudRefused
from vpccni.shared.log import Log
from vpccni.shared.loop import Loop


class Counting:
    """A process as far as the calls see it: it counts."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.log = Log("eni_manager", level="error")
        self.gauges: dict[tuple[str, tuple[tuple[str, str], ...]], Callable[[], float]] = {}
        self.counted: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        self.counted[(name, tuple(sorted(labels.items())))] += 1 if name.endswith("_sum") else int(value)

    def gauge(self, name: str, value: Callable[[], float], **labels: str) -> None:
        self.gauges[(name, tuple(sorted(labels.items())))] = value

    def series(self, name: str) -> set[tuple[tuple[str, str], ...]]:
        return {labels for one, labels in self.counted if one == name}


@pytest.fixture
def process() -> Iterator[Counting]:
    one = Counting()
    yield one
    one.loop.close()


@pytest.fixture
def cloud(process: Counting) -> Cloud:
    return Cloud(process, on_denied=lambda api, sentence: None)  # type: ignore[arg-type]  # what it uses of a process


def refused(api: str, number: int) -> CloudRefused:
    why = f"An error occurred (RequestLimitExceeded): request id {number:032x}"
    return CloudRefused("EC2 refuses", api=api, error_code="RequestLimitExceeded", why=why)


@pytest.mark.spec("operations.17.10")
def test_ten_thousand_failures_with_one_code_make_one_series(process: Counting, cloud: Cloud) -> None:
    for number in range(10_000):
        cloud.left_over("FreeENIDeleteErr", refused("DeleteNetworkInterface", number))
    labels = (("error", "RequestLimitExceeded"), ("fn", "FreeENIDeleteErr"))
    assert process.counted == {("awscni_aws_utils_error_count", labels): 10_000}


@pytest.mark.spec("operations.17.16", "operations.2.4")
@pytest.mark.parametrize(
    ("api", "timed_as"),
    [("DescribeInstances", "DescribeInstances"), ("AssignIpv6Addresses", "AssignIpv6AddressesWithContext")],
)
def test_the_labels_of_a_call_are_those_that_dashboards_know(
    process: Counting, cloud: Cloud, api: str, timed_as: str
) -> None:
    def fails() -> Any:
        raise refused(api, 1)

    call = process.loop.spawn(cloud.call(api, lambda: "answer"), name="works")
    assert process.loop.run_until(call, timeout_s=5) == "answer"
    assert process.series("awscni_aws_api_latency_ms_count") == {
        (("api", timed_as), ("error", "false"), ("status", "200"))
    }
    failing = process.loop.spawn(cloud.call(api, fails), name="fails")
    failing.when_done(lambda: None)
    with pytest.raises(CloudRefused):
        process.loop.run_until(failing, timeout_s=5)
    assert (("api", timed_as), ("error", "true"), ("status", "RequestLimitExceeded")) in process.series(
        "awscni_aws_api_latency_ms_count"
    )
    assert process.series("awscni_ec2api_req_count") == process.series("awscni_ec2api_error_count") == {(("fn", api),)}
    assert process.counted[("awscni_ec2api_req_count", (("fn", api),))] == 2, "each call counts, the failed one too"
    assert process.series("awscni_aws_api_error_count") == {(("api", api), ("error", "RequestLimitExceeded"))}


@pytest.mark.spec("operations.17.4")
def test_the_summary_tells_its_quantile_and_is_one_family_on_the_page(process: Counting, cloud: Cloud) -> None:
    def slow() -> None:
        time.sleep(0.05)

    for work in (slow, lambda: None, lambda: None):
        process.loop.run_until(process.loop.spawn(cloud.call("DescribeInstances", work), name="call"), timeout_s=5)
    labels = (("api", "DescribeInstances"), ("error", "false"), ("quantile", "0.99"), ("status", "200"))
    assert 50 <= process.gauges[("awscni_aws_api_latency_ms", labels)]() < 500
