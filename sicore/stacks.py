"""K models of one architecture as one dictionary of tensors with a leading axis K, and their losses.

A *losses* function, ``(params, context, batch, step) -> [K]``, is all that a training or a search knows of a model.
:func:`vmapped` and :func:`looped` make one from any ``nn.Module``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sicore._tensors import as_held, check_tensors, is_held, listed, prefix_between
from sicore.masking import Params

Losses = Callable[[Params, Params, Any, int], Tensor]
"""(parameters, context, batch, step) -> one loss per model, [K], differentiable."""


def stack(models: Iterable[nn.Module | Params]) -> Params:
    """Parameters of K models of one architecture, each tensor with a leading axis K.

    A parameter with ``requires_grad=False`` is held: its stack is such a parameter, too, which no training changes.

    Raises
    ------
    ValueError
        When names or shapes differ, with both shapes; when a parameter is held in one model and not in another.
    TypeError
        When a dictionary holds something else than tensors.
    """
    dicts = [dict(m.named_parameters()) if isinstance(m, nn.Module) else dict(m) for m in models]
    if not dicts:
        raise ValueError("models is empty: a stack needs at least one model")
    for index, params in enumerate(dicts):
        check_tensors(f"model {index}", params)
    first = dicts[0]
    for index, params in enumerate(dicts):
        if params.keys() != first.keys():
            missing, more = first.keys() - params.keys(), params.keys() - first.keys()
            hint = prefix_between(sorted(more), first) if missing else ""
            odd = listed(sorted(missing | more))
            raise ValueError(f"model {index} and model 0 have different parameters: {odd}{hint}")
        for name, tensor in params.items():
            if tensor.shape != first[name].shape:
                raise ValueError(
                    f"{name!r} has shape {tuple(tensor.shape)} in model {index}, {tuple(first[name].shape)} in model 0"
                )
            if is_held(tensor) != is_held(first[name]):
                held, free = (index, 0) if is_held(tensor) else (0, index)
                raise ValueError(f"{name!r} has requires_grad=False in model {held} and not in model {free}")
    return {
        name: as_held(torch.stack([params[name].detach() for params in dicts]), is_held(tensor))
        for name, tensor in first.items()
    }


def unstack(params: Params, index: int) -> Params:
    """The parameters of one model of a stack, copied, without the leading axis."""
    return {name: as_held(tensor.detach()[index].clone(), is_held(tensor)) for name, tensor in params.items()}


def state_of(model: nn.Module) -> Params:
    """Parameters and floating-point buffers (running statistics) of a model, detached: what a stack is made of.

    Buffers are held, as parameters with ``requires_grad=False`` are: no gradient changes them.
    """
    buffers = {name: tensor for name, tensor in model.named_buffers() if tensor.is_floating_point()}
    parameters = {name: as_held(tensor, not tensor.requires_grad) for name, tensor in model.named_parameters()}
    return parameters | {name: as_held(tensor) for name, tensor in buffers.items()}


def vmapped(model: nn.Module, loss: Callable[[Callable[..., Any], Any], Tensor]) -> Losses:
    """Losses of K copies of any model, by ``torch.func``.

    Parameters
    ----------
    model
        Gives the computation, in the mode (``train`` or ``eval``) that it is in at the call, and stays as it is.
        Parameters and buffers are the stack's; what the stack does not have, buffers as a rule, is the model's for
        every copy.
    loss
        ``loss(call, batch) -> scalar``, where ``call(*inputs)`` runs the model. Each
        entry of the batch comes without its leading axis K.

    Returns
    -------
    Losses
        ``(params, context, batch, step) -> [K]``. ``ValueError`` for a parameter that the model does not have, or
        that is another name of one that is there; ``RuntimeError`` for what ``torch.func`` cannot compute.

    Raises
    ------
    ValueError
        When a BatchNorm of the model is in training mode, or a layer is recurrent: :func:`looped` can train them.

    Examples
    --------
    >>> net = nn.Linear(3, 2)
    >>> losses = vmapped(net, lambda call, batch: nn.functional.mse_loss(call(batch[0]), batch[1]))
    >>> x, y = torch.ones(4, 10, 3), torch.zeros(4, 10, 2)  # ten inputs for each of four copies
    >>> losses(stack([net] * 4), {}, (x, y), 0).shape
    torch.Size([4])
    """
    for name, module in model.named_modules():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            raise ValueError(
                f"{name!r} is a BatchNorm in training mode: it would change its running statistics inside a stack. "
                "Call model.eval() first, or compute the copies one after the other with si.looped"
            )
        if isinstance(module, nn.RNNBase):
            raise ValueError(
                f"{name!r} is a {type(module).__name__}, which torch.func cannot compute for several copies at once. "
                "Compute them one after the other with si.looped"
            )
    known = _Borrowed(model)

    def one(params: Params, batch: Any) -> Tensor:
        return loss(lambda *inputs, **named: known.call(dict(params), inputs, named), batch)

    stacked = torch.func.vmap(one, randomness="different")

    def losses(params: Params, context: Params, batch: Any, step: int) -> Tensor:
        try:
            return stacked(known.checked(params), batch)
        except RuntimeError as error:
            if not any(word in str(error).lower() for word in ("vmap", "functorch", "batching rule")):
                raise
            raise RuntimeError(
                f"torch.func cannot compute several copies of {type(model).__name__} at once: {error}\n"
                "Compute them one after the other with si.looped"
            ) from error

    return losses


def looped(model: nn.Module, loss: Callable[[Callable[..., Any], Any], Tensor]) -> Losses:
    """Losses of K copies of any model, one after the other: for large models, and for BatchNorm that trains.

    Parameters
    ----------
    model
        Gives the computation, in the mode (``train`` or ``eval``) that it is in at the call, and stays as it is. In
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
    known, running = _Borrowed(model), [name for name, tensor in model.named_buffers() if tensor.is_floating_point()]

    def losses(params: Params, context: Params, batch: Any, step: Any) -> Tensor:
        params, values = known.checked(params), []
        for k in range(len(next(iter(params.values())))):
            # Cloned: how a kernel rounds may depend on where a tensor begins in memory.
            own = {name: tensor[k].clone() for name, tensor in params.items()}
            statistics = [name for name in running if name in own]
            own |= {name: own[name].detach().clone() for name in statistics}
            part = _rows(batch, k)
            values.append(loss(lambda *inputs, own=own, **named: known.call(own, inputs, named), part))
            with torch.no_grad():
                for name in statistics:
                    params[name].detach()[k].copy_(own[name])
        return torch.stack(values)

    return losses


