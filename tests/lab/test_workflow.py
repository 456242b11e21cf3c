"""The workflow: lists of runs, the plan, GPUs of one's own, and Snakemake itself on notebooks that take a second."""

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
import pytest
import yaml

import companion.__main__
from companion.lab import runs, tables
from companion.lab.project import tables_folder
from companion.lab.runner import NotebookError, parameters_of, resolve, with_defaults
from companion.lab.runs import Run
from companion.lab.store import Store

ROOT = Path(__file__).parents[2]
PROFILES = sorted(path.name for path in (ROOT / "workflow" / "profiles").iterdir())

# ---------------------------------------------------------------------------------------
# Lists of runs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: [", "not YAML: line 1"),
        ("[]", "must hold"),
        ("runs: []", "must hold"),
        ("rusn: []\nruns: [{name: a, notebook: a.ipynb}]", "unknown entry 'rusn'. Known are files, runs"),
        ("files: p.yaml\nruns: [{name: a, notebook: a.ipynb}]", r"files of .* = 'p.yaml': expected list"),
        ("runs: [3]", "run 1: 3 is not of the form"),
        ("runs: [{name: a, notebook: a.ipynb, weight: 1}]", "run 1: unknown entry 'weight'. Known are name, "),
        ("runs: [{name: 2, notebook: a.ipynb}]", "run 1: name = 2: expected text"),
        ("runs: [{name: '?!', notebook: a.ipynb}]", r"run 1: name = '\?!': expected text with a letter"),
        ("runs: [{name: a}]", r"run 1 \(a\): notebook = None: expected a path"),
        ("runs: [{name: a, notebook: a.ipynb, files: p}]", r"files of .*run 1 \(a\) = 'p': expected list"),
        ("runs: [{name: a, notebook: a.ipynb, parameters: [1]}]", r"parameters = \[1\]: expected 'name: value'"),
        ("runs: [{name: a, notebook: a.ipynb, parameters: }]", "line 1: there is no value; write null"),
        ("runs:\n- {name: a, notebook: a.ipynb, parameters: {n: 010}}", "line 2: '010' .*; write 8 or 10"),
        ("runs: [{name: A b, notebook: a.ipynb}, {name: a-b, notebook: a.ipynb}]", "two runs are called a-b"),
        ("runs: [{name: a, notebook: a.ipynb}, {name: a, notebook: a.ipynb}]", "two runs are called a,"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_the_place(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(NotebookError, match=message):
        runs.read(tmp_path / "s.yaml")


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotebookError, match=r"no list of runs .*s\.yaml"):
        runs.read(tmp_path / "s.yaml")


def test_a_run_may_have_files_of_its_own(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "files: [p.yaml]\nruns: [{name: A!, notebook: a.ipynb, parameters: {n: 1}}, "
        "{name: b, notebook: a.ipynb, files: [q.yaml, r.yaml]}]"
    )
    expected = [Run("a", "a.ipynb", ("p.yaml",), {"n": 1}), Run("b", "a.ipynb", ("q.yaml", "r.yaml"), {})]
    assert runs.read(tmp_path / "s.yaml") == expected


# ---------------------------------------------------------------------------------------
# The plan


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setenv("COMPANION_HOME", str(ROOT))
    monkeypatch.setenv("COMPANION_TABLES", "")


@pytest.mark.parametrize("given", [{}, {"file": "params/smoke.yaml"}, {"runs": "params/runs.yaml", "device": "cuda"}])
def test_the_projects_own_runs_can_be_planned(given, here):
    jobs = runs.plan(given)
    assert jobs
    scales = {"params/smoke.yaml": {"smoke"}}.get(given.get("file"), {"quick"})
    if "runs" in given:
        scales = {"paper", "paper-trained-on", "paper-released-search"}
    assert {job.values["scale"] for job in jobs.values()} == scales
    for name, job in jobs.items():
        scale = job.values["scale"]
        takes_a_device = "device" in parameters_of(ROOT / job.run.notebook)
        assert job.gpus == (takes_a_device and given.get("device") == "cuda")
        assert job.done == f"runs/{scale}/{name}.done"
        assert job.output == (f"runs/{scale}/{name}" if "runs" in given else f"runs/{scale}")
    assert len({(job.output, job.run.notebook) for job in jobs.values()}) == len(jobs), "copies replace each other"


def test_the_reference_is_the_quick_scale_with_many_seeds_of_which_none_is_the_readers(here):
    own, reference = runs.plan({}), runs.plan({"file": ["params/quick.yaml", "params/reference.yaml"]})
    checked = set()
    for name, job in own.items():
        notebook = ROOT / job.run.notebook
        mine, theirs = (with_defaults(notebook, one.values) for one in (job, reference[name]))
        assert tables.differing(mine, theirs) == [], name
        for key in [key for key, values in theirs.items() if key.endswith("seeds") and values]:
            assert len(theirs[key]) >= 10, (name, key)
            assert set(mine[key]).isdisjoint(theirs[key]), (name, key)
            assert max([*mine[key], *theirs[key]]) < 1000, "settings were tuned on seeds from there on"
            checked.add(name)
    assert set(own) - checked == {"12_published"}, "it only reads tables"


def test_the_papers_list_has_every_depth(here):
    jobs = [job for job in runs.plan({"runs": "params/runs.yaml"}).values() if "depth_starts" in job.values]
    assert [job.values["n_layers"] for job in jobs if job.values["scale"] == "paper"] == [
        [2],
        [4],
        [6],
        [8],
        [10],
        [12],
    ]
    assert {len(job.values["depth_starts"]) for job in jobs} == {7}


def test_what_is_changed_to_explain_the_lead_is_changed_alone(here):
    jobs = runs.plan({"runs": "params/runs.yaml"})
    plain = jobs["2-layers"].values
    for name, changes in {
        "2-layers-trained-on": {"base_limit", "base_patience"},
        "2-layers-released-search": {"discovery_weight_decay", "discovery_skip_temperature"},
    }.items():
        values = jobs[name].values
        differing = {key for key in values if values[key] != plain.get(key)}
        assert differing == changes | {"scale", "n_disambiguation"}


def test_some_of_the_runs_can_be_asked_for_by_name(here):
    for only in ("4 layers", "4-layers", ["4 layers"]):
        assert list(runs.plan({"runs": "params/runs.yaml", "only": only})) == ["4-layers"]
    assert list(runs.plan({"runs": "params/runs.yaml", "only": ["causes", "2 layers"]})) == ["2-layers", "causes"]
    assert list(runs.plan({"only": "08_scenes"})) == ["08_scenes"]


def test_tables_go_to_the_reference_only_when_that_is_asked_for(here, monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "is_up_to_date", lambda *_: asked.append(tables_folder()) or True)
    for reference in (True, "true", "True", "false"):  # the last one after the others: nothing stays
        (job,) = runs.plan({"reference": reference, "only": "08_scenes"}).values()
        assert ("--reference" in job.command) == (reference != "false")
        assert job.is_up_to_date()
    assert asked == [ROOT / "results"] * 3 + [ROOT / "runs"]


def test_a_jobs_command_gives_its_parameters_to_the_runner(here, tmp_path, monkeypatch):
    given = {"penalties": [1e-7, 2.0], "penalty": -1.5e-5, "base_computation": "-a", "base_all_positions": True}
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump({"runs": [{"name": "a", "notebook": "notebooks/02_discovery.ipynb", "parameters": given}]})
    )
    (job,) = runs.plan({"runs": str(tmp_path / "s.yaml")}).values()
    assert job.values == given
    got = {}
    monkeypatch.setattr(companion.__main__, "run", lambda *_, typed, **__: (got.update(typed=typed), True))
    assert companion.__main__.main(shlex.split(job.command)[3:]) == 0
    assert resolve(ROOT / job.run.notebook, typed=got["typed"]) == given


