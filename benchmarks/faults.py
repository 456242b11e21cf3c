"""Is anything lost when a run is killed, its disk is full or gone, or eight processes share a store?

An experiment is started as anyone would start it, killed with SIGKILL at a random moment and started again with the
same command; its tables are compared with those of a run that nobody disturbed, every digit but those of durations.

    python benchmarks/faults.py --kills 50 --seed 1 --write
    python benchmarks/faults.py --kills 0              # only the disks and the eight processes

Needs Linux; the trials of a full, a read-only and a vanished disk need the right to mount and are left out without it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

from companion.lab import store
from companion.lab import tables as results
from companion.lab.store import Store
from sicore.files import is_held

PROJECT = Path(__file__).resolve().parent.parent


def given(parameters: dict[str, str]) -> list[str]:
    """Parameters as words of a command."""
    return [word for pair in parameters.items() for word in ("-p", *pair)]


# The commands that are killed. All stages of both chains, shorter than at the smoke scale.
ARITHMETIC = {
    "seeds": "[0]", "conditions": "[subnetwork, sampled_as_described, random_initialisation]",
    "n_disambiguation": "[200]", "discovery_steps": "100",
}  # fmt: skip
VISION = {"vision_seeds": "[0]", "table_rows": "[scratch, subnetwork, sampled]"}
COMMANDS = {
    "arithmetic": ["companion", "run", "notebooks/03_transfer.ipynb", *given(ARITHMETIC)],
    "vision": ["companion", "run", "notebooks/10_shape_transfer.ipynb", *given(VISION)],
    "workflow": ["snakemake", "--profile", "workflow/profiles/local", "--config", "runs=list.yaml"],
}
LIST = f"""
runs:
  - {{name: base, notebook: notebooks/01_base_model.ipynb, parameters: {{seeds: [0]}}}}
  - name: transfer
    notebook: notebooks/03_transfer.ipynb
    parameters: {{{", ".join(f"{name}: {value}" for name, value in ARITHMETIC.items())}}}
"""

# Checkpoints every fifth of a second instead of every minute: these experiments are short.
OFTEN = """
import importlib.abc, importlib.util, sys

