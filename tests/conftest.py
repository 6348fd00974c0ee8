"""What all tests share: the marker that names rows of the specification, and the report of rows without a test."""

from __future__ import annotations

import re

import pytest
from hypothesis import settings

settings.register_profile("machine", parent=settings(), deadline=None)
settings.load_profile("machine")
"""Examples have no deadline: how long one takes is the machine's doing, and benches measure it."""

ROW = re.compile(r"^(ipam|dataplane|policy|operations|branch-eni|rpc|env)\.[A-Za-z0-9.\-]+$")
CHAPTERS = {
    "ipam.W": range(1, 43),
    "dataplane.18.": range(1, 45),
    "rpc.11.": range(1, 9),
    "operations.17.": range(1, 29),
    "policy.T-": [f"{number:03}" for number in range(1, 142)],
    "policy.W-": range(1, 36),
}
"""The numbered rows of the chapters that this release builds on."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--spec-coverage", action="store_true", help="print the rows of the specification that no test names"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named: set[str] = set()
    for item in items:
        for mark in item.iter_markers("spec"):
            wrong = [row for row in mark.args if not ROW.match(row)]
            if wrong:
                raise pytest.UsageError(f"{item.nodeid}: no rows of the specification: {wrong}")
            named.update(mark.args)
    config.stash[NAMED] = named


NAMED = pytest.StashKey[set[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--spec-coverage"):
        return
    named = config.stash[NAMED]
    for chapter, numbers in CHAPTERS.items():
        missing = [str(number) for number in numbers if f"{chapter}{number}" not in named]
        terminalreporter.write_line(
            f"{chapter}: {len(numbers) - len(missing)} of {len(numbers)} have a test; none: {' '.join(missing)}"
        )
