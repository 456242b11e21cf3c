"""Fresh weights outside of the mask: what is drawn, from where, and what a search makes of it."""

import math

import pytest
import torch
from torch import nn

import sicore as si


def net(seed):
    with si.seeded(seed, "net"):
        return nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 5))


NAMES = ["0.weight", "1.weight"]


def test_what_is_drawn_has_the_shapes_of_the_tensors_and_the_law_of_the_initialisation():
    outside = si.redrawn(net, NAMES, steps=50, seeds=[0, 1], networks=8)
    drawn = [outside(step, torch.arange(2)) for step in range(50)]
    for name, width in (("0.weight", 30), ("1.weight", 40)):
        values = torch.stack([one[name] for one in drawn])
        assert values.shape[2:] == dict(net(0).named_parameters())[name].shape
        bound = 1 / math.sqrt(width)  # of nn.Linear, uniform
        assert float(values.abs().max()) <= bound
        assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert abs(float(values.mean())) < 0.02 * bound


def test_every_step_model_and_weight_has_another_draw():
    outside = si.redrawn(net, NAMES, steps=20, seeds=[0, 1])
    a, b = (outside(step, torch.arange(2))["0.weight"] for step in (3, 4))
    assert not torch.equal(a, b)
    assert not torch.equal(a[0], a[1])
    assert len(a[0].unique()) == a[0].numel()
    steps = torch.stack([outside(step, torch.arange(1))["0.weight"] for step in range(20)]).flatten(1)
    assert abs(float(torch.corrcoef(steps).fill_diagonal_(0).abs().max())) < 0.2


def test_a_model_has_the_same_draws_in_any_stack_and_whenever_it_is_asked():
    alone = si.redrawn(net, NAMES, steps=9, seeds=[7])
    beside = si.redrawn(net, NAMES, steps=9, seeds=[3, 7, 4])
    for step in (8, 0, 5):
        one, some = alone(step, torch.tensor([0])), beside(step, torch.tensor([1, 2]))
        assert all(torch.equal(one[name][0], some[name][0]) for name in NAMES)


def test_a_step_that_is_a_tensor_does_as_a_number_does():
    for every in (1, 3):
        outside = si.redrawn(net, NAMES, steps=9, seeds=[7], every=every)
        for step in range(9):
            captured, plain = outside(torch.tensor(step), torch.arange(1)), outside(step, torch.arange(1))
            for name in NAMES:
                assert torch.equal(captured[name], plain.get(name, torch.zeros(1, *captured[name].shape[1:])))
            assert bool(plain) == (step % every == 0)


def test_still_is_the_same_draw_at_every_step():
    outside = si.redrawn(net, NAMES, steps=9, seeds=[7], still=True)
    first = outside(0, torch.arange(1))
    assert first["0.weight"].any()
    for step in (1, 8, torch.tensor(5)):
        assert all(torch.equal(first[name], outside(step, torch.arange(1))[name]) for name in NAMES)


def test_a_network_that_leaves_its_seed_alone_is_drawn_by_it_all_the_same():
    one, other = (si.redrawn(lambda seed: nn.Linear(3, 2), "weight", steps=3, seeds=[5]) for _ in range(2))
    assert torch.equal(one(1, torch.arange(1))["weight"], other(1, torch.arange(1))["weight"])


def test_as_many_networks_are_drawn_from_as_are_asked_for_each_with_a_seed_of_its_own():
    seen = []
    si.redrawn(lambda seed: seen.append(seed) or net(seed), NAMES, steps=3, seeds=[5, 6], networks=7)
    assert len(seen) == len(set(seen)) == 14


@pytest.mark.parametrize("shape", [(2,), (1, 1), (2, 2), ()])
def test_outside_of_another_shape_is_refused_before_the_search(shape):
    steps = []
    losses = lambda params, context, batch, step: steps.append(step) or params["w"].sum(1)  # noqa: E731
    with pytest.raises(ValueError, match=r"outside gives 'w' the shape .*, the source has \[1, 2\]"):
        si.discover(
            losses, {"w": torch.ones(1, 2)}, "w", lambda s, a: None, steps=3,
            outside=lambda step, active: {"w": torch.zeros(shape)},
        )  # fmt: skip
    assert steps == []


def test_fresh_weights_for_fewer_steps_than_the_search_takes_are_an_error_before_it():
    outside = si.redrawn(lambda seed: {"w": torch.ones(2)}, "w", steps=3, seeds=[0])
    with pytest.raises(IndexError):
        si.discover(
            lambda *given: pytest.fail("a step was taken"), {"w": torch.ones(1, 2)}, "w", lambda s, a: None, steps=4,
            outside=outside,
        )  # fmt: skip


