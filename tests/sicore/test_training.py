import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from companion.arithmetic import task as ar
from companion.arithmetic.gpt2 import Dropout, gpt2
from sicore import Resume, Run, Watch, check_device, stack, train, vmapped
from sicore.files import save_tensors
from sicore.training import clip_

NUMBERS = 12


def pairs_batches(ids, batch=8, steps=200):
    """Batches that depend on a model's number, not on its place in the stack."""
    sets = [ar.all_pairs(NUMBERS)[i : 100 + 7 * i] for i in ids]
    generators = [torch.Generator().manual_seed(i) for i in ids]
    computation = ar.Computation.parse("a + ab")
    return ar.samples(sets, computation, p=5, numbers=NUMBERS, batch=batch, steps=steps, generators=generators)


def net(seed, n_layer=1):
    return gpt2(vocab=NUMBERS + 1, n_layer=n_layer, n_embd=16, n_head=2, seed=seed).eval()


def train_gpt2(ids, *, dropout=0.0, n_layer=1, **settings):
    settings = {"steps": 12, "lr": 1e-3, "weight_decay": 0.01, "clip": 0.5, "watch": Watch(every=4), **settings}
    losses = ar.losses(n_head=2, dropout=Dropout(dropout, [900 + i for i in ids]))
    return train(losses, stack([net(i, n_layer) for i in ids]), pairs_batches(ids), **settings)


def same(params, others, rows=slice(None), other_rows=slice(None)):
    return all(torch.equal(params[name][rows], others[name][other_rows]) for name in params)


# Quadratic toy problems: model k is pulled towards TARGETS[k].
TARGETS = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, 3.0]])


def pull(params, context, batch, step):
    return ((params["x"] - context["target"]) ** 2).sum(1)


def toy(k=3, losses=pull, batches=lambda step, active: None, **settings):
    settings = {"steps": 10, "lr": 0.1, "context": {"target": TARGETS[:k]}, **settings}
    return train(losses, {"x": torch.zeros(k, 2)}, batches, **settings)


@pytest.mark.parametrize("all_positions", [False, True])
def test_stack_trains_what_plain_loops_over_hugging_face_models_train(all_positions):
    ids, steps, lr = [0, 1, 2], 100, 1e-3
    data = pairs_batches(ids)
    stacked = train(
        ar.losses(n_head=2, all_positions=all_positions), stack([net(i, 2) for i in ids]), data,
        steps=steps, lr=lr, betas=(0.9, 0.99), weight_decay=0.1, clip=0.7, linear_decay=True,
        watch=Watch(every=1),
    )  # fmt: skip
    for k in ids:
        model = net(k, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        values = []
        for step in range(steps):
            inputs, answers = (part[0] for part in data(step, torch.tensor([k])))
            logits = model(inputs).logits
            if all_positions:
                targets = torch.cat([inputs[:, 1:], answers[:, None]], 1)
                loss = F.cross_entropy(logits.reshape(-1, NUMBERS + 1), targets.reshape(-1))
            else:
                loss = F.cross_entropy(logits[:, -1], answers)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.7)
            optimizer.step()
            schedule.step()
            values.append(loss.item())
        assert [row["loss"] for row in stacked.history if row["model"] == k] == pytest.approx(values, abs=1e-5)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(stacked.params[name][k], parameter.detach(), atol=2e-4, rtol=0, msg=name)


