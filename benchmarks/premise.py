"""Under which settings does the premise of the vision experiment hold? A map of what was tried.

The premise has four parts (:data:`PREMISE`), and has to hold for every pretrained network: with its new head it decides
by texture; the head does not name mean-pooled pictures; a linear probe does; so does the subnetwork that the search
finds. Tried on seeds from 1000 on, which no table has.

    python benchmarks/premise.py                                # all settings and seeds; prints
    python benchmarks/premise.py --settings quick --seeds 1000 1001 --write

What is in the store is read, not computed again. ``--write`` puts the rows into ``results/benchmark/premise.csv`` in
place of those of the same setting and seed, and leaves the others.
"""

from __future__ import annotations

import argparse
import ast
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from companion.lab import tables
from companion.lab.make import Machine
from companion.lab.project import project_root
from companion.lab.runner import parameters_of
from companion.vision import settings, stages

PREMISE = {
    "shape_bias": ("at most", 0.3), "head_mean_pooled": ("at most", 0.4), "probe_mean_pooled": ("at least", 0.7),
    "subnetwork_mean_pooled": ("at least", 0.6),
}  # fmt: skip
"""Of every network: measure -> its bound."""

FIRST: dict[str, Any] = {
    "dtype": "bfloat16", "classifier": "resnet", "resnet_width": 16, "resnet_depths": [2, 2, 2, 2], "resnet_stem": 5,
    "resnet_stride": 2, "vision_batch": 64, "picture_size": 32, "pretraining_pictures": 16000, "flat_share": 0.25,
    "training_pictures": 8000, "pooled_pictures": 4000, "evaluation_pictures": 500, "imbalance": 4.0,
    "pretraining_steps": 1750, "pretraining_lr": 4e-3, "head_steps": 500, "search_steps": 250, "search_lr": 2e-2,
    "search_penalty": 1e-6, "search_logit": 0.1, "search_temperature": 10.0,
}  # fmt: skip
"""The first setting; the others are changes of it. What it leaves out is as in the notebook."""

_SOFT, _SOFTER = ({"search_temperature": 3.0, "search_logit": 0.33}, {"search_temperature": 2.0, "search_logit": 0.5})
_APART = {"pretraining_classes": "pairs and shapes"}
_UPRIGHT = {"object_turn": 45.0, "flat_share": 0.35, "pretraining_steps": 1000, "search_steps": 400, **_SOFT}
_CUES = {**_UPRIGHT, "pretraining_classes": "cues"}
QUICK = {**_CUES, "flat_share": 0.5, "pretraining_steps": 1250}


def _transformer(pictures: int, steps: int, lr: float) -> dict[str, Any]:
    """Changes for the small transformer on the pictures of ``quick``, by the length and rate of its pretraining."""
    return {
        **QUICK, "classifier": "vit", "vit_patch": 8, "vit_width": 96, "vit_layers": 4, "dtype": "float32",
        "pretraining_pictures": pictures, "pretraining_steps": steps, "pretraining_lr": lr,
    }  # fmt: skip


