"""How a mask is learned: families of masks, each a small value that :func:`sicore.discovery.discover` takes.

What is trained are *logits*, one for every weight. A family says what mask they stand for::

    soft = family.soft(logits + noise, at)   # while the mask is learned, in [0, 1]
    hard = family.hard(logits)               # the mask that the search ends with
    loss = task loss + penalty * sum(family.price(logits, soft, at))

A :class:`Score` ranks weights without learning, and keeps the highest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sicore.training import check_counts


class Family(Protocol):
    """A way to learn a mask.

    A family is a small frozen value, and its methods depend on their arguments alone. Logits are tensors [K, ...] of
    the stacked weights' shapes, whose K rows no method may mix. A new family may inherit what stands here.
    """

    def start(self, weight: Tensor) -> Tensor:
        """Initial logits for a stacked weight tensor [K, ...], of its shape, in float32."""
        return torch.zeros_like(weight, dtype=torch.float32)

    def schedule(self, step: int, steps: int) -> float:
        """What changes over a search of ``steps`` steps, a temperature for instance, at ``step`` (from 0)."""
        return 1.0

    def noise(self, uniform: Tensor) -> Tensor | None:
        """What is added to the logits at every step, made from numbers uniform on (0, 1); None for nothing."""
        return None

    def soft(self, logits: Tensor, at: Tensor | float) -> Tensor:
        """The mask in [0, 1] while it is learned, differentiable; ``at`` is the schedule's value."""
        raise NotImplementedError

    def hard(self, logits: Tensor) -> Tensor:
        """The mask that a search ends with: boolean, of the logits' shape."""
        return logits > 0

    def price(self, logits: Tensor, soft: Tensor, at: Tensor | float) -> Tensor:
        """What every entry costs, differentiable: their sum is how many are expected above 0. ``soft`` is known."""
        return soft


@runtime_checkable
class Score(Protocol):
    """A way to choose weights without learning: those of the highest scores, over all masked tensors together."""

    batches: int
    """Over how many batches the gradient is averaged; 0 for a score that needs none."""

    def score(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """The score of every entry of a stacked weight [K, ...], from it and the task loss's gradient, of its shape."""


@dataclass(frozen=True)
class _FromOneLogit(Family):
    """A family whose logits all begin at one value."""

    initial_logit: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.initial_logit):
            raise ValueError(f"initial_logit = {self.initial_logit!r}: expected a finite number")

    def start(self, weight: Tensor) -> Tensor:
        return torch.full_like(weight, self.initial_logit, dtype=torch.float32)