def test_functional_path_agrees_with_the_stacked_path():
    ids = [0, 1, 2]
    template = net(0)
    losses = vmapped(template, lambda call, batch: F.cross_entropy(call(batch[0]).logits[:, -1], batch[1]))
    start, data = stack([net(i) for i in ids]), pairs_batches(ids)
    settings = {"steps": 20, "lr": 1e-3, "weight_decay": 0.01, "clip": 0.5, "watch": Watch(every=1)}
    one, other = train(losses, start, data, **settings), train(ar.losses(n_head=2), start, data, **settings)
    assert [r["loss"] for r in one.history] == pytest.approx([r["loss"] for r in other.history], abs=1e-5)
    for name in start:
        torch.testing.assert_close(one.params[name], other.params[name], atol=2e-4, rtol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("order", [[0], [2], [2, 0], [3, 1, 2, 0]])
def test_bits_of_a_model_do_not_depend_on_its_stack(dropout, order):
    together = train_gpt2([0, 1, 2, 3], dropout=dropout)
    part = train_gpt2(order, dropout=dropout)
    assert same(part.params, together.params, slice(None), order)
    rows = {(row["model"], row["step"]): row["loss"] for row in together.history}
    for row in part.history:
        assert row["loss"] == rows[order[row["model"]], row["step"]]


def test_same_seed_same_bits():
    assert same(train_gpt2([0, 1], dropout=0.2).params, train_gpt2([0, 1], dropout=0.2).params)


def test_dropout_changes_the_result():
    assert not same(train_gpt2([0], dropout=0.2).params, train_gpt2([0]).params)


def test_initial_parameters_are_left_alone_and_results_need_no_gradient():
    start = {"x": torch.zeros(3, 2)}
    result = train(pull, start, lambda step, active: None, steps=3, lr=0.1, context={"target": TARGETS})
    assert not bool(start["x"].any())
    assert not result.params["x"].requires_grad
    assert bool(result.params["x"].all())


def test_first_step_of_adamw_by_hand():
    # The first step of Adam has length lr in every entry; decoupled decay shrinks the start by lr * decay.
    start = {"x": torch.tensor([[4.0, -2.0]])}
    result = train(pull, start, lambda s, a: None, steps=1, lr=0.1, weight_decay=0.5, context={"target": TARGETS[:1]})
    expected = [4 * (1 - 0.05) - 0.1, -2 * (1 - 0.05) + 0.1]
    assert result.params["x"][0].tolist() == pytest.approx(expected, abs=1e-5)


def test_linear_decay_by_hand():
    # With a constant gradient every Adam step has the length of the learning rate: 0.1 * (1 + 3/4 + 2/4 + 1/4).
    slope = lambda params, context, batch, step: params["x"].sum(1)  # noqa: E731
    falling = train(slope, {"x": torch.zeros(1, 1)}, lambda s, a: None, steps=4, lr=0.1, linear_decay=True)
    constant = train(slope, {"x": torch.zeros(1, 1)}, lambda s, a: None, steps=4, lr=0.1)
    assert float(falling.params["x"]) == pytest.approx(-0.25, abs=1e-5)
    assert float(constant.params["x"]) == pytest.approx(-0.4, abs=1e-5)


def test_limit_ends_a_run_and_leaves_its_learning_rates_as_they_were():
    slope = lambda params, context, batch, step: params["x"].sum(1)  # noqa: E731
    settings = {"steps": 4, "lr": 0.1, "linear_decay": True, "watch": Watch(every=3)}
    start = {"x": torch.zeros(2, 1)}
    short = train(slope, start, lambda s, a: None, limit=2, **settings)
    assert short.params["x"].flatten().tolist() == pytest.approx([-0.175] * 2, abs=1e-5)  # 0.1 * (1 + 3/4)
    assert short.steps == [2, 2]
    assert [row["step"] for row in short.history] == [2, 2], "evaluated at its end"
    whole = train(slope, start, lambda s, a: None, limit=4, **settings)
    assert torch.equal(whole.params["x"], train(slope, start, lambda s, a: None, **settings).params["x"])
    for limit in (0, 5):
        with pytest.raises(ValueError, match=f"limit = {limit}"):
            train(slope, start, lambda s, a: None, limit=limit, **settings)


def test_clipping_agrees_with_torch_for_every_model(rng):
    scales = torch.tensor([0.01, 1.0, 100.0])
    grads = {"a": torch.randn(3, 4, 5, generator=rng), "b": torch.randn(3, 2, generator=rng)}
    params = []
    for grad in grads.values():
        parameter = nn.Parameter(torch.zeros_like(grad))
        parameter.grad = grad * scales.view(-1, *[1] * (grad.dim() - 1))
        params.append(parameter)
    single = []
    for k in range(3):
        own = [nn.Parameter(torch.zeros_like(p[k])) for p in params]
        for parameter, source in zip(own, params, strict=True):
            parameter.grad = source.grad[k].clone()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        single.append(own)
    before = [parameter.grad[0].clone() for parameter in params]
    clip_(params, 1.0)
    for k in range(3):
        for parameter, own in zip(params, single[k], strict=True):
            torch.testing.assert_close(parameter.grad[k], own.grad, rtol=1e-6, atol=0)
    assert all(torch.equal(parameter.grad[0], old) for parameter, old in zip(params, before, strict=True))
    norm = sum(parameter.grad[2].square().sum() for parameter in params).sqrt()
    assert float(norm) == pytest.approx(1.0, abs=1e-5)


def test_parameters_that_are_single_numbers_can_be_trained():
    shift = lambda params, context, batch, step: (params["x"] - 1) ** 2  # noqa: E731
    result = train(shift, {"x": torch.zeros(2)}, lambda s, a: None, steps=5, lr=0.1, clip=1.0)
    assert result.params["x"].tolist() == pytest.approx([0.5, 0.5], abs=0.05)


# Early stopping


def distance(params, context, step, active):
    return {"distance": (params["x"] - context["target"]).abs().amax(1)}


def test_models_stop_alone_with_the_parameters_of_a_single_run():
    watch = Watch(distance, every=5, metric="distance", maximise=False, target=0.3)
    settings = {"steps": 60, "lr": 0.1, "watch": watch}
    together = toy(**settings)
    assert together.steps == [20, 10, 35]
    for k in range(3):
        context = {"target": TARGETS[k : k + 1]}
        start = {"x": torch.zeros(1, 2)}
        alone = train(pull, start, lambda s, a: None, context=context, **settings)
        plain = train(pull, start, lambda s, a: None, steps=together.steps[k], lr=0.1, context=context)
        assert alone.steps == [together.steps[k]]
        assert torch.equal(alone.params["x"][0], together.params["x"][k])
        assert torch.equal(plain.params["x"][0], together.params["x"][k])
        assert max(row["step"] for row in together.history if row["model"] == k) == together.steps[k]


def test_stopped_gpt2_models_leave_the_others_bits_alone():
    scores = {0: 8, 2: 4}  # model -> step at which it reaches the target
    evaluate = lambda params, context, step, active: {  # noqa: E731
        "score": torch.tensor([float(step >= scores.get(i, 99)) for i in active.tolist()])
    }
    stopped = train_gpt2([0, 1, 2, 3], dropout=0.2, watch=Watch(evaluate, 4, metric="score", target=1.0))
    assert stopped.steps == [8, 12, 4, 12]
    for steps in (4, 8, 12):
        rows = [k for k in range(4) if stopped.steps[k] == steps]
        assert same(stopped.params, train_gpt2([0, 1, 2, 3], dropout=0.2, steps=steps).params, rows, rows)


def test_batches_and_evaluations_are_asked_only_for_models_that_still_train():
    seen = []
    evaluate = lambda params, context, step, active: {"score": (active == 1).float()}  # noqa: E731

    def batches(step, active):
        seen.append(active.tolist())

    watch, context = Watch(evaluate, 2, metric="score", target=1.0), {"target": TARGETS}
    result = train(pull, {"x": torch.zeros(3, 2)}, batches, steps=4, lr=0.1, watch=watch, context=context)
    assert seen == [[0, 1, 2], [0, 1, 2], [0, 2], [0, 2]]
    assert result.steps == [4, 2, 4]
    assert [row["model"] for row in result.history] == [0, 1, 2, 0, 2]


def test_context_index_names_the_models_that_still_train():
    seen = []

    def losses(params, context, batch, step):
        seen.append(context["index"].tolist())
        return pull(params, context, batch, step)

    evaluate = lambda params, context, step, active: {"score": (active == 0).float()}  # noqa: E731
    toy(losses=losses, steps=2, watch=Watch(evaluate, 1, metric="score", target=1.0))
    assert seen == [[0, 1, 2], [1, 2]]


def scripted(scores, **settings):
    """Watch every step, with an evaluation that returns scores[k][n] at the n-th step."""

    def evaluate(params, context, step, active):
        score = torch.tensor([scores[k][step - 1] for k in active.tolist()])
        return {"score": score, "entry": params["x"][:, 0].clone()}

    return Watch(evaluate, every=1, metric="score", **settings)


def test_patience_counts_evaluations_without_improvement():
    scores = [[1, 2, 2, 2, 5, 6], [5, 4, 6, 5, 5, 5], [1, 2, 3, 4, 5, 6]]
    result = toy(steps=6, watch=scripted(scores, patience=2))
    assert result.steps == [4, 5, 6]
    low = [[-value for value in row] for row in scores]
    assert toy(steps=6, watch=scripted(low, patience=2, maximise=False)).steps == [4, 5, 6]


def test_best_evaluation_is_kept_and_the_first_of_equals_wins():
    scores = [[1, 3, 3, 2], [4, 3, 2, 1], [1, 2, 3, 4]]
    result = toy(steps=4, watch=scripted(scores, keep_best=True))
    entry = {(row["model"], row["step"]): row["entry"] for row in result.history}
    assert result.params["x"][:, 0].tolist() == [entry[0, 2], entry[1, 1], entry[2, 4]]
    assert result.steps == [4, 4, 4]


def test_evaluation_that_is_no_number_is_never_the_best():
    scores = [[math.nan, 1, 2, math.nan], [1, math.nan, 0, 0], [math.nan, math.nan, math.nan, -5]]
    result = toy(steps=4, watch=scripted(scores, keep_best=True))
    entry = {(row["model"], row["step"]): row["entry"] for row in result.history}
    assert result.params["x"][:, 0].tolist() == [entry[0, 3], entry[1, 1], entry[2, 4]]


def test_best_evaluation_is_kept_when_patience_ends():
    scores = [[1, 3, 2, 2, 9], [1, 2, 3, 4, 5], [9, 1, 1, 1, 1]]
    result = toy(steps=5, watch=scripted(scores, keep_best=True, patience=2))
    entry = {(row["model"], row["step"]): row["entry"] for row in result.history}
    assert result.params["x"][:, 0].tolist() == [entry[0, 2], entry[1, 5], entry[2, 1]]
    assert result.steps == [4, 5, 3]


def test_history_has_a_row_per_model_every_so_many_steps_and_at_the_end():
    result = toy(k=2, steps=7, watch=Watch(distance, every=3))
    assert [(row["model"], row["step"]) for row in result.history] == [(0, 3), (1, 3), (0, 6), (1, 6), (0, 7), (1, 7)]
    assert all(set(row) == {"model", "step", "loss", "distance"} for row in result.history)


# Checkpoints


class Killed(Exception):
    pass


def interrupted(data, at):
    def batches(step, active):
        if step == at:
            raise Killed
        return data(step, active)

    return batches


def checkpointed(path, at=None, ids=(0, 1, 2), progress=None):
    scores = {0: 4}
    evaluate = lambda params, context, step, active: {  # noqa: E731
        "score": torch.tensor([float(step >= scores.get(i, 99)) + 0.01 * (step == 6) for i in active.tolist()])
    }
    losses = ar.losses(n_head=2, dropout=Dropout(0.2, list(ids)))
    return train(
        losses, stack([net(i) for i in ids]), interrupted(pairs_batches(list(ids)), at), steps=12, lr=1e-3,
        weight_decay=0.01, clip=0.5, linear_decay=True, resume=Resume(path, 0.0, progress),
        watch=Watch(evaluate, 2, metric="score", target=1.0, keep_best=True),
    )  # fmt: skip


@pytest.mark.parametrize("at", [1, 5, 9, 11])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, at):
    expected = checkpointed(None)
    path = tmp_path / "run.checkpoint"
    with pytest.raises(Killed):
        checkpointed(path, at)
    assert path.is_file()
    asked = []
    resumed = checkpointed(path, progress=asked.append)
    assert same(resumed.params, expected.params)
    assert (resumed.steps, resumed.history) == (expected.steps, expected.history)
    assert len(asked) - 1 == 12 - at
    assert not path.exists()