class Often(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "sicore.training":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        plain = spec.loader.exec_module
        def load(module):
            plain(module)
            module.Resume.__init__.__defaults__ = (None, 0.2, None)
        spec.loader.exec_module = load
        return spec

sys.meta_path.insert(0, Often())
"""

EIGHT = """
import os, sys
from companion.arithmetic import stages as ex
from companion.lab.make import Machine

machine = Machine.open(store=sys.argv[1], workers=1, stack=3)
log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
plain = ex._train_bases

def noted(specs, *rest):
    os.write(log, "".join(f"{spec['seed']}\\n" for spec in specs).encode())
    plain(specs, *rest)

ex._train_bases = noted
settings = dict(p=3, numbers=20, n_layer=1, n_embd=32, n_head=2, train_pairs=200, validation_pairs=50, test_pairs=50,
                steps=40, batch=20, every=20, target=None)
children, (begin, ready) = [], os.pipe()
for number in range(8):
    if not (child := os.fork()):
        os.close(ready)
        os.read(begin, 1)  # until all are there
        ex.base_models(machine, [(2 * number + i) % 11 for i in range(5)], **settings)
        os._exit(0)
    children.append(child)
os.close(ready)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@dataclass(frozen=True)
class Place:
    """Where one experiment runs: its results, executed copies and store lie below ``home``."""

    home: Path
    command: str
    shelf: Path | None = None  # a store of its own elsewhere

    @property
    def store(self) -> Store:
        return Store(self.shelf or self.home / ".store")

    def start(self) -> subprocess.Popen[str]:
        self.home.mkdir(parents=True, exist_ok=True)
        if not (self.home / "notebooks").exists():
            (self.home / "notebooks").symlink_to(PROJECT / "notebooks")
            (self.home / "results").mkdir()
            (self.home / "results" / "published").symlink_to(PROJECT / "results" / "published")
            if self.command == "workflow":
                (self.home / "list.yaml").write_text(LIST)
                shutil.copytree(PROJECT / "workflow", self.home / "workflow")
                (self.home / "_toc.yml").touch()
        words = list(COMMANDS[self.command])
        if self.shelf:
            words += ["-p", "store", str(self.shelf)]
        paths = [str(self.home.parent / "often"), str(PROJECT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "COMPANION_HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        command, log = [sys.executable, "-m", *words], (self.home / "log").open("a")
        return subprocess.Popen(
            command, env=environment, cwd=self.home, start_new_session=True, text=True, stdout=subprocess.DEVNULL,
            stderr=log,
        )  # fmt: skip

    def said(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def finish(self) -> int:
        """Run the plain command until it succeeds; how often that was."""
        for count in range(1, 6):
            if self.start().wait() == 0:
                return count
        sys.exit(f"{self.home}: five runs have failed:\n{self.said()[-3000:]}")

    def tables(self) -> dict[str, str]:
        """Every result table, without the columns that hold durations."""
        found = {}
        for name in results.names("smoke", root=self.home / "runs"):
            text = results.text(name, "smoke", root=self.home / "runs")
            cells = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
            found[name] = cells[[column for column in cells if "seconds" not in column]].to_csv(index=False)
        return found

    def count(self, pattern: str) -> int:
        return sum(1 for _ in self.store.root.glob(f"*/{pattern}")) if self.store.root.is_dir() else 0

    def objects(self) -> dict[str, int]:
        kinds = [path.parent.name for path in self.store.root.glob("*/*.safetensors")]
        return {kind: kinds.count(kind) for kind in kinds}

    def damaged(self) -> int:
        """Files that look whole and are not."""
        if not self.store.root.is_dir():
            return 0
        wrong = sum(1 for _, problem in store.verify(self.store) if problem)
        for copy in self.home.glob("runs/**/*.ipynb"):
            wrong += "companion" not in json.loads(copy.read_text())["metadata"]
        return wrong

    def held(self) -> int:
        return sum(is_held(path) for path in self.store.root.glob("*/*.lock")) if self.store.root.is_dir() else 0


def stage(place: Place, whole: dict[str, int]) -> str:
    """What was going on when the run was killed: the kind of object whose lock is the youngest."""
    if place.objects() == whole:
        return "figures and tables"
    locks = list(place.store.root.glob("*/*.lock")) if place.store.root.is_dir() else []
    if not locks:
        return "start"
    return max(locks, key=lambda path: path.stat().st_mtime_ns).parent.name


def is_kernel(process: psutil.Process) -> bool:
    try:
        return "ipykernel_launcher" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return False


def kill(process: subprocess.Popen[str], who: str) -> list[psutil.Process]:
    """SIGKILL to everything that the command has started, to its first process, or to the notebook's kernel.

    Returns the other processes, of which those that were spared are to find out by themselves.
    """
    first = psutil.Process(process.pid)
    below = first.children(recursive=True)
    kernels = [one for one in below if is_kernel(one)]
    for one in {"everything": [first, *below], "first process": [first], "kernel": kernels or [first]}[who]:
        try:
            one.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
    if who == "everything":
        psutil.wait_procs(below)
    return below


def kills(work: Path, count: int, seed: int, keep: Callable[[pd.DataFrame], None]) -> pd.DataFrame:
    """One line a kill: when, whom, at which stage, what was left, and whether the same command then gave the tables.

    ``keep`` is told of all lines after each.
    """
    rng, rows = random.Random(seed), []
    expected: dict[str, tuple[float, dict[str, str], dict[str, int]]] = {}
    for command in COMMANDS:
        place, began = Place(work / f"whole-{command}", command), time.monotonic()
        shutil.rmtree(place.home, ignore_errors=True)  # of the trials of disks: here it is also timed
        if place.finish() != 1:
            sys.exit(f"{command} failed although nobody disturbed it:\n{place.said()[-3000:]}")
        expected[command] = time.monotonic() - began, place.tables(), place.objects()
        print(f"{command}: {expected[command][0]:.0f} s, {sum(expected[command][2].values())} objects", flush=True)
    while len(rows) < count:
        command = rng.choice([*COMMANDS, "arithmetic"])
        length, tables, objects = expected[command]
        moment, who = rng.uniform(0, length), rng.choice(["everything", "everything", "first process", "kernel"])
        place = Place(work / "trial", command)
        process = place.start()
        try:
            process.wait(moment)
            shutil.rmtree(place.home)
            continue  # it was faster than that: no kill
        except subprocess.TimeoutExpired:
            where = stage(place, objects)
            left = place.count("*.safetensors"), place.count("*.checkpoint")
            others = kill(process, who)
        row = {
            "experiment": command, "killed": who, "after s": round(moment, 1), "stage": where, "objects": left[0],
            "checkpoints": left[1], "temporary files": place.count(".*.tmp"),
            "locks held": place.held() if who == "everything" else 0,  # whoever was left alive may hold one
            "damaged": place.damaged(), "runs to the end": place.finish(),
        }  # fmt: skip
        row["left running"] = len(psutil.wait_procs(others, timeout=30)[1])
        row["locks held"] += place.held()
        row["damaged"] += place.damaged() + sum(
            file.state in ("damaged", "older") for file in store.contents(place.store)
        )
        row["equal"] = place.tables() == tables
        rows.append(row)
        print(f"{len(rows)}/{count}", row, flush=True)
        shutil.rmtree(place.home)
        keep(pd.DataFrame(rows))
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Kills by experiment and stage."""
    groups = table.groupby(["experiment", "stage"], sort=False)
    lines = [
        {
            "experiment": name, "stage": where, "kills": len(rows), "equal tables": int(rows["equal"].sum()),
            "with a checkpoint": int((rows["checkpoints"] > 0).sum()), "locks held": int(rows["locks held"].sum()),
            "left running": int(rows["left running"].sum()),
            "damaged files": int(rows["damaged"].sum()), "most runs to the end": int(rows["runs to the end"].max()),
        } for (name, where), rows in groups
    ]  # fmt: skip
    return pd.DataFrame(lines).sort_values(["experiment", "stage"], ignore_index=True)


# ---------------------------------------------------------------------------------------
# Disks


def mount(folder: Path, *options: str) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode == 0


def when_objects_are_there(place: Place, process: subprocess.Popen[str]) -> None:
    while not place.count("*.safetensors") and process.poll() is None:
        time.sleep(0.02)


def disks(work: Path) -> pd.DataFrame:
    """One line a fault: what was said, whether all that was left is whole, and whether the next run gave the tables."""
    whole = Place(work / "whole-arithmetic", "arithmetic")
    if not whole.home.exists():
        whole.finish()
    tables, rows = whole.tables(), []
    size = sum(path.stat().st_size for path in whole.store.root.rglob("*.safetensors"))

    def trial(
        fault: str, place: Place, words: str, happen: Callable[[], object], mend: Callable[[], object]
    ) -> None:  # fmt: skip
        process = place.start()
        when_objects_are_there(place, process)
        happen()
        status = process.wait()
        said = re.search(words, place.said())
        damaged = place.damaged()
        mend()
        row = {
            "fault": fault, "stopped": status != 0, "said": said[0] if said else place.said()[-300:],
            "damaged files": damaged,
            "runs to the end": place.finish(), "equal tables": place.tables() == tables,
        }  # fmt: skip
        rows.append(row)
        print(row, flush=True)

    def nothing() -> None:
        pass

    removed = Place(work / "removed", "arithmetic", work / "removed-store")
    # What is to be read comes before what is to be written.
    gone_words = "the folder has gone|has gone from the store"
    trial("folder removed", removed, gone_words, lambda: shutil.rmtree(removed.store.root), nothing)
    disk = work / "disk"
    if not mount(disk, "-t", "tmpfs", "-o", f"size={size * 5}", "tmpfs"):  # too little for the checkpoints
        print("no right to mount: no trials of real disks")
        return pd.DataFrame(rows)
    try:
        full = Place(work / "full", "arithmetic", disk / "store")
        room = f"size={size * 200}"
        trial("disk full", full, "the disk is full", nothing, lambda: mount(disk, "-o", f"remount,{room}"))
        shutil.rmtree(full.store.root)
        half = Place(work / "read-only", "arithmetic", disk / "store")
        kept = half.start()
        when_objects_are_there(half, kept)
        kill(kept, "everything")
        mount(disk, "-o", "remount,ro")
        trial("disk read-only", half, "the file system is read-only", nothing, lambda: mount(disk, "-o", "remount,rw"))
        shutil.rmtree(half.store.root)
        gone = Place(work / "gone", "arithmetic", disk / "store")
        trial(
            "disk unmounted", gone, gone_words,
            lambda: subprocess.run(["umount", "-l", str(disk)], check=True),
            lambda: mount(disk, "-t", "tmpfs", "-o", room, "tmpfs"),
        )  # fmt: skip
    finally:
        subprocess.run(["umount", "-l", str(disk)], capture_output=True)
    return pd.DataFrame(rows)


def eight(work: Path) -> pd.DataFrame:
    """Eight processes that want overlapping base models: how often was each trained?"""
    log = work / "trained"
    status = subprocess.run(
        [sys.executable, "-c", EIGHT, str(work / "shared"), str(log)], env=os.environ | {"PYTHONPATH": str(PROJECT)}
    ).returncode
    trained = log.read_text().split()
    wrong = sum(1 for _, problem in store.verify(Store(work / "shared")) if problem)
    row = {
        "processes": 8, "asked for": 40, "objects": len(set(trained)), "trainings": len(trained), "failed": status != 0,
        "damaged files": wrong,
    }  # fmt: skip
    print(row, flush=True)
    return pd.DataFrame([row])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the moments and of what is killed")
    parser.add_argument("--no-disks", action="store_true", help="only the kills and the eight processes")
    parser.add_argument("--write", action="store_true", help="write the tables to results/benchmark/")
    given = parser.parse_args()
    began, tables = time.monotonic(), {}

    def keep(**more: pd.DataFrame) -> None:
        tables.update(more)
        for name, table in more.items() if given.write else ():
            results.write_benchmark(name, table, parameters=vars(given), began=began)

    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        work = Path(folder)
        (work / "often").mkdir()
        (work / "often" / "sitecustomize.py").write_text(OFTEN)
        keep(faults_eight=eight(work))
        if not given.no_disks:
            keep(faults_disks=disks(work))
        if given.kills:
            kills(work, given.kills, given.seed, lambda each: keep(faults=summary(each), faults_kills=each))
    for table in tables.values():
        print(table.to_string(index=False))
    shared = tables["faults_eight"].iloc[0]
    good = [shared["trainings"] == shared["objects"] and not shared["failed"] and not shared["damaged files"]]
    if given.kills:
        each = tables["faults_kills"]
        good.append(
            len(each) == given.kills
            and each["equal"].all()
            and not each[["damaged", "locks held", "left running"]].any(axis=None)
        )
    if not given.no_disks:
        each = tables["faults_disks"]
        good.append(each["stopped"].all() and each["equal tables"].all() and not each["damaged files"].any())
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
