import json
import math
import subprocess
import sys

import pandas as pd
import pytest

from companion.lab import tables as results


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


def test_over_seeds_shows_the_values_where_an_interval_says_nothing():
    assert results.over_seeds([0.5]) == "0.50"
    assert results.over_seeds([0.25, 0.5], 3) == "0.250 and 0.500"
    assert results.over_seeds([1.0, 2.0, 3.0]) == "2.00 ± 2.48"  # t(0.975, 2) = 4.303, / sqrt(3)
    assert results.over_seeds([]) == "–"
    assert results.over_seeds([0.5, math.nan]) == "0.50 and –"
    assert results.over_seeds([0.5, math.nan, 0.5]) == "–", "a run that diverged is not averaged away"


def test_plus_minus_leaves_out_an_interval_that_one_seed_cannot_give():
    assert results.plus_minus(0.934, 0.0211) == "0.93 ± 0.02"
    assert results.plus_minus(0.934, math.nan) == "0.93"


def add(rows, name="x", keys=("n_layer", "seed"), **parameters):
    results.write(name, "paper", pd.DataFrame(rows), parameters=parameters, keys=keys)
    return results.read(name, "paper")


def record(home, name="x"):
    return json.loads((home / "results" / "paper" / f"{name}.json").read_text())


def test_find_gives_none_where_there_is_no_table():
    assert results.find("x", "smoke") is None
    results.write("x", "smoke", TABLE, parameters={})
    pd.testing.assert_frame_equal(results.find("x", "smoke"), TABLE)


def test_runs_add_their_rows_to_one_table_and_replace_their_own(home):
    add({"n_layer": [10, 10], "seed": [1, 0], "value": [0.1, 0.2]}, n_layers=[10], seeds=[1, 0])
    table = add({"n_layer": [2], "seed": [0], "value": [0.3]}, n_layers=[2], seeds=[0])
    assert table.to_dict("list") == {
        "n_layer": [2, 10, 10], "seed": [0, 0, 1], "value": [0.3, 0.2, 0.1], "run": [1, 0, 0],
    }  # fmt: skip
    table = add({"n_layer": [10], "seed": [0], "value": [0.4]}, n_layers=[10], seeds=[0])
    assert table["value"].tolist() == [0.3, 0.4, 0.1]
    assert table["run"].tolist() == [1, 2, 0]
    found = record(home)
    assert [run["parameters"]["n_layers"] for run in found["runs"]] == [[10], [2], [10]]
    assert [run["rows"] for run in found["runs"]] == [2, 1, 1]
    assert {"seeds", "commit", "changed_since_commit", "versions", "device", "wall_seconds"} <= found["runs"][0].keys()
    # Beside `runs` it is the latest run's record, of the whole table.
    assert (found["parameters"], found["seeds"]) == ({"n_layers": [10], "seeds": [0]}, [0])
    assert (found["rows"], found["columns"]) == (3, list(table.columns))


def test_runs_of_which_no_row_is_left_are_dropped_and_the_others_renumbered(home):
    for depth in (2, 4, 6):
        add({"n_layer": [depth], "seed": [0]}, n_layers=[depth])
    table = add({"n_layer": [4, 2], "seed": [0, 0]}, n_layers=[4, 2])
    assert table["run"].tolist() == [1, 1, 0]
    assert [run["parameters"]["n_layers"] for run in record(home)["runs"]] == [[6], [4, 2]]


def test_merging_adds_columns_and_keeps_integers_empty_text_and_every_digit(home):
    add({"n_layer": [2], "seed": [1], "frozen": [1234567], "kind": ["a"], "good": [True], "old": [0.123456789]})
    for _ in range(2):  # the second time the missing cells come from the file
        table = add({"n_layer": [4, 6], "seed": [0, 0], "frozen": [5, 6], "new": [1, 2], "word": ["b", ""]})
    text = (home / "results" / "paper" / "x.csv").read_text()
    assert text == (
        "n_layer,seed,frozen,new,word,kind,good,old,run\n"
        "2,1,1234567,nan,,a,True,0.123457,0\n"
        "4,0,5,1,b,,nan,nan,1\n"
        "6,0,6,2,,,nan,nan,1\n"
    )
    assert table["frozen"].dtype == "int64"
    assert table["new"].isna().tolist() == [True, False, False]
    assert table["kind"].tolist() == ["a", "", ""]


