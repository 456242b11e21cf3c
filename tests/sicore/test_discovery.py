import itertools
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import sicore as si
from companion.arithmetic import task as ar
from companion.arithmetic.gpt2 import gpt2

pytestmark = pytest.mark.filterwarnings("ignore:the mask of model")  # most searches here are a few steps long

# A linear network with two inputs, of which only the first is ever on: y = w . x, wanted 3 * x[0].
SOURCE = {"w": torch.tensor([[3.0, 5.0]]), "shift": torch.tensor([[0.0]])}


def linear_losses(params, context, batch, step):
    inputs, targets = batch  # [k, B, 2], [k, B]
    outputs = (params["w"][:, None] * inputs).sum(-1) + params["shift"]
    return (outputs - targets).square().mean(1)


def linear_batches(step, active):
    on = torch.randn(16, generator=torch.Generator().manual_seed(step)).expand(len(active), 16)
    return torch.stack([on, torch.zeros_like(on)], -1), 3 * on


def linear(K=1, *, batches=linear_batches, stages=20, final=100.0, initial_logit=-0.1, skip=False, **settings):
    source = {name: tensor.repeat(K, 1) for name, tensor in SOURCE.items()}
    family = si.ContinuousSparsification(stages=stages, final=final, initial_logit=initial_logit, skip=skip)
    settings = {"steps": 200, "lr": 0.05, "penalty": 1e-2, "family": family, **settings}
    return si.discover(linear_losses, source, ["w"], batches, **settings)


def search(ids, penalty, *, names=None, **settings):
    nets = [gpt2(vocab=13, n_layer=1, n_embd=16, n_head=2, seed=seed) for seed in ids]
    data = ar.samples(
        [ar.all_pairs(12) for _ in ids], ar.Computation.parse("ab"), p=5, numbers=12, batch=8, steps=40,
        generators=[torch.Generator().manual_seed(seed) for seed in ids],
    )  # fmt: skip
    names = si.maskable(nets[0], "transformer.h.*") if names is None else names
    settings = {"steps": 20, "lr": 0.05, "family": si.ContinuousSparsification(stages=5), "every": 5, **settings}
    return si.discover(ar.losses(n_head=2), si.stack(nets), names, data, penalty=penalty, **settings)


# Random networks y = (w . x) u of two layers, K of them.


def two_layers(rng, K=3):
    # Sizes of 16: the optimiser's kernel rounds the end of a tensor that fills no vector in another way.
    source = {"w": torch.randn(K, 4, 16, generator=rng), "u": torch.randn(K, 16, generator=rng)}
    x, y = torch.randn(K, 32, 4, generator=rng), torch.randn(K, 32, generator=rng)
    return source, lambda step, active: (x[active], y[active])


def two_layer_losses(params, context, batch, step):
    x, y = batch
    hidden = torch.tanh(x.to(params["w"].dtype) @ params["w"])
    return ((hidden * params["u"][:, None]).sum(-1).float() - y).square().mean(1)


@pytest.mark.parametrize("settings", [{}, {"clip": 0.05}, {"weight_decay": 0.3}, {"run": si.Run(pieces=2)}])
def test_a_search_is_what_a_plain_loop_over_the_formula_finds(rng, settings):
    steps, penalty, family = 30, [0.0, 0.003, 0.05], si.ContinuousSparsification(stages=5, final=16.0)
    source, batches = two_layers(rng)
    masks, trained = si.discover(
        two_layer_losses, source, ["w", "u"], batches, steps=steps, lr=0.05, penalty=penalty, family=family, every=1,
        **settings,
    )  # fmt: skip
    for k in range(3):
        logits = {name: torch.full_like(tensor[k], -0.1, requires_grad=True) for name, tensor in source.items()}
        decay = settings.get("weight_decay", 0.0)
        optimizer, values = torch.optim.AdamW(logits.values(), lr=0.05, weight_decay=decay), []
        for step in range(steps):
            soft = {name: torch.sigmoid(family.schedule(step, steps) * tensor) for name, tensor in logits.items()}
            effective = {name: (source[name][k] * soft[name])[None] for name in soft}
            task = two_layer_losses(effective, {}, batches(step, torch.tensor([k])), step).sum()
            optimizer.zero_grad()
            (task + penalty[k] * sum(tensor.sum() for tensor in soft.values())).backward()
            if "clip" in settings:
                nn.utils.clip_grad_norm_(logits.values(), settings["clip"])
            optimizer.step()
            values.append(task.item())
        rows = [row for row in trained.history if row["model"] == k]
        assert [row["loss"] for row in rows] == pytest.approx(values, abs=1e-4)
        for name, tensor in logits.items():
            torch.testing.assert_close(trained.params[name][k], tensor.detach(), atol=2e-4, rtol=0)
            sure = tensor.abs() > 1e-3
            assert torch.equal(masks[name][k][sure], (tensor > 0)[sure])


