import json
import math
import os
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.__main__ import main
from companion.lab import runner, runs, tables
from companion.lab.runner import NotebookError, check, parameters_of, resolve, run

PARAMETERS = """scale: str = "smoke"  # folder
n: int = 2  # a count
rate: float = 1.0e-3  # a rate
seeds: list[int] = [0]  # seeds
flag: bool = False  # a switch
"""


def write_notebook(path, *cells, parameters=PARAMETERS, tagged=1):
    notebook = nbformat.v4.new_notebook()
    for _ in range(tagged):
        cell = nbformat.v4.new_code_cell(parameters)
        cell.metadata["tags"] = ["parameters"]
        notebook.cells.append(cell)
    notebook.cells += [nbformat.v4.new_code_cell(text) for text in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_HOME", str(tmp_path))
    monkeypatch.delenv("COMPANION_TABLES", raising=False)
    return tmp_path


def test_parameters_are_read_with_type_default_and_meaning(tmp_path):
    found = parameters_of(write_notebook(tmp_path / "a.ipynb"))
    assert found["n"] == {"type": "int", "default": "2", "help": "a count"}
    assert found["seeds"]["type"] == "list[int]"


def test_parameters_over_several_lines_and_signs_in_text_are_understood(tmp_path):
    cell = 'n: int = 2  # a = b, "x # y" too\nseeds: list[int] = [\n    0, 1,\n]  # one run each\nname: str = "a # b"\n'
    found = parameters_of(write_notebook(tmp_path / "a.ipynb", parameters=cell))
    assert [entry["help"] for entry in found.values()] == ['a = b, "x # y" too', "one run each", ""]
    assert [entry["default"] for entry in found.values()] == ["2", "[0, 1]", "'a # b'"]


@pytest.mark.parametrize("line", ["n = 2", "n: int", "n: int = f(2)", "import os"])
def test_other_lines_in_the_parameters_cell_are_refused(tmp_path, line):
    with pytest.raises(NotebookError, match="is not of the form"):
        parameters_of(write_notebook(tmp_path / "a.ipynb", parameters=line))


@pytest.mark.parametrize("tagged", [0, 2])
def test_a_notebook_needs_exactly_one_parameters_cell(tmp_path, tagged):
    path = write_notebook(tmp_path / "a.ipynb", tagged=tagged)
    with pytest.raises(NotebookError, match=f"{tagged} cells tagged"):
        parameters_of(path)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "3", 3),
        ("n", "+3", 3),
        ("n", "-3", -3),
        ("rate", "1e-8", 1e-8),
        ("rate", "-1.5e-5", -1.5e-5),
        ("rate", ".5", 0.5),
        ("rate", "5.", 5.0),
        ("rate", "1.e3", 1000.0),
        ("rate", "1", 1.0),
        ("seeds", "[1, 2]", [1, 2]),
        ("flag", "true", True),
        ("flag", "True", True),
        ("scale", "12", "12"),
        ("scale", "no", "no"),
    ],
)
def test_values_from_the_command_line_get_the_notebooks_type(tmp_path, name, text, value):
    found = resolve(write_notebook(tmp_path / "a.ipynb"), typed=[(name, text)])[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n", "2.5"), ("n", "true"), ("n", "two"), ("rate", "fast"), ("rate", ".nan"), ("rate", ".inf"),
        ("seeds", "3"), ("seeds", "[0, x]"), ("flag", "1"), ("n", "["), ("n", "null"), ("n", ""), ("rate", "'0.5'"),
    ],
)  # fmt: skip
def test_ill_typed_values_are_refused_by_name(tmp_path, name, text):
    with pytest.raises(NotebookError, match=f"^parameter {name}"):
        resolve(write_notebook(tmp_path / "a.ipynb"), typed=[(name, text)])


def test_an_unknown_name_is_refused_with_the_nearest_known_one(tmp_path):
    with pytest.raises(NotebookError, match="sedes; did you mean seeds"):
        resolve(write_notebook(tmp_path / "a.ipynb"), given={"sedes": "[1]"})


