"""The agent's command line tool: its commands and words."""

from __future__ import annotations

import pytest

from vpccni.components.policy_agent.cli import duration, main


@pytest.mark.parametrize(
    ("ms", "text"), [(0, "0ms"), (999, "999ms"), (1500, "1.5s"), (61_000, "1m1s"), (3_723_500, "1h2m3.5s")]
)
def test_ages_are_in_the_references_words(ms: int, text: str) -> None:
    assert duration(ms) == text


@pytest.mark.spec("policy.5.16")
def test_the_group_alone_says_nothing_and_a_bad_number_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ebpf"]) == 0
    assert capsys.readouterr().out == ""
    for command in ("dump-maps", "d", "dump-cp-maps", "dcp"):
        assert main(["ebpf", command, "0"]) == 0
        assert capsys.readouterr().out == "Failed to execute the cmd -  Invalid mapID\n"
