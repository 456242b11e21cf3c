import dataclasses
import functools
import itertools
import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch

from companion.arithmetic import stages as ex
from companion.arithmetic import starts
from companion.arithmetic.gpt2 import gpt2
from companion.arithmetic.task import Computation, ambiguous_pairs, split_pairs, unambiguous_pairs
from companion.lab import make as jobs
from sicore.files import canonical_json
from sicore.masking import parameter_groups
from sicore.seeding import derive, generator
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


CONDITIONS = [name for name, one in starts.CONDITIONS.items() if not one.complete]
"""Those that any subnetwork allows."""


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
    return jobs.chunks_of([spec.json() for spec in specs], machine, ex.COST)


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
    return machine, ex.transfers(machine, made[2], **MOVE, conditions=CONDITIONS)


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


def specs_of(found, **settings):
    """The specs of the runs that :func:`companion.arithmetic.stages.transfers` reads or makes."""
    return [spec for _, spec in ex.planned([one.spec for one in found], **{**MOVE, **settings})]


def spec_of(found, condition, n=6, **settings):
    (spec,) = specs_of([found], conditions=[condition], n_disambiguation=[n], **settings)
    return spec


def start_of(found, condition, machine, **settings):
    ((begin, density),) = ex.starts_of([spec_of(found, condition, **settings)], machine)
    assert density == found.subnetwork.density
    return begin


def fresh_of(found, *draw):
    """A new network's parameters, as the transfers of this seed should have them."""
    return dict(found.spec.base.build(seed=derive(found.seed, "transfer", *draw)).named_parameters())


def test_chain_gives_a_row_for_every_condition_seed_and_number_of_samples(made):
    _, bases, found, table = made
    assert [base.seed for base in bases] == [0, 1]
    assert len(found) == 2
    assert len(table) == len(starts.MAIN) * 2 * 2
    names = table.condition + table.behaviour.map(lambda text: f"_{text}" if text else "")
    assert set(names) == set(starts.MAIN)
    rows = set(zip(names, table.seed, table.n_disambiguation, strict=True))
    assert rows == {(name, seed, n) for name in starts.MAIN for seed in (0, 1) for n in (0, 6)}
    shares = table[[name for name in table.columns if name.startswith("agrees ")]]
    assert list(shares.columns) == ["agrees a^2 + ab", "agrees 2a^2", "agrees 2b^2", "agrees other"]
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0] * len(table))
    assert table.best_step.isin([4, 8, 12]).all()
    assert table.start.tolist() == [name for name in starts.MAIN for _ in range(4)]
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

    monkeypatch.setattr(ex, "COST", dataclasses.replace(ex.COST, operations=lambda spec: 1e15))
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
    answers = Computation.parse(computation)(pairs[:, 0], pairs[:, 1], base.p)
    return float((net(inputs).logits[:, -1].argmax(-1) == answers).float().mean())


def test_reported_accuracies_are_those_of_hugging_face_models_on_the_test_pairs(made):
    for base, one in zip(made[1], made[2], strict=True):
        test = base.spec.split()[2]
        assert base.meta["test_accuracy"] == pytest.approx(
            hugging_face_accuracy(base.params, test, "a + ab", base.spec)
        )
        masks, test = one.subnetwork.masks, one.spec.split()[2]
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
    for sets in (bases[0].spec.split(), found[0].spec.split()):
        train, validation, test = map(as_set, sets)
        assert [len(train), len(validation), len(test)] == [80, 20, 20]
        assert len(train | validation | test) == 120
    train, validation, test = map(as_set, spec_of(found[0], "subnetwork", n=90).split())
    assert [len(train), len(validation), len(test)] == [12 + 90, 20, 20]
    assert len(train | validation | test) == 12 + 90 + 40
    assert all(a != b for a, b in validation | test)


