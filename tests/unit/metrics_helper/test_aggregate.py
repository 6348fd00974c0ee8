from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.metrics_helper.aggregate import Figures, Memory, aggregate
from vpccni.components.metrics_helper.parse import Page, parse

ADDS = "awscni_add_ip_req_count"
ENIS = "awscni_eni_allocated"
LATENCY = "awscni_aws_api_latency_ms"
FIXTURE = """
# TYPE awscni_add_ip_req_count counter
awscni_add_ip_req_count 100
# TYPE awscni_assigned_ip_addresses gauge
awscni_assigned_ip_addresses 1
# TYPE awscni_total_ip_addresses gauge
awscni_total_ip_addresses 10
# TYPE awscni_eni_allocated gauge
awscni_eni_allocated 2
# TYPE awscni_ec2api_req_count counter
awscni_ec2api_req_count{fn="AssignPrivateIpAddresses"} 4
awscni_ec2api_req_count{fn="AttachNetworkInterface"} 1
awscni_ec2api_req_count{fn="CreateNetworkInterface"} 1
awscni_ec2api_req_count{fn="CreateTags"} 1
awscni_ec2api_req_count{fn="DescribeInstances"} 7
awscni_ec2api_req_count{fn="DescribeNetworkInterfaces"} 4
awscni_ec2api_req_count{fn="DescribeSubnets"} 2
awscni_ec2api_req_count{fn="ModifyNetworkInterfaceAttribute"} 1
# TYPE awscni_ec2api_error_count counter
awscni_ec2api_error_count{fn="DescribeInstances"} 0
# TYPE awscni_aws_api_error_count counter
awscni_aws_api_error_count{api="GetMetadata",error="RequestError"} 14
# TYPE awscni_aws_api_latency_ms summary
awscni_aws_api_latency_ms{api="DescribeInstances",quantile="0.5"} NaN
awscni_aws_api_latency_ms{api="DescribeInstances",quantile="0.99"} NaN
awscni_aws_api_latency_ms{api="GetMetadata",quantile="0.5"} 4
awscni_aws_api_latency_ms{api="GetMetadata",quantile="0.99"} 1
awscni_aws_api_latency_ms_sum{api="GetMetadata"} 300
awscni_aws_api_latency_ms_count{api="GetMetadata"} 100
"""


def counts(*adds: float) -> dict[str, Page]:
    return {f"pod-{number}": {ADDS: {"": float(value)}} for number, value in enumerate(adds)}


def cycles(*rounds: dict[str, Page]) -> list[Figures]:
    memory, told = Memory(), []
    for read in rounds:
        memory, figures = aggregate(memory, read, read.keys())
        told.append(figures)
    return told


def adds(*rounds: dict[str, Page]) -> list[float | None]:
    return [figures.values.get(ADDS) for figures in cycles(*rounds)]


@pytest.mark.spec("operations.17.1")
def test_counters_of_three_pods_are_counted_each_for_itself() -> None:
    joined = counts(1, 23, 5, 1000)
    steps = [counts(10, 20, 5), counts(10, 20, 5), counts(11, 22, 5), counts(0, 22, 5), joined, joined]
    assert adds(*steps) == [None, 0, 3, 0, 2, 0]
    backwards = [dict(reversed(step.items())) for step in steps]
    assert adds(*backwards) == adds(*steps)


@pytest.mark.spec("operations.4.4")
def test_one_pod_publishes_its_deltas_from_its_second_page_on() -> None:
    assert adds(*(counts(value) for value in (10, 15, 15, 3, 5))) == [None, 5, 0, 3, 2]


@pytest.mark.spec("operations.17.6")
def test_a_counter_that_began_again_is_counted_from_zero_and_named() -> None:
    told = cycles(counts(10, 20), counts(4, 21))
    assert told[1] == Figures({ADDS: 5.0}, ("pod-0",))


def test_a_series_that_is_new_on_a_known_pod_counts_whole() -> None:
    before: dict[str, Page] = {"pod": {ADDS: {'{a="1"}': 5.0}}}
    after: dict[str, Page] = {"pod": {ADDS: {'{a="1"}': 5.0, '{a="2"}': 3.0}}}
    assert adds(before, after) == [None, 3]


def test_a_pod_that_was_not_read_gives_later_what_it_has() -> None:
    memory, _ = aggregate(Memory(), counts(10), {"pod-0"})
    memory, silent = aggregate(memory, {}, {"pod-0"})
    assert silent.values == {}
    _, later = aggregate(memory, counts(17), {"pod-0"})
    assert later.values == {ADDS: 7}


def test_a_pod_that_is_gone_is_forgotten() -> None:
    memory, _ = aggregate(Memory(), counts(10, 1), {"pod-0", "pod-1"})
    memory, _ = aggregate(memory, counts(10), {"pod-0"})
    assert set(memory.pages) == {"pod-0"}


