import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from companion.arithmetic import task as ar
from companion.arithmetic.gpt2 import gpt2
from sicore.discovery import _Masked, discover
from sicore.masking import maskable, temperature
from sicore.stacks import stack

# A linear network with two inputs, of which only the first is ever on: y = w . x, wanted 3 * x[0].
SOURCE = {"w": torch.tensor([[3.0, 5.0]]), "shift": torch.tensor([[0.0]])}


def linear_losses(params, context, batch, step):
    inputs, targets = batch  # [k, B, 2], [k, B]
    outputs = (params["w"][:, None] * inputs).sum(-1) + params["shift"]
    return (outputs - targets).square().mean(1)


def linear_batches(step, active):
    on = torch.randn(16, generator=torch.Generator().manual_seed(step)).expand(len(active), 16)
    return torch.stack([on, torch.zeros_like(on)], -1), 3 * on


def linear(K=1, **settings):
    source = {name: tensor.repeat(K, 1) for name, tensor in SOURCE.items()}
    settings = {"steps": 200, "lr": 0.05, "penalty": 1e-2, "stages": 20, **settings}
    return discover(linear_losses, source, ["w"], linear_batches, **settings)


def search(ids, penalty, *, names=None, **settings):
    nets = [gpt2(vocab=13, n_layer=1, n_embd=16, n_head=2, seed=seed) for seed in ids]
    data = ar.samples(
        [ar.all_pairs(12) for _ in ids], ar.Computation.parse("ab"), p=5, numbers=12, batch=8, steps=40,
        generators=[torch.Generator().manual_seed(seed) for seed in ids],
    )  # fmt: skip
    names = maskable(nets[0], "transformer.h.*") if names is None else names
    settings = {"steps": 20, "lr": 0.05, "stages": 5, "every": 5, **settings}
    return discover(ar.losses(n_head=2), stack(nets), names, data, penalty=penalty, **settings)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 2)])
@pytest.mark.parametrize("T", [1.0, 7.5, 100.0])
def test_gradient_is_that_of_the_plain_formula_with_the_penalty(rng, shape, T):
    source = torch.randn(shape, generator=rng)
    away = torch.randn(shape, generator=rng)  # gradient of the task by the effective weight
    penalty = torch.tensor([0.0, 0.3, 2.0])
    logits = (0.1 * torch.randn(shape, generator=rng)).requires_grad_()
    effective = _Masked.apply(logits, source, torch.tensor(T), penalty)
    (effective * away).sum().backward()

    plain = logits.detach().double().requires_grad_()
    mask = torch.sigmoid(T * plain)
    task = (source.double() * mask * away.double()).sum()
    (task + (penalty.double() * mask.reshape(3, -1).sum(1)).sum()).backward()
    torch.testing.assert_close(effective.double(), source.double() * mask, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits.grad.double(), plain.grad, atol=2e-6 * T, rtol=1e-5)


def test_gradient_in_bfloat16_is_near_the_one_in_float32(rng):
    source, away = torch.randn(2, 50, generator=rng), torch.randn(2, 50, generator=rng)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.zeros(2, 50).requires_grad_()
        effective = _Masked.apply(logits, source.to(dtype), torch.tensor(3.0), torch.tensor([0.1, 0.2]))
        assert effective.dtype == dtype
        (effective * away.to(dtype)).sum().backward()
        assert logits.grad.dtype == torch.float32
        grads.append(logits.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=0.02, rtol=0.02)


def test_weight_that_matters_is_kept_and_useless_one_dropped():
    masks, _ = linear()
    assert masks["w"].tolist() == [[True, False]]


def test_large_penalty_gives_the_empty_mask():
    assert linear(penalty=1e4)[0]["w"].tolist() == [[False, False]]


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
    discover(linear_losses, source, ["w"], linear_batches, steps=5, lr=0.1, weight_decay=0.5)
    assert all(torch.equal(source[name], SOURCE[name]) for name in SOURCE)
    assert all(tensor.grad is None for tensor in source.values())


def test_network_sees_source_times_soft_mask_and_unmasked_tensors_as_they_are():
    seen = []

    def losses(params, context, batch, step):
        seen.append({name: tensor.detach().clone() for name, tensor in params.items()})
        return params["w"].square().sum(1)

    source = {"w": torch.tensor([[3.0, -5.0]]), "rest": torch.tensor([[7.0]])}
    discover(losses, source, ["w"], lambda s, a: None, steps=1, lr=0.1, initial_logit=0.4)
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
        _, trained = linear(steps=20, every=4, stages=5, final_temperature=16.0, skip_temperature=skip)
        expected = [temperature(step - 1, 20, stages=5, final=16.0, skip=skip) for step in (4, 8, 12, 16, 20)]
        assert [row["temperature"] for row in trained.history] == pytest.approx(expected)
        assert expected[-1] == pytest.approx(32.0 if skip else 16.0)


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
    settings = {"steps": 200, "lr": 0.05, "penalty": 1e-2, "stages": 20, "every": 50, "checkpoint": path}

    def broken(step, active):
        if step == 120:
            raise KeyboardInterrupt
        return linear_batches(step, active)

    with pytest.raises(KeyboardInterrupt):
        discover(linear_losses, SOURCE, ["w"], broken, **settings)
    assert path.is_file()
    masks, resumed = discover(linear_losses, SOURCE, ["w"], linear_batches, **settings)
    assert torch.equal(masks["w"], expected["w"])
    assert torch.equal(resumed.params["w"], whole.params["w"])
    assert resumed.history == whole.history
    assert not path.exists()


@pytest.mark.parametrize("names", [["v"], ["w", "v"], []])
def test_name_that_the_source_does_not_have_is_an_error_that_lists_what_it_has(names):
    with pytest.raises(ValueError, match=r"it has w, shift") as error:
        discover(linear_losses, SOURCE, names, linear_batches, steps=3)
    assert ("v" if names else "none was named") in str(error.value)


@pytest.mark.parametrize("penalty", [-1.0, math.nan, math.inf, [0.1, -0.1]])
def test_penalty_out_of_range_is_an_error(penalty):
    source = {name: tensor.repeat(2, 1) for name, tensor in SOURCE.items()}
    with pytest.raises(ValueError, match="penalty = "):
        discover(linear_losses, source, ["w"], linear_batches, steps=3, penalty=penalty)


def test_penalties_for_another_number_of_searches_are_an_error_with_both_numbers():
    source = {name: tensor.repeat(2, 1) for name, tensor in SOURCE.items()}
    with pytest.raises(ValueError, match=r"penalty.*3.*2"):
        discover(linear_losses, source, ["w"], linear_batches, steps=3, penalty=[0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("name", "shown", "value"),
    [("stages", "stages", 1), ("final_temperature", "final", 1.0), ("steps", "steps", 0), ("lr", "lr", 0.0)],
)
def test_setting_out_of_range_is_named_before_the_search(name, shown, value):
    calls = []
    with pytest.raises(ValueError, match=f"{shown} = {value!r}"):
        discover(linear_losses, SOURCE, ["w"], lambda s, a: calls.append(s), **{"steps": 3, name: value})
    assert calls == []