def test_a_parameter_file_may_serve_several_notebooks_but_not_name_what_none_has(tmp_path):
    first = write_notebook(tmp_path / "a.ipynb")
    write_notebook(tmp_path / "b.ipynb", parameters="other: int = 1")
    shared = tmp_path / "p.yaml"
    shared.write_text("n: 5\nother: 3\n")
    assert resolve(first, [shared]) == {"n": 5}
    shared.write_text("n: 5\nothr: 3\n")
    with pytest.raises(NotebookError, match="othr; did you mean other"):
        resolve(first, [shared])


def test_given_values_win_over_files(tmp_path):
    (tmp_path / "p.yaml").write_text("n: 5\nrate: 1e-8\n")
    notebook, file = write_notebook(tmp_path / "a.ipynb"), tmp_path / "p.yaml"
    assert resolve(notebook, [file], {"n": 6}) == {"n": 6, "rate": 1e-8}
    assert resolve(notebook, [file], {"n": 6}, [("n", "7")]) == {"n": 7, "rate": 1e-8}


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "n: [1,\n"])
def test_a_parameter_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(NotebookError, match=r"p\.yaml"):
        resolve(write_notebook(tmp_path / "a.ipynb"), [tmp_path / "p.yaml"])


# What YAML 1.1, YAML 1.2 and Python read in different ways -> what to write.
UNCLEAR = {
    "010": "write 8 or 10, or", "-010": "write -8 or -10, or", "08": "write 8, or", "0o10": "write 8, or",
    "0x10": "write 16, or", "0X1f": "write 31, or", "0b11": "write 3, or", "1_000": "write 1000, or",
    "1_0.5": "write 10.5, or", "1:30": "write 90, or", "1:30.5": "write 90.5, or", "yes": "write true, or",
    "No": "write false, or", "on": "write true, or", "OFF": "write false, or", "y": "write true, or",
    "N": "write false, or", "~": "write null, or", "Null": "write null, or", "2024-01-01": "write", "=": "write",
    ".inf": "no finite number; write", "-.INF": "no finite number; write", ".nan": "no finite number; write",
    "nan": "no finite number; write", "-Infinity": "no finite number; write",
}  # fmt: skip


@pytest.mark.parametrize("text", UNCLEAR)
@pytest.mark.parametrize("around", ["{}", "[1, {}]", "{{a: {}}}"])
def test_what_is_read_in_several_ways_is_refused_with_what_to_write(tmp_path, text, around):
    told = re.escape(f'{UNCLEAR[text]} "{text}" for text')
    with pytest.raises(ValueError, match=f"^line 2: '{re.escape(text)}' .*{told}$"):
        runner.parse_yaml("\n" + around.format(text))
    assert runner.parse_yaml(f'"{text}"') == text
    (tmp_path / "p.yaml").write_text(f"n: {around.format(text)}\n")
    for refused in (
        lambda: resolve(write_notebook(tmp_path / "a.ipynb"), [tmp_path / "p.yaml"]),
        lambda: resolve(write_notebook(tmp_path / "a.ipynb"), typed=[("n", around.format(text))]),
        lambda: runs.read(tmp_path / "p.yaml"),
    ):
        with pytest.raises(NotebookError, match=told):
            refused()


@given(st.one_of(
    st.from_regex(r"[-+]?[0-9.eE_:xob-]{1,6}", fullmatch=True),
    st.sampled_from(["yes", "No", "ON", "off", "y", "true", "FALSE", "null", "~", "nan", ".inf", "a^2", "tRue", "2ab"]),
))  # fmt: skip
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_is_read_is_what_python_reads_or_what_is_text_to_everybody(text):
    try:
        value = runner.parse_yaml(text)
    except ValueError:
        return
    if isinstance(value, list):  # "- 5": YAML's own sign
        return
    if isinstance(value, str):
        assert value == text
        assert yaml.safe_load(text) == text  # YAML 1.1
        with pytest.raises(ValueError, match=r"could not convert|invalid"):
            float(text)
        with pytest.raises(ValueError, match="invalid"):
            int(text, 0)
    elif isinstance(value, bool) or value is None:
        assert text.lower() == json.dumps(value)
    else:
        assert value == float(text)
        assert yaml.safe_load(text) in (value, text)
        assert type(value) is (int if text.lstrip("+-").isdecimal() else float)


