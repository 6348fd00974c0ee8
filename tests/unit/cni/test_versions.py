"""What the chain speaks together: never more than its most modest plugin."""

from __future__ import annotations

import pytest

from vpccni.cni.versions import common

NEW = frozenset({"0.3.1", "0.4.0", "1.0.0", "1.1.0"})
DEBIANS = frozenset({"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"})
ANCIENT = frozenset({"0.1.0", "0.2.0"})


@pytest.mark.parametrize(
    ("answers", "spoken"),
    [
        ({"portmap": NEW}, ("0.4.0", "1.0.0", "1.1.0")),
        ({"portmap": DEBIANS}, ("0.4.0", "1.0.0")),
        ({"portmap": NEW, "bandwidth": DEBIANS}, ("0.4.0", "1.0.0")),
        ({"portmap": NEW, "bandwidth": ANCIENT}, ()),
        ({"portmap": frozenset[str]()}, ()),
        ({}, ("0.4.0", "1.0.0", "1.1.0")),
    ],
)
def test_a_version_counts_when_all_speak_it(answers: dict[str, frozenset[str]], spoken: tuple[str, ...]) -> None:
    assert common(answers) == spoken
