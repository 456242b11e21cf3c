"""The GPU paths: what can be said about them without a GPU, and what only one can show.

Tensors that have shapes and a device but no data ("fake" ones) go through the forward
half of every stage as if on CUDA: a tensor left on the CPU, or a value that the host would
have to wait for, is an error. And a captured step is replaced by one that is not captured.
Where there is a GPU, captured steps train what the CPU trains.
"""

import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import sicore as si
from companion.arithmetic import operations
from companion.arithmetic import task as ar
from companion.arithmetic.gpt2 import Dropout, gpt2
from sicore._replay import Replay

K, BATCH = 3, 8


def material(device="cpu"):
    model = gpt2(vocab=11, n_layer=2, n_embd=16, n_head=2)
    sets = [ar.split_pairs(10, [40], si.generator(k, "pairs"))[0] for k in range(K)]
    data = ar.samples(
        sets, ar.Computation.parse("ab"), p=5, numbers=10, batch=BATCH, steps=30,
        generators=[si.generator(k, "order") for k in range(K)],
    )  # fmt: skip
    data = ar.Samples(data.tokens.to(device), data.answers.to(device), data.orders.to(device), BATCH)
    return model, {name: tensor.to(device) for name, tensor in si.stack([model] * K).items()}, data


SEARCHES = {
    "discovery": lambda params, names: {},
    "discovery with something outside": lambda params, names: {
        "outside": lambda step, active: {names[0]: params[names[0]][active] * step}
    },
    "discovery with noise": lambda params, names: {"family": si.HardConcrete()},
    "discovery of a set density": lambda params, names: {"density": 0.3, "family": si.GaussianGate()},
    "discovery in transplant": lambda params, names: {
        "outside": si.redrawn(
            lambda seed: {name: torch.zeros(tensor.shape[1:]) for name, tensor in params.items()}, names, steps=30,
            seeds=range(K), every=2,
        )
    },
}  # fmt: skip


