"""To which of several subtasks does a weight belong, and which weights do they share?

Each weight of a frozen network gets a point of a simplex with one corner for every subtask and one for *none*. While
it is learned the point is a Gaussian-Sparsemax variable (:class:`companion.beyond.mixed.GaussianSparsemax`), so that
it lies on a corner or an edge with positive probability. A subtask's network has the weights times its values::

    y = sparsemax(logits + noise)                              # [K, ..., subtasks + 1]
    loss = sum over subtasks of its loss(source * y[..., s]) + penalty * sum(1 - y[..., none])

At the end, without noise, the face on which a point lies says to which subtasks the weight belongs: a corner to one,
an edge between two to both. Of masks that are searched one by one, two may use one weight without knowing of
each other; here they compete for it, or share it. A weight that is shared goes to each with its share there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from companion.beyond.mixed import faces, sparsemax
from sicore._tensors import check_tensors, listed
from sicore._windows import Windows, seeds_of
from sicore.masking import Params
from sicore.seeding import generator
from sicore.stacks import Losses
from sicore.training import Resume, Run, Trained, Watch, check_counts, train


def assign(
    tasks: Sequence[tuple[Losses, Callable[[int, Tensor], Any]]],
    source: Params,
    names: Iterable[str],
    *,
    steps: int,
    lr: float = 0.02,
    penalty: float = 1e-6,
    deviation: float = 0.3,
    seeds: Sequence[int] | None = None,
    every: int = 100,
    resume: Resume | None = None,
    run: Run | None = None,
) -> tuple[Params, Trained]:
    """Assign the weights of each of K frozen networks to subtasks.

    Parameters
    ----------
    tasks
        Losses and batches of each subtask, as :func:`sicore.discovery.discover` takes them.
    source, names, every, resume, run
        As there.
    penalty
        lambda, the price of a weight that belongs to any subtask.
    deviation
        Of the noise on the logits.
    seeds
        Of the noise, one for each network; 0, 1, ... by default.

    Returns
    -------
    shares
        Parameter name -> [K, ..., subtasks], 0 to 1: which share of the weight belongs to each; 0 where none does.
    trained
        The history has ``loss`` (of all subtasks together, with the price), ``kept`` (share of weights that belong to
        any) and ``shared`` (to more than one).

    Raises
    ------
    ValueError
        For a setting out of range, and for fewer than two subtasks.

    Examples
    --------
    Of three weights one subtask needs the first, the other the second, and none the third:

    >>> source = {"w": torch.ones(1, 3)}
    >>> def asks(place):
    ...     return lambda params, context, batch, step: (params["w"][:, place] - 1).square(), lambda step, active: None
    >>> shares, _ = assign([asks(0), asks(1)], source, ["w"], steps=300, lr=0.05, penalty=0.05)
    >>> faces(shares["w"]).int().tolist()
    [[[1, 0], [0, 1], [0, 0]]]
    """
    names = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    check_counts(steps=steps)
    check_tensors("source", source)
    if len(tasks) < 2:
        raise ValueError(f"tasks has {len(tasks)}: expected two subtasks or more")
    for name, value in {"penalty": penalty, "deviation": deviation}.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} = {value!r}: expected a finite number of 0 or more")
    if (missing := [name for name in names if name not in source]) or not names:
        raise ValueError(f"names: the source has no {listed(missing)}; it has {listed(source)}")
    if odd := [name for name in names if source[name].dtype != torch.float32]:
        raise ValueError(f"names: {odd[0]!r} has type {source[odd[0]].dtype}; only float32 weights are assigned")
    K, ways = len(source[names[0]]), len(tasks) + 1
    # Noise of every weight and corner, at every step from another place of a table.
    seeds, device = seeds_of(seeds, K, "networks"), source[names[0]].device
    shapes = {name: torch.Size([*source[name].shape[1:], ways]) for name in names}
    noise = Windows.of_noise(
        lambda size, rng: torch.randn(size, generator=rng) * deviation, shapes, steps,
        [generator(seed, "assignment") for seed in seeds], device,
    )  # fmt: skip
    # What is not assigned is copied: losses may change running statistics, and the caller's are not theirs to change.
    context = {name: tensor.detach() if name in names else tensor.detach().clone() for name, tensor in source.items()}
    logits = {name: torch.zeros(K, *shapes[name], device=device) for name in names}

    def objective(logits: Params, context: Params, batches: Sequence[Any], step: Any) -> Tensor:
        points = {name: sparsemax(logits[name] + noise(name, step, context["index"])) for name in names}
        rest = {name: context[name] for name in source}
        loss = torch.zeros(len(context["index"]), device=device)
        for place, ((losses, _), batch) in enumerate(zip(tasks, batches, strict=True)):
            own = {name: context[name] * points[name][..., place] for name in names}
            loss = loss + losses({**rest, **own}, context, batch, step)
        return loss + penalty * sum((1 - y[..., -1]).reshape(len(y), -1).sum(1) for y in points.values())

    def measure(logits: Params, context: Params, step: int, active: Tensor) -> dict[str, Tensor]:
        belongs = [faces(sparsemax(tensor))[..., :-1].sum(-1).reshape(len(active), -1) for tensor in logits.values()]
        counts = torch.cat(belongs, 1)
        return {"kept": (counts > 0).float().mean(1), "shared": (counts > 1).float().mean(1)}

    resume = resume or Resume()
    told = f"{resume.of} penalty={penalty} deviation={deviation} seeds={seeds}"
    trained = train(
        objective, logits, lambda step, active: [batches(step, active) for _, batches in tasks], context=context,
        steps=steps, lr=lr, watch=Watch(measure, every), resume=replace(resume, of=told), run=run,
    )  # fmt: skip
    return {name: sparsemax(trained.params[name])[..., :-1] for name in names}, trained