def test_a_search_in_bfloat16_begins_near_the_one_in_float32(rng):
    source, batches = two_layers(rng)
    seen = []

    def losses(params, context, batch, step):
        seen.append(params["w"].dtype)
        return two_layer_losses(params, context, batch, step)

    exact, rough = (
        si.discover(losses, source, ["w"], batches, steps=1, lr=0.05, penalty=[0.0, 0.01, 1.0], dtype=dtype)[1]
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert seen == [torch.float32, torch.bfloat16]
    assert rough.params["w"].dtype == torch.float32
    for one, other in zip(exact.history, rough.history, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.05)
    # The first step of Adam goes by the gradient's sign.
    assert float((exact.params["w"] - rough.params["w"]).abs().gt(1e-3).float().mean()) < 0.05


def test_weight_that_matters_is_kept_and_useless_one_dropped():
    masks, _ = linear()
    assert masks["w"].tolist() == [[True, False]]


def test_large_penalty_gives_the_empty_mask():
    assert linear(penalty=1e4)[0]["w"].tolist() == [[False, False]]


def messages(**settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks, trained = linear(**settings)
    return masks["w"], trained, [str(one.message) for one in caught]


def test_a_mask_that_collapses_is_said_with_what_to_change_and_seen_in_the_history():
    mask, trained, said = messages(K=3, penalty=[100.0, 1e-2, 0.0], initial_logit=0.1)
    assert mask.tolist() == [[False, False], [True, False], [True, True]]
    assert len(said) == 2
    assert said[0].startswith(
        "the mask of model 0 is empty: no weight was kept (penalty = 100, lr = 0.05, steps = 200)"
    )
    assert "lower it" in said[0]
    assert said[1].startswith("the mask of model 2 is full: every weight was kept (penalty = 0,")
    assert "raise it" in said[1]
    ends = {row["model"]: row["density"] for row in trained.history}
    assert ends == {0: 0.0, 1: 0.5, 2: 1.0}


def test_logits_that_start_below_zero_and_are_not_moved_are_an_empty_mask_that_is_said():
    mask, _, said = messages(steps=2, lr=1e-4, penalty=0.0)
    assert not mask.any()
    assert len(said) == 1
    assert "start below 0 never rose above it: take more steps, a larger lr, or a higher initial logit" in said[0]


def test_without_penalty_a_useless_weight_keeps_its_initial_side():
    assert linear(penalty=0.0)[0]["w"].tolist() == [[True, False]]
    assert linear(penalty=0.0, initial_logit=0.1)[0]["w"].tolist() == [[True, True]]


def test_penalties_of_one_call_are_separate_searches():
    masks, trained = linear(K=3, penalty=[1e-2, 1e4, 0.0], initial_logit=0.1, every=50)
    assert masks["w"].tolist() == [[True, False], [False, False], [True, True]]
    for k, penalty in enumerate([1e-2, 1e4, 0.0]):
        alone, history = linear(penalty=penalty, initial_logit=0.1, every=50)
        assert alone["w"][0].tolist() == masks["w"][k].tolist()
        rows = [row["soft_mean"] for row in trained.history if row["model"] == k]
        assert [row["soft_mean"] for row in history.history] == pytest.approx(rows, abs=1e-6)


def test_search_in_a_stack_equals_the_single_search_bit_for_bit():
    penalties = [1e-6, 1e-3, 1e-2]
    masks, together = search([0, 1, 0], penalties)
    for k, seed in enumerate([0, 1, 0]):
        alone, trained = search([seed], penalties[k])
        assert all(torch.equal(alone[name][0], masks[name][k]) for name in masks)
        assert all(torch.equal(trained.params[name][0], together.params[name][k]) for name in masks)
    assert not all(torch.equal(masks[name][0], masks[name][2]) for name in masks)


def test_source_is_left_alone_bit_for_bit():
    source = {name: tensor.clone().requires_grad_() for name, tensor in SOURCE.items()}
    si.discover(linear_losses, source, ["w"], linear_batches, steps=5, lr=0.1, weight_decay=0.5)
    assert all(torch.equal(source[name], SOURCE[name]) for name in SOURCE)
    assert all(tensor.grad is None for tensor in source.values())


def test_network_sees_source_times_soft_mask_and_unmasked_tensors_as_they_are():
    seen = []

    def losses(params, context, batch, step):
        seen.append({name: tensor.detach().clone() for name, tensor in params.items()})
        return params["w"].square().sum(1)

    source = {"w": torch.tensor([[3.0, -5.0]]), "rest": torch.tensor([[7.0]])}
    family = si.ContinuousSparsification(initial_logit=0.4)
    si.discover(losses, source, ["w"], lambda s, a: None, steps=1, lr=0.1, family=family)
    share = 1 / (1 + math.exp(-0.4))
    assert seen[0]["w"][0].tolist() == pytest.approx([3 * share, -5 * share])
    assert seen[0].keys() == {"w", "rest"}
    assert torch.equal(seen[0]["rest"], source["rest"])


def test_history_has_the_documented_columns():
    _, trained = linear(steps=20, every=10)
    columns = {"model", "step", "loss", "density", "soft_mean", "temperature"}
    assert all(set(row) == columns for row in trained.history)
    assert [row["step"] for row in trained.history] == [10, 20]
    _, trained = linear(steps=20, every=10, accuracy=lambda params, active: torch.zeros(len(active)))
    assert all(set(row) == columns | {"accuracy", "soft_accuracy"} for row in trained.history)


def test_loss_in_the_history_is_that_of_the_task_by_hand():
    # Before the first step w * sigmoid(-0.1) stands against 3.
    batch = linear_batches(0, torch.arange(1))
    share = 1 / (1 + math.exp(0.1))
    task = float(((3 * share * batch[0][0, :, 0] - batch[1][0]) ** 2).mean())
    _, trained = linear(steps=1, every=1, penalty=0.5)
    assert trained.history[0]["loss"] == pytest.approx(task, rel=1e-5)


def test_temperatures_in_the_history_follow_the_schedule():
    for skip in (False, True):
        _, trained = linear(steps=20, every=4, stages=5, final=16.0, skip=skip)
        expected = [1, 4, 8, 16, 32] if skip else [1, 2, 4, 8, 16]
        assert [row["temperature"] for row in trained.history] == pytest.approx(expected)


def test_last_density_is_that_of_the_returned_masks_and_masks_are_the_positive_logits():
    masks, trained = search([0, 1], 1e-6)
    total = sum(mask[0].numel() for mask in masks.values())
    for k in range(2):
        size = sum(int(mask[k].sum()) for mask in masks.values())
        assert 0 < size < total
        last = [row for row in trained.history if row["model"] == k][-1]
        assert last["density"] == pytest.approx(size / total, abs=1e-6)
    assert all(torch.equal(masks[name], trained.params[name] > 0) for name in masks)
    assert all(mask.dtype == torch.bool for mask in masks.values())


def test_accuracy_is_asked_for_the_hard_and_the_soft_network():
    accuracy = lambda params, active: params["w"].sum(1)  # noqa: E731
    _, trained = linear(accuracy=accuracy, every=200)
    (row,) = trained.history
    assert row["accuracy"] == 3.0
    logits = trained.params["w"][0]
    soft = (torch.sigmoid(row["temperature"] * logits) * SOURCE["w"][0]).sum()
    assert row["soft_accuracy"] == pytest.approx(float(soft), abs=1e-5)


def test_only_the_named_parameters_are_masked():
    name = "transformer.h.0.mlp.c_fc.weight"
    masks, trained = search([0], 1e-3, names=[name])
    assert set(masks) == set(trained.params) == {name}
    assert masks[name].shape == (1, 16, 64)


def test_interrupted_search_resumes_to_the_same_bits(tmp_path, monkeypatch):
    expected, whole = linear(every=50)
    path = tmp_path / "search.checkpoint"
    clock = itertools.count(0, 1000)  # every look at it is long after the one before
    monkeypatch.setattr("sicore.training.time", SimpleNamespace(monotonic=lambda: next(clock)))
    settings = {"every": 50, "resume": si.Resume(path)}

    def broken(step, active):
        if step == 120:
            raise KeyboardInterrupt
        return linear_batches(step, active)

    with pytest.raises(KeyboardInterrupt):
        linear(batches=broken, **settings)
    assert path.is_file()
    masks, resumed = linear(**settings)
    assert torch.equal(masks["w"], expected["w"])
    assert torch.equal(resumed.params["w"], whole.params["w"])
    assert resumed.history == whole.history
    assert not path.exists()


@pytest.mark.parametrize("names", [["v"], ["w", "v"], [], "v"])
def test_name_that_the_source_does_not_have_is_an_error_that_lists_what_it_has(names):
    with pytest.raises(ValueError, match=r"it has w, shift") as error:
        si.discover(linear_losses, SOURCE, names, linear_batches, steps=3)
    assert ("v" if names else "none was named") in str(error.value)


@pytest.mark.parametrize("penalty", [-1.0, math.nan, math.inf, [0.1, -0.1]])
def test_penalty_out_of_range_is_an_error(penalty):
    source = {name: tensor.repeat(2, 1) for name, tensor in SOURCE.items()}
    with pytest.raises(ValueError, match="penalty = "):
        si.discover(linear_losses, source, ["w"], linear_batches, steps=3, penalty=penalty)


def test_penalties_for_another_number_of_searches_are_an_error_with_both_numbers():
    source = {name: tensor.repeat(2, 1) for name, tensor in SOURCE.items()}
    with pytest.raises(ValueError, match=r"penalty.*3.*2"):
        si.discover(linear_losses, source, ["w"], linear_batches, steps=3, penalty=[0.1, 0.2, 0.3])


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("lr", 0.0), ("every", 0), ("weight_decay", -1.0)])
def test_setting_out_of_range_is_named_before_the_search(name, value):
    calls = []
    with pytest.raises(ValueError, match=f"{name} = {value!r}"):
        si.discover(linear_losses, SOURCE, ["w"], lambda s, a: calls.append(s), **{"steps": 3, name: value})
    assert calls == []


