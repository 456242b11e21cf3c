import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from companion.__main__ import main
from companion.lab import sweep
from companion.lab import tables as results
from companion.lab.runner import NotebookError, parameters_of, resolve, run

ROOT = Path(__file__).parent.parent
PARAMETERS = """scale: str = "smoke"  # folder
sizes: list[int] = [1]  # sizes
rate: float = 1.0e-3  # a rate
"""
# Without sicore, so that a kernel is there in a second.
WRITE = """import pathlib
folder = pathlib.Path("results") / scale
folder.mkdir(parents=True, exist_ok=True)
(folder / "a.csv").write_text(str(sizes))
with open("ran", "a") as log:
    log.write(f"{sizes} {rate}\\n")
assert sizes != [13]
"""
MERGE = """import pandas as pd
from sicore import results
parameters = results.given(globals())
table = pd.DataFrame({"size": sizes, "value": [0.5 * size for size in sizes]})
results.write("a", scale, table, parameters=parameters, keys=["size"])
"""


def write_notebook(path, *cells):
    parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)])
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a notebook ``a`` and a parameter file."""
    monkeypatch.setenv("SICORE_HOME", str(tmp_path))
    write_notebook(tmp_path / "notebooks" / "a.ipynb", WRITE)
    (tmp_path / "p.yaml").write_text("rate: 1e-2\n")
    return tmp_path


def write_sweep(project, **runs):
    """A sweep file; ``runs``: name -> entry, of notebook ``a`` where it does not say."""
    path = project / "sweep.yaml"
    entries = [{"name": name, "notebook": "notebooks/a.ipynb"} | entry for name, entry in runs.items()]
    path.write_text(yaml.safe_dump({"files": ["p.yaml"], "runs": entries}))
    return path


def sized(*sizes, weight=1):
    return {"weight": weight, "parameters": {"sizes": list(sizes)}}


def log(project):
    return (project / "ran").read_text().splitlines() if (project / "ran").exists() else []


def test_runs_are_executed_in_order_failures_do_not_stop_the_others_and_what_is_done_is_skipped(project, capsys):
    path = write_sweep(
        project, **{"Size 2!": sized(2, weight=3), "bad": sized(13), "last": {"notebook": "notebooks/b.ipynb"}}
    )
    write_notebook(project / "notebooks" / "b.ipynb", WRITE.replace('"a.csv"', '"b.csv"'))
    assert main(["sweep", str(path)]) == 1
    assert log(project) == ["[2] 0.01", "[13] 0.01", "[1] 0.01"]
    copies = sorted(str(file.relative_to(project / "runs")) for file in (project / "runs").rglob("*.*"))
    assert copies == ["smoke/bad/a.failed", "smoke/last/b.ipynb", "smoke/size-2/a.ipynb"]
    said = capsys.readouterr()
    assert re.search(r"\[1/3\] Size 2!: 0% of the work done, \d+ s elapsed, time left not known", said.out)
    assert re.search(r"\[2/3\] bad: 60% of the work done, \d+ s elapsed, about \d+ s left", said.out)
    assert re.search(r"\[3/3\] last: 60% of the work done", said.out)  # what has failed is not done
    assert re.search(r"3 runs in \d+ s: 2 executed, 0 up to date, 1 failed", said.out)
    assert "AssertionError" in said.err
    assert f"failed: bad; see the last cells of {project / 'runs/smoke/bad/a.failed'}" in said.err
    assert "the same command repeats these and skips what is done" in said.err

    # Notebooks that do not merge: the failed run has replaced the first one's table, which is then to do again.
    record = {"parameters": {"scale": "smoke", "sizes": [13], "rate": 0.01}}
    (project / "results/smoke/a.json").write_text(json.dumps(record))
    assert main(["sweep", str(path), "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert re.findall(r"(to do|up to date) ", listed) == ["to do", "to do", "up to date"]
    assert "60%  Size 2!: a.ipynb sizes = [2]" in listed
    assert len(log(project)) == 3
    assert main(["sweep", str(path), "--only", "last"]) == 0
    assert len(log(project)) == 3
    assert re.search(r"1 runs in \d+ s: 0 executed, 1 up to date, 0 failed", capsys.readouterr().out)


def test_everything_is_checked_before_anything_starts(project, capsys):
    path = write_sweep(project, good={}, bad={"parameters": {"sizs": [1]}})
    assert main(["sweep", str(path)]) == 2
    assert "sicore: run 'bad': " in (said := capsys.readouterr().err)
    assert "unknown parameter sizs; did you mean sizes?" in said
    assert main(["sweep", str(path), "--only", "good", "bda"]) == 2
    assert f"sicore: {path} has no run 'bda'. Known are good, bad" in capsys.readouterr().err
    (project / "p.yaml").write_text("rate: fast\n")
    assert main(["sweep", str(path), "--dry-run", "--only", "good"]) == 2
    assert "run 'good': parameter rate = 'fast': expected float" in capsys.readouterr().err
    assert log(project) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: [", "is not YAML"),
        ("[]", "must hold"),
        ("runs: []", "must hold"),
        ("rusn: []\nruns: [{name: a, notebook: a.ipynb}]", "unknown entry 'rusn'. Known are files, runs"),
        ("files: p.yaml\nruns: [{name: a, notebook: a.ipynb}]", r"files of .* = 'p.yaml': expected list"),
        ("runs: [3]", "run 1: 3 is not of the form"),
        ("runs: [{name: a, notebook: a.ipynb, wieght: 1}]", "run 1: unknown entry 'wieght'. Known are name, "),
        ("runs: [{name: 2, notebook: a.ipynb}]", "run 1: name = 2: expected text"),
        ("runs: [{name: '?!', notebook: a.ipynb}]", r"run 1: name = '\?!': expected text with a letter"),
        ("runs: [{name: a}]", r"run 1 \(a\): notebook = None: expected a path"),
        ("runs: [{name: a, notebook: a.ipynb, weight: 0}]", r"run 1 \(a\): weight = 0.0: expected a positive"),
        ("runs: [{name: a, notebook: a.ipynb, weight: .inf}]", "weight of .* = inf: expected float"),
        ("runs: [{name: a, notebook: a.ipynb, weight: true}]", "weight of .* = True: expected float"),
        ("runs: [{name: a, notebook: a.ipynb, parameters: [1]}]", r"parameters = \[1\]: expected 'name: value'"),
        ("runs: [{name: a, notebook: a.ipynb, parameters: {1: 2}}]", r"parameters = \{1: 2\}: expected 'name: value'"),
        ("runs: [{name: A b, notebook: a.ipynb}, {name: a-b, notebook: a.ipynb}]", "'A b' and 'a-b' give the same"),
        ("runs: [{name: a, notebook: a.ipynb}, {name: a, notebook: a.ipynb}]", "'a' and 'a' give the same"),
    ],
)
def test_a_sweep_file_that_cannot_be_used_is_refused_with_the_place(project, text, message):
    (project / "s.yaml").write_text(text)
    with pytest.raises(NotebookError, match=message):
        sweep.read(project / "s.yaml")


def test_a_sweep_file_that_is_not_there_is_named(project):
    with pytest.raises(NotebookError, match=r"no sweep file .*s\.yaml"):
        sweep.read(project / "s.yaml")


def test_the_estimate_counts_only_what_was_executed_in_this_call(project, monkeypatch, capsys):
    clock = {"now": 0.0}
    done = {"first"}

    def fake_run(notebook, files, given, *, output, if_changed, progress):
        now = output.name not in done
        clock["now"] += 600.0 * given["sizes"][0] if now else 5.0
        done.add(output.name)
        return output / "a.ipynb", now

    monkeypatch.setattr(sweep, "run", fake_run)
    monkeypatch.setattr(sweep, "is_up_to_date", lambda notebook, values, output: output.name in done)
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock["now"])
    path = write_sweep(
        project, first=sized(10, weight=10), second=sized(2, weight=2), third=sized(3, weight=2),
        fourth=sized(6, weight=6),
    )  # fmt: skip
    assert sweep.sweep(path) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert lines == [
        "[1/4] first: 50% of the work done, 0 s elapsed, time left not known before a run is measured",
        "[2/4] second: 50% of the work done, 5 s elapsed, time left not known before a run is measured",
        "[3/4] third: 60% of the work done, 20 min 5 s elapsed, about 1 h 20 min left",  # 600 s a unit, 8 units
        "[4/4] fourth: 70% of the work done, 50 min 5 s elapsed, about 1 h 15 min left",  # 3000 s for 4 units, 6 left
    ]


def test_runs_that_add_to_one_table_stay_up_to_date_while_their_rows_are_there(project, capsys):
    write_notebook(project / "notebooks" / "a.ipynb", MERGE)
    path = write_sweep(project, one=sized(1, 2), two=sized(10))
    assert sweep.sweep(path, progress=False) == 0
    assert results.read("a", "smoke").to_dict("list") == {"size": [1, 2, 10], "value": [0.5, 1, 5], "run": [0, 0, 1]}
    capsys.readouterr()

    def states():
        assert sweep.sweep(path, dry_run=True) == 0
        return re.findall(r"(to do|up to date) ", capsys.readouterr().out)

    assert states() == ["up to date", "up to date"]
    # Another run takes over one of the first run's two rows: the table no longer holds what it gave.
    table = pd.DataFrame({"size": [2], "value": [7.0]})
    results.write("a", "smoke", table, parameters={"scale": "smoke", "sizes": [2], "rate": 0.1}, keys=["size"])
    assert states() == ["to do", "up to date"]
    assert sweep.sweep(path, progress=False) == 0
    assert states() == ["up to date", "up to date"]
    table = results.read("a", "smoke")
    assert table["value"].tolist() == [0.5, 1, 5]
    (project / "results/smoke/a.csv").write_text("size,value,run\n1,0.5,1\n2,1,1\n")  # rows taken out by hand
    assert states() == ["up to date", "to do"]
    (project / "results/smoke/a.csv").unlink()
    assert states() == ["to do", "to do"]


def test_a_merged_table_is_looked_up_by_the_parameters_of_each_run(project):
    notebook = write_notebook(project / "notebooks" / "a.ipynb", "1 + 1")
    for sizes in ([1], [2]):
        parameters = {"scale": "smoke", "sizes": sizes, "rate": 0.001}
        table = pd.DataFrame({"size": sizes})
        results.write("a", "smoke", table, parameters=parameters, keys=["size"])
    assert run(notebook, given={"sizes": "[1]"}, if_changed=True, progress=False)[1]  # no executed copy yet
    assert not run(notebook, given={"sizes": "[1]"}, if_changed=True, progress=False)[1]  # though [2] was the latest
    assert run(notebook, given={"sizes": "[3]"}, if_changed=True, progress=False)[1]
    assert run(notebook, given={"sizes": "[3]"}, if_changed=True, progress=False)[1]  # never in the table


COMMAND = [sys.executable, "-m", "sicore", "sweep"]


def test_two_sweeps_at_once_lose_nothing(project):
    write_notebook(project / "notebooks" / "a.ipynb", MERGE)
    path = write_sweep(project, one=sized(1), two=sized(2))
    both = [subprocess.Popen([*COMMAND, str(path)], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert results.read("a", "smoke")[["size", "value"]].to_dict("list") == {"size": [1, 2], "value": [0.5, 1.0]}
    left = sorted(str(file.relative_to(project / "runs")) for file in (project / "runs").rglob("*") if file.is_file())
    assert left == ["smoke/one/a.ipynb", "smoke/two/a.ipynb"]


def test_an_interrupt_stops_the_sweep_and_the_same_command_goes_on(project):
    waiting = (
        "import pathlib, time\npathlib.Path('began').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)"
    )
    write_notebook(project / "notebooks" / "a.ipynb", waiting, WRITE)
    path = write_sweep(project, one=sized(1), two=sized(2))
    process = subprocess.Popen(
        [*COMMAND, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Tests that run in the background of a shell inherit that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (project / "began").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "stopped in one. The same command goes on from there" in err
    assert "two" not in out
    assert [file.name for file in (project / "runs").rglob("*.*")] == ["a.failed"]
    (project / "go").touch()
    assert sweep.sweep(path, progress=False) == 0
    assert log(project) == ["[1] 0.01", "[2] 0.01"]


def test_the_papers_sweep_fits_its_notebooks():
    files, runs = sweep.read(ROOT / "params" / "sweep.yaml")
    assert [one.name for one in runs] == [
        "2 layers", "causes", "variants", "checks", "shape subnetwork", "shape transfer",
        "4 layers", "6 layers", "8 layers", "10 layers", "12 layers",
    ]  # fmt: skip
    depths = [one.parameters["n_layers"] for one in runs if one.notebook.stem == "04_depths"]
    assert depths == [[2], [4], [6], [8], [10], [12]]
    for one in runs:
        if not one.notebook.exists():
            continue
        values = resolve(one.notebook, [ROOT / file for file in files], one.parameters)
        assert values["scale"] == "paper"
        assert set(one.parameters) <= set(parameters_of(one.notebook))
