"""Image classifiers: small ones from scratch, pretrained ones from this machine, a new head for either."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from sicore.files import canonical_json
from sicore.masking import maskable
from sicore.seeding import seeded
from sicore.training import check_counts


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
    check_counts(classes=classes, width=width, stem=stem, stride=stride)
    if not stem % 2:
        raise ValueError(f"stem = {stem}: expected an odd side, so that the kernel has a middle")
    from transformers import ResNetConfig, ResNetForImageClassification  # slow to import, so only here

    config = ResNetConfig(
        embedding_size=width, hidden_sizes=[width * 2**k for k in range(len(depths))], depths=list(depths),
        layer_type="basic",
        num_labels=classes,
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
        num_labels=classes,
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
    """A trained classifier that is on this machine, in float32; nothing is downloaded.

    Parameters
    ----------
    source
        A folder that transformers saved, a name in its local cache (``microsoft/resnet-18``,
        ``google/vit-base-patch16-224``), or ``torchvision:NAME`` (``torchvision:resnet18``, ``torchvision:vit_b_16``).
    weights
        With ``torchvision:``, the file of its weights: safetensors, or a ``.pth`` of which only tensors are read. They
        may lie in a checkpoint, ``{"state_dict": ...}`` for instance, and their names may have a prefix, as
        DataParallel (``module.``) and ``torch.compile`` (``_orig_mod.``) give them.

    Raises
    ------
    ValueError
        When there is no such model, its file lacks weights, the weights are those of another architecture, or a file
        holds two sets of weights that would do.
    """
    if source.startswith("torchvision:"):
        return _from_torchvision(source.removeprefix("torchvision:"), weights)
    if weights:
        raise ValueError(f"weights = {weights!r}: only a source torchvision:NAME needs a file of weights")
    from transformers import AutoModelForImageClassification

    try:
        with seeded(0, "initialisation"):  # of a head that the files lack
            model, told = AutoModelForImageClassification.from_pretrained(
                source, local_files_only=True, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
            )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"source = {source!r} is no image classifier on this machine: {_short(error)}") from error
    # transformers fills in at random what a file lacks. Of a head that matters not: it is renewed.
    lacking = {name for name in told["missing_keys"] if not name.endswith("num_batches_tracked")}
    lacking |= {one[0] for one in told["mismatched_keys"]}
    if lacking and (lacking := {name for name in lacking if not name.startswith(f"{head(model)}.")}):
        others = sorted(told["unexpected_keys"])
        unknown = f", and it has {len(others)} of other names, {others[0]!r} first" if others else ""
        raise ValueError(
            f"source = {source!r}: its file lacks {len(lacking)} weights of {type(model).__name__}, or has them "
            f"in another shape, {min(lacking)!r} first{unknown}"
        )
    return model.float()


def _from_torchvision(name: str, weights: str) -> nn.Module:
    model = _torchvision(name)
    if not Path(weights).is_file():
        raise ValueError(f"weights = {weights!r}: torchvision:{name} needs the file of its weights, which is not there")
    try:
        if weights.endswith(".safetensors"):
            loaded = load_file(weights)
        else:
            loaded = torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"weights = {weights!r} holds more than tensors, and nothing else is read from a file, since it could run "
            "code. Where you trust it, save its weights alone: torch.save(checkpoint['model'], 'weights.pth'), or "
            "torch.save(model.state_dict(), 'weights.pth') if it is a whole model"
        ) from error
    except Exception as error:
        raise ValueError(f"weights = {weights!r} cannot be read: {_short(error)}") from error
    try:
        model.load_state_dict(_weights_within(loaded, model.state_dict()))
    except ValueError as error:
        raise ValueError(f"weights = {weights!r} do not fit torchvision:{name}: {error}") from error
    return model


def _torchvision(name: str) -> nn.Module:
    """A classifier of torchvision, newly initialised; its other models would download a part of them."""
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ValueError(f"source = 'torchvision:{name}': torchvision has no such model for classification")
    return models.get_model(name, weights=None)


def _weights_within(loaded: Any, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The one set of tensors, of all that lie in a file, that has the wanted names, with or without a prefix."""
    needed = {name for name in wanted if not name.endswith("num_batches_tracked")}  # old files have none
    fitting: dict[str, dict[str, Tensor]] = {}
    nearest: tuple[int, str, dict[str, Tensor]] = (-1, "", {})
    for place, tensors in _sets_of_tensors(loaded):
        # From every name, since any one of them may be what the file lacks.
        prefixes = {"", *(name.removesuffix(one) for name in tensors for one in needed if name.endswith(f".{one}"))}
        for prefix in sorted(prefixes):
            own = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
            where = f"{place}/{prefix}*" if place and prefix else place or f"{prefix}*"
            # Beside a prefix there may be other things; without one, another name is another architecture's.
            if needed <= own.keys() and (prefix or own.keys() <= wanted.keys()):
                fitting[where] = {name: one for name, one in own.items() if name in wanted}
            nearest = max(nearest, (len(needed & own.keys()), where, own), key=lambda one: one[0])
    if len(fitting) > 1:
        raise ValueError(
            f"the file holds weights under {' and under '.join(map(repr, fitting))}; save those that you mean by "
            "themselves, torch.save(checkpoint[...], 'weights.pth')"
        )
    found = next(iter(fitting.values()), nearest[2])
    kinds = {
        "missing": sorted(needed - found.keys()),
        "of no use there": sorted(found.keys() - wanted.keys()),
        "of another shape": sorted(n for n in found if n in wanted and found[n].shape != wanted[n].shape),
        "of another kind of number": sorted(
            n for n in found if n in wanted and found[n].is_floating_point() != wanted[n].is_floating_point()
        ),
    }
    if told := [f"{len(names)} {kind}, {names[0]!r} first" for kind, names in kinds.items() if names]:
        raise ValueError(f"of {len(wanted)} weights {'; '.join(told)}")
    return found


