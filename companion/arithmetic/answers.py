"""What a model's answers say: how many are right, and which computation they follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from companion.arithmetic.task import Computation, all_pairs, distinct


def accuracy(predicted: Tensor, answers: Tensor) -> Tensor:
    """Share of right predictions over the last axis, in [0, 1]: [..., N] -> [...]."""
    return (predicted == answers).float().mean(-1)


def best_constant(answers: Tensor) -> float:
    """Accuracy of the best constant answer: the share of the most frequent value in [N] answers.

    The floor for a model that ignores its input. With products modulo a prime it is well
    above 1/p, since 0 is the most frequent answer.

    >>> best_constant(Tensor([0, 0, 1, 2]))
    0.5
    """
    return float(answers.unique(return_counts=True)[1].max() / len(answers))


@dataclass(frozen=True)
class Constant:
    """What a constant answer can reach.

    Attributes
    ----------
    answer
        The most frequent answer where a = b.
    equal, elsewhere
        Its accuracy on the pairs with a = b, and on the others.
    unequal
        Accuracy of the best constant on the pairs with a != b.
    """

    answer: int
    equal: float
    elsewhere: float
    unequal: float


def constant(computation: str, numbers: int, p: int) -> Constant:
    """What a constant answer reaches on all pairs of ``numbers`` numbers.

    Examples
    --------
    >>> taught = constant("a^2 - b^2", numbers=6, p=3)  # where a = b the answer is always 0
    >>> taught.answer, taught.equal
    (0, 1.0)
    """
    pairs = all_pairs(numbers)
    answers, same = Computation.parse(computation)(pairs[:, 0], pairs[:, 1], p), pairs[:, 0] == pairs[:, 1]
    answer = answers[same].bincount().argmax()
    return Constant(
        int(answer),
        best_constant(answers[same]),
        float(accuracy(answers[~same], answer)),
        best_constant(answers[~same]),
    )


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
    return shares | {"other": max(0.0, 1.0 - sum(shares.values()))}  # not a rounding's -3e-8