def test_constant_initialisations_stay_constant():
    outside = si.redrawn(lambda seed: {"w": torch.full((3,), 2.5)}, "w", steps=4, seeds=[0])
    assert all(outside(step, torch.arange(1))["w"].tolist() == [[2.5] * 3] for step in range(4))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"names": ["2.weight"]}, "a fresh network has no 2.weight; it has 0.weight"), ({"steps": 0}, "steps = 0"),
        ({"every": 0}, "every = 0"), ({"networks": 1}, "networks = 1: expected an integer of 2 or more"),
        ({"networks": 2.0}, r"networks = 2\.0"), ({"seeds": [-1]}, "seed = -1"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(settings, said):
    settings = {"names": NAMES, "steps": 3, "seeds": [0], **settings}
    with pytest.raises(ValueError, match=said):
        si.redrawn(net, **settings)


def test_in_transplant_a_weight_is_kept_that_zeros_would_make_needless():
    """The output is w0 - w1, wanted 3, of w = (3, 0): beside zeros w0 is enough, beside fresh weights w1 must be 0."""
    source = {"w": torch.tensor([[3.0, 0.0]])}
    losses = lambda params, context, batch, step: (params["w"][:, 0] - params["w"][:, 1] - 3).square()  # noqa: E731
    kept = []
    for outside in (None, si.redrawn(lambda seed: {"w": 2 * torch.randn(2, generator=si.generator(seed))}, "w",
                                     steps=400, seeds=[0], networks=50)):  # fmt: skip
        masks, _ = si.discover(
            losses,
            source,
            "w",
            lambda s, a: None,
            steps=400,
            lr=0.05,
            penalty=0.1,
            outside=outside,
        )
        kept.append(masks["w"][0].tolist())
    assert kept == [[True, False], [True, True]]


# The rest of the network, driven to chance


def test_a_complete_subnetwork_leaves_nothing_outside_that_solves_the_task():
    """Either of two equal weights is enough for the task; the complement must have neither."""
    source = {"w": torch.tensor([[3.0, 3.0]])}
    losses = lambda params, context, batch, step: (params["w"].amax(1) - 3).square()  # noqa: E731
    rest = lambda params, context, batch, step: params["w"].square().sum(1)  # noqa: E731
    settings = {"steps": 300, "lr": 0.05, "penalty": 0.05, "family": si.ContinuousSparsification(initial_logit=0.1)}
    source["w"][0, 1] = 2.9
    plain, _ = si.discover(losses, source, "w", lambda s, a: None, **settings)
    whole, _ = si.discover(losses, source, "w", lambda s, a: None, complement=rest, **settings)
    assert plain["w"].tolist() == [[True, False]]
    assert whole["w"].tolist() == [[True, True]]


def test_the_complement_is_the_source_times_one_minus_the_soft_mask():
    seen = []

    def rest(params, context, batch, step):
        seen.append({name: tensor.detach().clone() for name, tensor in params.items()})
        return params["w"].sum(1)

    source = {"w": torch.tensor([[3.0, -5.0]]), "kept": torch.tensor([[7.0]])}
    family = si.ContinuousSparsification(initial_logit=0.4)
    losses = lambda params, context, batch, step: params["w"].sum(1)  # noqa: E731
    _, found = si.discover(losses, source, "w", lambda s, a: None, steps=1, family=family, complement=rest, every=1)
    share = 1 / (1 + math.exp(0.4))
    assert seen[0]["w"][0].tolist() == pytest.approx([3 * share, -5 * share])
    assert torch.equal(seen[0]["kept"], source["kept"])
    assert found.history[0]["loss"] == pytest.approx(-2.0), "both losses: 3 - 5 in all"


def test_an_interrupted_search_with_all_of_it_resumes_to_the_same_bits(tmp_path):
    source = {"w": torch.randn(2, 30, generator=torch.Generator().manual_seed(0))}
    aim = source["w"].sum(1)
    losses = lambda params, context, batch, step: (params["w"].sum(1) - aim).square()  # noqa: E731
    settings = {
        "steps": 40, "lr": 0.05, "penalty": 0.01, "density": [0.3, 0.5], "seeds": [4, 5], "family": si.HardConcrete(),
        "outside": si.redrawn(lambda seed: {"w": torch.randn(30, generator=si.generator(seed))}, "w", steps=40,
                              seeds=[4, 5]),
        "complement": lambda params, context, batch, step: params["w"].square().mean(1), "every": 10,
    }  # fmt: skip
    expected, whole = si.discover(losses, source, "w", lambda s, a: None, **settings)

    def broken(step, active):
        if step == 25:
            raise KeyboardInterrupt

    resume = si.Resume(tmp_path / "checkpoint", seconds=0)
    with pytest.raises(KeyboardInterrupt):
        si.discover(losses, source, "w", broken, **settings, resume=resume)
    masks, resumed = si.discover(losses, source, "w", lambda s, a: None, **settings, resume=resume)
    assert torch.equal(masks["w"], expected["w"])
    assert all(torch.equal(tensor, resumed.params[name]) for name, tensor in whole.params.items())
    assert resumed.history == whole.history
