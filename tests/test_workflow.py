"""The workflow: planning, slots, tables put together, and Snakemake itself on stand-ins."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import select
import shlex
import shutil
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
from companion.lab import tables as results
from companion.lab import workflow
from companion.lab.runner import NotebookError, run

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "workflow"), str(ROOT / "benchmarks")]

import pages  # noqa: E402
import scaling  # noqa: E402
from own_cost import cost as own_cost  # noqa: E402

SLOT = [sys.executable, str(ROOT / "workflow" / "slot.py")]

# ---------------------------------------------------------------------------------------
# Tables of jobs, put together

KEYS = {"start": ["a", "b"], "seed": [0, 1], "rate": [1e-6, 0.5]}


@pytest.fixture
def parts(tmp_path):
    """Four tables, one for each start and seed, and the whole."""
    rows = [dict(zip(KEYS, combination, strict=True)) for combination in itertools.product(*KEYS.values())]
    whole = pd.DataFrame(rows).assign(value=[i / 7 for i in range(len(rows))], note=["", "x"] * 4)
    paths = []
    for (start, seed), part in whole.groupby(["start", "seed"]):
        path = tmp_path / f"{start}{seed}.csv"
        part.to_csv(path, index=False, float_format="%.6g")
        path.with_suffix(".json").write_text(json.dumps({"parameters": {"seed": seed}, "device": f"GPU {start}"}))
        paths.append(path)
    return paths


def test_tables_put_together_hold_every_row_once_in_any_order_of_the_jobs(parts, tmp_path):
    texts = []
    for i, order in enumerate(itertools.permutations(parts, 4)):
        found = results.collect(order, KEYS, tmp_path / f"whole{i}.csv")
        texts.append(found.drop(columns="run").to_csv())
    assert len(set(texts)) == 1
    rows = [row for path in parts for row in csv.DictReader(path.open())]
    text = [{name: value for name, value in row.items() if name != "run"} for row in found.to_dict("records")]
    assert sorted(text, key=str) == sorted(rows, key=str)
    assert found["seed"].tolist() == ["0", "0", "1", "1"] * 2


def test_the_record_of_every_job_stands_beside_the_whole(parts, tmp_path):
    found = results.collect(parts, KEYS, tmp_path / "whole.csv")
    record = json.loads((tmp_path / "whole.json").read_text())
    assert pd.read_csv(tmp_path / "whole.csv", dtype=str, keep_default_na=False).equals(found)
    for row in found.to_dict("records"):
        job = record["runs"][int(row["run"])]
        assert (job["device"], job["rows"]) == (f"GPU {row['start']}", 2)
        assert job["parameters"] == {"seed": int(row["seed"])}


def test_a_missing_a_double_and_a_needless_row_are_named_with_their_files(parts, tmp_path):
    output = tmp_path / "whole.csv"
    with pytest.raises(ValueError, match=r"2 rows missing: start = b, seed = 1, rate = 1e-06; start = b.*rate = 0\.5$"):
        results.collect(parts[:3], KEYS, output)
    with pytest.raises(ValueError, match=r"2 rows double: start = a, seed = 0, rate = 1e-06 in .*a0\.csv in .*a0\.csv"):
        results.collect([*parts, parts[0]], KEYS, output)
    with pytest.raises(ValueError, match=r"4 rows not asked for: start = a, seed = 1.*in .*a1\.csv"):
        results.collect(parts, KEYS | {"seed": [0]}, output)
    assert not output.exists()


def test_tables_that_do_not_fit_are_refused(parts, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no table .*nowhere\.csv"):
        results.collect([tmp_path / "nowhere.csv"], KEYS)
    with pytest.raises(ValueError, match=r"keys: depth not in .*Columns are start, seed"):
        results.collect(parts, {"depth": [1]})
    parts[1].write_text("start,seed,rate,value\na,1,0.5,1\n")
    with pytest.raises(ValueError, match=r"a1\.csv and .*a0\.csv have other columns: note"):
        results.collect(parts, KEYS)
    with pytest.raises(ValueError, match="0 tables"):
        results.collect([], KEYS)


def test_rows_that_a_table_lacks_are_named(parts, tmp_path):
    results.collect(parts, KEYS, tmp_path / "whole.csv")
    assert results.check_holds(tmp_path / "whole.csv", parts[2]) == 2
    changed = parts[2].read_text().replace("0.714286", "0.714287")
    assert changed != parts[2].read_text()
    parts[2].write_text(changed)
    with pytest.raises(ValueError, match=r"1 of 2 rows of .*b0\.csv are not in .*whole\.csv: start = b, seed = 0"):
        results.check_holds(tmp_path / "whole.csv", parts[2])


def test_the_commands_say_what_is_wrong_and_fail(parts, tmp_path, capsys):
    tables = [str(path) for path in parts]
    keys = [word for name, values in KEYS.items() for word in ("-k", name, json.dumps(values))]
    whole = str(tmp_path / "whole.csv")
    assert main(["collect", *tables, *keys, "-o", whole]) == 0
    assert main(["holds", whole, *tables]) == 0
    assert "8 rows of 4 tables" in capsys.readouterr().out
    assert main(["collect", *tables[1:], *keys]) == 2
    assert "2 rows missing" in capsys.readouterr().err
    assert main(["holds", tables[0], whole]) == 2
    assert "6 of 8 rows" in capsys.readouterr().err


def test_a_job_writes_its_tables_where_it_is_told_and_reads_those_of_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("SICORE_HOME", str(tmp_path))
    table = pd.DataFrame({"seed": [0]})
    results.write("x", "paper", table, parameters={})
    monkeypatch.setenv("SICORE_TABLES", str(tmp_path / "job"))
    results.write("x", "paper", table.assign(seed=1), parameters={})
    assert (tmp_path / "job" / "x.csv").read_text() == "seed\n1\n"
    assert (tmp_path / "job" / "x.json").is_file()
    assert results.read("x", "paper")["seed"].tolist() == [0]


# ---------------------------------------------------------------------------------------
# The plan


@pytest.mark.parametrize("given", [{}, {"file": "params/smoke.yaml"}, {"sweep": "params/sweep.yaml", "device": "cuda"}])
def test_the_projects_files_can_be_planned_without_circles(given, monkeypatch):
    monkeypatch.setenv("SICORE_HOME", str(ROOT))
    runs = workflow.plan(given)
    assert len({one.page for one in runs.values()}) == len(runs)
    done: set[str] = set()
    while len(done) < len(runs):  # as many rounds as the longest chain
        ready = {
            name
            for name, one in runs.items()
            if name not in done and {other.name for other in workflow.waits_for(one, runs)} <= done
        }
        assert ready, f"{sorted(set(runs) - done)} wait for each other"
        done |= ready
    assert all(one.gpus == (given.get("device") == "cuda" and "device" in one.parameters) for one in runs.values())


def test_a_run_waits_for_the_models_it_reads_of_its_own_depth_only(monkeypatch):
    monkeypatch.setenv("SICORE_HOME", str(ROOT))
    runs = workflow.plan({"sweep": "params/sweep.yaml"})
    assert [other.name for other in workflow.waits_for(runs["causes"], runs)] == ["2-layers"]
    assert workflow.waits_for(runs["4-layers"], runs) == []
    assert [other.name for other in workflow.waits_for(runs["shape-transfer"], runs)] == ["shape-subnetwork"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fiel": "x"}, "--config fiel: unknown. Known are file, sweep"),
        ({"starts_per_job": 0}, "starts_per_job=0: expected an integer of 1 or more"),
        ({"starts_per_job": "two"}, "starts_per_job='two'"),
        ({"local_gpus": "yes"}, "local_gpus='yes': expected true or false"),
        ({"file": "params/quick.yaml", "sweep": "params/sweep.yaml"}, "give one of them"),
        ({"file": "params/none.yaml"}, "no parameter file .*none.yaml"),
    ],
)
def test_settings_are_checked_before_anything_runs(given, message, monkeypatch):
    monkeypatch.setenv("SICORE_HOME", str(ROOT))
    with pytest.raises(NotebookError, match=message):
        workflow.plan(given)


# ---------------------------------------------------------------------------------------
# Slots


class Holder:
    """A command in a slot that says what it got and waits to be told to end."""

    def __init__(self, *words: str, **env: str) -> None:
        says = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'), *sorted(os.sched_getaffinity(0)), flush=True)"
        self.process = subprocess.Popen(
            [*SLOT, *words, "--", sys.executable, "-c", f"{says}; input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**{k: v for k, v in os.environ.items() if k != "SLURM_JOB_ID"}, **env},
        )  # fmt: skip

    def says(self) -> list[str]:
        ready, _, _ = select.select([self.process.stdout], [], [], 120)
        assert ready, "still waiting for a slot"
        return self.process.stdout.readline().split()

    def waits(self) -> bool:
        time.sleep(1)
        os.set_blocking(self.process.stdout.fileno(), False)
        silent = not self.process.stdout.readline() and self.process.poll() is None
        os.set_blocking(self.process.stdout.fileno(), True)
        return silent

    def end(self) -> None:
        self.process.communicate("\n", timeout=120)


@pytest.fixture
def slots(tmp_path, monkeypatch):
    monkeypatch.setenv("SICORE_SLOTS", str(tmp_path / "slots"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    started: list[Holder] = []

    def start(*words: str, **env: str) -> Holder:
        started.append(Holder(*words, **env))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_each_job_has_a_gpu_of_its_own_and_the_next_one_waits(slots):
    first, second = slots("--gpu", "1"), slots("--gpu", "1")
    got = {first.says()[0], second.says()[0]}
    assert got == {"3", "GPU-5"}
    third = slots("--gpu", "1")
    assert third.waits()
    first.process.kill()  # no farewell: the lock ends with the process
    assert third.says()[0] in got


def test_a_job_is_bound_to_cores_of_its_own(slots):
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        pytest.skip("one core only")
    cores = [slots("--cores", "1").says()[1:] for _ in range(2)]
    assert cores[0] != cores[1]
    assert all(len(one) == 1 and int(one[0]) in free for one in cores)


def test_all_cores_are_the_most_that_a_job_can_have(slots):
    assert slots("--cores", "1000").says()[1:] == [str(core) for core in sorted(os.sched_getaffinity(0))]


def test_under_slurm_nothing_is_changed_unless_asked_for(slots):
    others = [slots("--gpu", "1") for _ in range(2)]
    assert [len(one.says()) > 0 for one in others] == [True, True]
    assert slots("--gpu", "1", "--cores", "1", SLURM_JOB_ID="7").says()[0] == "3,GPU-5"
    local = slots("--gpu", "1", "--local", SLURM_JOB_ID="7")
    assert local.waits()
    others[0].end()
    assert local.says()[0] in ("3", "GPU-5")


@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_machine_without_a_gpu_says_so(slots, visible):
    one = slots("--gpu", "1", CUDA_VISIBLE_DEVICES=visible)
    _, error = one.process.communicate(timeout=120)
    assert one.process.returncode != 0
    assert "--gpu 1: this machine offers 0 (none)" in error


def test_a_slot_passes_on_the_commands_exit_status_and_signals(slots):
    assert subprocess.run([*SLOT, "--", "sh", "-c", "exit 7"]).returncode == 7
    assert "no-such-command" in subprocess.run([*SLOT, "--", "no-such-command"], capture_output=True, text=True).stderr
    one = slots("--gpu", "1")
    one.says()
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(timeout=120) == -signal.SIGTERM


# ---------------------------------------------------------------------------------------
# Snakemake, on notebooks that take a second

PARAMETERS = """scale: str = "smoke"  # folder
few_seeds: list[int] = [0, 1, 2]  # seeds
device: str = "cpu"  # device
n_layers: list[int] = [1]  # depths
depth_starts: list[str] = ["a", "b", "c"]  # starts
n_disambiguation: list[int] = [0, 10]  # numbers of samples
base_limit: int = 1  # above 0: odd seeds are given up
merge: bool = False  # add rows
"""
# Without sicore, so that a kernel is there in a second. A file `fail` makes the next job of seed 2 fail, once.
DEPTHS = """import csv, itertools, os, pathlib, time
with open("ran", "a") as log:
    log.write(f"{n_layers} {few_seeds} {''.join(depth_starts)} {n_disambiguation}\\n")
