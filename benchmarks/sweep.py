"""How long does the paper's transfer sweep take? The stack beside a plain loop, extrapolated.

One seed at one depth: 17 numbers of disambiguation samples, 100 epochs each, for every
start. The time of a training step is measured at the paper's vocabulary, with the loss on
every token as in the paper, all ways in turn; the steps of the sweep are counted. Evaluation
and the early end of runs that have reached an accuracy of 1 are left out on both sides.

    python benchmarks/sweep.py             # 2 and 12 layers, at least 200 interleaved steps
    python benchmarks/sweep.py --count     # only count the operations of all depths and seeds
"""

from __future__ import annotations

import argparse
import statistics
import time

import pandas as pd
import torch
from step import BATCH, Stage, matmul_rate, operations

from companion.arithmetic.starts import MAIN
from companion.lab import tables as results
from companion.lab.make import DTYPES, Machine
from sicore.training import keep_freed_memory

COUNTS = [0, 10, 16, 25, 40, 64, 100, 160, 250, 400, 640, 1000, 1600, 2500, 4000, 6400, 10000]
AMBIGUOUS, EPOCHS = 1000, 100


def sweep_steps(counts: list[int] = COUNTS) -> int:
    """Training steps of one start over all numbers of samples."""
    return sum(EPOCHS * -(-(AMBIGUOUS + n) // BATCH) for n in counts)


def count_operations() -> pd.DataFrame:
    """Matrix products of the transfers of params/runs.yaml: all depths, starts and seeds.

    The loss is on every token; a model reads three, a, b and the sign (:func:`step.operations`). Bytes:
    what AdamW has to move for every weight and step, reading weight, gradient and both
    moments and writing all but the gradient, in float32.
    """
    width, vocabulary = 128, 1001
    rows: list[tuple[str, int, int, float, float]] = []
    for n_layer in (2, 4, 6, 8, 10, 12):
        seeds = 5 if n_layer == 12 else 3
        weights = 12 * n_layer * width**2 + vocabulary * width
        steps = sweep_steps() * len(MAIN) * seeds
        products = operations(n_layer, width, numbers=vocabulary - 1, all_positions=True) * steps / 1e15
        bytes_moved = 28 * weights * steps / 1e15
        rows.append((str(n_layer), seeds, steps, products, bytes_moved))
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))  # type: ignore[arg-type]
    columns = ["layers", "seeds", "steps", "operations (10^15)", "optimiser bytes (10^15)"]
    return pd.DataFrame(rows, columns=columns).round(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 12])
    parser.add_argument("--stack", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50, help="in a turn")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--count", action="store_true", help="count operations, time nothing")
    parser.add_argument("--write", action="store_true", help="write the tables to results/benchmark/")
    given = parser.parse_args()
    if given.count:
        print(count_operations().to_string(index=False))
        if given.write:
            results.write_benchmark("operations", count_operations(), parameters=vars(given))
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: list[tuple[object, ...]] = []
    start = time.monotonic()
    # bfloat16 only where the processor does not merely imitate it.
    types = {name: DTYPES[name] for name in map(Machine.open().dtype, DTYPES)}
    rate = {name: matmul_rate(dtype) for name, dtype in types.items()}
    gflops = {name: round(value / 1e9) for name, value in rate.items()}
    total = sweep_steps() * len(MAIN)
    print(f"{total:,} steps a seed and depth; one thread, matmul rate in GFLOP/s: {gflops}")
    for n_layer in given.layers:
        stage = Stage("transfer", n_layer, given.stack, numbers=1000, all_positions=True)
        variants = {("loop", name): stage.loop(dtype) for name, dtype in types.items()}
        variants |= {("stack", name): stage.stacked(dtype) for name, dtype in types.items()}
        times: dict[tuple[str, str], list[float]] = {label: [] for label in variants}
        for round_ in range(given.rounds + 1):
            for label, go in variants.items():
                steps = given.steps if round_ else 5  # the first turn warms up
                began = time.perf_counter()
                go(steps)
                if round_:
                    times[label].append((time.perf_counter() - began) / steps / given.stack)
        for label, each in times.items():
            seconds = statistics.median(each)
            ratio = statistics.median(a / b for a, b in zip(times["loop", "float32"], each, strict=True))
            floor = operations(n_layer, numbers=1000, all_positions=True) / rate[label[1]]
            rows.append((
                n_layer, " ".join(label), round(1e3 * seconds, 2), round(total * seconds / 3600, 2),
                round(ratio, 2), round(1e3 * floor, 2), f"{floor / seconds:.0%}",
            ))  # fmt: skip
            print(rows[-1], flush=True)
    columns = [
        "layers", "variant", "ms a model a step", "core hours a sweep", "times faster than the loop", "floor in ms",
        "of peak",
    ]  # fmt: skip
    if given.write:
        parameters = vars(given) | {"gflops": gflops, "steps_a_sweep": total}
        results.write_benchmark("sweep", pd.DataFrame(rows, columns=columns), parameters=parameters, began=start)


if __name__ == "__main__":
    main()
