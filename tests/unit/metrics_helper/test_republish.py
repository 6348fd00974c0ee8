from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vpccni.components.metrics_helper.families import REPUBLISHED
from vpccni.components.metrics_helper.republish import OWN, page


@pytest.mark.spec("operations.4.6")
def test_six_sums_and_its_own_families_and_nothing_of_a_node_that_is_not_summed() -> None:
    sums = {name: float(number) for number, name in enumerate(REPUBLISHED)} | {"awscni_ipamd_action_inprogress": 4.0}
    text = page(sums, {"vpccni_helper_cycles": 2})
    families = {family.name: family.samples[0].value for family in text_string_to_metric_families(text)}
    assert set(families) == {*REPUBLISHED, *OWN}
    assert families["awscni_total_ipv4_prefixes"] == 5
    assert families["vpccni_helper_cycles"] == 2


def test_before_the_first_cycle_no_sum_is_shown() -> None:
    assert "awscni" not in page({}, {})