if few_seeds == [2] and pathlib.Path("fail").exists():
    pathlib.Path("fail").unlink()
    raise RuntimeError("failed once")
if few_seeds == [2] and pathlib.Path("hang").exists():
    pathlib.Path("hang").write_text(str(os.getpid()))
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)
folder = pathlib.Path(os.environ.get("SICORE_TABLES") or pathlib.Path("results") / scale)
folder.mkdir(parents=True, exist_ok=True)
seeds = [seed for seed in few_seeds if not base_limit or seed % 2 == 0]
def write(name, columns, rows):
    with (folder / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
steps = {seed: 9000 if seed in seeds else "nan" for seed in few_seeds}
write("04_depths_masks", ["n_layer", "seed", "base_steps"], [(n, *one) for n in n_layers for one in steps.items()])
keys = itertools.product(depth_starts, n_layers, n_disambiguation, seeds)
write("04_depths", ["start", "n_layer", "n_disambiguation", "seed", "value"], [(*key, hash(key[1:])) for key in keys])
"""
OTHER = """from pathlib import Path
with open("ran", "a") as log:
    log.write("other\\n")
folder = Path("results") / scale
folder.mkdir(parents=True, exist_ok=True)
(folder / "05_causes.csv").write_text("a\\n1\\n")
assert Path(".workflow/04-depths/1-layers/04_depths.csv").exists(), "started before the models were there"
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two notebooks, and the real workflow."""
    root = tmp_path / "project"
    for name, parameters, code in (
        ("04_depths", PARAMETERS, DEPTHS),
        ("05_causes", 'scale: str = "smoke"  # folder\nn_layer: int = 1  # depth\n', OTHER),
    ):
        notebook = nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
                nbformat.v4.new_code_cell(code),
            ]
        )
        (root / "notebooks").mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")
    shutil.copytree(ROOT / "workflow", root / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "params").mkdir()
    (root / "params" / "p.yaml").write_text("few_seeds: [0, 1, 2]\n")
    (root / "_toc.yml").touch()
    monkeypatch.chdir(root)
    monkeypatch.delenv("SICORE_HOME", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SICORE_SLOTS", str(tmp_path / "slots"))
    return root


def snakemake(profile, *words, **config):
    settings = {"file": "params/p.yaml", **config}
    return [
        sys.executable, "-m", "snakemake", "--profile", f"workflow/profiles/{profile}", *words,
        "--config", *(f"{name}={value}" for name, value in settings.items() if value),
    ]  # fmt: skip


def finished(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout + done.stderr


def log(root):
    return (root / "ran").read_text().splitlines() if (root / "ran").exists() else []


def test_a_run_is_split_by_depth_seed_and_starts_put_together_and_not_repeated(project):
    (project / "fail").touch()
    local = snakemake("local", "--cores", "2", starts_per_job=2)
    status, said = finished(local)
    assert status == 0, said
    assert not (project / "fail").exists()
    # Sources of all seeds; no job for the given-up seed 1; the failed job twice; in the end everything.
    split = [f"[1] [{seed}] {part} [0, 10]" for seed in (0, 2) for part in ("ab", "c")]
    ran = log(project)
    assert ran[0] == "[1] [0, 1, 2] c [0]"
    assert ran.count("[1] [0, 1, 2] abc [0, 10]") == 1
    assert ran.count("other") == 1
    counts = [ran.count(job) for job in split]
    assert counts[:2] == [1, 1]
    assert sorted(counts[2:]) == [1, 2]
    assert len(ran) == 8
    whole = pd.read_csv(project / ".workflow" / "04-depths" / "1-layers" / "04_depths.csv")
    assert len(whole) == 3 * 2 * 2
    assert set(whole["seed"]) == {0, 2}
    assert (project / "runs" / "smoke" / "05_causes.ipynb").is_file()
    status, said = finished(local)
    assert (status, log(project)) == (0, ran)
    assert "Nothing to be done" in said


def test_after_a_kill_the_same_command_goes_on_where_it_was(project):
    (project / "hang").touch()
    local = snakemake("local", "--cores", "1")
    with (project / "said").open("w") as said:
        process = subprocess.Popen(local, stdout=said, stderr=said, start_new_session=True)
        while not (kernel := (project / "hang").read_text()):
            assert process.poll() is None, (project / "said").read_text()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    while Path(f"/proc/{kernel}").exists():  # in a session of its own: it leaves when it sees that it is alone
        time.sleep(0.1)
    (project / "hang").unlink()
    before = log(project)
    assert finished([*local, "--unlock"])[0] == 0
    status, text = finished(local)
    assert status == 0, text
    again = log(project)[len(before) :]
    assert "[1] [2] abc [0, 10]" in again
    done = set(before) - {"[1] [2] abc [0, 10]"}  # that of seed 0 too if Snakemake took it first
    assert "[1] [0, 1, 2] c [0]" in done
    assert not done & set(again), "done before, and run again"


STAND_IN = f"""#!{sys.executable}
import fcntl, json, pathlib, re, sys
name, words, here = pathlib.Path(sys.argv[0]).name, sys.argv[1:], pathlib.Path(sys.argv[0]).parent
lock = open(here / "lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
jobs = here / "jobs.json"
known = json.loads(jobs.read_text()) if jobs.exists() else []
if name == "sacct" and "-X" in words:
    print("\\n".join(f"{{i}}|{{job['state']}}" for i, job in enumerate(known, 1)))
if name == "sbatch":
    wrap = next(word for word in words if word.startswith("--wrap="))
    rule, wildcards = re.search("--target-jobs '([a-z]+):([^']*)'", wrap).groups()
    of = dict(pair.split("=") for pair in wildcards.split(","))
    failed = rule == "transfers" and of["seed"] == "2" and not any(job["state"] == "FAILED" for job in known)
    words.remove(wrap)
    known.append({{"rule": rule, "of": of, "words": words, "state": "FAILED" if failed else "COMPLETED"}})
    jobs.write_text(json.dumps(known))
    print(len(known))
    folder = pathlib.Path(".workflow") / of.get("run", "") / (of.get("depth", "") + "-layers")
    lines = {{}}
    if rule == "sources":
        masks = folder / "sources" / "04_depths_masks.csv"
        steps = {{0: 9000, 1: "nan", 2: 9000}}
        lines[masks] = ["n_layer,seed,base_steps", *(f"{{of['depth']}},{{seed}},{{n}}" for seed, n in steps.items())]
    if rule == "transfers":
        rows = [f"{{'abc'[int(of['part'])]}},{{of['depth']}},{{n}},{{of['seed']}}" for n in (0, 10)]
        target = folder / f"seed-{{of['seed']}}" / f"starts-{{of['part']}}" / "04_depths.csv"
        lines[target] = ["start,n_layer,n_disambiguation,seed", *rows]
    if "page" in of:
        lines[pathlib.Path(of["page"])] = ["page"]
    for path, text in lines.items() if not failed else ():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\\n".join(text) + "\\n")
"""


def test_slurm_is_asked_for_each_job_with_gpu_memory_and_time(project, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sbatch", "squeue", "sacct", "sinfo", "scancel", "scontrol", "sacctmgr", "sshare"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    (project / "params" / "p.yaml").write_text("few_seeds: [0, 1, 2]\nn_layers: [1, 12]\n")
    fast = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]
    status, said = finished(snakemake("slurm", *fast, starts_per_job=1))
    assert status == 0, said
    jobs = json.loads((tools / "jobs.json").read_text())
    asked = sorted((job["rule"], *job["of"].values()) for job in jobs)
    split = [("transfers", "04-depths", d, s, p) for d in ("1", "12") for s in ("0", "2") for p in "012"]
    failed = [(job["rule"], *job["of"].values()) for job in jobs if job["state"] == "FAILED"]
    assert len(failed) == 1
    assert asked == sorted([
        ("sources", "04-depths", "1"), ("sources", "04-depths", "12"), *split, *failed,
        ("depths", "runs/smoke/04_depths.ipynb"), ("notebook", "runs/smoke/05_causes.ipynb"),
    ])  # fmt: skip
    for job in jobs:
        words = job["words"]
        attempt = 2 if job["state"] == "COMPLETED" and (job["rule"], *job["of"].values()) in failed else 1
        gpus = [word for word in words if word.startswith("--gpus")]
        assert gpus == ([] if job["of"].get("page", "").endswith("05_causes.ipynb") else ["--gpus=1"])
        memory, minutes = int(words[words.index("--mem") + 1]), int(words[words.index("-t") + 1])
        assert memory == attempt * (4000 if "page" in job["of"] else 8000)
        assert minutes == attempt * {"sources": 240, "transfers": 60, "depths": 60, "notebook": 240}[job["rule"]]
        assert "--cpus-per-task=1" in words


def test_without_a_gpu_the_time_grows_with_depth_and_starts(project):
    (project / "params" / "p.yaml").write_text("n_layers: [1, 12]\nbase_limit: 0\n")
    status, said = finished(snakemake("local", "-n", starts_per_job=2))
    assert status == 0, said
    jobs = re.findall(r"rule transfers:.*?wildcards: (.*?)\n\s+resources: (.*?)\n", said, re.DOTALL)
    assert len(jobs) == 2 * 3 * 2
    for wildcards, resources in jobs:
        of = dict(pair.split("=") for pair in wildcards.split(", "))
        assert f"runtime={60 + 20 * int(of['depth']) * (2 if of['part'] == '0' else 1)}" in resources
        assert "gpu=0" in resources


def test_a_wrong_parameter_stops_the_workflow_before_any_job(project):
    (project / "params" / "p.yaml").write_text("few_sedes: [0]\n")
    status, said = finished(snakemake("local", "--cores", "1"))
    assert status != 0
    assert "unknown parameter few_sedes; did you mean few_seeds?" in said
    assert log(project) == []


def test_profiles_have_retries_and_take_up_what_is_incomplete():
    for path in (ROOT / "workflow" / "profiles").glob("*/config.yaml"):
        profile = yaml.safe_load(path.read_text())
        assert profile["retries"] >= 1
        assert profile["rerun-incomplete"] is True


# ---------------------------------------------------------------------------------------
# What it costs


@pytest.mark.parametrize("step", [scaling.on_core, scaling.on_gpu])
def test_jobs_on_paper_lose_no_time_alone_and_never_beat_the_longest_chain(step, monkeypatch):
    monkeypatch.setenv("SICORE_HOME", str(ROOT))
    jobs = scaling.jobs_of(step, 1, cores=1)
    work = sum(job.seconds for job in jobs)
    walls = [scaling.wall(jobs, workers) for workers in (1, 8, 64, len(jobs))]
    assert walls[0] == pytest.approx(work)
    assert walls == sorted(walls, reverse=True)
    assert all(wall >= 0.999999 * work / workers for wall, workers in zip(walls, (1, 8, 64, len(jobs)), strict=True))

    def chain(job):
        return job.seconds + max(map(chain, job.after), default=0)

    assert walls[-1] == pytest.approx(max(map(chain, jobs)))


def test_a_stack_takes_as_many_steps_as_its_models_where_a_step_costs_one_for_each():
    assert scaling.stack_seconds([20, 10, 30], 1, lambda k: k) == 60
    assert scaling.stack_seconds([20, 10, 30], 2, lambda k: k) == 120
    assert scaling.stack_seconds([20, 10, 30], 2, lambda k: 1) == 30


def test_the_workflows_own_cost_is_read_from_its_log():
    def stamped(second, *lines):
        return "\n".join([f"[Sat Nov 21 16:00:{second:02d} 2026]", *lines])

    log = [
        stamped(5, "checkpoint sources:", "    jobid: 1"),
        stamped(15, "Finished jobid: 1 (Rule: sources)"),
        stamped(16, "rule transfers:", "    jobid: 2", "rule transfers:", "    jobid: 3"),
        stamped(30, "Finished jobid: 3 (Rule: transfers)"),
        stamped(36, "Finished jobid: 2 (Rule: transfers)", "localrule collect:", "    jobid: 4"),
        stamped(38, "Finished jobid: 4 (Rule: collect)", "Elapsed time: 0:00:40.000000"),
    ]
    table = own_cost("\n".join(log), 2).set_index("what")["seconds"]
    # 8 of 40 s without a job, twice; one table; two further starts of 10 s each at most.
    assert table["Snakemake, no job running"] == 16
    assert table["tables put together"] == 2
    assert table["further starts of a notebook"] == 20
    assert table["the workflow's own cost"] == 38
    assert table["the whole run, wall time x workers"] == 80
    with pytest.raises(ValueError, match="was the run completed"):
        own_cost("", 2)


# ---------------------------------------------------------------------------------------
# The real notebook, and the book


def test_the_notebook_of_the_depths_has_the_same_rows_in_jobs_and_in_one_run(project, monkeypatch):
    shutil.rmtree(project / "notebooks")
    shutil.copytree(ROOT / "results" / "published", project / "results" / "published")
    (project / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "04_depths.ipynb", project / "notebooks")
    few = {
        "n_layers": [1], "few_seeds": [0, 1], "n_disambiguation": [0, 40], "base_steps": 50, "discovery_steps": 25,
        "transfer_steps": 25, "depth_starts": ["subnetwork", "random_initialisation"],
    }  # fmt: skip
    (project / "params" / "p.yaml").write_text(yaml.safe_dump(few))
    status, said = finished(snakemake("local", "--cores", "1", starts_per_job=1))
    assert status == 0, said
    jobs = project / ".workflow" / "04-depths" / "1-layers" / "04_depths.csv"
    record = json.loads(jobs.with_suffix(".json").read_text())
    assert [run["parameters"]["depth_starts"] for run in record["runs"]] == [
        ["subnetwork"],
        ["random_initialisation"],
    ] * 2
    trained = len(list((project / ".store" / "transfer").glob("*.safetensors")))
    assert trained == len(pd.read_csv(jobs)) == 2 * 2 * 2  # nothing was trained for one job only
    monkeypatch.setenv("SICORE_TABLES", str(project / "alone"))
    run("notebooks/04_depths.ipynb", ["params/p.yaml"], {"store": str(project / "other-store")}, progress=False)
    alone = pd.read_csv(project / "alone" / "04_depths.csv").drop(columns="seconds")
    split = pd.read_csv(jobs).drop(columns=["run", "seconds"])
    keys = ["start", "n_layer", "n_disambiguation", "seed"]
    pd.testing.assert_frame_equal(
        alone.sort_values(keys, ignore_index=True), split.sort_values(keys, ignore_index=True)[list(alone.columns)]
    )


def test_kept_figures_stand_below_the_cells_that_draw_them():
    def drawing(name):
        return {
            "cell_type": "code", "source": name, "outputs": [], "execution_count": None,
            "metadata": {"mystnb": {"figure": {"caption": f"About {name}.", "name": name}, "image": {"alt": "text"}}},
        }  # fmt: skip

    source = {"metadata": {}, "cells": [{"cell_type": "markdown", "metadata": {}, "source": "# Title"}]}
    source["cells"] += [drawing("fig-first"), drawing("fig-held"), drawing("fig-last")]
    shown = pages.page(source, {"_held": "h.png", "": "u.png"}, "quick")["cells"]
    text = [cell["source"] for cell in shown]
    assert text[0] == "# Title"
    assert "not executed" in text[1]
    assert text[2] == "fig-first"
    assert text[3].startswith('```{figure} u.png\n:name: fig-first\n:alt: "text"\n\nAbout fig-first.')
    assert (text[4], text[5].split("\n")[0], text[6]) == ("fig-held", "```{figure} h.png", "fig-last")
    assert len(shown) == 7
    with pytest.raises(
        ValueError, match=r"x\.png: no cell draws '_lost'; the notebook has fig-first, fig-held, fig-last"
    ):
        pages.page(source, {"_lost": "x.png"}, "quick")


def test_every_kept_figure_has_its_cell():
    for scale in ("quick", "paper"):
        for path in (ROOT / "results" / scale).glob("*.png"):
            stem = max(
                (one.stem for one in (ROOT / "notebooks").glob("*.ipynb") if path.stem.startswith(one.stem)), key=len
            )
            source = json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text())
            figure = pages.PLACES.get(path.stem, path.stem.removeprefix(stem))
            shown = pages.page(source, {figure: path.name}, scale)["cells"]
            assert sum(f"{{figure}} {path.name}" in "".join(cell["source"]) for cell in shown) == 1


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A tree as after `git clone`, with one executed notebook, and its book."""
    root = tmp_path_factory.mktemp("clone")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in tracked or pytest.skip("no git"):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    executed = nbformat.read(root / "notebooks" / "01_base_model.ipynb", as_version=4)
    executed.metadata["sicore"] = {"mark": "m"}
    executed.cells.append(nbformat.v4.new_markdown_cell("This ran here."))
    (root / "book" / "runs").mkdir()
    nbformat.write(executed, root / "book" / "runs" / "01_base_model.ipynb")
    before = {path: path.read_bytes() for path in (root / "results").rglob("*.*")}
    env = {**os.environ, "PYTHONPATH": str(ROOT)} | {"SICORE_HOME": str(root)}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", "workflow/book.smk", "--cores", "1"],
        cwd=root, capture_output=True, text=True, timeout=900, env=env,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert {path: path.read_bytes() for path in (root / "results").rglob("*.*")} == before
    return root


def test_a_fresh_clone_has_its_book_from_the_committed_results(built):
    html = built / "_build" / "html"
    number = json.loads((built / "results" / "quick" / "03_transfer.json").read_text())["numbers"]["subnetwork_250"]
    assert number in (html / "book" / "index.html").read_text()
    page = (html / "book" / "runs" / "03_transfer.html").read_text()
    assert "was not executed" in page
    assert re.search(r'<img[^>]*src="[^"]*03_transfer\.png"', page)
    assert not (built / ".store").exists()


def test_an_executed_notebook_stays_the_page(built):
    page = (built / "_build" / "html" / "book" / "runs" / "01_base_model.html").read_text()
    assert "This ran here." in page
    assert "was not executed" not in page


def test_every_command_on_the_page_of_clusters_names_what_there_is():
    text = (ROOT / "book" / "cluster.md").read_text()
    commands = [line for line in text.splitlines() if "snakemake " in line and not line.startswith(("#", "`"))]
    assert len(commands) >= 4
    for line in commands:
        words = shlex.split(line, comments=True)
        for flag in ("--profile", "-s"):
            if flag in words:
                assert (ROOT / words[words.index(flag) + 1]).exists(), line
        for setting in words[words.index("--config") + 1 :] if "--config" in words else []:
            assert setting.split("=")[0] in workflow.DEFAULTS, line
