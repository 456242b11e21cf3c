"""Which parameters can be masked, and how a mask is learned.

A model is an ordinary ``nn.Module``; a mask is a dictionary from parameter names to
tensors of the parameters' shapes. Nothing is wrapped. The two equations that the
rest of the package applies are::

    effective = source * soft + outside * (1 - soft)  # in a search
    effective = where(mask, source, free)             # in use

``soft`` is the mask family's, a value that the search is given (:class:`Family`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Params = dict[str, Tensor]
"""Tensors by parameter name, of one model, or [K, ...] of a stack of K."""

_PROJECTIONS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def _is_projection(module: nn.Module) -> bool:
    # Hugging Face's Conv1D (GPT-2) is a linear map with its weight stored [in, out];
    # the name is compared so that this module does not need transformers.
    return isinstance(module, _PROJECTIONS) or (
        type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")
    )


def matching(names: Iterable[str], patterns: str | Iterable[str]) -> list[str]:
    """The names that match any of the shell-style patterns, in their own order.

    >>> matching(["h.0.weight", "h.0.bias", "head.weight"], "h.*weight")
    ['h.0.weight']
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def maskable(
    model: nn.Module,
    include: str | Iterable[str] = "*",
    exclude: str | Iterable[str] = (),
    *,
    embeddings: bool = False,
    tied: bool = False,
) -> tuple[str, ...]:
    """Names of the weight matrices and kernels that a subnetwork can be cut from.

    Weights of ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d`` and Hugging Face's
    ``Conv1D``; with ``embeddings``, of ``nn.Embedding`` too. Never biases and never
    normalisation layers (paper, section 3).

    Parameters
    ----------
    include, exclude
        Shell-style patterns over parameter names, one or several.
    tied
        Accept a tensor that is used under several names. It is then masked under its
        first name, in all of its uses.

    Raises
    ------
    ValueError
        When nothing is selected, or when a selected parameter is tied to another one
        (GPT-2's head to its embedding, for instance); the message has both names.

    Examples
    --------
    >>> maskable(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    ('0.weight', '2.weight')
    """
    kinds = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, module in model.named_modules(remove_duplicate=False)
        if _is_projection(module) or (embeddings and isinstance(module, nn.Embedding))
    }
    every = dict(model.named_parameters(remove_duplicate=False))
    selected = [name for name in matching(every, include) if name in kinds]
    selected = [name for name in selected if name not in matching(selected, exclude)]
    if not selected:
        raise ValueError(
            f"include = {include!r}, exclude = {exclude!r} select no weight of {type(model).__name__}; "
            f"it has {', '.join(sorted(kinds)) or 'no linear or convolutional layer'}"
        )
    aliases: dict[int, list[str]] = {}
    for name, parameter in every.items():
        aliases.setdefault(id(parameter), []).append(name)
    names = []
    for name in selected:
        same = aliases[id(every[name])]
        if len(same) > 1 and not tied:
            first, other = name, next(alias for alias in same if alias != name)
            raise ValueError(
                f"parameter {first!r} is tied to {other!r}: one tensor under two names. Leave it out "
                f"with exclude={first!r}, or pass tied=True to mask it in all of its uses"
            )
        names.append(same[0])
    return tuple(dict.fromkeys(names))


def parameter_groups(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """What a network holds beside its maskable weights, by kind.

    Returns
    -------
    dict
        ``embeddings`` (weights of ``nn.Embedding``), ``norms`` (weights, biases and
        running statistics of normalisation layers), ``biases`` (of linear and
        convolutional layers), ``tokens`` (parameters that a module holds by itself,
        such as class and position tokens). A tied tensor stands under its first name.
    """
    groups: dict[str, list[str]] = {"embeddings": [], "norms": [], "biases": [], "tokens": []}
    canonical = dict(model.named_parameters())
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        own = [dot + name for name, _ in module.named_parameters(recurse=False)]
        own = [name for name in own if name in canonical]
        if isinstance(module, nn.Embedding):
            groups["embeddings"] += own
        elif isinstance(module, _NORMS):
            groups["norms"] += own + [dot + name for name, _ in module.named_buffers(recurse=False)]
        elif _is_projection(module):
            groups["biases"] += [name for name in own if name.endswith("bias")]
        else:
            groups["tokens"] += own
    return {kind: tuple(names) for kind, names in groups.items()}


class Family(Protocol):
    """A way to learn a mask: what :func:`sicore.discovery.discover` asks of one.

    A family is a small frozen value, and its methods depend on their arguments alone. What is trained are its
    *logits*, one for every weight: tensors [K, ...] of the stacked weights' shapes, whose K rows no method may mix.
    :class:`ContinuousSparsification` is one; a new one needs these five methods and nothing else.
    """

    def start(self, weight: Tensor) -> Tensor:
        """Initial logits for a stacked weight tensor [K, ...], of its shape, in float32."""

    def schedule(self, step: int, steps: int) -> float:
        """What changes over a search of ``steps`` steps, a temperature for instance, at ``step`` (from 0)."""

    def soft(self, logits: Tensor, at: Tensor | float) -> Tensor:
        """The mask in [0, 1] while it is learned, differentiable; ``at`` is the schedule's value."""

    def hard(self, logits: Tensor) -> Tensor:
        """The mask that a search ends with: boolean, of the logits' shape."""

    def price(self, logits: Tensor, soft: Tensor, at: Tensor | float) -> Tensor:
        """What every entry costs, differentiable: the sum is the expected number of kept weights. ``soft`` is known."""


@dataclass(frozen=True)
class ContinuousSparsification:
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
        if not math.isfinite(self.initial_logit):
            raise ValueError(f"initial_logit = {self.initial_logit!r}: expected a finite number")

    def start(self, weight: Tensor) -> Tensor:
        return torch.full_like(weight, self.initial_logit, dtype=torch.float32)

    def schedule(self, step: int, steps: int) -> float:
        stage = min(step * self.stages // max(steps, 1), self.stages - 1)
        if self.skip and stage:
            stage += 1
        return float(self.initial * (self.final / self.initial) ** (stage / (self.stages - 1)))

    def soft(self, logits: Tensor, at: Tensor | float) -> Tensor:
        return _Sigmoid.apply(logits, at)

    def hard(self, logits: Tensor) -> Tensor:
        return logits > 0

    def price(self, logits: Tensor, soft: Tensor, at: Tensor | float) -> Tensor:
        return soft


class _Sigmoid(torch.autograd.Function):
    """``sigmoid(T * logits)`` as one node, which keeps its result alone."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, T: Tensor | float) -> Tensor:
        mask = logits.mul(T).sigmoid_()
        ctx.save_for_backward(mask)
        ctx.T = T
        return mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return torch.ops.aten.sigmoid_backward(grad * ctx.T, mask), None