def test_seen_pairs_are_those_that_the_base_or_the_search_was_trained_on(made):
    _, bases, found, table = made
    run, every = spec_of(found[0], "subnetwork"), torch.cartesian_prod(torch.arange(12), torch.arange(12))
    trained_on = as_set(bases[0].spec.split()[0]) | as_set(found[0].spec.split()[0])
    assert as_set(every[run.seen(every)]) == trained_on
    assert 80 < len(trained_on) < 144
    test = as_set(run.split()[2])
    rows = table[table.seed == 0]
    assert (rows.unseen == len(test - trained_on)).all()
    for row in rows.itertuples():  # unseen pairs answered right can be no more than all that were
        assert 0 <= round(row.test_accuracy_unseen * row.unseen) <= round(row.test_accuracy * 20)


def test_every_seed_has_pairs_and_weights_of_its_own(made):
    machine, bases, found, _ = made
    for some in (bases, found):
        of_seed = [one.spec.split() for one in some]
        assert not any(torch.equal(a, b) for a, b in zip(*of_seed, strict=True))
    initial = [dict(base.spec.build(seed=derive(base.seed, "base")).named_parameters()) for base in bases]
    fresh = [start_of(one, "random_initialisation", machine).params for one in found]
    for name in found[0].subnetwork.masks:
        drawn = [tensors[name] for tensors in (*initial, *fresh)]
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_training_sets_of_a_seed_are_nested_and_share_their_evaluation(made):
    found = made[2]
    sets = {n: spec_of(found[0], "subnetwork", n).split() for n in (0, 5, 6, 40, 92)}
    longest, validation, test = sets[92]
    for n, (train, other_validation, other_test) in sets.items():
        assert torch.equal(train, longest[: 12 + n])
        assert torch.equal(other_validation, validation)
        assert torch.equal(other_test, test)
    assert bool((longest[:12, 0] == longest[:12, 1]).all())
    assert bool((longest[12:, 0] != longest[12:, 1]).all())
    other = spec_of(found[1], "subnetwork", 92).split()[0]
    assert not torch.equal(other, longest)


def test_all_conditions_of_a_seed_share_pairs_and_fresh_weights(made):
    machine, _, found, _ = made
    conditions = [name for name in CONDITIONS if name != "full_model"]
    reference = start_of(found[0], "random_initialisation", machine).params
    assert all(torch.equal(tensor, reference[name]) for name, tensor in fresh_of(found[0]).items())
    pairs = spec_of(found[0], "random_initialisation").split()
    for condition in conditions:
        begin = start_of(found[0], condition, machine)
        for name, mask in begin.frozen.items():
            assert torch.equal(begin.params[name][~mask], reference[name][~mask])
        assert all(map(torch.equal, spec_of(found[0], condition).split(), pairs))
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
    assert list(STARTS) == CONDITIONS
    assert tuple(STARTS)[:8] == starts.MAIN


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
    shared = one.overlap(other)[-1]
    expected = shared["by_chance"]
    if condition == "complement_as_described":  # both are drawn outside of something
        outside = (~found[0].subnetwork).overlap(~Subnetwork(found[1].subnetwork.masks, one.weights))[-1]["both"]
        places = [(~sub.subnetwork).size for sub in found]
        expected = one.size / places[0] * other.size / places[1] * outside
    assert shared["both"] == pytest.approx(expected, rel=0.2)


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
    for name in CONDITIONS:
        condition, spec = starts.CONDITIONS[name], spec_of(found[0], name, inherit=["norms"], freeze=False)
        assert spec.inherit == (("norms",) if condition.inherit is None else condition.inherit)
        assert spec.freeze is False  # no condition insists on holding
        plain = spec_of(found[0], name)
        assert plain.inherit == STARTS[name][2]
        assert plain.freeze == STARTS[name][1]


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
        list(ex.starts_of([spec_of(made[2][0], "subnetwork")], with_sources(made, tmp_path, kinds)))


# Stacks


