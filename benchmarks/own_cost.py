"""What the workflow itself costs, as wall time from the log of a run, or as processor time.

    snakemake --profile workflow/profiles/local --cores 2 2> log
    python benchmarks/own_cost.py log

    time make book                                             # user + sys: the whole
    python benchmarks/own_cost.py --whole SECONDS --write      # then, with all models in the store

The first needs an idle machine. The second does not: it runs the notebooks by one command and by the workflow, both
from a full store, so that what differs is the workflow, and holds the difference against the whole. (It writes the
tables of the scale again, with the short wall times of a run that trains nothing.)

In a log the workflow's own cost has two parts. Snakemake's: the time in which no job runs, at its start, between jobs
and at its end. And the splitting's: jobs that only exist because the depths are split, namely the tables put
together and the last reading of everything from the store, and, for each further job of the depths, the start
of a notebook (the seconds of the shortest such job, which is an estimate from above). The time of a job counts
once for every worker that it occupies.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import pandas as pd

from companion.lab import tables as results


def jobs_in(log: str) -> pd.DataFrame:
    """``rule``, ``begin``, ``end`` (seconds since the first line with a time) of every job that was finished."""
    stamp, rows, open_jobs = None, [], {}
    rule = ""
    for line in log.splitlines():
        if time := re.fullmatch(r"\[(\w{3} \w{3} +\d+ [\d:]+ \d{4})\]", line.strip()):
            stamp = datetime.strptime(time[1], "%a %b %d %H:%M:%S %Y").timestamp()
        elif found := re.fullmatch(r"(?:local)?(?:rule|checkpoint) (\w+):", line.strip()):
            rule = found[1]
        elif found := re.fullmatch(r"\s+jobid: (\d+)", line):
            open_jobs[found[1]] = (rule, stamp)
        elif (found := re.match(r"Finished jobid: (\d+)", line)) and found[1] in open_jobs:
            name, begin = open_jobs.pop(found[1])
            rows.append({"rule": name, "begin": begin, "end": stamp})
    return pd.DataFrame(rows, columns=["rule", "begin", "end"]).query("rule != 'all'")


def busy(jobs: pd.DataFrame) -> float:
    """Seconds in which at least one job runs."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(zip(jobs["begin"], jobs["end"], strict=True)):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def cost(log: str, workers: int) -> pd.DataFrame:
    """One row for each part of the time of ``workers`` workers."""
    jobs = jobs_in(log)
    elapsed = re.search(r"Elapsed time: (\d+):(\d+):([\d.]+)", log)
    if jobs.empty or elapsed is None:
        raise ValueError("the log has no finished job, or no line 'Elapsed time': was the run completed?")
    hours, minutes, seconds = map(float, elapsed.groups())
    wall = 3600 * hours + 60 * minutes + seconds
    took = (jobs["end"] - jobs["begin"]).groupby(jobs["rule"])
    split = jobs[jobs["rule"].isin(["sources", "transfers"])]
    further = max(len(split) - 1, 0) * float((split["end"] - split["begin"]).min()) if len(split) else 0.0
    parts = {
        "Snakemake, no job running": (wall - busy(jobs)) * workers,
        "tables put together": float(took.sum().get("collect", 0.0)),
        "the depths read once more": float(took.sum().get("depths", 0.0)),
        "further starts of a notebook": further,
    }
    table = pd.DataFrame({"what": list(parts), "seconds": list(parts.values())})
    table.loc[len(table)] = ["the workflow's own cost", table["seconds"].sum()]
    table.loc[len(table)] = ["the whole run, wall time x workers", wall * workers]
    table["share"] = [f"{100 * value / wall / workers:.1f} %" for value in table["seconds"]]
    return table.round({"seconds": 0})


def processor_seconds(*command: str, **environment: str) -> float:
    """User and system time of a command and of all that it started and waited for."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    before = used()
    subprocess.run([sys.executable, "-m", *command], check=True, env=os.environ | environment)
    return used() - before


def from_a_full_store(file: str, workers: int, whole: float) -> pd.DataFrame:
    """Processor time of the notebooks by one command and by the workflow, when nothing has to be trained."""
    notebooks = sorted(map(str, Path("notebooks").glob("*.ipynb")))
    with tempfile.TemporaryDirectory() as folder:
        plain = processor_seconds("sicore", "run", "-f", file, "-o", folder, *notebooks, SICORE_TABLES=folder)
    words = ["--profile", "workflow/profiles/local", "--cores", str(workers), "--forceall", "--config", f"file={file}"]
    flow = processor_seconds("snakemake", *words)
    table = pd.DataFrame(
        {
            "what": [
                "one command, all models there", "the workflow, all models there", "the workflow's own cost",
                "the whole run, models trained",
            ],
            "processor seconds": [plain, flow, flow - plain, whole],
        }
    )  # fmt: skip
    table["share of the whole"] = [f"{100 * value / whole:.1f} %" for value in table["processor seconds"]]
    return table.round({"processor seconds": 0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, nargs="?", help="what Snakemake printed")
    parser.add_argument("--whole", type=float, help="processor seconds of a run that trained everything")
    parser.add_argument("--file", default="params/quick.yaml", help="the parameters of both runs, with --whole")
    parser.add_argument("--workers", type=int, default=2, help="jobs at once, --cores of the run")
    parser.add_argument("--write", action="store_true", help="write the table to results/benchmark/")
    given = parser.parse_args()
    if (given.log is None) == (given.whole is None):
        parser.error("give a log, or --whole SECONDS")
    if given.whole is not None:
        table = from_a_full_store(given.file, given.workers, given.whole)
    else:
        table = cost(given.log.read_text(encoding="utf-8"), given.workers)
    print(table.to_string(index=False))
    if given.write:
        results.write("own_cost", "benchmark", table, parameters=vars(given) | {"log": str(given.log)})


if __name__ == "__main__":
    main()
