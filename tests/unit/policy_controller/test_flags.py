"""The command line as the reference writes it."""

from __future__ import annotations

import pytest

from vpccni.components.policy_controller.flags import Flags, duration_s, read


def test_without_flags_the_references_defaults_hold() -> None:
    assert read([]) == Flags()
    assert (Flags().endpoint_chunk_size, Flags().pod_update_batch_period_s, Flags().metrics_bind_addr) == (200, 1.0, ":8080")  # fmt: skip


def test_values_are_written_as_in_go() -> None:
    given = read(["--enable-configmap-check=false", "--endpoint-chunk-size", "50", "--pod-update-batch-period-duration=1m30s", "--enable-leader-election"])  # fmt: skip
    assert (given.enable_configmap_check, given.endpoint_chunk_size, given.pod_update_batch_period_s) == (False, 50, 90.0)  # fmt: skip
    assert given.enable_leader_election


def test_an_unknown_log_level_means_info() -> None:
    assert (read(["--log-level=trace"]).log_level, read(["--log-level=debug"]).log_level) == ("info", "debug")


@pytest.mark.parametrize(
    "argv",
    [
        ["--endpoint-chunk-size=0"],
        ["--max-concurrent-reconciles=many"],
        ["--pod-update-batch-period-duration=map[]"],
        ["--enable-configmap-check=perhaps"],
        ["--enable-goprofiling"],
        ["--no-such-flag"],
    ],
)
def test_what_cannot_be_read_or_done_ends_the_start(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read(argv)
    assert ended.value.code == 2


def test_durations() -> None:
    assert [duration_s(text) for text in ("0", "500ms", "1.5s", "1h")] == [0.0, 0.5, 1.5, 3600.0]
    with pytest.raises(ValueError, match="no duration"):
        duration_s("1")
