"""`vpccni settings`: every variable is in the table, tells its source, and traps are named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from vpccni.shared import settings_cli, settings_file
from vpccni.shared.settings import Settings, read
from vpccni.shared.settings_advice import TABLE, note, traps


def test_every_known_variable_is_explained_and_every_field_is_shown() -> None:
    assert {row.name for row in TABLE} == settings_file.KNOWN
    assert {row.field for row in TABLE if row.field} == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.spec("ipam.W23")
def test_a_minimum_without_a_warm_target_is_a_trap() -> None:
    raw = {"MINIMUM_IP_TARGET": "5"}
    assert any("WARM_IP_TARGET" in sentence for sentence in traps(raw, read(raw).settings))
    fine = {"MINIMUM_IP_TARGET": "5", "WARM_IP_TARGET": "2"}
    assert traps(fine, read(fine).settings) == []


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ({"WARM_IP_TARGET": "many"}, "many"),
        ({"WARM_PREFIX_TARGET": "3"}, "ENABLE_PREFIX_DELEGATION"),
        ({"WARM_ENI_TARGET": "3", "WARM_IP_TARGET": "2"}, "WARM_ENI_TARGET"),
        ({"IP_COOLDOWN_PERIOD": "0"}, "kube-proxy"),
        ({"AWS_VPC_K8S_CNI_VETHPREFIX": "vpc", "NETWORK_POLICY_ENFORCING_MODE": "strict"}, "eni*"),
    ],
)
def test_traps_are_named(raw: dict[str, str], word: str) -> None:
    assert any(word in sentence for sentence in traps(raw, read(raw).settings))


def test_the_manifests_defaults_hold_no_trap() -> None:
    raw = {"WARM_ENI_TARGET": "1", "WARM_PREFIX_TARGET": "1", "NETWORK_POLICY_ENFORCING_MODE": "standard"}
    assert traps(raw, read(raw).settings) == []


def test_what_has_no_effect_says_so() -> None:
    settings = read({"WARM_IP_TARGET": "5"}).settings
    assert "WARM_IP_TARGET" in note("WARM_ENI_TARGET", settings)
    assert note("WARM_IP_TARGET", settings) == ""
    assert "/80" in note("WARM_PREFIX_TARGET", read({"ENABLE_IPv6": "true"}).settings)


def test_the_command_tells_value_source_and_misspelt_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARM_ENI_TARGTE", "3")
    settings_file.write(tmp_path, {"WARM_IP_TARGET": "5"})
    assert settings_cli.main(["--run-dir", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in shown["settings"]}
    assert (rows["WARM_IP_TARGET"]["value"], rows["WARM_IP_TARGET"]["source"]) == (5, "settings.json")
    assert rows["MAX_ENI"]["source"] == "default"
    assert "WARM_ENI_TARGTE" in shown["unknown"]


def test_settings_that_stop_the_start_end_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings_file.write(tmp_path, {"AWS_VPC_ENI_MTU": "10"})
    assert settings_cli.main(["--run-dir", str(tmp_path), "--changed"]) == 1
    assert "AWS_VPC_ENI_MTU='10'" in capsys.readouterr().out
