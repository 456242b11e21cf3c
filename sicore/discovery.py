"""Subnetwork discovery: learn which weights of a frozen network solve a subtask.

One logit per weight is learned so that the network with masked weights solves the subtask with few of them::

    effective = source * soft + outside * (1 - soft)
    loss = task loss + penalty * sum(price)

``soft``, ``price`` and the final mask are those of a mask family (:mod:`sicore.families`); ``outside`` is zero, or what
the caller says, for instance fresh weights (:func:`sicore.transplant.redrawn`).
Source: Zhang, Lepori & Pavlick (2023), section 3.1 and appendix B.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sicore._tensors import check_tensors, listed, prefix_between
from sicore._windows import Windows, seeds_of
from sicore.families import ContinuousSparsification, Family, Score
from sicore.masking import Params
from sicore.seeding import generator
from sicore.stacks import Losses
from sicore.training import Resume, Run, Trained, Watch, check_counts, check_optimiser, train

_MULTIPLIER = "the multiplier"  # among the logits, so that a checkpoint holds it; no parameter of a model has a space


def discover(
    losses: Losses,
    source: Params,
    names: Iterable[str],
    batches: Callable[[int, Tensor], Any],
    *,
    steps: int,
    lr: float = 1e-3,
    penalty: float | Sequence[float] = 1e-7,
    density: float | Sequence[float] | None = None,
    family: Family | Score | None = None,
    seeds: Sequence[int] | None = None,
    outside: Callable[[Any, Tensor], Params] | None = None,
    complement: Losses | None = None,
    weight_decay: float = 0.0,
    clip: float | None = None,
    accuracy: Callable[[Params, Tensor], Tensor] | None = None,
    every: int = 100,
    dtype: torch.dtype | None = None,
    resume: Resume | None = None,
    run: Run | None = None,
) -> tuple[Params, Trained]:
    """Search one subnetwork in each of K frozen networks.

    Parameters
    ----------
    losses
        Task losses ``(params, context, batch, step) -> [K]``, for example of
        :func:`sicore.stacks.vmapped`. Give it the model in evaluation mode (no
        dropout, BatchNorm on its running statistics).
    source
        Stacked parameters of the frozen networks, [K, ...] (see :func:`sicore.stacks.stack`).
    names
        Parameters to mask (see :func:`sicore.masking.maskable`).
    penalty
        lambda, for all or for each of the K searches.
    density
        Share of weights to keep, for all or for each; None for what the penalty brings. A Lagrangian leads there (after
        Bhaskar et al. 2024, "Finding transformer circuits with edge pruning"): lambda, in units of ``penalty``, rises
        while more is kept than a target that goes from the first density to this one, ever more slowly, and falls,
        below 0 if need be, while less is. What is missed by more than 0.01 is warned of. Not with ``weight_decay`` or
        ``clip``, which would act on lambda, too.
    family
        How the mask is learned (see :mod:`sicore.families`); the paper's
        :class:`~sicore.families.ContinuousSparsification` by default. One that only ranks needs ``density``, and takes
        no steps.
    seeds
        Of the noise that some families add to the logits, one for each search; 0, 1, ... by default.
    outside
        ``(step, active) -> parameter name -> [k, ...]``: what stands where the mask is 0, while it is searched.
        Masked names that it leaves out have zeros there; None for zeros everywhere, as in the paper.
    complement
        Losses of the rest of the network, ``source * (1 - soft)``, to be added: for instance its cross-entropy with a
        uniform answer, which makes the subnetwork complete (nothing outside of it solves the subtask).
    weight_decay
        On the logits; the released code leaves AdamW's default of 0.01 on.
    accuracy
        ``(effective parameters, active) -> [K]``: accuracy on the subtask, for the history.
    dtype
        Type of the masked weights handed to ``losses``; None for each weight's own. Logits are float32, whatever the
        weights are: in bfloat16 and float16 small steps would round to nothing.
    every, clip, resume, run
        As for :func:`sicore.training.train`.

    Returns
    -------
    masks
        Parameter name -> boolean [K, ...].
    trained
        The history has ``loss`` (without the penalty), ``density`` (of the hard mask), ``soft_mean``, ``temperature``
        (the family's schedule), with a set density ``penalty`` (the slow part of lambda), and with ``accuracy``
        ``accuracy`` of the hard mask and ``soft_accuracy``, both with zeros outside of the mask.

    Raises
    ------
    ValueError
        Before the search, for a setting out of range, a name the source does not have, or a weight that is no real
        floating-point number.
    TypeError
        When ``source`` is no dictionary of tensors, or ``family`` no value with the methods of one.

    Warns
    -----
    UserWarning
        When a mask ends empty or full: the search has chosen nothing. The message says what to change; ``density``
        and ``soft_mean`` of the history show when it happened.

    Examples
    --------
    Of two weights, the loss needs only the first:

    >>> source = {"w": torch.tensor([[3.0, 5.0]])}
    >>> losses = lambda params, context, batch, step: (params["w"][:, 0] - 3).square()
    >>> masks, search = discover(losses, source, ["w"], lambda step, active: None, steps=200, lr=0.05, penalty=0.01)
    >>> masks["w"]
    tensor([[ True, False]])
    """
    family = ContinuousSparsification() if family is None else family
    names = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    _check(family, source, names)
    check_counts(steps=steps)
    check_optimiser(lr, weight_decay, clip)
    # What is not masked is copied: losses may change running statistics, and the caller's are not theirs to change.
    source = {name: tensor.detach() if name in names else tensor.detach().clone() for name, tensor in source.items()}
    first, K = source[names[0]], len(source[names[0]])
    prices = _each("penalty", penalty, K)
    wanted = None if density is None else torch.tensor(_each("density", density, K), device=first.device)
    if isinstance(family, Score):
        if outside is not None or complement is not None:
            raise ValueError(f"family = {family!r} ranks weights and takes no steps: no outside or complement")
        return _ranked(losses, source, names, batches, wanted, family, accuracy)
    if wanted is not None and (weight_decay or clip is not None or min(prices) == 0):
        raise ValueError(
            f"density = {density!r} with penalty = {penalty!r}, weight_decay = {weight_decay}, clip = {clip}: lambda "
            "is moved in units of penalty, above 0, and without the other two"
        )
    lam = torch.tensor(prices, device=first.device)
    rest = [name for name in source if name not in names]
    types = {name: dtype or source[name].dtype for name in names}
    # As a table: the step may be a tensor, in a captured training step.
    course = [family.schedule(step, steps) for step in range(steps)]
    schedule = torch.tensor(course, device=first.device)
    logits = _logits(family, source, names)
    total = sum(tensor[0].numel() for tensor in logits.values())
    seeds = seeds_of(seeds, K, "searches")
    noise = _noise(family, logits, seeds, steps)

    def noisy(name: str, logits: Params, step: int | Tensor, index: Tensor) -> Tensor:
        return logits[name] if noise is None else logits[name] + noise(name, step, index)

    context = {**source, **{f"short/{name}": source[name].to(types[name]) for name in names}, "search/penalty": lam}
    everyone = torch.arange(K, device=first.device)
    if outside is not None:  # the last step now, so that what it lacks is said before the first
        _check_outside(outside(steps - 1, everyone), dict(logits))
    if wanted is not None:
        begin = _sums(family.soft(noisy(one, logits, 0, everyone), schedule[0]) for one in names) / total
        # [K, 2], the first and the last
        context["search/targets"] = torch.stack([begin.clamp(min=1 / total), wanted], 1).log()
        # A whole vector for each model: how the optimiser rounds must not depend on who shares the stack.
        logits[_MULTIPLIER] = torch.zeros(K, 16, device=first.device)
        ramp = 1 - (1 - torch.arange(1, steps + 1, device=first.device) / steps).clamp(min=0).square()
        # AdamW moves an entry by lr a step at most: the multiplier can come to 20 within the search.
        gain = 20 / (lr * steps)

    def moved(multiplier: Tensor) -> Tensor:
        """lambda in units of the penalty; the multiplier is its logarithm, on both sides of 0."""
        return multiplier.clamp(-20, 20).sinh()

    def at(step: int | Tensor, of: Tensor) -> Tensor:
        # Not of[step]: that would wait for the value of a tensor.
        return of[step] if isinstance(step, int) else of.index_select(0, step.view(1)).view(())

    def objective(logits: Params, context: Params, batch: Any, step: Any) -> Tensor:
        T, index = at(step, schedule), context["index"]
        beside = {}
        if outside is not None:
            beside = outside(step, index)
            _check_outside(beside, {name: logits[name] for name in names})
        effective, prices, softs = {name: context[name] for name in rest}, [], []
        without = dict(effective)
        for name in names:
            soft = family.soft(noisy(name, logits, step, index), T)
            weight = context[f"short/{name}"] * soft.to(types[name])
            effective[name] = weight + (beside[name] * (1 - soft)).to(types[name]) if name in beside else weight
            if complement is not None:
                without[name] = context[f"short/{name}"] * (1 - soft).to(types[name])
            prices.append(family.price(logits[name], soft, T))
            softs.append(soft)
        loss = losses(effective, context, batch, step)
        if complement is not None:
            loss = loss + complement(without, context, batch, step)
        if wanted is None:
            return _Priced.apply(loss, context["search/penalty"], None, None, *prices)
        target = context["search/targets"][:, 0].lerp(context["search/targets"][:, 1], at(step, ramp))
        # What is asked for is the mask at the end; in the first half only the soft one has a size.
        kept = torch.where(
            at(step, ramp) < 0.75, _sums(softs).detach(), _sums(family.hard(logits[name]) for name in names)
        )
        excess = ((kept / total).clamp(min=1 / total).log() - target).clamp(-3, 3)
        multiplier = logits[_MULTIPLIER][:, 0]
        lam = context["search/penalty"] * moved(gain * multiplier.detach() + 20 * excess)
        return _Priced.apply(loss, lam, multiplier, excess, *prices)

    def measure(logits: Params, context: Params, step: int, active: Tensor) -> dict[str, Tensor]:
        T = family.schedule(step - 1, steps)
        hard = {name: family.hard(logits[name]) for name in names}
        soft = {name: family.soft(logits[name], T) for name in names}
        values: dict[str, Any] = {
            "density": _sums(hard.values()) / total, "soft_mean": _sums(soft.values()) / total,
            "temperature": torch.full((len(active),), T),
        }  # fmt: skip
        if wanted is not None:
            values["penalty"] = context["search/penalty"] * moved(gain * logits[_MULTIPLIER][:, 0])
        if accuracy is not None:
            others = {name: context[name] for name in rest}
            for label, masks in (("accuracy", hard), ("soft_accuracy", soft)):
                masked = {name: (context[name] * mask).to(context[name].dtype) for name, mask in masks.items()}
                values[label] = accuracy(others | masked, active)
        return values

    resume = resume or Resume()
    told = f"{resume.of} {family!r} {course} {penalty!r} {density!r} {outside is None} {complement is None}"
    told += f" {seeds if noise is not None else None}"
    trained = train(
        objective, logits, batches, context=context, steps=steps, lr=lr, weight_decay=weight_decay, clip=clip,
        watch=Watch(measure, every), resume=replace(resume, of=told), run=run,
    )  # fmt: skip
    trained.params.pop(_MULTIPLIER, None)
    _warn_of_collapse(trained, lam, lr, steps)
    if wanted is not None:
        _warn_of_missed(trained, wanted, lr, steps)
    return {name: family.hard(trained.params[name]) for name in names}, trained


def _noise(family: Family, logits: Params, seeds: Sequence[int], steps: int) -> Windows | None:
    """What is added to the logits at every step; None for a family without noise."""
    if family.noise(torch.full((1,), 0.5)) is None:
        return None
    smallest = torch.finfo(torch.float32).tiny

    def draw(size: int, rng: torch.Generator) -> Tensor:
        return torch.as_tensor(family.noise(torch.rand(size, generator=rng, dtype=torch.float64).clamp_(min=smallest)))

    shapes, device = {name: tensor.shape[1:] for name, tensor in logits.items()}, next(iter(logits.values())).device
    return Windows.of_noise(draw, shapes, steps, [generator(seed, "mask noise") for seed in seeds], device)


class _Priced(torch.autograd.Function):
    """The task's loss, with the gradient of ``loss + penalty * sum(price)``.

    The sum's value is never needed, and its gradient is the penalty everywhere: nothing is added up. ``loss`` and
    ``penalty`` are [K], each of ``prices`` [K, ...]. The multiplier, [K] or None, climbs where ``excess`` is positive.
    """

    @staticmethod
    def forward(
        ctx: Any, loss: Tensor, penalty: Tensor, multiplier: Tensor | None, excess: Tensor | None, *prices: Tensor
    ) -> Tensor:
        ctx.save_for_backward(penalty, excess)
        ctx.shapes = [price.shape for price in prices]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        penalty, excess = ctx.saved_tensors
        each = grad * penalty
        climb = None if excess is None else -grad * excess
        return grad, None, climb, None, *(each.view(-1, *[1] * (len(shape) - 1)).expand(shape) for shape in ctx.shapes)


def _sums(tensors: Iterable[Tensor]) -> Tensor:
    """The sum over all entries of all tensors, [K, ...] each: [K]."""
    return torch.stack([tensor.reshape(len(tensor), -1).sum(1) for tensor in tensors]).sum(0)


def _highest(scores: Params, density: Tensor) -> Params:
    """Masks of the highest scores over all tensors together: of each model the share ``density``, [K], to a weight."""
    flat = torch.cat([score.reshape(len(density), -1) for score in scores.values()], 1)
    keep = torch.zeros_like(flat, dtype=torch.bool)
    order = flat.argsort(dim=1, descending=True, stable=True)
    for k, size in enumerate((density.double() * flat.shape[1]).round().long().tolist()):
        keep[k, order[k, :size]] = True
    parts = keep.split([score[0].numel() for score in scores.values()], 1)
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def _ranked(
    losses: Losses, source: Params, names: Sequence[str], batches: Callable[[int, Tensor], Any], density: Tensor | None,
    family: Score, accuracy: Callable[[Params, Tensor], Tensor] | None,
) -> tuple[Params, Trained]:  # fmt: skip
    """The weights of the highest scores."""
    if density is None:
        raise ValueError(f"family = {family!r} ranks weights: it needs density, the share of weights to keep")
    K = len(density)
    active = torch.arange(K, device=density.device)
    weights = {name: source[name].detach().clone().requires_grad_() for name in names}
    gradients = {name: torch.zeros_like(source[name], dtype=torch.float32) for name in names}
    for step in range(family.batches):
        effective = {name: tensor * 1 for name, tensor in weights.items()}  # no leaves: the model may hold its own
        loss = losses({**source, **effective}, {**source, "index": active}, batches(step, active), step)
        found = torch.autograd.grad(loss.sum(), list(weights.values()), allow_unused=True)
        for name, gradient in zip(names, found, strict=True):
            if gradient is not None:
                gradients[name] += gradient.float() / family.batches
    scores = {name: family.score(source[name].detach().float(), gradients[name]) for name in names}
    for name, score in scores.items():
        if score.shape != source[name].shape:
            raise ValueError(
                f"family.score gives {name!r} the shape {list(score.shape)}, not {list(source[name].shape)}"
            )
        if bad := (~score.reshape(K, -1).isfinite().all(1)).nonzero().flatten().tolist():
            raise FloatingPointError(
                f"a score of model {bad[0]} is not finite, in {name!r}; check the loss and the data"
            )
    masks = _highest(scores, density)
    total = sum(tensor[0].numel() for tensor in scores.values())
    shares = _sums(masks.values()) / total
    history = [{"model": k, "step": 0, "density": share} for k, share in enumerate(shares.tolist())]
    if accuracy is not None:
        right = accuracy({**source, **{name: source[name] * masks[name] for name in names}}, active)
        history = [{**row, "accuracy": value} for row, value in zip(history, right.tolist(), strict=True)]
    return masks, Trained(scores, [0] * K, history)


def _check_outside(beside: Any, logits: Params) -> None:
    check_tensors("what outside gives", beside)
    if odd := beside.keys() - logits.keys():
        raise ValueError(f"outside gives {listed(sorted(odd))}, which is not masked; masked are {listed(logits)}")
    for name, tensor in beside.items():
        if tensor.shape != logits[name].shape:
            raise ValueError(
                f"outside gives {name!r} the shape {list(tensor.shape)}, the source has {list(logits[name].shape)}"
            )


def _check(family: Family | Score, source: Params, names: Sequence[str]) -> None:
    check_tensors("source", source)
    methods = ("score",) if isinstance(family, Score) else _METHODS
    if isinstance(family, Score) and hasattr(family, "soft"):
        raise TypeError(
            f"family is {family!r}: it has both score and soft, so that nobody knows whether it ranks or learns"
        )
    if isinstance(family, type) or not all(callable(getattr(family, name, None)) for name in methods):
        given = f"the class {family.__name__}" if isinstance(family, type) else repr(family)
        raise TypeError(
            f"family is {given}: expected a value with the methods {', '.join(_METHODS)}, for example "
            "si.ContinuousSparsification()"
        )
    missing = [name for name in names if name not in source]
    if missing or not names:
        hint = prefix_between(missing, source)
        what = listed(missing) if missing else "(none was named)"
        raise ValueError(f"names: the source has no parameter {what}; it has {listed(source)}{hint}")
    for name in names:
        if not source[name].is_floating_point():
            raise ValueError(
                f"names: {name!r} has type {source[name].dtype}; only real floating-point weights are masked"
            )


_METHODS = ("start", "schedule", "noise", "soft", "hard", "price")


def _warn_of_collapse(search: Trained, penalty: Tensor, lr: float, steps: int) -> None:
    ends = {row["model"]: row["density"] for row in search.history}
    for model, density in ends.items():
        at = f"penalty = {float(penalty[int(model)]):.3g}, lr = {lr:g}, steps = {steps}"
        if density == 0:
            warnings.warn(
                f"the mask of model {model} is empty: no weight was kept ({at}). Either the penalty outweighs the "
                "loss: lower it. Or logits that start below 0 never rose above it: take more steps, a larger lr, or a "
                "higher initial logit. The history's density and soft_mean show when it happened",
                stacklevel=3,
            )
        elif density == 1:
            warnings.warn(
                f"the mask of model {model} is full: every weight was kept ({at}). The penalty moved no logit below 0: "
                "raise it, or take more steps or a larger lr. The history's density and soft_mean show "
                "whether it was falling",
                stacklevel=3,
            )


def _warn_of_missed(search: Trained, wanted: Tensor, lr: float, steps: int) -> None:
    ends = {int(row["model"]): row["density"] for row in search.history}
    for model, share in ends.items():
        if abs(share - float(wanted[model])) > 0.01:
            unit = "larger" if share > float(wanted[model]) else "smaller"
            warnings.warn(
                f"density = {float(wanted[model]):.3g} was asked for, and the mask of model {model} keeps {share:.3g} "
                f"(lr = {lr:g}, steps = {steps}). Take more steps, a family with noise, or a {unit} penalty, which is "
                "lambda's unit",
                stacklevel=3,
            )


def _logits(family: Family, source: Params, names: Iterable[str]) -> Params:
    """The logits that a search starts with, in float32, checked, and the mask that they would end with."""
    logits = {name: family.start(source[name]).float() for name in names}
    for name, tensor in logits.items():
        if tensor.shape != source[name].shape:
            raise ValueError(
                f"family.start gives {name!r} the shape {tuple(tensor.shape)}, the source {tuple(source[name].shape)}"
            )
        hard = family.hard(tensor)
        if hard.shape != tensor.shape or hard.dtype != torch.bool:
            raise ValueError(
                f"family.hard gives {name!r} a mask of type {hard.dtype} and shape {tuple(hard.shape)}: expected "
                f"torch.bool and {tuple(tensor.shape)}"
            )
    return logits


def _each(name: str, given: float | Sequence[float], K: int) -> list[float]:
    """A number for each of K searches, checked."""
    try:
        values = torch.as_tensor(given, dtype=torch.float64).tolist()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} = {given!r}: expected a number, or one for each of {K} searches") from error
    values = values if isinstance(values, list) else [values] * K
    if len(values) != K or any(isinstance(value, list) for value in values):
        raise ValueError(f"{name} has {len(values)} values, one for each of {K} searches is expected")
    if name == "penalty" and not all(0 <= value <= torch.finfo(torch.float32).max for value in values):
        raise ValueError(f"penalty = {given!r}: expected finite numbers of 0 or more")
    if name == "density" and not all(torch.finfo(torch.float32).tiny <= value <= 1 for value in values):
        raise ValueError(f"density = {given!r}: expected shares of the weights, above 0 and at most 1")
    return values
