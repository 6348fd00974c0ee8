"""What all tests share: the marker that names rows of the specification is checked where it stands."""

from __future__ import annotations

import re

import pytest

ROW = re.compile(r"^(ipam|dataplane|policy|operations|branch-eni|rpc|env)\.[A-Za-z0-9.\-]+$")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("spec"):
            wrong = [row for row in mark.args if not ROW.match(row)]
            if wrong:
                raise pytest.UsageError(f"{item.nodeid}: no rows of the specification: {wrong}")
