import re
from collections import Counter

import pytest
import torch
from torch import nn

from sicore import maskable, matching, parameter_groups


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
