import json
import math
import shutil
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.compare.statistics import far_off
from companion.lab import tables
from companion.lab.make import Cost, Machine, make
from companion.lab.recipes import Recipe
from companion.lab.store import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_HOME", str(tmp_path))
    monkeypatch.delenv("COMPANION_TABLES", raising=False)
    return tmp_path


TABLE = pd.DataFrame({"condition": ["a", ""], "seed": [0, 1], "test_accuracy": [0.25, math.nan]})


def write(table=TABLE, name="x", scale="smoke", keys=(), more=(), **parameters):
    return tables.write(name, pd.DataFrame(table), parameters={"scale": scale, **parameters}, keys=keys, **dict(more))


def add(rows, keys=("n_layer", "seed"), **parameters):
    write(rows, keys=keys, **parameters)
    return tables.own("x", "smoke")


def record(name="x"):
    return tables.record(name, "smoke", root=tables.tables_folder())


def text(name="x"):
    return tables.text(name, "smoke", root=tables.tables_folder())


# ---------------------------------------------------------------------------------------
# A part


def test_a_table_is_read_back_with_empty_text_and_missing_numbers(home):
    path = write(seeds=[0, 1], lr=0.1)
    assert path.parent == home / "runs" / "smoke" / "x"
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, path.with_suffix(".json").name]
    pd.testing.assert_frame_equal(tables.own("x", "smoke"), TABLE)


def test_the_record_says_where_the_table_comes_from():
    write(seeds=[0, 1], lr=0.1, more={"began": 0.0})
    told = record()
    assert told["parameters"] == {"scale": "smoke", "seeds": [0, 1], "lr": 0.1}
    assert (told["name"], told["scale"], told["seeds"]) == ("x", "smoke", [0, 1])
    assert (told["rows"], told["columns"]) == (2, list(TABLE.columns))
    assert {"python", "torch", "sicore"} <= told["versions"].keys()
    assert told["wall_seconds"] > 0
    assert told["commit"] is None  # the folder is no repository
    assert told["makers"] == []  # it has read no stored object


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"results/quick/x: run notebooks/x\.ipynb at the quick scale"):
        tables.read("x", "quick")
    with pytest.raises(FileNotFoundError, match="runs/quick/x"):
        tables.own("x", "quick")


@pytest.mark.parametrize("scale", ["", "../up", "Quick", "a b", 3])
def test_a_scale_that_is_no_plain_name_is_refused(scale):
    with pytest.raises(ValueError, match="scale = "):
        write(scale=scale)
    with pytest.raises(ValueError, match="parameters has no scale; it has lr"):
        tables.write("x", TABLE, parameters={"lr": 1}, keys=[])


def test_given_keeps_plain_public_values_only():
    names = {"seeds": [0], "lr": 0.1, "flag": True, "_hidden": 1, "module": json, "In": ["x"], "f": lambda: 0}
    assert tables.given(names) == {"seeds": [0], "lr": 0.1, "flag": True}


@pytest.mark.parametrize("name", ["seeds", "few_seeds", "n_disambiguation", "conditions"])
def test_a_value_named_twice_is_refused_before_anything_runs(name):
    with pytest.raises(ValueError, match=rf"{name} = \[3, 5, 3\]: 3 is named twice"):
        tables.given({"scale": "smoke", name: [3, 5, 3]})
    assert tables.given({name: [3, 5]}) == {name: [3, 5]}


def test_stages_of_a_network_may_have_the_same_number_of_blocks():
    assert tables.given({"resnet_depths": [2, 2, 2, 2], "_": [1, 1]}) == {"resnet_depths": [2, 2, 2, 2]}


# ---------------------------------------------------------------------------------------
# Reference and own


