import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock

from companion.arithmetic import stages as ex
from companion.arithmetic.gpt2 import gpt2
from companion.arithmetic.task import Computation
from companion.lab import make as jobs
from companion.lab.store import Store
from sicore import training
from sicore.files import canonical_json
from sicore.masking import parameter_groups
from sicore.seeding import derive
from sicore.stacks import unstack
from sicore.subnetwork import Subnetwork

BASE = {
    "p": 5, "numbers": 12, "n_layer": 1, "n_embd": 16, "n_head": 2, "train_pairs": 80, "validation_pairs": 20,
    "test_pairs": 20, "steps": 30, "batch": 8, "every": 10, "lr": 5e-3,
}  # fmt: skip
FIND = {
    "pairs": 80, "validation_pairs": 20, "test_pairs": 20, "steps": 20, "batch": 8, "every": 10, "lr": 0.05,
    "penalty": 1e-6, "stages": 5,
}  # fmt: skip
MOVE = {
    "n_disambiguation": (0, 6), "ambiguous": 12, "validation_pairs": 20, "test_pairs": 20, "steps": 12, "batch": 8,
    "every": 4,
}  # fmt: skip


def assert_same_runs(left, right, **settings):
    """Equal in all but the time that they took."""
    pd.testing.assert_frame_equal(left.drop(columns="seconds"), right.drop(columns="seconds"), **settings)


def open_machine(folder, **settings):
    return ex.Machine.open(store=str(folder), **{"workers": 1, **settings})


def chain(machine, seeds=(0, 1), **move):
    bases = ex.base_models(machine, seeds, **BASE)
    found = ex.subnetworks(machine, bases, **FIND)
    return bases, found, ex.transfers(machine, found, **{**MOVE, **move})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    machine = open_machine(tmp_path_factory.mktemp("store"), stack=8)
    return machine, *chain(machine)


def chunks_of(specs, machine):
    return jobs.chunks_of(specs, machine, jobs.Cost(ex._length, ex._operations, ex.memory_of, ex._shared))


def with_sources(made, folder, kinds=("base", "subnetwork"), **settings):
    """A machine whose new store has what the runs start from, and no run."""
    machine = open_machine(folder, **settings)
    for kind in kinds:
        shutil.copytree(made[0].store.root / kind, machine.store.root / kind)
    return machine


@pytest.fixture(scope="module")
def everything(made, tmp_path_factory):
    """Every condition, seed and number of samples, trained in one stack."""
    machine = with_sources(made, tmp_path_factory.mktemp("everything"), stack=128)
    return machine, ex.transfers(machine, made[2], **MOVE, conditions=tuple(ex.CONDITIONS))


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """A machine with complete subnetworks, and these."""
    machine = with_sources(made, tmp_path_factory.mktemp("whole"), kinds=["base"])
    return machine, ex.subnetworks(machine, made[1], **FIND, complete=True)


@pytest.fixture
def untrained(tmp_path, monkeypatch):
    """A machine on which the first step of any training fails."""

    def refuse(*args, **settings):
        raise AssertionError("training began")

    monkeypatch.setattr("companion.arithmetic.task.stacked_gpt2", refuse)
    return open_machine(tmp_path, stack=1)


@pytest.fixture
def untrained_with_sources(untrained, made):
    return with_sources(made, untrained.store.root, stack=1)


class Asked(Exception):
    """Carries the specs that a stage asked for."""


def specs_of(found, **settings):
    """The specs of the runs that :func:`companion.arithmetic.stages.transfers` would read or make."""

    def ask(kind, specs, machine, job):
        raise Asked(specs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ex, "_make", ask)
        with pytest.raises(Asked) as asked:
            ex.transfers(None, found, **{**MOVE, **settings})
    return asked.value.args[0]


def spec_of(found, condition, n=6, **settings):
    (spec,) = specs_of([found], conditions=[condition], n_disambiguation=[n], **settings)
    return spec


def start_of(found, condition, machine, **settings):
    ((begin, density),) = ex._starts([spec_of(found, condition, **settings)], machine)
    assert density == found.subnetwork.density
    return begin


def fresh_of(found, *draw):
    """A new network's parameters, as the transfers of this seed should have them."""
    base = found.spec["base"]
    return dict(ex._build(base, seed=derive(base["seed"], "transfer", *draw)).named_parameters())


def test_chain_gives_a_row_for_every_condition_seed_and_number_of_samples(made):
    _, bases, found, table = made
    assert [base.spec["seed"] for base in bases] == [0, 1]
    assert len(found) == 2
    assert len(table) == len(ex.MAIN_CONDITIONS) * 2 * 2
    names = table.condition + table.behaviour.map(lambda text: f"_{text}" if text else "")
    assert set(names) == set(ex.MAIN_CONDITIONS)
    rows = set(zip(names, table.seed, table.n_disambiguation, strict=True))
    assert rows == {(name, seed, n) for name in ex.MAIN_CONDITIONS for seed in (0, 1) for n in (0, 6)}
    shares = table[[name for name in table.columns if name.startswith("agrees ")]]
    assert list(shares.columns) == ["agrees a^2 + ab", "agrees 2a^2", "agrees 2b^2", "agrees other"]
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0] * len(table))
    assert table.best_step.isin([4, 8, 12]).all()
    assert table.start.tolist() == [name for name in ex.MAIN_CONDITIONS for _ in range(4)]
    assert table.start.tolist() == names.tolist()
    assert set(table.start[~table.freeze]) == {"full_model"}
    assert set(table.start[table.inherit == ""]) == {"random_initialisation"}
    assert set(table.inherit[table.inherit != ""]) == {"embeddings, norms, biases"}
    same = {"subtask": "ab", "task": "a^2 + ab", "n_layer": 1, "draw": 0, "steps": 12}
    for name, value in same.items():
        assert (table[name] == value).all(), name
    assert (table.seconds > 0).all()


def test_everything_is_found_again_without_training(made, monkeypatch):
    machine, bases, found, table = made
    for job in ("_train_bases", "_find_subnetworks", "_train_transfers"):
        monkeypatch.setattr(ex, job, lambda *args: pytest.fail("trained again"))
    again_bases, again_found, again = chain(machine)
    assert_same_runs(again, table)
    assert all(one.subnetwork == other.subnetwork for one, other in zip(found, again_found, strict=True))
    for one, other in zip(bases, again_bases, strict=True):
        assert all(torch.equal(one.params[name], other.params[name]) for name in one.params)


def test_store_keeps_no_checkpoints_or_temporaries(made):
    left = {path.suffix for path in made[0].store.root.rglob("*") if path.is_file() and path.name != "log.txt"}
    assert left <= {".safetensors", ".lock"}


def assert_same(one, other):
    (bases, found, table), (other_bases, other_found, other_table) = one, other
    for a, b in zip(bases, other_bases, strict=True):
        assert all(torch.equal(a.params[name], b.params[name]) for name in a.params)
        assert a.meta["test_accuracy"] == b.meta["test_accuracy"]
        assert a.meta["history"] == b.meta["history"]
    for a, b in zip(found, other_found, strict=True):
        assert a.subnetwork == b.subnetwork
        assert a.meta["history"] == b.meta["history"]
    assert_same_runs(table, other_table, check_exact=True)


def test_results_do_not_depend_on_the_stack(made, tmp_path):
    assert_same(made[1:], chain(open_machine(tmp_path, stack=1)))


@pytest.fixture
def enough_work(monkeypatch):
    """Any training is worth new processes; how often some were started."""
    plain, started = jobs._run_in_processes, []

    def count(*args):
        started.append(args)
        plain(*args)

    monkeypatch.setattr(ex, "_operations", lambda spec: 1e15)
    monkeypatch.setattr(jobs, "_run_in_processes", count)
    return started


def test_results_do_not_depend_on_the_number_of_processes(made, tmp_path, enough_work):
    _, _, found, table = made
    conditions = ["subnetwork", "full_model"]
    machine = with_sources(made, tmp_path, workers=2)
    other = ex.transfers(machine, found, **{**MOVE, "conditions": conditions})
    assert len(enough_work) == 1
    expected = table[table.condition.isin(conditions)].reset_index(drop=True)
    assert_same_runs(expected, other, check_exact=True)


def test_fewer_seeds_and_conditions_change_no_other_result(made, tmp_path):
    _, bases, found, table = made
    conditions, n = ["full_model", "sampled_as_described"], (6,)
    few = chain(open_machine(tmp_path), seeds=[1], conditions=conditions, n_disambiguation=n)
    rows = table[(table.seed == 1) & (table.n_disambiguation == 6)]
    rows = pd.concat(
        [rows[rows.condition == "full_model"], rows[(rows.behaviour == "as_described") & (rows.condition == "sampled")]]
    )
    assert_same((bases[1:], found[1:], rows.reset_index(drop=True)), few)


