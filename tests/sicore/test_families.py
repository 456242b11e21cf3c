"""Mask families: properties that all of them share, and numbers computed by hand for each."""

import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch.func import functional_call

import sicore as si
from sicore import ContinuousSparsification, maskable

sys.path[:0] = [str(Path(__file__).parent)]
from test_discovery import two_layer_losses, two_layers  # noqa: E402

FAMILY = ContinuousSparsification()


@dataclass(frozen=True)
class OfYours:
    """The hard mask from the first step on, with the gradient of a sigmoid; it inherits nothing."""

    begin: float = 0.1

    def start(self, weight):
        return torch.full_like(weight, self.begin, dtype=torch.float32)

    def schedule(self, step, steps):
        return 1.0

    def noise(self, uniform):
        return None

    def soft(self, logits, at):
        smooth = torch.sigmoid(logits)
        return self.hard(logits).float() + smooth - smooth.detach()

    def hard(self, logits):
        return logits > 0

    def price(self, logits, soft, at):
        return soft


NOISY = [
    si.HardConcrete(),
    si.HardConcrete(initial_logit=0.5, temperature=0.3, low=-0.2, high=1.4),
    si.GaussianGate(),
    si.GaussianGate(initial_logit=0.2, deviation=1.0),
    si.StraightThrough(initial_logit=0.1),
    si.StraightThrough(initial_logit=0.1, temperature=0.5),
]
FAMILIES = [
    ContinuousSparsification(),
    ContinuousSparsification(initial_logit=0.1, initial=10.0),
    ContinuousSparsification(stages=7, final=300.0, skip=True),
    *NOISY,
    OfYours(),
]
SCORES = [si.Magnitude(), si.GradientTimesWeight(), si.GradientTimesWeight(batches=3)]
for_every_family = pytest.mark.parametrize("family", FAMILIES, ids=repr)
for_every_noisy_family = pytest.mark.parametrize("family", NOISY, ids=repr)
UNIFORM = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


def one_of_two(**settings):
    """Weights 3 and 5, of which the task needs the first: is it alone kept?"""
    settings = {"steps": 300, "lr": 0.05, "penalty": 0.1, **settings}
    needed = lambda params, context, batch, step: (params["w"][:, 0] - 3).square()  # noqa: E731
    return si.discover(needed, {"w": torch.tensor([[3.0, 5.0]])}, ["w"], lambda step, active: None, **settings)


# Every family


def ends(family, logit, source):
    """The source under the mask of the same logit everywhere, at the end of a search."""
    logits = torch.full_like(source, logit)
    return source * family.soft(logits, family.schedule(99, 100)), source * family.hard(logits)


@for_every_family
def test_masks_have_the_shape_of_the_logits_and_the_hard_one_is_boolean(family, rng):
    weight = torch.randn(3, 4, 5, generator=rng)
    logits = family.start(weight)
    assert (logits.shape, logits.dtype) == (weight.shape, torch.float32)
    for values in (logits, torch.randn(3, 4, 5, generator=rng)):
        at = family.schedule(0, 10)
        soft, hard = family.soft(values, at), family.hard(values)
        assert soft.shape == hard.shape == family.price(values, soft, at).shape == values.shape
        assert hard.dtype == torch.bool
        assert 0 <= float(soft.min()) <= float(soft.max()) <= 1
        assert torch.equal(family.soft(values, torch.tensor(at)), soft), "a tensor does as a number does"


@for_every_family
def test_large_logits_give_the_source_to_the_bit_and_small_ones_nothing(family, rng):
    source = torch.randn(3, 50, generator=rng)
    for logit in (1e3, torch.inf):
        assert all(torch.equal(masked, source) for masked in ends(family, logit, source))
        assert all(not masked.any() for masked in ends(family, -logit, source))


@for_every_family
def test_the_hard_mask_is_the_soft_one_without_noise_where_that_has_decided(family, rng):
    logits = torch.randn(500, generator=rng)
    soft, hard = family.soft(logits, family.schedule(99, 100)), family.hard(logits)
    assert hard[soft > 0.5].all()
    assert not hard[soft < 0.5].any()