def test_own_runs_and_the_reference_are_apart(home, monkeypatch):
    write({"seed": [0]}, keys=["seed"])
    assert tables.find("x", "smoke") is None
    assert not (home / "results").exists()
    monkeypatch.setenv("COMPANION_TABLES", str(home / "results"))
    write({"seed": [1]}, keys=["seed"])
    monkeypatch.delenv("COMPANION_TABLES")
    assert tables.find("x", "smoke")["seed"].tolist() == tables.read("x", "smoke")["seed"].tolist() == [1]
    assert tables.own("x", "smoke")["seed"].tolist() == [0]
    assert tables.names("smoke") == ["x"]


def test_a_run_leaves_the_work_tree_clean(home):
    def git(*words):
        return subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=True).stdout

    shutil.copy(ROOT / ".gitignore", home)
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "first")
    write(more={"figures": {"": figure()}})
    assert git("status", "--porcelain") == ""
    assert record()["commit"] == git("rev-parse", "HEAD").strip()


def figure():
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))


def test_figures_lie_beside_the_parts_and_a_later_runs_take_their_place(home):
    for lr in (1, 2):
        write(lr=lr, more={"figures": {"": figure(), "_held": figure()}})
    pictures = sorted(path.name for path in (home / "runs" / "smoke" / "x").glob("*.png"))
    assert pictures == ["x.png", "x_held.png"]


# ---------------------------------------------------------------------------------------
# Joining


def test_parts_are_joined_and_the_rows_of_the_later_one_count():
    add({"n_layer": [10, 10], "seed": [1, 0], "value": [0.1, 0.2]}, n_layers=[10], seeds=[1, 0])
    table = add({"n_layer": [2], "seed": [0], "value": [0.3]}, n_layers=[2], seeds=[0])
    assert table.to_dict("list") == {
        "n_layer": [2, 10, 10], "seed": [0, 0, 1], "value": [0.3, 0.2, 0.1], "run": [1, 0, 0],
    }  # fmt: skip
    table = add({"n_layer": [10], "seed": [0], "value": [0.4]}, n_layers=[10], seeds=[0])
    assert table["value"].tolist() == [0.3, 0.4, 0.1]
    assert table["run"].tolist() == [1, 2, 0]
    found = record()
    assert [run["parameters"]["n_layers"] for run in found["runs"]] == [[10], [2], [10]]
    assert [run["rows"] for run in found["runs"]] == [2, 1, 1]
    assert {"part", "seeds", "commit", "changed_since_commit", "versions", "device"} <= found["runs"][0].keys()
    # Beside `runs` it is the latest run's record, of the whole table.
    assert (found["parameters"]["n_layers"], found["seeds"]) == ([10], [0])
    assert (found["rows"], found["columns"]) == (3, list(table.columns))


def test_no_part_changes_another(home):
    add({"n_layer": [2], "seed": [0]}, lr=1)
    (first,) = (home / "runs/smoke/x").glob("*.csv")
    before = [path.read_bytes() for path in (first, first.with_suffix(".json"))]
    add({"n_layer": [2], "seed": [0]}, lr=2)
    assert [path.read_bytes() for path in (first, first.with_suffix(".json"))] == before
    assert len(list(first.parent.iterdir())) == 4


def test_a_run_with_the_same_parameters_takes_the_place_of_the_earlier_one(home):
    for value, workers in ((1, 0), (2, 7)):
        table = add({"seed": [0], "value": [value]}, keys=["seed"], lr=1, workers=workers, store=f"/{value}")
        add({"seed": [5], "value": [0]}, keys=["seed"], lr=2)
    assert table["value"].tolist() == [2, 0]
    assert len(list((home / "runs" / "smoke" / "x").iterdir())) == 4  # two parts of two files
    names = sorted(path.stem for path in (home / "runs" / "smoke" / "x").glob("*.csv"))
    assert names == sorted(names, key=lambda name: name.split("-")[0])