def test_found_subnetwork_is_neither_empty_nor_full_and_is_described(made):
    for base, one in zip(made[1], made[2], strict=True):
        assert 0 < one.subnetwork.size < one.subnetwork.total
        assert one.meta["density"] == pytest.approx(one.subnetwork.density)
        assert one.history.density.iloc[-1] == pytest.approx(one.subnetwork.density, abs=1e-6)
        assert all(torch.equal(one.subnetwork.weights[name], base.params[name]) for name in base.params)
        assert set(one.subnetwork.masks) == {
            f"transformer.h.0.{part}.weight" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        }


def hugging_face_accuracy(params, pairs, computation, base):
    net = gpt2(vocab=13, n_layer=1, n_embd=16, n_head=2).eval()
    net.load_state_dict({**params, "lm_head.weight": params["transformer.wte.weight"]})
    inputs = torch.cat([pairs, torch.full((len(pairs), 1), 12)], 1)
    answers = Computation.parse(computation)(pairs[:, 0], pairs[:, 1], base["p"])
    return float((net(inputs).logits[:, -1].argmax(-1) == answers).float().mean())


def test_reported_accuracies_are_those_of_hugging_face_models_on_the_test_pairs(made):
    for base, one in zip(made[1], made[2], strict=True):
        test = ex._base_pairs(base.spec)[2]
        assert base.meta["test_accuracy"] == pytest.approx(
            hugging_face_accuracy(base.params, test, "a + ab", base.spec)
        )
        masks, test = one.subnetwork.masks, ex._subtask_pairs(one.spec)[2]
        inside = {name: w * masks[name] if name in masks else w for name, w in base.params.items()}
        outside = {name: w * ~masks[name] if name in masks else w for name, w in base.params.items()}
        expected = {
            "accuracy": (inside, "ab"), "accuracy_base_task": (inside, "a + ab"), "accuracy_ablated": (outside, "ab"),
            "accuracy_full_model": (base.params, "ab"), "accuracy_full_model_base_task": (base.params, "a + ab"),
        }  # fmt: skip
        for name, (params, computation) in expected.items():
            assert one.meta[name] == pytest.approx(hugging_face_accuracy(params, test, computation, base.spec)), name


def as_set(pairs):
    found = {tuple(pair) for pair in pairs.tolist()}
    assert len(found) == len(pairs)
    return found


def test_pairs_for_training_validation_and_test_are_disjoint(made):
    _, bases, found, _ = made
    for sets in (ex._base_pairs(bases[0].spec), ex._subtask_pairs(found[0].spec)):
        train, validation, test = map(as_set, sets)
        assert [len(train), len(validation), len(test)] == [80, 20, 20]
        assert len(train | validation | test) == 120
    train, validation, test = map(as_set, ex._transfer_pairs(spec_of(found[0], "subnetwork", n=90)))
    assert [len(train), len(validation), len(test)] == [12 + 90, 20, 20]
    assert len(train | validation | test) == 12 + 90 + 40
    assert all(a != b for a, b in validation | test)


def test_seen_pairs_are_those_that_the_base_or_the_search_was_trained_on(made):
    _, bases, found, table = made
    source, every = found[0].spec, torch.cartesian_prod(torch.arange(12), torch.arange(12))
    trained_on = as_set(ex._base_pairs(bases[0].spec)[0]) | as_set(ex._subtask_pairs(source)[0])
    assert as_set(every[ex._seen(source, every)]) == trained_on
    assert 80 < len(trained_on) < 144
    test = as_set(ex._transfer_pairs(spec_of(found[0], "subnetwork"))[2])
    rows = table[table.seed == 0]
    assert (rows.unseen == len(test - trained_on)).all()
    for row in rows.itertuples():  # unseen pairs answered right can be no more than all that were
        assert 0 <= round(row.test_accuracy_unseen * row.unseen) <= round(row.test_accuracy * 20)


def test_every_seed_has_pairs_and_weights_of_its_own(made):
    machine, bases, found, _ = made
    for pairs in (ex._base_pairs, ex._subtask_pairs):
        of_seed = [pairs(one.spec) for one in (bases if pairs is ex._base_pairs else found)]
        assert not any(torch.equal(a, b) for a, b in zip(*of_seed, strict=True))
    initial = [dict(ex._build(base.spec, seed=derive(base.spec["seed"], "base")).named_parameters()) for base in bases]
    fresh = [start_of(one, "random_initialisation", machine).params for one in found]
    for name in found[0].subnetwork.masks:
        drawn = [tensors[name] for tensors in (*initial, *fresh)]
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_training_sets_of_a_seed_are_nested_and_share_their_evaluation(made):
    found = made[2]
    sets = {n: ex._transfer_pairs(spec_of(found[0], "subnetwork", n)) for n in (0, 5, 6, 40, 92)}
    longest, validation, test = sets[92]
    for n, (train, other_validation, other_test) in sets.items():
        assert torch.equal(train, longest[: 12 + n])
        assert torch.equal(other_validation, validation)
        assert torch.equal(other_test, test)
    assert bool((longest[:12, 0] == longest[:12, 1]).all())
    assert bool((longest[12:, 0] != longest[12:, 1]).all())
    other = ex._transfer_pairs(spec_of(found[1], "subnetwork", 92))[0]
    assert not torch.equal(other, longest)


def test_all_conditions_of_a_seed_share_pairs_and_fresh_weights(made):
    machine, _, found, _ = made
    conditions = [name for name in ex.CONDITIONS if name != "full_model"]
    reference = start_of(found[0], "random_initialisation", machine).params
    assert all(torch.equal(tensor, reference[name]) for name, tensor in fresh_of(found[0]).items())
    pairs = ex._transfer_pairs(spec_of(found[0], "random_initialisation"))
    for condition in conditions:
        begin = start_of(found[0], condition, machine)
        for name, mask in begin.frozen.items():
            assert torch.equal(begin.params[name][~mask], reference[name][~mask])
        assert all(map(torch.equal, ex._transfer_pairs(spec_of(found[0], condition)), pairs))
    other = start_of(found[1], "random_initialisation", machine).params
    assert not torch.equal(other["transformer.wte.weight"], reference["transformer.wte.weight"])


# One layer of width 16, 13 tokens, 4 positions: 3072 weights in the masked matrices, and beside them:
GROUPS = {"embeddings": 13 * 16 + 4 * 16, "norms": 3 * 2 * 16, "biases": 48 + 16 + 64 + 16}
ALL_GROUPS = tuple(GROUPS)
# Condition -> (which masked weights are the base's, whether they are held, what else is the base's)
STARTS = {
    "subnetwork": ("subnetwork", True, ALL_GROUPS),
    "full_model": ("all", False, ALL_GROUPS),
    "sampled_as_described": ("as many", True, ALL_GROUPS),
    "sampled_as_released": ("the rest", True, ALL_GROUPS),
    "complement_as_described": ("as many outside", True, ALL_GROUPS),
    "complement_as_released": ("the rest with it", True, ALL_GROUPS),
    "inherited_only": ("none", True, ALL_GROUPS),
    "random_initialisation": ("none", True, ()),
    "subnetwork_trainable": ("subnetwork", False, ALL_GROUPS),
    "sampled_as_described_trainable": ("as many", False, ALL_GROUPS),
    "sampled_as_released_trainable": ("the rest", False, ALL_GROUPS),
    "subnetwork_alone": ("subnetwork", True, ()),
    "subnetwork_with_embeddings": ("subnetwork", True, ("embeddings",)),
    "subnetwork_with_norms": ("subnetwork", True, ("norms",)),
    "subnetwork_with_biases": ("subnetwork", True, ("biases",)),
    "sampled_alone": ("as many", True, ()),
    "embeddings_only": ("none", True, ("embeddings",)),
}


def test_conditions_are_those_that_are_described_here():
    assert list(STARTS) == list(ex.CONDITIONS)
    assert list(STARTS)[:8] == list(ex.MAIN_CONDITIONS)


