from __future__ import annotations

import pytest

from vpccni.shared.units import duration, size


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (90061, "1 d 1 h")]
)
def test_lengths_of_time_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (4096, "4.0 KiB"), (1 << 50, "1024.0 TiB")])
def test_bytes_have_a_unit(count: int, text: str) -> None:
    assert size(count) == text
