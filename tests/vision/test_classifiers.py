"""Image classifiers: shapes, seeds, pretrained models from small files in the true formats, heads."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import resnet18

from companion.vision import classifiers as cl
from companion.vision.specs import masked
from companion.vision.stages import groups_of
from companion.vision.starts import INHERITED
from sicore.masking import maskable, parameter_groups
from sicore.stacks import state_of

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_small_resnet():
    model = cl.resnet(7, width=4).eval()
    assert cl.scores(model, IMAGES).shape == (2, 7)
    hidden = model.resnet(IMAGES).last_hidden_state
    assert hidden.shape == (2, 32, 4, 4), "three of four stages halve the image"
    halved = cl.resnet(7, width=4, stem=5, stride=2).eval()
    assert halved.resnet(IMAGES).last_hidden_state.shape == (2, 32, 2, 2)


def test_width_64_has_the_weights_of_resnet_18():
    """Counted apart from the stem: torchvision's ResNet-18 is the reference."""
    ours, theirs = cl.resnet(1000, width=64, stem=7, stride=2), resnet18(weights=None)
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert count(ours) == count(theirs)
    shapes = lambda model: sorted(tuple(p.shape) for p in model.parameters())  # noqa: E731
    assert shapes(ours) == shapes(theirs)


def test_a_small_vision_transformer():
    model = cl.vit(7, size=32, patch=8, width=16, layers=1, heads=2).eval()
    assert cl.scores(model, IMAGES).shape == (2, 7)
    with pytest.raises(ValueError, match="size = 32 is not a multiple of patch = 5"):
        cl.vit(7, patch=5)
    with pytest.raises(ValueError, match="width = 10 is not a multiple of heads = 4"):
        cl.vit(7, width=10)


