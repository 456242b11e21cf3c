"""How a mask forms: one search of :mod:`companion.arithmetic.stages` again, with pictures of its masks on the way.

The store keeps the mask that a search ended with, not those on the way. A search gives the same bits
each time on one processor, so it is repeated here and looked at. Nothing of this decides what
an object in the store is.
"""

from __future__ import annotations

import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from companion.arithmetic import stages
from companion.lab.make import Machine, history_of, moved, one_thread
from sicore.families import Score
from sicore.masking import Params
from sicore.stacks import stack
from sicore.training import Resume, check_device

LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Shares from 0 to 1 as one character each."""


def picture(share: Tensor, size: int = 32) -> str:
    """A matrix of shares in [0, 1] as text: blocks of it averaged, rows set apart by ``/``.

    Parameters
    ----------
    share
        [rows, columns].
    size
        Most rows and columns of the picture.

    Examples
    --------
    >>> picture(Tensor([[0.0, 1.0], [0.5, 0.0]]))
    '0z/i0'
    >>> picture(Tensor([[0.0, 1.0], [0.5, 0.0]]), size=1)
    'd'
    """
    shape = (min(size, share.shape[0]), min(size, share.shape[1]))
    blocks = F.adaptive_avg_pool2d(share[None].float(), shape)[0].clamp(0, 1)
    levels = (blocks * (len(LEVELS) - 1)).round().int().tolist()
    return "/".join("".join(LEVELS[level] for level in row) for row in levels)


def frames(machine: Machine, base: stages.BaseModel, found: stages.Found, *, size: int = 32) -> pd.DataFrame:
    """The masks of one search, at its start and at every evaluation.

    Parameters
    ----------
    base
        The network that was searched.
    found
        What the search found in it: its ``spec`` says how to search.
    size
        Most rows and columns of a picture.

    Returns
    -------
    pandas.DataFrame
        One row a step and matrix: ``seed``, ``step``, ``temperature``, ``parameter``, ``inputs`` and ``outputs``
        (its rows and columns), ``density`` (share of weights that the hard mask keeps), ``soft_mean`` (mean of the
        soft mask) and ``picture`` (of the soft mask, see :func:`picture`).
    """
    spec, family = found.spec, found.spec.masks()
    if isinstance(family, Score):
        raise ValueError(f"family = {spec.family!r} ranks weights: there is no course of a search to look at")
    device = check_device(machine.device)
    source, names = moved(stack([spec.source(base.params)]), device), spec.masked()
    check = stages.subtask_accuracy([spec], 1, device)
    seen: list[Params] = []

    def look(params: Params, active: Tensor) -> Tensor:
        # Called with the hard and then with the soft mask applied to the source.
        seen.append({name: (params[name] / source[name]).nan_to_num(0.0).clamp(0, 1)[0].cpu() for name in names})
        return check(params, active)

    with one_thread(machine.device):
        resume = Resume(progress=f"search of seed {found.seed} again")
        _, trained = stages.search([spec], source, accuracy=look, resume=resume)
    begins = family.schedule(0, spec.steps)
    logits = {name: family.start(source[name][0].cpu()) for name in names}
    start = [
        {name: family.hard(logits[name]).float() for name in names},
        {name: family.soft(logits[name], begins) for name in names},
    ]
    history = [{"step": 0, "temperature": begins}, *history_of(trained.history, 0)]
    seen = start + seen
    return pd.DataFrame([
        {
            "seed": found.seed, "step": int(row["step"]), "temperature": row["temperature"],
            "parameter": name, "inputs": soft[name].shape[0], "outputs": soft[name].shape[1],
            "density": float(hard[name].double().mean()), "soft_mean": float(soft[name].double().mean()),
            "picture": picture(soft[name], size),
        }
        for row, hard, soft in zip(history, seen[::2], seen[1::2], strict=True) for name in names
    ])  # fmt: skip
