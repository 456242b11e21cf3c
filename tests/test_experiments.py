import itertools
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from sicore import experiments as ex
from sicore.arithmetic import Computation
from sicore.masking import parameter_groups
from sicore.models import gpt2
from sicore.seeding import derive
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


def assert_same_runs(left, right):
    """Equal in all but the time that they took."""
    pd.testing.assert_frame_equal(left.drop(columns="seconds"), right.drop(columns="seconds"))


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


@pytest.fixture
def untrained(tmp_path, monkeypatch):
    """A machine on which the first step of any training fails."""

    def refuse(*args, **settings):
        raise AssertionError("training began")

    monkeypatch.setattr("sicore.arithmetic.stacked_gpt2", refuse)
    return open_machine(tmp_path, stack=1)


@pytest.fixture
def untrained_with_sources(untrained, made):
    for kind in ("base", "subnetwork"):
        shutil.copytree(made[0].store.root / kind, untrained.store.root / kind)
    return untrained


def spec_of(found, condition, n=6, **changes):
    settings = {
        "computation": "a^2 + ab", "ambiguous": 12, "validation_pairs": 20, "test_pairs": 20,
        "inherit": ["embeddings", "norms", "biases"], "freeze": True,
    }  # fmt: skip
    return {**settings, "condition": condition, "n_disambiguation": n, "source": found.spec, **changes}


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
    left = {path.suffix for path in made[0].store.root.rglob("*") if path.is_file()}
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


def test_results_do_not_depend_on_the_number_of_processes(made, tmp_path):
    machine, _, found, table = made
    for kind in ("base", "subnetwork"):
        shutil.copytree(machine.store.root / kind, tmp_path / kind)
    conditions = ["subnetwork", "full_model"]
    other = ex.transfers(open_machine(tmp_path, workers=2), found, **{**MOVE, "conditions": conditions})
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


def test_every_seed_has_pairs_and_weights_of_its_own(made):
    machine, bases, found, _ = made
    for pairs in (ex._base_pairs, ex._subtask_pairs):
        of_seed = [pairs(one.spec) for one in (bases if pairs is ex._base_pairs else found)]
        assert not any(torch.equal(a, b) for a, b in zip(*of_seed, strict=True))
    initial = [dict(ex._build(base.spec, seed=derive(base.spec["seed"], "base")).named_parameters()) for base in bases]
    fresh = [ex._start(spec_of(one, "random_initialisation"), machine)[0].params for one in found]
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
    conditions = [name for name in ex.MAIN_CONDITIONS if name != "full_model"]
    reference = dict(ex._start(spec_of(found[0], "random_initialisation"), machine)[0].params)
    pairs = ex._transfer_pairs(spec_of(found[0], "random_initialisation"))
    for condition in conditions:
        begin, _ = ex._start(spec_of(found[0], condition), machine)
        for name, mask in begin.frozen.items():
            assert torch.equal(begin.params[name][~mask], reference[name][~mask])
        assert all(map(torch.equal, ex._transfer_pairs(spec_of(found[0], condition)), pairs))
    other = ex._start(spec_of(found[1], "random_initialisation"), machine)[0].params
    assert not torch.equal(other["transformer.wte.weight"], reference["transformer.wte.weight"])


@pytest.mark.parametrize("condition", ex.MAIN_CONDITIONS)
def test_every_condition_starts_as_it_says(made, condition):
    machine, bases, found, table = made
    sub, base = found[0].subnetwork, bases[0].params
    begin, density = ex._start(spec_of(found[0], condition), machine)
    assert density == pytest.approx(sub.density)
    frozen = Subnetwork(begin.frozen, base) if begin.frozen else None
    size = frozen.size if frozen else 0
    unmasked = [name for name in base if name not in sub.masks]
    assert size == {
        "subnetwork": sub.size, "full_model": 0, "inherited_only": 0, "random_initialisation": 0,
        "sampled_as_described": sub.size, "sampled_as_released": sub.total - sub.size,
        "complement_as_described": sub.size, "complement_as_released": sub.total - sub.size,
    }[condition]  # fmt: skip
    for name, mask in begin.frozen.items():
        assert torch.equal(begin.params[name][mask], base[name][mask])
    if condition == "full_model":
        assert all(torch.equal(begin.params[name], base[name]) for name in base)
        assert begin.inherited == sum(tensor.numel() for tensor in base.values())
    elif condition == "random_initialisation":
        assert not any(torch.equal(begin.params[name], base[name]) for name in base)
        assert begin.inherited == 0
    else:
        assert all(torch.equal(begin.params[name], base[name]) for name in unmasked)
        assert begin.inherited == sum(base[name].numel() for name in unmasked)
        same = sum(int((begin.params[name] == base[name]).sum()) for name in sub.masks)
        assert same == size
    if condition == "subnetwork":
        assert frozen == Subnetwork(sub.masks, base)
    if condition == "complement_as_described":
        assert (frozen & Subnetwork(sub.masks, base)).size == 0
    if condition == "complement_as_released":
        assert (frozen & Subnetwork(sub.masks, base)).size == sub.size
    label, _, behaviour = condition.partition("_as_")
    rows = table[
        (table.condition == label) & (table.behaviour == (f"as_{behaviour}" if behaviour else "")) & (table.seed == 0)
    ]
    assert len(rows) == 2
    assert (rows.frozen == size).all()
    assert (rows.inherited == begin.inherited).all()


