"""The helper as a process: an API server with pods, CloudWatch over HTTP, another replica."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import pytest
from support.waiting import until as wait_until

from .conftest import Api, CloudWatch, Helper, a_page, growing

until = partial(wait_until, within_s=30.0)
Start = Callable[..., Helper]


def cycles(helper: Helper) -> float:
    return helper.value("vpccni_helper_cycles")


@pytest.mark.spec("operations.4.5", "operations.17.1", "operations.17.5")
def test_sums_and_deltas_reach_cloudwatch_with_their_own_times_under_the_clusters_name(
    api: Api, cloudwatch: CloudWatch, start: Start
) -> None:
    counted = {"a": 10, "b": 20, "c": 5}
    for name in counted:
        api.add_pod(name, lambda name=name: a_page(counted[name], enis=3))  # type: ignore[misc]
    helper = start(cloudwatch=cloudwatch)
    until(lambda: cycles(helper) >= 2, "two cycles")
    counted["b"] += 7
    until(lambda: sum(value for value, _, _ in cloudwatch.points("addReqCount")) >= 7, "the delta in CloudWatch")
    at = cycles(helper)
    until(lambda: cycles(helper) >= at + 3, "three idle cycles")
    points = cloudwatch.points("addReqCount")
    assert sum(value for value, _, _ in points) == 7, "an idle cluster reports nothing"
    gauges = cloudwatch.points("eniAllocated")
    assert {value for value, _, _ in gauges} == {9}
    assert {unit for _, _, unit in gauges} == {"Count"}
    gaps = [(later[1] - earlier[1]).total_seconds() for earlier, later in pairwise(gauges)]
    assert gaps
    assert all(1 <= gap <= 2 for gap in gaps), "one figure a cycle, each with the time of its cycle"
    assert helper.value("awscni_eni_allocated") == 9
    assert helper.stop() == 0


@pytest.mark.spec("operations.17.5")
def test_the_latencys_unit_is_milliseconds_behind_a_switch(api: Api, cloudwatch: CloudWatch, start: Start) -> None:
    name = "awscni_aws_api_latency_ms"
    more = f'# TYPE {name} summary\n{name}{{api="x",quantile="0.99"}} 42\n'
    api.add_pod("a", lambda: a_page(1, more=more))
    start(cloudwatch=cloudwatch, VPCCNI_LATENCY_UNIT="Milliseconds")
    until(lambda: cloudwatch.points("awsAPILatency"), "the latency")
    assert {(value, unit) for value, _, unit in cloudwatch.points("awsAPILatency")} == {(42.0, "Milliseconds")}


@pytest.mark.spec("operations.17.3")
def test_a_pod_that_returns_garbage_costs_itself_alone(api: Api, start: Start) -> None:
    for number in range(49):
        api.add_pod(f"good-{number}", lambda: a_page(1))
    api.add_pod("bad", lambda: "<html>502</html>")
    api.add_pod("pending", lambda: a_page(1), phase="Pending")
    helper = start()
    until(lambda: cycles(helper) == 1, "a cycle")
    assert helper.value("awscni_eni_allocated") == 98
    assert helper.value("vpccni_helper_scrape_failures") == 1
    warnings = [json.loads(line) for line in helper.log.read_text().splitlines() if '"warning"' in line]
    (left_out,) = [line for line in warnings if line["msg"] == "pods left out"]
    assert left_out["why"].startswith("bad: ")
    assert (left_out["count"], left_out["total"]) == (1, 50)


@pytest.mark.spec("operations.17.7")
def test_a_pod_that_hangs_delays_the_others_less_than_five_seconds(api: Api, start: Start) -> None:
    for number in range(40):
        api.add_pod(f"good-{number}", lambda: a_page(1), namespace="networking")
    api.add_pod("hangs", lambda: None, namespace="networking")
    api.add_pod("elsewhere", lambda: a_page(1, enis=1000))
    helper = start(VPCCNI_AWS_NODE_NAMESPACE="networking", METRIC_UPDATE_INTERVAL="6")
    until(lambda: cycles(helper) == 1, "a cycle")
    assert helper.value("vpccni_helper_cycle_seconds") < 5
    assert helper.value("awscni_eni_allocated") == 80
    assert helper.value("vpccni_helper_scrape_failures") == 1


@pytest.mark.spec("operations.17.7")
def test_a_thousand_pods_of_200_ms_each_take_less_than_30_s(api: Api, start: Start) -> None:
    def slow() -> str:
        time.sleep(0.2)
        return a_page(1)

    for number in range(1000):
        api.add_pod(f"pod-{number}", slow)
    helper = start(METRIC_UPDATE_INTERVAL="25")
    until(lambda: cycles(helper) == 1, "a cycle", within_s=90.0)
    print(f"cycle over 1000 pods: {helper.value('vpccni_helper_cycle_seconds')} s")
    assert helper.value("vpccni_helper_cycle_seconds") < 30
    assert helper.value("awscni_eni_allocated") == 2000


@pytest.mark.spec("operations.17.8")
def test_while_cloudwatch_is_down_no_count_is_lost(api: Api, cloudwatch: CloudWatch, start: Start) -> None:
    counted = [0]
    api.add_pod("a", lambda: a_page(counted[0]))
    helper = start(cloudwatch=cloudwatch, AWS_MAX_ATTEMPTS="1")
    until(lambda: cycles(helper) >= 1, "a cycle")
    cloudwatch.stop()
    try:
        for _ in range(4):
            at = cycles(helper)
            counted[0] += 5
            until(lambda at=at: cycles(helper) >= at + 2, "cycles go on")  # type: ignore[misc]
        until(lambda: helper.value("vpccni_helper_cloudwatch_failures") >= 1, "a failed call")
        assert helper.value("vpccni_helper_cloudwatch_waiting") > 0
    finally:
        cloudwatch.start()
    until(lambda: sum(value for value, _, _ in cloudwatch.points("addReqCount")) == 20, "all counts")


@pytest.mark.spec("operations.17.28")
def test_of_two_replicas_one_publishes_and_the_other_takes_over(api: Api, cloudwatch: CloudWatch, start: Start) -> None:
    api.add_pod("a", growing(10))
    first = start("one", cloudwatch)
    until(lambda: first.value("vpccni_helper_publishes") == 1, "the first publishes")
    second = start("two", cloudwatch)
    until(lambda: cycles(first) >= 5, "the first collects")
    assert second.value("vpccni_helper_publishes") == 0
    assert cycles(second) == 0, "the other does not even ask the pods"
    assert api.lease_holder().startswith("one_")
    first.kill()
    until(lambda: second.value("vpccni_helper_publishes") == 1, "the other takes over")
    assert api.lease_holder().startswith("two_")
    third = start("three", cloudwatch)
    until(lambda: third.page(), "a third waits")
    assert second.stop() == 0
    until(lambda: third.value("vpccni_helper_publishes") == 1, "who ends frees the lease", within_s=10.0)


def test_where_leases_are_forbidden_a_replica_publishes_and_says_so(api: Api, start: Start) -> None:
    api.forbid_leases.append(True)
    api.add_pod("a", lambda: a_page(1))
    helper = start()
    until(lambda: cycles(helper) >= 1, "a cycle")
    assert "run no second" in helper.log.read_text()


def test_the_end_sends_what_waits(api: Api, cloudwatch: CloudWatch, start: Start) -> None:
    counted = [0]
    api.add_pod("a", lambda: a_page(counted[0]))
    helper = start(cloudwatch=cloudwatch, METRIC_UPDATE_INTERVAL="3")
    until(lambda: cycles(helper) >= 2, "two cycles")
    counted[0] = 11
    until(lambda: cycles(helper) >= 3, "a third")
    assert helper.stop() == 0
    assert sum(value for value, _, _ in cloudwatch.points("addReqCount")) == 11


@pytest.fixture
def metadata() -> Iterator[str]:
    """Instance metadata that knows an identity document behind a token."""

    class Metadata(http.server.BaseHTTPRequestHandler):
        instance = "i-none"

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def _send(self, text: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_PUT(self) -> None:
            self._send("the-token")

        def do_GET(self) -> None:
            if self.headers.get("X-aws-ec2-metadata-token") != "the-token":
                return self._send("", 401)
            return self._send(json.dumps({"region": "us-west-2", "instanceId": type(self).instance}))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.spec("operations.4.1")
def test_region_and_cluster_are_looked_up_where_they_are_not_told(
    api: Api, cloudwatch: CloudWatch, start: Start, metadata: str
) -> None:
    """The instance of the metadata has no tags at all in EC2: the name of last resort is used."""
    api.add_pod("a", lambda: a_page(1))
    start(cloudwatch=cloudwatch, AWS_REGION="", AWS_CLUSTER_ID="", AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata)
    until(lambda: cloudwatch.points("eniAllocated", "k8s-cluster"), "figures of the cluster of last resort")


@pytest.mark.spec("operations.17.8")
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [("METRIC_UPDATE_INTERVAL", "0", "Give whole seconds"), ("AWS_REGION", "", "Set AWS_REGION and AWS_CLUSTER_ID")],
)
def test_what_cannot_be_used_ends_the_start_with_one_line(
    start: Start, cloudwatch: CloudWatch, variable: str, value: str, said: str
) -> None:
    nowhere = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"}
    helper = start(cloudwatch=cloudwatch, **{**nowhere, variable: value})
    assert helper.child.wait(timeout=20) == 1
    (line,) = helper.log.read_text().splitlines()
    assert said in line
