"""Subnetwork discovery: learn which weights of a frozen network solve a subtask.

One logit per weight is learned so that the network with masked weights solves the subtask with few of them::

    effective = source * soft + outside * (1 - soft)
    loss = task loss + penalty * sum(price)

``soft``, ``price`` and the final mask are those of a mask family; ``outside`` is zero, or what the caller says.
Source: Zhang, Lepori & Pavlick (2023), section 3.1 and appendix B.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sicore._tensors import check_tensors, listed, prefix_between
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
    dtype: torch.dtype | None = None,
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
        Masked names that it leaves out have zeros there; None for zeros everywhere, as in the paper.
    weight_decay
        On the logits; the released code leaves AdamW's default of 0.01 on.
    accuracy
        ``(effective parameters, active) -> [K]``: accuracy on the subtask, for the history.
    dtype
        Type of the masked weights handed to ``losses``; None for each weight's own. Logits are float32, whatever the
        weights are: in bfloat16 and float16 small steps would round to nothing.
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
        Before the search, for a setting out of range, a name the source does not have, or a weight that is no real
        floating-point number.
    TypeError
        When ``source`` is no dictionary of tensors, or ``family`` no value with the methods of one.

    Warns
    -----
    UserWarning
        When a mask ends empty or full: the search has chosen nothing. The message says what to change; ``density``
        and ``soft_mean`` of the history show when it happened.

    Examples
    --------
    Of two weights, the loss needs only the first:

    >>> source = {"w": torch.tensor([[3.0, 5.0]])}
    >>> losses = lambda params, context, batch, step: (params["w"][:, 0] - 3).square()
    >>> masks, search = discover(losses, source, ["w"], lambda step, active: None, steps=200, lr=0.05, penalty=0.01)
    >>> masks["w"]
    tensor([[ True, False]])
    """
    family = ContinuousSparsification() if family is None else family
    names = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    _check(family, source, names)
    check_counts(steps=steps)
    # What is not masked is copied: losses may change running statistics, and the caller's are not theirs to change.
    source = {name: tensor.detach() if name in names else tensor.detach().clone() for name, tensor in source.items()}
    first = source[names[0]]
    lam = _penalties(penalty, len(first)).to(first.device)
    rest = [name for name in source if name not in names]
    types = {name: dtype or source[name].dtype for name in names}
    # As a table: the step may be a tensor, in a captured training step.
    schedule = torch.tensor([family.schedule(step, steps) for step in range(steps)], device=first.device)

    def at(step: int | Tensor) -> Tensor:
        # Not schedule[step]: that would wait for the value of a tensor.
        return schedule[step] if isinstance(step, int) else schedule.index_select(0, step.view(1)).view(())

    def objective(logits: Params, context: Params, batch: Any, step: Any) -> Tensor:
        T = at(step)
        beside = outside(step, context["index"]) if outside is not None else {}
        check_tensors("what outside gives", beside)
        if odd := beside.keys() - logits.keys():
            raise ValueError(f"outside gives {listed(sorted(odd))}, which is not masked; masked are {listed(names)}")
        effective, prices = {name: context[name] for name in rest}, []
        for name, tensor in logits.items():
            soft = family.soft(tensor, T)
            weight = context[f"short/{name}"] * soft.to(types[name])
            effective[name] = weight + (beside[name] * (1 - soft)).to(types[name]) if name in beside else weight
            prices.append(family.price(tensor, soft, T))
        return _Priced.apply(losses(effective, context, batch, step), context["penalty"], *prices)

    def measure(logits: Params, context: Params, step: int, active: Tensor) -> dict[str, Tensor]:
        T = family.schedule(step - 1, steps)
        hard = {name: family.hard(tensor) for name, tensor in logits.items()}
        soft = {name: family.soft(tensor, T) for name, tensor in logits.items()}
        total = sum(tensor[0].numel() for tensor in logits.values())
        values: dict[str, Any] = {
            "density": sum(mask.reshape(len(active), -1).sum(1) for mask in hard.values()) / total,
            "soft_mean": sum(mask.reshape(len(active), -1).sum(1) for mask in soft.values()) / total,
            "temperature": torch.full((len(active),), T),
        }
        if accuracy is not None:
            others = {name: context[name] for name in rest}
            for label, masks in (("accuracy", hard), ("soft_accuracy", soft)):
                values[label] = accuracy(others | {name: context[name] * masks[name] for name in masks}, active)
        return values

    short = {f"short/{name}": source[name].to(types[name]) for name in names}
    trained = train(
        objective, _logits(family, source, names), batches,
        context={**source, **short, "penalty": lam, "schedule": schedule[[0, -1]].expand(len(first), 2)},
        steps=steps, lr=lr, weight_decay=weight_decay, clip=clip, watch=Watch(measure, every), resume=resume, run=run,
    )  # fmt: skip
    _warn_of_collapse(trained, lam, lr, steps)
    return {name: family.hard(tensor) for name, tensor in trained.params.items()}, trained