@pytest.mark.parametrize("condition", ["sampled_as_described", "complement_as_described"])
def test_controls_of_two_seeds_are_independent_draws(made, condition):
    machine, _, found, _ = made
    masks = [ex._start(spec_of(one, condition), machine)[0].frozen for one in found]
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
    begin, _ = ex._start(spec_of(found[0], "subnetwork", inherit=groups), machine)
    fresh = ex._start(spec_of(found[0], "random_initialisation"), machine)[0].params
    kinds = parameter_groups(gpt2(vocab=13, n_layer=1, n_embd=16, n_head=2))
    names = {name for group in groups for name in kinds[group]}
    for name in begin.params.keys() - begin.frozen.keys():
        assert torch.equal(begin.params[name], (bases[0].params if name in names else fresh)[name])
    assert begin.inherited == sum(fresh[name].numel() for name in names)


def test_subnetwork_that_is_not_frozen_starts_from_the_same_weights(made):
    machine, _, found, _ = made
    held, _ = ex._start(spec_of(found[0], "subnetwork"), machine)
    loose, _ = ex._start(spec_of(found[0], "subnetwork", freeze=False), machine)
    assert loose.frozen == {}
    assert all(torch.equal(held.params[name], loose.params[name]) for name in held.params)


def test_missing_source_is_named(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="seed 0 has gone from the store"):
        ex._start(spec_of(made[2][0], "subnetwork"), open_machine(tmp_path))


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
        ({"validation_pairs": 100, "test_pairs": 100}, "only 0 pairs|200"),
        ({"dropout": -0.5}, "dropout = -0.5"),
    ],
)
def test_setting_of_a_transfer_is_refused_before_training(untrained_with_sources, made, settings, message):
    with pytest.raises(ValueError, match=message):
        ex.transfers(untrained_with_sources, made[2], **{**MOVE, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda:77"}, "device = 'cuda:77' is not available; this machine has cpu"),
        ({"workers": -1}, "workers = -1"),
        ({"stack": 0}, "stack = 0"),
    ],
)
def test_machine_that_is_not_there_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        open_machine(tmp_path, **settings)


def test_store_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/store"):
        open_machine(tmp_path / "file" / "store")


@pytest.mark.parametrize(("count", "stack", "workers"), [(1, 8, 1), (7, 8, 2), (20, 8, 1), (20, 3, 4), (5, 1, 2)])
def test_chunks_hold_every_run_once_and_no_more_than_a_stack(tmp_path, count, stack, workers):
    machine = open_machine(tmp_path, stack=stack, workers=workers)
    specs = [{"steps": 5, "seed": seed} for seed in range(count)]
    chunks = ex._chunks(specs, machine)
    assert sorted(spec["seed"] for chunk in chunks for spec in chunk) == list(range(count))
    assert max(map(len, chunks)) <= stack
    assert len(chunks) >= min(workers, count)


def test_chunks_never_mix_what_cannot_train_together(tmp_path):
    specs = [{"steps": steps, "base": {"seed": seed, "n_layer": 1}} for seed in range(4) for steps in (5, 6)]
    chunks = ex._chunks(specs, open_machine(tmp_path))
    assert all(len({spec["steps"] for spec in chunk}) == 1 for chunk in chunks)
    assert sum(map(len, chunks)) == 8


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


def test_base_model_that_reaches_its_target_stops(tmp_path):
    (base,) = ex.base_models(open_machine(tmp_path), [0], **{**BASE, "target": 0.0})
    assert base.meta["steps_taken"] == 10
    assert base.history.step.tolist() == [10]


def test_checkpoint_of_other_code_is_not_resumed(tmp_path, monkeypatch):
    machine = open_machine(tmp_path)
    before = ex._checkpoint("base", [{"seed": 0}], machine)
    assert ex._checkpoint("base", [{"seed": 0}], machine) == before
    assert ex._checkpoint("base", [{"seed": 1}], machine) != before
    monkeypatch.setattr("sicore.store.code_fingerprint", lambda: "other")
    assert ex._checkpoint("base", [{"seed": 0}], machine) != before


def test_workers_leave_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, time, sicore.experiments as ex\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, context, ex._start_worker, (context.Value('q', 0),))\n"
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
