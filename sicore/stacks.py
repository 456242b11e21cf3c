"""K models of one architecture as one dictionary of tensors with a leading axis K, and their losses.

A *losses* function, ``(params, context, batch, step) -> [K]``, is all that a training or a search knows of a model.
:func:`vmapped` and :func:`looped` make one from any ``nn.Module``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sicore.masking import Params

Losses = Callable[[Params, Params, Any, int], Tensor]
"""(parameters, context, batch, step) -> one loss per model, [K], differentiable."""


def stack(models: Iterable[nn.Module | Params]) -> Params:
    """Parameters of K models of one architecture, each tensor with a leading axis K.

    Raises ``ValueError`` when names or shapes differ, with both shapes.
    """
    dicts = [dict(m.named_parameters()) if isinstance(m, nn.Module) else dict(m) for m in models]
    if not dicts:
        raise ValueError("models is empty: a stack needs at least one model")
    first = dicts[0]
    for index, params in enumerate(dicts):
        if params.keys() != first.keys():
            odd = ", ".join(sorted(params.keys() ^ first.keys()))
            raise ValueError(f"model {index} and model 0 have different parameters: {odd}")
        for name, tensor in params.items():
            if tensor.shape != first[name].shape:
                raise ValueError(
                    f"{name!r} has shape {tuple(tensor.shape)} in model {index}, {tuple(first[name].shape)} in model 0"
                )
    return {name: torch.stack([params[name].detach() for params in dicts]) for name in first}


def unstack(params: Params, index: int) -> Params:
    """The parameters of one model of a stack, copied, without the leading axis."""
    return {name: tensor[index].clone() for name, tensor in params.items()}


def state_of(model: nn.Module) -> Params:
    """Parameters and floating-point buffers (running statistics) of a model, detached: what a stack is made of."""
    buffers = {name: tensor for name, tensor in model.named_buffers() if tensor.is_floating_point()}
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *buffers.items()]}


def vmapped(model: nn.Module, loss: Callable[[Callable[..., Any], Any], Tensor]) -> Losses:
    """Losses of K copies of any model, by ``torch.func``.

    Parameters
    ----------
    model
        Gives the computation, in the mode (``train`` or ``eval``) that it is in at the call. Parameters and
        buffers are the stack's; what the stack does not have, buffers as a rule, is the model's for every copy.
    loss
        ``loss(call, batch) -> scalar``, where ``call(*inputs)`` runs the model. Each
        entry of the batch comes without its leading axis K.

    Returns
    -------
    Losses
        ``(params, context, batch, step) -> [K]``. ``ValueError`` for a parameter that the model does not have.

    Raises
    ------
    ValueError
        When a BatchNorm of the model is in training mode: :func:`looped` can train it.

    Examples
    --------
    >>> net = nn.Linear(3, 2)
    >>> losses = vmapped(net, lambda call, batch: nn.functional.mse_loss(call(batch[0]), batch[1]))
    >>> x, y = torch.ones(4, 10, 3), torch.zeros(4, 10, 2)  # ten inputs for each of four copies
    >>> losses(stack([net] * 4), {}, (x, y), 0).shape
    torch.Size([4])
    """
    known = _names(model)
    for name, module in model.named_modules():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            raise ValueError(
                f"{name!r} is a BatchNorm in training mode: it would change its running statistics inside a stack. "
                "Call model.eval() first"
            )

    def one(params: Params, batch: Any) -> Tensor:
        return loss(lambda *inputs: functional_call(model, params, inputs), batch)

    stacked = torch.func.vmap(one, randomness="different")

    def losses(params: Params, context: Params, batch: Any, step: int) -> Tensor:
        _check_names(params, known)
        return stacked(params, batch)

    return losses


def looped(model: nn.Module, loss: Callable[[Callable[..., Any], Any], Tensor]) -> Losses:
    """Losses of K copies of any model, one after the other: for large models, and for BatchNorm that trains.

    Parameters
    ----------
    model
        Gives the computation, in the mode (``train`` or ``eval``) that it is in at the call. In
        training mode the running statistics of each copy are updated; they are entries of
        the stack without a gradient (see :func:`state_of`), so that every copy has its own and a
        checkpoint holds them.
    loss
        As for :func:`vmapped`.

    Returns
    -------
    Losses
        As of :func:`vmapped`.
    """
    known, running = _names(model), [name for name, tensor in model.named_buffers() if tensor.is_floating_point()]

    def losses(params: Params, context: Params, batch: Any, step: Any) -> Tensor:
        _check_names(params, known)
        values = []
        for k in range(len(next(iter(params.values())))):
            # Cloned: how a kernel rounds may depend on where a tensor begins in memory.
            own = {name: tensor[k].clone() for name, tensor in params.items()}
            statistics = {name: own[name].detach().clone() for name in running if name in own}
            part = _rows(batch, k)
            values.append(loss(lambda *x, own=own | statistics: functional_call(model, own, x), part))
            with torch.no_grad():
                for name, tensor in statistics.items():
                    params[name].detach()[k].copy_(tensor)
        return torch.stack(values)

    return losses


def _names(model: nn.Module) -> set[str]:
    """Every name of a parameter or buffer, second names of tied ones included."""
    return {name for part in (model.named_parameters, model.named_buffers) for name, _ in part(remove_duplicate=False)}


def _check_names(params: Params, known: set[str]) -> None:
    # functional_call passes over a name that the model does not have: it would never be trained.
    if odd := params.keys() - known:
        raise ValueError(f"params: the model has no {', '.join(sorted(odd))}; it has {', '.join(sorted(known))}")


def _rows(batch: Any, k: int) -> Any:
    """Member k of a batch: a tensor [K, ...], or tuples, lists and dictionaries of them."""
    if isinstance(batch, Tensor):
        return batch[k]
    if isinstance(batch, dict):
        return {name: _rows(part, k) for name, part in batch.items()}
    return type(batch)(_rows(part, k) for part in batch)
