"""The bench's table: budgets are judged the right way round, and a run is compared with the one before."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from vpccni.bench import __main__ as bench
from vpccni.bench.rows import RATE_UNIT, Row, percentiles, ratio, table


@pytest.mark.parametrize(
    ("unit", "figure", "budget", "met"),
    [
        ("ms", 3.9, 4.0, True),
        ("ms", 4.1, 4.0, False),
        (RATE_UNIT, 299.0, 300.0, False),
        (RATE_UNIT, 301.0, 300.0, True),
        ("ms", math.nan, 4.0, False),
        (RATE_UNIT, math.nan, 300.0, False),
    ],
)
def test_more_is_better_only_for_rates_and_nothing_measured_is_no_success(
    unit: str, figure: float, budget: float, met: bool
) -> None:
    assert Row(name="x", unit=unit, figures={"p50": figure}, budget={"p50": budget}).met() is met


def test_a_row_is_met_only_when_all_its_budgets_are() -> None:
    row = Row(name="x", unit="ms", figures={"p50": 1.0, "p99": 20.0}, budget={"p50": 4.0, "p99": 12.0})
    assert row.met() is False
    assert Row(name="x", unit="ms", figures={"p50": 1.0}).met() is None


def test_percentiles_are_nearest_ranks_in_milliseconds() -> None:
    assert percentiles([n / 1000 for n in range(1, 101)]) == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert percentiles([0.007]) == {"p50": 7.0, "p90": 7.0, "p99": 7.0}
    assert all(math.isnan(value) for value in percentiles([]).values())


def test_the_ratio_is_of_the_same_figure_and_missing_where_there_is_no_earlier_one() -> None:
    row = Row(name="ADD", unit="ms", figures={"p50": 3.0, "p99": 9.0})
    assert ratio(row, {"ADD": {"p50": 2.0, "p99": 1.0}}) == 1.5
    assert ratio(row, {}) is None
    assert ratio(row, {"ADD": {"p50": 0.0}}) is None
    assert ratio(Row(name="ADD", unit="ms", figures={"p50": math.nan}), {"ADD": {"p50": 2.0}}) is None


def test_the_table_names_what_was_missed() -> None:
    rows = [
        Row(name="ADD", unit="ms", figures={"p50": 3.0}, budget={"p50": 4.0}),
        Row(name="DEL", unit="ms", figures={"p50": 9.0}, budget={"p50": 3.0}, note="why"),
    ]
    _, first, second = table(rows, {"ADD": {"p50": 6.0}}).splitlines()
    assert "met" in first
    assert "0.50" in first
    assert "MISSED" in second
    assert second.endswith("why")


def test_a_run_is_compared_with_the_newest_of_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    assert bench.last_run(quick=True) == {}
    for stamp, quick in (("2026-01-01", True), ("2026-01-02", True), ("2026-01-03", False)):
        (tmp_path / f"{stamp}.json").write_text(json.dumps({"utc": stamp, "quick": quick}))
    assert bench.last_run(quick=True)["utc"] == "2026-01-02"
    assert bench.last_run(quick=False)["utc"] == "2026-01-03"