@pytest.mark.parametrize("condition", STARTS)
def test_every_condition_starts_as_it_says(made, everything, condition):
    machine, bases, found, _ = made
    chosen, held, groups = STARTS[condition]
    sub, base, fresh = found[0].subnetwork, bases[0].params, fresh_of(found[0])
    begin = start_of(found[0], condition, machine)
    kinds = parameter_groups(gpt2(vocab=13, n_layer=1, n_embd=16, n_head=2))
    inherited = {name for group in groups for name in kinds[group]}
    assert begin.params.keys() == base.keys()
    for name in base.keys() - sub.masks.keys():
        assert not torch.equal(base[name], fresh[name])
        assert torch.equal(begin.params[name], (base if name in inherited else fresh)[name]), name
    copied = {name: begin.params[name] == base[name] for name in sub.masks}
    for name, mask in sub.masks.items():
        assert torch.equal(begin.params[name][~copied[name]], fresh[name][~copied[name]]), name
        size = int(mask.sum())
        assert int(copied[name].sum()) == {
            "subnetwork": size, "as many": size, "as many outside": size, "the rest": mask.numel() - size,
            "the rest with it": mask.numel() - size, "all": mask.numel(), "none": 0,
        }[chosen], name  # fmt: skip
        if chosen == "subnetwork":
            assert torch.equal(copied[name], mask)
        elif chosen == "as many outside":
            assert not (copied[name] & mask).any()
        elif chosen == "the rest with it":
            assert bool(copied[name][mask].all())
        elif chosen in ("as many", "the rest"):  # drawn from inside and outside alike
            assert 0 < int((copied[name] & mask).sum()) < min(size, int(copied[name].sum()))
    size = sum(int(mask.sum()) for mask in copied.values())
    if held and size:
        assert begin.frozen.keys() == sub.masks.keys()
        assert all(torch.equal(mask, copied[name]) for name, mask in begin.frozen.items())
    else:
        assert not any(bool(mask.any()) for mask in begin.frozen.values())
    assert {group: sum(base[name].numel() for name in kinds[group]) for group in GROUPS} == GROUPS
    beside = 3584 if condition == "full_model" else sum(GROUPS[group] for group in groups)
    assert begin.inherited == beside
    rows = everything[1][(everything[1].start == condition) & (everything[1].seed == 0)]
    assert len(rows) == 2
    assert (rows.frozen == (size if held else 0)).all()
    assert (rows.inherited == beside).all()
    assert rows["inherit"].tolist() == [", ".join(groups)] * 2
    assert rows["freeze"].tolist() == [held] * 2
    assert rows.density.tolist() == [sub.density] * 2


def test_released_controls_invert_the_described_ones(made):
    machine, _, found, _ = made
    for control in ("sampled", "complement"):
        described = start_of(found[0], f"{control}_as_described", machine).frozen
        released = start_of(found[0], f"{control}_as_released", machine).frozen
        assert all(torch.equal(mask, ~released[name]) for name, mask in described.items())


@pytest.mark.parametrize("condition", ["subnetwork", "sampled_as_described", "sampled_as_released"])
def test_trainable_conditions_start_from_the_weights_of_the_held_ones(made, condition):
    machine, _, found, _ = made
    held, loose = (start_of(found[0], name, machine) for name in (condition, f"{condition}_trainable"))
    assert all(torch.equal(held.params[name], loose.params[name]) for name in held.params)
    assert any(bool(mask.any()) for mask in held.frozen.values())
    assert loose.frozen == {}
    assert loose.inherited == held.inherited


@pytest.mark.parametrize("condition", ["sampled_as_described", "complement_as_described"])
def test_controls_of_two_seeds_are_independent_draws(made, condition):
    machine, _, found, _ = made
    masks = [start_of(one, condition, machine).frozen for one in found]
    one, other = (Subnetwork(mask, found[0].subnetwork.weights) for mask in masks)
    shared = one.overlap(other).iloc[-1]
    expected = shared.by_chance
    if condition == "complement_as_described":  # both are drawn outside of something
        outside = (~found[0].subnetwork).overlap(~Subnetwork(found[1].subnetwork.masks, one.weights)).iloc[-1].both
        places = [(~sub.subnetwork).size for sub in found]
        expected = one.size / places[0] * other.size / places[1] * outside
    assert shared.both == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("groups", [[], ["norms"], ["embeddings", "biases"]])
def test_only_the_named_groups_are_inherited(made, groups):
    machine, bases, found, _ = made
    begin = start_of(found[0], "subnetwork", machine, inherit=groups)
    fresh = start_of(found[0], "random_initialisation", machine).params
    kinds = parameter_groups(gpt2(vocab=13, n_layer=1, n_embd=16, n_head=2))
    names = {name for group in groups for name in kinds[group]}
    for name in begin.params.keys() - begin.frozen.keys():
        assert torch.equal(begin.params[name], (bases[0].params if name in names else fresh)[name])
    assert begin.inherited == sum(fresh[name].numel() for name in names)


def test_arguments_decide_only_what_a_condition_leaves_open(made):
    found = made[2]
    for name, condition in ex.CONDITIONS.items():
        spec = spec_of(found[0], name, inherit=["norms"], freeze=False)
        assert spec["inherit"] == (["norms"] if condition.inherit is None else list(condition.inherit))
        assert spec["freeze"] is False  # no condition insists on holding
        plain = spec_of(found[0], name)
        assert plain["inherit"] == list(STARTS[name][2])
        assert plain["freeze"] == STARTS[name][1]


def test_subnetwork_that_is_not_frozen_starts_from_the_same_weights(made):
    machine, _, found, _ = made
    held = start_of(found[0], "subnetwork", machine)
    loose = start_of(found[0], "subnetwork", machine, freeze=False)
    assert loose.frozen == {}
    assert all(torch.equal(held.params[name], loose.params[name]) for name in held.params)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ([], "base model of seed 0 has gone from the store"),
        (["subnetwork"], "base model of seed 0 has gone from the store"),
        (["base"], "subnetwork of seed 0 has gone from the store"),
    ],
)
def test_missing_source_is_named(made, tmp_path, kinds, message):
    with pytest.raises(FileNotFoundError, match=message):
        list(ex._starts([spec_of(made[2][0], "subnetwork")], with_sources(made, tmp_path, kinds)))


# Stacks


def trained(machine, specs):
    """Final parameters and metadata of transfers that are trained in one stack."""
    plain, results = ex.transfer, []

    def keep(*args, **settings):
        results.append(plain(*args, **settings))
        return results[-1]

    assert len({canonical_json(ex._shared(spec)) for spec in specs}) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ex, "transfer", keep)
        ex._train_transfers(specs, machine, lambda steps: None)
    (result,) = results
    metas = [machine.store.get("transfer", spec)[1] for spec in specs]
    return [(unstack(result.params, k), {**meta, "seconds": 0}) for k, meta in enumerate(metas)]


def assert_same_training(one, other):
    (params, meta), (other_params, other_meta) = one, other
    assert meta == other_meta  # with the loss at every evaluation
    assert params.keys() == other_params.keys()
    assert all(torch.equal(params[name], other_params[name]) for name in params)


SHORT = {"steps": 6, "every": 3, "draws": (0, 2)}


def assert_a_mixed_stack_equals_single_runs(machine, found, conditions, dtype):
    specs = specs_of(found, conditions=conditions, dtype=dtype, **SHORT)
    assert len(specs) == 8 * len(conditions)
    together = trained(machine, specs)
    # Every condition once, and every seed, draw and number of samples.
    for i, condition in enumerate(conditions):
        k = 8 * i + i % 8
        (alone,) = trained(machine, [specs[k]])
        assert specs[k]["copied"] == ex.CONDITIONS[condition].copied
        assert_same_training(alone, together[k])


