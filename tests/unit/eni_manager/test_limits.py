"""The table of limits."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from vpccni.components.eni_manager.limits import eni_limit, find_limits, limits_of, parse_row

TABLE = files("vpccni.components.eni_manager").joinpath("limits.tsv").read_text()


@pytest.mark.parametrize(
    ("instance_type", "enis", "slots", "cards", "max_pods"),
    [
        ("m5.large", 3, 9, 1, 29),
        ("t3.small", 3, 3, 1, 11),
        ("m5.24xlarge", 15, 49, 1, 737),
        ("p4d.24xlarge", 15, 49, 4, 737),
    ],
)
def test_known_types(instance_type: str, enis: int, slots: int, cards: int, max_pods: int) -> None:
    limits = find_limits(TABLE, instance_type)
    assert limits is not None
    assert (limits.enis, limits.slots, len(limits.cards), limits.max_pods) == (enis, slots, cards, max_pods)


def test_bare_metal_and_hypervisor_are_told() -> None:
    metal, old = find_limits(TABLE, "m5.metal"), find_limits(TABLE, "m4.large")
    assert metal is not None
    assert old is not None
    assert (metal.bare_metal, old.bare_metal, old.hypervisor) == (True, False, "xen")


def test_an_unknown_type_is_not_guessed_from_a_similar_name() -> None:
    assert find_limits(TABLE, "m5.larg") is None
    assert find_limits(TABLE, "5.large") is None


def test_every_row_survives_reading_and_writing() -> None:
    for row in TABLE.strip().split("\n")[1:]:
        assert parse_row(row).row(row.split("\t")[0]) == row


def test_a_reply_without_cards_is_one_card() -> None:
    described = json.loads(
        '{"NetworkInfo": {"Ipv4AddressesPerInterface": 4, "MaximumNetworkInterfaces": 2}, "BareMetal": false}'
    )
    limits = limits_of(described)
    assert (limits.cards, limits.slots, limits.hypervisor) == (((0, 2),), 3, "unknown")


def test_max_eni_only_lowers() -> None:
    limits = find_limits(TABLE, "m5.large")
    assert limits is not None
    assert [eni_limit(limits, 0, value) for value in (None, 0, 2, 99)] == [3, 3, 2, 3]
