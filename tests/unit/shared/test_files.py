"""A file replaced as a whole keeps its old content until the new one is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpccni.shared import effects
from vpccni.shared.files import replace_file


def test_content_and_mode_are_those_asked_for_and_nothing_temporary_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    effects.record(True)
    replace_file(path, b"new", mode=0o640, owner="test")
    assert effects.record(False) == ["test.write", "test.rename"]
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_replacement_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        replace_file(path, b"new", mode=0o600, owner="test")
    assert list(tmp_path.iterdir()) == [path]
