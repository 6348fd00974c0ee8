"""Plugins are asked for their versions as they are: real ones, missing ones, and programs that are none."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vpccni.cni import versions
from vpccni.cni.versions import ask, ask_all, common

DEBIAN = Path("/usr/lib/cni")


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_real_plugin_tells_what_it_speaks() -> None:
    spoken = ask(DEBIAN / "portmap")
    assert {"0.3.1", "0.4.0", "1.0.0"} <= spoken


def test_what_gives_no_usable_answer_is_named_and_speaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "ANSWER_WITHIN_S", 0.5)
    program(tmp_path / "good", """echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}'""")
    bad = {
        "fails": "exit 3",
        "hangs": "exec sleep 60",
        "babbles": "echo hello",
        "lists": "echo '[1]'",
        "empty": "echo '{}'",
        "binary": "printf '\\377\\376'",
    }
    for name, script in bad.items():
        program(tmp_path / name, script)
    (tmp_path / "not-executable").write_text("x")
    begin = time.monotonic()
    answers, trouble = ask_all(["good", *bad, "not-executable", "missing"], tmp_path)
    assert time.monotonic() - begin < 3
    assert answers.pop("good") == {"0.4.0", "1.0.0"}
    assert set(answers.values()) == {frozenset()}
    assert len(trouble) == len(bad) + 2
    for name, sentence in zip([*bad, "not-executable", "missing"], trouble, strict=True):
        assert str(tmp_path / name) in sentence
    assert common({"good": frozenset({"0.4.0"}), **answers}) == ()
