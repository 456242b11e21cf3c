"""A search where its subnetwork will stand: in a new network, whose other weights are freshly drawn.

In a search everything outside of the mask is zero, in a transfer it is a fresh initialisation. A mask that is searched
in zeros is made for a place where it will never stand. Here what is masked out is drawn anew at every step::

    effective = source * soft + fresh * (1 - soft)

so that the mask has to solve the subtask whatever the new network's own weights are. What it shares with its relatives
(noise on weights, dropout, stochastic complements) is told on the page on this search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sicore._tensors import listed
from sicore._windows import Windows
from sicore.masking import Params
from sicore.seeding import derive, generator, seeded
from sicore.training import check_counts


def redrawn(
    fresh: Callable[[int], nn.Module | Params],
    names: Iterable[str],
    *,
    steps: int,
    seeds: Sequence[int],
    networks: int = 4,
    every: int = 1,
    still: bool = False,
) -> Callable[[Any, Tensor], Params]:
    """Fresh weights at every step, as ``outside`` of :func:`sicore.discovery.discover` takes them.

    Each masked tensor gets as many entries of freshly initialised networks as it has, from another place at every
    step: right for initialisations whose entries are drawn independently, as nearly all are.

    Parameters
    ----------
    fresh
        ``seed -> a newly initialised network``, or its parameters. Called ``networks`` times for each search.
    names
        Those that are masked.
    steps
        Of the search.
    seeds
        One for each search.
    networks
        How many are drawn from, 2 or more; take more for small tensors.
    every
        Fresh weights at every so many steps, zeros at the others; 1 for fresh weights always.
    still
        The same fresh weights at every step, for comparison.

    Raises
    ------
    ValueError
        For a setting out of range, and for a name that a fresh network does not have.

    Examples
    --------
    >>> outside = redrawn(lambda seed: {"w": torch.full((2, 3), 7.0)}, ["w"], steps=10, seeds=[0, 1])
    >>> outside(0, torch.arange(2))["w"].shape
    torch.Size([2, 2, 3])
    """
    check_counts(steps=steps, every=every)
    if isinstance(networks, bool) or not isinstance(networks, int) or networks < 2:
        raise ValueError(f"networks = {networks!r}: expected an integer of 2 or more")
    names = tuple(dict.fromkeys([names] if isinstance(names, str) else names))
    tables: dict[str, list[Tensor]] = {name: [] for name in names}
    shapes = {}
    for seed in seeds:
        drawn: dict[str, list[Tensor]] = {name: [] for name in names}
        for number in range(networks):
            number_seed = derive(seed, "outside", number)
            with seeded(number_seed):  # for one that leaves its seed alone
                made = fresh(number_seed)
            params = dict(made.named_parameters()) if isinstance(made, nn.Module) else made
            if odd := [name for name in names if name not in params]:
                raise ValueError(f"names: a fresh network has no {listed(odd)}; it has {listed(params)}")
            for name in names:
                drawn[name].append(params[name].detach().float().reshape(-1))
                shapes[name] = params[name].shape
        for name in names:
            tables[name].append(torch.cat(drawn[name]))
    rngs = [generator(seed, "outside") for seed in seeds]
    stacked = {name: torch.stack(rows) for name, rows in tables.items()}
    windows = Windows(stacked, shapes, 1 if still else steps, rngs)

    def outside(step: int | Tensor, index: Tensor) -> Params:
        if every > 1 and isinstance(step, int) and step % every:
            return {}
        drawn = {name: windows(name, step * 0 if still else step, index) for name in names}
        # A step that is a tensor is a captured one: what it does must not depend on its value.
        return drawn if isinstance(step, int) else {name: one * (step % every == 0) for name, one in drawn.items()}

    return outside
