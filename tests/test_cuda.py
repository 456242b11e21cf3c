"""What can be said about the GPU paths without a GPU.

Tensors that have shapes and a device but no data ("fake" ones) go through the forward
half of every stage as if on CUDA: a tensor left on the CPU, or a value that the host would
have to wait for, is an error. And a captured step is replaced by one that is not captured.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from companion.arithmetic import task as ar
from companion.arithmetic.gpt2 import Dropout, gpt2
from sicore._replay import Replay
from sicore.discovery import _Masked
from sicore.masking import maskable
from sicore.seeding import generator
from sicore.stacks import stack
from sicore.training import train
from sicore.transfer import _Pinned

K, BATCH = 3, 8


def material():
    model = gpt2(vocab=11, n_layer=2, n_embd=16, n_head=2)
    sets = [ar.split_pairs(10, [40], generator(k, "pairs"))[0] for k in range(K)]
    data = ar.samples(
        sets, ar.Computation.parse("ab"), p=5, numbers=10, batch=BATCH, steps=30,
        generators=[generator(k, "order") for k in range(K)],
    )  # fmt: skip
    return model, stack([model] * K), data


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("all_positions", [False, True])
def test_no_step_mixes_devices_or_waits_for_a_value(dtype, all_positions, monkeypatch):
    model, params, data = material()
    names = maskable(model, include="transformer.h.*")
    dropout = Dropout(0.1, range(K))
    dropout.shared = True  # as on a GPU; the stream itself cannot be made here
    monkeypatch.setattr(torch, "rand", lambda shape, *, device, generator: torch.zeros(shape, device=device))
    losses = ar.losses(n_head=2, all_positions=all_positions, dropout=dropout, dtype=dtype)
    with FakeTensorMode(), torch.no_grad():

        def on_gpu(tensor, dtype=None):
            return torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device="cuda")

        there = {name: on_gpu(tensor) for name, tensor in params.items()}
        samples = ar.Samples(on_gpu(data.tokens), on_gpu(data.answers), on_gpu(data.orders), BATCH)
        context = {"index": torch.arange(K, device="cuda")}
        step = torch.zeros((), dtype=torch.int64, device="cuda")
        batch = samples(step, context["index"])
        bits = torch.int32 if dtype == torch.float32 else torch.int16
        masked, pinned = dict(there), dict(there)
        for name in names:
            T, penalty = torch.empty((), device="cuda"), torch.empty(K, device="cuda")
            masked[name] = _Masked.apply(there[name], on_gpu(there[name], dtype), T, penalty)
            pinned[name] = _Pinned.apply(there[name], on_gpu(there[name], bits), on_gpu(there[name], bits), dtype)
        for effective in (there, masked, pinned):
            value = losses(effective, context, batch, step)
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
    dropped = dropout(torch.ones(4, 100_000))
    share = (dropped == 0).float().mean()
    assert abs(float(share) - 0.25) < 0.005  # 4 standard errors: 0.0027
    assert dropped.max() == pytest.approx(1 / 0.75)
    assert not torch.equal(dropped, dropout(torch.ones(4, 100_000)))


def test_losses_and_batches_work_with_a_tensor_as_step_in_training():
    _, params, data = material()
    losses = ar.losses(n_head=2)
    plain = train(losses, params, data, steps=6, lr=1e-3)
    as_tensor = train(losses, params, lambda step, active: data(torch.tensor(step), active), steps=6, lr=1e-3)
    assert all(torch.equal(tensor, as_tensor.params[name]) for name, tensor in plain.params.items())
