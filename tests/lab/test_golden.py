"""What must not move: where stored objects lie, and the numbers of two tiny chains.

A place here is a promise that objects made long ago are still found; a number is what a recipe stands for.
A failing test says what to do.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from companion.arithmetic import stages as ex
from companion.arithmetic.specs import Base, Search, Transfer
from companion.lab.make import Machine
from companion.lab.store import Store
from companion.vision import pictures
from companion.vision import stages as ve
from sicore.files import load_meta

ROOT = Path(__file__).parents[2]

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


MOVED = """an object ({kind}) no longer lies where it lay, so nothing that is stored is found.
If the key has changed form: undo that. If a setting is new: leave it out of the spec where it has the value that leaves
all as it was (companion.lab.recipes.without_neutral). If you gave this kind or one that it is made from a new word
(companion.lab.recipes.RECIPES) because its numbers have changed: write the new place here, {place}"""
CHANGED = """the numbers of {kind} have changed beyond rounding.
If you did not mean that, the change has a fault. If you did: give this kind a word in companion.lab.recipes.RECIPES
that no kind has had, so that objects with the old numbers are not taken for it. Write new numbers and places here"""


@pytest.mark.parametrize(("kind", "spec", "place"), PLACES, ids=[kind for kind, _, _ in PLACES])
def test_an_object_lies_where_it_always_lay(tmp_path, monkeypatch, kind, spec, place):
    monkeypatch.setattr(torch, "__version__", "2.15.0+cu132")
    monkeypatch.setattr("companion.lab.store.transformers_version", lambda: "5.23.0")
    found = Store(tmp_path).path(kind, spec).stem
    assert found == place, MOVED.format(kind=kind, place=found)


def test_the_stack_counts_on_a_gpu_alone():
    assert "stack" not in Base(seed=3).json()
    base = Base(device="cuda", stack=8)
    spec = Transfer(source=Search(base=base)).json()
    assert spec["source"]["base"] == base.json() == {**Base(device="cuda").json(), "stack": 8}
    assert Transfer.of(spec).base == base


def close(values):
    return pytest.approx(values, rel=1e-4)


def arithmetic_chain(folder):
    """The metadata of a base model, a subnetwork and a transfer in a store."""
    machine = ex.Machine.open(store=str(folder), workers=1)
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
    (transfer,) = (machine.store.root / "transfer").glob("*.safetensors")
    return bases[0].meta, found[0].meta, load_meta(transfer)


def vision_chain(folder):
    """The metadata of a base, a head, a subnetwork and a row in a store."""
    machine = Machine(Store.open(folder), workers=1)
    data = pictures.scenes(size=16, pretraining=64, training=96, discovery=32, evaluation=32)
    model = {"resnet": {"width": 8, "depths": [1, 1]}}
    bases = ve.base_models(machine, [0], data=data, model=model, steps=6, batch=16, every=3)
    headed = ve.heads(machine, bases, steps=30, batch=32)
    found = ve.subnetworks(machine, headed, steps=6, batch=16, every=3)
    rows = ve.transfers(machine, found, conditions=["subnetwork"], rates=[1e-3], steps=4, batch=16, every=2)
    return [stages[0].meta for stages in (bases, headed, found, rows)]


CHAINS = {"arithmetic": arithmetic_chain, "vision": vision_chain}
LOSSES = {
    "arithmetic": {"base": 2.0217492580, "subnetwork": 2.0951189995, "transfer": 2.1518161297},
    "vision": {
        "vision_base": 4.0198516846, "vision_head": 2.3141288757, "vision_mask": 2.3293166161,
        "vision_row": 3.4272868633,
    },
}  # fmt: skip
SOFT_MEANS = {"subnetwork": 0.3893324137, "vision_mask": 0.9593894482}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the stores of both chains, and the last line of every object's history."""
    folder, ends = tmp_path_factory.mktemp("golden"), {}
    for name, chain in CHAINS.items():
        metas = chain(folder / name)
        ends[name] = {kind: meta["history"][-1] for kind, meta in zip(LOSSES[name], metas, strict=True)}
    return folder, ends


@pytest.mark.parametrize("name", CHAINS)
def test_numbers_of_a_tiny_chain(made, name):
    for kind, end in made[1][name].items():
        assert end["loss"] == close(LOSSES[name][kind]), CHANGED.format(kind=kind)
        if kind in SOFT_MEANS:
            assert end["soft_mean"] == close(SOFT_MEANS[kind]), CHANGED.format(kind=kind)


# ---------------------------------------------------------------------------------------
# Edits that change no number outdate nothing


def without_comments(text):
    return ast.unparse(ast.parse(text))


def with_a_function_moved(text):
    moved = re.search(r"^def generator\(.*?(?=\n\n\n)", text, re.MULTILINE | re.DOTALL)
    return text.replace(moved[0] + "\n\n\n", "") + "\n\n" + moved[0] + "\n"


def swapped(pattern, other, count=0):
    return lambda text: re.sub(pattern, other, text, count=count, flags=re.MULTILINE)


HARMLESS = {
    "a reworded error": ("companion/lab/store.py", swapped("expected a short name of", "it should be a short name of")),
    "the width of a log line": ("companion/lab/make.py", swapped(r"\{kind:12\}", "{kind:20}")),
    "a comment": ("sicore/training.py", swapped(r"\Z", "# That is all.\n")),
    "a docstring": ("sicore/masking.py", swapped(r'\A"""', '"""In other words: ')),
    "an unused import": ("sicore/files.py", swapped(r"^import json$", "import fractions\nimport json")),
    "a type annotation": ("companion/arithmetic/task.py", swapped(r"-> Tensor:", '-> "Tensor":')),
    "a renamed local": ("sicore/seeding.py", swapped(r"\btext\b", "words")),
    "a moved function": ("sicore/seeding.py", with_a_function_moved),
    "comments and layout of a whole file": ("companion/arithmetic/stages.py", without_comments),
    "a new constant": ("companion/vision/stages.py", swapped(r"\Z", "\nUNUSED = 1\n")),
    "a renamed function": ("companion/lab/make.py", swapped(r"\b_logged\b", "_with_a_line_in_the_log")),
    "more words in every error": (
        "sicore/subnetwork.py",
        swapped(r'raise ValueError\(f"', 'raise ValueError(f"Sorry: '),
    ),
}
AGAIN = """
import json, pathlib, sys
import companion, sicore, test_golden
home, folder = map(pathlib.Path, sys.argv[1:])
assert all(home in pathlib.Path(one.__file__).parents for one in (companion, sicore)), "another copy was imported"
for name, chain in test_golden.CHAINS.items():
    chain(folder / name)
print(json.dumps({kind: test_golden.Store(folder).path(kind, spec).stem for kind, spec, _ in test_golden.PLACES}))
"""


def test_twelve_harmless_edits_outdate_nothing(made, tmp_path):
    for name in ("sicore", "companion"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for what, (path, edit) in HARMLESS.items():
        before = (tmp_path / path).read_text()
        (tmp_path / path).write_text(edit(before))
        assert (tmp_path / path).read_text() != before, f"{what} in {path}: the edit no longer fits the file; mend it"
    logs = {name: (made[0] / name / "log.txt").read_text() for name in CHAINS}
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, str(tmp_path), str(made[0])], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {name: (made[0] / name / "log.txt").read_text() for name in CHAINS} == logs, "something was made again"
    assert json.loads(done.stdout) == {kind: Store(tmp_path).path(kind, spec).stem for kind, spec, _ in PLACES}
