"""Subnetwork discovery: learn which weights of a frozen network solve a subtask.

One logit per weight is learned so that the network with masked weights solves the subtask with few of them::

    effective = source * soft + outside * (1 - soft)
    loss = task loss + penalty * sum(price)

``soft``, ``price`` and the final mask are those of a mask family; ``outside`` is zero, or what the caller says.
Source: Zhang, Lepori & Pavlick (2023), section 3.1 and appendix B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sicore.masking import ContinuousSparsification, Family, Params
from sicore.stacks import Losses
from sicore.training import Resume, Run, Trained, Watch, check_counts, train


def discover(
    losses: Losses,
    source: Params,
    names: Iterable[str],
    batches: Callable[[int, Tensor], Any],
    *,
    steps: int,
    lr: float = 1e-3,
    penalty: float | Sequence[float] = 1e-7,
    family: Family | None = None,
    outside: Callable[[Any, Tensor], Params] | None = None,
    weight_decay: float = 0.0,
    clip: float | None = None,
    accuracy: Callable[[Params, Tensor], Tensor] | None = None,
    every: int = 100,
    dtype: torch.dtype = torch.float32,
    resume: Resume | None = None,
    run: Run | None = None,
) -> tuple[Params, Trained]:
    """Search one subnetwork in each of K frozen networks.

    Parameters
    ----------
    losses
        Task losses ``(params, context, batch, step) -> [K]``, for example of
        :func:`sicore.stacks.vmapped`. Give it the model in evaluation mode (no
        dropout, BatchNorm on its running statistics).
    source
        Stacked parameters of the frozen networks, [K, ...] (see :func:`sicore.stacks.stack`).
    names
        Parameters to mask (see :func:`sicore.masking.maskable`).
    penalty
        lambda, for all or for each of the K searches.
    family
        How the mask is learned; the paper's :class:`sicore.masking.ContinuousSparsification` by default.
    outside
        ``(step, active) -> parameter name -> [k, ...]``: what stands where the mask is 0, while it is searched.
        None for zeros, as in the paper.
    weight_decay
        On the logits; the released code leaves AdamW's default of 0.01 on.
    accuracy
        ``(effective parameters, active) -> [K]``: accuracy on the subtask, for the history.
    dtype
        Type of the masked weights handed to ``losses``; logits are float32.
    every, clip, resume, run
        As for :func:`sicore.training.train`.

    Returns
    -------
    masks
        Parameter name -> boolean [K, ...].
    trained
        The history has ``loss`` (of the task, without the penalty), ``density`` (of the hard mask), ``soft_mean``,
        ``temperature`` (the family's schedule) and, with ``accuracy``, ``accuracy`` of the hard mask and
        ``soft_accuracy``, both with zeros outside of the mask.

    Raises
    ------
    ValueError
        Before the search, for a setting out of range or a name the source does not have.
    """
    family = family or ContinuousSparsification()
    names = tuple(names)
    missing = [name for name in names if name not in source]
    if missing or not names:
        raise ValueError(
            f"names: the source has no parameter {', '.join(missing) or '(none was named)'}; it has {', '.join(source)}"
        )
    check_counts(steps=steps)
    source = {name: tensor.detach() for name, tensor in source.items()}
    first = source[names[0]]
    lam = _penalties(penalty, len(first)).to(first.device)
    rest = [name for name in source if name not in names]
    # As a table: the step may be a tensor, in a captured training step.
    schedule = torch.tensor([family.schedule(step, steps) for step in range(steps)], device=first.device)

    def at(step: int | Tensor) -> Tensor:
        # Not schedule[step]: that would wait for the value of a tensor.
        return schedule[step] if isinstance(step, int) else schedule.index_select(0, step.view(1)).view(())

    def objective(logits: Params, context: Params, batch: Any, step: Any) -> Tensor:
        T = at(step)
        beside = outside(step, context["index"]) if outside is not None else {}
        effective, price = {name: context[name] for name in rest}, torch.zeros_like(context["penalty"])
        for name, tensor in logits.items():
            soft = family.soft(tensor, T)
            weight = context[f"short/{name}"] * soft.to(dtype)
            effective[name] = weight + (beside[name] * (1 - soft)).to(dtype) if name in beside else weight
            price = price + family.price(tensor, soft, T).flatten(1).sum(1)
        price = context["penalty"] * price
        # The gradient of both, the value of the task's loss.
        return losses(effective, context, batch, step) + (price - price.detach())

    def measure(logits: Params, context: Params, step: int, active: Tensor) -> dict[str, Tensor]:
        T = family.schedule(step - 1, steps)
        hard = {name: family.hard(tensor) for name, tensor in logits.items()}
        soft = {name: family.soft(tensor, T) for name, tensor in logits.items()}
        total = sum(tensor[0].numel() for tensor in logits.values())
        values: dict[str, Any] = {
            "density": sum(mask.flatten(1).sum(1) for mask in hard.values()) / total,
            "soft_mean": sum(mask.flatten(1).sum(1) for mask in soft.values()) / total,
            "temperature": torch.full((len(active),), T),
        }
        if accuracy is not None:
            others = {name: context[name] for name in rest}
            for label, masks in (("accuracy", hard), ("soft_accuracy", soft)):
                values[label] = accuracy(others | {name: context[name] * masks[name] for name in masks}, active)
        return values

    short = {f"short/{name}": source[name].to(dtype) for name in names}
    trained = train(
        objective, {name: family.start(source[name]) for name in names}, batches,
        context={**source, **short, "penalty": lam}, steps=steps, lr=lr, weight_decay=weight_decay, clip=clip,
        watch=Watch(measure, every), resume=resume, run=run,
    )  # fmt: skip
    return {name: family.hard(tensor) for name, tensor in trained.params.items()}, trained


def _penalties(penalty: float | Sequence[float], K: int) -> Tensor:
    """lambda of each of K searches, [K], checked."""
    lam = torch.as_tensor(penalty, dtype=torch.float32)
    if lam.dim() and len(lam) != K:
        raise ValueError(f"penalty has {len(lam)} values, one for each of {K} searches is expected")
    lam = lam.expand(K).contiguous()
    if not bool(((lam >= 0) & lam.isfinite()).all()):
        raise ValueError(f"penalty = {penalty!r}: expected finite numbers of 0 or more")
    return lam