def trained(machine, specs):
    """Final parameters and metadata of transfers that are trained in one stack."""
    plain, results = ex.transfer, []

    def keep(*args, **settings):
        results.append(plain(*args, **settings))
        return results[-1]

    specs = [spec.json() for spec in specs]
    assert len({canonical_json(ex.COST.alike(spec)) for spec in specs}) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ex, "transfer", keep)
        ex._train_transfers(specs, machine, lambda steps: None)
    (result,) = results
    metas = [machine.store.get("transfer", spec)[1] for spec in specs]
    return [(unstack(result.params, k), {**meta, "seconds": 0, "made_by": None}) for k, meta in enumerate(metas)]


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
        assert specs[k].copied == starts.CONDITIONS[condition].copied
        assert_same_training(alone, together[k])


MIXED = [name for name in CONDITIONS if name != "full_model"]


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
    assert len(table) == len(CONDITIONS) * 4
    same = table[table.start.isin(starts.MAIN)].reset_index(drop=True)
    assert_same_runs(same, made[3], check_exact=True)


def test_runs_of_one_length_share_a_stack_whatever_they_start_from(made, whole, tmp_path):
    machine = open_machine(tmp_path, stack=1024)
    found = [*made[2], dataclasses.replace(made[2][0], spec=dataclasses.replace(made[2][0].spec, penalty=1e-3))]
    specs = specs_of(found, conditions=CONDITIONS, draws=(0, 1))
    assert list(map(len, chunks_of(specs, machine))) == [len(CONDITIONS) * 3 * 2 * 2]
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
    return [row["step"] for row in machine.store.get("transfer", spec.json())[1]["history"]]


def test_epochs_give_every_training_set_a_length_of_its_own(made, tmp_path):
    machine, found = with_sources(made, tmp_path), made[2][:1]
    settings = {"conditions": ["subnetwork", "random_initialisation"], "epochs": 5}
    table = ex.transfers(machine, found, **{**MOVE, **settings})
    # 12 samples are 2 steps of 8, 18 samples are 3.
    assert table.n_disambiguation.tolist() == [0, 6, 0, 6]
    assert table.steps.tolist() == [10, 15, 10, 15]
    specs = specs_of(found, **settings)
    assert [(spec.steps, spec.every) for spec in specs] == [(10, 2), (15, 3)] * 2
    histories = [history_steps(machine, spec) for spec in specs]
    assert histories == [[2, 4, 6, 8, 10], [3, 6, 9, 12, 15]] * 2
    chunks = chunks_of(specs, machine)
    assert sorted([spec["n_disambiguation"] for spec in chunk] for chunk in chunks) == [[0, 0], [6, 6]]


@pytest.mark.parametrize(
    ("ambiguous", "n", "batch", "epoch"), [(12, 6, 8, 3), (8, 0, 8, 1), (8, 1, 8, 2), (12, 4, 16, 1), (1, 0, 8, 1)]
)
def test_an_epoch_ends_with_a_batch_that_need_not_be_full(made, ambiguous, n, batch, epoch):
    spec = spec_of(made[2][0], "subnetwork", n, ambiguous=ambiguous, batch=batch, epochs=7)
    assert (spec.steps, spec.every) == (7 * epoch, epoch)


def test_epochs_stand_in_place_of_steps(made):
    found = made[2]
    in_epochs = [specs_of(found, epochs=3, steps=steps, every=every) for steps, every in ((5, 1), (50, 7))]
    assert in_epochs[0] == in_epochs[1]
    assert specs_of(found, epochs=0) == specs_of(found)
    assert {(spec.steps, spec.every) for spec in specs_of(found, epochs=0)} == {(12, 4)}


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
        whole, part = (machine.store.get("transfer", one.json())[1]["history"] for one in (spec, other))
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
        masks, test, source = one.subnetwork.masks, one.spec.split()[2], plainly(base.params)
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


