"""What the paper's depths cost on 1, 8 and 64 workers: the workflow's jobs, scheduled on paper.

Work is counted from params/sweep.yaml. A worker is one of

- a core of the processor on which benchmarks/sweep.py was run: the measured time of a step;
- a GPU: an estimate, not measured. A step of a stack takes no less than its matrix products
  and AdamW's bytes need (RATE, BANDWIDTH), and no less than the launch of its kernels
  (KERNELS for each layer, LAUNCH seconds each, whatever the stack).

Queues, slow disks and the other notebooks are left out. Every base model is counted with
base_limit steps, and of the seeds as many as in the count of benchmarks/sweep.py keep theirs.

    python benchmarks/scaling.py --write
"""

from __future__ import annotations

import argparse
import functools
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from step import BATCH, operations
from sweep import count_operations

from companion.lab import tables as results
from companion.lab import workflow

RATE, BANDWIDTH = 4e14, 4.8e12  # operations and bytes a second, as on the page of speed
KERNELS, LAUNCH = 60, 2e-6  # forward, backward, clipping and AdamW of one layer; seconds each inside a graph
START = 20.0  # seconds of a job that trains nothing: imports, kernel, figures


@dataclass
class Job:
    """Seconds of work on ``workers`` workers, after other jobs."""

    seconds: float
    workers: int = 1
    after: list[Job] = field(default_factory=list)


@functools.cache
def on_core(layers: int, stack: int, batch: int) -> float:
    """Seconds of a step of a stack on one core, float32: measured at 2 and 12 layers, 50 samples; linear between."""
    table = results.read("sweep", "benchmark").query("variant == 'stack float32'").sort_values("layers")
    slope, offset = np.polyfit(table["layers"], table["ms a model a step"], 1)
    return stack * batch / BATCH * (offset + slope * layers) / 1e3


def on_gpu(layers: int, stack: int, batch: int) -> float:
    """Seconds of a step of a stack on a GPU: the largest of three bounds from below."""
    weights = 12 * layers * 128**2 + 1001 * 128
    return max(
        stack * operations(layers, all_positions=True) * batch / BATCH / RATE,
        stack * 28 * weights / BANDWIDTH,
        KERNELS * (layers + 1) * LAUNCH,
    )


@functools.cache
def runs() -> list[workflow.Planned]:
    """The runs of the sweep that are split into jobs."""
    return [one for one in workflow.plan({"sweep": "params/sweep.yaml"}).values() if one.is_split]


def jobs_of(step: Callable[[int, int, int], float], starts_per_job: int, cores: int) -> list[Job]:
    """The workflow's jobs for every depth of the sweep; ``cores`` for the base models and masks of a depth."""
    kept = count_operations().set_index("layers")["seeds"]
    jobs: list[Job] = []
    for one in runs():
        given = one.parameters
        for layers in given["n_layers"]:
            seeds, asked = int(kept[str(layers)]), len(given["few_seeds"])
            base = given["base_limit"] * step(layers, asked, given["base_batch"])
            masks = given["discovery_steps"] * step(layers, seeds, given["discovery_batch"])
            sources = Job(START + (base + masks) / min(cores, seeds), min(cores, seeds))
            parts = []
            for starts in workflow.pieces(given["depth_starts"], starts_per_job):
                seconds = stack_seconds(lengths(given), len(starts), lambda k, n=layers: step(n, k, BATCH))
                parts += [Job(START + seconds, after=[sources]) for _ in range(seeds)]
            jobs += [sources, *parts, Job(START, after=parts)]
    return jobs


def lengths(given: dict[str, object]) -> list[int]:
    """Steps of every transfer of one start."""
    epochs, batch, ambiguous = (int(given[name]) for name in ("transfer_epochs", "transfer_batch", "ambiguous"))  # type: ignore[call-overload]
    return [epochs * -(-(ambiguous + n) // batch) for n in given["n_disambiguation"]]  # type: ignore[attr-defined]


def stack_seconds(steps: Sequence[int], copies: int, step: Callable[[int], float]) -> float:
    """Seconds of a stack of ``copies`` models for each of ``steps``; those that are done leave it."""
    total, before = 0.0, 0
    for i, end in enumerate(sorted(steps)):
        total += (end - before) * step(copies * (len(steps) - i))
        before = end
    return total


def wall(jobs: Sequence[Job], workers: int) -> float:
    """Seconds until all jobs are done, each as soon as it can, of those that can the longest first."""
    waiting, free, now = sorted(jobs, key=lambda job: -job.seconds), workers, 0.0
    running: list[tuple[float, int, Job]] = []
    done: set[int] = set()
    while waiting or running:
        for job in list(waiting):
            if job.workers <= free and all(id(other) in done for other in job.after):
                waiting.remove(job)
                free -= job.workers
                heapq.heappush(running, (now + job.seconds, id(job), job))
        now, _, job = heapq.heappop(running)
        free += job.workers
        done.add(id(job))
    return now


def table() -> pd.DataFrame:
    """One row for each kind and number of workers, with the better of one and five starts a job."""
    rows = []
    for kind, step in (("core, measured", on_core), ("GPU, estimated", on_gpu)):
        alone = None
        for workers in (1, 8, 64, 1024):
            plans = []
            for starts_per_job in (5, 1):
                jobs = jobs_of(step, starts_per_job, min(workers, 8) if step is on_core else 1)
                plans.append((wall(jobs, workers) / 3600, starts_per_job, jobs))
            hours, starts_per_job, jobs = min(plans, key=lambda one: one[0])
            alone = alone or hours
            busy = sum(job.seconds * job.workers for job in jobs) / 3600
            rows.append({
                "worker": kind, "workers": workers, "starts a job": starts_per_job, "jobs": len(jobs),
                "hours": hours, "times faster": alone / hours, "in use": busy / hours / workers,
            })  # fmt: skip
    found = pd.DataFrame(rows)
    found["times faster"] = found["times faster"].round(1)
    found["hours"] = found["hours"].map(lambda hours: f"{hours:.3g}")
    found["in use"] = found["in use"].map(lambda share: f"{share:.0%}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table to results/benchmark/")
    given = parser.parse_args()
    found = table()
    print(found.to_string(index=False))
    if given.write:
        constants = {
            "rate": RATE, "bandwidth": BANDWIDTH, "kernels_a_layer": KERNELS, "launch_seconds": LAUNCH,
            "start_seconds": START,
        }  # fmt: skip
        results.write("scaling", "benchmark", found, parameters=constants)


if __name__ == "__main__":
    main()
