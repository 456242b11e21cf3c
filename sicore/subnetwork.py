"""A subnetwork as a value: boolean masks over a source network's weights.

Masks are True inside the subnetwork. Values are never changed in place: the set
operations return new subnetworks of the same source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from sicore._tensors import listed, prefix_between
from sicore.files import load_tensors, save_tensors


@dataclass(frozen=True, eq=False)
class Subnetwork:
    """Masks, the weights that they select from, and where they come from.

    Parameters
    ----------
    masks
        Parameter name -> boolean tensor, True where the weight belongs to the subnetwork.
    weights
        Parameter name -> the source network's tensor. Every masked name must be there
        with the mask's shape; further tensors (embeddings, norms, biases, buffers) may
        be, and can then be inherited in a transfer.
    meta
        JSON-able description: task, settings, seed, measured accuracy ...

    Examples
    --------
    >>> sub = Subnetwork({"w": torch.tensor([True, False])}, {"w": torch.tensor([1.0, 2.0])})
    >>> sub.size, sub.total, sub.density, (~sub).size, (sub | ~sub).density
    (1, 2, 0.5, 1, 1.0)
    """

    masks: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("masks is empty: a subnetwork needs at least one masked tensor")
        for name, mask in self.masks.items():
            if mask.dtype != torch.bool:
                raise TypeError(
                    f"mask {name!r} has type {mask.dtype}; masks are torch.bool (compare the logits with 0)"
                )
            if name not in self.weights:
                hint = prefix_between(self.masks, self.weights)
                raise ValueError(f"mask {name!r} has no source weight; weights has {listed(self.weights)}{hint}")
            if mask.shape != self.weights[name].shape:
                raise ValueError(
                    f"mask {name!r} has shape {tuple(mask.shape)}, its source weight {tuple(self.weights[name].shape)}"
                )
        # Read-only views: whoever holds the value cannot change which tensors it has.
        object.__setattr__(self, "masks", MappingProxyType(dict(self.masks)))
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        object.__setattr__(self, "meta", MappingProxyType(dict(self.meta)))

    @classmethod
    def from_model(
        cls, model: nn.Module, masks: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None
    ) -> Subnetwork:
        """A subnetwork of ``model`` that also remembers its other parameters and buffers."""
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return cls(masks, {name: tensor.detach().clone() for name, tensor in state.items()}, meta or {})

    @property
    def size(self) -> int:
        """Number of weights inside the subnetwork."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def total(self) -> int:
        """Number of entries of the masked tensors, all weights that could be inside."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def density(self) -> float:
        """``size / total``, in [0, 1]."""
        return self.size / self.total

    def table(self) -> list[dict[str, Any]]:
        """One row per masked tensor: ``parameter``, ``size``, ``total``, ``density``. ``pandas.DataFrame`` takes it."""
        return [
            {"parameter": name, "size": int(mask.sum()), "total": mask.numel(), "density": float(mask.double().mean())}
            for name, mask in self.masks.items()
        ]

    def overlap(self, other: Subnetwork) -> list[dict[str, Any]]:
        """How far two subnetworks share weights: one row per tensor, and a last one named ``all``.

        Each has ``parameter``, ``both`` and ``either`` (numbers of weights), ``by_chance`` (the shared weights
        expected of two independent random masks of these sizes) and ``jaccard`` = both / either (1 where both
        are empty).
        """
        self._same_names(other)
        rows: list[dict[str, Any]] = []
        for name in self.masks:
            mine, theirs = self.masks[name], other.masks[name]
            both, either = int((mine & theirs).sum()), int((mine | theirs).sum())
            chance = int(mine.sum()) * int(theirs.sum()) / mine.numel()
            rows.append({"parameter": name, "both": both, "either": either, "by_chance": chance})
        rows.append(
            {"parameter": "all"} | {key: sum(row[key] for row in rows) for key in ("both", "either", "by_chance")}
        )
        return [row | {"jaccard": row["both"] / row["either"] if row["either"] else 1.0} for row in rows]

    def __invert__(self) -> Subnetwork:
        return self._with({name: ~mask for name, mask in self.masks.items()})

    def __or__(self, other: Subnetwork) -> Subnetwork:
        self._same_source(other)
        return self._with({name: mask | other.masks[name] for name, mask in self.masks.items()})

    def __and__(self, other: Subnetwork) -> Subnetwork:
        self._same_source(other)
        return self._with({name: mask & other.masks[name] for name, mask in self.masks.items()})

    def __sub__(self, other: Subnetwork) -> Subnetwork:
        self._same_source(other)
        return self._with({name: mask & ~other.masks[name] for name, mask in self.masks.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Subnetwork):
            return NotImplemented
        return (
            self.masks.keys() == other.masks.keys()
            and self.weights.keys() == other.weights.keys()
            and all(torch.equal(mask, other.masks[name]) for name, mask in self.masks.items())
            and all(torch.equal(weight, other.weights[name]) for name, weight in self.weights.items())
        )

    __hash__ = None  # type: ignore[assignment]  # equality compares tensors

    def __repr__(self) -> str:
        return f"Subnetwork({self.size:,} of {self.total:,} weights, {self.density:.1%}, {len(self.masks)} tensors)"

    def random(self, generator: torch.Generator, *, per_layer: bool = True, outside: bool = False) -> Subnetwork:
        """A random subnetwork of the same size: the control for "any mask would do".

        Parameters
        ----------
        generator
            Source of randomness (CPU).
        per_layer
            Match the size of every tensor; otherwise only the size of the whole.
        outside
            Draw only from weights that are not in this subnetwork (its complement).

        Raises
        ------
        ValueError
            When the complement holds fewer weights than have to be drawn; the message
            names the tensor.
        """
        ordered = {name: self.masks[name] for name in sorted(self.masks)}  # the draw depends on no other order
        if per_layer:
            parts = {name: {name: mask} for name, mask in ordered.items()}
        else:
            parts = {"all tensors together": ordered}
        drawn: dict[str, Tensor] = {}
        for label, masks in parts.items():
            flat = torch.cat([mask.reshape(-1).cpu() for mask in masks.values()])
            pool = (~flat).nonzero().squeeze(1) if outside else torch.arange(flat.numel())
            size = int(flat.sum())
            if size > pool.numel():
                raise ValueError(
                    f"outside = True: {label} has {pool.numel()} weights outside the subnetwork, "
                    f"{size} are to be drawn; the density must not exceed 50 %"
                )
            chosen = torch.zeros_like(flat)
            chosen[pool[torch.randperm(pool.numel(), generator=generator)[:size]]] = True
            pieces = chosen.split([mask.numel() for mask in masks.values()])
            for (name, mask), piece in zip(masks.items(), pieces, strict=True):
                drawn[name] = piece.view(mask.shape).to(mask.device)
        return self._with(drawn)

    def check_fits(self, shapes: Mapping[str, Tensor] | nn.Module) -> None:
        """Raise ``ValueError`` unless every masked tensor exists there with the same shape.

        The message lists tensors that do not fit, with both shapes, and says where names differ by a prefix alone.
        """
        target = dict(shapes.named_parameters()) if isinstance(shapes, nn.Module) else shapes
        problems = []
        for name, mask in self.masks.items():
            if name not in target:
                problems.append(f"{name}: missing in the model")
            elif target[name].shape != mask.shape:
                problems.append(
                    f"{name}: {tuple(mask.shape)} in the subnetwork, {tuple(target[name].shape)} in the model"
                )
        if problems:
            odd = listed(problems, between="; ") + prefix_between([n for n in self.masks if n not in target], target)
            raise ValueError(f"the subnetwork does not fit the model in {len(problems)} tensors: {odd}")

    def save(self, path: str | Path) -> None:
        """Write masks, weights and metadata to one safetensors file, checksummed."""
        tensors = {f"mask/{name}": mask for name, mask in self.masks.items()}
        tensors |= {f"weight/{name}": weight for name, weight in self.weights.items()}
        save_tensors(path, tensors, {"kind": "subnetwork", "meta": dict(self.meta)})

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> Subnetwork:
        """Read a subnetwork; with ``model``, check that it fits before returning it.

        Raises ``ValueError`` when the file is damaged, holds something else, or does
        not fit (see :meth:`check_fits`).
        """
        tensors, meta = load_tensors(path)
        if meta.get("kind") != "subnetwork":
            raise ValueError(f"{path} holds no subnetwork")
        about = meta.get("meta", {})
        if odd := [name for name in tensors if not name.startswith(("mask/", "weight/"))]:
            raise ValueError(f"{path} holds no valid subnetwork: {odd[0]!r} is neither a mask nor a weight")
        if not isinstance(about, dict):
            raise ValueError(f"{path} holds no valid subnetwork: its metadata are no JSON object")
        try:
            subnetwork = cls(_part(tensors, "mask/"), _part(tensors, "weight/"), about)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no valid subnetwork: {error}") from error
        if model is not None:
            subnetwork.check_fits(model)
        return subnetwork

    def _with(self, masks: Mapping[str, Tensor]) -> Subnetwork:
        return Subnetwork(masks, self.weights, self.meta)

    def _same_names(self, other: Subnetwork) -> None:
        odd = sorted(set(self.masks) ^ set(other.masks))
        if odd:
            raise ValueError(f"the subnetworks mask different tensors: only one of them has {listed(odd)}")
        for name, mask in self.masks.items():
            if mask.shape != other.masks[name].shape:
                raise ValueError(
                    f"{name!r} has shape {tuple(mask.shape)} in one, {tuple(other.masks[name].shape)} in the other"
                )

    def _same_source(self, other: Subnetwork) -> None:
        self._same_names(other)
        for name in self.masks:
            if not torch.equal(self.weights[name], other.weights[name]):
                raise ValueError(
                    f"{name!r} differs between the two sources: only subnetworks of one network can be combined"
                )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