def test_starts_of_a_complete_subnetwork_need_a_complete_search(made, whole):
    named = [name for name, one in starts.CONDITIONS.items() if one.complete]
    assert named == ["complete_subnetwork_alone", "complete_sampled_alone"]
    # They begin as the starts of the same name do, and are the same runs.
    assert specs_of(whole[1], conditions=named) == specs_of(whole[1], conditions=["subnetwork_alone", "sampled_alone"])
    with pytest.raises(ValueError, match="'complete_sampled_alone' needs a search with complete = True, seed 0 has"):
        specs_of(made[2], conditions=["subnetwork", "complete_sampled_alone"])


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
        machine.store.get("transfer", spec.json())[1]["history"]
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
    pairs = [spec_of(found[0], "subnetwork", draws=[draw]).split() for draw in draws]
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
    seeds = {spec.seed for spec in specs_of(found, draws=draws)}  # of dropout and of the samples' order
    assert len(seeds) == 6


def test_pairs_are_drawn_once_and_stay_as_they_are(made):
    _, bases, found, _ = made
    base, spec = bases[0].spec, spec_of(found[0], "subnetwork")
    for again in (lambda: base.split()[0], lambda: spec.split()[1]):
        assert again() is again()
    # After all that was done with them.
    for one, stage in ((base, "base"), (found[0].spec, "discovery")):
        assert all(map(torch.equal, one.split(), split_pairs(12, (80, 20, 20), generator(base.seed, stage, "pairs"))))
    rng = generator(base.seed, "transfer", "pairs")
    ambiguous = ambiguous_pairs(12, 12, rng)
    validation, test, pool = unambiguous_pairs(12, [20, 20, 12 * 11 - 40], rng)
    assert all(map(torch.equal, spec.split(), (torch.cat([ambiguous, pool[:6]]), validation, test)))


# What is said before any training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"computation": "c"}, "computation = 'c'"),
        ({"p": 1}, "p = 1"),
        ({"numbers": 4}, "numbers = 4"),
        ({"dtype": "float16"}, "dtype = 'float16'.*float32, bfloat16"),
        ({"n_head": 3}, "n_embd = 16 is not a multiple of n_head = 3"),
        ({"train_pairs": 120}, "train_pairs = 120, .*: 160 pairs are asked for, only 144 exist"),
        ({"train_pairs": 11}, "train_pairs = 11: covering every number needs at least numbers = 12"),
        ({"steps": 0}, "steps = 0"),
        ({"limit": 31}, "limit = 31: expected 1 to steps = 30"),
        ({"limit": -1}, "limit = -1"),
        ({"patience": -1}, "patience = -1: expected 1 or more evaluations"),
        ({"patience": 1.5}, "patience = 1.5"),
        ({"batch": 0}, "batch = 0"),
        ({"every": 2.5}, "every = 2.5"),
        ({"validation_pairs": 0}, "validation_pairs = 0"),
        ({"test_pairs": 0}, "test_pairs = 0"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"target": 2.0}, "target = 2.0: expected an accuracy, 0 to 1, or None"),
        ({"target": -0.5}, "target = -0.5"),
        ({"n_layer": 0}, "n_layer = 0: expected an integer of 1 or more"),
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


SEARCHES = {
    "family": {"family": "hard_concrete", "lr": 0.2, "density": 0.3},
    "ranking": {"family": "gradient_times_weight", "density": 0.3},
    "transplant": {"redraw": 1, "complete": True},
    "still": {"redraw": 1, "redraw_still": True}, "scaled": {"redraw": 2, "redraw_scale": 2.0},
    "layers": {"redraw": 1, "complete": True, "redraw_only": "transformer.h.*"},
    "completeness": {"completeness": 0.3}, "to base": {"to_base": True}, "dropout": {"dropout": 0.2},
}  # fmt: skip


@pytest.mark.parametrize("changes", SEARCHES.values(), ids=SEARCHES)
def test_every_way_to_search_gives_the_same_alone_and_in_a_stack_and_no_other_one(made, tmp_path, changes):
    bases, settings = made[1], {**FIND, **changes}
    together, alone = (open_machine(tmp_path / name, stack=stack) for name, stack in (("a", 8), ("b", 1)))
    for machine in (together, alone):
        shutil.copytree(made[0].store.root / "base", machine.store.root / "base")
    found, single = (ex.subnetworks(machine, bases, **settings) for machine in (together, alone))
    plain = {name: value for name, value in changes.items() if name == "complete"}
    ordinary = ex.subnetworks(together, bases, **FIND, **plain)
    for one, other, usual in zip(found, single, ordinary, strict=True):
        assert one.subnetwork == other.subnetwork
        assert one.subnetwork.masks.keys() == usual.subnetwork.masks.keys()
        assert one.subnetwork != usual.subnetwork
        if changes.get("family") == "gradient_times_weight":
            assert one.meta["density"] == pytest.approx(0.3, abs=1 / one.subnetwork.total)


