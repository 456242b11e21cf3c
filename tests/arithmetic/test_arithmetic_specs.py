"""Specs of the arithmetic experiment: the JSON that stored objects have, and what follows from it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from companion.arithmetic import starts
from companion.arithmetic.specs import Base, Search, Transfer

sys.path[:0] = [str(Path(__file__).parents[1] / "lab")]
from test_golden import BASE, SUBNETWORK, TRANSFER  # noqa: E402

SPECS = [(Base, BASE), (Search, SUBNETWORK), (Transfer, TRANSFER)]


@pytest.mark.parametrize(("kind", "spec"), SPECS)
def test_the_json_of_a_spec_is_that_of_stored_objects(kind, spec):
    made = kind.of(json.loads(json.dumps(spec)))
    assert made.json() == spec
    assert kind.of(made.json()) == made
    assert hash(made) == hash(kind.of(spec))


def test_the_stack_is_said_where_it_counts():
    assert "stack" not in Base.of(BASE).json()
    shared = Base.of({**BASE, "device": "cuda", "stack": 16})
    assert shared.json() == {**BASE, "device": "cuda", "stack": 16}
    assert dataclasses.replace(Search.of(SUBNETWORK), base=shared).json()["base"]["stack"] == 16


def test_a_spec_can_be_written_as_a_call():
    base = Base(
        numbers=100, train_pairs=5000, steps=2000, batch=100, lr=1e-3, dropout=0.0, all_positions=False, every=50
    )
    search = Search(base=base, pairs=5000, steps=1000, batch=100, lr=1e-2, penalty=1e-6, every=50)
    run = Transfer(source=search, ambiguous=100, steps=800, lr=3e-4, n_disambiguation=100)
    assert (base.json(), search.json(), run.json()) == (BASE, SUBNETWORK, TRANSFER)
    assert (run.base, search.base) == (base, base)


@pytest.mark.parametrize(("kind", "spec"), SPECS)
def test_a_setting_that_there_is_not_is_named(kind, spec):
    with pytest.raises(TypeError, match="momentum"):
        kind.of({**spec, "momentum": 0.9})


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (BASE, {"lr": 0.0}, "lr = 0.0: the learning rate is a finite number above 0"),
        (BASE, {"seed": -1}, "seed = -1"),
        (BASE, {"limit": 2001}, "limit = 2001: expected 1 to steps = 2000, or 0"),
        (BASE, {"p": 101}, "numbers = 100: at least p = 101"),
        (SUBNETWORK, {"penalty": float("nan")}, "penalty = nan"),
        (SUBNETWORK, {"weight_decay": -1.0}, "weight_decay = -1.0: expected 0 or more"),
        (SUBNETWORK, {"pairs": 0}, "pairs = 0"),
        (SUBNETWORK, {"family": "hard"}, "family = 'hard' does not exist; expected one of continuous_sparsification, "),
        (SUBNETWORK, {"density": 1.5}, "density = 1.5: expected a share of the weights"),
        (SUBNETWORK, {"family": "magnitude"}, "density = 0: family = 'magnitude' ranks weights"),
        (SUBNETWORK, {"redraw": -1}, "redraw = -1: expected fresh weights at every so many steps"),
        (SUBNETWORK, {"redraw": 1, "redraw_only": "wte"}, "redraw_only = 'wte' matches none of transformer"),
        (SUBNETWORK, {"redraw_scale": 0.0}, "redraw_scale = 0.0"),
        (SUBNETWORK, {"family": "magnitude", "density": 0.1, "redraw": 1}, "ranks weights and takes no steps"),
        (
            SUBNETWORK,
            {"to_base": True, "dropout": 0.1},
            "to_base = True: the base's answers are those of the whole base",
        ),
        (SUBNETWORK, {"to_base": True, "complete": True}, "to_base = True"),
        (SUBNETWORK, {"completeness": -0.1}, "completeness = -0.1"),
        (SUBNETWORK, {"dropout": 1.0}, "dropout = 1.0"),
        (TRANSFER, {"clip": 0.0}, "clip = 0.0: expected a number above 0, or None"),
        (TRANSFER, {"dropout": 1.0}, "dropout = 1.0"),
        (TRANSFER, {"n_disambiguation": 0, "ambiguous": 0}, "a training set needs 1 sample or more"),
        (TRANSFER, {"every": 2.5}, "every = 2.5"),
    ],
)
def test_a_setting_out_of_range_is_refused_when_the_spec_is_made(spec, change, message):
    kind = next(kind for kind, known in SPECS if known is spec)
    with pytest.raises(ValueError, match=message):
        kind.of({**spec, **change})


def test_pairs_follow_from_the_spec_alone():
    run = Transfer.of(TRANSFER)
    for spec in (run.base, run.source, run):
        again = type(spec).of(spec.json())
        assert all(map(torch.equal, spec.split(), again.split()))
    assert list(map(len, run.base.split())) == [5000, 1000, 1000]
    assert list(map(len, run.source.split())) == [5000, 1000, 1000]
    assert list(map(len, run.split())) == [200, 1000, 1000]


def test_inherited_names_are_those_of_the_groups():
    run = Transfer.of({**TRANSFER, "inherit": ["norms"]})
    assert all(".ln_" in name for name in run.inherited())
    assert len(run.inherited()) == 2 * 2 * 2 + 2  # two norms a layer and the last one, weight and bias each
    with pytest.raises(ValueError, match="inherit: 'heads' does not exist; expected some of"):
        dataclasses.replace(run, inherit=("heads",)).inherited()


# ---------------------------------------------------------------------------------------
# The table of starts


def test_every_start_has_a_name_and_a_label_of_its_own():
    labels = [one.label for one in starts.CONDITIONS.values()]
    assert len(set(labels)) == len(labels)
    assert [one.name for one in starts.CONDITIONS.values()] == list(starts.CONDITIONS)


def test_no_two_starts_look_the_same():
    looks = [(one.colour, one.marker, one.dash) for one in starts.CONDITIONS.values()]
    assert len(set(looks)) == len(looks)


def test_the_main_starts_are_found_by_their_columns():
    pairs = [starts.CONDITIONS[name].pair for name in starts.MAIN]
    assert len(set(pairs)) == 8
    assert [starts.of(*pair).name for pair in pairs] == list(starts.MAIN)
    assert starts.of("sampled", "as_described_trainable").name == "sampled_as_described_trainable"
    with pytest.raises(KeyError, match="condition = 'sampled' with behaviour = ''"):
        starts.of("sampled")


def test_the_published_names_are_those_of_the_papers_curves():
    found = {one.published: name for name, one in starts.CONDITIONS.items() if one.published}
    assert found == {
        "subnetwork": "subnetwork", "full_model": "full_model", "sampled": "sampled_as_released",
        "sampled_complement": "complement_as_released", "random_init": "random_initialisation",
    }  # fmt: skip


@pytest.mark.parametrize("module", ["companion.arithmetic.starts", "companion.vision.starts"])
def test_a_table_of_starts_imports_nothing_heavy(module):
    heavy = "{'torch', 'pandas', 'numpy', 'matplotlib', 'transformers'}"
    asked = f"import {module}, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
