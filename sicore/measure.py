"""Accuracies, their intervals, and which solution a model has taken."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from sicore.arithmetic import Computation, distinct


def accuracy(predicted: Tensor, answers: Tensor) -> Tensor:
    """Share of right predictions over the last axis, in [0, 1]: [..., N] -> [...]."""
    return (predicted == answers).float().mean(-1)


def best_constant(answers: Tensor) -> float:
    """Accuracy of the best constant answer: the share of the most frequent value in [N] answers.

    The floor for a model that ignores its input. With products modulo a prime it is well
    above 1/p, since 0 is the most frequent answer.

    >>> best_constant(torch.tensor([0, 0, 1, 2]))
    0.5
    """
    return float(answers.unique(return_counts=True)[1].max() / len(answers))


def agreement(predicted: Tensor, pairs: Tensor, candidates: Sequence[str], p: int) -> dict[str, float]:
    """Which of several computations do a model's answers follow?

    Only the pairs count on which all candidates give different answers, so that an
    answer can agree with at most one of them. Chance is about 1/p each.

    Parameters
    ----------
    predicted
        [N] predicted tokens.
    pairs
        [N, 2].

    Returns
    -------
    dict
        ``candidate -> share of the answers that agree with it``, and ``other``. The
        shares sum to 1. Source: the released code's logs of a^2+ab against 2a^2 and 2b^2.
    """
    computations = [Computation.parse(text) for text in candidates]
    usable = distinct(pairs, computations, p)
    if not bool(usable.any()):
        raise ValueError(f"candidates = {list(candidates)}: no pair tells them apart modulo {p}")
    pairs, predicted = pairs[usable], predicted[usable]
    shares = {
        text: float(accuracy(predicted, f(pairs[:, 0], pairs[:, 1], p)))
        for text, f in zip(candidates, computations, strict=True)
    }
    return shares | {"other": 1.0 - sum(shares.values())}


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
    low, high = wilson(by_shape, decided) if decided else (math.nan, math.nan)
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


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (95 % by default).

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"successes = {successes}, trials = {trials}: expected 0 <= successes <= trials, trials >= 1")
    from scipy.stats import binomtest  # slow to import, so only here

    interval = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % confidence interval over seeds (Student's t).

    The half-width is nan for a single value: one seed says nothing about the spread.

    >>> mean_interval([1.0, 2.0, 3.0])[0]
    2.0
    """
    data = torch.tensor(list(values), dtype=torch.float64)
    if not len(data):
        raise ValueError("values is empty: there is nothing to average")
    if len(data) == 1:
        return float(data[0]), math.nan
    from scipy.stats import t as student

    t = float(student.ppf(0.975, len(data) - 1))
    return float(data.mean()), t * float(data.std()) / math.sqrt(len(data))


def summary(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean, half-width of the 95 % interval over seeds and number of seeds, per group."""
    rows = []
    for key, group in table.groupby(list(by), sort=False, dropna=False):
        mean, half = mean_interval(group[value].tolist())
        rows.append((*(key if isinstance(key, tuple) else (key,)), mean, half, len(group)))
    return pd.DataFrame(rows, columns=[*by, "mean", "half_width", "seeds"])


def samples_needed(counts: Sequence[int], accuracies: Sequence[float], level: float = 0.9) -> float:
    """Number of samples at which a curve first reaches ``level``, or nan if it never does.

    Between two measured counts the curve is taken as straight over log(1 + count).

    >>> samples_needed([0, 10, 100], [0.1, 0.5, 0.9], level=0.9)
    100.0
    """
    points = sorted(zip(counts, accuracies, strict=True))
    for index, (count, value) in enumerate(points):
        if value >= level:
            if index == 0:
                return float(count)
            before, low = points[index - 1]
            share = (level - low) / (value - low)
            left, right = math.log1p(before), math.log1p(count)
            return round(math.expm1(left + share * (right - left)), 9)
    return math.nan