def test_searches_of_one_length_share_a_stack_whatever_their_density(made):
    specs = [ex.Search(base=base.spec, **FIND, density=density) for base in made[1] for density in (0.1, 0.4)]
    assert len(chunks_of(specs, open_machine(made[0].store.root, stack=8))) == 1
    by_penalty = ex.Search(base=made[1][0].spec, **FIND)
    assert len(chunks_of([*specs, by_penalty], open_machine(made[0].store.root, stack=8))) == 2


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
        ({"conditions": []}, "conditions is empty: name at least one of subnetwork"),
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
            "validation_pairs = 100, test_pairs = 100: these are more than the 132 pairs with a != b",
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


def tiny(steps, seed, **changes):
    """As much of a base model's spec as is needed to plan its training."""
    return {"steps": steps, "seed": seed, "batch": 8, "p": 5, "numbers": 12, "n_layer": 1, "n_embd": 16, **changes}


@pytest.mark.parametrize(("n_layer", "n_embd", "numbers"), [(1, 16, 12), (2, 128, 1000), (5, 64, 300), (1, 256, 50)])
def test_memory_of_a_model_is_above_that_of_its_parameters(n_layer, n_embd, numbers):
    model = gpt2(vocab=numbers + 1, n_layer=n_layer, n_embd=n_embd, n_head=2)
    count = sum(parameter.numel() for parameter in model.parameters())
    spec = tiny(1, 0, n_layer=n_layer, n_embd=n_embd, numbers=numbers, batch=1)
    assert ex.COST.memory(spec) > 4 * 12 * count


def test_memory_of_a_model_grows_with_all_that_needs_memory(made):
    base = tiny(5, 0)
    more = {"n_layer": 2, "n_embd": 32, "numbers": 24, "batch": 16, "steps": 1000}
    assert all(ex.COST.memory({**base, name: value}) > ex.COST.memory(base) for name, value in more.items())
    assert ex.COST.memory({**base, "all_positions": True}) > ex.COST.memory({**base, "all_positions": False})
    for spec in (
        made[2][0].spec.json(),
        spec_of(made[2][0], "subnetwork").json(),
    ):  # sizes of the model are in the base's spec
        for name in ("batch", "steps"):
            assert ex.COST.memory({**spec, name: 1000}) > ex.COST.memory(spec)
        text = canonical_json(spec)
        for name, value in (("n_layer", 1), ("n_embd", 16), ("numbers", 12)):
            larger = json.loads(text.replace(f'"{name}":{value}', f'"{name}":{2 * value}'))
            assert ex.COST.memory(larger) > ex.COST.memory(spec)


