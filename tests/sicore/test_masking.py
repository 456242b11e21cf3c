import itertools
import math
import re
from collections import Counter

import pytest
import torch
from torch import nn
from torch.func import functional_call

from sicore import ContinuousSparsification, maskable, matching, parameter_groups

FAMILY = ContinuousSparsification()


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.embed = nn.Embedding(5, 4)
        self.conv1 = nn.Conv1d(2, 3, 2)
        self.conv2 = nn.Conv2d(2, 3, 2, bias=False)
        self.batch = nn.BatchNorm2d(3)
        self.group = nn.GroupNorm(1, 3)
        self.layer = nn.LayerNorm(4)
        self.rms = nn.RMSNorm(4)
        self.head = nn.Linear(4, 5)


def test_maskable_takes_weights_of_linear_and_convolutional_layers_in_model_order():
    assert maskable(Everything()) == ("conv1.weight", "conv2.weight", "head.weight")


def test_maskable_takes_embeddings_on_request_only():
    assert maskable(Everything(), embeddings=True) == ("embed.weight", "conv1.weight", "conv2.weight", "head.weight")


def test_maskable_on_a_bare_layer_names_its_weight():
    assert maskable(nn.Linear(2, 3)) == ("weight",)


def test_maskable_takes_the_four_projections_of_every_gpt2_block(tiny_gpt2):
    expected = tuple(
        f"transformer.h.{layer}.{part}.weight"
        for layer in range(2)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    )
    assert maskable(tiny_gpt2(n_layer=2), include="transformer.h.*") == expected
    assert maskable(tiny_gpt2(n_layer=2), exclude="lm_head.weight") == expected


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("conv*", (), ("conv1.weight", "conv2.weight")),
        (["head.*", "conv1.*"], (), ("conv1.weight", "head.weight")),
        ("*", "head.weight", ("conv1.weight", "conv2.weight")),
        ("*", ["conv?.weight"], ("head.weight",)),
    ],
)
def test_maskable_patterns(include, exclude, expected):
    assert maskable(Everything(), include, exclude) == expected


@pytest.mark.parametrize("include", ["*", "lm_head.weight"])
def test_tied_head_of_gpt2_is_an_error_with_both_names(tiny_gpt2, include):
    with pytest.raises(ValueError, match="tied") as error:
        maskable(tiny_gpt2(), include)
    assert "'lm_head.weight'" in str(error.value)
    assert "'transformer.wte.weight'" in str(error.value)


def test_tied_embedding_is_an_error_with_both_names(tiny_gpt2):
    with pytest.raises(ValueError, match="tied") as error:
        maskable(tiny_gpt2(), "transformer.wte.weight", embeddings=True)
    assert "'lm_head.weight'" in str(error.value)


def test_tied_head_is_masked_once_under_its_first_name(tiny_gpt2):
    assert maskable(tiny_gpt2(), "lm_head.weight", tied=True) == ("transformer.wte.weight",)
    names = maskable(tiny_gpt2(), "*w*e*", embeddings=True, tied=True)
    assert Counter(names)["transformer.wte.weight"] == 1
    assert "lm_head.weight" not in names


def test_two_layers_of_one_weight_are_an_error_with_both_names():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    with pytest.raises(ValueError, match=r"'0\.weight'.*'1\.weight'"):
        maskable(net)


@pytest.mark.parametrize("include", ["*.bias", "embed.weight", "batch.*"])
def test_selecting_no_weight_is_an_error_that_lists_what_there_is(include):
    with pytest.raises(ValueError, match="select no weight of Everything") as error:
        maskable(Everything(), include)
    assert repr(include) in str(error.value)
    for name in ("conv1.weight", "conv2.weight", "head.weight"):
        assert name in str(error.value)


@pytest.mark.parametrize("what", ["include", "exclude", "others"])
@pytest.mark.parametrize("pattern", ["Head.weight", "missing", "head", "batch[0].weight"])
def test_a_pattern_that_matches_no_parameter_is_an_error(what, pattern):
    for patterns in (pattern, ["*", pattern]):
        with pytest.raises(ValueError, match=f"{what}: '{re.escape(pattern)}' matches no parameter; there are token"):
            maskable(Everything(), **{what: patterns})


def test_model_without_maskable_layers_is_an_error():
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        maskable(nn.LayerNorm(3))


def test_groups_of_every_kind():
    assert parameter_groups(Everything()) == {
        "embeddings": ("embed.weight",),
        "norms": (
            "batch.weight", "batch.bias", "batch.running_mean", "batch.running_var", "batch.num_batches_tracked",
            "group.weight", "group.bias", "layer.weight", "layer.bias", "rms.weight",
        ),
        "biases": ("conv1.bias", "head.bias"),
        "tokens": ("token",),
        "others": (),
    }  # fmt: skip


def test_groups_and_maskable_weights_partition_gpt2(tiny_gpt2):
    model = tiny_gpt2(n_layer=2)
    groups = parameter_groups(model)
    counts = Counter([*maskable(model, exclude="lm_head.weight"), *(n for names in groups.values() for n in names)])
    assert counts == Counter(name for name, _ in model.named_parameters())
    assert groups["embeddings"] == ("transformer.wte.weight", "transformer.wpe.weight")
    assert len(groups["norms"]) == 2 * (2 * 2 + 1)
    assert len(groups["biases"]) == 4 * 2
    assert groups["tokens"] == ()


def test_matching_keeps_order_and_is_case_sensitive():
    names = ["b.weight", "a.weight", "a.bias"]
    assert matching(names, ["a.*", "b.*"]) == names
    assert matching(names, "A.*") == []
    assert matching(names, []) == []


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
