"""Log lines can be found: their fields have the names of one list."""

from __future__ import annotations

import ast
from pathlib import Path

from vpccni.shared.log import FIELDS, LEVELS

ROOT = Path(__file__).resolve().parents[3]


def log_calls(path: Path) -> list[ast.Call]:
    """Return the calls of a log's methods in a module."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [
        call
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in {*LEVELS, "exception"}
        and ast.unparse(call.func.value).endswith("log")
    ]


def test_every_field_of_every_log_line_is_in_the_list() -> None:
    modules = [path for folder in ("components", "shared", "cni") for path in (ROOT / folder).rglob("*.py")]
    calls = [(path, call) for path in modules for call in log_calls(path)]
    assert calls
    strangers = {
        f"{path.relative_to(ROOT)}:{call.lineno} {keyword.arg}"
        for path, call in calls
        for keyword in call.keywords
        if keyword.arg is not None and keyword.arg not in FIELDS
    }
    assert strangers == set()