MIXED = [name for name in ex.CONDITIONS if name != "full_model"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_runs_in_a_mixed_stack_equal_single_runs_to_the_bit(made, dtype):
    assert_a_mixed_stack_equals_single_runs(made[0], made[2], MIXED, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_runs_from_complete_subnetworks_in_a_mixed_stack_equal_single_runs_to_the_bit(whole, dtype):
    conditions = [
        "subnetwork_alone",
        "sampled_alone",
        "inherited_only",
        "random_initialisation",
        "subnetwork_trainable",
    ]
    assert_a_mixed_stack_equals_single_runs(*whole, conditions, dtype)


@pytest.mark.parametrize("first", ["subnetwork", "full_model"])
def test_full_model_in_a_mixed_stack_equals_a_single_run_to_the_bit(made, first):
    machine, found = made[0], made[2]
    both = [first, *{"subnetwork", "full_model"} - {first}]
    specs = specs_of(found, conditions=both, **SHORT)
    together = trained(machine, specs)
    for spec, one in zip(specs, together, strict=True):
        (alone,) = trained(machine, [spec])
        assert_same_training(alone, one)


def test_every_condition_in_one_stack_gives_the_results_of_smaller_stacks(made, everything):
    table = everything[1]
    assert len(table) == len(ex.CONDITIONS) * 4
    same = table[table.start.isin(ex.MAIN_CONDITIONS)].reset_index(drop=True)
    assert_same_runs(same, made[3], check_exact=True)


def test_runs_of_one_length_share_a_stack_whatever_they_start_from(made, whole, tmp_path):
    machine = open_machine(tmp_path, stack=1024)
    found = [*made[2], dataclasses.replace(made[2][0], spec={**made[2][0].spec, "penalty": 1e-3})]
    specs = specs_of(found, conditions=tuple(ex.CONDITIONS), draws=(0, 1))
    assert list(map(len, chunks_of(specs, machine))) == [len(ex.CONDITIONS) * 3 * 2 * 2]
    others = specs_of(made[2], conditions=["subnetwork"])
    for change in (
        {"lr": 1e-3}, {"target": 1.0}, {"dtype": "bfloat16"}, {"computation": "ab"}, {"all_positions": True},
        {"test_pairs": 19}, {"ambiguous": 11},
    ):  # fmt: skip
        mixed = [*others, *specs_of(made[2], conditions=["subnetwork"], **change)]
        assert list(map(len, chunks_of(mixed, machine))) == [4, 4], change
    assert list(map(len, chunks_of([*others, *specs_of(whole[1], conditions=["subnetwork"])], machine))) == [4, 4]


# Lengths of runs


def history_steps(machine, spec):
    return [row["step"] for row in machine.store.get("transfer", spec)[1]["history"]]


def test_epochs_give_every_training_set_a_length_of_its_own(made, tmp_path):
    machine, found = with_sources(made, tmp_path), made[2][:1]
    settings = {"conditions": ["subnetwork", "random_initialisation"], "epochs": 5}
    table = ex.transfers(machine, found, **{**MOVE, **settings})
    # 12 samples are 2 steps of 8, 18 samples are 3.
    assert table.n_disambiguation.tolist() == [0, 6, 0, 6]
    assert table.steps.tolist() == [10, 15, 10, 15]
    specs = specs_of(found, **settings)
    assert [(spec["steps"], spec["every"]) for spec in specs] == [(10, 2), (15, 3)] * 2
    histories = [history_steps(machine, spec) for spec in specs]
    assert histories == [[2, 4, 6, 8, 10], [3, 6, 9, 12, 15]] * 2
    chunks = chunks_of(specs, machine)
    assert sorted([spec["n_disambiguation"] for spec in chunk] for chunk in chunks) == [[0, 0], [6, 6]]


@pytest.mark.parametrize(
    ("ambiguous", "n", "batch", "epoch"), [(12, 6, 8, 3), (8, 0, 8, 1), (8, 1, 8, 2), (12, 4, 16, 1), (1, 0, 8, 1)]
)
def test_an_epoch_ends_with_a_batch_that_need_not_be_full(made, ambiguous, n, batch, epoch):
    spec = spec_of(made[2][0], "subnetwork", n, ambiguous=ambiguous, batch=batch, epochs=7)
    assert (spec["steps"], spec["every"]) == (7 * epoch, epoch)


def test_epochs_stand_in_place_of_steps(made):
    found = made[2]
    in_epochs = [specs_of(found, epochs=3, steps=steps, every=every) for steps, every in ((5, 1), (50, 7))]
    assert in_epochs[0] == in_epochs[1]
    assert specs_of(found, epochs=0) == specs_of(found)
    assert {(spec["steps"], spec["every"]) for spec in specs_of(found, epochs=0)} == {(12, 4)}


def test_stopping_at_a_perfect_validation_changes_no_result(made, tmp_path):
    machine, found = with_sources(made, tmp_path, stack=64), made[2]
    # With a single pair to validate on, many a run is soon perfect, and many a run never is.
    settings = {
        **MOVE, "conditions": ["subnetwork", "full_model", "random_initialisation"], "draws": (0, 1, 2),
        "validation_pairs": 1, "lr": 1e-2, "every": 2, "steps": 16,
    }  # fmt: skip
    full, stopped = (ex.transfers(machine, found, **settings, target=target) for target in (None, 1.0))
    lasting = [name for name in full.columns if name not in ("steps", "last_validation_accuracy", "seconds")]
    assert {"test_accuracy", "validation_accuracy", "best_step", "test_accuracy_unseen"} <= set(lasting)
    pd.testing.assert_frame_equal(full[lasting], stopped[lasting], check_exact=True)
    early = stopped.steps < 16
    assert early.any()
    assert not early.all()
    assert (full.steps == 16).all()
    assert (early == ((full.validation_accuracy == 1) & (full.best_step < 16))).all()
    assert (stopped.steps[early] == stopped.best_step[early]).all()
    assert (stopped.steps[~early] == 16).all()
    assert (stopped.last_validation_accuracy[early] == 1).all()
    names = {key: value for key, value in settings.items() if key not in MOVE or MOVE[key] != value}
    for spec, other, steps in zip(
        specs_of(found, **names), specs_of(found, **names, target=1.0), stopped.steps, strict=True
    ):
        whole, part = (machine.store.get("transfer", one)[1]["history"] for one in (spec, other))
        assert part == whole[: steps // 2]


# Complete subnetworks


EMBEDDINGS = ("transformer.wte.weight", "transformer.wpe.weight")


def plainly(params):
    """With norms at 1 and biases at 0."""
    plain = dict(params)
    for name in params:
        if ".ln_" in name:
            plain[name] = torch.full_like(params[name], float(name.endswith("weight")))
        elif name.endswith("bias"):
            plain[name] = torch.zeros_like(params[name])
    return plain


def test_complete_subnetwork_masks_the_embeddings_too(made, whole):
    for base, one, other in zip(made[1], whole[1], made[2], strict=True):
        assert one.subnetwork.masks.keys() == {*other.subnetwork.masks, *EMBEDDINGS}
        assert one.subnetwork.total == 3072 + GROUPS["embeddings"]
        for name in EMBEDDINGS:
            assert 0 < int(one.subnetwork.masks[name].sum()) < one.subnetwork.masks[name].numel()
        assert one.meta["density"] == pytest.approx(one.subnetwork.density)
        assert one.history.density.iloc[-1] == pytest.approx(one.subnetwork.density, abs=1e-6)
        expected = plainly(base.params)
        assert sum(not torch.equal(expected[name], base.params[name]) for name in expected) == 3 * 2 + 4
        assert all(torch.equal(one.subnetwork.weights[name], expected[name]) for name in expected)


def test_accuracies_of_complete_subnetworks_are_those_of_hugging_face_models(made, whole):
    for base, one in zip(made[1], whole[1], strict=True):
        masks, test, source = one.subnetwork.masks, ex._subtask_pairs(one.spec)[2], plainly(base.params)
        inside = {name: w * masks[name] if name in masks else w for name, w in source.items()}
        outside = {name: w * ~masks[name] if name in masks else w for name, w in source.items()}
        expected = {
            "accuracy": (inside, "ab"), "accuracy_base_task": (inside, "a + ab"), "accuracy_ablated": (outside, "ab"),
            "accuracy_full_model": (source, "ab"), "accuracy_full_model_base_task": (source, "a + ab"),
        }  # fmt: skip
        for name, (params, computation) in expected.items():
            assert one.meta[name] == pytest.approx(hugging_face_accuracy(params, test, computation, base.spec)), name


def test_complete_subnetwork_needs_nothing_beside_itself(made, whole):
    machine, found = whole
    base, masks, fresh = made[1][0].params, found[0].subnetwork.masks, fresh_of(found[0])
    begin = start_of(found[0], "subnetwork_alone", machine)
    assert begin.inherited == 0
    assert begin.frozen.keys() == masks.keys()
    for name, tensor in begin.params.items():
        mask = masks.get(name, torch.zeros_like(tensor, dtype=torch.bool))
        assert torch.equal(tensor, torch.where(mask, base[name], fresh[name]))
        assert torch.equal(begin.frozen.get(name, mask), mask)
    # What is searched and what it is put into agree in all that is not masked, so that to inherit changes nothing.
    assert all(
        torch.equal(tensor, found[0].subnetwork.weights[name]) for name, tensor in fresh.items() if name not in masks
    )
    for condition, beside in {"subnetwork": 240, "subnetwork_with_embeddings": 0, "subnetwork_with_norms": 96}.items():
        other = start_of(found[0], condition, machine)
        assert other.inherited == beside
        assert all(torch.equal(tensor, begin.params[name]) for name, tensor in other.params.items())
        assert all(torch.equal(mask, begin.frozen[name]) for name, mask in other.frozen.items())


@pytest.mark.parametrize("inherit", [("embeddings",), ("embeddings", "norms", "biases"), ("tokens", "embeddings")])
def test_masked_names_are_not_inherited(whole, inherit):
    machine, found = whole
    begin, fresh = start_of(found[0], "inherited_only", machine, inherit=inherit), fresh_of(found[0])
    assert all(torch.equal(begin.params[name], fresh[name]) for name in fresh)
    assert begin.inherited == sum(GROUPS[group] for group in inherit if group in ("norms", "biases"))


def test_full_model_with_a_complete_subnetwork_is_the_base_itself(made, whole):
    begin = start_of(whole[1][0], "full_model", whole[0])
    assert all(torch.equal(begin.params[name], tensor) for name, tensor in made[1][0].params.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_complete_search_does_not_depend_on_the_stack(tmp_path, dtype):
    machines = [open_machine(tmp_path / str(stack), stack=stack) for stack in (8, 1)]
    # 13 tokens of width 32: a processor takes 32 numbers at once, and rounds the rest of a tensor otherwise.
    bases = [ex.base_models(machine, (0, 1), **{**BASE, "n_embd": 32, "steps": 10}) for machine in machines]
    found = [
        ex.subnetworks(machine, models, **{**FIND, "every": 1}, complete=True, dtype=dtype)
        for machine, models in zip(machines, bases, strict=True)
    ]
    for one, other in zip(*found, strict=True):
        assert one.subnetwork == other.subnetwork
        assert one.meta["history"] == other.meta["history"]
        assert len(one.history) == 20


# Several draws


def test_first_draw_is_what_there_is_without_the_argument(made, tmp_path):
    _, _, found, table = made
    conditions = ["subnetwork", "sampled_as_described", "random_initialisation"]
    machine = with_sources(made, tmp_path, stack=64)
    drawn = ex.transfers(machine, found, **{**MOVE, "conditions": conditions, "draws": (0, 3)})
    assert len(drawn) == 2 * 12
    first = drawn[drawn.draw == 0].reset_index(drop=True)
    assert_same_runs(first, table[table.start.isin(conditions)].reset_index(drop=True), check_exact=True)
    other = drawn[drawn.draw == 3].reset_index(drop=True)
    same = ["start", "seed", "n_disambiguation", "frozen", "inherited", "density"]
    pd.testing.assert_frame_equal(first[same], other[same])
    histories = [
        machine.store.get("transfer", spec)[1]["history"]
        for spec in specs_of(found, conditions=conditions, draws=(0, 3))
    ]
    assert len({canonical_json([row["loss"] for row in history]) for history in histories}) == len(histories)


def test_every_draw_has_fresh_weights_and_pairs_of_its_own(made):
    machine, bases, found, _ = made
    draws = (0, 1, 2)
    words = [(), ("draw", 1), ("draw", 2)]
    fresh = [start_of(found[0], "random_initialisation", machine, draws=[draw]).params for draw in draws]
    for params, word in zip(fresh, words, strict=True):
        assert all(torch.equal(params[name], tensor) for name, tensor in fresh_of(found[0], *word).items())
    pairs = [ex._transfer_pairs(spec_of(found[0], "subnetwork", draws=[draw])) for draw in draws]
    masks = [start_of(found[0], "sampled_as_described", machine, draws=[draw]).frozen for draw in draws]
    outside = [start_of(found[0], "complement_as_described", machine, draws=[draw]).frozen for draw in draws]
    for i, j in itertools.combinations(range(3), 2):
        for name in found[0].subnetwork.masks:
            assert not (fresh[i][name] == fresh[j][name]).any()
            assert not torch.equal(masks[i][name], masks[j][name])
            assert not torch.equal(outside[i][name], outside[j][name])
        for one, other in zip(pairs[i], pairs[j], strict=True):
            assert one.shape == other.shape
            assert not torch.equal(one, other)
    begins = [start_of(found[0], "subnetwork", machine, draws=[draw]) for draw in draws]
    for begin in begins:
        for name, mask in found[0].subnetwork.masks.items():
            assert torch.equal(begin.frozen[name], mask)
            assert torch.equal(begin.params[name][mask], bases[0].params[name][mask])
    full = [start_of(found[0], "full_model", machine, draws=[draw]).params for draw in draws]
    assert all(torch.equal(params[name], bases[0].params[name]) for params in full for name in params)
    seeds = {ex._transfer_seed(spec) for spec in specs_of(found, draws=draws)}  # of dropout and of the samples' order
    assert len(seeds) == 6


def test_pairs_are_drawn_once_and_stay_as_they_are(made):
    _, bases, found, _ = made
    base, spec = bases[0].spec, spec_of(found[0], "subnetwork")
    for again in (lambda: ex._base_pairs(base)[0], lambda: ex._transfer_pairs(spec)[1]):
        assert again() is again()
    # After all that was done with them.
    plain = ex._split.__wrapped__(12, (80, 20, 20), base["seed"], "base")
    assert all(map(torch.equal, ex._base_pairs(base), plain))
    plain = ex._split.__wrapped__(12, (80, 20, 20), base["seed"], "discovery")
    assert all(map(torch.equal, ex._subtask_pairs(found[0].spec), plain))
    ambiguous, validation, test, pool = ex._drawn_pairs.__wrapped__(12, base["seed"], 0, 12, 20, 20)
    expected = torch.cat([ambiguous, pool[:6]]), validation, test
    assert all(map(torch.equal, ex._transfer_pairs(spec), expected))


# What is said before any training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"computation": "c"}, "computation = 'c'"),
        ({"p": 1}, "p = 1"),
        ({"numbers": 4}, "numbers = 4"),
        ({"dtype": "float16"}, "dtype = 'float16'.*float32, bfloat16"),
        ({"n_head": 3}, "n_embd = 16 is not a multiple of n_head = 3"),
        ({"train_pairs": 120}, r"160 pairs are asked for \(120 \+ 20 \+ 20\), only 144 exist"),
        ({"train_pairs": 11}, r"sizes\[0\] = 11"),
        ({"steps": 0}, "steps = 0"),
        ({"limit": 31}, "limit = 31: expected 1 to steps = 30"),
        ({"limit": -1}, "limit = -1"),
        ({"batch": 0}, "batch = 0"),
        ({"every": 2.5}, "every = 2.5"),
        ({"validation_pairs": 0}, "validation_pairs = 0"),
        ({"test_pairs": 0}, "test_pairs = 0"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"clip": -1.0}, "clip = -1.0"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"dropout": 1.0}, "dropout = 1.0"),
    ],
)
def test_setting_of_a_base_model_is_refused_before_training(untrained, settings, message):
    with pytest.raises(ValueError, match=message):
        ex.base_models(untrained, [0], **{**BASE, **settings})


