from __future__ import annotations

import json
from typing import Any

import pytest

from vpccni.components.policy_agent.layout import PROGRAM_MAPS, PROGRAMS
from vpccni.components.policy_agent.objectfile import ObjectRefused, Program, patched, read, source_hash

GOOD: dict[str, Any] = {
    "format": 2,
    "hash": "h",
    "programs": [{"name": name, "code": "00" * 24, "maps": [[1, "pods"]]} for name in PROGRAMS],
    "maps": [
        [one.name, one.kind, one.key_bytes, one.value_bytes, one.entries_at_most, one.flags] for one in PROGRAM_MAPS
    ],
}


def test_a_file_of_this_source_reads() -> None:
    assert read(json.dumps(GOOD).encode(), of="h", where="f").hash == "h"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 3}, "has format 3"),
        ({"hash": "other"}, "made of source other"),
        ({"maps": GOOD["maps"][:1]}, "not those of this agent"),
        ({"programs": GOOD["programs"][:1]}, "must hold the programs"),
        ({"programs": "none"}, "does not read"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ObjectRefused, match=why) as caught:
        read(json.dumps(GOOD | change).encode(), of="h", where="/image/pod.json")
    assert "/image/pod.json" in str(caught.value)


def test_a_truncated_file_is_refused() -> None:
    with pytest.raises(ObjectRefused, match="does not read"):
        read(json.dumps(GOOD).encode()[:50], of="h", where="f")


def test_descriptors_land_in_the_immediates_of_their_instructions() -> None:
    code = patched(Program("p", "00" * 24, [(1, "pods")]), {"pods": 7})
    assert code[12:16] == (7).to_bytes(4, "little")
    assert code.count(0) == 23


def test_the_source_hash_changes_with_source_and_header() -> None:
    assert len({source_hash("a", "b"), source_hash("ab", ""), source_hash("a", "c")}) == 3
