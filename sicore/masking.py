"""Which parameters can be masked, and how a mask is learned and scheduled.

A model is an ordinary ``nn.Module``; a mask is a dictionary from parameter names to
tensors of the parameters' shapes. Nothing is wrapped. The two equations that the
rest of the package applies are::

    effective = source * sigmoid(T * logits)          # while a subnetwork is searched
    effective = where(mask, source, free)             # while it is put to use

Source: Savarese, Silva & Maire (2020), "Winning the Lottery with Continuous
Sparsification", for the first; Zhang, Lepori & Pavlick (2023), section 3, for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

Params = dict[str, Tensor]

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


def soft_mask(logits: Tensor, temperature: Tensor | float) -> Tensor:
    """``sigmoid(temperature * logits)``: a mask in (0, 1), same shape as ``logits``.

    As the temperature grows it approaches :func:`hard_mask`.
    """
    return torch.sigmoid(temperature * logits)


def hard_mask(logits: Tensor) -> Tensor:
    """``logits > 0``: boolean, same shape as ``logits``."""
    return logits > 0


def initial_logits(source: Mapping[str, Tensor], names: Iterable[str], value: float = -0.1) -> Params:
    """Constant mask logits for the named tensors (the paper starts every one at -0.1)."""
    return {name: torch.full_like(source[name], value) for name in names}


def temperature(
    step: int, steps: int, *, stages: int = 50, initial: float = 1.0, final: float = 100.0, skip: bool = False
) -> float:  # fmt: skip
    """Temperature at a training step: ``initial`` in the first stage (the paper's 1), ``final`` in the last.

    The run is cut into ``stages`` equal parts (the paper's epochs) and the temperature
    is multiplied by a constant x from one part to the next: 1, x, x^2, ... with
    x = (final / initial)^(1 / (stages - 1)).

    Parameters
    ----------
    step, steps
        Current step (from 0) and length of the run.
    skip
        The released code's sequence 1, x^2, x^3, ...: its first multiplication is
        applied twice, so that every later stage is ahead by one factor.

    Examples
    --------
    >>> [round(temperature(s, 3, stages=3, final=100.0), 6) for s in range(3)]
    [1.0, 10.0, 100.0]
    >>> [round(temperature(s, 3, stages=3, final=100.0, skip=True), 6) for s in range(3)]
    [1.0, 100.0, 1000.0]
    """
    if stages < 2:
        raise ValueError(
            f"stages = {stages!r}: the temperature needs at least 2 stages to rise from {initial} to {final}"
        )
    if not 0 < initial < float("inf"):
        raise ValueError(f"initial = {initial!r}: expected a finite temperature above 0")
    if not initial < final < float("inf"):
        raise ValueError(f"final = {final!r}: the final temperature must exceed {initial}, where the schedule starts")
    stage = min(step * stages // max(steps, 1), stages - 1)
    if skip and stage:
        stage += 1
    return float(initial * (final / initial) ** (stage / (stages - 1)))