def test_run_killed_twice_resumes_twice(tmp_path):
    path = tmp_path / "run.checkpoint"
    for at in (3, 7):
        with pytest.raises(Killed):
            checkpointed(path, at)
    assert same(checkpointed(path).params, checkpointed(None).params)


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "other model"])
def test_unusable_checkpoint_is_ignored(tmp_path, damage):
    path = tmp_path / "run.checkpoint"
    with pytest.raises(Killed):
        checkpointed(path, 5)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    elif damage == "foreign":
        save_tensors(path, {"w": torch.ones(2)}, {"kind": "subnetwork"})
    else:
        with pytest.raises(Killed):
            toy(batches=interrupted(lambda s, a: None, 5), steps=9, resume=Resume(path, 0.0))
    assert same(checkpointed(path).params, checkpointed(None).params)
    assert not path.exists()


@pytest.mark.parametrize("ids", [(0,), (0, 1), (0, 1, 2, 0)])
@pytest.mark.parametrize("at", [3, 5])
def test_checkpoint_of_a_stack_of_another_size_is_ignored(tmp_path, ids, at):
    path = tmp_path / "run.checkpoint"
    with pytest.raises(Killed):
        checkpointed(path, at)  # one of three models has stopped before step 5
    resumed, expected = checkpointed(path, ids=ids), checkpointed(None, ids=ids)
    assert same(resumed.params, expected.params)
    assert resumed.steps == expected.steps


