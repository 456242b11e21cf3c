"""Transfer: a subnetwork's weights inside a new network, frozen or not.

    effective = where(mask, source, free)

``where`` pins a frozen weight whatever the optimiser does to the free tensor behind it:
weight decay, momentum and clipping cannot move it by a bit. Source: Zhang, Lepori &
Pavlick (2023), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sicore._tensors import as_held, check_tensors, is_held, listed
from sicore.masking import Params, matching
from sicore.stacks import Losses, stack
from sicore.subnetwork import Subnetwork
from sicore.training import Trained, Watch, train


@dataclass(frozen=True)
class Start:
    """Where a training starts from: all parameters, and which entries stay as they are.

    Attributes
    ----------
    params
        Parameter name -> initial tensor.
    frozen
        Parameter name -> boolean tensor, True where the entry is pinned. Names that are
        missing are free.
    inherited
        Number of entries that were copied from the source beside the masked weights.
    """

    params: Params
    frozen: Params
    inherited: int = 0

    def __post_init__(self) -> None:
        for name, mask in self.frozen.items():
            if name not in self.params or mask.shape != self.params[name].shape or mask.dtype != torch.bool:
                raise ValueError(f"frozen: {name!r} is no boolean tensor of the shape of a parameter of that name")


def start(
    fresh: Params | nn.Module,
    subnetwork: Subnetwork | None = None,
    *,
    inherit: Iterable[str] = (),
    freeze: bool = True,
) -> Start:
    """Put a subnetwork into freshly initialised parameters.

    Parameters
    ----------
    fresh
        A newly initialised network of the source's architecture, or its parameters. Those with
        ``requires_grad=False`` are held (see :func:`sicore.stacks.stack`): copied like the others, never trained.
    subnetwork
        What to copy; None for a start from ``fresh`` alone (random initialisation).
    inherit
        Names or patterns of further tensors to copy whole from the source (embeddings,
        norms, biases, head ...; see :func:`sicore.masking.parameter_groups`). They are
        trained, never frozen. Weights of the masked layers outside of the mask stay fresh.
        Buffers of the source, such as running statistics, are no parameters: a name of
        one is passed over; load them into the model that computes.
    freeze
        Pin the subnetwork's weights; otherwise they are only the starting point.

    Raises
    ------
    ValueError
        When the subnetwork does not fit, or an inherited name is not in its source.

    Examples
    --------
    >>> found = Subnetwork({"w": torch.tensor([True, False])}, {"w": torch.tensor([1.0, 2.0])})
    >>> begin = start({"w": torch.tensor([9.0, 9.0])}, found)
    >>> begin.params["w"], begin.frozen["w"]
    (tensor([1., 9.]), tensor([ True, False]))
    """
    inherit = (inherit,) if isinstance(inherit, str) else tuple(inherit)
    own = dict(fresh.named_parameters()) if isinstance(fresh, nn.Module) else fresh
    check_tensors("fresh", own)
    params = {name: tensor.detach().clone() for name, tensor in own.items()}

    def begin(frozen: Params, inherited: int = 0) -> Start:
        return Start({name: as_held(params[name], is_held(own[name])) for name in own}, frozen, inherited)

    if subnetwork is None:
        if inherit:
            raise ValueError(f"inherit = {inherit!r} needs a subnetwork, whose source network is inherited from")
        return begin({})
    subnetwork.check_fits(params)
    inherited: dict[str, int] = {}
    for pattern in inherit:
        hits = [name for name in matching(params, pattern) if name not in subnetwork.masks]
        buffers = [name for name in matching(subnetwork.weights, pattern) if name not in params]
        if not hits and not buffers:
            raise ValueError(f"inherit: {pattern!r} matches no unmasked parameter; there are {listed(params)}")
        for name in hits:
            if name not in subnetwork.weights:
                raise ValueError(f"inherit: the subnetwork's file has no weights for {name!r}")
            if subnetwork.weights[name].shape != params[name].shape:
                raise ValueError(
                    f"inherit: {name!r} has shape {tuple(subnetwork.weights[name].shape)} in the source, "
                    f"{tuple(params[name].shape)} in the model"
                )
            params[name] = subnetwork.weights[name].to(params[name]).clone()
            inherited[name] = params[name].numel()
    for name, mask in subnetwork.masks.items():
        params[name] = torch.where(
            mask.to(params[name].device), subnetwork.weights[name].to(params[name]), params[name]
        )
    frozen = {name: mask.to(params[name].device, copy=True) for name, mask in subnetwork.masks.items() if freeze}
    return begin(frozen, sum(inherited.values()))


_BITS = {
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float64: torch.int64,
}


class _Pinned(torch.autograd.Function):
    """``where(frozen, pinned, free)`` in a given type; frozen entries get no gradient.

    Done on the bits, ``(free & keep) | held``, which is exact and lets no NaN through, and
    on a CPU is much faster than ``torch.where``. ``keep`` is an integer tensor, all
    bits set where an entry is free and none where it is frozen; ``held`` are the bits of the
    pinned values, and none where an entry is free.
    """

    @staticmethod
    def forward(ctx: Any, free: Tensor, keep: Tensor, held: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.dtype = free.dtype
        bits = free.to(dtype).view(keep.dtype)
        return bits.bitwise_and(keep).bitwise_or_(held).view(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (keep,) = ctx.saved_tensors
        return grad.contiguous().view(keep.dtype).bitwise_and(keep).view(grad.dtype).to(ctx.dtype), None, None, None


def transfer(
    losses: Losses,
    starts: Sequence[Start],
    batches: Callable[[int, Tensor], Any],
    *,
    accuracy: Callable[[Params, Tensor], Tensor | Mapping[str, Tensor]] | None = None,
    dtype: torch.dtype | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Trained:
    """Train K networks from their starts, with frozen entries held to the bit.

    Parameters
    ----------
    losses, batches
        As for :func:`sicore.training.train`.
    starts
        One per model; all of one architecture.
    accuracy
        ``(effective parameters, active) -> [K]`` on validation data, for the history, or several by name.
    dtype
        Type in which tensors with frozen entries are handed to ``losses``, None for their own; the tensors
        that are trained keep their own.
    watch
        As for :func:`sicore.training.train`; its ``evaluate`` is given effective parameters, too. ``accuracy`` takes
        its place, and is the metric of ``keep_best``, ``target`` and ``patience`` where none is named.
    settings
        Any further argument of :func:`sicore.training.train`.

    Returns
    -------
    Trained
        Its ``params`` are effective ones: frozen entries have their pinned values.

    Raises
    ------
    ValueError
        Before training, for a setting out of range or starts of different architectures.

    Examples
    --------
    Both weights are pulled to 5, and the first is frozen:

    >>> begin = Start({"w": torch.tensor([1.0, 9.0])}, {"w": torch.tensor([True, False])})
    >>> losses = lambda params, context, batch, step: (params["w"] - 5).square().sum(1)
    >>> transfer(losses, [begin], lambda step, active: None, steps=400, lr=0.05).params["w"].round(decimals=1)
    tensor([[1., 5.]])
    """
    if not starts:
        raise ValueError("starts is empty: there is nothing to train")
    if dtype is not None and dtype not in _BITS:
        raise ValueError(f"dtype = {dtype}: expected one of {', '.join(map(str, _BITS))}, or None")
    watch = watch or Watch()
    if accuracy is not None and watch.evaluate is not None:
        raise ValueError("accuracy and watch.evaluate are two answers to what is measured: give one of them")
    params = stack([one.params for one in starts])
    frozen, context, types = {}, {}, {}
    for name in sorted({name for one in starts for name in one.frozen}):
        free = torch.zeros_like(params[name][0], dtype=torch.bool)
        frozen[name] = torch.stack([one.frozen.get(name, free) for one in starts])
        types[name] = own = dtype or params[name].dtype
        if own not in _BITS or not params[name].is_floating_point():
            raise ValueError(
                f"starts: {name!r} has frozen entries of type {params[name].dtype}, which cannot be pinned"
            )
        context[f"keep/{name}"] = (~frozen[name]).to(_BITS[own]).neg_()  # -1 has all bits set
        context[f"held/{name}"] = params[name].to(own).view(_BITS[own]) & ~context[f"keep/{name}"]

    def effective(free: Params, active: Tensor) -> Params:
        pinned = {name: torch.where(mask[active], params[name][active], free[name]) for name, mask in frozen.items()}
        return {**free, **{name: as_held(one) if is_held(free[name]) else one for name, one in pinned.items()}}

    def objective(free: Params, context: Params, batch: Any, step: int) -> Tensor:
        held = {
            name: _Pinned.apply(free[name], context[f"keep/{name}"], context[f"held/{name}"], types[name])
            for name in frozen
        }
        return losses({**free, **held}, context, batch, step)

    def measure(free: Params, context: Params, step: int, active: Tensor) -> Mapping[str, Tensor]:
        if accuracy is None:
            assert evaluate is not None
            return evaluate(effective(free, active), context, step, active)
        value = accuracy(effective(free, active), active)
        return value if isinstance(value, Mapping) else {"accuracy": value}

    evaluate = watch.evaluate
    if accuracy is not None and (watch.keep_best or watch.target is not None or watch.patience is not None):
        watch = replace(watch, metric=watch.metric or "accuracy")
    if accuracy is not None or evaluate is not None:
        watch = replace(watch, evaluate=measure)
    trained = train(objective, params, batches, context=context, watch=watch, **settings)
    everyone = torch.arange(len(starts), device=next(iter(params.values())).device)
    return Trained(effective(trained.params, everyone), trained.steps, trained.history, trained.diverged)
