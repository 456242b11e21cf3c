"""Weights that are assigned to subtasks."""

import pytest
import torch

import sicore as si
from companion.beyond.assignment import assign
from companion.beyond.mixed import faces


def asks(*places):
    """A subtask that needs these weights at their full size, or half of it where it shares them."""

    def losses(params, context, batch, step):
        return torch.relu(0.45 - params["w"][:, places]).square().sum(1)

    return losses, lambda step, active: None


SOURCE = {"w": torch.ones(2, 4)}
SETTINGS = {"steps": 400, "lr": 0.05, "penalty": 0.03}


def test_a_weight_that_both_need_is_shared_and_one_that_none_needs_belongs_to_none():
    shares, trained = assign([asks(0, 1), asks(1, 2)], SOURCE, ["w"], **SETTINGS)
    assert faces(shares["w"]).int().tolist() == [[[1, 0], [1, 1], [0, 1], [0, 0]]] * 2
    assert shares["w"].sum(-1).max() <= 1 + 1e-6
    last = trained.history[-1]
    assert (last["kept"], last["shared"]) == (0.75, 0.25)


def test_a_network_has_the_same_assignment_in_any_stack():
    source = {"w": torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) + 0.5}
    one = {"w": source["w"][1:]}
    together, _ = assign([asks(0, 1), asks(1, 2)], source, ["w"], seeds=[3, 8], **SETTINGS)
    alone, _ = assign([asks(0, 1), asks(1, 2)], one, ["w"], seeds=[8], **SETTINGS)
    torch.testing.assert_close(together["w"][1:], alone["w"], atol=1e-5, rtol=0)


def test_the_loss_is_that_of_all_subtasks_with_the_price_by_hand():
    """Without noise every point begins in the middle: a third for each of two subtasks and none."""
    source = {"w": torch.tensor([[3.0, 6.0]])}
    first = lambda params, context, batch, step: params["w"].sum(1)  # noqa: E731
    second = lambda params, context, batch, step: 10 * params["w"][:, 0] + batch  # noqa: E731
    tasks = [(first, lambda step, active: None), (second, lambda step, active: 5.0)]
    _, trained = assign(tasks, source, ["w"], steps=1, deviation=0.0, penalty=0.3, every=1)
    assert trained.history[0]["loss"] == pytest.approx(3 + (10 + 5) + 0.3 * 2 * 2 / 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": [asks(0)]}, "tasks has 1: expected two subtasks or more"), ({"steps": 0}, "steps = 0"),
        ({"penalty": -1.0}, r"penalty = -1\.0"), ({"deviation": float("nan")}, "deviation = nan"),
        ({"names": ["v"]}, "the source has no v; it has w"), ({"names": []}, "the source has no nothing"),
        ({"seeds": [1]}, "seeds has 1 values, one for each of 2"),
        ({"source": {"w": torch.ones(2, 4, dtype=torch.long)}}, r"'w' has type torch\.int64; only float32"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(settings, said):
    settings = {"tasks": [asks(0), asks(1)], "source": SOURCE, "names": ["w"], "steps": 2, **settings}
    with pytest.raises(ValueError, match=said):
        assign(**settings)


def test_the_noise_is_that_of_the_seeds_and_of_its_deviation():
    source = {"w": torch.ones(2, 50)}
    task = lambda params, context, batch, step: params["w"].sum(1)  # noqa: E731
    tasks = [(task, lambda step, active: None)] * 2

    def losses(**settings):
        history = assign(tasks, source, ["w"], steps=2, lr=1e-6, penalty=0.0, every=1, **settings)[1].history
        return {(row["model"], row["step"]): row["loss"] for row in history}

    noisy = losses(seeds=[3, 4], deviation=0.5)
    assert noisy == losses(seeds=[3, 4], deviation=0.5)
    assert noisy[0, 1] != noisy[1, 1], "another seed"
    assert noisy[0, 1] != noisy[0, 2], "another step"
    swapped = losses(seeds=[4, 3], deviation=0.5)
    assert swapped[1, 1] == noisy[0, 1]
    assert losses(seeds=[3, 4], deviation=0.0)[0, 1] == pytest.approx(100 / 3, rel=1e-4)


def test_another_assignment_does_not_go_on_from_a_checkpoint(tmp_path):
    settings = {"steps": 30, "lr": 0.05, "penalty": 0.03, "resume": si.Resume(tmp_path / "checkpoint", seconds=0)}

    def broken(step, active):
        if step == 20:
            raise KeyboardInterrupt

    first = asks(0, 1)
    with pytest.raises(KeyboardInterrupt):
        assign([first, (asks(1, 2)[0], broken)], SOURCE, ["w"], **settings)
    assert (tmp_path / "checkpoint").is_file()
    resumed, _ = assign([first, asks(1, 2)], SOURCE, ["w"], **settings)
    whole, _ = assign([first, asks(1, 2)], SOURCE, ["w"], **{**settings, "resume": None})
    assert torch.equal(resumed["w"], whole["w"])
    with pytest.raises(KeyboardInterrupt):
        assign([first, (asks(1, 2)[0], broken)], SOURCE, ["w"], **settings)
    dear, _ = assign([first, asks(1, 2)], SOURCE, ["w"], **{**settings, "penalty": 1.0})
    fresh, _ = assign([first, asks(1, 2)], SOURCE, ["w"], **{**settings, "penalty": 1.0, "resume": None})
    assert torch.equal(dear["w"], fresh["w"])


def test_the_source_is_left_alone():
    source = {name: tensor.clone() for name, tensor in SOURCE.items()}
    assign([asks(0), asks(1)], source, ["w"], steps=5)
    assert torch.equal(source["w"], SOURCE["w"])
