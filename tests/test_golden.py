"""What must not move: where stored objects lie, and the numbers of two tiny chains.

A path here is a promise that objects made long ago are still found; a number is what a recipe stands for.

If a path test fails, a spec or the key has changed form. Give new settings a neutral default that is left out of
the key, so that what is stored keeps its place.
If a number test fails and you meant to change the numbers of a kind: give that kind a new word in
``RECIPES``, and write the new numbers here. If you did not mean to, the change has a fault.
"""

import pytest
import torch

from companion.arithmetic import stages as ex
from companion.lab.make import Machine
from companion.lab.store import Store
from companion.vision import pictures
from companion.vision import stages as ve

BASE = {
    "computation": "a + ab", "p": 7, "numbers": 100, "n_layer": 2, "n_embd": 128, "n_head": 4, "train_pairs": 5000,
    "validation_pairs": 1000, "test_pairs": 1000, "steps": 2000, "limit": 0, "batch": 100, "lr": 1e-3,
    "weight_decay": 0.0, "dropout": 0.0, "clip": 1.0, "all_positions": False, "every": 50, "target": 0.999,
    "dtype": "float32", "device": "cpu", "seed": 0,
}  # fmt: skip
SUBNETWORK = {
    "computation": "ab", "pairs": 5000, "validation_pairs": 1000, "test_pairs": 1000, "steps": 1000, "batch": 100,
    "lr": 1e-2, "penalty": 1e-6, "stages": 50, "final_temperature": 100.0, "initial_logit": -0.1,
    "skip_temperature": False, "weight_decay": 0.0, "all_positions": False, "every": 50, "complete": False,
    "dtype": "float32", "base": BASE,
}  # fmt: skip
TRANSFER = {
    "computation": "a^2 + ab", "ambiguous": 100, "validation_pairs": 1000, "test_pairs": 1000, "batch": 50,
    "lr": 3e-4, "weight_decay": 0.01, "dropout": 0.1, "clip": 1.0, "all_positions": False, "target": None,
    "dtype": "float32", "steps": 800, "every": 100, "copied": "subnetwork", "behaviour": "",
    "inherit": ["embeddings", "norms", "biases"], "freeze": True, "n_disambiguation": 100, "draw": 0,
    "source": SUBNETWORK,
}  # fmt: skip
VISION_BASE = {
    "data": {
        "size": 32, "pretraining": 16000, "training": 8000, "discovery": 4000, "evaluation": 500, "flat": 0.25,
        "imbalance": 4.0, "seed": 0,
    },
    "model": {"resnet": {"width": 16, "depths": [2, 2, 2, 2], "stem": 3, "stride": 1}}, "steps": 1750, "batch": 64,
    "lr": 4e-3, "weight_decay": 0.05, "every": 250, "dtype": "float32", "device": "cpu", "code": "3c2b2d0dff95e086",
}  # fmt: skip
VISION_HEAD = {"base": VISION_BASE, "on": "training", "steps": 500, "batch": 256, "lr": 1e-2, "weight_decay": 1e-4}
VISION_MASK = {
    "headed": VISION_HEAD, "steps": 250, "batch": 64, "lr": 2e-2, "penalty": 1e-6, "initial_logit": 0.1,
    "initial_temperature": 10.0, "final_temperature": 100.0, "stages": 50, "every": 100,
}  # fmt: skip
VISION_ROW = {
    "name": "subnetwork",
    "condition": {
        "copied": "subnetwork", "inherit": ["norms", "biases", "tokens", "head"], "freeze": True, "train": True,
        "mixture": 0.0, "balanced": False, "random_base": False, "after": "",
    },
    "source": VISION_MASK, "before": None, "steps": 200, "lr": 2e-3, "batch": 64, "weight_decay": 0.05,
    "momentum": -1.0, "weighted": True, "every": 50,
}  # fmt: skip

PLACES = [
    ("base", BASE, "6c50017dff3ccbcb3f69f3e223cc2dcc"),
    ("subnetwork", SUBNETWORK, "7db065167988ba6bc85ece1cf82d3397"),
    ("transfer", TRANSFER, "19aaeaebed643e8e202b48d1d1d9da24"),
    ("vision_base", VISION_BASE, "78fa9106d01db6c4ebec941bf6cd0d7f"),
    ("vision_head", VISION_HEAD, "e2dcfe36ba885d8b127c1875a8d31040"),
    ("vision_mask", VISION_MASK, "ec772c43398289c1410f199de664d7da"),
    ("vision_row", VISION_ROW, "58fdfa4f7c43f2d86201bcc97163d54e"),
]


@pytest.mark.parametrize(("kind", "spec", "place"), PLACES, ids=[kind for kind, _, _ in PLACES])
def test_an_object_lies_where_it_always_lay(tmp_path, monkeypatch, kind, spec, place):
    monkeypatch.setattr(torch, "__version__", "2.15.0+cu132")
    assert Store(tmp_path).path(kind, spec).stem == place


def close(values):
    return pytest.approx(values, rel=1e-4)


def test_numbers_of_a_tiny_arithmetic_chain(tmp_path):
    machine = ex.Machine.open(store=str(tmp_path), workers=1)
    pairs = {"validation_pairs": 20, "test_pairs": 20, "batch": 8}
    bases = ex.base_models(
        machine, [3], p=5, numbers=12, n_layer=1, n_embd=16, n_head=2, train_pairs=80, steps=30, every=10, lr=5e-3,
        **pairs,
    )  # fmt: skip
    found = ex.subnetworks(
        machine, bases, pairs=80, steps=20, every=10, lr=0.05, penalty=1e-6, stages=5, **pairs
    )  # fmt: skip
    ex.transfers(
        machine, found, conditions=["subnetwork"], n_disambiguation=(6,), ambiguous=12, steps=12, every=4, **pairs
    )  # fmt: skip
    (moved,) = (tmp_path / "transfer").glob("*.safetensors")
    _, meta = Store(tmp_path).get("transfer", spec_in(moved))
    ends = bases[0].meta["history"][-1], found[0].meta["history"][-1], meta["history"][-1]
    told = "the numbers of base, subnetwork or transfer have changed: see the top of this file"
    assert [end["loss"] for end in ends] == close([2.0217492580, 2.0951189995, 2.1518161297]), told
    assert ends[1]["soft_mean"] == close(0.3893324137), told


def test_numbers_of_a_tiny_vision_chain(tmp_path):
    machine = Machine(Store(tmp_path), workers=1)
    data = pictures.scenes(size=16, pretraining=64, training=96, discovery=32, evaluation=32)
    model = {"resnet": {"width": 8, "depths": [1, 1]}}
    (base,) = bases = ve.base_models(machine, [0], data=data, model=model, steps=6, batch=16, every=3)
    (head,) = headed = ve.heads(machine, bases, steps=30, batch=32)
    (mask,) = found = ve.subnetworks(machine, headed, steps=6, batch=16, every=3)
    (row,) = ve.transfers(
        machine, found, conditions=["subnetwork"], rates=[1e-3], steps=4, batch=16, every=2
    )  # fmt: skip
    told = "the numbers of a vision kind have changed: see the top of this file"
    assert [one.meta["history"][-1]["loss"] for one in (base, head, mask, row)] == close(
        [4.0198516846, 2.3141288757, 2.3293166161, 3.4272868633]
    ), told
    assert mask.meta["history"][-1]["soft_mean"] == close(0.9593894482), told


def spec_in(path):
    from sicore.files import load_meta

    return load_meta(path)["spec"]