def test_names_in_a_mapping_are_text_as_they_stand():
    assert runner.parse_yaml("{n: 1, no: 2, 010: 3, 1: 4, null: 5}") == {"n": 1, "no": 2, "010": 3, "1": 4, "null": 5}
    with pytest.raises(ValueError, match="line 2: 'n' stands twice"):
        runner.parse_yaml("n: 1\n'n': 2")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, "int | None", None), (3, "int | None", 3), (1, "float | None", 1.0), ([1], "list[int] | None", [1]),
        ([[1], []], "list[list[int]]", [[1], []]), ({"a": 1}, "dict[str, float]", {"a": 1.0}),
        ({"a": [None, 2]}, "dict[str, list[int | None]]", {"a": [None, 2]}), ([], "list[str]", []),
    ],
)  # fmt: skip
def test_values_of_nested_kinds_are_checked_and_kept(value, kind, expected):
    found = check("x", value, kind)
    assert found == expected
    assert json.dumps(found) == json.dumps(expected)  # 1 and 1.0 are equal


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        ("None", "int | None", "x = 'None': expected int, got str, or null"), ("three", "int | None", "x = 'three'"),
        ("1e-3", "float | None", "x = '1e-3': expected float"), (1.5, "int | None", "x = 1.5: expected int"),
        (math.nan, "float | None", "finite"), (math.inf, "float", "x = inf: expected a finite number"),
        ([[1.5]], "list[list[int]]", r"x\[0\]\[0\] = 1.5: expected int"), ([1], "list[list[int]]", r"x\[0\] = 1: "),
        ({"a": "b"}, "dict[str, float]", r"x\['a'\] = 'b': expected float"), ([], "dict[str, float]", "expected dict"),
        (None, "int", "x = None: expected int, got null"), (1000.0, "int", "write 1000"),
        (True, "int", "expected int"), (False, "str", "put it in quotes"), ({1: 2}, "dict[str, int]", "name in x = 1"),
    ],
)  # fmt: skip
def test_values_that_are_not_of_a_nested_kind_are_refused_with_the_place(value, kind, told):
    with pytest.raises(NotebookError, match=told):
        check("x", value, kind)


UNKNOWN_KINDS = [
    "Optional[int]", "tuple[int, ...]", "Literal['a', 'b']", "int | str", "None | int", "list", "dict",
    "dict[int, int]", "list[tuple[int]]", "dict[str, set[int]]", "list[set] | None", "complex", "Any", "'int'", "None",
]  # fmt: skip


@pytest.mark.parametrize("kind", UNKNOWN_KINDS)
def test_a_kind_that_cannot_be_checked_is_refused_when_the_parameters_are_read(tmp_path, kind):
    for default in ("None", "[]", "{}", "1"):
        with pytest.raises(NotebookError, match=r"parameter x: its type .* is none of int, float, str, bool, list"):
            parameters_of(write_notebook(tmp_path / "a.ipynb", parameters=f"x: {kind} = {default}"))


@pytest.mark.parametrize(
    "line",
    ["x: int = 0.5", "x: int = None", "x: list[int] = [0, 'a']", "x: str = 3", "x: bool = 0", "x: float = 1e999"],
)
def test_a_default_that_is_not_of_its_type_is_refused(tmp_path, line):
    with pytest.raises(NotebookError, match=r"a\.ipynb: parameter x.* = .*: expected"):
        parameters_of(write_notebook(tmp_path / "a.ipynb", parameters=line))


