from __future__ import annotations

import pytest

from vpccni.components.policy_agent.flags import DEFAULT_LOG, parse


@pytest.mark.spec("policy.5.1")
def test_the_references_flags_are_taken_in_every_form_they_are_written() -> None:
    argv = [
        "--enable-ipv6=false", "--enable-network-policy=true", "--enable-cloudwatch-logs=false", "--enable-policy-event-logs",
        "--log-file=/var/log/x.log", "--metrics-bind-addr=:8162", "--health-probe-bind-addr=:8163",
        "--conntrack-cache-cleanup-period=300", "--log-level=debug", "--run-dir", "/run/x",
    ]  # fmt: skip
    flags, rest = parse(argv, "")
    assert (flags.enabled, flags.event_logs, flags.log_file) == (True, True, "/var/log/x.log")
    assert rest == ["--run-dir", "/run/x"]
    assert "log-level" in flags.ignored


def test_without_flags_the_mode_decides_and_nothing_is_reported() -> None:
    flags, _ = parse([], "")
    assert (flags.enabled, flags.event_logs, flags.log_file, flags.ignored) == (None, False, DEFAULT_LOG, ())


def test_the_line_wins_over_the_variable() -> None:
    flags, _ = parse(["--enable-policy-event-logs=false"], "--enable-policy-event-logs --enable-network-policy=f")
    assert (flags.enabled, flags.event_logs) == (False, False)


def test_a_truth_that_is_none_ends_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--enable-network-policy=maybe"], "")
    assert "neither true nor false" in capsys.readouterr().err
