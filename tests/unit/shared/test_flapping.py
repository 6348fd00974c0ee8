"""A process that dies at once again and again waits longer and longer, up to a limit; a few deaths cost nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpccni.shared.clock import boottime
from vpccni.shared.flapping import FIRST_WAIT_S, STARTS_FREE, WAIT_AT_MOST_S, WINDOW_S, slow_down, wait_s


@pytest.mark.parametrize(
    ("starts", "wait"),
    [
        (0, 0.0),
        (STARTS_FREE, 0.0),
        (STARTS_FREE + 1, FIRST_WAIT_S),
        (STARTS_FREE + 2, 2 * FIRST_WAIT_S),
        (STARTS_FREE + 20, WAIT_AT_MOST_S),
    ],
)
def test_the_wait_doubles_from_the_first_start_too_many(starts: int, wait: float) -> None:
    assert wait_s([100.0] * starts, 100.0) == wait


def test_starts_long_ago_and_starts_of_a_later_boot_time_do_not_count() -> None:
    long_ago = 100.0 - WINDOW_S - WAIT_AT_MOST_S
    assert wait_s([long_ago] * 30 + [100.1] * 30, 100.0) == 0.0


def test_each_start_is_noted_and_junk_in_the_file_stops_nobody(tmp_path: Path) -> None:
    noted = tmp_path / "policy_agent.starts"
    noted.write_text("no numbers")
    begin = boottime()
    assert slow_down(tmp_path, "policy_agent") == 0.0
    assert slow_down(tmp_path, "policy_agent") == 0.0
    first, second = (float(word) for word in noted.read_text().split())
    assert begin - 0.001 <= first <= second <= boottime() + 0.001