def test_checkpoint_of_other_shapes_is_ignored(tmp_path):
    path = tmp_path / "run.checkpoint"
    settings = {"steps": 4, "lr": 0.1, "resume": Resume(path, 0.0)}
    losses = lambda params, context, batch, step: params["x"].square().flatten(1).sum(1)  # noqa: E731
    with pytest.raises(Killed):
        train(losses, {"x": torch.ones(2, 3)}, interrupted(lambda s, a: None, 2), **settings)
    result = train(losses, {"x": torch.ones(2, 4)}, lambda s, a: None, **settings)
    assert result.params["x"].shape == (2, 4)


@pytest.mark.parametrize("metric", [None, "score"])
def test_values_that_are_not_finite_pass_through_a_checkpoint(tmp_path, metric):
    nowhere = lambda params, context, step, active: {  # noqa: E731
        "score": torch.tensor([math.nan, -math.inf, 1.0])[active]
    }
    settings = {"steps": 4, "watch": Watch(nowhere, 1, metric=metric), "resume": Resume(tmp_path / "c", 0.0)}
    with pytest.raises(Killed):
        toy(batches=interrupted(lambda s, a: None, 2), **settings)
    result = toy(**settings)
    scores = [row["score"] for row in result.history]
    assert [math.isnan(score) for score in scores] == [True, False, False] * 4
    assert scores[1::3] == [-math.inf] * 4
    assert scores[2::3] == [1.0] * 4


