import json
import math

import pandas as pd
import pytest

from sicore import results


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SICORE_HOME", str(tmp_path))
    return tmp_path


TABLE = pd.DataFrame({"condition": ["a", ""], "seed": [0, 1], "test_accuracy": [0.25, math.nan]})


def test_a_table_is_read_back_with_empty_text_and_missing_numbers(home):
    path = results.write("x", "smoke", TABLE, parameters={"seeds": [0, 1], "lr": 0.1}, numbers={"k": "0.5 ± 0.1"})
    assert path == home / "results" / "smoke" / "x.csv"
    pd.testing.assert_frame_equal(results.read("x", "smoke"), TABLE)


def test_the_record_says_where_the_table_comes_from(home):
    results.write("x", "smoke", TABLE, parameters={"seeds": [0, 1], "lr": 0.1}, numbers={"k": "0.5"}, began=0.0)
    record = json.loads((home / "results" / "smoke" / "x.json").read_text())
    assert record["parameters"] == {"seeds": [0, 1], "lr": 0.1}
    assert (record["seeds"], record["rows"], record["columns"]) == ([0, 1], 2, list(TABLE.columns))
    assert record["numbers"] == {"k": "0.5"}
    assert {"python", "torch", "sicore"} <= record["versions"].keys()
    assert record["wall_seconds"] > 0
    assert record["commit"] is None  # the folder is no repository


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"x\.csv: run notebooks/x\.ipynb at the quick scale"):
        results.read("x", "quick")


@pytest.mark.parametrize("scale", ["", "../up", "Quick", "a b", 3])
def test_a_scale_that_is_no_plain_name_is_refused(scale):
    with pytest.raises(ValueError, match="scale = "):
        results.write("x", scale, TABLE, parameters={})


def test_given_keeps_plain_public_values_only():
    names = {"seeds": [0], "lr": 0.1, "flag": True, "_hidden": 1, "module": json, "In": ["x"], "f": lambda: 0}
    assert results.given(names) == {"seeds": [0], "lr": 0.1, "flag": True}


def test_plus_minus_leaves_out_an_interval_that_one_seed_cannot_give():
    assert results.plus_minus(0.934, 0.0211) == "0.93 ± 0.02"
    assert results.plus_minus(0.934, math.nan) == "0.93"
