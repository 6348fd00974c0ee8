"""The simulated fleet is a true one in small: every pod is served, EC2 is asked for what the plan needs, and a quiet fleet changes nothing."""

from __future__ import annotations

from pathlib import Path

from vpccni.bench import fleet

NODES = 5
CHANGES = ("CreateNetworkInterface", "AttachNetworkInterface", "ModifyNetworkInterfaceAttribute")


def test_every_pod_of_a_burst_is_served_with_the_fewest_calls(tmp_path: Path) -> None:
    line = fleet.burst(tmp_path, NODES)
    assert not line.errors
    assert len(line.waited) == line.pods == NODES * fleet.FEW
    assert line.throttled == 0
    assert {name: number for name, number in line.calls.items() if not name.startswith("Describe")} == dict.fromkeys(
        CHANGES, NODES
    )


def test_a_quiet_fleet_changes_nothing(tmp_path: Path) -> None:
    line = fleet.steady(tmp_path, NODES)
    assert not line.errors
    assert [name for name in line.calls if not name.startswith("Describe")] == []


def test_a_roll_costs_two_reads_a_node_beside_the_usual_ones_and_no_change(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    rolled, quiet = fleet.roll(tmp_path / "a", NODES), fleet.steady(tmp_path / "b", NODES)
    assert [name for name in rolled.calls if not name.startswith("Describe")] == []
    assert sum(rolled.calls.values()) <= sum(quiet.calls.values()) + 4 * NODES


def test_pods_are_served_after_an_outage(tmp_path: Path) -> None:
    line = fleet.outage(tmp_path, NODES)
    assert not line.errors
    assert len(line.waited) == line.pods
    assert line.failed_adds > 0