def test_a_parameter_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(NotebookError, match="the parameter x stands twice"):
        parameters_of(write_notebook(tmp_path / "a.ipynb", parameters="x: int = 1\nx: int = 2"))


@pytest.mark.parametrize("magic", ["%matplotlib inline", "%%time", "!ls", "x: int = = 1", "x: int = (1,"])
def test_a_magic_in_the_parameters_cell_is_said_as_what_it_is(tmp_path, magic):
    path = write_notebook(tmp_path / "a.ipynb", parameters=f"{magic}\nn: int = 1")
    with pytest.raises(NotebookError, match=rf"a\.ipynb: '{re.escape(magic)}.*is not of the form"):
        parameters_of(path)


def test_a_scratch_notebook_beside_the_others_is_passed_over(tmp_path):
    first = write_notebook(tmp_path / "a.ipynb")
    write_notebook(tmp_path / "b.ipynb", parameters="other: int = 1")
    write_notebook(tmp_path / "Untitled.ipynb", "import os", tagged=0)
    write_notebook(tmp_path / "magic.ipynb", parameters="%pylab")
    write_notebook(tmp_path / ".ipynb_checkpoints" / "b-checkpoint.ipynb", parameters="old: int = 1")
    (tmp_path / "half.ipynb").write_text('{"cells": [{"cell_')
    (tmp_path / "cells.ipynb").write_text('{"cells": ["x", null]}')
    (tmp_path / "p.yaml").write_text("n: 5\nother: 3\n")
    assert resolve(first, [tmp_path / "p.yaml"]) == {"n": 5}
    (tmp_path / "p.yaml").write_text("old: 3\n")
    with pytest.raises(
        NotebookError, match=r"unknown parameter old.*Passed over: .*Untitled.ipynb has 0 cells"
    ) as told:
        resolve(first, [tmp_path / "p.yaml"])
    assert "half.ipynb is not a notebook, or only half of one" in str(told.value)


def test_a_value_typed_twice_is_refused(tmp_path):
    with pytest.raises(NotebookError, match="parameter n is given twice"):
        resolve(write_notebook(tmp_path / "a.ipynb"), typed=[("n", "3"), ("n", "4")])


KINDS = (
    'a: str = ""\nb: str | None = None\nc: list[str] = []\nd: float = 0.0\ne: int | None = 1\nf: dict[str, int] = {}'
)