@pytest.mark.parametrize(("patch", "convolutions"), [(2, 1), (4, 2), (8, 3)])
def test_a_stem_makes_as_many_tokens_by_a_convolution_for_each_halving(patch, convolutions):
    plain, stem = (
        cl.vit(7, size=32, patch=patch, width=32, layers=1, heads=2, stem=has).eval() for has in (False, True)
    )
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shapes = [model.vit.embeddings(images).shape for model in (plain, stem)]
    assert shapes[0] == shapes[1] == (2, 1 + (32 // patch) ** 2, 32)
    kernels = [name for name in maskable(stem) if ".projection." in name]
    assert len(kernels) == convolutions + 1
    assert stem(images).logits.shape == (2, 7)


def test_a_stem_needs_a_patch_that_can_be_halved():
    for patch in (1, 6):
        with pytest.raises(ValueError, match=f"patch = {patch} with stem = True: expected a power of two"):
            cl.vit(7, size=24, patch=patch, stem=True)


@pytest.mark.parametrize(
    "make", [lambda seed: cl.resnet(3, width=4, seed=seed), lambda seed: cl.vit(3, width=8, seed=seed)]
)
def test_the_seed_alone_decides_the_weights(make):
    torch.manual_seed(1)
    first = make(0)
    torch.manual_seed(2)
    again, other = make(0), make(1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("settings", [{"classes": 0}, {"width": 1.5}, {"stem": 4}, {"stride": 0}])
def test_settings_out_of_range_are_named(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        cl.resnet(**({"classes": 3} | settings))


# ---------------------------------------------------------------------------------------
# Pretrained models


@pytest.mark.parametrize("make", [lambda: cl.vit(5, size=32, patch=8, width=8, layers=1, heads=2)])
def test_a_folder_of_transformers(tmp_path, make):
    model = make().eval()
    model.save_pretrained(tmp_path)
    found = cl.pretrained(str(tmp_path)).eval()
    assert torch.equal(cl.scores(found, IMAGES), cl.scores(model, IMAGES))


def test_hugging_faces_own_resnet_18(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=9)
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    found = cl.pretrained(str(tmp_path)).eval()
    assert torch.equal(cl.scores(found, IMAGES), cl.scores(model, IMAGES))


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_torchvisions_weights(tmp_path, ending):
    model, path = resnet18(weights=None).eval(), tmp_path / f"resnet18{ending}"
    if ending == ".pth":
        torch.save(model.state_dict(), path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    found = cl.pretrained("torchvision:resnet18", weights=str(path)).eval()
    assert torch.equal(cl.scores(found, IMAGES), model(IMAGES))
    with pytest.raises(ValueError, match="do not fit torchvision:resnet34"):
        cl.pretrained("torchvision:resnet34", weights=str(path))


class Trap:
    def __reduce__(self):
        return (open, ("trapped", "w"))


def test_a_file_of_weights_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Trap()}, "evil.pth")
    with pytest.raises(ValueError, match=r"holds more than tensors.*torch\.save\(checkpoint\['model'\]") as told:
        cl.pretrained("torchvision:resnet18", weights="evil.pth")
    assert len(str(told.value)) < 400
    assert not (tmp_path / "trapped").exists()


def prefixed(prefix, weights):
    return {f"{prefix}{name}": one for name, one in weights.items()}


@pytest.fixture(scope="module")
def whole():
    return resnet18(weights=None).eval()


WRAPPED = {
    "DataParallel": lambda weights: {"state_dict": prefixed("module.", weights), "epoch": 3, "best": 0.7},
    "torch.compile": lambda weights: prefixed("_orig_mod.", weights),
    "both": lambda weights: {"model": prefixed("module._orig_mod.", weights)},
    "torchvision's references": lambda weights: {
        "model": weights, "optimizer": {"state": {0: {"buffer": torch.zeros(2)}}, "param_groups": [{"lr": 1.0}]},
    },
    "Lightning": lambda weights: {
        "state_dict": {**prefixed("model.", weights), "criterion.weight": torch.ones(3)}, "callbacks": {},
    },
    "model_state_dict": lambda weights: {"model_state_dict": weights},
    "an average": lambda weights: {"n_averaged": torch.tensor(3), **prefixed("module.", weights)},
    "nested": lambda weights: {"checkpoint": {"ema": {"state_dict": weights}}},
    "old, without counts": lambda weights: {
        name: one for name, one in weights.items() if not name.endswith("num_batches_tracked")
    },
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_weights_are_found_where_a_training_has_put_them(tmp_path, whole, wrapping):
    torch.save(WRAPPED[wrapping](whole.state_dict()), tmp_path / "x.pth")
    found = cl.pretrained("torchvision:resnet18", weights=str(tmp_path / "x.pth")).eval()
    assert torch.equal(cl.scores(found, IMAGES), whole(IMAGES))


def test_of_two_sets_of_weights_none_is_chosen(tmp_path, whole):
    weights = whole.state_dict()
    other = {name: one + 1 for name, one in weights.items()}
    for both in ({"model": weights, "ema": other}, {**prefixed("model.", weights), **prefixed("ema_model.", other)}):
        torch.save(both, tmp_path / "x.pth")
        with pytest.raises(
            ValueError, match=r"holds weights under '(model|ema_model\.\*)' and under '(ema|model\.\*)'"
        ):
            cl.pretrained("torchvision:resnet18", weights=str(tmp_path / "x.pth"))


def test_what_does_not_fit_is_said_in_a_line(tmp_path, whole):
    weights = dict(whole.state_dict())
    weights["fc.weight"] = torch.zeros(10, 512)
    weights["other"] = weights.pop("fc.bias")
    torch.save({"state_dict": prefixed("module.", weights)}, tmp_path / "x.pth")
    expected = (
        "do not fit torchvision:resnet18: of 122 weights 1 missing, 'fc.bias' first; 1 of no use there, 'other' first; "
        "1 of another shape, 'fc.weight' first"
    )
    with pytest.raises(ValueError, match=expected):
        cl.pretrained("torchvision:resnet18", weights=str(tmp_path / "x.pth"))
    weights = dict(whole.state_dict())
    torch.save(weights | {"fc.bias": weights["fc.bias"].to(torch.int8)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"1 of another kind of number, 'fc.bias' first"):
        cl.pretrained("torchvision:resnet18", weights=str(tmp_path / "x.pth"))
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="102 missing") as told:
        cl.pretrained("torchvision:resnet18", weights=str(tmp_path / "x.pth"))
    assert len(str(told.value)) < 300


def saved_vit(folder, change=lambda weights: weights, **preprocessor):
    model = cl.vit(5, size=32, patch=8, width=8, layers=1, heads=2).eval()
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    if preprocessor:
        known = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32}}
        (folder / "preprocessor_config.json").write_text(json.dumps(known | preprocessor))
    return model


def test_what_a_folder_lacks_is_not_filled_in_at_random(tmp_path):
    saved_vit(tmp_path, lambda weights: prefixed("module.", weights))
    with pytest.raises(
        ValueError, match=r"lacks \d+ weights of ViT.*, 'vit\..* first, and it has \d+ of other names, 'module"
    ) as e:
        cl.pretrained(str(tmp_path))
    assert len(str(e.value)) < 400
    saved_vit(tmp_path, lambda weights: {name: one for name, one in weights.items() if "layernorm" not in name})
    with pytest.raises(ValueError, match="lacks"):
        cl.pretrained(str(tmp_path))
    saved_vit(tmp_path, lambda weights: {**weights, "vit.layernorm.weight": torch.zeros(9)})
    with pytest.raises(ValueError, match=r"lacks 1 weights .* in another shape, 'vit\.layernorm\.weight' first"):
        cl.pretrained(str(tmp_path))


def test_a_backbone_without_a_head_gets_the_same_one_every_time(tmp_path):
    saved_vit(tmp_path, lambda weights: {name: one for name, one in weights.items() if "classifier" not in name})
    one, other = (cl.pretrained(str(tmp_path)).classifier.weight for _ in range(2))
    assert torch.equal(one, other)


def test_weights_of_half_precision_are_trained_in_float32(tmp_path):
    saved_vit(tmp_path, lambda weights: {name: one.half() for name, one in weights.items()})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": "float16"}))
    assert {one.dtype for one in cl.pretrained(str(tmp_path)).parameters()} == {torch.float32}
    assert {one.dtype for one in cl.untrained(str(tmp_path)).parameters()} == {torch.float32}


# ---------------------------------------------------------------------------------------
# Normalisation, size


@pytest.mark.parametrize(
    ("settings", "mean", "spread"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, [0.5] * 3, [0.5] * 3),
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
        ({"do_normalize": False}, [0.0] * 3, [1.0] * 3),
        ({"do_normalize": False, "do_rescale": False}, [0.0] * 3, [1 / 255] * 3),
        ({"image_mean": [1.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 1 / 127.5}, [0.5] * 3, [0.5] * 3),
    ],
)
def test_the_models_own_preprocessor_decides(tmp_path, settings, mean, spread):
    saved_vit(tmp_path, **settings)
    found = cl.normalisation(str(tmp_path))
    assert found[0] == pytest.approx(mean, abs=2e-6)
    assert found[1] == pytest.approx(spread, abs=2e-6)


def test_where_it_is_imagenets_it_is_exactly_the_default(tmp_path):
    mean, spread = cl.IMAGENET
    saved_vit(tmp_path, image_mean=list(mean), image_std=list(spread))
    assert cl.normalisation(str(tmp_path)) == cl.normalisation("torchvision:resnet18") == cl.IMAGENET
    assert cl.normalisation("torchvision:efficientnet_v2_l") == ((0.5,) * 3, (0.5,) * 3)  # as torchvision documents


def test_a_model_without_a_preprocessor_is_said_and_a_broken_one_refused(tmp_path):
    saved_vit(tmp_path)
    with pytest.warns(UserWarning, match=r"has no preprocessor_config.json: pictures are standardised by ImageNet's"):
        assert cl.normalisation(str(tmp_path)) == cl.IMAGENET
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": ')
    with pytest.raises(ValueError, match="its preprocessor cannot be used"):
        cl.normalisation(str(tmp_path))


def test_a_preprocessor_that_swaps_channels_is_refused(tmp_path):
    known = {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True, "do_rescale": True}
    saved_vit(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match="does more than standardise the channels"):
        cl.normalisation(str(tmp_path))


def test_a_size_that_a_model_does_not_take_is_refused_with_the_one_it_takes():
    model = cl.vit(5, size=32, patch=8, width=8, layers=1, heads=2)
    cl.check(model, 32)
    with pytest.raises(
        ValueError, match=r"size = 48: ViT.* does not take pictures of 48 x 48 pixels; it is for 32 x 32"
    ):
        cl.check(model, 48)
    for size in (32, 50):
        cl.check(resnet18(weights=None), size)


def test_models_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="is no image classifier on this machine"):
        cl.pretrained(str(tmp_path))
    for name in ("resnet19", "fcn_resnet50"):
        with pytest.raises(ValueError, match="torchvision has no such model for classification"):
            cl.pretrained(f"torchvision:{name}")
    with pytest.raises(ValueError, match="needs the file of its weights, which is not there"):
        cl.pretrained("torchvision:resnet18", weights=str(tmp_path / "x.pth"))
    with pytest.raises(ValueError, match="only a source torchvision:NAME"):
        cl.pretrained(str(tmp_path), weights="x.pth")


# ---------------------------------------------------------------------------------------
# Heads


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (cl.resnet(5, width=4), "classifier.1"),
        (cl.vit(5, size=32, patch=8, width=8, layers=1, heads=2), "classifier"),
        (resnet18(weights=None), "fc"),
    ],
)
def test_a_new_head(model, name):
    model.eval()
    assert cl.head(model) == name
    before = {key: tensor.clone() for key, tensor in model.named_parameters() if not key.startswith(name)}
    assert cl.renew_head(model, 16, seed=3) is model
    assert cl.scores(model, IMAGES).shape == (2, 16)
    assert all(torch.equal(dict(model.named_parameters())[key], tensor) for key, tensor in before.items())
    first = model.get_submodule(name).weight.clone()
    assert torch.equal(cl.renew_head(model, 16, seed=3).get_submodule(name).weight, first)
    assert not torch.equal(cl.renew_head(model, 16, seed=4).get_submodule(name).weight, first)