@for_every_family
def test_gradient_of_the_price_is_a_finite_difference(family, rng):
    at = family.schedule(20, 100)
    logits = (0.2 * torch.randn(40, generator=rng)).double().requires_grad_()
    family.price(logits, family.soft(logits, at), at).sum().backward()

    def price(values):
        return (
            torch.sigmoid(values) if isinstance(family, OfYours) else family.price(values, family.soft(values, at), at)
        )

    with torch.no_grad():
        difference = (price(logits + 1e-6) - price(logits - 1e-6)) / 2e-6
    torch.testing.assert_close(logits.grad, difference, atol=1e-5, rtol=1e-4)
    assert float(logits.grad.min()) >= 0, "to keep more never costs less"


@for_every_family
def test_a_search_shuffled_is_the_search_of_the_shuffled_stack(family, rng):
    source, batches = two_layers(rng)
    order = torch.tensor([2, 0, 1])
    settings = {"steps": 12, "lr": 0.05, "family": family, "every": 4}
    for more in ({}, {"density": [0.5, 0.3, 0.1]}):
        masks, trained = si.discover(
            two_layer_losses, source, ["w"], batches, penalty=[0.001, 0.01, 0.1], seeds=[5, 6, 7], **settings, **more
        )
        shuffled = {name: tensor[order] for name, tensor in source.items()}
        others, again = si.discover(
            two_layer_losses, shuffled, ["w"], lambda step, active: batches(step, order[active]),
            penalty=[0.1, 0.001, 0.01], seeds=[7, 5, 6], **settings,
            **{name: [values[2], values[0], values[1]] for name, values in more.items()},
        )  # fmt: skip
        assert torch.equal(masks["w"][order], others["w"])
        assert torch.equal(trained.params["w"][order], again.params["w"])
        rows = {(row["model"], row["step"]): row | {"model": 0} for row in trained.history}
        assert [row | {"model": 0} for row in again.history] == [
            rows[int(order[row["model"]]), row["step"]] for row in again.history
        ]


@for_every_family
def test_every_family_finds_the_weight_that_matters(family):
    assert one_of_two(family=family)[0]["w"].tolist() == [[True, False]]


@for_every_family
def test_the_loss_of_the_history_is_the_task_alone(family, rng):
    """And a penalty moves it only by what it does to the masks: at the first step, not at all."""
    source, batches = two_layers(rng)
    first = [
        si.discover(two_layer_losses, source, ["w"], batches, steps=1, penalty=penalty, family=family)[1].history
        for penalty in (0.0, 1e3)
    ]
    assert [row["loss"] for row in first[0]] == [row["loss"] for row in first[1]]
    if family not in NOISY:
        soft = family.soft(family.start(source["w"]), family.schedule(0, 1))
        task = two_layer_losses(source | {"w": source["w"] * soft}, {}, batches(0, torch.arange(3)), 0)
        assert [row["loss"] for row in first[0]] == pytest.approx(task.tolist(), rel=1e-6)


def share_kept(density, family, rng, **settings):
    """Of two linear networks that are to do what they did, [2]."""
    source = {"w": torch.randn(2, 40, 60, generator=rng)}
    x = torch.randn(2, 64, 40, generator=rng)
    wanted = torch.einsum("kbi,kio->kbo", x, source["w"])

    def linear(params, context, batch, step):
        return (x[context["index"]] @ params["w"] - wanted[context["index"]]).square().mean((1, 2))

    settings = {"steps": 800, "lr": 0.02, "penalty": 1e-3, "density": density, "family": family, **settings}
    masks, _ = si.discover(linear, source, ["w"], lambda step, active: None, **settings)
    return [float(mask.float().mean()) for mask in masks["w"]]


@pytest.mark.parametrize("family", [si.HardConcrete(), si.GaussianGate(), si.StraightThrough()], ids=repr)
@pytest.mark.parametrize("density", [0.05, 0.25])
def test_a_set_density_is_reached(family, density, rng):
    assert share_kept(density, family, rng, lr=0.05) == pytest.approx([density] * 2, abs=0.01)


@pytest.mark.parametrize(("density", "within"), [(0.05, 0.01), (0.25, 0.03)])
def test_continuous_sparsification_comes_near_a_set_density_where_every_weight_matters(density, within, rng):
    assert share_kept(density, FAMILY, rng) == pytest.approx([density] * 2, abs=within)