def test_one_name_need_not_be_in_a_list():
    one, other = (
        si.discover(linear_losses, SOURCE, names, linear_batches, steps=5, lr=0.1)[1] for names in ("w", ["w"])
    )
    assert torch.equal(one.params["w"], other.params["w"])


def test_single_numbers_can_be_masked():
    losses = lambda params, context, batch, step: (params["w"] - 3) ** 2  # noqa: E731
    source = {"w": torch.tensor([3.0, 3.0])}  # two models of one number each
    masks, trained = si.discover(
        losses, source, "w", lambda s, a: None, steps=50, lr=0.1, penalty=[0.0, 100.0], every=50
    )
    assert masks["w"].tolist() == [True, False]
    assert [row["density"] for row in trained.history] == [1.0, 0.0]


def test_a_tensor_that_the_loss_does_not_use_is_masked_away():
    source = SOURCE | {"idle": torch.ones(1, 3)}
    family = si.ContinuousSparsification(initial_logit=0.1)
    masks, _ = si.discover(
        linear_losses, source, ["w", "idle"], linear_batches, steps=50, lr=0.05, penalty=1e-2, family=family
    )
    assert masks["idle"].tolist() == [[False] * 3]


# What stands outside of the mask


def test_a_mask_does_not_matter_where_the_source_itself_stands_outside():
    outside = lambda step, active: {"w": SOURCE["w"][active]}  # noqa: E731
    _, trained = linear(penalty=0.0, outside=outside, every=1)
    assert all(row["loss"] == pytest.approx(0, abs=1e-10) for row in trained.history)
    assert torch.allclose(trained.params["w"], torch.tensor(-0.1), atol=1e-6), "and the logits stay where they were"
    assert linear(penalty=1e-2, outside=outside)[0]["w"].tolist() == [[False, False]], "so any penalty empties it"