@pytest.mark.spec("operations.17.2")
def test_a_family_that_the_last_pod_lacks_is_told_all_the_same() -> None:
    forced = "awscni_force_removed_enis"
    first: dict[str, Page] = {"a": {forced: {"": 1.0}}, "b": {ADDS: {"": 1.0}}}
    second: dict[str, Page] = {"a": {forced: {"": 3.0}}, "b": {ADDS: {"": 2.0}}}
    assert cycles(first, second)[1].values == {forced: 2, ADDS: 1}


@pytest.mark.spec("operations.4.7")
def test_the_references_first_fixture_has_its_figures() -> None:
    page = parse(FIXTURE)
    _, first = aggregate(Memory(), {"pod": page}, {"pod"})
    assert first.values == {
        "awscni_assigned_ip_addresses": 1,
        "awscni_total_ip_addresses": 10,
        ENIS: 2,
        LATENCY: 1,
    }, "counters have nothing to be compared with yet"
    empty = {family: dict.fromkeys(samples, 0.0) for family, samples in page.items()}
    _, whole = aggregate(Memory({"pod": empty}), {"pod": page}, {"pod"})
    assert whole.values == first.values | {
        ADDS: 100,
        "awscni_ec2api_req_count": 21,
        "awscni_ec2api_error_count": 0,
        "awscni_aws_api_error_count": 14,
    }
    assert len(page["awscni_ec2api_req_count"]) == 8


@pytest.mark.spec("operations.4.7")
def test_the_references_second_fixture_has_its_figures() -> None:
    text = """
# TYPE awscni_assigned_ip_addresses gauge
awscni_assigned_ip_addresses 1
# TYPE awscni_total_ip_addresses gauge
awscni_total_ip_addresses 16
# TYPE awscni_total_ipv4_prefixes gauge
awscni_total_ipv4_prefixes 1
# TYPE awscni_assigned_ip_per_cidr gauge
awscni_assigned_ip_per_cidr{cidr="10.1.72.240/28"} 1
awscni_assigned_ip_per_cidr{cidr="10.1.72.5/32"} 0
"""
    _, figures = aggregate(Memory(), {"pod": parse(text)}, {"pod"})
    assert sorted(figures.values.values()) == [1, 1, 1, 16]


def latencies(*samples: tuple[str, float, float]) -> Page:
    return {
        LATENCY: {
            f'{part}{{api="{api}"}}': value
            for api, took, calls in samples
            for part, value in (("_sum", took), ("_count", calls))
        }
    }


@pytest.mark.spec("operations.17.4")
def test_without_quantiles_the_slowest_mean_since_the_last_page_is_told() -> None:
    first = {"a": latencies(("Create", 1000, 10)), "b": latencies(("Describe", 50, 5))}
    second = {"a": latencies(("Create", 1600, 12), ("Tag", 20, 1)), "b": latencies(("Describe", 50, 5))}
    assert [figures.values.get(LATENCY) for figures in cycles(first, second, second)] == [None, 300, None]


@pytest.mark.parametrize(("nans", "told"), [(["NaN"], None), (["NaN", "4.5"], 4.5), (["7", "NaN"], 7)])
def test_a_quantile_that_is_no_number_never_wins(nans: list[str], told: float | None) -> None:
    lines = [f'{LATENCY}{{api="{number}",quantile="0.99"}} {text}' for number, text in enumerate(nans)]
    page = parse(f"# TYPE {LATENCY} summary\n" + "\n".join(lines) + "\n")
    assert cycles({"pod": page})[0].values.get(LATENCY) == told


GROWTH = st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=1, max_size=6)


@given(GROWTH, st.permutations(range(3)), st.sets(st.tuples(st.integers(0, 4), st.integers(0, 2))))
def test_what_is_told_adds_up_to_what_happened_whatever_the_order_and_whoever_was_silent(
    steps: list[list[int]], order: Sequence[int], silent: set[tuple[int, int]]
) -> None:
    """Three pods that all answer first and last: in between any of them may be silent in any cycle."""
    totals, memory, told = [0, 0, 0], Memory(), 0.0
    memory, _ = aggregate(memory, counts(*totals), {"pod-0", "pod-1", "pod-2"})
    for cycle, grown in enumerate(steps):
        totals = [before + more for before, more in zip(totals, grown, strict=True)]
        page = counts(*totals)
        is_last = cycle == len(steps) - 1
        read = {f"pod-{at}": page[f"pod-{at}"] for at in order if is_last or (cycle, at) not in silent}
        memory, figures = aggregate(memory, read, page.keys())
        assert figures.values.get(ADDS, 0) >= 0
        told += figures.values.get(ADDS, 0)
    assert told == sum(map(sum, steps))


@given(st.lists(st.lists(st.integers(0, 50), min_size=2, max_size=2), min_size=1, max_size=8))
def test_no_counter_is_ever_told_as_negative_and_an_idle_cycle_as_zero(pages: list[list[int]]) -> None:
    rounds = [counts(*page) for page in pages]
    assert all(value is None or value >= 0 for value in adds(*rounds))
    assert adds(*rounds, rounds[-1])[-1] == 0