def test_keys_are_compared_by_value_and_sorted_numbers_first(home):
    add({"part": ["b", "10", "9", ""], "penalty": [1e-6, 0.123456789, 2.0, math.nan]}, keys=["part", "penalty"])
    table = add({"part": ["", 9.0], "penalty": [math.nan, 2]}, keys=["part", "penalty"])
    assert table["part"].tolist() == ["9.0", "10", "", "b"]  # the new 9.0 in the place of the old 9
    assert table["run"].tolist() == [1, 0, 1, 0]
    table = add({"part": [10, 10], "penalty": [0.123456789, 1]}, keys=["part", "penalty"])
    assert table["part"].tolist() == ["9.0", "10", "10", "", "b"]
    assert table["run"].tolist() == [1, 2, 2, 1, 0]


def test_a_key_may_be_that_of_several_rows_which_are_replaced_together_in_their_order():
    add({"seed": [1, 0, 0], "step": [1, 3, 2]}, keys=["seed"])
    assert add({"seed": [0], "step": [7]}, keys=["seed"])["step"].tolist() == [7, 1]
    assert add({"seed": [0, 0], "step": [9, 8]}, keys=["seed"])["step"].tolist() == [9, 8, 1]


def test_a_table_written_without_keys_becomes_the_first_run(home):
    results.write("x", "paper", pd.DataFrame({"seed": [0, 1], "value": [1, 2]}), parameters={"lr": 1}, began=0.0)
    before = record(home)
    assert add({"seed": [1], "value": [3]}, keys=["seed"], lr=2)["run"].tolist() == [0, 1]
    first = record(home)["runs"][0]
    assert first == {field: before[field] for field in first}
    assert (first["parameters"], first["rows"]) == ({"lr": 1}, 2)


@pytest.mark.parametrize("text", [None, "{", '{"runs": []}', '{"runs": [{"parameters": {"lr": 1}}]}'])
def test_rows_whose_record_is_lost_are_kept_as_a_run_of_which_nothing_is_known(home, text):
    for seed in (0, 1):
        add({"seed": [seed]}, keys=["seed"], lr=1)
    path = home / "results" / "paper" / "x.json"
    path.unlink() if text is None else path.write_text(text)
    assert add({"seed": [2]}, keys=["seed"], lr=2)["run"].tolist() == [0, 0, 1]
    unknown, known = record(home)["runs"]
    assert (unknown["parameters"], unknown["rows"]) == (None, 2)
    assert known["parameters"] == {"lr": 2}


def test_a_key_that_a_table_lacks_is_named_and_the_old_table_stays(home):
    add({"seed": [0]}, keys=["seed"])
    before = (home / "results" / "paper" / "x.csv").read_text()
    with pytest.raises(ValueError, match=r"x\.csv has no column n_layer"):
        add({"n_layer": [2], "seed": [0]})
    with pytest.raises(ValueError, match=r"not in the table: n_layer\. Columns are seed"):
        add({"seed": [0]})
    with pytest.raises(ValueError, match="the column 'run' is written here"):
        add({"seed": [0], "run": [0]}, keys=["seed"])
    assert (home / "results" / "paper" / "x.csv").read_text() == before


def test_without_keys_a_table_replaces_the_one_that_is_there(home):
    add({"seed": [0]}, keys=["seed"])
    results.write("x", "paper", pd.DataFrame({"seed": [5]}), parameters={})
    assert results.read("x", "paper").to_dict("list") == {"seed": [5]}
    assert "runs" not in record(home)


