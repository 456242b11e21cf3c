"""Random numbers for whole tensors, at every step of a training, for next to nothing.

They are read from a table that is drawn once, at each step and for each tensor from another place of it (a noise table,
as in Salimans et al. 2017, "Evolution strategies as a scalable alternative", section 2.1). Where is drawn beforehand,
too: what a step reads depends on the generator and on the step alone, so that a resumed training reads the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def seeds_of(seeds: Sequence[int] | None, K: int, what: str) -> list[int]:
    """A seed for each of K models, 0, 1, ... where none are given; ``ValueError`` for another number of them."""
    found = list(range(K)) if seeds is None else list(seeds)
    if len(found) != K:
        raise ValueError(f"seeds has {len(found)} values, one for each of {K} {what} is expected")
    return found


class Windows:
    """``(name, step, index) -> [k, ...]``: a window of each model's table of that name.

    Parameters
    ----------
    tables
        Name -> [K, M] numbers; several names may share a table.
    shapes
        Name -> shape of what is read, without the leading axis; of no more than M entries.
    steps
        How often is read.
    generators
        One for each model, on the CPU.
    """

    def __init__(
        self, tables: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], steps: int,
        generators: Sequence[torch.Generator],
    ) -> None:  # fmt: skip
        self.tables, self.shapes, self.places = dict(tables), dict(shapes), {}
        for name, shape in shapes.items():
            room = tables[name].shape[1] - shape.numel() + 1
            drawn = torch.stack([torch.randint(room, (steps,), generator=one) for one in generators])  # [K, steps]
            self.places[name] = drawn

    @classmethod
    def of_noise(
        cls, draw: Callable[[int, torch.Generator], Tensor], shapes: Mapping[str, torch.Size], steps: int,
        generators: Sequence[torch.Generator], device: torch.device,
    ) -> Windows:  # fmt: skip
        """All names read from one table of each model, ``draw(how many numbers, generator)``, in float32."""
        size = max(shape.numel() for shape in shapes.values()) + 2**18
        table = torch.stack([draw(size, one) for one in generators]).float().to(device)
        return cls(dict.fromkeys(shapes, table), shapes, steps, generators)

    def __call__(self, name: str, step: int | Tensor, index: Tensor) -> Tensor:
        if self.places[name].device != index.device:
            self.tables[name], self.places[name] = (
                self.tables[name].to(index.device),
                self.places[name].to(index.device),
            )
        table, shape = self.tables[name], self.shapes[name]
        # A step that is a tensor is a captured one: its value is not known here.
        at = self.places[name][:, step] if isinstance(step, int) else self.places[name].index_select(1, step.view(1))
        at = at.view(-1)[index]
        if table.device.type == "cpu":  # views, of which the copy below is all that is done
            windows = [
                table[k, place : place + shape.numel()] for k, place in zip(index.tolist(), at.tolist(), strict=True)
            ]
            return torch.stack(windows).view(len(index), *shape)
        columns = at[:, None] + torch.arange(shape.numel(), device=table.device)
        return table[index[:, None], columns].view(len(index), *shape)