def test_a_scratch_notebook_stops_the_plan_by_name_and_no_run_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_HOME", str(tmp_path))
    for folder in ("notebooks", "params"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "notebooks" / "._half.ipynb").touch()
    assert "01_base_model" in runs.plan({})
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "notebooks" / "Untitled.ipynb")
    with pytest.raises(NotebookError, match=r"run 'Untitled': .*Untitled.ipynb has 0 cells tagged 'parameters'"):
        runs.plan({})
    assert list(runs.plan({"only": "08_scenes"})) == ["08_scenes"]


def test_the_scale_of_a_run_is_checked_with_the_plan(here, tmp_path):
    entry = {"name": "a", "notebook": "notebooks/08_scenes.ipynb", "parameters": {"scale": "../x"}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"runs": [entry]}))
    with pytest.raises(NotebookError, match=r"run 'a': parameter scale = '\.\./x': expected a short name"):
        runs.plan({"runs": str(tmp_path / "s.yaml")})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fiel": "x"}, "--config fiel: unknown. Known are runs, file, only"),
        ({"reference": "yes"}, "reference='yes': expected true or false"),
        ({"file": "params/quick.yaml", "runs": "params/runs.yaml"}, "the list names its files"),
        ({"file": "params/none.yaml"}, "no parameter file .*none.yaml"),
        ({"runs": "params/runs.yaml", "only": "5 layers"}, "there is no run '5-layers'; there are 2-layers, causes"),
        ({"device": 3}, "parameter device = 3: expected str"),
    ],
)
def test_settings_are_checked(given, message, here):
    with pytest.raises(NotebookError, match=message):
        runs.plan(given)


