import json
import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from companion.lab import runner, tables
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
        ("rate", "1e-8", 1e-8),
        ("rate", "1", 1.0),
        ("seeds", "[1, 2]", [1, 2]),
        ("flag", "true", True),
        ("scale", "12", "12"),
    ],
)
def test_values_from_the_command_line_get_the_notebooks_type(tmp_path, name, text, value):
    found = resolve(write_notebook(tmp_path / "a.ipynb"), given={name: text})[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n", "2.5"), ("n", "true"), ("n", "two"), ("rate", "fast"), ("rate", ".nan"), ("rate", ".inf"),
        ("seeds", "3"), ("seeds", "[0, x]"), ("flag", "1"), ("n", "["),
    ],
)  # fmt: skip
def test_ill_typed_values_are_refused_by_name(tmp_path, name, text):
    with pytest.raises(NotebookError, match=name):
        resolve(write_notebook(tmp_path / "a.ipynb"), given={name: text})


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
    assert resolve(write_notebook(tmp_path / "a.ipynb"), [tmp_path / "p.yaml"], {"n": "6"}) == {"n": 6, "rate": 1e-8}


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "n: [1,\n"])
def test_a_parameter_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(NotebookError, match=r"p\.yaml"):
        resolve(write_notebook(tmp_path / "a.ipynb"), [tmp_path / "p.yaml"])


def test_check_leaves_unknown_kinds_to_the_notebook():
    assert check("x", {"a": 1}, "None") == {"a": 1}


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


def test_the_reference_is_written_by_an_explicit_command_alone(project):
    path = write_notebook(project / "notebooks" / "a.ipynb", WRITE)
    words = [sys.executable, "-m", "companion", "run", str(path), "-p", "n"]
    subprocess.run([*words, "1"], check=True, capture_output=True)
    assert not (project / "results").exists()
    subprocess.run([*words, "2", "--reference"], check=True, capture_output=True)
    assert tables.read("a", "smoke")["n"].tolist() == [2]
    assert tables.own("a", "smoke")["n"].tolist() == [1]
    # What has run for oneself is not what has run for the reference.
    done = subprocess.run([*words, "2", "--if-changed"], check=True, capture_output=True, text=True)
    assert "executed" in done.stdout


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
        ("n: 2001-99-99\n", "is not YAML"), ("n: !!float x\n", "is not YAML"), ("n: !!int ''\n", "is not YAML"),
        ("n: !!bool x\n", "is not YAML"), ("n: !!timestamp x\n", "is not YAML"), ("n: " + "9" * 5000, "is not YAML"),
        ("n: !!python/object/apply:os.getcwd []\n", "is not YAML"), ("seeds: " + "[" * 5000, "nested too deeply"),
        ("n: 0x" + "f" * 9000, "at most 64 bits"), ("n: 9223372036854775808", "at most 64 bits"),
        ("rate: " + "9" * 400, "parameter rate"), ("rate: 1e999", "parameter rate"),
        ('scale: "\\ud800"', "surrogate"), ("n: [" + "x," * 5000 + "x]", r"\.\.\.: expected int"),
        ("# " * 60_000, "longer than 100,000 bytes"), (b"\xff\xfe\xff", "is not YAML"),
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
        resolve(write_notebook(tmp_path / "a.ipynb"), given={"seeds": text})


def test_twenty_levels_are_read_and_no_more():
    within = runner.parse_yaml("[" * 19 + "1" + "]" * 19)
    for _ in range(19):
        (within,) = within
    assert within == 1
    with pytest.raises(ValueError, match="line 2: it is nested too deeply, more than 20 levels"):
        runner.parse_yaml("\n" + "[" * 20 + "1" + "]" * 20)