def test_what_is_typed_for_a_value_gives_that_value(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", parameters=KINDS)
    for values in (
        {"a": "no", "b": "null", "c": ["no", "010", "é\n"], "d": -1.5e-5, "e": None, "f": {"no": 1}},
        {"a": "-p", "b": None, "c": ["1e3", "~", ""], "d": 1e22, "e": -3, "f": {}},
    ):
        words = runner.as_typed(path, values)
        assert resolve(path, typed=list(zip(words[1::3], words[2::3], strict=True))) == values


def test_text_in_a_list_of_runs_is_text_and_not_read_again(tmp_path):
    with pytest.raises(NotebookError, match="parameter n = '3': expected int, got str"):
        resolve(write_notebook(tmp_path / "a.ipynb"), given={"n": "3"})


@pytest.mark.parametrize("scale", ["", "../x", "Paper", "a b", "x" * 41])
def test_a_scale_that_cannot_be_a_folder_is_refused_before_the_run(project, scale):
    path = write_notebook(project / "notebooks" / "a.ipynb", "open('ran', 'w')")
    with pytest.raises(NotebookError, match=f"parameter scale = '{re.escape(scale)}': expected a short name"):
        run(path, given={"scale": scale}, progress=False)
    assert [file.name for file in project.iterdir()] == ["notebooks"]


def test_braces_in_a_path_are_braces(project):
    path = write_notebook(project / "{n}{x}" / "a{0}.ipynb", "n")
    copy, _ = run(path, given={"n": 4}, output=project / "out{n}" / "{}", progress=False)
    assert copy == project / "out{n}" / "{}" / "a{0}.ipynb"
    assert nbformat.read(copy, as_version=4).cells[-1].outputs[0]["data"]["text/plain"] == "4"


WRITE = """
import pandas as pd
from companion.lab import tables
parameters = tables.given(globals())
table = pd.DataFrame({"n": [n], "value": [n * rate]})
for name in ("a", "a_more"):
    tables.write(name, table, parameters=parameters, keys=["n"])
"""


def test_a_run_leaves_a_whole_copy_and_is_not_repeated_when_nothing_changed(project):
    path, folder = write_notebook(project / "notebooks" / "a.ipynb", WRITE), project / "runs" / "smoke"
    copy, now = run(path, given={"n": 4}, progress=False)
    assert now
    assert copy == folder / "a.ipynb"
    assert tables.own("a", "smoke")["n"].tolist() == [4]
    assert not (project / "results").exists()
    assert set(json.loads(copy.read_text())["metadata"]["companion"]["tables"]) == {"a", "a_more"}
    assert not run(path, given={"n": 4}, if_changed=True, progress=False)[1]
    assert run(path, given={"n": 4, "rate": 2}, if_changed=True, progress=False)[1]
    assert not runner.is_up_to_date(path, {"n": 4}, folder)


def test_parameters_that_are_none_or_dictionaries_are_in_the_record(project):
    cell = PARAMETERS + "limit: int | None = None  # most\nweights: dict[str, float] = {}  # of each"
    path = write_notebook(project / "notebooks" / "a.ipynb", WRITE, parameters=cell)
    copy, _ = run(path, typed=[("weights", "{no: 1}")], progress=False)
    (record,) = (project / "runs" / "smoke" / "a").glob("*.json")
    told = json.loads(record.read_text())["parameters"]
    assert (told["limit"], told["weights"]) == (None, {"no": 1.0})
    assert set(json.loads(copy.read_text())["metadata"]["companion"]["tables"]) == {"a", "a_more"}


def other_run(n, rate, name="a"):
    rows = pd.DataFrame({"n": [n], "value": [0]})
    tables.write(name, rows, parameters={"scale": "smoke", "n": n, "rate": rate}, keys=["n"])


def test_a_run_is_repeated_when_rows_of_its_tables_are_gone_or_come_from_another_run(project):
    path, folder = write_notebook(project / "notebooks" / "a.ipynb", WRITE), project / "runs" / "smoke"
    run(path, progress=False)
    other_run(5, rate=0)  # adds a row
    assert runner.is_up_to_date(path, {}, folder)
    kept = [(part, part.read_bytes()) for part in folder.glob("a_more/*")]
    for part, _ in kept:  # every table of the run counts
        part.unlink()
    assert not runner.is_up_to_date(path, {}, folder)
    for part, content in kept:
        part.write_bytes(content)
    assert runner.is_up_to_date(path, {}, folder)
    other_run(2, rate=0)
    assert not runner.is_up_to_date(path, {}, folder)


def test_any_change_of_the_code_runs_a_notebook_again(project, monkeypatch):
    path = write_notebook(project / "notebooks" / "a.ipynb", "n")
    run(path, progress=False)
    assert runner.is_up_to_date(path, {}, project / "runs" / "smoke")
    monkeypatch.setattr(runner, "_code", lambda: "other")
    assert not runner.is_up_to_date(path, {}, project / "runs" / "smoke")


def test_a_change_of_the_reference_runs_a_notebook_again_that_reads_it(project):
    part = project / "results" / "paper" / "b" / "000.csv"
    part.parent.mkdir(parents=True)
    part.write_text("n\n1\n")
    reads = "from companion.lab import tables\nread = lambda: tables.read('b', 'paper')"
    other, reader = (write_notebook(project / f"{name}.ipynb", text) for name, text in {"x": "n", "y": reads}.items())
    for path in (other, reader):
        run(path, progress=False)
        assert runner.is_up_to_date(path, {}, project / "runs" / "smoke")
    part.write_text("n\n2\n")
    assert runner.is_up_to_date(other, {}, project / "runs" / "smoke")
    assert not runner.is_up_to_date(reader, {}, project / "runs" / "smoke")


def test_a_run_beside_the_reference_is_outdated_by_it_and_the_run_that_writes_it_is_not(project):
    path = write_notebook(project / "notebooks" / "a.ipynb", WRITE, "beside = lambda: tables.beside('a', given)")
    words = ["run", str(path), "--if-changed", "-o", str(project / "out")]
    assert main([*words, "--reference"]) == 0
    with runner.tables_of(reference=True):
        assert runner.is_up_to_date(path, {}, project / "out"), "although its own table is new"
    assert main(words) == 0
    assert runner.is_up_to_date(path, {}, project / "out")
    assert main(["run", str(path), "--reference", "-o", str(project / "other"), "-p", "n", "3"]) == 0
    assert not runner.is_up_to_date(path, {}, project / "out")


def test_the_reference_is_written_by_an_explicit_command_alone(project, capsys):
    path = write_notebook(project / "notebooks" / "a.ipynb", WRITE)
    words = ["run", str(path), "-p", "rate", "-1.5e-5", "-p", "n"]
    assert main([*words, "1"]) == 0
    assert not (project / "results").exists()
    assert main([*words, "2", "--reference"]) == 0
    assert tables.read("a", "smoke")["n"].tolist() == [2]
    assert tables.own("a", "smoke")["n"].tolist() == [1]
    assert tables.own("a", "smoke")["value"].tolist() == [-1.5e-5]
    # What has run for oneself is not what has run for the reference.
    capsys.readouterr()
    assert main([*words, "2", "--if-changed"]) == 0
    assert "executed" in capsys.readouterr().out


def test_every_kernel_is_spoken_to_through_files_of_its_own(project):
    told = "from ipykernel.connect import get_connection_info\nimport json, pathlib\n"
    told += "at = json.loads(get_connection_info())\n"
    places = set()
    for name in "ab":
        path = write_notebook(
            project / f"{name}.ipynb", told + "pathlib.Path('at').write_text(at['transport'] + at['ip'])"
        )
        run(path, progress=False)
        transport, place = (project / "at").read_text().split("/", 1)
        assert transport == "ipc"
        places.add(place)
    assert len(places) == 2
    assert not any(os.path.exists(os.path.dirname("/" + place)) for place in places)


def test_a_failed_run_leaves_nothing_that_looks_complete(project):
    path = write_notebook(project / "notebooks" / "a.ipynb", "1 / 0")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        run(path, progress=False)
    assert [file.name for file in (project / "runs" / "smoke").iterdir()] == ["a.failed"]


def test_a_killed_kernel_leaves_nothing_that_looks_complete(project):
    path = write_notebook(project / "notebooks" / "a.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(Exception, match=r"[Kk]ernel"):
        run(path, progress=False)
    assert not (project / "runs" / "smoke" / "a.ipynb").exists()


def test_the_command_says_one_clear_line_and_runs_nothing(project):
    path = write_notebook(project / "notebooks" / "a.ipynb", "open('ran', 'w')")
    done = subprocess.run(
        [sys.executable, "-m", "companion", "run", str(path), "-p", "n", "many"],
        capture_output=True, text=True, cwd=project,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == "companion: parameter n = 'many': expected int, got str"
    assert not (project / "ran").exists()


FAILURES = {
    "our check": (
        "from companion.lab import tables\ntables.folder('N!')",
        "companion: scale = 'N!': expected a short name",
    ),
    "the notebook's check": ("raise ValueError(f'n = {n}: expected 1')", "companion: n = 2: expected 1"),
    "another error": ("import json\njson.loads('x')", "companion: JSONDecodeError: Expecting value"),
    "a ValueError of another": ("int('x')", "companion: ValueError: invalid literal for int()"),
    "an assertion": ("assert n == 1, f'{n} learned'", "companion: AssertionError: 2 learned"),
    "a dead kernel": ("import os\nos._exit(1)", "companion: DeadKernelError: Kernel died"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_the_last_line_of_a_failed_run_is_the_error_itself(project, capsys, kind):
    cell, last = FAILURES[kind]
    path = write_notebook(project / "notebooks" / "a.ipynb", cell)
    assert main(["run", str(path)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(last)
    failed = project / "runs" / "smoke" / "a.failed"
    assert lines[-2] == f"companion: {path} failed; what was executed is in {failed}"
    assert failed.is_file()
    traced = any("Traceback (most recent call last)" in line for line in lines)
    assert traced == (kind not in ("our check", "the notebook's check", "a dead kernel"))


def test_asking_for_the_reference_does_not_stay(project):
    path = write_notebook(project / "notebooks" / "a.ipynb", "n")
    assert main(["run", "--reference", str(path)]) == 0
    assert "COMPANION_TABLES" not in os.environ


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    (tmp_path / "a.ipynb").write_text(json.dumps({"x": 1}))
    with pytest.raises(NotebookError, match="not a notebook"):
        parameters_of(tmp_path / "a.ipynb")
    with pytest.raises(NotebookError, match="no notebook"):
        parameters_of(tmp_path / "b.ipynb")


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "anchors and aliases"), ("seeds: &a [*a]\n", "anchors"), ("n: 3\nn: 4\n", "line 2: 'n' stands twice"),
        ("n: 2001-99-99\n", "several ways"), ("n: !!float x\n", "line 1: tags"), ("n: !!int ''\n", "line 1: tags"),
        ("n: !!bool x\n", "tags"), ("n: !!str x\n", "tags"), ("n: " + "9" * 5000, "more than 1,000 digits"),
        ("n: !!python/object/apply:os.getcwd []\n", "tags"), ("seeds: " + "[" * 5000, "nested too deeply"),
        ("n: 0x" + "f" * 9000, "write a decimal number"), ("n:\n", "there is no value; write null"),
        ("n: [1,\n", r"p\.yaml: not YAML: line 2: "), ("? [1]\n: 2\n", "a name in a mapping must be text"),
        ("n: " + "1" * 20, "at most 64 bits"), ("n: 9223372036854775808", "at most 64 bits"),
        ("rate: " + "9" * 400, "parameter rate"), ("rate: 1e999", "parameter rate"),
        ('scale: "\\ud800"', "surrogate"), ("n: [" + "x," * 5000 + "x]", r"\.\.\.: expected int"),
        ("# " * 60_000, "longer than 100,000 bytes"), (b"\xff\xfe\xff", "can't decode"),
    ],
)  # fmt: skip
def test_odd_parameter_files_are_refused_with_one_short_error(tmp_path, text, told):
    (tmp_path / "p.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(NotebookError, match=told) as error:
        resolve(write_notebook(tmp_path / "a.ipynb"), [tmp_path / "p.yaml"])
    assert len(str(error.value)) < 1000


def test_largest_integers_are_read(tmp_path):
    (tmp_path / "p.yaml").write_text("n: 9223372036854775807\nseeds: [-9223372036854775808]\n")
    found = resolve(write_notebook(tmp_path / "a.ipynb"), [tmp_path / "p.yaml"])
    assert found == {"n": 2**63 - 1, "seeds": [-(2**63)]}


@pytest.mark.parametrize("text", ["&a [*a]", "2001-99-99", "[" * 3000])
def test_odd_values_of_the_command_line_are_refused_by_name(tmp_path, text):
    with pytest.raises(NotebookError, match="parameter seeds"):
        resolve(write_notebook(tmp_path / "a.ipynb"), typed=[("seeds", text)])


def test_twenty_levels_are_read_and_no_more():
    within = runner.parse_yaml("[" * 19 + "1" + "]" * 19)
    for _ in range(19):
        (within,) = within
    assert within == 1
    with pytest.raises(ValueError, match="line 2: it is nested too deeply, more than 20 levels"):
        runner.parse_yaml("\n" + "[" * 20 + "1" + "]" * 20)
