"""Dictionaries and batches of tensors: which are held, is it one at all, and names in messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

_WRAPPERS = {"module.": " (of DataParallel)", "_orig_mod.": " (of torch.compile)"}


def is_held(tensor: Tensor) -> bool:
    """Is it an ``nn.Parameter`` with ``requires_grad=False``? Such a tensor is no training's to change."""
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def as_held(tensor: Tensor, held: bool = True) -> Tensor:
    """The tensor, detached, as a parameter that is held, or as a plain tensor."""
    return nn.Parameter(tensor.detach(), requires_grad=False) if held else tensor.detach()


def check_tensors(what: str, params: Mapping[str, Any]) -> None:
    """``TypeError`` unless ``params`` is a dictionary of tensors."""
    if isinstance(params, nn.Module):
        raise TypeError(f"{what} is a {type(params).__name__}, not its parameters: si.stack([model]) makes a stack")
    if not isinstance(params, Mapping):
        raise TypeError(f"{what} is a {type(params).__name__}: expected a dictionary from names to tensors")
    for name, tensor in params.items():
        if isinstance(tensor, nn.parameter.UninitializedParameter):
            raise TypeError(f"{what}: {name!r} has no shape yet, as its layer is lazy: run the model once first")
        if not isinstance(tensor, Tensor):
            inside = ", with the tensors inside of it perhaps" if isinstance(tensor, Mapping) else ""
            raise TypeError(f"{what}: {name!r} is a {type(tensor).__name__}{inside}; expected a tensor")


def mapped(batch: Any, function: Callable[[Tensor], Any]) -> Any:
    """The batch, with ``function`` of every tensor in its place: one tensor, or tuples, lists, mappings of them."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {name: mapped(part, function) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [mapped(part, function) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    raise TypeError(f"a batch holds a {type(batch).__name__}: expected tensors, in tuples, lists or dictionaries")


def listed(names: Iterable[str], most: int = 8, between: str = ", ") -> str:
    """The names, or the first of them and how many more there are.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], most=1), listed([])
    ('a, b, c', 'a and 2 more', 'nothing')
    """
    names = list(names)
    if len(names) <= most:
        return between.join(names) or "nothing"
    return f"{between.join(names[:most])} and {len(names) - most} more"


def prefix_between(names: Iterable[str], known: Iterable[str]) -> str:
    """A sentence where one prefix, put before all the names or taken from them, gives known ones; otherwise nothing.

    >>> prefix_between(["module.w", "module.b"], ["w", "b"])
    ". They all begin with 'module.' (of DataParallel), which the model's names do not: strip it"
    """
    names, known = list(names), set(known)
    if not names:
        return ""
    for name in known:
        if name.endswith(f".{names[0]}"):
            prefix = name.removesuffix(names[0])
            if all(prefix + one in known for one in names):
                return f". The model's names begin with {prefix!r}{_WRAPPERS.get(prefix, '')}, these do not: add it"
        if names[0].endswith(f".{name}"):
            prefix = names[0].removesuffix(name)
            if all(one.startswith(prefix) and one.removeprefix(prefix) in known for one in names):
                return (
                    f". They all begin with {prefix!r}{_WRAPPERS.get(prefix, '')}, which the model's names do not: "
                    "strip it"
                )
    return ""
