from __future__ import annotations

from vpccni.components.policy_agent import layout


def test_an_entry_reads_back_as_it_was_written() -> None:
    entry = layout.PodEntry.of(7, link="eni1", sandbox="a", rule_set=9)
    assert layout.PodEntry.unpacked(entry.packed()) == entry
    assert len(entry.packed()) == layout.PODS.value_bytes


def test_only_its_own_sandbox_or_an_unknown_one_holds_an_entry() -> None:
    assert layout.PodEntry.of(7, link="eni1", sandbox="a").is_held_by("a")
    assert not layout.PodEntry.of(7, link="eni1", sandbox="a").is_held_by("b")
    assert layout.PodEntry.of(7, link="eni1").is_held_by("b")


def test_counts_are_summed_over_the_cpus() -> None:
    values = b"".join(number.to_bytes(8, "little") for number in (3, 300, 1, 2, 4, 400, 5, 6))
    assert layout.summed(values) == layout.Count(7, 700, 6, 8)


def test_the_header_defines_every_constant_the_programs_use() -> None:
    header = layout.header()
    for name in ("PODS_AT_MOST", "VERDICT_DROP", "DIRECTION_EGRESS", "SIDE_ISOLATED", "struct pod_entry"):
        assert name in header


def test_the_layout_is_the_one_that_pins_of_this_release_carry() -> None:
    """Another value here means other pins: pods are carried over, counters begin anew. Change it knowingly."""
    assert layout.LAYOUT == "346c15b64cde"
