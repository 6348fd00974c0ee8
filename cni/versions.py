"""Which versions of the CNI specification the whole chain speaks: each plugin is asked its VERSION, before a runtime relies on it.

`conflist` writes `cniVersion` 0.4.0 for runtimes that know nothing newer, and beside it `cniVersions`, of which newer ones take the
highest. A plugin that is missing, silent or talks nonsense speaks for no other version than 0.4.0.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from vpccni.cni.conflist import NEWEST, OLDEST

OFFERED: Final = (OLDEST, "1.0.0", NEWEST)
"""Versions a chain may be run in, lowest first (spec dataplane.md 15)."""
ANSWER_WITHIN_S: Final = 2.0
QUESTION: Final = json.dumps({"cniVersion": OFFERED[-1]}).encode()


def common(answers: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Return those of `OFFERED` that every plugin speaks, lowest first; none when one speaks none."""
    return tuple(version for version in OFFERED if all(version in spoken for spoken in answers.values()))


def ask_all(types: Iterable[str], folder: Path) -> tuple[dict[str, frozenset[str]], list[str]]:
    """Return what each plugin in `folder` speaks, and a sentence for each that gave no usable answer (it speaks nothing)."""
    answers: dict[str, frozenset[str]] = {}
    trouble: list[str] = []
    for kind in types:
        try:
            answers[kind] = ask(folder / kind)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            answers[kind] = frozenset()
            trouble.append(f"the chained plugin {folder / kind} does not tell its versions: {error}")
    return answers, trouble


def ask(plugin: Path) -> frozenset[str]:
    """Run a plugin's VERSION; return what it supports. Raises OSError, SubprocessError (late) or ValueError (nonsense)."""
    environment = {"CNI_COMMAND": "VERSION", "CNI_PATH": str(plugin.parent)}
    done = subprocess.run(
        [plugin], input=QUESTION, env=environment, capture_output=True, timeout=ANSWER_WITHIN_S, check=True
    )
    document = json.loads(done.stdout)
    spoken = document.get("supportedVersions") if isinstance(document, dict) else None
    if not isinstance(spoken, list):
        raise ValueError(f"no supportedVersions in {done.stdout[:80]!r}")
    return frozenset(str(version) for version in spoken)
