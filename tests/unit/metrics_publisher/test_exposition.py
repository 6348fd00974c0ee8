from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from vpccni.components.metrics_publisher.exposition import merged, render
from vpccni.components.metrics_publisher.sources import Source
from vpccni.shared.messages.common import Counter, Gauge, Status


def source(process: str, counters: list[Counter], gauges: list[Gauge]) -> Source:
    one = Source(process)
    one.take(
        Status(
            process=process, pid=1, epoch="e", started_at=0, now=0, state="serving", counters=counters, gauges=gauges
        ),
        5.0,
    )
    return one


def page() -> str:
    latency = {"api": "DescribeInstances", "error": "false", "status": "200"}
    manager = source(
        "eni_manager",
        [
            Counter("awscni_aws_api_latency_ms_sum", 12.5, latency),
            Counter("awscni_aws_api_latency_ms_count", 2, latency),
            Counter("vpccni_bus_events", 3),
        ],
        [Gauge("awscni_ipamd_action_inprogress", 1, {"fn": "nodeInit"})],
    )
    allocator = source(
        "ip_allocator",
        [Counter("awscni_del_ip_req_count", 4, {"reason": 'Pod"Deleted\\\n'}), Counter("vpccni_bus_events", 9)],
        [],
    )
    counters, gauges = merged([manager, allocator, Source("policy_agent")], {}, 6.0)
    return render(counters, gauges)


def test_names_are_exact_without_total_or_created_and_families_are_typed() -> None:
    text = page()
    assert "# TYPE awscni_aws_api_latency_ms summary" in text
    assert 'awscni_aws_api_latency_ms_sum{api="DescribeInstances",error="false",status="200"} 12.5' in text
    assert "# TYPE awscni_add_ip_req_count counter\nawscni_add_ip_req_count 0" in text
    assert "awscni_ec2api_req_count" not in text, "a label vector shows nothing until its first value"
    assert "_created" not in text
    assert "req_count_total" not in text


def test_our_own_names_carry_the_process_and_the_public_ones_do_not() -> None:
    text = page()
    assert 'vpccni_bus_events{process="eni_manager"} 3' in text
    assert 'vpccni_bus_events{process="ip_allocator"} 9' in text
    assert 'awscni_ipamd_action_inprogress{fn="nodeInit"} 1' in text


def test_a_source_never_heard_is_stale_and_down() -> None:
    text = page()
    assert 'vpccni_source_stale{process="policy_agent"} 1' in text
    assert 'vpccni_source_stale{process="eni_manager"} 0' in text
    assert 'vpccni_source_up{process="eni_manager"} 1' in text


def test_the_official_parser_reads_the_page_with_labels_unescaped() -> None:
    families = {family.name: family for family in text_string_to_metric_families(page())}
    (sample,) = families["awscni_del_ip_req_count"].samples
    assert sample.labels == {"reason": 'Pod"Deleted\\\n'}
    assert families["awscni_aws_api_latency_ms"].type == "summary"
    assert len(page().splitlines()) == len(set(page().splitlines())), "no series twice"


def test_a_histogram_is_one_family_with_its_buckets_in_order() -> None:
    name = "awscni_ipamd_startup_duration_seconds"
    ends = {"success": "true"}
    bounds = {"0.5": 0, "2.5": 1, "10": 1, "+Inf": 1, "5": 1}
    buckets = [Counter(f"{name}_bucket", seen, {"le": le, **ends}) for le, seen in bounds.items()]
    totals = [Counter(f"{name}_sum", 1.5, ends), Counter(f"{name}_count", 1, ends)]
    text = render(*merged([source("eni_manager", [*buckets, *totals], [])], {}, 6.0))
    shown = [line for line in text.splitlines() if name in line]
    assert shown[1:] == [
        f"# TYPE {name} histogram",
        f'{name}_bucket{{le="0.5",success="true"}} 0',
        f'{name}_bucket{{le="2.5",success="true"}} 1',
        f'{name}_bucket{{le="5",success="true"}} 1',
        f'{name}_bucket{{le="10",success="true"}} 1',
        f'{name}_bucket{{le="+Inf",success="true"}} 1',
        f'{name}_count{{success="true"}} 1',
        f'{name}_sum{{success="true"}} 1.5',
    ]
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families[name].type == "histogram"


def test_a_quantile_belongs_to_its_summary() -> None:
    name, labels = "awscni_aws_api_latency_ms", {"api": "DescribeInstances", "error": "false", "status": "200"}
    sums = [Counter(f"{name}_sum", 12.5, labels), Counter(f"{name}_count", 2, labels)]
    quantiles = [
        Gauge(name, 9.5, {**labels, "quantile": "0.99"}),
        Gauge(name, float("nan"), {"api": "x", "quantile": "0.99"}),
    ]
    text = render(*merged([source("eni_manager", sums, quantiles)], {}, 6.0))
    (family,) = [one for one in text_string_to_metric_families(text) if one.name == name]
    assert (family.type, len(family.samples)) == ("summary", 4)
    assert text.count(f"# TYPE {name} summary") == 1
