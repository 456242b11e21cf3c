"""Which parameters can be masked.

A model is an ordinary ``nn.Module``; a mask is a dictionary from parameter names to
tensors of the parameters' shapes. Nothing is wrapped. The two equations that the
rest of the package applies are::

    effective = source * soft + outside * (1 - soft)  # in a search
    effective = where(mask, source, free)             # in use

``soft`` is the mask family's, a value that the search is given (:mod:`sicore.families`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sicore._tensors import check_tensors, listed, prefix_between

Params = dict[str, Tensor]
"""Tensors by parameter name, of one model, or [K, ...] of a stack of K."""

# What torch has that multiplies by a matrix. Layers of other libraries are known by what they hold, see _is_projection.
_PROJECTIONS = (
    nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention,
)  # fmt: skip
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


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
    others: str | Iterable[str] = (),
    embeddings: bool = False,
    tied: bool = False,
) -> tuple[str, ...]:
    """Names of the weight matrices and kernels that a subnetwork can be cut from.

    Those of linear, bilinear, convolutional (transposed and grouped ones too), recurrent and attention layers. Never
    biases and never normalisation layers (paper, section 3). A layer is known by its torch type, or by what it holds,
    whatever its class is called: a module without submodules that holds a matrix and a bias of fitting length is a
    linear layer (Hugging Face's ``Conv1D``). :func:`left_out` lists everything else.

    Parameters
    ----------
    include, exclude
        Shell-style patterns over parameter names, one or several.
    others
        Patterns of further parameters to mask: matrices of layers that are not known here (the fused weights of
        experts, for instance). One that is included, and neither in ``others`` nor excluded, is warned of by name.
    embeddings
        Mask embeddings too.
    tied
        Accept a tensor that is used under several names. It is then masked under its
        first name, in all of its uses.

    Raises
    ------
    ValueError
        When nothing is selected, or a pattern matches no parameter; when a selected parameter is tied to another one
        (GPT-2's head to its embedding, for instance), with both names; when a selected layer computes its weight from
        something else (pruned, weight normalisation), with how to make it permanent; when a selected weight holds no
        floating-point numbers.

    Examples
    --------
    >>> maskable(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    ('0.weight', '2.weight')
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(f"{type(model).__name__} is compiled by torch.jit, which computes with its own weights alone")
    every = dict(model.named_parameters(remove_duplicate=False))
    check_tensors("the model", every)
    computed = _computed(model)
    kinds = _kinds(model, computed)
    for what, patterns in {"include": include, "exclude": exclude, "others": others}.items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if not matching([*every, *computed], pattern):
                hint = prefix_between([pattern], every)
                raise ValueError(f"{what}: {pattern!r} matches no parameter; there are {listed(every)}{hint}")
    excluded = set(matching(every, exclude))
    for name, (parts, remedy) in computed.items():
        if matching([name], include) and not matching([name], exclude):
            raise ValueError(
                f"{name!r} is no parameter, but computed from {', '.join(parts)}. Make it permanent first, with "
                f"{remedy}, or leave it out with exclude={name!r}"
            )
        excluded |= set(parts)
    unknown = [name for name in every if kinds[name] == "others"]
    wanted = {"weights", "embeddings"} if embeddings else {"weights"}
    further = set(matching(unknown, others))
    known = [name for name in every if kinds[name] in wanted or name in further]
    selected = [name for name in matching(known, include) if name not in excluded]
    if not selected:
        raise ValueError(
            f"include = {include!r}, exclude = {exclude!r} select no weight of {type(model).__name__}; "
            f"it has {listed(known) if known else 'no linear or convolutional layer'}"
        )
    if silent := [name for name in matching(unknown, include) if name not in {*further, *excluded}]:
        shapes = [f"{name} {list(every[name].shape)}" for name in silent]
        warnings.warn(
            f"not masked, because what they do is not known here: {listed(shapes)}. Mask them with others=..., or "
            "leave them out with exclude=... and no warning",
            stacklevel=2,
        )
    aliases: dict[int, list[str]] = {}
    for name, parameter in every.items():
        aliases.setdefault(id(parameter), []).append(name)
    names = []
    for name in selected:
        if not every[name].is_floating_point():
            raise ValueError(f"{name!r} has type {every[name].dtype}: only floating-point weights can be masked")
        same = aliases[id(every[name])]
        if len(same) > 1 and not tied:
            raise ValueError(
                f"parameter {name!r} is tied to {next(alias for alias in same if alias != name)!r}: one tensor under "
                f"two names. Leave it out with exclude={name!r}, or pass tied=True to mask it in all of its uses"
            )
        names.append(same[0])
    return tuple(dict.fromkeys(names))


def parameter_groups(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """What a network holds beside its maskable weights, by what it does.

    A layer is known by its torch type, or by what it holds: a module without submodules that holds vectors alone
    scales or shifts its input, which is what normalisation layers learn (Llama's ``RMSNorm``).

    Returns
    -------
    dict
        ``embeddings`` (weights of ``nn.Embedding`` and ``nn.EmbeddingBag``), ``norms`` (weights, biases and running
        statistics of normalisation layers), ``biases`` (of the layers with maskable weights), ``tokens`` (what a
        module holds by itself and treats all inputs alike with: vectors, and three axes or more with a first of 1, such
        as class and position tokens), ``others`` (what remains: several axes, in a layer that is not known). A tied
        tensor stands under its first name.
    """
    kinds = _kinds(model, _computed(model))
    groups: dict[str, list[str]] = {kind: [] for kind in ("embeddings", "norms", "biases", "tokens", "others")}
    canonical = {name for part in (model.named_parameters(), model.named_buffers()) for name, _ in part}
    for name, kind in kinds.items():
        if name in canonical and kind in groups:
            groups[kind].append(name)
    return {kind: tuple(names) for kind, names in groups.items()}


def _kinds(model: nn.Module, computed: dict[str, tuple[list[str], str]]) -> dict[str, str]:
    """The kind of every parameter, ``weights`` too, and of normalisation layers' buffers, under all of its names."""
    kinds = {}
    parts = {name for names, _ in computed.values() for name in names}
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        own = dict(module.named_parameters(recurse=False))
        norm = isinstance(module, _NORMS) or (_is_leaf(module) and own and all(t.dim() <= 1 for t in own.values()))
        projection = _is_projection(module)
        for name, tensor in own.items():
            if dot + name in parts:
                kind = "others"
            elif norm:
                kind = "norms"
            elif isinstance(module, _EMBEDDINGS):
                kind = "embeddings"
            elif projection and name not in ("bias_k", "bias_v"):  # attention's are tokens: one key, one value
                kind = "weights" if tensor.dim() > 1 else "biases"
            else:
                kind = "tokens" if _is_token(tensor) and not (name == "weight" and _is_leaf(module)) else "others"
            kinds[dot + name] = kind
        if norm:
            kinds |= {dot + name: "norms" for name, _ in module.named_buffers(recurse=False)}
    return kinds


def left_out(model: nn.Module, names: str | Iterable[str]) -> list[dict[str, Any]]:
    """What a mask over ``names`` does not reach: one row for every other parameter of a model, the largest first.

    Each has ``parameter``, ``kind`` (``weights``, or of :func:`parameter_groups`), ``shape``, ``size``, and ``share``
    of all parameters. ``pandas.DataFrame`` takes it.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    >>> [(row["parameter"], row["kind"], row["size"]) for row in left_out(net, maskable(net))]
    [('0.bias', 'biases', 3), ('1.weight', 'norms', 3), ('1.bias', 'norms', 3)]
    """
    masked = {names} if isinstance(names, str) else set(names)
    parameters = dict(model.named_parameters())
    if odd := [name for name in masked if name not in parameters]:
        raise ValueError(f"names: the model has no {listed(odd)}; it has {listed(parameters)}")
    kinds = _kinds(model, _computed(model))
    total = sum(tensor.numel() for tensor in parameters.values())
    rows = [
        {
            "parameter": name, "kind": kinds[name], "shape": tuple(tensor.shape), "size": tensor.numel(),
            "share": tensor.numel() / total,
        }
        for name, tensor in parameters.items() if name not in masked
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["size"])


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _is_projection(module: nn.Module) -> bool:
    if isinstance(module, _PROJECTIONS):
        return True
    own = dict(module.named_parameters(recurse=False))
    weight, bias = own.get("weight"), own.get("bias")
    return (
        _is_leaf(module) and weight is not None and bias is not None
        and weight.dim() == 2 and bias.dim() == 1 and len(bias) in weight.shape
    )  # fmt: skip


def _is_token(tensor: Tensor) -> bool:
    """Of two axes it may be a matrix of rank 1; of more, it is one for all inputs, or a scale for each channel."""
    return tensor.dim() < 2 or (tensor.dim() > 2 and (len(tensor) == 1 or sum(size > 1 for size in tensor.shape) < 2))


def _computed(model: nn.Module) -> dict[str, tuple[list[str], str]]:
    """Weights that are computed from parameters: the name that each would have -> those, and what ends it."""
    found = {}
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        for attribute, chain in getattr(module, "parametrizations", {}).items():
            parts = [f"{dot}parametrizations.{attribute}.{name}" for name, _ in chain.named_parameters()]
            remedy = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {attribute!r})"
            found[dot + attribute] = parts, remedy
        own = module._parameters
        for endings, how in ((("_orig",), "prune.remove"), (("_g", "_v"), "remove_weight_norm")):
            for attribute in {name.removesuffix(endings[0]) for name in own if name.endswith(endings[0])}:
                # The older ways leave the result as an attribute: whatever has one is no layer of its own names.
                if attribute not in own and isinstance(vars(module).get(attribute), Tensor):
                    way = "remove_spectral_norm" if f"{attribute}_u" in module._buffers else how
                    remedy = f"torch.nn.utils.{way}(layer, {attribute!r})"
                    found[dot + attribute] = [dot + attribute + ending for ending in endings], remedy
    return found
