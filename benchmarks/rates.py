"""At which learning rate does each mask family find its best subnetwork? Every family is tuned alike.

Judged is what a new network makes of the subnetwork: its accuracy on *validation* pairs, averaged over the numbers
of samples, at the quick scale, of seeds from 1000 on, which no table has. In zeros with inherited parts, as in the
notebook on masks, and in transplant without, as in the notebook on transplants.

    python benchmarks/rates.py                               # all families and rates; prints
    python benchmarks/rates.py --families hard_concrete --write

What is in the store is read, not computed again. ``--write`` puts the rows into ``results/benchmark/rates.csv`` in
place of those of the same search, rate and seed, and leaves the others.
"""

from __future__ import annotations

import argparse
import ast
import time
from typing import Any

import pandas as pd

from companion.arithmetic import settings, stages
from companion.lab import tables
from companion.lab.make import Machine
from companion.lab.project import project_root
from companion.lab.runner import parameters_of, read_parameter_file

RATES = {
    "continuous_sparsification": (0.005, 0.01, 0.02), "hard_concrete": (0.05, 0.1, 0.2),
    "gaussian_gate": (0.02, 0.05, 0.1), "straight_through": (0.1, 0.2, 0.4),
}  # fmt: skip
PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "in zeros": ({"density": 0.1}, "subnetwork"),
    "in transplant": ({"density": 0.2, "complete": True, "redraw": 1}, "complete_subnetwork_alone"),
}
"""Name -> changes of the search, start of the new network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--places", nargs="+", choices=list(PLACES), default=list(PLACES))
    parser.add_argument("--rates", nargs="+", type=float, help="default: three for each family")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(1000, 1004)))
    parser.add_argument("--store", default="", help="folder of trained networks; default: the project's")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the rows to results/benchmark/rates.csv")
    given = parser.parse_args()
    if min(given.seeds) < 1000:
        parser.error(f"--seeds {min(given.seeds)}: settings are tuned on seeds from 1000 on")
    began, machine = time.monotonic(), Machine.open(store=given.store, workers=given.workers, stack=16)
    notebook = project_root() / "notebooks" / "13_masks.ipynb"
    defaults = {name: ast.literal_eval(entry["default"]) for name, entry in parameters_of(notebook).items()}
    quick = read_parameter_file(project_root() / "params" / "quick.yaml", notebook)
    parameters = {name: quick.get(name, value) for name, value in defaults.items()} | {
        "mask_families": ["continuous_sparsification"], "densities": [],
        "few_counts": [25, 100, 250, 400], "few_seeds": given.seeds, "scale": "tuning",
    }  # fmt: skip
    bases = stages.base_models(machine, given.seeds, **settings.base(machine, parameters))
    moves = settings.transfer(machine, parameters)
    rows = []
    for place in given.places:
        changes, start = PLACES[place]
        for family in given.families:
            for lr in given.rates or RATES[family]:
                one = {**changes, "mask_family": family, "discovery_lr": lr}
                found = stages.subnetworks(machine, bases, **settings.search(machine, parameters, **one))
                table = stages.transfers(machine, found, conditions=[start], **moves)
                new = table.groupby("seed")["validation_accuracy"].mean()
                rows += [
                    {
                        "place": place, "family": family, "lr": lr, "seed": each.seed,
                        "subtask_accuracy": each.history["accuracy"].iloc[-1], "new_network": new[each.seed],
                    }
                    for each in found
                ]  # fmt: skip
                mean = pd.DataFrame(rows[-len(found) :])[["subtask_accuracy", "new_network"]].mean().round(4)
                print(place, family, lr, *mean, flush=True)
    table = pd.DataFrame(rows).round(4)
    if given.write:
        path = tables.folder("benchmark") / "rates.csv"
        keys = ["place", "family", "lr", "seed"]
        if path.is_file():
            table = pd.concat([table, pd.read_csv(path)]).drop_duplicates(keys)
        table = table.sort_values(keys, ascending=[False, True, True, True])
        tables.write_benchmark("rates", table, parameters={"rates": RATES, "places": PLACES}, began=began)


if __name__ == "__main__":
    main()