class Odd(nn.Module):
    """A small classifier whose list of layers does not show what comes last."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8))
        self.head_dist = nn.Linear(8, 8)
        self.first = nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        features = self.first(x.mean((2, 3)))[:, None]
        features = (features + self.attention(features, features, features)[0])[:, 0]
        scores = self.head(features)
        if self.kind == "two":
            return (scores + self.head_dist(features)) / 2
        if self.kind == "softmax":
            return scores.softmax(1)
        if self.kind == "in place":
            return scores.mul_(0.1)
        return {"out": scores} if self.kind == "a dictionary" else scores


def test_the_head_is_what_gives_the_scores_wherever_it_stands():
    model = Odd("plain")
    assert cl.head(model) == "head.1", "and not the last linear layer, nor another one of its width"
    cl.renew_head(model, 5)
    assert cl.head(model) == "head.1"
    assert cl.scores(model.eval(), IMAGES).shape == (2, 5)
    assert model.head_dist.out_features == model.first.out_features == 8


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("two", r"Of linear layers with 8 outputs it has \d: head.1, head_dist, .*Take a model with one classifier"),
        ("softmax", "its scores are not what one linear layer gives"),
        ("in place", "its scores are not what one linear layer gives"),
        ("a dictionary", r"gives dict: expected scores \[pictures, classes\]"),
    ],
)
def test_several_heads_or_none_are_refused_by_name(kind, message):
    model = Odd(kind)
    for refuse in (cl.head, lambda one: cl.renew_head(one, 5), lambda one: cl.check(one, 32)):
        with pytest.raises(ValueError, match=message):
            refuse(model)


def test_two_heads_of_transformers_and_a_convolution_are_refused():
    from torchvision.models import squeezenet1_1
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    config = DeiTConfig(
        image_size=32, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        num_labels=5,
    )  # fmt: skip
    with pytest.raises(ValueError, match="it has 2: cls_classifier, distillation_classifier"):
        cl.renew_head(DeiTForImageClassificationWithTeacher(config), 3)
    with pytest.raises(ValueError, match="SqueezeNet has no head"):
        cl.renew_head(squeezenet1_1(weights=None), 3)
    with pytest.raises(ValueError, match=r"gives \(1, 1, 64, 64\): expected scores"):
        cl.head(nn.Conv2d(3, 1, 1))


def test_an_auxiliary_head_is_refused_before_it_is_masked():
    class Auxiliary(Odd):
        def forward(self, x):
            return self.first(x.mean((2, 3)))

    with pytest.raises(ValueError, match=r"Auxiliary: 4 kernels, 'head.1.weight' first, take no part in its scores"):
        cl.check(Auxiliary("plain"), 32)


def test_looking_for_the_head_leaves_a_model_and_the_random_numbers_as_they_are():
    model = resnet18(weights=None).train()
    model.layer1.eval()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    modes, state = [one.training for one in model.modules()], torch.get_rng_state()
    cl.head(model)
    cl.check(model, 32)
    assert modes == [one.training for one in model.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert not any(one._forward_hooks for one in model.modules())


def test_attention_in_one_parameter_is_masked_too():
    names = masked(Odd("plain"))
    assert set(names) == {"first.weight", "head_dist.weight", "attention.in_proj_weight", "attention.out_proj.weight"}
    groups = groups_of(Odd("plain"))
    assert not set(names) & {name for some in groups.values() for name in some}


def test_everything_of_a_network_is_masked_or_stands_in_a_group_that_can_be_inherited():
    from torchvision.models import swin_t, vit_b_16
    from transformers import CLIPConfig, CLIPForImageClassification

    small = vit_b_16(weights=None, image_size=32)
    del small.encoder.layers[2:]
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config={**sizes, "image_size": 32, "patch_size": 8}, text_config=sizes)
    clip = CLIPForImageClassification(config)
    for model in (small, clip, swin_t(weights=None), resnet18(weights=None), Odd("plain")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Swin's table, which is not masked
            names = masked(model)
        groups = groups_of(model)
        assert set(groups) == set(INHERITED)
        everything = [*names, *(name for some in groups.values() for name in some)]
        assert sorted(everything) == sorted(state_of(model)), "once"


def test_what_can_be_masked_and_what_is_inherited():
    model = cl.resnet(5, width=4)
    names = maskable(model, exclude=f"{cl.head(model)}.*")
    assert len(names) == 20, "ResNet-18 has 20 convolutions"
    groups = parameter_groups(model)
    assert sum(name.endswith("running_mean") for name in groups["norms"]) == 20
    assert "classifier.1.bias" in groups["biases"]


def test_the_untrained_architecture_of_a_source(tmp_path):
    saved = cl.resnet(3, width=8, depths=(1,), seed=4)
    saved.save_pretrained(tmp_path / "model")
    for source, expected in ((str(tmp_path / "model"), saved), ("torchvision:resnet18", None)):
        one, same, other = (cl.untrained(source, seed=seed) for seed in (0, 0, 1))
        first = next(iter(dict(one.named_parameters())))
        weights = [dict(model.named_parameters())[first] for model in (one, same, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        if expected is not None:
            assert one.state_dict().keys() == expected.state_dict().keys()
