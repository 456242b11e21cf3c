"""Image classifiers: small ones from scratch, pretrained ones from this machine, a new head for either."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sicore.seeding import seeded


def resnet(
    classes: int, *, width: int = 16, depths: tuple[int, ...] = (2, 2, 2, 2), stem: int = 3, stride: int = 1,
    seed: int = 0,
) -> nn.Module:  # fmt: skip
    """A ResNet with basic blocks for small images, from scratch (Hugging Face's implementation).

    Width 64 with the default depths is ResNet-18. Its stem, 7 x 7 with stride 2 and pooling, would
    leave little of a small image; here it is ``stem`` x ``stem`` with ``stride``, without pooling.

    Parameters
    ----------
    width
        Channels of the first stage; every further stage has twice as many.
    seed
        Fixes the initialisation.
    """
    for name, value in {"classes": classes, "width": width, "stem": stem, "stride": stride}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} = {value!r}: expected an integer of 1 or more")
    if not stem % 2:
        raise ValueError(f"stem = {stem}: expected an odd side, so that the kernel has a middle")
    from transformers import ResNetConfig, ResNetForImageClassification  # slow to import, so only here

    config = ResNetConfig(
        embedding_size=width, hidden_sizes=[width * 2**k for k in range(len(depths))], depths=list(depths),
        layer_type="basic",
        num_labels=classes,  # type: ignore[call-arg]
    )  # fmt: skip
    with seeded(seed, "initialisation"):
        model = ResNetForImageClassification(config)
        embedder: Any = model.resnet.embedder
        embedder.embedder.convolution = nn.Conv2d(3, width, stem, stride, stem // 2, bias=False)
        embedder.pooler = nn.Identity()
    return model


def vit(
    classes: int, *, size: int = 32, patch: int = 4, width: int = 128, layers: int = 4, heads: int = 4,
    stem: bool = False, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """A vision transformer for images of ``size`` x ``size`` pixels, from scratch (Hugging Face's implementation).

    Parameters
    ----------
    stem
        Make the tokens by 3 x 3 convolutions of stride 2, one for each halving of a patch, in place of one
        linear map of the patch (Xiao et al., 2021, "Early convolutions help transformers see better").
        Small sets of pictures teach it far sooner. ``patch`` is then a power of two.
    """
    if stem and (patch < 2 or patch & (patch - 1)):
        raise ValueError(f"patch = {patch} with stem = True: expected a power of two, 2 or more")
    if size % patch:
        raise ValueError(f"size = {size} is not a multiple of patch = {patch}")
    if width % heads:
        raise ValueError(f"width = {width} is not a multiple of heads = {heads}")
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=size, patch_size=patch, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width,
        num_labels=classes,  # type: ignore[call-arg]
    )  # fmt: skip
    with seeded(seed, "initialisation"):
        model = ViTForImageClassification(config)
        if stem:
            patches: Any = model.vit.embeddings.patch_embeddings
            patches.projection = _Stem(width, patch)
    return model


class _Stem(nn.Sequential):
    """[B, 3, H, W] -> [B, width, H / patch, W / patch]."""

    def __init__(self, width: int, patch: int) -> None:
        channels = [3, *(max(8, width >> k) for k in reversed(range(1, patch.bit_length())))]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(channels[-1], width, 1))

    @property
    def weight(self) -> Tensor:
        """Hugging Face's model asks for its type."""
        last = self[-1]
        assert isinstance(last, nn.Conv2d)
        return last.weight


def pretrained(source: str, *, weights: str = "") -> nn.Module:
    """A trained classifier that is on this machine; nothing is downloaded.

    Parameters
    ----------
    source
        A folder that transformers saved, a name in its local cache (``microsoft/resnet-18``,
        ``google/vit-base-patch16-224``), or ``torchvision:NAME`` (``torchvision:resnet18``, ``torchvision:vit_b_16``).
    weights
        With ``torchvision:``, the file of its weights: safetensors, or torchvision's own ``.pth``, of
        which only tensors are read.

    Raises
    ------
    ValueError
        When there is no such model, or the weights are those of another architecture.
    """
    if source.startswith("torchvision:"):
        return _from_torchvision(source.removeprefix("torchvision:"), weights)
    if weights:
        raise ValueError(f"weights = {weights!r}: only a source torchvision:NAME needs a file of weights")
    from transformers import AutoModelForImageClassification

    try:
        return AutoModelForImageClassification.from_pretrained(source, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"source = {source!r} is no image classifier on this machine: {error}") from error


def _from_torchvision(name: str, weights: str) -> nn.Module:
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise ValueError(f"source = 'torchvision:{name}': torchvision has no such model")
    if not Path(weights).is_file():
        raise ValueError(f"weights = {weights!r}: torchvision:{name} needs the file of its weights, which is not there")
    model = get_model(name, weights=None)
    try:
        if weights.endswith(".safetensors"):
            tensors = load_file(weights)
        else:
            tensors = torch.load(weights, map_location="cpu", weights_only=True)
        model.load_state_dict(tensors)
    except Exception as error:
        raise ValueError(f"weights = {weights!r} do not fit torchvision:{name}: {error}") from error
    return model


def untrained(source: str, *, seed: int = 0) -> nn.Module:
    """The architecture of a ``source`` (see :func:`pretrained`), newly initialised."""
    from transformers import AutoConfig, AutoModelForImageClassification

    with seeded(seed, "initialisation"):
        if source.startswith("torchvision:"):
            from torchvision.models import get_model

            return get_model(source.removeprefix("torchvision:"), weights=None)
        return AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(source, local_files_only=True))


def head(model: nn.Module) -> str:
    """Name of the layer that gives the classes' scores: the last linear one.

    >>> head(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))
    '2'
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no linear layer, so no head")
    return linear[-1]


def renew_head(model: nn.Module, classes: int, *, seed: int = 0) -> nn.Module:
    """Give a model, in place, a fresh head for so many classes. Returns the model."""
    name = head(model)
    old = model.get_submodule(name)
    assert isinstance(old, nn.Linear)
    with seeded(seed, "head"):
        new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    model.set_submodule(name, new.to(old.weight))
    config: Any = getattr(model, "config", None)
    if config is not None:  # a model of transformers
        config.num_labels = classes
        setattr(model, "num_labels", classes)  # noqa: B010
    return model


def scores(call: Callable[..., Any], images: Tensor) -> Tensor:
    """Scores of the classes [B, classes], whether a model returns them bare or inside an output object."""
    output = call(images)
    return output.logits if hasattr(output, "logits") else output