@pytest.mark.filterwarnings("ignore:the mask of model", "ignore:density = ")
@pytest.mark.parametrize(
    ("family", "settings"),
    [(si.HardConcrete(initial_logit=2.0), {}), (si.StraightThrough(initial_logit=3.0), {"penalty": 0.1})],
)  # fmt: skip
def test_a_start_far_above_the_target_does_not_end_the_search(family, settings, rng):
    kept = share_kept(0.05, family, rng, lr=0.05, **settings)
    assert all(0.01 < share < 0.2 for share in kept), "lambda is bounded: the optimiser's moments stay finite"


@pytest.mark.parametrize("K", [8, 17])
def test_with_a_set_density_too_a_model_does_not_depend_on_its_stack(K, rng):
    source = {"w": torch.randn(K, 4, 16, generator=rng), "u": torch.randn(K, 16, generator=rng)}
    x, y = torch.randn(K, 32, 4, generator=rng), torch.randn(K, 32, generator=rng)
    settings = {"steps": 25, "lr": 0.05, "penalty": 0.01, "density": 0.3, "family": FAMILY}
    batches = lambda step, active: (x[active], y[active])  # noqa: E731
    _, together = si.discover(two_layer_losses, source, ["w"], batches, **settings)
    for k in (1, 2, 6, K - 1):
        own = {name: tensor[k : k + 1] for name, tensor in source.items()}
        only = lambda step, active, k=k: (x[k : k + 1], y[k : k + 1])  # noqa: E731
        _, alone = si.discover(two_layer_losses, own, ["w"], only, **settings)
        assert torch.equal(alone.params["w"][0], together.params["w"][k])


@pytest.mark.parametrize("settings", [{"penalty": 0.0}, {"clip": 1.0}, {"weight_decay": 0.01}])
def test_what_would_act_on_lambda_is_refused_with_a_set_density(settings):
    with pytest.raises(ValueError, match=r"density = 0\.5 with penalty = .*lambda is moved in units of penalty"):
        one_of_two(**{"density": 0.5, **settings})


def test_lambda_in_the_history_is_the_penalty_at_first_moved_and_no_parameter(rng):
    source, batches = two_layers(rng)
    settings = {"steps": 60, "lr": 0.05, "penalty": 0.01, "density": 0.2, "every": 1}
    _, trained = si.discover(two_layer_losses, source, ["w"], batches, **settings)
    assert set(trained.params) == {"w"}
    course = [row["penalty"] for row in trained.history if row["model"] == 0]
    assert abs(course[0]) < 0.01 * math.sinh(20 / 60 + 0.01)
    assert max(course) > 0.02


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("mask", r"family\.hard gives 'w' a mask of type torch\.float32"),
        ("rows", r"family\.hard gives 'w' a mask of type torch\.bool and shape \(1, 1\)"),
    ],
)  # fmt: skip
def test_a_hard_mask_of_another_kind_is_refused_before_the_search(family, said):
    class Odd(ContinuousSparsification):
        def hard(self, logits):
            return (logits > 0).float() if family == "mask" else (logits > 0).any(1, keepdim=True)

    with pytest.raises(ValueError, match=said):
        one_of_two(family=Odd())


def test_a_family_that_both_ranks_and_learns_is_refused():
    class Both(ContinuousSparsification):
        batches = 1

        def score(self, weight, gradient):
            return weight

    with pytest.raises(TypeError, match="both score and soft"):
        one_of_two(family=Both(), density=0.5)


