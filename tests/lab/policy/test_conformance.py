"""Every cell of the reachability table after every case of the matrix, in both families, as Kubernetes defines it (spec policy.md 7)."""

from __future__ import annotations

import pytest
from tests.lab.policy.cases import ALL, Addresses, cases
from tests.lab.policy.conftest import Conformance

NAMES = list(cases(Addresses("", "", dict.fromkeys(ALL, ""))))
IN_SHORT_RUNS = 18
"""One case of so many is part of `make test`; the long runs have all."""


def _case(number: int, name: str) -> object:
    return pytest.param(name, marks=() if number % IN_SHORT_RUNS == 0 else pytest.mark.full)


@pytest.mark.parametrize("name", [_case(number, name) for number, name in enumerate(NAMES)])
def test_what_connects_is_what_kubernetes_defines(conformance: Conformance, name: str) -> None:
    for state in cases(conformance.addresses)[name]:
        conformance.become(state)
        conformance.holds()
