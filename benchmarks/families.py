"""What a step of a search costs, by mask family and by what stands outside of the mask.

All searches run in one process and one thread, in turns of a few steps each, so that a drift of the machine's speed
hits all alike; ratios are taken turn by turn, to continuous sparsification in zeros.

    python benchmarks/families.py                   # the quick scale; prints
    python benchmarks/families.py --numbers 1000 --batch 500 --write
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from typing import Any

import pandas as pd
import torch

import sicore as si
from companion.arithmetic import stages
from companion.arithmetic.specs import FAMILIES, Base, Search
from companion.lab import tables
from sicore.training import keep_freed_memory

LEARNED = [name for name, family in FAMILIES.items() if not isinstance(family, si.Score)]
SEARCHES: dict[str, dict[str, Any]] = {
    **{name: {"family": name} for name in LEARNED},
    "with a set density": {"density": 0.1},
    "in transplant": {"redraw": 1},
    "in transplant at every other step": {"redraw": 2},
    "nothing left outside": {"completeness": 0.1},
}


class Turns:
    """A search in a thread of its own, which takes steps when it is told to."""

    def __init__(self, runs: list[Search], source: si.Params) -> None:
        self.go, self.done, self.left = threading.Semaphore(0), threading.Semaphore(0), 0
        self.thread = threading.Thread(target=self._search, args=(runs, source), daemon=True)
        self.thread.start()

    def _search(self, runs: list[Search], source: si.Params) -> None:
        self.go.acquire()
        torch.set_num_threads(1)
        stages.search(runs, source, accuracy=lambda params, active: active, resume=si.Resume(progress=self._taken))

    def _taken(self, models: int) -> None:
        self.left -= 1
        if self.left < 0:  # told once before the first step
            self.done.release()
            self.go.acquire()

    def take(self, steps: int) -> float:
        """Seconds for so many steps."""
        self.left, began = steps, time.perf_counter()
        self.go.release()
        self.done.acquire()
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--numbers", type=int, default=100)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--stack", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--write", action="store_true", help="write the table to results/benchmark/families.csv")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    began = time.monotonic()
    size = {"numbers": given.numbers, "n_layer": given.layers, "train_pairs": min(given.numbers**2 // 2, 200_000)}
    bases = [Base(**size, seed=seed) for seed in range(given.stack)]
    source = si.stack([base.build(seed=base.seed) for base in bases])
    common = {"pairs": size["train_pairs"] // 2, "batch": given.batch, "steps": 10**4, "dtype": given.dtype}
    turns = {
        name: Turns([Search(base=base, every=10**4, **common, **changes) for base in bases], source)
        for name, changes in SEARCHES.items()
    }
    for one in turns.values():
        one.take(given.steps)  # warms up
    seconds = [{name: one.take(given.steps) for name, one in turns.items()} for _ in range(given.rounds)]
    first = next(iter(turns))
    table = pd.DataFrame([
        {
            "search": name.replace("_", " "),
            "ms a model a step": round(
                1e3 * statistics.median(turn[name] for turn in seconds) / given.steps / given.stack, 2
            ),
            "times the first": round(statistics.median(turn[name] / turn[first] for turn in seconds), 2),
        }
        for name in turns
    ])  # fmt: skip
    print(table.to_string(index=False))
    if given.write:
        tables.write_benchmark("families", table, parameters=vars(given), began=began)


if __name__ == "__main__":
    main()