# ---------------------------------------------------------------------------------------
# A GPU of one's own


class Holder:
    """A command that says which GPU it got and waits to be told to end."""

    def __init__(self, **env: str) -> None:
        says = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); input()"
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "workflow" / "slot.py"), sys.executable, "-c", says],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | env,
        )  # fmt: skip

    def says(self) -> str:
        ready, _, _ = select.select([self.process.stdout], [], [], 120)
        assert ready, "still waiting for a GPU"
        return self.process.stdout.readline().strip()

    def waits(self) -> bool:
        ready, _, _ = select.select([self.process.stdout], [], [], 1)
        return not ready and self.process.poll() is None


@pytest.fixture
def slot(tmp_path, monkeypatch):
    """Starts commands on a machine of two GPUs, 3 and GPU-5."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    started: list[Holder] = []

    def start(**env: str) -> Holder:
        started.append(Holder(**env))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_each_command_has_a_gpu_of_its_own_and_the_next_one_waits(slot):
    first = slot()
    assert first.says() == "3"
    assert slot().says() == "GPU-5"
    third = slot()
    assert third.waits()
    first.process.kill()  # no farewell: the lock ends with the process
    assert third.says() == "3"


def test_the_gpus_of_a_slurm_job_are_its_own_whatever_their_numbers(slot):
    assert [slot(SLURM_JOB_ID=job).says() for job in ("7", "8")] == ["3", "3"]
    assert slot(SLURM_JOB_ID="7").says() == "GPU-5"
    assert slot(SLURM_JOB_ID="7").waits()


@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_machine_without_a_gpu_says_so(slot, visible):
    one = slot(CUDA_VISIBLE_DEVICES=visible)
    _, error = one.process.communicate(timeout=120)
    assert one.process.returncode != 0
    assert error == "slot: this machine offers no GPU\n"


def test_the_commands_exit_status_and_signals_are_passed_on(slot):
    words = [sys.executable, str(ROOT / "workflow" / "slot.py")]
    assert subprocess.run([*words, "sh", "-c", "exit 7"]).returncode == 7
    assert "no-such-command" in subprocess.run([*words, "no-such-command"], capture_output=True, text=True).stderr
    one = slot()
    one.says()
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(timeout=120) == -signal.SIGTERM


# ---------------------------------------------------------------------------------------
# Snakemake

PARAMETERS = """scale: str = "smoke"  # folder
sizes: list[int] = [1]  # sizes
device: str = "cpu"  # device
store: str = ""  # folder
"""
# Without the package, so that a kernel is there in a second.
PLAIN = """import os, pathlib, time
def note(what):
    with open("ran", "a") as log:
        log.write(f"{what} {sizes} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")
