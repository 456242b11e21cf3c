"""How much faster is a training step than it was at an earlier commit?

Each version of the code runs in processes of its own, one thread each, at the paper's settings: vocabulary, loss on
every token, dropout and batch of each stage. They take turns of a few steps of one long training each, so that a
drift of the machine's speed hits all alike, and the ratio is taken turn by turn. The present code runs twice, with its
compiled operations and as on a machine without a compiler. The floor is that of ``step.py``.

    python benchmarks/before.py COMMIT                # bfloat16, 2 and 12 layers, the three stages
    python benchmarks/before.py COMMIT --processes 2  # of each version at once, as on two cores
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from step import BATCH, Stage, matmul_rate, operations

import sicore as si
from companion.arithmetic import task as ar
from companion.arithmetic.gpt2 import Dropout
from companion.lab import tables as results
from companion.lab.make import DTYPES
from sicore.training import keep_freed_memory

HERE = Path(__file__).resolve()
BATCHES = {"base": BATCH, "discovery": 500, "transfer": BATCH}


class Version:
    """Processes of one version of the code, which train when they are told to."""

    def __init__(self, code: Path, arguments: list[str], processes: int, **environment: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", **environment}
        command = [sys.executable, str(HERE), "-", *arguments]
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.workers = [
            subprocess.Popen(command, cwd=code, env=environment, text=True, **pipe) for _ in range(processes)
        ]

    def turn(self, steps: int) -> float:
        """Seconds a step, the mean of the processes."""
        for worker in self.workers:
            print(steps, file=worker.stdin, flush=True)
        return statistics.mean(float(worker.stdout.readline()) for worker in self.workers) / steps

    def stop(self) -> None:
        for worker in self.workers:
            worker.stdin.close()
            worker.wait()


def work(stage: str, n_layer: int, stack: int, dtype: str, steps: int) -> None:
    """One long training, a turn at a time: reads a number of steps, answers with the seconds that they took."""
    torch.set_num_threads(1)
    keep_freed_memory()
    left = began = 0.0

    def taken(_: int) -> None:
        nonlocal left, began
        left -= 1
        if left > 0:
            return
        if left == 0:
            print(time.perf_counter() - began, flush=True)
        left, began = float(sys.stdin.readline() or sys.exit()), time.perf_counter()

    dropout = None if stage == "discovery" else Dropout(0.1, range(stack))
    losses = ar.losses(n_head=4, dtype=DTYPES[dtype], dropout=dropout, all_positions=True)
    one = Stage(stage, n_layer, stack, numbers=1000, all_positions=True, batch=BATCHES[stage])
    one.run_stack(steps, losses, DTYPES[dtype], resume=si.Resume(progress=taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier one")
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 12])
    parser.add_argument("--stages", nargs="+", default=list(BATCHES))
    parser.add_argument("--stack", type=int, default=8)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--processes", type=int, default=1, help="of each version at once")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--write", action="store_true", help="write the table to results/benchmark/before.csv")
    parser.add_argument("--work", nargs=2, metavar=("STAGE", "LAYERS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        return work(given.work[0], int(given.work[1]), given.stack, given.dtype, steps=2000)
    torch.set_num_threads(1)
    start, rows, root, rate = time.monotonic(), [], HERE.parents[1], matmul_rate(DTYPES[given.dtype])
    with tempfile.TemporaryDirectory() as folder:
        older = Path(folder, "older")
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", older, given.commit], cwd=root, check=True)
        try:
            for n_layer in given.layers:
                for stage in given.stages:
                    arguments = ["--work", stage, str(n_layer), "--stack", str(given.stack), "--dtype", given.dtype]
                    versions = [
                        Version(older, arguments, given.processes),
                        Version(root, arguments, given.processes, CXX="none", XDG_CACHE_HOME=folder),
                        Version(root, arguments, given.processes),
                    ]
                    steps = max(2, (2 if stage == "discovery" else 12) * 2 // n_layer)
                    for version in versions:
                        version.turn(steps)  # warms up
                    times = [[version.turn(steps) for version in versions] for _ in range(given.rounds)]
                    for version in versions:
                        version.stop()
                    each = [1e3 * statistics.median(one) / given.stack for one in zip(*times, strict=True)]
                    ratio = statistics.median(before / now for before, _, now in times)
                    products = operations(n_layer, numbers=1000, all_positions=True) * BATCHES[stage] / BATCH
                    floor = 1e3 * products / rate
                    rows.append((
                        n_layer, stage, *(round(one, 2) for one in each), round(ratio, 2), round(floor, 2),
                        f"{floor / each[-1]:.0%}",
                    ))  # fmt: skip
                    print(*rows[-1], flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", older], cwd=root, check=True)
    if given.write:
        columns = [
            "layers", "stage", "ms a model a step before", "without a compiler", "now", "times faster", "floor in ms",
            "of peak",
        ]  # fmt: skip
        parameters = vars(given) | {"gflops": round(rate / 1e9)}
        results.write_benchmark("before", pd.DataFrame(rows, columns=columns), parameters=parameters, began=start)
    return None


if __name__ == "__main__":
    main()