def test_a_failure_while_writing_leaves_table_and_record_as_they_were(home, monkeypatch):
    add({"seed": [0]}, keys=["seed"])
    folder = home / "results" / "paper"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    monkeypatch.setattr(results.json, "dumps", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        add({"seed": [1]}, keys=["seed"])
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


WRITER = """
import sys
import pandas as pd
from sicore import results
print("ready", flush=True)
sys.stdin.readline()
for i in range(10):
    table = pd.DataFrame({"seed": [int(sys.argv[1])], "i": [i]})
    results.write("x", "paper", table, parameters={"seed": int(sys.argv[1])}, keys=["seed", "i"])
"""


def test_processes_that_write_at_once_do_not_lose_each_others_rows(home):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for seed in range(2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    table = results.read("x", "paper")
    assert sorted(zip(table["seed"], table["i"], strict=True)) == [(s, i) for s in range(2) for i in range(10)]
    runs = record(home)["runs"]
    assert [runs[i]["parameters"]["seed"] for i in table["run"]] == table["seed"].tolist()
    assert [path.name for path in (home / ".store" / "locks").iterdir()] == ["paper.x.lock"]


def test_a_run_far_off_its_seeds_is_marked_in_the_table_and_counted(home):
    def write(values, keys=(), first=0):
        table = pd.DataFrame({"start": "a", "seed": range(first, first + len(values)), "score": values})
        results.write(
            "x",
            "smoke",
            table,
            parameters={"seeds": table["seed"].tolist()},
            keys=keys,
            alike=["start"],
            outcome="score",
        )
        found = results.read("x", "smoke")
        told = json.loads((home / "results" / "smoke" / "x.json").read_text())
        return found.set_index("seed")["far_off"].to_dict(), told["far_off"]

    marks, count = write([0.9, 0.9, 0.9, 0.1])  # four are too few to say
    assert (sum(marks.values()), count) == (0, 0)
    # One more makes five: now the old row is marked too.
    marks, count = write([0.9, 0.9, 0.9, 0.1], keys=["start", "seed"])
    assert count == 0
    marks, count = write([0.9], keys=["start", "seed"], first=4)
    assert marks == {0: False, 1: False, 2: False, 3: True, 4: False}
    assert count == 1
    # It is kept: nothing but the mark is added.
    assert results.read("x", "smoke")["score"].tolist() == [0.9, 0.9, 0.9, 0.1, 0.9]


@pytest.mark.parametrize("name", ["seeds", "few_seeds", "n_disambiguation", "conditions"])
def test_a_value_named_twice_is_refused_before_anything_runs(name):
    with pytest.raises(ValueError, match=rf"{name} = \[3, 5, 3\]: 3 is named twice"):
        results.given({"scale": "smoke", name: [3, 5, 3]})
    assert results.given({name: [3, 5]}) == {name: [3, 5]}


def test_stages_of_a_network_may_have_the_same_number_of_blocks():
    assert results.given({"resnet_depths": [2, 2, 2, 2], "_": [1, 1]}) == {"resnet_depths": [2, 2, 2, 2]}


def test_several_rows_of_one_seed_are_no_seeds(home):
    # Three transfers from each of two bases: the second base's rows lie far off the first's, but are one seed.
    table = pd.DataFrame(
        {
            "start": "a",
            "seed": [0, 0, 0, 0, 1, 1],
            "draw": [0, 1, 2, 3, 0, 1],
            "score": [0.60, 0.61, 0.62, 0.63, 0.9, 0.9],
        }
    )
    with pytest.raises(ValueError, match=r"alike = \['start'\].*one seed.*Add the column"):
        results.write("x", "smoke", table, parameters={}, alike=["start"], outcome="score")
    assert not (home / "results").exists()
    results.write("x", "smoke", table, parameters={}, alike=["start", "draw"], outcome="score")
    assert not results.read("x", "smoke")["far_off"].any()


@pytest.mark.parametrize("wrong", [{"alike": ["nope"]}, {"alike": ["condition"], "outcome": "nope"}])
def test_a_column_that_marks_need_and_that_is_not_there_is_named(home, wrong):
    with pytest.raises(ValueError, match=r"nope.*Columns are condition, seed, test_accuracy"):
        results.write("x", "smoke", TABLE, parameters={}, **wrong)
    assert not (home / "results").exists()
