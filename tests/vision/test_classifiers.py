"""Image classifiers: shapes, seeds, pretrained models from small files in the true formats, heads."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from companion.vision import classifiers as cl
from sicore.masking import maskable, parameter_groups

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
    with pytest.raises(ValueError, match="do not fit torchvision:resnet18"):
        cl.pretrained("torchvision:resnet18", weights="evil.pth")
    assert not (tmp_path / "trapped").exists()


def test_models_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="is no image classifier on this machine"):
        cl.pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="torchvision has no such model"):
        cl.pretrained("torchvision:resnet19")
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


def test_a_model_without_a_head():
    with pytest.raises(ValueError, match="Conv2d has no linear layer, so no head"):
        cl.head(nn.Conv2d(1, 1, 1))


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