def _sets_of_tensors(loaded: Any, place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dictionary with tensors in what was loaded, and where it lies."""
    if isinstance(loaded, Mapping):
        if own := {str(name): one for name, one in loaded.items() if isinstance(one, Tensor)}:
            yield place, own
        for name, one in loaded.items():
            yield from _sets_of_tensors(one, f"{place}/{name}" if place else str(name))


def _short(error: Exception) -> str:
    """The first line of an error of a library, which may have thousands."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if len(line) < 300 else f"{line[:300]} ..."


def untrained(source: str, *, seed: int = 0) -> nn.Module:
    """The architecture of a ``source`` (see :func:`pretrained`), newly initialised, in float32."""
    from transformers import AutoConfig, AutoModelForImageClassification

    with seeded(seed, "initialisation"):
        if source.startswith("torchvision:"):
            return _torchvision(source.removeprefix("torchvision:"))
        config = AutoConfig.from_pretrained(source, local_files_only=True)
        return AutoModelForImageClassification.from_config(config).float()


def settings_of(model: nn.Module) -> str:
    """What decides what a model computes, beside its weights, as JSON: the configuration of one of transformers."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_diff_dict"):
        return ""
    aside = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id")
    return canonical_json({key: value for key, value in config.to_diff_dict().items() if key not in aside})


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and spread of ImageNet's channels, by which pictures are standardised if nothing else is known."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def normalisation(source: str) -> Normalisation:
    """Mean and spread [3] of the channels, from 0 to 1, by which the model of a ``source`` wants pictures standardised.

    They are those with which the preprocessor beside the model (``preprocessor_config.json``) gives what it gives,
    whether by means, by other factors or by neither. For torchvision's models they are those of its own weights, which
    are ImageNet's for all but a few. :data:`IMAGENET`, with a warning, for a model that has no preprocessor.

    Raises
    ------
    ValueError
        When the preprocessor cannot be read, or does something else to the colours.
    """
    if source.startswith("torchvision:"):
        from torchvision.models import get_model_weights

        wants = get_model_weights(source.removeprefix("torchvision:")).DEFAULT.transforms()
        return tuple(wants.mean), tuple(wants.std)
    from transformers import AutoImageProcessor
    from transformers.utils import cached_file

    files = ("preprocessor_config.json", "processor_config.json")
    local: dict[str, Any] = {"local_files_only": True, "_raise_exceptions_for_missing_entries": False}
    if not any(cached_file(source, file, **local) for file in files):
        warnings.warn(
            f"source = {source!r} has no {files[0]}: pictures are standardised by ImageNet's mean and spread",
            stacklevel=2,
        )
        return IMAGENET
    # Asked by what it does. Three flat pictures: black, white, and one with another grey in each channel.
    asked = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    asked[1], asked[2] = 255, torch.tensor([51, 102, 204]).view(3, 1, 1)
    try:
        processor = AutoImageProcessor.from_pretrained(source, local_files_only=True)
        given = [
            processor(one, do_resize=False, do_center_crop=False, do_pad=False, return_tensors="pt") for one in asked
        ]
        black, white, mixed = torch.stack([one["pixel_values"].reshape(3, -1)[:, 0].double() for one in given])
    except Exception as error:
        raise ValueError(f"source = {source!r}: its preprocessor cannot be used: {_short(error)}") from error
    spread = 1 / (white - black)
    mean = -black * spread
    if not torch.allclose((torch.tensor([0.2, 0.4, 0.8]) - mean) / spread, mixed, atol=1e-4):
        raise ValueError(f"source = {source!r}: its {type(processor).__name__} does more than standardise the channels")
    # As many digits as float32 has settled.
    return tuple(round(x, 6) for x in mean.tolist()), tuple(round(x, 6) for x in spread.tolist())


def check(model: nn.Module, size: int) -> None:
    """Does a classifier do for the experiment: does it take pictures of this size, and has it one head?

    Raises
    ------
    ValueError
        When it does not take pictures of ``size`` x ``size`` pixels, has no head (see :func:`head`), or has kernels
        that take no part in its scores (auxiliary heads), which a search would mask.
    """
    try:
        head(model, size)
    except _Refused as error:
        side = _own_side(model)
        instead = f"; it is for {side} x {side}" if side and side != size else ""
        raise ValueError(
            f"size = {size}: {type(model).__name__} does not take pictures of {size} x {size} pixels{instead} ({error})"
        ) from error
    names = maskable(model)
    given = {name: one.detach().requires_grad_() for name, one in model.named_parameters()}
    with torch.enable_grad():
        found = _evaluated(model, lambda picture: functional_call(model, given, (picture,)), size)
        used = torch.autograd.grad(found.sum(), [given[name] for name in names], allow_unused=True)
    if idle := [name for name, gradient in zip(names, used, strict=True) if gradient is None]:
        raise ValueError(
            f"{type(model).__name__}: {len(idle)} kernels, {idle[0]!r} first, take no part in its scores; take a model "
            "without auxiliary parts"
        )


class _Refused(ValueError):
    """A model did not take a picture."""


def _evaluated(model: nn.Module, call: Callable[[Tensor], Any], size: int) -> Tensor:
    """The scores [1, classes] of a random picture, in evaluation mode; nothing of the model is moved."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    picture = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        found = scores(call, picture.to(next(model.parameters())))
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        raise _Refused(_short(error)) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(found, Tensor) or found.dim() != 2:
        kind = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{type(model).__name__} gives {kind}: expected scores [pictures, classes]")
    return found


def _own_side(model: nn.Module) -> int:
    """The side of the pictures that a model is for; 0 where it does not say."""
    config = getattr(model, "config", None)
    for place in (model, config, getattr(config, "vision_config", None)):
        side = getattr(place, "image_size", 0)
        side = side[0] if isinstance(side, list | tuple) else side
        if isinstance(side, int) and side:
            return side
    return 0


def head(model: nn.Module, size: int = 0) -> str:
    """Name of the layer that gives the classes' scores: the linear one whose output they are.

    It is found by what it computes, so it need not be the last one of the model's list.

    Parameters
    ----------
    size
        Side of a picture that the model takes; 0 to find one.

    Raises
    ------
    ValueError
        When the scores are not what one ``nn.Linear`` gives: they are the mean of two heads, or come from a
        convolution, or something follows.

    Examples
    --------
    >>> head(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    '4'
    """
    given: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: given.update({name: output.clone()})  # what follows may be in place

    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    hooks = [module.register_forward_hook(note(name)) for name, module in linear.items()]
    try:
        found = _first_that_works(model, [size] if size else [_own_side(model) or 64, 64, 224])
    finally:
        for hook in hooks:
            hook.remove()
    heads = [name for name, output in given.items() if torch.equal(output, found)]
    if len(heads) == 1:
        return heads[0]
    wide = [name for name, module in linear.items() if module.out_features == found.shape[1]]
    raise ValueError(
        f"{type(model).__name__} has no head: its scores are not what one linear layer gives. Of linear layers with "
        f"{found.shape[1]} outputs it has {len(wide)}{': ' if wide else ''}{', '.join(wide[:4])}. Take a model with "
        "one classifier, an nn.Linear, whose output are the scores"
    )


@torch.no_grad()
def _first_that_works(model: nn.Module, sizes: list[int]) -> Tensor:
    for size in sizes[:-1]:
        with contextlib.suppress(_Refused):
            return _evaluated(model, model, size)
    return _evaluated(model, model, sizes[-1])


def renew_head(model: nn.Module, classes: int, *, seed: int = 0) -> nn.Module:
    """Give a model, in place, a fresh head for so many classes. Returns the model. Errors as of :func:`head`."""
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
