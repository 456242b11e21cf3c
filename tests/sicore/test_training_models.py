"""Training stacks of any model: copies one after the other, BatchNorm, gradient descent with momentum."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sicore import Resume, Run, Watch, looped, stack, state_of, train, vmapped


def convnet(seed: int) -> nn.Module:
    # Sizes of 16: the optimiser's kernel rounds the end of a tensor that fills no vector in another way.
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 16), nn.BatchNorm1d(16)
    )


def pictures(K: int = 3, steps: int = 8, batch: int = 7):
    g = torch.Generator().manual_seed(0)
    images = torch.randn(steps, K, batch, 3, 6, 6, generator=g)
    labels = torch.randint(0, 5, (steps, K, batch), generator=g)

    def batches(step, active):
        return images[step][active], labels[step][active]

    return batches


def cross_entropy(call, batch):
    return F.cross_entropy(call(batch[0]), batch[1])


SETTINGS = {"steps": 8, "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2, "watch": Watch(every=4)}


def descend(ids=(0, 1, 2), batches=None, **settings):
    model = convnet(99).train()
    return train(
        looped(model, cross_entropy), stack([state_of(convnet(i)) for i in ids]), batches or pictures(),
        **{**SETTINGS, **settings},
    )  # fmt: skip


def test_copies_with_batchnorm_train_as_plain_loops_do():
    trained, data = descend(), pictures()
    for k in range(3):
        model = convnet(k).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2)
        for step in range(8):
            images, labels = data(step, torch.arange(3))
            optimizer.zero_grad()
            F.cross_entropy(model(images[k]), labels[k]).backward()
            optimizer.step()
        for name, tensor in state_of(model).items():
            assert torch.allclose(trained.params[name][k], tensor, atol=1e-5), name
        assert not torch.allclose(state_of(model)["1.running_mean"], torch.zeros(16)), "the statistics have moved"


def test_a_stack_of_three_is_three_single_runs_bit_for_bit():
    together, data = descend(), pictures()
    for k in range(3):
        alone = descend((k,), lambda step, active, k=k: tuple(part[k : k + 1] for part in data(step, torch.arange(3))))
        assert all(torch.equal(together.params[name][k], tensor[0]) for name, tensor in alone.params.items())


def test_in_evaluation_mode_the_statistics_stay_and_are_used():
    model = convnet(99).eval()
    begin = stack([state_of(convnet(0))])
    begin["1.running_mean"] += 3.0
    losses = looped(model, cross_entropy)
    trained = train(losses, begin, lambda s, a: pictures(1)(s, a), **SETTINGS)
    assert torch.equal(trained.params["1.running_mean"], begin["1.running_mean"])
    assert torch.equal(trained.params["1.running_var"], begin["1.running_var"])
    images, labels = pictures(1)(0, torch.arange(1))
    single = convnet(0).eval()
    single[1].running_mean += 3.0
    expected = F.cross_entropy(single(images[0]), labels[0])
    assert torch.allclose(losses(begin, {}, (images, labels), 0)[0], expected)


def test_weight_decay_does_not_touch_running_statistics():
    for settings in ({}, {"momentum": None}):
        gone, kept = (descend(weight_decay=decay, lr=1e-9, **settings).params for decay in (0.5, 0.0))
        assert torch.allclose(gone["1.running_var"], kept["1.running_var"], rtol=1e-4)
        assert gone["1.running_var"].abs().min() > 0


def test_momentum_by_hand():
    # Gradient 1 at every step: v = 1, then 0.5 + 1; x = -0.1 (1 + 1.5).
    slope = lambda params, context, batch, step: params["x"].sum(1)  # noqa: E731
    trained = train(slope, {"x": torch.zeros(1, 1)}, lambda s, a: None, steps=2, lr=0.1, momentum=0.5)
    assert float(trained.params["x"]) == pytest.approx(-0.25)
    # Weight decay belongs to the gradient: 2 - 0.1 * (1 + 0.5 * 2) = 1.8
    trained = train(
        slope, {"x": torch.full((1, 1), 2.0)}, lambda s, a: None, steps=1, lr=0.1, momentum=0.0, weight_decay=0.5
    )
    assert float(trained.params["x"]) == pytest.approx(1.8)
    with pytest.raises(ValueError, match="momentum = 1"):
        train(slope, {"x": torch.zeros(1, 1)}, lambda s, a: None, steps=1, lr=0.1, momentum=1)


class Killed(Exception):
    pass


@pytest.mark.parametrize("momentum", [0.9, None])
def test_a_resumed_run_has_the_same_bits_statistics_included(tmp_path, momentum):
    path, data = tmp_path / "x.checkpoint", pictures()
    settings = {"momentum": momentum, "linear_decay": True, "resume": Resume(path, seconds=0.0)}

    def broken(step, active):
        if step == 5:
            raise Killed
        return data(step, active)

    with pytest.raises(Killed):
        descend(batches=broken, **settings)
    assert path.is_file()
    began = []

    def rest(step, active):
        began.append(step)
        return data(step, active)

    resumed, whole = descend(batches=rest, **settings), descend(momentum=momentum, linear_decay=True)
    assert began == [5, 6, 7]
    assert all(torch.equal(tensor, whole.params[name]) for name, tensor in resumed.params.items())
    assert resumed.history == whole.history


def test_models_that_stop_take_their_statistics_with_them():
    def evaluate(params, context, step, active):
        return {"score": torch.tensor([float(step >= 4 and k == 1) for k in active.tolist()])}

    stopped = descend(watch=Watch(evaluate, every=4, metric="score", target=1.0))
    assert stopped.steps == [8, 4, 8]
    short = descend(steps=4)
    assert all(torch.equal(tensor[1], short.params[name][1]) for name, tensor in stopped.params.items())


@pytest.mark.parametrize("momentum", [0.9, None])
def test_pieces_of_a_batch_add_up_to_it(momentum):
    # Without BatchNorm in training mode, which would see every piece by itself.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    x, y = torch.randn(3, 12, 4), torch.randn(3, 12, 2)
    losses = vmapped(model, lambda call, batch: F.mse_loss(call(batch["x"]), batch["y"][0]))
    settings = {"steps": 5, "lr": 0.05, "momentum": momentum, "watch": Watch(every=1)}
    whole, cut = (
        train(losses, stack([model] * 3), lambda s, a: {"x": x, "y": (y,)}, run=Run(pieces=pieces), **settings)
        for pieces in (1, 4)
    )
    assert [row["loss"] for row in cut.history] == pytest.approx([row["loss"] for row in whole.history], rel=1e-5)
    for name, tensor in whole.params.items():
        torch.testing.assert_close(cut.params[name], tensor, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="pieces = 5 does not divide a batch of 12"):
        train(losses, stack([model] * 3), lambda s, a: {"x": x, "y": (y,)}, run=Run(pieces=5), **settings)