@pytest.mark.parametrize("seeds", [[-1], [0.5], [0, "1"]])
def test_seed_that_is_no_natural_number_is_refused_before_training(untrained, seeds):
    with pytest.raises(ValueError, match="seed = "):
        ex.base_models(untrained, seeds, **BASE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"computation": "ab^"}, r"computation = 'ab\^'"),
        ({"dtype": "half"}, "dtype = 'half'"),
        ({"pairs": 130}, "170 pairs are asked for"),
        ({"steps": -3}, "steps = -3"),
        ({"test_pairs": 0}, "test_pairs = 0"),
        ({"penalty": -1.0}, r"penalty = .*-1\.0"),
        ({"stages": 1}, "stages = 1"),
        ({"final_temperature": 1.0}, "final"),
    ],
)
def test_setting_of_a_search_is_refused_before_training(untrained_with_sources, made, settings, message):
    with pytest.raises(ValueError, match=message):
        ex.subnetworks(untrained_with_sources, made[1], **{**FIND, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"computation": "x"}, "computation = 'x'"),
        ({"candidates": ["2a^2", "?"]}, r"computation = '\?'"),
        ({"candidates": ["ab", "ba"]}, "candidates"),
        (
            {"conditions": ["subnetwork", "lottery"]},
            "'lottery' does not exist; expected some of subnetwork, full_model",
        ),
        ({"n_disambiguation": [0, 1000]}, "n_disambiguation = 1000: only 92 pairs"),
        ({"n_disambiguation": [5, -1]}, "n_disambiguation = -1"),
        ({"n_disambiguation": []}, "n_disambiguation"),
        ({"n_disambiguation": [3, 0], "ambiguous": 0}, "ambiguous = 0|n_disambiguation = 0"),
        ({"ambiguous": -1}, "ambiguous = -1"),
        (
            {"inherit": ["embeddings", "heads"]},
            "'heads' does not exist; expected some of embeddings, norms, biases, tokens",
        ),
        ({"dtype": "int8"}, "dtype = 'int8'"),
        ({"steps": 0}, "steps = 0"),
        ({"test_pairs": 0}, "test_pairs = 0"),
        (
            {"validation_pairs": 100, "test_pairs": 100},
            r"100 \+ 100 pairs for validation and test are more than the 132 pairs with a != b among 12 numbers",
        ),
        ({"validation_pairs": 66, "test_pairs": 66, "n_disambiguation": [1]}, "n_disambiguation = 1: only 0 pairs"),
        ({"dropout": -0.5}, "dropout = -0.5"),
        ({"epochs": -1}, "epochs = -1: expected an integer of 1 or more, or 0"),
        ({"epochs": True}, "epochs = True"),
        ({"epochs": 2.5}, "epochs = 2.5"),
        ({"draws": []}, r"draws = \[\]: expected integers of 0 or more, at least one"),
        ({"draws": [0, -1]}, r"draws = \[0, -1\]"),
        ({"draws": [True]}, r"draws = \[True\]"),
        ({"draws": [0.0]}, r"draws = \[0\.0\]"),
    ],
)
def test_setting_of_a_transfer_is_refused_before_training(untrained_with_sources, made, settings, message):
    with pytest.raises(ValueError, match=message):
        ex.transfers(untrained_with_sources, made[2], **{**MOVE, **settings})


