"""What a classifier's answers and masks say: shape or texture, and how symmetric kernels are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor

from sicore.subnetwork import Subnetwork


def shape_bias(predicted: Tensor, shape: Tensor, texture: Tensor) -> dict[str, float]:
    """Does a classifier follow the shape or the texture of cue-conflict images?

    shape bias = shape decisions / (shape decisions + texture decisions). Answers that are
    neither are left out of it, so their share matters for how much it says. Source: Geirhos
    et al. (2019), section 2.

    Parameters
    ----------
    predicted, shape, texture
        Classes, [N] each; shape and texture differ in every image.

    Returns
    -------
    dict
        ``images``, ``shape``, ``texture`` and ``neither`` (numbers of decisions),
        ``shape_bias``, and ``low`` and ``high``, its 95 % interval over images (Wilson). The
        last three are nan where no image was decided by shape or by texture.

    Examples
    --------
    >>> one = torch.tensor([1, 1, 1, 2, 0])
    >>> found = shape_bias(one, shape=torch.ones(5), texture=torch.full((5,), 2))
    >>> found["shape"], found["texture"], found["neither"], found["shape_bias"]
    (3, 1, 1, 0.75)
    """
    if not len(predicted) == len(shape) == len(texture):
        raise ValueError(
            f"predicted, shape and texture have {len(predicted)}, {len(shape)} and {len(texture)} entries: "
            "expected one of each an image"
        )
    if bool((shape == texture).any()):
        raise ValueError(f"{int((shape == texture).sum())} images have shape and texture of one class: no conflict")
    by_shape, by_texture = int((predicted == shape).sum()), int((predicted == texture).sum())
    decided = by_shape + by_texture
    low, high = math.nan, math.nan
    if decided:
        low, high = map(float, binomtest(by_shape, decided).proportion_ci(method="wilson"))
    return {
        "images": len(predicted), "shape": by_shape, "texture": by_texture, "neither": len(predicted) - decided,
        "shape_bias": by_shape / decided if decided else math.nan, "low": low, "high": high,
    }  # fmt: skip


def mirror_agreement(masks: Sequence[Tensor]) -> dict[str, float]:
    """How symmetric are the masks of single kernels? Share of entries that agree with their mirror image.

    Two entries agree when both are kept, or neither. Entries on the axis of a mirror, which
    are their own images, do not count. Chance for a random mask of density d is d^2 + (1 - d)^2.

    Parameters
    ----------
    masks
        Boolean, [out, in, k, k] each, with k of 2 or more.

    Returns
    -------
    dict
        ``left-right``, ``up-down`` and ``both`` (a turn by 180 degrees).

    Examples
    --------
    >>> kernel = torch.tensor([[[[True, False, True], [True, True, False], [False, True, False]]]])
    >>> mirror_agreement([kernel])
    {'left-right': 0.6666666666666666, 'up-down': 0.0, 'both': 0.0}
    """
    if not masks or any(mask.dim() != 4 or mask.shape[-1] < 2 for mask in masks):
        raise ValueError("masks: expected kernels, [out, in, k, k] with k of 2 or more, at least one tensor")
    found = {}
    for name, axes in {"left-right": (3,), "up-down": (2,), "both": (2, 3)}.items():
        agree = count = 0
        for mask in masks:
            own = torch.arange(mask[0, 0].numel()).view(mask.shape[2:])
            moved = own.flip([axis - 2 for axis in axes]) != own
            agree += int((mask == mask.flip(axes))[..., moved].sum())
            count += int(moved.sum()) * mask.shape[0] * mask.shape[1]
        found[name] = agree / count
    return found


def symmetry(subnetworks: Mapping[int, Subnetwork], generator: torch.Generator) -> pd.DataFrame:
    """:func:`mirror_agreement` of what was found, beside masks of its size drawn at random in each layer.

    Parameters
    ----------
    subnetworks
        Seed -> subnetwork. Of its masks, those of kernels larger than 1 x 1 count.

    Returns
    -------
    pandas.DataFrame
        ``masks`` (``found`` or ``random``), ``seed``, ``left-right``, ``up-down`` and ``both``. No row for a
        subnetwork without such kernels.
    """
    lines = []
    for seed, found in subnetworks.items():
        for name, one in (("found", found), ("random", found.random(generator))):
            kernels = [mask for mask in one.masks.values() if mask.dim() == 4 and mask.shape[-1] > 1]
            if kernels:
                lines.append({"masks": name, "seed": seed, **mirror_agreement(kernels)})
    return pd.DataFrame(lines, columns=["masks", "seed", "left-right", "up-down", "both"])
