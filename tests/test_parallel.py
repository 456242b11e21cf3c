"""One training shared by processes, and a batch computed in pieces: the same numbers as without."""

import dataclasses

import pytest
import torch
from test_vision_experiments import DATA, RESNET, VIT

from sicore import parallel, pictures
from sicore import vision_experiments as ve
from sicore.discovery import discover
from sicore.jobs import Machine
from sicore.models import stack
from sicore.parallel import ALONE, Group
from sicore.store import Store
from sicore.training import state_of, train


def descend(group, device, folder, model, training, pieces=1):
    """Five steps of gradient descent on the pictures' loss, with class weights; the first process writes the end."""
    machine = Machine(Store.open(folder), device=device, group=group)
    base = {"data": {**DATA, "seed": 0}, "model": model, "dtype": "float32"}
    call = ve._Call(ve._headed_model(base), base, machine)
    batches = ve._batches(
        {"batch": 16, "steps": 5}, base["data"], {"training": 1.0}, machine, weights=torch.linspace(1, 3, 16)
    )
    trained = train(
        call.losses(training=training), stack([state_of(call.model)]), batches, steps=5, lr=0.05, momentum=0.9, every=1,
        **ve._sharing({"pieces": pieces}, machine),
    )  # fmt: skip
    if group.rank == 0:
        machine.store.put("end", {"size": group.size}, trained.params, {"history": trained.history})


def ended(folder, size):
    """The end of :func:`descend` with so many processes: parameters, and the losses on the way."""
    tensors, meta = Store(folder).get("end", {"size": size})
    return tensors, torch.tensor([row["loss"] for row in meta["history"]])


def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    # BatchNorm in training mode has to see the whole batch, and a class weight its share of the whole batch's.
    descend(ALONE, "cpu", tmp_path, RESNET, True)
    parallel.launch(2, descend, tmp_path, RESNET, True)
    (one, losses), (two, other) = ended(tmp_path, 1), ended(tmp_path, 2)
    torch.testing.assert_close(other, losses, rtol=1e-4, atol=1e-6)
    running = [name for name in one if name.endswith(("running_mean", "running_var"))]
    assert running
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    begin = state_of(ve._headed_model({"data": {**DATA, "seed": 0}, "model": RESNET}))
    assert all(not torch.allclose(begin[name], two[name][0]) for name in running), "they have moved"


def test_pieces_of_a_batch_add_up_to_it(tmp_path):
    # Without BatchNorm in training mode, which would see every piece by itself.
    for folder, pieces in ((tmp_path / "1", 1), (tmp_path / "4", 4)):
        descend(ALONE, "cpu", folder, VIT, True, pieces)
    (one, losses), (four, other) = ended(tmp_path / "1", 1), ended(tmp_path / "4", 1)
    torch.testing.assert_close(other, losses, rtol=1e-4, atol=1e-6)
    for name, tensor in one.items():
        torch.testing.assert_close(four[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_the_penalty_of_a_search_counts_once_for_a_batch_in_pieces():
    source, batch = {"w": torch.ones(1, 8)}, torch.arange(32.0).view(1, 4, 8)
    losses = lambda params, context, x, step: -(params["w"][:, None] * x).mean((1, 2))  # noqa: E731
    given = {"steps": 3, "lr": 0.1, "penalty": 0.5, "every": 1, "stages": 2}
    whole, cut = (discover(losses, source, ["w"], lambda *_: batch, **given, pieces=n)[1] for n in (1, 4))
    torch.testing.assert_close(whole.params["w"], cut.params["w"])
    # Without a penalty the gradients lie between -2.4 and -1.5: four times the penalty turns their sign.
    often = discover(losses, source, ["w"], lambda *_: batch, **{**given, "penalty": 2.0})[1]
    assert (whole.params["w"] > 0).all() != (often.params["w"] > 0).all()


def test_a_base_model_whose_training_is_shared(tmp_path):
    # Adam makes a step of full length out of a gradient near zero, whose sign is rounding: so losses, not weights.
    losses = []
    for size in (1, 2):
        machine = Machine(Store.open(tmp_path / str(size)), workers=1)
        (base,) = ve.base_models(machine, [0], data=DATA, model=RESNET, steps=4, batch=16, every=2, data_parallel=size)
        losses.append(torch.tensor(base.history["loss"].tolist()))
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.01)
    assert base.spec["data_parallel"] == 2
    (head,) = ve.heads(machine, [base], steps=3, batch=16)  # trains in seconds, so in this process
    assert head.spec["base"] == base.spec


def test_shares_are_all_of_the_batch_once():
    rows = torch.arange(12)
    shares = [Group(rank, 3).share(rows) for rank in range(3)]
    assert sorted(torch.cat(shares).tolist()) == rows.tolist()
    assert torch.equal(ALONE.share(rows), rows)
    with pytest.raises(ValueError, match="batch = 12 cannot be shared evenly by data_parallel = 5"):
        Group(0, 5).share(rows)


def test_every_process_reads_its_share_alone_and_weights_are_those_of_the_whole_batch():
    asked = pictures.pictures({**DATA, "seed": 0}, "training")
    read = []

    def take(numbers, places):
        read.append(numbers)
        return asked.take(numbers, places)

    watched = dataclasses.replace(asked, take=take)
    weights = torch.linspace(1, 3, 16)
    given = {"batch": 8, "steps": 3, "seed": 0, "weights": weights}
    whole = pictures.Batches([(asked, 1.0)], **given)(1, None)
    parts = [pictures.Batches([(watched, 1.0)], **given, group=Group(rank, 2))(1, None) for rank in range(2)]
    assert [len(numbers) for numbers in read] == [4, 4]
    for k in range(3):
        assert torch.equal(torch.stack([part[k][0] for part in parts], 1).flatten(0, 1), whole[k][0])
    assert whole[2].mean() == pytest.approx(1)
    assert torch.equal(whole[2][0] / whole[2][0, 0], weights[whole[1][0]] / weights[whole[1][0, 0]])


@pytest.mark.parametrize(
    ("size", "device", "message"),
    [
        (0, "cpu", "data_parallel = 0: expected an integer of 1 or more"),
        (2, "cuda:1", "device = 'cuda:1' with data_parallel = 2: name cuda, without a number"),
        (1000, "cuda", "data_parallel = 1000: this computer has"),
    ],
)
def test_wrong_sizes_are_named_before_anything_starts(size, device, message):
    with pytest.raises(ValueError, match=message):
        parallel.launch(size, print, device=device)


def test_a_batch_that_cannot_be_shared_is_named_before_anything_starts(tmp_path):
    machine = Machine(Store(tmp_path))
    with pytest.raises(ValueError, match=r"batch = 10 is not a multiple of data_parallel \* pieces = 4"):
        ve.base_models(machine, [0], data=DATA, model=VIT, steps=2, batch=10, data_parallel=2, pieces=2)


def fail(group, device, text):
    if group.rank == 1:
        raise OSError(text)
    group.average_([torch.zeros(1)])  # waits for the other one


def test_a_process_that_fails_ends_the_others():
    with pytest.raises(RuntimeError, match=r"process 1 of 2 failed: .*no such disk"):
        parallel.launch(2, fail, "no such disk")