def step_of(stage, params, names, data, losses, dtype):
    """One captured step's losses, of a stage that is given only so far as to make them."""
    made = []

    def train(objective, params, batches, *, context=None, **settings):
        device = next(iter(params.values())).device
        context = {**(context or {}), "index": torch.arange(K, device=device)}
        step = torch.zeros((), dtype=torch.int64, device=device)
        made.append(objective(params, context, batches(step, context["index"]), step))
        return si.Trained(params, [1] * K, [])

    with pytest.MonkeyPatch.context() as patch:
        for module in ("discovery", "transfer"):
            patch.setattr(sys.modules[f"sicore.{module}"], "train", train)
        if stage == "base":
            train(losses, params, data)
        elif stage == "transfer":
            frozen = {name: torch.ones_like(params[name][0], dtype=torch.bool) for name in names}
            starts = [si.Start({name: tensor[k] for name, tensor in params.items()}, frozen) for k in range(K)]
            si.transfer(losses, starts, data, steps=30, lr=1e-3, dtype=dtype)
        else:
            si.discover(losses, params, names, data, steps=30, dtype=dtype, **SEARCHES[stage](params, names))
    return made[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("all_positions", [False, True])
@pytest.mark.parametrize("stage", ["base", *SEARCHES, "transfer"])
def test_no_step_mixes_devices_or_waits_for_a_value(stage, dtype, all_positions, monkeypatch):
    model, params, data = material()
    names = si.maskable(model, include="transformer.h.*")
    dropout = Dropout(0.1, range(K))
    dropout.shared = True  # as on a GPU; the stream itself cannot be made here
    monkeypatch.setattr(
        torch, "rand",
        lambda *shape, device="cpu", generator=None, dtype=None: torch.zeros(*shape, device=device, dtype=dtype),
    )  # fmt: skip
    losses = ar.losses(n_head=2, all_positions=all_positions, dropout=dropout, dtype=dtype)
    with FakeTensorMode(), torch.no_grad():

        def on_gpu(tensor):
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")

        there = {name: on_gpu(tensor) for name, tensor in params.items()}
        samples = ar.Samples(on_gpu(data.tokens), on_gpu(data.answers), on_gpu(data.orders), BATCH)
        value = step_of(stage, there, names, samples, losses, dtype)
        assert (value.device.type, tuple(value.shape)) == ("cuda", (K,))


def test_batches_are_the_same_for_a_number_and_a_tensor_as_step():
    _, _, data = material()
    active = torch.tensor([0, 2])
    for left, right in zip(data(7, active), data(torch.tensor(7), active), strict=True):
        assert torch.equal(left, right)


def test_a_replayed_step_is_warmed_up_recorded_once_and_told_the_step():
    seen, recorded = [], []

    def run(step):
        seen.append(int(step))
        return torch.tensor([float(step)])

    def capture(run, step, streams):
        recorded.append(list(streams))
        value = torch.zeros(1)

        def replay():
            value.copy_(run(step))

        return replay, value

    stream = torch.Generator()
    step = Replay(run, torch.device("cpu"), [stream], capture)
    values = [float(step(number)) for number in range(10)]
    assert values == seen == [float(number) for number in range(10)]
    assert recorded == [[stream]]


def test_dropout_of_a_shared_stream_zeroes_its_share_and_keeps_the_mean():
    dropout = Dropout(0.25, [0])
    dropout.shared = True
    ones = torch.ones(4, 100_000)
    dropped = operations.dropped(ones, dropout.keep(ones.shape))
    share = (dropped == 0).float().mean()
    assert abs(float(share) - 0.25) < 0.005  # 4 standard errors: 0.0027
    assert dropped.max() == pytest.approx(1 / 0.75)
    assert not torch.equal(dropped, operations.dropped(ones, dropout.keep(ones.shape)))


def ten_steps(stage, device, capture):
    model, params, data = material(device)
    names = si.maskable(model, include="transformer.h.*")
    losses, settings = ar.losses(n_head=2), {"steps": 10, "lr": 1e-3, "run": si.Run(capture=capture)}
    if stage == "base":
        return si.train(losses, params, data, **settings)
    if stage == "transfer":
        draw = si.generator(0, "mask")
        frozen = {name: (torch.rand(params[name][0].shape, generator=draw) < 0.5).to(device) for name in names}
        trained = si.transfer(losses, [si.Start(si.unstack(params, k), frozen) for k in range(K)], data, **settings)
        assert all(torch.equal(trained.params[name][:, mask], params[name][:, mask]) for name, mask in frozen.items())
        return trained
    if stage == "discovery with something outside":
        settings["outside"] = lambda step, active: {name: params[name][active].flip(-1) for name in names}
    masks, trained = si.discover(losses, params, names, data, penalty=1e-4, **settings)
    assert {mask.device.type for mask in masks.values()} == {device}
    return trained


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("stage", ["base", "discovery", "discovery with something outside", "transfer"])
def test_a_gpu_trains_what_the_cpu_trains(stage, capture):
    """Ten steps, so that some are replayed."""
    cpu, gpu = (ten_steps(stage, device, capture) for device in ("cpu", "cuda"))
    assert [row["loss"] for row in gpu.history] == pytest.approx([row["loss"] for row in cpu.history], rel=1e-3)
    for name, tensor in cpu.params.items():
        assert float((gpu.params[name].cpu() - tensor).abs().mean()) < 1e-4, name


def test_losses_and_batches_work_with_a_tensor_as_step_in_training():
    _, params, data = material()
    losses = ar.losses(n_head=2)
    plain = si.train(losses, params, data, steps=6, lr=1e-3)
    as_tensor = si.train(losses, params, lambda step, active: data(torch.tensor(step), active), steps=6, lr=1e-3)
    assert all(torch.equal(tensor, as_tensor.params[name]) for name, tensor in plain.params.items())