@dataclass(frozen=True)
class ContinuousSparsification(_FromOneLogit):
    """The paper's family: ``sigmoid(T * logits)`` while the mask is learned, ``logits > 0`` at the end.

    T is ``initial`` in the first stage of the run and ``final`` in the last, multiplied by a constant x from one
    stage to the next: 1, x, x^2, ... with x = (final / initial)^(1 / (stages - 1)). A weight's price is its soft mask.
    Source: Savarese, Silva & Maire (2020), "Winning the Lottery with Continuous Sparsification"; Zhang, Lepori &
    Pavlick (2023), appendix B.

    Parameters
    ----------
    initial_logit
        Of every weight. The mask starts at ``sigmoid(initial * initial_logit)``, 0.48 with the paper's -0.1 and 1.
    initial, final
        First and last temperature; the paper's are 1 and 100.
    stages
        Equal parts of the run, the paper's 50 epochs.
    skip
        The released code's temperatures 1, x^2, x^3, ...: its first multiplication is applied twice, so that every
        later stage is ahead by one factor.

    Raises
    ------
    ValueError
        For a setting out of range.

    Examples
    --------
    >>> family = ContinuousSparsification(stages=3)
    >>> [round(family.schedule(step, 3), 6) for step in range(3)]
    [1.0, 10.0, 100.0]
    >>> family.hard(torch.tensor([-0.1, 0.1]))
    tensor([False,  True])
    """

    initial_logit: float = -0.1
    initial: float = 1.0
    final: float = 100.0
    stages: int = 50
    skip: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stages, bool) or not isinstance(self.stages, int) or self.stages < 2:
            raise ValueError(
                f"stages = {self.stages!r}: the temperature needs at least 2 stages to rise from {self.initial} to "
                f"{self.final}"
            )
        if not 0 < self.initial < math.inf:
            raise ValueError(f"initial = {self.initial!r}: expected a finite temperature above 0")
        if not self.initial < self.final < math.inf:
            raise ValueError(
                f"final = {self.final!r}: the final temperature must exceed {self.initial}, where the schedule starts"
            )
        super().__post_init__()

    def schedule(self, step: int, steps: int) -> float:
        stage = min(step * self.stages // max(steps, 1), self.stages - 1)
        if self.skip and stage:
            stage += 1
        return float(self.initial * (self.final / self.initial) ** (stage / (self.stages - 1)))

    def soft(self, logits: Tensor, at: Tensor | float) -> Tensor:
        return _Sigmoid.apply(logits, at)


class _Sigmoid(torch.autograd.Function):
    """``sigmoid(T * logits)`` as one node, which keeps its result alone."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, T: Tensor | float) -> Tensor:
        mask = logits.mul(T).sigmoid_()
        ctx.save_for_backward(mask)
        ctx.T = T
        return mask

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return torch.ops.aten.sigmoid_backward(grad * ctx.T, mask), None


@dataclass(frozen=True)
class HardConcrete(_FromOneLogit):
    """A stretched and clipped binary Concrete variable.

    It is ``clip(low + (high - low) * sigmoid((logits + noise) / temperature))`` with logistic noise. A weight costs the
    probability of a mask above 0; at the end those stay whose median is above one half. Source: Louizos, Welling &
    Kingma (2018), "Learning sparse neural networks through L0 regularization", section 2 with its constants.

    Parameters
    ----------
    initial_logit
        Of every weight; 0 for a median of one half.
    temperature, low, high
        Of the Concrete variable, and where it is stretched to: ``low < 0 < 1 < high``.

    Raises
    ------
    ValueError
        For a setting out of range.

    Examples
    --------
    >>> gate, logits = HardConcrete(), torch.tensor([-2.0, 0.0, 2.0])
    >>> gate.price(logits, logits, 1.0)
    tensor([0.4010, 0.8318, 0.9734])
    """

    temperature: float = 2 / 3
    low: float = -0.1
    high: float = 1.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(temperature=self.temperature)
        for name, value, right, wanted in (
            ("low", self.low, -math.inf < self.low < 0, "below 0"),
            ("high", self.high, 1 < self.high < math.inf, "above 1"),
        ):
            if not right:
                raise ValueError(f"{name} = {value!r}: expected a finite number {wanted}")

    def noise(self, uniform: Tensor) -> Tensor:
        return torch.logit(uniform)

    def soft(self, logits: Tensor, at: Tensor | float) -> Tensor:
        return _Clip.apply(_Sigmoid.apply(logits, 1 / self.temperature), self.high - self.low, self.low)

    def hard(self, logits: Tensor) -> Tensor:
        return logits > self.temperature * math.log((0.5 - self.low) / (self.high - 0.5))

    def price(self, logits: Tensor, soft: Tensor, at: Tensor | float) -> Tensor:
        return torch.sigmoid(logits - self.temperature * math.log(-self.low / self.high))


@dataclass(frozen=True)
class GaussianGate(_FromOneLogit):
    """A clipped normal variable: ``clip(logits + 1/2 + noise)``, the Gaussian-Sparsemax of two entries.

    The noise is normal. A weight costs the probability of a mask above 0; at the end those stay whose median is above
    one half. Where the mask is clipped the task gives no gradient, the price still does. Source: Farinhas et al.
    (2022), "Sparse communication via mixed distributions"; as a gate, Yamada et al. (2020), "Feature
    selection using stochastic gates".

    Parameters
    ----------
    initial_logit
        Of every weight; 0 for a median of one half.
    deviation
        Standard deviation of the noise.

    Raises
    ------
    ValueError
        For a setting out of range.

    Examples
    --------
    >>> gate, logits = GaussianGate(deviation=1.0), torch.tensor([-0.2])  # a mean of 0.3
    >>> round(1 - gate.price(logits, logits, 1.0).item(), 4)  # the probability of 0
    0.3821
    """

    deviation: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(deviation=self.deviation)

    def noise(self, uniform: Tensor) -> Tensor:
        return self.deviation * torch.special.ndtri(uniform)

    def soft(self, logits: Tensor, at: Tensor | float) -> Tensor:
        return _Clip.apply(logits, 1.0, 0.5)

    def price(self, logits: Tensor, soft: Tensor, at: Tensor | float) -> Tensor:
        return _Normal.apply(logits, 0.5, self.deviation)


@dataclass(frozen=True)
class StraightThrough(_FromOneLogit):
    """A binary mask at every step: 1 where ``logits + noise > 0``, with the gradient of a sigmoid.

    The noise is logistic, so that an entry is 1 with probability ``sigmoid(logits)``, which is its price: the
    straight-through Gumbel-sigmoid. The network is never computed with anything but 0 and 1. Source: Jang, Gu & Poole
    (2017) and Maddison et al. (2017) for the relaxation; for masks over weights, Csordas et al. (2021), "Are neural
    nets modular?".

    Parameters
    ----------
    initial_logit
        Of every weight.
    temperature
        Of the sigmoid whose gradient is taken, ``sigmoid((logits + noise) / temperature)``.

    Raises
    ------
    ValueError
        For a setting out of range.

    Examples
    --------
    >>> StraightThrough().soft(torch.tensor([-0.3, 0.2]), 1.0)
    tensor([0., 1.])
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(temperature=self.temperature)

    def noise(self, uniform: Tensor) -> Tensor:
        return torch.logit(uniform)

    def soft(self, logits: Tensor, at: Tensor | float) -> Tensor:
        return _Step.apply(logits, 1 / self.temperature)

    def price(self, logits: Tensor, soft: Tensor, at: Tensor | float) -> Tensor:
        return torch.sigmoid(logits)


@dataclass(frozen=True)
class Magnitude(Score):
    """The largest weights stay. Source: Han et al. (2015), "Learning both weights and connections"."""

    batches: int = 0

    def score(self, weight: Tensor, gradient: Tensor) -> Tensor:
        return weight.abs()


@dataclass(frozen=True)
class GradientTimesWeight(Score):
    """The weights stay whose removal changes the task's loss most, to first order.

    ``batches`` says over how many the gradient is averaged. Source: Lee, Ajanthan & Torr (2019), "SNIP: single-shot
    network pruning based on connection sensitivity".
    """

    batches: int = 1

    def __post_init__(self) -> None:
        check_counts(batches=self.batches)

    def score(self, weight: Tensor, gradient: Tensor) -> Tensor:
        return (weight * gradient).abs()


class _Clip(torch.autograd.Function):
    """``clip(scale * x + shift, 0, 1)``, whose gradient in torch takes several times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, shift: float) -> Tensor:
        whole = x.mul(scale).add_(shift)
        ctx.save_for_backward(whole)
        ctx.scale = scale
        return whole.clamp(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (whole,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, whole, 0.0, 1.0).mul_(ctx.scale), None, None


class _Normal(torch.autograd.Function):
    """The distribution function of a normal variable, ``P(noise < (x + shift) / deviation)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: float, deviation: float) -> Tensor:
        scaled = x.add(shift).div_(deviation)
        ctx.save_for_backward(scaled)
        ctx.deviation = deviation
        return torch.special.ndtr(scaled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (scaled,) = ctx.saved_tensors
        density = scaled.square().mul_(-0.5).exp_().mul_(1 / (ctx.deviation * math.sqrt(2 * math.pi)))
        return density.mul_(grad), None, None


class _Step(torch.autograd.Function):
    """``logits > 0``, with the gradient of ``sigmoid(T * logits)``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, T: float) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.T = T
        return (logits > 0).to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (logits,) = ctx.saved_tensors
        return torch.ops.aten.sigmoid_backward(grad * ctx.T, logits.mul(ctx.T).sigmoid_()), None


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} = {value!r}: expected a finite number above 0")
