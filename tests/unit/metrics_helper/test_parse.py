from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from vpccni.components.metrics_helper.families import FORWARDED, SUMMARY
from vpccni.components.metrics_helper.parse import Unreadable, parse

LABELS = st.dictionaries(
    st.sampled_from(["fn", "api", "error"]),
    st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=6),
)
VALUES = st.floats(allow_nan=False, allow_infinity=False, width=32)


def written(labels: dict[str, str]) -> str:
    escaped = {name: text.replace("\\", "\\\\").replace('"', '\\"') for name, text in labels.items()}
    return "{" + ",".join(f'{name}="{text}"' for name, text in sorted(escaped.items())) + "}" if labels else ""


@given(st.lists(st.tuples(LABELS, VALUES), max_size=5, unique_by=lambda pair: tuple(sorted(pair[0].items()))))
def test_it_reads_what_prometheus_own_parser_reads(series: list[tuple[dict[str, str], float]]) -> None:
    name = "awscni_ec2api_req_count"
    text = f"# TYPE {name} counter\n" + "".join(f"{name}{written(labels)} {value!r}\n" for labels, value in series)
    (family,) = text_string_to_metric_families(text)
    assert sorted(parse(text).get(name, {}).values()) == sorted(sample.value for sample in family.samples)
    assert len(parse(text).get(name, {})) == len(series)


def test_only_what_is_forwarded_and_typed_as_it_should_be_is_kept() -> None:
    text = """
# HELP awscni_eni_max ENIs
# TYPE awscni_eni_max gauge
awscni_eni_max 3 1700000000000
awscni_ip_max 9
# TYPE awscni_add_ip_req_count gauge
awscni_add_ip_req_count 5
# TYPE go_goroutines gauge
go_goroutines 12
# TYPE awscni_aws_api_latency_ms summary
awscni_aws_api_latency_ms{api="a",quantile="0.99"} NaN
awscni_aws_api_latency_ms_sum{api="a"} 7.5
awscni_aws_api_latency_ms_count{api="a"} 2
awscni_eni_max_sum 4
"""
    page = parse(text)
    assert set(page) == {"awscni_eni_max", "awscni_aws_api_latency_ms"}
    assert page["awscni_eni_max"] == {"": 3}
    assert set(page["awscni_aws_api_latency_ms"]) == {'{api="a",quantile="0.99"}', '_sum{api="a"}', '_count{api="a"}'}


@pytest.mark.parametrize(
    "line",
    ["<html>", "awscni_eni_max", "awscni_eni_max three", 'awscni_eni_max{a="b} 1', "1x 2", "awscni_eni_max{a=b} 1"],
)
@pytest.mark.spec("operations.17.3")
def test_a_page_with_a_line_that_is_no_sample_is_refused_and_the_line_named(line: str) -> None:
    with pytest.raises(Unreadable, match="line 2"):
        parse(f"# TYPE awscni_eni_max gauge\n{line}\nawscni_eni_max 1\n")


@pytest.mark.spec("operations.4.3")
def test_twenty_families_are_forwarded_each_under_a_name_of_its_own() -> None:
    assert len(FORWARDED) == len({one.metric for one in FORWARDED.values()}) == 20
    assert [name for name, one in FORWARDED.items() if one.kind == SUMMARY] == ["awscni_aws_api_latency_ms"]