@pytest.mark.parametrize("condition", ["complement_as_described", "complement_as_released"])
def test_complement_of_a_large_subnetwork_is_refused_before_training(untrained_with_sources, made, condition):
    dense = [dataclasses.replace(one, subnetwork=~one.subnetwork) for one in made[2]]
    with pytest.raises(ValueError, match=r"no complement for seed 0: transformer\.h\.0.* keeps \d\d% of its weights"):
        ex.transfers(untrained_with_sources, dense, **MOVE, conditions=["subnetwork", condition])
    assert specs_of(dense, conditions=["subnetwork", "sampled_as_released"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda:77"}, "device = 'cuda:77' is not available; this machine has cpu"),
        ({"workers": -1}, "workers = -1"),
        ({"stack": -1}, "stack = -1: expected 1 or more, or 0"),
    ],
)
def test_machine_that_is_not_there_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        open_machine(tmp_path, **settings)


def test_store_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/store"):
        open_machine(tmp_path / "file" / "store")


def tiny(steps, seed, **changes):
    """As much of a base model's spec as is needed to plan its training."""
    return {"steps": steps, "seed": seed, "batch": 8, "p": 5, "numbers": 12, "n_layer": 1, "n_embd": 16, **changes}


# The machine


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": False}, "bfloat16"),
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": True}, "bfloat16"),
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": True}, "bfloat16"),
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, "float32"),
        ({"architecture": "x86", "amx_bf16": False, "avx512_bf16": False}, "float32"),
        ({"architecture": "aarch64", "bf16": False}, "bfloat16"),
        ({"architecture": "arm64", "bf16": True}, "bfloat16"),
        ({}, "bfloat16"),
    ],
)
def test_bfloat16_is_kept_where_the_processor_does_not_only_imitate_it(tmp_path, monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    machine = open_machine(tmp_path)
    assert machine.dtype("bfloat16") == expected
    assert machine.dtype("float32") == "float32"
    with pytest.raises(ValueError, match="dtype = 'float16': expected one of float32, bfloat16"):
        machine.dtype("float16")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_type_on_a_gpu_is_what_was_asked_for(tmp_path, monkeypatch, device):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: pytest.fail("of the processor"), raising=False)
    machine = ex.Machine(Store(tmp_path), device, 0, 0)
    assert [machine.dtype(name) for name in ex.DTYPES] == list(ex.DTYPES)
    with pytest.raises(ValueError, match="dtype = 'half'"):
        machine.dtype("half")


def test_processes_are_the_workers_or_the_cores_or_one_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    wanted = {("cpu", 0): 3, ("cpu", 2): 2, ("cuda", 0): 1, ("cuda:1", 4): 4}
    for (device, workers), count in wanted.items():
        assert ex.Machine(Store(tmp_path), device, workers, 8).processes == count


def room_for(monkeypatch, spec, models, processes=1):
    """Let the free memory be twice what so many models need in each of the processes."""
    monkeypatch.setattr(jobs, "free_memory", lambda device: int(2 * processes * models * ex.memory_of(spec)))


@pytest.mark.parametrize(
    ("room", "stack", "device", "expected"),
    [
        (0, 64, "cpu", 1), (0.3, 64, "cpu", 1), (1, 64, "cpu", 1), (1.9, 64, "cpu", 1), (2, 64, "cpu", 2),
        (3.9, 64, "cpu", 2), (8, 64, "cpu", 8), (15.9, 64, "cpu", 8), (63, 64, "cpu", 32), (1e6, 64, "cpu", 64),
        (1e6, 3, "cpu", 3), (5, 3, "cpu", 3), (2.5, 3, "cpu", 2), (0, 1, "cpu", 1), (100, 0, "cpu", 24),
        (20, 0, "cpu", 16), (0, 0, "cpu", 1), (100, 0, "cuda", 64), (1e6, 0, "cuda", 1024), (1e6, 0, "cuda:1", 1024),
        (1e6, 5, "cuda", 5),
    ],
)  # fmt: skip
def test_stack_is_a_power_of_two_that_fits_and_never_above_what_was_asked(
    tmp_path, monkeypatch, room, stack, device, expected
):
    spec = tiny(5, 0)
    for processes in (1, 3):
        room_for(monkeypatch, spec, room, processes)
        assert ex.Machine(Store(tmp_path), device, processes, stack).fits(ex.memory_of(spec)) == expected


def test_free_memory_is_asked_of_the_device(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (123, 456))
    assert jobs.free_memory("cuda:1") == 123
    assert asked == [torch.device("cuda:1")]


def test_free_memory_of_the_processor_is_what_the_system_says(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda path: "MemTotal: 99 kB\nMemAvailable:   7 kB\nSwapFree: 5 kB\n")
    assert jobs.free_memory("cpu") == 7 * 1024
    monkeypatch.setattr(Path, "read_text", lambda path: "MemTotal: 99 kB\n")
    assert jobs.free_memory("cpu") == 4 * 2**30

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert jobs.free_memory("cpu") == 4 * 2**30


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="not Linux")
def test_free_memory_is_above_nothing_and_below_all():
    assert 0 < jobs.free_memory("cpu") < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("n_layer", "n_embd", "numbers"), [(1, 16, 12), (2, 128, 1000), (5, 64, 300), (1, 256, 50)])
def test_memory_of_a_model_is_above_that_of_its_parameters(n_layer, n_embd, numbers):
    model = gpt2(vocab=numbers + 1, n_layer=n_layer, n_embd=n_embd, n_head=2)
    count = sum(parameter.numel() for parameter in model.parameters())
    spec = tiny(1, 0, n_layer=n_layer, n_embd=n_embd, numbers=numbers, batch=1)
    assert ex.memory_of(spec) > 4 * 12 * count


def test_memory_of_a_model_grows_with_all_that_needs_memory(made):
    base = tiny(5, 0)
    more = {"n_layer": 2, "n_embd": 32, "numbers": 24, "batch": 16, "steps": 1000}
    assert all(ex.memory_of({**base, name: value}) > ex.memory_of(base) for name, value in more.items())
    assert ex.memory_of({**base, "all_positions": True}) > ex.memory_of({**base, "all_positions": False})
    for spec in (made[2][0].spec, spec_of(made[2][0], "subnetwork")):  # sizes of the model are in the base's spec
        for name in ("batch", "steps"):
            assert ex.memory_of({**spec, name: 1000}) > ex.memory_of(spec)
        text = canonical_json(spec)
        for name, value in (("n_layer", 1), ("n_embd", 16), ("numbers", 12)):
            larger = json.loads(text.replace(f'"{name}":{value}', f'"{name}":{2 * value}'))
            assert ex.memory_of(larger) > ex.memory_of(spec)


