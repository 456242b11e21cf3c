"""K models as one dictionary of tensors, and their losses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sicore import looped, stack, state_of, train, unstack, vmapped


def test_stack_and_unstack_are_inverse(tiny_gpt2):
    nets = [tiny_gpt2(seed) for seed in range(3)]
    stacked = stack(nets)
    assert all(not tensor.requires_grad and len(tensor) == 3 for tensor in stacked.values())
    for k, net in enumerate(nets):
        assert all(
            torch.equal(tensor, dict(net.named_parameters())[name]) for name, tensor in unstack(stacked, k).items()
        )


def test_unstacked_parameters_are_copies():
    stacked = {"w": torch.zeros(2, 3)}
    unstack(stacked, 1)["w"].add_(1)
    assert not bool(stacked["w"].any())


def test_stack_takes_modules_and_dictionaries():
    net = nn.Linear(2, 1)
    stacked = stack([net, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}])
    assert stacked["weight"].shape == (2, 1, 2)
    assert stacked["weight"][1].tolist() == [[1.0, 1.0]]


def test_empty_stack_is_an_error():
    with pytest.raises(ValueError, match="models is empty"):
        stack([])


def test_stack_of_different_parameters_names_them():
    with pytest.raises(ValueError, match=r"model 2 and model 0 .*bias"):
        stack([nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1, bias=False)])


def test_stack_of_different_shapes_names_both():
    with pytest.raises(ValueError, match=r"'weight' has shape \(1, 3\) in model 1, \(1, 2\) in model 0"):
        stack([nn.Linear(2, 1), nn.Linear(3, 1)])


def test_state_has_parameters_and_running_statistics_detached():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = state_of(model)
    assert set(state) == set(model.state_dict()) - {"1.num_batches_tracked"}
    assert not any(tensor.requires_grad for tensor in state.values())
    assert torch.equal(state["1.running_var"], torch.ones(3))


# Losses


def test_looped_is_vmapped():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    params = stack([state_of(copy.deepcopy(model)) for _ in range(2)])
    params["0.weight"][1] += 0.1
    batch = {"x": torch.randn(2, 5, 4), "y": [torch.randn(2, 5, 2)]}

    def loss(call, batch):
        return F.mse_loss(call(batch["x"]), batch["y"][0])

    one, other = (make(model, loss)(params, {}, batch, 0) for make in (looped, vmapped))
    assert one.shape == (2,)
    torch.testing.assert_close(one, other)
    for k in range(2):
        single = copy.deepcopy(model)
        single.load_state_dict(unstack(params, k))
        torch.testing.assert_close(one[k], F.mse_loss(single(batch["x"][k]), batch["y"][0][k]))


def test_batchnorm_in_training_mode_is_refused_and_in_evaluation_mode_runs(rng):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    loss = lambda call, batch: call(batch).square().mean()  # noqa: E731
    with pytest.raises(ValueError, match=r"'1' is a BatchNorm in training mode"):
        vmapped(model, loss)
    model.eval()
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    start = stack([model, model])
    result = train(vmapped(model, loss), start, lambda s, a: torch.randn(len(a), 4, 2), steps=3, lr=0.1)
    assert not torch.equal(result.params["0.weight"], start["0.weight"])
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())


def test_functional_path_draws_dropout_for_every_model_by_itself():
    losses = vmapped(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)), lambda call, batch: call(batch).sum())
    params = {"0.weight": torch.ones(2, 1, 1), "0.bias": torch.zeros(2, 1)}
    torch.manual_seed(0)
    values = losses(params, {}, torch.ones(2, 200, 1), 0)
    assert float(values[0]) != float(values[1])


@pytest.mark.parametrize("make", [vmapped, looped])
def test_running_statistics_in_the_stack_are_each_copys_own(make, rng):
    model = nn.Sequential(nn.BatchNorm1d(3)).eval()
    params = stack([state_of(model)] * 2)
    params["0.running_mean"][1] += 2.0
    x = torch.randn(1, 5, 3, generator=rng).expand(2, 5, 3)
    values = make(model, lambda call, batch: call(batch).mean())(params, {}, x, 0)
    assert float(values[0] - values[1]) == pytest.approx(2.0, abs=1e-3)
    del params["0.running_mean"], params["0.running_var"]
    values = make(model, lambda call, batch: call(batch).mean())(params, {}, x, 0)
    assert float(values[0]) == pytest.approx(float(values[1])), "and the model's where the stack has none"


@pytest.mark.parametrize("make", [vmapped, looped])
def test_a_name_that_the_model_does_not_have_is_an_error(make):
    model = nn.Linear(2, 1)
    losses = make(model, lambda call, batch: call(batch).mean())
    params = stack([model]) | {"wieght": torch.zeros(1, 1, 2)}
    with pytest.raises(ValueError, match=r"the model has no wieght; it has weight, bias"):
        losses(params, {}, torch.ones(1, 4, 2), 0)


@pytest.mark.parametrize("make", [vmapped, looped])
def test_a_tied_tensor_is_used_in_all_of_its_places(make):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    params = {"0.weight": torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 3.0]]])}
    values = make(model, lambda call, batch: call(batch).sum())(params, {}, torch.ones(2, 1, 2), 0)
    assert values.tolist() == [8.0, 18.0]