def test_parts_of_which_no_row_is_left_are_no_runs_and_the_others_are_numbered_on():
    for depth in (2, 4, 6):
        add({"n_layer": [depth], "seed": [0]}, n_layers=[depth])
    table = add({"n_layer": [4, 2], "seed": [0, 0]}, n_layers=[4, 2])
    assert table["run"].tolist() == [1, 1, 0]
    assert [run["parameters"]["n_layers"] for run in record()["runs"]] == [[6], [4, 2]]


def test_joining_adds_columns_and_keeps_integers_empty_text_and_every_digit():
    add({"n_layer": [2], "seed": [1], "frozen": [1234567], "kind": ["a"], "good": [True], "old": [0.123456789]}, lr=1)
    table = add({"n_layer": [4, 6], "seed": [0, 0], "frozen": [5, 6], "new": [1, 2], "word": ["b", ""]}, lr=2)
    assert text() == (
        "n_layer,seed,frozen,new,word,kind,good,old,run\n"
        "2,1,1234567,nan,,a,True,0.123457,0\n"
        "4,0,5,1,b,,nan,nan,1\n"
        "6,0,6,2,,,nan,nan,1\n"
    )
    assert table["frozen"].dtype == "int64"
    assert table["new"].isna().tolist() == [True, False, False]
    assert table["kind"].tolist() == ["a", "", ""]


