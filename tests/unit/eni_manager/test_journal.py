"""The intents on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpccni.components.eni_manager.facts import NewEni
from vpccni.components.eni_manager.journal import CREATE, DETACH, Intent, Journal
from vpccni.shared.names import SubnetId

NEW = NewEni(
    token="t", subnet_id=SubnetId("subnet-1"), groups=("sg-1",), description="d", tags=(("k", "v"),), addresses=3
)  # fmt: skip
INTENTS = [Intent(token="t", step=CREATE, card=0, new=NEW), Intent(token="u", step=DETACH, card=0, eni_id="eni-1")]
STORED = (
    b'{"version":1,"intents":[{"token":"t","step":"create","card":0,"eni_id":"","device":-1,"new":{"token":"t",'
    b'"subnet_id":"subnet-1","groups":["sg-1"],"description":"d","tags":[["k","v"]],"addresses":3}},'
    b'{"token":"u","step":"detach","card":0,"eni_id":"eni-1","device":-1,"new":null}]}'
)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "eni_manager.journal")
    assert journal.load() == []
    journal.save(INTENTS)
    assert journal.load() == INTENTS
    assert [path.name for path in tmp_path.iterdir()] == ["eni_manager.journal"]


def test_stored_bytes_of_version_1_are_read(tmp_path: Path) -> None:
    (tmp_path / "eni_manager.journal").write_bytes(STORED)
    assert Journal(tmp_path / "eni_manager.journal").load() == INTENTS


@pytest.mark.parametrize("junk", [b"", b"{", b'{"version":2,"intents":[]}', b'{"version":1}', b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_kept_aside(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "eni_manager.journal"
    path.write_bytes(junk)
    with pytest.raises(ValueError, match="is kept as eni_manager"):
        Journal(path).load()
    assert (tmp_path / "eni_manager.bad").read_bytes() == junk
    assert Journal(path).load() == []