TRIED: dict[str, tuple[dict[str, Any], Sequence[int]]] = {
    "first": ({}, [1000]),
    # Plain objects in classes of their own. Then the head knows nothing of them, and the search gets nowhere ...
    "apart, 1 texture": ({**_APART, "shape_textures": 1}, [1000]),
    "apart, 2 textures": ({**_APART, "shape_textures": 2, "search_steps": 500}, [1000]),
    "apart, 4 textures": ({**_APART, "shape_textures": 4, "search_steps": 500}, [1000]),
    "apart, 1 texture, search of 1000": ({**_APART, "shape_textures": 1, "search_steps": 1000}, [1000]),
    "apart, 1 texture, search rate 0.1": (
        {**_APART, "shape_textures": 1, "search_steps": 500, "search_lr": 0.1}, [1000],
    ),
    "apart, 2 textures, search rate 0.05": (
        {**_APART, "shape_textures": 2, "search_steps": 500, "search_lr": 0.05, "search_penalty": 1e-7}, [1000],
    ),
    "apart, 2 textures, low price": (
        {**_APART, "shape_textures": 2, "search_steps": 500, "search_penalty": 1e-7}, [1000],
    ),
    # ... until it begins at a lower temperature, from the same 0.73 of every weight.
    "apart, 2 textures, temperature 5": (
        {
            **_APART, "shape_textures": 2, "search_steps": 500, "search_penalty": 1e-7, "search_temperature": 5.0,
            "search_logit": 0.2,
        }, [1000],
    ),
    "apart, 2 textures, temperature 2": (
        {**_APART, "shape_textures": 2, "search_steps": 500, "search_penalty": 1e-7, **_SOFTER}, [1000],
    ),
    # Objects that are nearly upright: shape is learned far sooner, but then also of textured objects.
    "apart, 1 texture, upright": ({**_APART, **_UPRIGHT, "shape_textures": 1}, [1000]),
    "apart, 2 textures, upright": ({**_APART, **_UPRIGHT, "shape_textures": 2}, [1000]),
    # The class of a textured object is its texture, whatever its shape; that of a plain one is its shape.
    "quick": (QUICK, range(1000, 1008)),
    # A small transformer on these pictures: how long, and at which rate?
    "transformer, 2500 steps": (_transformer(24000, 2500, 1e-3), [1000]),
    "transformer, 5000 steps at 0.003": (_transformer(32000, 5000, 3e-3), [1000]),
    "transformer, 8000 steps": (_transformer(32000, 8000, 1e-3), [1000]),
    "transformer, 8000 steps at 0.002": (_transformer(32000, 8000, 2e-3), [1000]),
    "transformer, 10000 steps": (_transformer(48000, 10000, 1e-3), [1000]),
    "vit": (_transformer(48000, 10000, 2e-3), [1000]),
}  # fmt: skip
"""Name -> changes, seeds. Tried in this order."""


def measure(changes: Mapping[str, Any], seed: int, machine: Machine) -> dict[str, Any]:
    """One row of the map, without its name: what a network of this seed turns out to be."""
    defaults = parameters_of(project_root() / "notebooks" / "09_shape_subnetwork.ipynb")
    parameters = {name: ast.literal_eval(entry["default"]) for name, entry in defaults.items()}
    parameters |= {**FIRST, **changes, "vision_seeds": [seed]}
    bases = stages.base_models(machine, [seed], **settings.base(machine, parameters))
    head = settings.head(machine, parameters)
    headed, probes = (stages.heads(machine, bases, on=on, **head) for on in ("training", "discovery"))
    found = stages.subnetworks(machine, headed, **settings.search(machine, parameters))
    row = stages.search_table(bases, headed, probes, found).iloc[0].to_dict()
    row |= stages.table(stages.transfers(machine, found, conditions=["new_head"])).iloc[0][["shape_bias"]].to_dict()
    holds = [row[name] <= bound if side == "at most" else row[name] >= bound for name, (side, bound) in PREMISE.items()]
    shown = (*PREMISE, "head_ordinary", "density")
    return {"seed": seed, "holds": "yes" if all(holds) else "no", **{name: row[name] for name in shown}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=list(TRIED), default=list(TRIED), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of each setting")
    parser.add_argument("--store", default="", help="folder of trained networks; default: the project's")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the map to results/benchmark/")
    given = parser.parse_args()
    if given.seeds and min(given.seeds) < 1000:
        parser.error(f"--seeds {min(given.seeds)}: settings are tuned on seeds from 1000 on")
    began, machine = time.monotonic(), Machine.open(store=given.store, workers=given.workers, stack=1)
    rows = []
    for name in given.settings:
        changes, seeds = TRIED[name]
        for seed in given.seeds or seeds:
            rows.append({"setting": name, **measure(changes, seed, machine)})
            print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()})
    table = pd.DataFrame(rows).round(4)
    if given.write:
        place = tables.folder("benchmark") / "premise.csv"
        if place.is_file():
            table = pd.concat([table, pd.read_csv(place)]).drop_duplicates(["setting", "seed"])
            order = list(TRIED)
            table = table.sort_values("seed").sort_values(
                "setting", key=lambda one: one.map(order.index), kind="stable"
            )
        told = {"premise": PREMISE, "first": FIRST, "changes": {name: changes for name, (changes, _) in TRIED.items()}}
        tables.write_benchmark("premise", table, parameters=told, began=began)


if __name__ == "__main__":
    main()