@pytest.mark.parametrize(
    "other",
    [
        {"family": si.StraightThrough()}, {"family": si.HardConcrete(temperature=0.1)}, {"seeds": [1, 0]},
        {"density": [0.6, 0.1]}, {"outside": lambda step, active: {}},
        {"complement": lambda params, context, batch, step: params["w"].sum((1, 2))},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_another_search_does_not_go_on_from_a_checkpoint(other, rng, tmp_path):
    source, batches = two_layers(rng, K=2)
    settings = {
        "steps": 30, "lr": 0.05, "penalty": 0.01, "family": si.HardConcrete(), "seeds": [0, 1], "density": [0.1, 0.6],
        "every": 10, "resume": si.Resume(tmp_path / "checkpoint", seconds=0),
    }  # fmt: skip

    def broken(step, active):
        if step == 20:
            raise KeyboardInterrupt
        return batches(step, active)

    with pytest.raises(KeyboardInterrupt):
        si.discover(two_layer_losses, source, ["w"], broken, **settings)
    settings |= other
    masks, _ = si.discover(two_layer_losses, source, ["w"], batches, **settings)
    fresh, _ = si.discover(two_layer_losses, source, ["w"], batches, **{**settings, "resume": None})
    assert torch.equal(masks["w"], fresh["w"])


def test_a_density_that_is_missed_is_said_with_what_to_change(rng):
    with pytest.warns(UserWarning, match=r"density = 0\.05 was asked for, and the mask of model 0 keeps 0 \(lr = "):
        share_kept(0.05, FAMILY, rng, steps=20)


def test_a_family_whose_logits_have_another_shape_is_refused_by_name():
    @dataclass(frozen=True)
    class PerTensor(OfYours):
        def start(self, weight):
            return torch.zeros(len(weight))

    with pytest.raises(ValueError, match=r"family\.start gives 'w' the shape \(1,\), the source \(1, 2\)"):
        one_of_two(family=PerTensor())


# Families with noise


@for_every_noisy_family
def test_the_price_is_the_probability_of_a_mask_above_0(family):
    for logit in (-1.0, -0.3, 0.0, 0.4, 1.5):
        soft = family.soft(logit + family.noise(UNIFORM), 1.0)
        assert family.price(torch.tensor(logit).double(), soft, 1.0).item() == pytest.approx(
            float((soft > 0).double().mean()), abs=1e-4
        )


@for_every_noisy_family
def test_without_noise_the_mask_is_the_median(family):
    for logit in (-0.7, -0.1, 0.2, 1.0):
        soft = family.soft(logit + family.noise(UNIFORM), 1.0)
        without = family.soft(torch.tensor(logit).double(), 1.0)
        assert float(soft.quantile(0.5)) == pytest.approx(float(without), abs=1e-3)


@for_every_noisy_family
def test_noise_differs_by_seed_step_and_weight_and_is_that_of_the_seed_alone(family, rng):
    source, batches = two_layers(rng, K=2)
    seen = []

    def watch(params, context, batch, step):
        seen.append((params["w"] / source["w"][context["index"]]).detach())
        return two_layer_losses(params, context, batch, step)

    def run(seeds, which):
        seen.clear()
        stack = {name: tensor[which] for name, tensor in source.items()}
        plain = lambda params, context, batch, step: watch(  # noqa: E731
            params, context | {"index": torch.tensor(which)[context["index"]]}, batch, step
        )
        feed = lambda step, active: batches(step, torch.tensor(which)[active])  # noqa: E731
        return si.discover(plain, stack, ["w"], feed, steps=3, lr=1e-3, family=family, seeds=seeds)[1], list(seen)

    both, masks = run([3, 9], [0, 1])
    alone, _ = run([9], [1])
    assert torch.equal(both.params["w"][1], alone.params["w"][0])
    assert not torch.equal(masks[0][0], masks[0][1]), "another seed, another noise"
    assert not torch.equal(masks[0], masks[1]), "another step, another noise"
    assert len(masks[0][0].unique()) > 1, "another weight, another noise"


def test_frequencies_of_the_masks_in_a_search_are_those_of_the_family(rng):
    family, seen = si.GaussianGate(initial_logit=-0.2, deviation=0.7), []

    def watch(params, context, batch, step):
        seen.append(params["w"].detach().clone())
        return params["w"].square().sum((1, 2))

    source = {"w": torch.ones(1, 30, 40)}
    si.discover(watch, source, ["w"], lambda s, a: None, steps=200, lr=1e-9, penalty=0.0, family=family)
    masks = torch.cat(seen)
    for found, exact in (((masks == 0), stats.norm.cdf(-0.3 / 0.7)), ((masks == 1), stats.norm.sf(0.7 / 0.7))):
        share = found.double().mean()
        assert abs(float(share) - exact) < 4 * math.sqrt(exact * (1 - exact) / masks.numel()) + 0.003
        by_weight = found.double().mean(0)  # over the steps
        assert float((by_weight - exact).abs().max()) < 6 * math.sqrt(exact * (1 - exact) / 200)
    first, second = masks[:-1].flatten(), masks[1:].flatten()
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.01, "from step to step it is new"


def test_hard_concrete_by_hand():
    # The probabilities of 0 and of 1 at a logit of -2, 0 and 2.
    family, logits = si.HardConcrete(), torch.tensor([-2.0, 0.0, 2.0])
    zero = [0.599, 0.168, 0.027]
    assert (1 - family.price(logits, logits, 1.0)).tolist() == pytest.approx(zero, abs=5e-4)
    for logit, one in zip(logits, reversed(zero), strict=True):
        soft = family.soft(logit + family.noise(UNIFORM), 1.0)
        assert float((soft == 1).double().mean()) == pytest.approx(one, abs=1e-3)


def test_gaussian_gate_by_hand():
    # A mean of .3 and a deviation of 1: 0 with probability .3821, 1 with .2420.
    family, logit = si.GaussianGate(deviation=1.0), torch.tensor(-0.2).double()
    soft = family.soft(logit + family.noise(UNIFORM), 1.0)
    assert float(1 - family.price(logit, soft, 1.0)) == pytest.approx(0.3821, abs=1e-4)
    assert float((soft == 1).double().mean()) == pytest.approx(0.2420, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_straight_through_is_binary_with_the_gradient_of_a_sigmoid(temperature, rng):
    family = si.StraightThrough(temperature=temperature)
    logits = torch.randn(50, generator=rng).requires_grad_()
    soft = family.soft(logits, 1.0)
    assert set(soft.tolist()) == {0.0, 1.0}
    soft.sum().backward()
    smooth = torch.sigmoid(logits.detach() / temperature)
    torch.testing.assert_close(logits.grad, smooth * (1 - smooth) / temperature)


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        (si.HardConcrete, "temperature", 0.0), (si.HardConcrete, "temperature", math.inf),
        (si.HardConcrete, "low", 0.0), (si.HardConcrete, "low", -math.inf), (si.HardConcrete, "high", 1.0),
        (si.HardConcrete, "initial_logit", math.nan), (si.GaussianGate, "deviation", 0.0),
        (si.GaussianGate, "deviation", -1.0), (si.GaussianGate, "initial_logit", math.inf),
        (si.StraightThrough, "temperature", -1.0), (si.StraightThrough, "initial_logit", math.nan),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(family, name, value):
    with pytest.raises(ValueError, match=f"^{name} = {value!r}"):
        family(**{name: value})


def test_seeds_for_another_number_of_searches_are_refused():
    with pytest.raises(ValueError, match="seeds has 2 values, one for each of 1 searches"):
        one_of_two(family=si.HardConcrete(), seeds=[1, 2])


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, math.nan, [0.1, 0.2]])
def test_a_density_out_of_range_is_refused(density):
    with pytest.raises(ValueError, match="density"):
        one_of_two(density=density)


# Families that only rank


@pytest.mark.parametrize("family", SCORES, ids=repr)
def test_a_ranking_keeps_the_asked_share_over_all_tensors_and_takes_no_step(family, rng):
    source, batches = two_layers(rng)
    masks, trained = si.discover(
        two_layer_losses, source, ["w", "u"], batches, steps=7, density=[0.1, 0.25, 1.0], family=family,
        accuracy=lambda params, active: (params["u"] != 0).float().mean(1),
    )  # fmt: skip
    kept = [sum(int(mask[k].sum()) for mask in masks.values()) for k in range(3)]
    assert kept == [8, 20, 80]
    assert trained.steps == [0, 0, 0]
    assert [row["density"] for row in trained.history] == pytest.approx([0.1, 0.25, 1.0])
    assert [row["accuracy"] for row in trained.history] == pytest.approx(masks["u"].float().mean(1).tolist())


def test_magnitude_keeps_the_largest_weights_by_hand():
    source = {"w": torch.tensor([[1.0, -4.0, 2.0]]), "u": torch.tensor([[3.0, -0.5]])}
    zero = lambda params, context, batch, step: params["w"].sum(1) * 0  # noqa: E731
    masks, _ = si.discover(zero, source, ["w", "u"], lambda s, a: None, steps=1, density=0.4, family=si.Magnitude())
    assert masks["w"].tolist() == [[False, True, False]]
    assert masks["u"].tolist() == [[True, False]]


def test_gradient_times_weight_by_hand():
    # The loss w0 * w1 + 2 w2 has the gradients w1, w0 and 2: scores |1 * -4|, |-4 * 1| and |2 * .5|.
    source = {"w": torch.tensor([[1.0, -4.0, 0.5]])}
    task = lambda params, context, batch, step: params["w"][:, 0] * params["w"][:, 1] + 2 * params["w"][:, 2]  # noqa: E731
    masks, found = si.discover(
        task, source, "w", lambda s, a: None, steps=1, density=2 / 3, family=si.GradientTimesWeight()
    )
    assert found.params["w"].tolist() == [[4.0, 4.0, 1.0]]
    assert masks["w"].tolist() == [[True, True, False]]


def test_the_gradient_of_a_ranking_is_the_mean_over_its_batches_in_float32():
    """Three batches of the loss w0 * x with x = 1, 2 and 6; in bfloat16 a thousand of a thousandth would get lost."""
    source = {"w": torch.ones(1, 2, dtype=torch.bfloat16), "idle": torch.ones(1, 2)}
    xs = [1.0, 2.0, 6.0]
    task = lambda params, context, batch, step: params["w"][:, 0].float() * batch  # noqa: E731
    _, found = si.discover(
        task, source, ["w", "idle"], lambda step, active: xs[step % 3], steps=1, density=0.5,
        family=si.GradientTimesWeight(batches=3000),
    )  # fmt: skip
    assert found.params["w"].tolist() == [[pytest.approx(3.0, rel=1e-3), 0.0]]
    assert found.params["idle"].tolist() == [[0.0, 0.0]], "the loss does not use it"


def test_a_score_that_is_not_finite_is_an_error_that_names_the_model():
    source = {"w": torch.tensor([[1.0, 2.0], [math.nan, 1.0]])}
    zero = lambda params, context, batch, step: params["w"].sum(1)  # noqa: E731
    with pytest.raises(FloatingPointError, match="a score of model 1 is not finite, in 'w'"):
        si.discover(zero, source, "w", lambda s, a: None, steps=1, density=0.5, family=si.Magnitude())


@pytest.mark.parametrize("batches", [0, -1, 2.5, True])
def test_numbers_of_batches_out_of_range_are_named(batches):
    with pytest.raises(ValueError, match=f"batches = {batches!r}"):
        si.GradientTimesWeight(batches=batches)


@pytest.mark.parametrize("name", ["outside", "complement"])
def test_a_ranking_takes_no_steps_and_so_neither_of_these(name):
    with pytest.raises(ValueError, match="ranks weights and takes no steps"):
        one_of_two(family=si.Magnitude(), density=0.5, **{name: lambda *given: {}})


def test_a_ranking_without_a_density_is_refused():
    with pytest.raises(ValueError, match=r"Magnitude.* ranks weights: it needs density"):
        one_of_two(family=si.Magnitude())


# Continuous sparsification


def test_soft_mask_values():
    logits = torch.tensor([-1.0, 0.0, math.log(3) / 2])
    assert FAMILY.soft(logits, 2.0).tolist() == pytest.approx([1 / (1 + math.exp(2)), 0.5, 0.75])
    assert torch.equal(FAMILY.soft(logits, torch.tensor(2.0)), FAMILY.soft(logits, 2.0))


@pytest.mark.parametrize("T", [1.0, 7.5, torch.tensor(100.0)])
def test_gradient_of_the_soft_mask_is_that_of_the_plain_formula(rng, T):
    logits, away = (0.1 * torch.randn(3, 4, generator=rng)).requires_grad_(), torch.randn(3, 4, generator=rng)
    (FAMILY.soft(logits, T) * away).sum().backward()
    plain = logits.detach().double().requires_grad_()
    (torch.sigmoid(float(T) * plain) * away.double()).sum().backward()
    torch.testing.assert_close(logits.grad.double(), plain.grad, atol=2e-6 * float(T), rtol=1e-5)


def test_soft_mask_closes_in_on_the_hard_mask_as_the_temperature_grows(rng):
    logits = torch.randn(200, generator=rng)
    gaps = [float((FAMILY.soft(logits, T) - FAMILY.hard(logits).float()).abs().max()) for T in (1, 10, 100, 1e6)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.4
    assert gaps[-1] < 1e-6


def test_hard_mask_keeps_only_positive_logits():
    mask = FAMILY.hard(torch.tensor([-1e-9, 0.0, 1e-9]))
    assert mask.dtype == torch.bool
    assert mask.tolist() == [False, False, True]


def test_a_weight_costs_its_soft_mask(rng):
    logits = torch.randn(3, 4, generator=rng)
    soft = FAMILY.soft(logits, 5.0)
    assert torch.equal(FAMILY.price(logits, soft, 5.0), soft)


def test_initial_logits_are_constant_and_leave_the_source_alone():
    weight = torch.ones(2, 3, dtype=torch.bfloat16)
    logits = ContinuousSparsification(initial_logit=-0.25).start(weight)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, torch.full((2, 3), -0.25))
    assert float(FAMILY.start(weight)[0, 0]) == pytest.approx(-0.1)
    assert torch.equal(weight, torch.ones(2, 3, dtype=torch.bfloat16))


def test_full_mask_gives_the_models_own_output_bit_for_bit(tiny_gpt2):
    model = tiny_gpt2(n_layer=2).eval()
    params = dict(model.named_parameters())
    names = maskable(model, "transformer.h.*")
    full = {name: FAMILY.hard(torch.ones_like(params[name])) for name in names}
    inputs = torch.arange(12).reshape(4, 3)
    expected = model(inputs).logits
    for masked in (
        {name: params[name] * full[name] for name in names},
        {name: torch.where(full[name], params[name], torch.full_like(params[name], math.nan)) for name in names},
        {name: params[name] * FAMILY.soft(torch.full_like(params[name], 5.0), 100.0) for name in names},
    ):
        assert torch.equal(functional_call(model, masked, (inputs,)).logits, expected)
    empty = {name: params[name] * ~full[name] for name in names}
    assert not torch.equal(functional_call(model, empty, (inputs,)).logits, expected)


def temperatures(steps, every=range(0), **settings):
    family = ContinuousSparsification(**settings)
    return [family.schedule(step, steps) for step in every or range(steps)]


def test_temperature_by_hand():
    # Five stages of two steps; 16^(1/4) = 2.
    assert temperatures(10, stages=5, final=16.0) == pytest.approx([1, 1, 2, 2, 4, 4, 8, 8, 16, 16])
    assert temperatures(5, stages=5, initial=0.5, final=8.0) == pytest.approx([0.5, 1, 2, 4, 8])


def test_temperature_with_the_first_multiplication_applied_twice():
    values = temperatures(10, stages=5, final=16.0, skip=True)
    assert values == pytest.approx([1, 1, 4, 4, 8, 8, 16, 16, 32, 32])


def test_papers_temperature_ends_at_100_and_multiplies_by_a_constant():
    values = temperatures(5000, range(0, 5000, 100))
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(100.0)
    assert [b / a for a, b in itertools.pairwise(values)] == pytest.approx([100 ** (1 / 49)] * 49)


def test_temperature_never_falls_and_stays_within_its_ends_for_awkward_lengths():
    for steps in (1, 2, 7, 49, 51, 123):
        values = temperatures(steps, range(steps + 3), final=30.0)
        assert values == sorted(values)
        assert values[0] == 1.0
        assert values[-1] == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stages", 1), ("stages", 0), ("stages", 2.0), ("stages", True), ("initial", 0.0), ("initial", -1.0),
        ("initial", math.inf), ("initial", math.nan), ("final", 1.0), ("final", math.inf), ("final", math.nan),
        ("initial_logit", math.nan), ("initial_logit", -math.inf),
    ],
)  # fmt: skip
def test_settings_of_the_family_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} = {value!r}"):
        ContinuousSparsification(**{name: value})


def test_a_family_is_a_value():
    assert ContinuousSparsification(final=30.0) == ContinuousSparsification(final=30.0)
    with pytest.raises(AttributeError):
        FAMILY.final = 2.0
