"""K models of one architecture as one dictionary of tensors with a leading axis K, and their losses.

A *losses* function, ``(params, context, batch, step) -> [K]``, is all that a training or a search knows of a model.
:func:`vmapped` and :func:`looped` make one from any ``nn.Module``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sicore._tensors import as_held, check_tensors, is_held, listed, mapped, prefix_between
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
        that is another name of one that is there, or that is trained though it has ``requires_grad=False`` in the
        model; for a batch whose first axis is not K. ``RuntimeError`` for what ``torch.func`` cannot compute, and for
        gradient checkpointing. Buffers get no gradient.

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
        if isinstance(module, nn.RNNBase):
            raise ValueError(
                f"{name!r} is a {type(module).__name__}, which torch.func cannot compute for several copies at once. "
                "Compute them one after the other with si.looped"
            )
    normalising = dict(_tracking(model))

    def check_mode() -> None:
        for name, module in normalising.items():
            if module.training:
                raise ValueError(
                    f"{name!r} is a BatchNorm in training mode: it would change its running statistics inside a stack. "
                    "Call model.eval() first, or compute the copies one after the other with si.looped"
                )

    check_mode()
    known = _Borrowed(model)

    def one(params: Params, batch: Any) -> Tensor:
        def call(*inputs: Any, **named: Any) -> Any:
            own = dict(params)
            output = known.call(own, inputs, named)
            for name, tensor in own.items():
                if tensor is not params[name]:  # a buffer that the model has put anew
                    params[name].detach().copy_(tensor.detach())
            return output

        return loss(call, batch)

    stacked = torch.func.vmap(one, randomness="different")

    def losses(params: Params, context: Params, batch: Any, step: int) -> Tensor:
        check_mode()
        params = known.checked(params)
        batch = mapped(batch, partial(_check_axis, K=_count(params)))
        try:
            return stacked(params, batch)
        except (RuntimeError, NotImplementedError) as error:
            if not any(word in str(error).lower() for word in ("vmap", "functorch", "batching rule", "differentiable")):
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
        As of :func:`vmapped`. ``ValueError`` also for a BatchNorm in training mode whose running statistics the
        stack does not have: make it of :func:`state_of`.
    """
    known, running = _Borrowed(model), [name for name, tensor in model.named_buffers() if tensor.is_floating_point()]
    normalising = dict(_tracking(model))

    def losses(params: Params, context: Params, batch: Any, step: Any) -> Tensor:
        params, values = known.checked(params), []
        for name, module in normalising.items():
            if module.training and f"{name}.running_mean".lstrip(".") not in params:
                raise ValueError(
                    f"{name!r} is a BatchNorm in training mode, and the stack has no place for its running statistics: "
                    "stack si.state_of(model), or start from it, in place of the model"
                )
            if module.training and module.momentum is None:
                raise ValueError(f"{name!r} has momentum=None, a mean over all steps, which a stack does not count")
        K = _count(params)
        batch = mapped(batch, partial(_check_axis, K=K))
        for k in range(K):
            # Cloned: how a kernel rounds may depend on where a tensor begins in memory.
            own = {name: tensor[k].clone() for name, tensor in params.items()}
            statistics = [name for name in running if name in own]
            own |= {name: own[name].detach().clone() for name in statistics}
            part = mapped(batch, lambda tensor, k=k: tensor[k])  # type: ignore[misc]
            values.append(loss(lambda *inputs, own=own, **named: known.call(own, inputs, named), part))
            with torch.no_grad():
                for name in statistics:
                    params[name].detach()[k].copy_(own[name])
        return torch.stack(values)

    return losses


RECOMPUTED = (
    "the losses compute a part again during the backward pass (gradient checkpointing), when the model has its own "
    "weights back: switch it off, or make the batch smaller"
)
"""Why a model that saves memory so is refused."""


def _tracking(model: nn.Module) -> Iterator[tuple[str, nn.modules.batchnorm._BatchNorm]]:
    """The layers with running statistics."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            yield name, module


def _count(params: Params) -> int:
    return len(next(iter(params.values())))


def _check_axis(tensor: Tensor, K: int) -> Tensor:
    if not tensor.dim() or len(tensor) != K:
        raise ValueError(
            f"batch: a tensor of shape {list(tensor.shape)} for {K} models: the first axis has one entry for each"
        )
    return tensor


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
        found: Params = {}
        for name, tensor in params.items():
            first = self.names[name]
            if first in found:
                raise ValueError(f"params: {name!r} is another name of {first!r}, which is there too; leave one out")
            module, attribute, _ = self.places[first][0]
            own = module._parameters.get(attribute)
            if own is None:  # a buffer is no gradient's to change, whatever it was stacked from
                tensor = tensor.detach()
            # A search's weights are no leaves: of those the model's own flags say nothing.
            elif tensor.requires_grad and tensor.is_leaf and not own.requires_grad:
                raise ValueError(
                    f"params: {name!r} is trained, but has requires_grad=False in the model that computes. Hold it, as "
                    "si.stack([model]) does (a copy made by .to(...) is no parameter any more: move the model first), "
                    "or set requires_grad=True there"
                )
            found[first] = tensor
        return found

    def call(self, params: Params, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The model's output with ``params``, in which buffers that it changes are put."""
        whole: Params = {}
        lent: dict[str, tuple[Tensor, int]] = {}
        for first, places in self.places.items():
            if first in params:
                tensor = params[first]
            else:  # the model's own: no gradient may reach it, and no layer write to it
                module, attribute, _ = places[0]
                own = module._parameters.get(attribute)
                tensor = (own.detach() if own is not None else module._buffers[attribute]).clone()  # type: ignore[union-attr]
                lent[first] = tensor, tensor._version
            whole |= {name: tensor for _, _, name in places}
        attributes = [dict(vars(module)) for module in self.modules]
        fast = torch.backends.mha.get_fastpath_enabled()
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # attention's way for evaluation has no gradient under vmap
            with torch.autograd.graph.disable_saved_tensors_hooks(RECOMPUTED):
                return functional_call(self.model, whole, inputs, named, tie_weights=False)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            params.update((name, whole[name]) for name in params)
            self._warn_of_lost(whole, lent)
            for module, before in zip(self.modules, attributes, strict=True):
                now = vars(module)
                if now.keys() != before.keys() or not all(map(is_, now.values(), before.values())):
                    now.clear()
                    now.update(before)

    def _warn_of_lost(self, whole: Params, lent: dict[str, tuple[Tensor, int]]) -> None:
        """Say which buffers the model has written to that are in no stack."""
        for name, (tensor, version) in lent.items():
            if (whole[name] is not tensor or tensor._version != version) and not name.endswith("num_batches_tracked"):
                warnings.warn(
                    f"the model writes to its buffer {name!r}, which is not in the stack, so that what it writes is "
                    "lost. si.stack([si.state_of(model)]) has those of floating-point numbers",
                    stacklevel=2,
                )
