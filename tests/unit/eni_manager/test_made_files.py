"""The generated files are what their makers make of the locked dependencies."""

from __future__ import annotations

import gzip
import json
from importlib.resources import files

from vpccni.components.eni_manager import make_limits, make_model

HERE = files("vpccni.components.eni_manager")


def test_the_cut_model_is_made_of_the_locked_botocore() -> None:
    for name, packed in make_model.made().items():
        stored = HERE.joinpath("model/ec2", make_model.VERSION, name).read_bytes()
        assert json.loads(gzip.decompress(stored)) == json.loads(gzip.decompress(packed))


def test_the_table_of_limits_is_made_of_the_locked_data() -> None:
    assert HERE.joinpath("limits.tsv").read_text() == make_limits.table()