# Errors


def test_loss_that_is_not_finite_names_model_and_step():
    def losses(params, context, batch, step):
        value = pull(params, context, batch, step)
        return torch.where(torch.arange(3) == 1, value / (3 - step), value)

    with pytest.raises(FloatingPointError, match=r"model 1 .*step 3"):
        toy(losses=losses)


def test_loss_that_is_not_finite_names_the_model_by_its_place_in_the_whole_stack():
    evaluate = lambda params, context, step, active: {"score": (active == 0).float()}  # noqa: E731

    def losses(params, context, batch, step):
        return pull(params, context, batch, step) / (1.0 if step < 2 else 0.0)

    with pytest.raises(FloatingPointError, match=r"model 1, 2 .*step 2"):
        toy(losses=losses, watch=Watch(evaluate, 1, metric="score", target=1.0))


def explodes(params, context, batch, step):
    """Model 1 of the whole stack has no finite loss at step 4."""
    bad = (context["index"] == 1) & (torch.as_tensor(step) == 4)
    return torch.where(bad, torch.nan, 1.0) * pull(params, context, batch, step)


@pytest.mark.parametrize("every", [1, 2, 10])
def test_a_model_that_diverges_leaves_the_stack_and_changes_no_other(every):
    found = toy(losses=explodes, run=Run(keep_going=True), watch=Watch(every=every))
    assert found.diverged == {1: 5}
    assert found.steps == [10, 5, 10]
    assert all(row["step"] <= 4 for row in found.history if row["model"] == 1)
    expected = toy(watch=Watch(every=every))
    for k in (0, 2):
        assert torch.equal(found.params["x"][k], expected.params["x"][k])
    assert [row for row in found.history if row["model"] != 1] == [row for row in expected.history if row["model"] != 1]


def test_a_stack_in_which_all_diverge_ends():
    found = toy(losses=lambda params, *rest: pull(params, *rest) * math.nan, run=Run(keep_going=True))
    assert (found.diverged, found.steps, found.history) == ({0: 1, 1: 1, 2: 1}, [1, 1, 1], [])


