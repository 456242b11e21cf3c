"""Subnetwork discovery by continuous sparsification.

The source network is frozen; one logit per weight is learned so that the network with
``source * sigmoid(T * logits)`` solves the subtask with few weights::

    loss = task loss + penalty * sum(sigmoid(T * logits))

T rises from 1 to ``final_temperature``, which drives the soft mask to 0 or 1; the
subnetwork is ``logits > 0``. Source: Savarese, Silva & Maire (2020); Zhang, Lepori &
Pavlick (2023), section 3.1 and appendix B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sicore.masking import Params, hard_mask, initial_logits, soft_mask, temperature
from sicore.training import Losses, Trained, train


class _Masked(torch.autograd.Function):
    """``source * sigmoid(T * logits)``, in the type of ``source``; the gradient includes the penalty's.

    One node instead of five: it keeps the soft mask alone, and adds the gradient of
    ``penalty * sum(mask)`` where the gradient of the task passes by.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, source: Tensor, T: Tensor, penalty: Tensor) -> Tensor:
        mask = logits.mul(T).sigmoid_()
        ctx.save_for_backward(mask, source, T, penalty)
        return source * mask.to(source.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        mask, source, T, penalty = ctx.saved_tensors
        total = (grad * source).to(mask.dtype).add_(penalty.view(-1, *[1] * (source.dim() - 1))).mul_(T)
        return torch.ops.aten.sigmoid_backward(total, mask), None, None, None


def discover(
    losses: Losses,
    source: Params,
    names: Iterable[str],
    batches: Callable[[int, Tensor], Any],
    *,
    steps: int,
    lr: float = 1e-3,
    penalty: float | Sequence[float] = 1e-7,
    initial_logit: float = -0.1,
    initial_temperature: float = 1.0,
    final_temperature: float = 100.0,
    stages: int = 50,
    skip_temperature: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    accuracy: Callable[[Params, Tensor], Tensor] | None = None,
    every: int = 100,
    dtype: torch.dtype = torch.float32,
    checkpoint: str | Path | None = None,
    progress: str | Callable[[int], None] | None = None,
    capture: bool = True,
    pieces: int = 1,
    average: Callable[[list[Tensor]], None] | None = None,
    keep_going: bool = False,
) -> tuple[Params, Trained]:
    """Search one subnetwork in each of K frozen networks.

    Parameters
    ----------
    losses
        Task losses ``(params, context, batch, step) -> [K]``, for example of
        :func:`sicore.training.vmapped`. Give it the model in evaluation mode (no
        dropout, BatchNorm on its running statistics).
    source
        Stacked parameters of the frozen networks, [K, ...] (see :func:`sicore.models.stack`).
    names
        Parameters to mask (see :func:`sicore.masking.maskable`).
    penalty
        lambda, for all or for each of the K searches.
    initial_logit, initial_temperature, final_temperature, stages
        The paper's -0.1, 1, 100 and 50 epochs. A mask starts at ``sigmoid(initial_temperature * initial_logit)``,
        0.48 with the paper's.
    skip_temperature
        The released code's temperatures (see :func:`sicore.masking.temperature`).
    weight_decay
        On the logits; the released code leaves AdamW's default of 0.01 on.
    accuracy
        ``(effective parameters, active) -> [K]``: accuracy on the subtask, for the history.
    dtype
        Type of the masked weights handed to ``losses``; logits are float32.
    checkpoint, progress, capture, pieces, average, keep_going
        As for :func:`sicore.training.train`.

    Returns
    -------
    masks
        Parameter name -> boolean [K, ...].
    trained
        The history has ``loss`` (of the task, without the penalty), ``density`` (of the hard mask),
        ``soft_mean``, ``temperature`` and, with ``accuracy``, ``accuracy`` of the hard
        mask and ``soft_accuracy``.

    Raises
    ------
    ValueError
        Before the search, for a setting out of range or a name the source does not have.
    """
    names = tuple(names)
    missing = [name for name in names if name not in source]
    if missing or not names:
        raise ValueError(
            f"names: the source has no parameter {', '.join(missing) or '(none was named)'}; it has {', '.join(source)}"
        )
    K = len(next(iter(source.values())))
    source = {name: tensor.detach() for name, tensor in source.items()}
    lam = torch.as_tensor(penalty, dtype=torch.float32)
    if lam.dim() and len(lam) != K:
        raise ValueError(f"penalty has {len(lam)} values, one for each of {K} searches is expected")
    lam = lam.expand(K).contiguous()
    if not bool(((lam >= 0) & lam.isfinite()).all()):
        raise ValueError(f"penalty = {penalty!r}: expected finite numbers of 0 or more")

    def at(step: int) -> float:
        return temperature(
            step, steps, stages=stages, initial=initial_temperature, final=final_temperature, skip=skip_temperature
        )

    at(0)  # checks the settings before any work

    # As a table: the step may be a tensor, in a captured training step.
    temperatures = torch.tensor([at(step) for step in range(steps)], device=next(iter(source.values())).device)

    def temperature_of(step: int | Tensor) -> Tensor:
        # Not temperatures[step]: that would wait for the value of a tensor.
        return temperatures[step] if isinstance(step, int) else temperatures.index_select(0, step.view(1)).view(())

    def effective(logits: Params, context: Params, T: Tensor) -> Params:
        rest = {name: context[name] for name in source if name not in logits}
        masked = {name: _Masked.apply(logits[name], context[f"short/{name}"], T, context["penalty"]) for name in logits}
        return rest | masked

    def objective(logits: Params, context: Params, batch: Any, step: Any) -> Tensor:
        return losses(effective(logits, context, temperature_of(step)), context, batch, step)

    def measure(logits: Params, context: Params, step: int, active: Tensor) -> dict[str, Tensor]:
        T = at(step - 1)
        hard = {name: hard_mask(tensor) for name, tensor in logits.items()}
        total = sum(tensor[0].numel() for tensor in logits.values())
        soft = {name: soft_mask(tensor, T) for name, tensor in logits.items()}
        values: dict[str, Any] = {
            "density": sum(mask.flatten(1).sum(1) for mask in hard.values()) / total,
            "soft_mean": sum(mask.flatten(1).sum(1) for mask in soft.values()) / total,
            "temperature": torch.full((len(active),), T),
        }
        if accuracy is not None:
            rest = {name: context[name] for name in source if name not in logits}
            for label, masks in (("accuracy", hard), ("soft_accuracy", soft)):
                values[label] = accuracy(rest | {name: context[name] * masks[name] for name in masks}, active)
        return values

    logits = initial_logits(source, names, initial_logit)
    short = {f"short/{name}": source[name].to(dtype) for name in names}
    # Every piece of a batch adds the penalty's gradient.
    lam = lam.to(next(iter(source.values())).device) / pieces
    trained = train(
        objective, logits, batches, context={**source, **short, "penalty": lam},
        steps=steps, lr=lr, weight_decay=weight_decay, clip=clip, evaluate=measure, every=every,
        checkpoint=checkpoint, progress=progress, capture=capture, pieces=pieces, average=average,
        keep_going=keep_going,
    )  # fmt: skip
    return {name: hard_mask(tensor) for name, tensor in trained.params.items()}, trained