MEMORY = """
import ctypes, gc, re, sys, torch
from pathlib import Path
from companion.arithmetic import stages as ex
from companion.arithmetic.specs import Base, Search

torch.set_num_threads(1)
built = lambda base: dict(base.build(seed=base.seed).named_parameters())
ex._train_bases = lambda specs, machine, progress: [
    machine.store.put("base", spec, built(Base.of(spec)), {"history": []}) for spec in specs
]
ex._find_subnetworks = lambda specs, machine, progress: [
    machine.store.put("subnetwork", spec, {
        name: torch.rand_like(built(Search.of(spec).base)[name]) < 0.3 for name in Search.of(spec).masked()
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
    specs.append((len(chunk), taken("VmHWM") - before, ex.COST.memory(chunk[0])))

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
    assert [machine.store.get("subnetwork", one.spec.json()) is not None for one in made[2]] == [True, False]


def test_operations_are_six_for_every_weight_token_and_step(made):
    # 3072 weights in the matrices, 12 numbers of width 16; 8 samples of 4 tokens, 30 steps.
    by_hand = 6 * (3072 + 192) * 8 * 4 * 30
    source, run = made[2][0].spec, spec_of(made[2][0], "subnetwork")
    assert ex.COST.operations(made[1][0].spec.json()) == by_hand
    assert ex.COST.operations(dataclasses.replace(source, batch=8, steps=30).json()) == by_hand
    assert ex.COST.operations(dataclasses.replace(run, batch=16, steps=15).json()) == by_hand


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
    monkeypatch.setattr(ex, "Resume", functools.partial(ex.Resume, seconds=0.0))
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


def test_bases_and_masks_have_a_row_a_seed_and_little_of_one_that_was_given_up(made):
    bases, found = made[1:3]
    table = ex.bases_and_masks(bases, found, [99, *(base.seed for base in bases)])
    assert table["seed"].tolist() == [*(base.seed for base in bases), 99]
    assert (table["n_layer"] == BASE["n_layer"]).all()
    assert table["base_steps"].tolist()[:-1] == [base.meta["steps_taken"] for base in bases]
    assert table["density"].tolist()[:-1] == [one.subnetwork.density for one in found]
    assert table["subtask_accuracy"].tolist()[:-1] == [one.meta["accuracy"] for one in found]
    assert table.iloc[-1].drop(["seed", "n_layer"]).isna().all()


def test_patience_keeps_the_network_with_the_lowest_validation_loss_and_stops_after_it(tmp_path):
    settings = {**BASE, "steps": 3000, "lr": 2e-2, "train_pairs": 20, "patience": 3, "target": None}
    (base,) = ex.base_models(open_machine(tmp_path), [0], **settings)
    losses = base.history.validation_loss
    assert len(losses) == losses.idxmin() + 4 < 300, "three more evaluations, and no more"
    assert base.history.step.tolist() == [10 * (k + 1) for k in range(len(losses))]
    pairs = base.spec.split()[1]
    answers = pairs[:, 0] * (1 + pairs[:, 1]) % 5
    inputs = torch.cat([pairs, torch.full_like(pairs[:, :1], 12)], dim=1)
    model = base.spec.build(seed=0).eval()
    model.load_state_dict(base.params, strict=False)
    targets = torch.cat([inputs[:, 1:], answers[:, None]], dim=1)
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())
    assert float(expected) == pytest.approx(losses.min(), rel=1e-4)


def test_with_patience_too_a_base_that_has_not_learned_is_left_out(tmp_path):
    settings = {**BASE, "patience": 2}
    with pytest.raises(RuntimeError, match=r"target = 1.0 within 30 steps with patience = 2"):
        ex.base_models(open_machine(tmp_path), [0], **settings, target=1.0)
    assert len(ex.base_models(open_machine(tmp_path), [0], **settings, target=0.0)) == 1


def test_base_model_that_has_not_learned_by_the_limit_is_left_out(made, tmp_path):
    machine = open_machine(tmp_path)
    every = ex.base_models(machine, [0, 1, 2], **BASE)
    early = {base.seed: base.history.accuracy[1] for base in every}  # after 20 of 30 steps
    assert len(set(early.values())) > 1, "the test needs seeds that differ"
    best = max(early.values())
    kept = ex.base_models(machine, [0, 1, 2], **{**BASE, "limit": 20, "target": best})
    reached = [base.seed for base in every if base.history.accuracy[:2].max() >= best]
    assert [base.seed for base in kept] == reached
    assert 0 < len(kept) < 3
    assert all(base.meta["steps_taken"] <= 20 for base in kept)
    with pytest.raises(RuntimeError, match=r"no base model of the seeds \[0\] reached target = 1.0 within limit = 20"):
        ex.base_models(machine, [0], **{**BASE, "limit": 20, "target": 1.0})
    assert len(ex.base_models(machine, [0], **{**BASE, "limit": 20, "target": None})) == 1