def test_a_resumed_run_knows_what_had_diverged(tmp_path):
    settings = {"losses": explodes, "run": Run(keep_going=True), "watch": Watch(every=2)}
    with pytest.raises(Killed):
        toy(batches=interrupted(lambda s, a: None, 7), resume=Resume(tmp_path / "c", 0), **settings)
    found, whole = toy(resume=Resume(tmp_path / "c", 0), **settings), toy(**settings)
    assert (found.diverged, found.steps, found.history) == (whole.diverged, whole.steps, whole.history)
    assert torch.equal(found.params["x"][[0, 2]], whole.params["x"][[0, 2]])


def test_parameters_that_are_not_finite_in_the_end_are_an_error():
    def losses(params, context, batch, step):
        return (params["x"] * 1e30).sum(1).clamp(max=0) + 0 * (params["x"] - 1).sqrt().nan_to_num(0).sum(1)

    with pytest.raises(FloatingPointError, match="'x' of model 0"):
        toy(k=1, losses=losses, steps=1)
    assert toy(k=1, losses=losses, steps=1, run=Run(keep_going=True)).diverged == {0: 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("steps", 1.5), ("steps", True), ("lr", 0), ("lr", -1.0), ("lr", math.inf),
        ("lr", math.nan), ("clip", 0), ("clip", -1.0), ("weight_decay", -0.1), ("weight_decay", math.nan),
    ],
)  # fmt: skip
def test_setting_out_of_range_is_named_before_training(name, value):
    calls = []
    with pytest.raises(ValueError, match=f"{name} = {value!r}"):
        train(pull, {"x": torch.zeros(1, 2)}, lambda s, a: calls.append(s), **{"steps": 3, "lr": 0.1, name: value})
    assert calls == []


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Watch, "every", 0), (Watch, "every", 2.0), (Watch, "every", True), (Watch, "patience", 0),
        (Watch, "patience", 1.5), (Watch, "target", math.nan), (Resume, "seconds", -1.0),
        (Resume, "seconds", math.nan), (Resume, "progress", True), (Run, "pieces", 0), (Run, "pieces", True),
        (Run, "streams", [0]),
    ],
)  # fmt: skip
def test_what_is_watched_resumed_and_run_refuses_bad_values_by_name(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name} = {re.escape(repr(value))}: expected"):
        kind(**{name: value})


@pytest.mark.parametrize("settings", [{"target": 1.0}, {"patience": 2}, {"keep_best": True}])
def test_stopping_without_metric_is_an_error(settings):
    with pytest.raises(ValueError, match="need metric"):
        toy(watch=Watch(distance, **settings))


def test_metric_without_evaluate_is_an_error():
    with pytest.raises(ValueError, match="'distance' needs evaluate"):
        toy(watch=Watch(metric="distance"))


def test_metric_that_is_not_measured_lists_what_is():
    with pytest.raises(ValueError, match=r"'acuracy' is not measured.*distance"):
        toy(watch=Watch(distance, metric="acuracy"))


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="params is empty"):
        train(pull, {}, lambda s, a: None, steps=1, lr=0.1)


def test_different_leading_axes_are_an_error_with_the_sizes():
    with pytest.raises(ValueError, match=r"'x': 2.*'y': 3"):
        train(pull, {"x": torch.zeros(2, 1), "y": torch.zeros(3, 1)}, lambda s, a: None, steps=1, lr=0.1)


@pytest.mark.parametrize("value", [lambda loss: loss.sum(), lambda loss: loss[:2], lambda loss: loss[:, None]])
def test_losses_of_the_wrong_shape_are_an_error_with_both_shapes(value):
    with pytest.raises(ValueError, match=r"losses returned shape .*\(3,\)"):
        toy(losses=lambda *args: value(pull(*args)))


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_unknown_device_names_what_there_is(device):
    with pytest.raises(ValueError, match=f"device = '{device}' is not available; this machine has cpu"):
        check_device(device)


def test_cpu_is_there():
    assert check_device("cpu") == torch.device("cpu")


def test_progress_counts_the_models_of_every_step():
    told = []
    evaluate = lambda params, context, step, active: {"score": (active == 1).float()}  # noqa: E731
    watch = Watch(evaluate, 2, metric="score", target=1.0)
    toy(steps=4, watch=watch, resume=Resume(progress=told.append))
    assert told == [0, 3, 3, 2, 2]