def test_zeros_outside_are_the_default_to_the_bit():
    masks, trained = search([0, 1], 1e-4)
    model = dict(gpt2(vocab=13, n_layer=1, n_embd=16, n_head=2, seed=0).named_parameters())
    zeros = lambda step, active: {name: torch.zeros(len(active), *model[name].shape) for name in masks}  # noqa: E731
    again, other = search([0, 1], 1e-4, outside=zeros)
    assert all(torch.equal(tensor, other.params[name]) for name, tensor in trained.params.items())
    assert all(torch.equal(mask, again[name]) for name, mask in masks.items())
    assert trained.history == other.history


def test_what_stands_outside_enters_the_network_by_hand():
    seen = []

    def losses(params, context, batch, step):
        seen.append(params["w"].detach().clone())
        return params["w"].square().sum(1)

    outside = lambda step, active: {"w": torch.tensor([[10.0, 20.0 + step]])[active]}  # noqa: E731
    family = si.ContinuousSparsification(initial_logit=0.4, final=2.0, stages=2)
    si.discover(losses, SOURCE, ["w"], lambda s, a: None, steps=2, lr=1e-9, family=family, outside=outside)
    for step, T in enumerate((1, 2)):
        share = 1 / (1 + math.exp(-0.4 * T))
        expected = [3 * share + 10 * (1 - share), 5 * share + (20 + step) * (1 - share)]
        assert seen[step][0].tolist() == pytest.approx(expected, rel=1e-5)


def test_outside_may_leave_masked_names_out_but_names_no_others():
    quiet = linear(steps=5, outside=lambda step, active: {})[1]
    assert torch.equal(quiet.params["w"], linear(steps=5)[1].params["w"])
    with pytest.raises(ValueError, match=r"outside gives shift, which is not masked; masked are w"):
        linear(steps=5, outside=lambda step, active: {"shift": torch.zeros(1, 1)})