class _Priced(torch.autograd.Function):
    """The task's loss, with the gradient of ``loss + penalty * sum(price)``.

    The sum's value is never needed, and its gradient is the penalty everywhere: nothing is added up. ``loss`` and
    ``penalty`` are [K], each of ``prices`` [K, ...].
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, penalty: Tensor, *prices: Tensor) -> Tensor:
        ctx.save_for_backward(penalty)
        ctx.shapes = [price.shape for price in prices]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (penalty,) = ctx.saved_tensors
        each = grad * penalty
        return grad, None, *(each.view(-1, *[1] * (len(shape) - 1)).expand(shape) for shape in ctx.shapes)


def _check(family: Family, source: Params, names: Sequence[str]) -> None:
    check_tensors("source", source)
    if isinstance(family, type) or not all(callable(getattr(family, name, None)) for name in _METHODS):
        given = f"the class {family.__name__}" if isinstance(family, type) else repr(family)
        raise TypeError(
            f"family is {given}: expected a value with the methods {', '.join(_METHODS)}, for example "
            "si.ContinuousSparsification()"
        )
    missing = [name for name in names if name not in source]
    if missing or not names:
        hint = prefix_between(missing, source)
        what = listed(missing) if missing else "(none was named)"
        raise ValueError(f"names: the source has no parameter {what}; it has {listed(source)}{hint}")
    for name in names:
        if not source[name].is_floating_point():
            raise ValueError(
                f"names: {name!r} has type {source[name].dtype}; only real floating-point weights are masked"
            )


_METHODS = ("start", "schedule", "soft", "hard", "price")


def _warn_of_collapse(search: Trained, penalty: Tensor, lr: float, steps: int) -> None:
    ends = {row["model"]: row["density"] for row in search.history}
    for model, density in ends.items():
        at = f"penalty = {float(penalty[int(model)]):.3g}, lr = {lr:g}, steps = {steps}"
        if density == 0:
            warnings.warn(
                f"the mask of model {model} is empty: no weight was kept ({at}). Either the penalty outweighs the "
                "loss: lower it. Or logits that start below 0 never rose above it: take more steps, a larger lr, or a "
                "higher initial logit. The history's density and soft_mean show when it happened",
                stacklevel=3,
            )
        elif density == 1:
            warnings.warn(
                f"the mask of model {model} is full: every weight was kept ({at}). The penalty moved no logit below 0: "
                "raise it, or take more steps or a larger lr. The history's density and soft_mean show "
                "whether it was falling",
                stacklevel=3,
            )


def _logits(family: Family, source: Params, names: Iterable[str]) -> Params:
    """The logits that a search starts with, in float32, checked."""
    logits = {name: family.start(source[name]).float() for name in names}
    for name, tensor in logits.items():
        if tensor.shape != source[name].shape:
            raise ValueError(
                f"family.start gives {name!r} the shape {tuple(tensor.shape)}, the source {tuple(source[name].shape)}"
            )
    return logits


def _penalties(penalty: float | Sequence[float], K: int) -> Tensor:
    """lambda of each of K searches, [K], checked."""
    try:
        values = torch.as_tensor(penalty, dtype=torch.float64).tolist()
    except (TypeError, ValueError) as error:
        raise ValueError(f"penalty = {penalty!r}: expected a number, or one for each of {K} searches") from error
    values = values if isinstance(values, list) else [values] * K
    if len(values) != K:
        raise ValueError(f"penalty has {len(values)} values, one for each of {K} searches is expected")
    if not all(0 <= value < math.inf for value in values):
        raise ValueError(f"penalty = {penalty!r}: expected finite numbers of 0 or more")
    return torch.tensor(values, dtype=torch.float32)