note("began")
parent = os.getppid()
while open("ran").read().count("began") < 2:  # until there are two at once
    time.sleep(0.05)
if sizes == [2] and pathlib.Path("hang").exists():
    pathlib.Path("hang").write_text(str(os.getpid()))
    while os.getppid() == parent:
        time.sleep(0.05)
    os._exit(1)
if sizes == [3] and pathlib.Path("fail").exists():
    pathlib.Path("fail").unlink()
    raise RuntimeError("failed once")
note("ended")
"""
SHARED = """import os, pathlib, time, torch
from companion.lab.store import Store
shelf = Store.open(store)
pathlib.Path(f"began-{os.getpid()}").touch()
while len(list(pathlib.Path().glob("began-*"))) < 2:  # until there are two at once
    time.sleep(0.05)
with shelf.lock("base", {"seed": 0}):
    if shelf.get("base", {"seed": 0}) is None:
        open("ran", "a").write("made\\n")
        time.sleep(0.2)
        shelf.put("base", {"seed": 0}, {"w": torch.ones(3)}, {})
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two notebooks and the real workflow, on a machine of two GPUs."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    for name, code in (("plain", PLAIN), ("shared", SHARED)):
        cells = [
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code),
        ]  # fmt: skip
        nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / f"{name}.ipynb")
    shutil.copytree(ROOT / "workflow", root / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "p.yaml").write_text("sizes: [1]\n")
    (root / "_toc.yml").touch()
    (root / "results").mkdir()
    monkeypatch.chdir(root)
    monkeypatch.delenv("COMPANION_HOME", raising=False)
    monkeypatch.delenv("COMPANION_TABLES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return root


def listed(root, *sizes):
    """A list of runs of the plain notebook, called ``size-1`` and so on."""
    entries = [{"name": f"size {n}", "notebook": "notebooks/plain.ipynb", "parameters": {"sizes": [n]}} for n in sizes]
    (root / "list.yaml").write_text(yaml.safe_dump({"files": ["p.yaml"], "runs": entries}))


def snakemake(profile, *words, **config):
    return [
        sys.executable, "-m", "snakemake", "--profile", f"workflow/profiles/{profile}", *words,
        "--config", *(f"{name}={value}" for name, value in ({"runs": "list.yaml"} | config).items() if value),
    ]  # fmt: skip


def finished(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout + done.stderr


def log(root):
    return (root / "ran").read_text().splitlines() if (root / "ran").exists() else []


def test_runs_have_gpus_of_their_own_are_tried_again_and_after_a_kill_the_same_command_goes_on(project):
    listed(project, 2, 3)
    (project / "fail").touch()
    (project / "hang").touch()
    command = snakemake("gpus", "--resources", "gpu=2")
    with (project / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        while not (done := project / "runs" / "smoke" / "size-3.done").exists():
            assert process.poll() is None, (project / "said").read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    began = [line.split() for line in log(project) if line.startswith("began")]
    assert {words[2] for words in began[:2]} == {"3", "7"}, "one GPU for two"
    assert sorted(words[1] for words in began) == ["[2]", "[3]", "[3]"], "2 is at it all the time, 3 fails once"
    kernel = (project / "hang").read_text()
    (project / "hang").unlink()
    while Path(f"/proc/{kernel}").exists():  # in a session of its own: it leaves when it sees that it is alone
        time.sleep(0.05)
    before = log(project)
    status, text = finished(command)
    assert status == 0, text
    assert [line.split()[:2] for line in log(project)[len(before) :]] == [["began", "[2]"], ["ended", "[2]"]]
    copies = sorted(str(path.relative_to(done.parent)) for path in done.parent.rglob("*.ipynb"))
    assert copies == [f"size-{n}/plain.ipynb" for n in (2, 3)]
    assert list((project / "results").iterdir()) == []


def test_two_workflows_at_once_share_the_store(project):
    (project / "list.yaml").write_text("runs: [{name: a, notebook: notebooks/shared.ipynb}]")
    both = [
        subprocess.Popen(snakemake("local"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert log(project) == ["made"]
    assert Store(project / ".store").get("base", {"seed": 0}) is not None


PLANS = """
import sys
from snakemake.cli import main
for profile in sys.argv[1:]:
    print("=====", profile, flush=True)
    try:
        main(["--profile", f"workflow/profiles/{profile}", "-n", "-p", "--config", "runs=list.yaml", "only=size 2"])
    except SystemExit as end:
        print("status", end.code, flush=True)
"""


def plans():
    """Profile -> what a dry run of ``size 2`` says."""
    words = [sys.executable, "-c", PLANS, *PROFILES]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    return dict(text.split("\n", 1) for text in done.stdout.split("===== ")[1:])


def test_the_plan_of_every_profile_has_the_runs_that_were_asked_for(project):
    listed(project, 1, 2)
    for profile, said in plans().items():
        assert said.endswith("status 0\n"), said
        assert re.findall("wildcards: (.*)", said) == ["scale=smoke, name=size-2"]
        assert f"gpu={int(profile != 'local')}," in said
        assert ("workflow/slot.py" in said) == (profile != "local")
        assert (
            "-m companion run notebooks/plain.ipynb --if-changed -o runs/smoke/size-2 -f p.yaml -p sizes '[2]'" in said
        )


def test_a_wrong_parameter_is_named_and_stops_every_profile(project):
    listed(project, 1, 2)
    (project / "p.yaml").write_text("sizse: [0]\n")
    for said in plans().values():
        assert said.endswith("status 1\n"), said
        assert "run 'size-2': " in said
        assert "p.yaml: unknown parameter sizse; did you mean sizes?" in said


SLURM = f"""#!{sys.executable}
import json, pathlib, re, sys
name, words, here = pathlib.Path(sys.argv[0]).name, sys.argv[1:], pathlib.Path(sys.argv[0]).parent
known = json.loads((here / "jobs").read_text()) if (here / "jobs").exists() else []
if name == "sacct" and "-X" in words:
    print("\\n".join(f"{{i}}|{{job['state']}}" for i, job in enumerate(known, 1)))
if name == "sbatch":  # the first job fails
    of = re.search("notebook:scale=smoke,name=([^']*)", next(word for word in words if word.startswith("--wrap=")))[1]
    known.append({{"of": of, "words": words, "state": "COMPLETED" if known else "FAILED"}})
    (here / "jobs").write_text(json.dumps(known))
    print(len(known))
    if len(known) > 1:
        path = pathlib.Path("runs/smoke") / f"{{of}}.done"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
"""


def test_slurm_is_asked_for_a_gpu_and_after_a_failure_for_more_memory_and_time(project, tmp_path, monkeypatch):
    listed(project, 1)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sbatch", "squeue", "sacct", "sinfo", "scancel", "scontrol", "sacctmgr", "sshare"):
        (tools / name).write_text(SLURM)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    fast = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]
    status, said = finished(snakemake("slurm", *fast))
    assert status == 0, said
    jobs = json.loads((tools / "jobs").read_text())
    assert [job["of"] for job in jobs] == ["size-1", "size-1"]
    for attempt, job in enumerate(jobs, 1):
        words = job["words"]
        assert {"--gpus=1", "--cpus-per-task=1"} <= set(words)
        assert int(words[words.index("--mem") + 1]) == attempt * 16000
        assert int(words[words.index("-t") + 1]) == attempt * 720


# ---------------------------------------------------------------------------------------
# The page


def test_every_command_on_the_page_of_clusters_names_what_there_is():
    text = (ROOT / "book" / "cluster.md").read_text()
    commands = [line for line in text.splitlines() if line.startswith("snakemake ")]
    assert len(commands) >= 3
    for line in commands:
        words = shlex.split(line, comments=True)
        assert (ROOT / words[words.index("--profile") + 1]).is_dir(), line
        settings = dict(word.split("=") for word in words[words.index("--config") + 1 :]) if "--config" in words else {}
        assert settings.keys() <= runs.SETTINGS.keys(), line
        for name in ("runs", "file"):
            assert (ROOT / settings.get(name, "")).exists(), line