def test_a_part_without_rows_changes_nothing():
    full = {"n_layer": [2], "seed": [0], "value": [1.0]}
    empty = {"n_layer": [], "seed": [], "value": []}
    assert add(full)["value"].tolist() == [1.0]
    assert add(empty, lr=1)["value"].tolist() == [1.0]
    assert add({**full, "seed": [1]}, lr=2)["value"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("lr", [1, 2], ids=["the same run again", "another run"])
def test_the_later_run_wins_although_its_clock_is_behind(monkeypatch, lr):
    add({"n_layer": [2], "seed": [0], "value": [1.0]}, lr=1)
    monkeypatch.setattr(tables, "stamp", lambda: "20000101T000000000000Z")
    assert add({"n_layer": [2], "seed": [0], "value": [2.0]}, lr=lr)["value"].tolist() == [2.0]


def test_keys_are_compared_by_value_and_sorted_numbers_first():
    keys = ["part", "penalty"]
    add({"part": ["b", "10", "9", ""], "penalty": [1e-6, 0.123456789, 2.0, math.nan]}, keys=keys, lr=1)
    table = add({"part": ["", 9.0], "penalty": [math.nan, 2]}, keys=keys, lr=2)
    assert table["part"].tolist() == ["9.0", "10", "", "b"]  # the new 9.0 in the place of the old 9
    assert table["run"].tolist() == [1, 0, 1, 0]
    table = add({"part": [10, 10], "penalty": [0.123456789, 1]}, keys=keys, lr=3)
    assert table["part"].tolist() == ["9.0", "10", "10", "", "b"]
    assert table["run"].tolist() == [1, 2, 2, 1, 0]


def test_a_key_may_be_that_of_several_rows_which_count_together_in_their_order():
    add({"seed": [1, 0, 0], "step": [1, 3, 2]}, keys=["seed"], lr=1)
    assert add({"seed": [0], "step": [7]}, keys=["seed"], lr=2)["step"].tolist() == [7, 1]
    assert add({"seed": [0, 0], "step": [9, 8]}, keys=["seed"], lr=3)["step"].tolist() == [9, 8, 1]


def test_rows_are_joined_to_a_part_that_was_written_without_keys():
    write({"seed": [0, 1], "value": [1, 2]}, lr=1)
    assert tables.own("x", "smoke").columns.tolist() == ["seed", "value"]
    assert add({"seed": [1], "value": [3]}, keys=["seed"], lr=2)["run"].tolist() == [0, 1]
    assert [(run["parameters"]["lr"], run["rows"]) for run in record()["runs"]] == [(1, 2), (2, 1)]


def test_without_keys_the_latest_part_is_the_table():
    add({"seed": [0]}, keys=["seed"], lr=1)
    write({"seed": [5]}, lr=2)
    assert tables.own("x", "smoke").to_dict("list") == {"seed": [5]}
    assert [run["parameters"]["lr"] for run in record()["runs"]] == [2]


def test_a_key_that_a_part_lacks_is_named_before_anything_is_written(home):
    add({"seed": [0]}, keys=["seed"])
    before = sorted((home / "runs" / "smoke" / "x").iterdir())
    with pytest.raises(ValueError, match=r"\.csv has no column n_layer"):
        add({"n_layer": [2], "seed": [0]}, lr=2)
    with pytest.raises(ValueError, match=r"not in the table: n_layer\. Columns are seed"):
        add({"seed": [0]})
    for ours in ("run", "far_off"):
        with pytest.raises(ValueError, match=f"the column '{ours}' is added when a table is read"):
            add({"seed": [0], ours: [0]}, keys=["seed"])
    assert sorted((home / "runs" / "smoke" / "x").iterdir()) == before


VALUES = st.one_of(
    st.integers(-(10**9), 10**9), st.floats(width=32, allow_nan=True), st.sampled_from(["", "a,b", '"', "é"])
)
ROWS = st.lists(st.tuples(st.integers(0, 5), VALUES), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_the_join_is_what_one_part_after_the_other_leaves(tmp_path_factory, parts):
    """Against a dictionary from the key to the rows of the last part that has it; every cell text for text."""
    folder = tmp_path_factory.mktemp("x") / "smoke" / "x"
    expected: dict[int, tuple[int, list[str]]] = {}
    for i, rows in enumerate(parts):
        table = pd.DataFrame(rows, columns=["seed", "value"], dtype=object)
        tables._write_both(
            folder / f"{i:03d}.csv", table, {"rows": len(rows), "columns": ["seed", "value"], "keys": ["seed"]}
        )
        cells = tables._cells(folder / f"{i:03d}.csv")
        for seed in {seed for seed, _ in rows}:
            expected[seed] = i, cells.loc[cells["seed"] == str(seed), "value"].tolist()
    joined = tables._joined(folder)
    assert joined is not None
    numbers = sorted({i for i, _ in expected.values()})
    assert joined.cells[["seed", "value", "run"]].to_numpy().tolist() == [
        [str(seed), value, str(numbers.index(i))] for seed, (i, values) in sorted(expected.items()) for value in values
    ]


# ---------------------------------------------------------------------------------------
# What is not whole


@pytest.mark.parametrize("damage", ["no record", "no table", "half a record", "half a table", "no object"])
def test_a_part_that_is_not_whole_is_none(home, damage):
    add({"seed": [0, 1, 2]}, keys=["seed"], lr=1)
    (whole,) = (home / "runs" / "smoke" / "x").glob("*.csv")
    write({"seed": [0, 1, 2], "value": [1, 2, 3]}, keys=["seed"], lr=2)
    csv = max((home / "runs" / "smoke" / "x").glob("*.csv"))
    assert csv != whole
    if damage.startswith("no ") and damage != "no object":
        csv.with_suffix(".json" if damage == "no record" else ".csv").unlink()
        found = tables.own("x", "smoke")
    else:
        path = csv if "table" in damage else csv.with_suffix(".json")
        path.write_text("3" if damage == "no object" else path.read_text()[: len(path.read_text()) * 2 // 3])
        with pytest.warns(UserWarning, match=f"{csv.stem}.*is not whole, and left out"):
            found = tables.own("x", "smoke")
    assert found.columns.tolist() == ["seed", "run"]
    # What the run with the same parameters has left is gone with the next one.
    write({"seed": [0], "value": [4]}, keys=["seed"], lr=2)
    assert not csv.exists()
    assert len(list(whole.parent.iterdir())) == 4


def test_a_failure_while_writing_leaves_the_table_as_it_was(home, monkeypatch):
    add({"seed": [0]}, keys=["seed"], lr=1)
    folder = home / "runs" / "smoke" / "x"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    for broken in ((tables, "_as_csv"), (tables.json, "dumps")):
        with monkeypatch.context() as patch:
            patch.setattr(*broken, lambda *a, **k: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                write({"seed": [1]}, keys=["seed"], lr=2)
        assert {path.name: path.read_text() for path in folder.iterdir()} == before


WRITER = """
import sys
import pandas as pd
from companion.lab import tables
print("ready", flush=True)
sys.stdin.readline()
seed = int(sys.argv[1])
for i in range(10):
    # Every second run has the parameters of the other process: then the later one stays.
    parameters = {"scale": "smoke", "seed": seed if i % 2 else -1, "i": i}
    tables.write("x", pd.DataFrame({"seed": [seed] * 50, "i": [i] * 50}), parameters=parameters, keys=["seed", "i"])
"""


def test_processes_that_write_at_once_both_leave_whole_parts(home):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for seed in range(2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            found = tables._joined(home / "runs" / "smoke" / "x")
            seen.append(found and len(found.cells))

    reader = threading.Thread(target=watch)
    reader.start()
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    done.set()
    reader.join()
    table, told = tables.own("x", "smoke"), record()
    there = set(zip(table["seed"], table["i"], strict=True))
    assert {(seed, i) for seed in range(2) for i in range(1, 10, 2)} <= there
    assert all({(0, i), (1, i)} & there for i in range(0, 10, 2))
    assert len(table) == 50 * len(there)
    assert all(count is None or count % 50 == 0 for count in seen)
    assert all(run["rows"] == 50 for run in told["runs"])
    assert len(list((home / "runs" / "smoke" / "x").iterdir())) == 2 * 15


# ---------------------------------------------------------------------------------------
# Marks


def scores(values, first=0):
    return {"start": "a", "seed": range(first, first + len(values)), "score": values}


def marked(values, first=0, **parameters):
    write(
        scores(values, first), keys=["start", "seed"], more={"alike": ["start"], "outcome": "score"}, first=first,
        **parameters,
    )  # fmt: skip
    root = tables.tables_folder()
    found = tables.own("x", "smoke", marks=far_off)
    assert found.columns.tolist() == ["start", "seed", "score", "far_off", "run"]
    assert tables.own("x", "smoke").columns.tolist() == ["start", "seed", "score", "run"]
    return found["far_off"].tolist(), tables.record("x", "smoke", root=root, marks=far_off)["far_off"]


def test_a_run_far_off_its_seeds_is_marked_for_a_reader_who_asks_and_counted():
    marks, count = marked([0.9, 0.9, 0.9, 0.1])  # four are too few to say
    assert (marks, count) == ([False] * 4, 0)
    # One more makes five: now the old row is marked too.
    marks, count = marked([0.9], first=4)
    assert (marks, count) == ([False, False, False, True, False], 1)
    # It is kept: nothing but the mark is added.
    assert tables.own("x", "smoke")["score"].tolist() == [0.9, 0.9, 0.9, 0.1, 0.9]


def test_several_rows_of_one_seed_are_no_seeds(home):
    # Three transfers from each of two bases: the second base's rows lie far off the first's, but are one seed.
    rows = {
        "start": "a", "seed": [0, 0, 0, 0, 1, 1], "draw": [0, 1, 2, 3, 0, 1],
        "score": [0.60, 0.61, 0.62, 0.63, 0.9, 0.9],
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"alike = \['start'\].*one seed.*Add the column"):
        write(rows, more={"alike": ["start"], "outcome": "score"})
    assert not (home / "runs").exists()
    write(rows, more={"alike": ["start", "draw"], "outcome": "score"})
    assert not tables.own("x", "smoke", marks=far_off)["far_off"].any()


@pytest.mark.parametrize("wrong", [{"alike": ["nope"]}, {"alike": ["condition"], "outcome": "nope"}])
def test_a_column_that_marks_need_and_that_is_not_there_is_named(home, wrong):
    with pytest.raises(ValueError, match=r"nope.*Columns are condition, seed, test_accuracy"):
        write(more=wrong)
    assert not (home / "runs").exists()


def test_rows_of_runs_that_diverged_are_counted_over_all_parts():
    add({"seed": [0, 1], "diverged": [math.nan, 12.0]}, keys=["seed"], lr=1)
    add({"seed": [2]}, keys=["seed"], lr=2)
    assert record()["diverged"] == 1
    assert record()["runs"][0]["diverged"] == 1


# ---------------------------------------------------------------------------------------
# Who made the objects that a run has read


def machine(home, name="store"):
    (home / name).mkdir(exist_ok=True)
    return Machine(Store(home / name, {"thing": Recipe()}), workers=1)


def things(count, machine):
    def job(specs, machine, progress):
        for spec in specs:
            machine.store.put("thing", spec, {"x": torch.zeros(1)}, {"seconds": 2.0})

    cost = Cost(lambda spec: 1, lambda spec: 1.0, lambda spec: 1, lambda spec: {})
    return make("thing", [{"n": n} for n in range(count)], machine, job, cost)


def test_the_makers_of_all_objects_that_a_run_has_read_stand_in_its_record(home):
    first, second = machine(home), machine(home)
    things(2, first)
    things(3, second)  # of which two are there
    things(1, second)  # read again
    write({"seed": [0]}, keys=["seed"], more={"machine": second})
    (maker,) = record()["makers"]
    assert (maker["kind"], maker["objects"], maker["seconds"]) == ("thing", 3, 6.0)
    assert maker["versions"]["torch"] == version("torch")
    assert maker["first"] <= maker["last"]
    write({"seed": [1]}, keys=["seed"], lr=2, more={"machine": first})
    assert [(maker["objects"], maker["seconds"]) for maker in record()["makers"]] == [(5, 10.0)]
    assert [run["makers"][0]["objects"] for run in record()["runs"]] == [3, 2]


def test_objects_that_do_not_say_who_made_them_have_a_maker_of_which_nothing_is_known(home, monkeypatch):
    place = machine(home)
    monkeypatch.setattr("companion.lab.store.made_by", lambda device: None)
    things(1, place)
    write({"seed": [0]}, keys=["seed"], more={"machine": place})
    (maker,) = record()["makers"]
    assert (maker["objects"], maker["device"], maker["commit"], maker["first"]) == (1, None, None, None)


def test_the_type_of_the_products_is_what_the_machine_makes_of_the_one_asked_for(home):
    place = machine(home)
    write({"seed": [0]}, dtype="bfloat16", more={"machine": place})
    assert record()["dtype"] == place.dtype("bfloat16")
    write({"seed": [0]}, dtype="bfloat16", more={"machine": place, "dtype": "float32"})
    assert record()["dtype"] == "float32"
    assert record()["device"].startswith("CPU, ")


# ---------------------------------------------------------------------------------------
# The committed tables


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", sorted(path.name for path in (ROOT / "results").iterdir() if path.is_dir()))
def test_every_committed_part_is_whole_and_says_what_it_has(scale):
    for name in tables.names(scale, root=ROOT / "results"):
        parts = sorted((ROOT / "results" / scale / name).glob("*.csv"))
        told = tables.record(name, scale, root=ROOT / "results", marks=far_off)
        assert (told["name"], told["scale"]) == (name, scale)
        table = tables.read(name, scale, root=ROOT / "results", marks=far_off)
        assert (len(table), table.columns.tolist()) == (told["rows"], told["columns"])
        assert len(tables._joined(ROOT / "results" / scale / name).columns) == len(parts)
        if "run" in table:
            assert sorted(table["run"].unique()) == list(range(len(told["runs"])))


# ---------------------------------------------------------------------------------------
# A run beside the reference


RUN = {"scale": "smoke", "seeds": [100], "lr": 0.1, "conditions": ["a", "b"], "n_disambiguation": [0, 9], "workers": 1}
ROWS = pd.DataFrame(
    [(start, n, seed, 0.5) for start in "ab" for n in (0, 9) for seed in (0, 1)],
    columns=["start", "n_disambiguation", "seed", "test_accuracy"],
)


@pytest.fixture
def reference(home, monkeypatch):
    """Writes a part of the reference, with the settings of RUN but for those given."""

    def add_part(rows=ROWS, keys=("start", "n_disambiguation", "seed"), **parameters):
        with monkeypatch.context() as patched:
            patched.setenv("COMPANION_TABLES", str(home / "results"))
            given = RUN | {"seeds": [0, 1], "workers": 8, **parameters}
            tables.write("x", rows, parameters=given, keys=keys)

    return add_part


def test_a_run_stands_beside_the_reference_with_its_settings_whatever_its_seeds_and_machine(reference, capsys):
    reference()
    shown = tables.beside("x", RUN | {"device": "cuda", "stack": 3, "store": "there"})
    pd.testing.assert_frame_equal(shown.drop(columns="run"), ROWS, check_like=True)
    assert tables.differing(RUN, RUN | {"seeds": [0], "gone": 3}) == []
    assert not capsys.readouterr().out


@pytest.mark.parametrize("parameters", [{"lr": 0.2}, {"new": 1}, {"conditions": ["a", "c"]}, {"n_disambiguation": [5]}])
def test_a_run_of_other_settings_has_no_reference_and_says_which(reference, capsys, parameters):
    reference()
    (name,) = parameters
    assert tables.beside("x", RUN | parameters) is None
    assert capsys.readouterr().out == f"x: not shown beside the reference, which has another {name}\n"
    assert tables.differing(RUN | parameters, RUN) == [name]


def test_a_parameter_that_came_later_had_its_neutral_value_before(reference, capsys):
    reference()
    for name, value in tables.LATER.items():
        assert tables.beside("x", RUN | {name: value}) is not None
        assert tables.beside("x", RUN | {name: 7}) is None
        assert tables.differing(RUN | {name: 7}, RUN | {name: 7}) == []


def test_a_run_of_a_part_leaves_other_starts_in_and_other_numbers_of_samples_out(reference):
    reference()
    part = RUN | {"conditions": ["b"], "n_disambiguation": [9]}
    shown = tables.beside("x", part)
    assert set(shown["start"]) == {"a", "b"}
    assert set(shown["n_disambiguation"]) == {9}, "a mean goes over these"
    assert tables.differing(part, RUN) == ["n_disambiguation"], "it does not measure the same"


def test_parts_of_the_reference_with_other_settings_are_left_out_and_the_others_count_together(reference, capsys):
    reference(ROWS[ROWS["start"] == "a"], conditions=["a"])
    reference(ROWS[ROWS["start"] == "b"], conditions=["b"])
    reference(ROWS.assign(start="c"), conditions=["c"], lr=0.2)
    assert set(tables.beside("x", RUN)["start"]) == {"a", "b"}
    assert tables.beside("x", RUN | {"conditions": ["a", "c"]}) is None
    assert "conditions" in capsys.readouterr().out


def test_without_keys_the_reference_is_its_latest_part(reference):
    reference(keys=())
    assert len(tables.beside("x", RUN)) == len(ROWS)


def test_a_table_may_know_nothing_of_numbers_of_samples(reference):
    reference(ROWS[["start", "seed"]].drop_duplicates(), keys=("start", "seed"))
    assert len(tables.beside("x", RUN | {"n_disambiguation": [9]})) == 4


def test_there_is_nothing_beside_a_run_where_there_is_no_reference_or_it_is_the_one_that_is_written(
    reference, home, monkeypatch, capsys
):
    assert tables.beside("x", RUN) is None
    reference()
    monkeypatch.setenv("COMPANION_TABLES", str(home / "runs" / ".." / "results"))
    assert tables.beside("x", RUN) is None
    assert not capsys.readouterr().out