class _Borrowed:
    """A model that computes with other tensors than its own, and is given back to the bit, after errors too.

    torch's ``functional_call`` alone leaves foreign tensors in a model that has one module under two names, buffers
    that were written to, and what a layer stores as an attribute while it computes (a pruned layer its weight).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.modules = model, list(model.modules())
        self.names: dict[str, str] = {}  # any name of a parameter or buffer -> the first name of the same tensor
        self.places: dict[str, list[tuple[nn.Module, str, str]]] = {}  # first name -> where it stands, each place once
        first: dict[int, str] = {}
        seen: set[tuple[int, str]] = set()
        for prefix, module in model.named_modules(remove_duplicate=False):
            for attribute, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is None:
                    continue
                name = f"{prefix}.{attribute}" if prefix else attribute
                self.names[name] = first.setdefault(id(tensor), name)
                if (id(module), attribute) not in seen:
                    seen.add((id(module), attribute))
                    self.places.setdefault(self.names[name], []).append((module, attribute, name))

    def checked(self, params: Params) -> Params:
        """The parameters by their first names; ``ValueError`` for unknown ones and for one tensor under two names."""
        # functional_call passes over a name that the model does not have: it would never be trained.
        if odd := sorted(params.keys() - self.names.keys()):
            hint = prefix_between(odd, self.names)
            raise ValueError(f"params: the model has no {listed(odd)}; it has {listed(self.names)}{hint}")
        named: dict[str, str] = {}
        for name in params:
            other = named.setdefault(self.names[name], name)
            if other != name:
                raise ValueError(
                    f"params: {other!r} and {name!r} are two names of one tensor of the model; leave one out"
                )
        return {self.names[name]: tensor for name, tensor in params.items()}

    def call(self, params: Params, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The model's output with ``params``, in which buffers that it changes are put."""
        whole: Params = {}
        for first, places in self.places.items():
            if first in params:
                tensor = params[first]
            else:  # the model's own: no gradient may reach it, and no layer write to it
                module, attribute, _ = places[0]
                own = module._parameters.get(attribute)
                tensor = own.detach() if own is not None else module._buffers[attribute].clone()  # type: ignore[union-attr]
            whole |= {name: tensor for _, _, name in places}
        attributes = [dict(vars(module)) for module in self.modules]
        fast = torch.backends.mha.get_fastpath_enabled()
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # attention's way for evaluation has no gradient under vmap
            return functional_call(self.model, whole, inputs, named, tie_weights=False)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            params.update((name, whole[name]) for name in params)
            for module, before in zip(self.modules, attributes, strict=True):
                now = vars(module)
                if now.keys() != before.keys() or not all(map(is_, now.values(), before.values())):
                    now.clear()
                    now.update(before)


def _rows(batch: Any, k: int) -> Any:
    """Member k of a batch: a tensor [K, ...], or tuples, lists and dictionaries of them."""
    if isinstance(batch, Tensor):
        return batch[k]
    if isinstance(batch, dict):
        return {name: _rows(part, k) for name, part in batch.items()}
    return type(batch)(_rows(part, k) for part in batch)