MEMORY = """
import ctypes, gc, re, sys, torch
from pathlib import Path
from sicore import experiments as ex

torch.set_num_threads(1)
built = lambda spec: dict(ex._build(spec, seed=spec["seed"]).named_parameters())
ex._train_bases = lambda specs, machine, progress: [
    machine.store.put("base", spec, built(spec), {"history": []}) for spec in specs
]
ex._find_subnetworks = lambda specs, machine, progress: [
    machine.store.put("subnetwork", spec, {
        name: torch.rand_like(built(spec["base"])[name]) < 0.3 for name in ex.masked_names(spec)
    }, {"history": []}) for spec in specs
]
ex.Machine.fits = lambda machine, memory: 64
taken = lambda what: 1024 * int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
specs, plain = [], ex._train_transfers

def noted(chunk, machine, progress):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back: it would be used again, more of it or less
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = taken("VmRSS")
    plain(chunk, machine, progress)
    specs.append((len(chunk), taken("VmHWM") - before, ex.memory_of(chunk[0])))

ex._train_transfers = noted
machine = ex.Machine.open(store=sys.argv[1], workers=1)
bases = ex.base_models(machine, range(9), numbers=100, train_pairs=5000)
found = ex.subnetworks(machine, bases, pairs=5000, complete=True)
for some in (found[:1], found[1:]):
    ex.transfers(machine, some, conditions=["subnetwork"], n_disambiguation=[1000], steps=2, every=1)
print(*specs[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_of_a_model_is_above_what_a_training_takes(tmp_path):
    # Of a stack of 8 after a single run, in a process of its own.
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    models, taken, estimate = map(int, done.stdout.split())
    assert models == 8
    parameters = 4 * sum(p.numel() for p in gpt2(vocab=101, n_layer=2, n_embd=128, n_head=4).parameters())
    assert 5 * parameters < taken / models < estimate


@pytest.mark.parametrize(("count", "stack", "workers"), [(1, 8, 1), (7, 8, 2), (20, 8, 1), (20, 3, 4), (5, 1, 2)])
def test_chunks_hold_every_run_once_and_no_more_than_a_stack(tmp_path, count, stack, workers):
    machine = open_machine(tmp_path, stack=stack, workers=workers)
    specs = [tiny(5, seed) for seed in range(count)]
    chunks = chunks_of(specs, machine)
    assert sorted(spec["seed"] for chunk in chunks for spec in chunk) == list(range(count))
    assert max(map(len, chunks)) <= stack
    assert len(chunks) >= min(workers, count)


def test_chunks_never_mix_what_cannot_train_together(tmp_path):
    specs = [{"steps": steps, "batch": 8, "base": tiny(5, seed)} for seed in range(4) for steps in (5, 6)]
    chunks = chunks_of(specs, open_machine(tmp_path))
    assert all(len({spec["steps"] for spec in chunk}) == 1 for chunk in chunks)
    assert sum(map(len, chunks)) == 8


def test_chunks_hold_no_more_than_the_memory(tmp_path, monkeypatch):
    machine, specs = open_machine(tmp_path, stack=8), [tiny(5, seed) for seed in range(12)]
    for room, sizes in ((100, [6, 6]), (5, [4, 4, 4]), (0, [1] * 12)):
        room_for(monkeypatch, specs[0], room)
        assert list(map(len, chunks_of(specs, machine))) == sizes


# Who makes what, and when


def put_seed(machine, specs):
    for spec in specs:
        machine.store.put("thing", spec, {"seed": torch.tensor(spec["seed"])}, {})


def seeds_of(found):
    return [int(tensors["seed"]) for tensors, _ in found]


def test_long_chunks_are_made_first(tmp_path):
    machine, order = open_machine(tmp_path), []

    def job(specs, machine, progress):
        order.append([spec["seed"] for spec in specs])
        put_seed(machine, specs)

    # A stack of three takes longer than a single one of twice as many steps.
    specs = [tiny(5, 0), tiny(50, 1), tiny(30, 2), tiny(60, 3), tiny(30, 4), tiny(30, 5)]
    assert seeds_of(ex._make("thing", specs, machine, job)) == [0, 1, 2, 3, 4, 5]
    assert order == [[2, 4, 5], [3], [1], [0]]


def test_only_what_is_missing_of_a_chunk_is_made(tmp_path):
    machine, order, steps = open_machine(tmp_path), [], []
    specs = [tiny(5, seed) for seed in range(4)]
    put_seed(machine, specs[1:3])

    def job(specs, machine, progress):
        order.append([spec["seed"] for spec in specs])
        put_seed(machine, specs)
        progress(len(specs))
        steps.append(progress)

    assert seeds_of(ex._make("thing", specs, machine, job)) == [0, 1, 2, 3]
    assert order == [[0, 3]]


@pytest.fixture
def another():
    """Holds the locks of objects until it is let go, and may do something before."""
    held, release, threads = threading.Event(), threading.Event(), []

    def begin(machine, specs, before=lambda: None):
        paths = [machine.store.path("thing", spec).with_suffix(".lock") for spec in specs]
        paths[0].parent.mkdir(parents=True, exist_ok=True)

        def hold():
            with contextlib.ExitStack() as locks:
                for path in paths:
                    locks.enter_context(FileLock(str(path)))
                held.set()
                release.wait(20)
                before()

        threads.append(threading.Thread(target=hold, daemon=True))
        threads[0].start()
        assert held.wait(20)
        return release

    yield begin
    release.set()
    for thread in threads:
        thread.join(20)


def job_that_lets_go_after(count, release, order):
    guard = threading.Lock()

    def job(specs, machine, progress):
        put_seed(machine, specs)
        with guard:
            order.extend(spec["seed"] for spec in specs)
            if len(order) == count:
                release.set()

    return job


def test_chunk_that_another_is_making_is_made_at_the_end(tmp_path, another):
    machine, order = open_machine(tmp_path, stack=1), []
    specs = [tiny(50, 0), tiny(40, 1), tiny(30, 2), tiny(20, 3)]
    job = job_that_lets_go_after(3, another(machine, specs[:1]), order)
    assert seeds_of(ex._make("thing", specs, machine, job)) == [0, 1, 2, 3]
    assert order == [1, 2, 3, 0]


def test_chunk_that_another_has_made_is_not_made_again(tmp_path, another):
    machine, order = open_machine(tmp_path, stack=1), []
    specs = [tiny(50, 0), tiny(40, 1), tiny(30, 2)]
    job = job_that_lets_go_after(2, another(machine, specs[:1], lambda: put_seed(machine, specs[:1])), order)
    assert seeds_of(ex._make("thing", specs, machine, job)) == [0, 1, 2]
    assert order == [1, 2]


@pytest.fixture
def threads_as_processes(monkeypatch):
    """Worker processes take seconds to start; who makes what when is the same with threads."""
    jobs._workers.cache_clear()
    monkeypatch.setattr(jobs, "_steps_done", None)
    monkeypatch.setattr(jobs, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(jobs, "leave_with_parent", lambda parent: None)
    monkeypatch.setattr(
        jobs, "ProcessPoolExecutor",
        lambda workers, context, start, given: ThreadPoolExecutor(workers, initializer=start, initargs=given),
    )  # fmt: skip
    yield
    jobs._workers.cache_clear()


@pytest.mark.usefixtures("threads_as_processes")
@pytest.mark.parametrize("locked", [(0, 1), (2,), (1, 3)])
def test_processes_make_at_the_end_what_another_is_making(tmp_path, another, enough_work, locked):
    # As many chunks are held as there are processes: none must wait for them while there is other work.
    machine, order = open_machine(tmp_path, stack=1, workers=2), []
    specs = [tiny(60 - 10 * seed, seed) for seed in range(5)]
    free = {0, 1, 2, 3, 4} - set(locked)
    job = job_that_lets_go_after(len(free), another(machine, [specs[k] for k in locked]), order)
    assert seeds_of(ex._make("thing", specs, machine, job)) == [0, 1, 2, 3, 4]
    assert set(order[: len(free)]) == free
    assert sorted(order[len(free) :]) == list(locked)
    assert len(enough_work) == 1


@pytest.mark.usefixtures("threads_as_processes", "enough_work")
def test_processes_stay_for_the_next_stage_but_not_after_an_error(tmp_path, monkeypatch):
    plain, pools = jobs.ProcessPoolExecutor, []
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", lambda *given: pools.append(plain(*given)) or pools[-1])
    machine = open_machine(tmp_path, stack=1, workers=2)

    def fail(specs, machine, _):
        raise OSError("no space left")

    def make(specs, machine, _):
        put_seed(machine, specs)

    for number, job in enumerate([make, make, fail, make]):
        specs = [tiny(5, 10 * number), tiny(5, 10 * number + 1)]
        if job is fail:
            with pytest.raises(OSError, match="no space left"):
                ex._make("thing", specs, machine, job)
        else:
            assert seeds_of(ex._make("thing", specs, machine, job)) == [10 * number, 10 * number + 1]
    assert len(pools) == 2


@pytest.mark.parametrize(
    ("operations", "device", "workers", "started"),
    [(4e11, "cpu", 2, 0), (6e11, "cpu", 2, 1), (6e11, "cpu", 1, 0), (4e11, "cuda", 2, 1), (6e11, "cuda", 0, 0)],
)
@pytest.mark.usefixtures("threads_as_processes")
def test_processes_are_started_only_for_enough_work(
    tmp_path, monkeypatch, enough_work, operations, device, workers, started
):
    monkeypatch.setattr(ex, "_operations", lambda spec: operations / 2)
    monkeypatch.setattr(jobs, "free_memory", lambda device: 2**40)
    machine = ex.Machine(Store(tmp_path), device, workers, 1)
    found = ex._make("thing", [tiny(5, 0), tiny(5, 1)], machine, lambda specs, machine, _: put_seed(machine, specs))
    assert seeds_of(found) == [0, 1]
    assert len(enough_work) == started


def test_a_transfer_that_diverges_is_marked_and_has_no_accuracy(made, tmp_path):
    machine = with_sources(made, tmp_path)
    table = ex.transfers(machine, made[2], **MOVE, conditions=["random_initialisation"], lr=1e30)
    assert table["diverged"].notna().all()
    assert table[["test_accuracy", "validation_accuracy", "test_accuracy_unseen"]].isna().all(axis=None)
    assert table.filter(like="agrees").isna().all(axis=None)
    assert "diverged" not in made[3], "no column where nothing diverged"


def test_a_base_or_a_search_that_diverges_is_an_error_and_the_others_are_kept(made, tmp_path, monkeypatch):
    machine = with_sources(made, tmp_path, kinds=["base"])
    with pytest.raises(FloatingPointError, match=r"base model of seed 0 .*seed 1 .*diverged"):
        ex.base_models(machine, [0, 1], **{**BASE, "lr": 1e30})
    plain = ex.discover

    def discover(*args, **settings):
        masks, trained = plain(*args, **settings)
        trained.diverged[1] = 7
        return masks, trained

    monkeypatch.setattr(ex, "discover", discover)
    with pytest.raises(FloatingPointError, match=r"search of seed 1 with penalty 1e-06 \(step 7\) diverged"):
        ex.subnetworks(machine, made[1], **FIND)
    assert [machine.store.get("subnetwork", one.spec) is not None for one in made[2]] == [True, False]


def test_every_chunk_that_is_made_has_a_line_in_the_log(tmp_path):
    machine, told = open_machine(tmp_path, stack=2), []

    def job(specs, machine, progress):
        progress(6000)  # so many steps a checkpoint has spared
        progress(2)
        progress(2)
        time.sleep(0.05)
        put_seed(machine, specs)

    specs = [tiny(5, 0), tiny(5, 1)]
    for _ in range(2):  # the second time all is there, and there is nothing to tell
        assert jobs.run("thing", specs, machine, job, told.append, False)
    (line,) = (machine.store.root / "log.txt").read_text().splitlines()
    assert told == [6000, 2, 2]
    assert all(machine.store.path("thing", spec).stem[:12] in line for spec in specs)
    rate = float(line.split(" samples/s")[0].split()[-1].replace(",", ""))
    assert 0 < rate <= 4 * 8 / 0.05, "four steps of eight samples"
    assert float(line.split(" MiB")[0].split()[-1].replace(",", "")) > 10


def test_operations_are_six_for_every_weight_token_and_step(made):
    # 3072 weights in the matrices, 12 numbers of width 16; 8 samples of 4 tokens, 30 steps.
    by_hand = 6 * (3072 + 192) * 8 * 4 * 30
    assert ex._operations(made[1][0].spec) == by_hand
    assert ex._operations({**made[2][0].spec, "batch": 8, "steps": 30}) == by_hand
    assert ex._operations({**spec_of(made[2][0], "subnetwork"), "batch": 16, "steps": 15}) == by_hand


def test_run_says_whether_the_chunk_was_made(tmp_path, another):
    machine, order = open_machine(tmp_path), []
    release = another(machine, [tiny(5, 0)])
    job = job_that_lets_go_after(9, release, order)
    began = time.monotonic()
    assert jobs.run("thing", [tiny(5, 0)], machine, job, None, False) is False
    assert time.monotonic() - began < 5
    assert order == []
    assert jobs.run("thing", [tiny(5, 1)], machine, job, None, False) is True
    release.set()
    assert jobs.run("thing", [tiny(5, 0)], machine, job, None, True) is True
    assert order == [1, 0]


def test_timeout_inside_a_training_is_not_taken_for_a_lock(tmp_path):
    def job(specs, machine, progress):
        raise TimeoutError("the file server does not answer")

    with pytest.raises(TimeoutError, match="file server"):
        ex._make("thing", [tiny(5, 0)], open_machine(tmp_path), job)


def test_interrupted_stage_keeps_what_was_finished(made, tmp_path, monkeypatch):
    machine = open_machine(tmp_path, stack=1)
    plain, calls = ex._train_bases, []

    def once(specs, *rest):
        calls.append([spec["seed"] for spec in specs])
        if len(calls) == 2:
            raise KeyboardInterrupt
        plain(specs, *rest)

    monkeypatch.setattr(ex, "_train_bases", once)
    with pytest.raises(KeyboardInterrupt):
        ex.base_models(machine, [0, 1], **BASE)
    bases = ex.base_models(machine, [0, 1], **BASE)
    assert calls == [[0], [1], [1]]
    for one, other in zip(bases, made[1], strict=True):
        assert all(torch.equal(one.params[name], other.params[name]) for name in one.params)


@pytest.mark.parametrize("stage", ["_train_bases", "_find_subnetworks", "_train_transfers"])
def test_stage_that_was_killed_goes_on_from_its_checkpoint_to_the_same_bits(made, tmp_path, monkeypatch, stage):
    defaults = {**training.train.__kwdefaults__, "checkpoint_seconds": 0.0}
    monkeypatch.setattr(training.train, "__kwdefaults__", defaults)
    machine, plain, told, begun = open_machine(tmp_path), getattr(ex, stage), [], []

    def killed(specs, machine, progress):
        def stop(count):
            told.append(count)
            if len(told) == 7:  # the first call says how many were taken before
                raise KeyboardInterrupt

        plain(specs, machine, stop)

    monkeypatch.setattr(ex, stage, killed)
    with pytest.raises(KeyboardInterrupt):
        chain(machine)
    assert len(list(tmp_path.rglob("*.checkpoint"))) == 1
    monkeypatch.setattr(ex, stage, lambda specs, machine, progress: plain(specs, machine, begun.append))
    assert_same(chain(machine), made[1:])
    assert max(begun) == sum(told[:-1]), "it went on from its checkpoint"
    assert not list(tmp_path.rglob("*.checkpoint"))


def test_base_model_that_reaches_its_target_stops(tmp_path):
    (base,) = ex.base_models(open_machine(tmp_path), [0], **{**BASE, "target": 0.0})
    assert base.meta["steps_taken"] == 10
    assert base.history.step.tolist() == [10]


def test_base_model_that_has_not_learned_by_the_limit_is_left_out(made, tmp_path):
    machine = open_machine(tmp_path)
    every = ex.base_models(machine, [0, 1, 2], **BASE)
    early = {base.spec["seed"]: base.history.accuracy[1] for base in every}  # after 20 of 30 steps
    assert len(set(early.values())) > 1, "the test needs seeds that differ"
    best = max(early.values())
    kept = ex.base_models(machine, [0, 1, 2], **{**BASE, "limit": 20, "target": best})
    reached = [base.spec["seed"] for base in every if base.history.accuracy[:2].max() >= best]
    assert [base.spec["seed"] for base in kept] == reached
    assert 0 < len(kept) < 3
    assert all(base.meta["steps_taken"] <= 20 for base in kept)
    with pytest.raises(RuntimeError, match=r"no base model of the seeds \[0\] reached target = 1.1 within limit = 20"):
        ex.base_models(machine, [0], **{**BASE, "limit": 20, "target": 1.1})
    assert len(ex.base_models(machine, [0], **{**BASE, "limit": 20, "target": None})) == 1


def test_checkpoint_of_other_code_is_not_resumed(tmp_path, monkeypatch):
    machine = open_machine(tmp_path)
    before = jobs.checkpoint("base", [{"seed": 0}], machine)
    assert jobs.checkpoint("base", [{"seed": 0}], machine) == before
    assert jobs.checkpoint("base", [{"seed": 1}], machine) != before
    monkeypatch.setattr("companion.lab.store.code_fingerprint", lambda: "other")
    assert jobs.checkpoint("base", [{"seed": 0}], machine) != before


def test_numbers_too_small_for_full_speed_become_zero_while_a_stack_trains():
    tiny = torch.full((16,), 1e-30)
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot")
    with jobs.one_thread("cpu"):
        assert (tiny * 1e-10).count_nonzero() == 0
    assert (tiny * 1e-10).count_nonzero() == 16
    with jobs.one_thread("cuda"):
        assert (tiny * 1e-10).count_nonzero() == 16


def test_worker_whose_parent_is_gone_before_it_begins_leaves_at_once(monkeypatch):
    left = []

    def leave(code):
        left.append(code)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit):
        jobs.leave_with_parent(os.getppid() + 1)
    assert left == [1]
    asked = []
    monkeypatch.setattr(jobs, "leave_with_parent", asked.append)
    monkeypatch.setattr(jobs, "keep_freed_memory", lambda: None)
    threads, interrupt = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    jobs._start_worker(None, 1234)
    torch.set_num_threads(threads)
    assert signal.signal(signal.SIGINT, interrupt) == signal.SIG_IGN, "Ctrl-C is for the parent, which ends its workers"
    time.sleep(0.1)
    assert asked == [1234], "the parent's own word, not who is the parent by now"


def test_workers_leave_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, time, companion.lab.make as jobs\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, context, jobs._start_worker, (context.Value('q', 0), os.getpid()))\n"
        "    print(pool.submit(os.getpid).result(), flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")
