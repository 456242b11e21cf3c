"""The three stages of the arithmetic experiment, each kept in the store.

``base_models`` -> ``subnetworks`` -> ``transfers``. What is there is read; what is missing is
trained in stacks by several processes (see :mod:`companion.lab.make`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from companion.arithmetic import task as ar
from companion.arithmetic.answers import accuracy, agreement, best_constant
from companion.arithmetic.gpt2 import Dropout
from companion.arithmetic.specs import INHERITED, Base, Search, Transfer
from companion.arithmetic.starts import CONDITIONS, MAIN
from companion.lab.make import (
    DTYPES,
    Cost,
    Machine,
    Spec,
    check_converged,
    checkpoint,
    fetch,
    free_memory,
    history_of,
    make,
    moved,
)
from sicore.discovery import discover
from sicore.masking import Params
from sicore.seeding import derive, generator
from sicore.stacks import stack, unstack
from sicore.subnetwork import Subnetwork
from sicore.training import Resume, Run, Trained, Watch, check_device, train
from sicore.transfer import Start, start, transfer
from sicore.transplant import redrawn


@dataclass(frozen=True)
class BaseModel:
    """A trained base model: ``spec``, ``params``, ``meta`` (accuracies, steps) and ``history``."""

    spec: Base
    params: Params
    meta: dict[str, Any]

    @property
    def seed(self) -> int:
        return self.spec.seed

    @property
    def history(self) -> pd.DataFrame:
        """``step``, ``loss``, ``accuracy`` (on validation pairs)."""
        return pd.DataFrame(self.meta["history"])


@dataclass(frozen=True)
class Found:
    """A discovered subnetwork with its ``spec``, ``meta`` and ``history``."""

    spec: Search
    subnetwork: Subnetwork
    meta: dict[str, Any]

    @property
    def seed(self) -> int:
        """Of the base that was searched."""
        return self.spec.base.seed

    @property
    def history(self) -> pd.DataFrame:
        """``step``, ``loss``, ``density``, ``soft_mean``, ``temperature``, ``accuracy``, ``soft_accuracy``."""
        return pd.DataFrame(self.meta["history"])


# ---------------------------------------------------------------------------------------
# The stages


def base_models(machine: Machine, seeds: Iterable[int], **settings: Any) -> list[BaseModel]:
    """Train a base model for each seed.

    Parameters
    ----------
    settings
        Of :class:`companion.arithmetic.specs.Base`.

    Returns
    -------
    list
        With a ``limit`` or a ``patience`` above 0, without those that have not reached ``target`` by then;
        ``RuntimeError`` when none is left.
    """
    seeds, device = list(seeds), machine.device.split(":")[0]
    shared = 0 if device == "cpu" else machine.stack  # see Base
    specs = [Base(**settings, device=device, stack=shared, seed=seed) for seed in seeds]
    for spec in specs[:1]:
        spec.split()  # too many pairs: said now, not in a worker
        spec.build(seed=0)
    found = _make("base", specs, machine, _train_bases)
    bases = [BaseModel(spec, tensors, meta) for spec, (tensors, meta) in zip(specs, found, strict=True)]
    kept = [base for base in bases if _learned(base)]
    if bases and not kept:
        one = specs[0]
        raise RuntimeError(
            f"no base model of the seeds {seeds} reached target = {one.target} within "
            + (f"limit = {one.limit} steps" if one.limit else f"{one.steps} steps with patience = {one.patience}")
        )
    return kept


def _learned(base: BaseModel) -> bool:
    target, history = base.spec.target, base.meta["history"]
    if base.spec.patience and target is not None:
        return min(history, key=lambda row: row["validation_loss"])["accuracy"] >= target
    return not base.spec.limit or target is None or history[-1]["accuracy"] >= target


def subnetworks(machine: Machine, bases: Sequence[BaseModel], **settings: Any) -> list[Found]:
    """Find a subnetwork in every base model.

    Parameters
    ----------
    settings
        Of :class:`companion.arithmetic.specs.Search`.

    Returns
    -------
    list
        ``meta`` has, on test pairs: ``accuracy`` of the subnetwork on the subtask,
        ``accuracy_base_task`` of the subnetwork on what the base was trained for, and of the
        base without the subnetwork ``accuracy_ablated`` on the subtask and
        ``accuracy_ablated_base_task`` on its own task, with ``accuracy_random_ablated_base_task``
        beside it: without as many weights drawn at random in each matrix. ``best_constant`` is
        the accuracy of the best constant answer on the subtask.
    """
    specs = [Search(**settings, base=base.spec) for base in bases]
    for spec in specs:
        spec.split()
    found = _make("subnetwork", specs, machine, _find_subnetworks)
    result = []
    for spec, base, (masks, meta) in zip(specs, bases, found, strict=True):
        about = {key: value for key, value in meta.items() if key not in ("history", "spec")}
        subnetwork = Subnetwork(_masks(masks), spec.source(base.params), {**about, "spec": spec.json()})
        result.append(Found(spec, subnetwork, meta))
    return result


def bases_and_masks(bases: Sequence[BaseModel], found: Sequence[Found], seeds: Iterable[int]) -> pd.DataFrame:
    """How the first two stages came out, one row a seed.

    Parameters
    ----------
    bases, found
        As :func:`base_models` and :func:`subnetworks` give them.
    seeds
        Those that were asked for. One whose base was given up has a row with ``n_layer`` and ``seed`` alone.

    Returns
    -------
    pandas.DataFrame
        ``n_layer``, ``seed``, ``base_steps`` (taken), ``base_accuracy``, ``subtask_accuracy`` and ``best_constant`` (of
        the subnetwork on its subtask, and of the best constant answer), ``density``, ``ablated_base_accuracy`` and
        ``random_ablated_base_accuracy`` (of the base without the subnetwork, and without as many random weights),
        ``base_seconds`` and ``discovery_seconds``.
    """
    rows: list[dict[str, Any]] = [
        {
            "n_layer": base.spec.n_layer, "seed": base.seed, "base_steps": base.meta["steps_taken"],
            "base_accuracy": base.meta["test_accuracy"], "subtask_accuracy": one.meta["accuracy"],
            "best_constant": one.meta["best_constant"], "density": one.subnetwork.density,
            "ablated_base_accuracy": one.meta["accuracy_ablated_base_task"],
            "random_ablated_base_accuracy": one.meta["accuracy_random_ablated_base_task"],
            "base_seconds": base.meta["seconds"], "discovery_seconds": one.meta["seconds"],
        }
        for base, one in zip(bases, found, strict=True)
    ]  # fmt: skip
    learned = [row["seed"] for row in rows]
    return pd.DataFrame([
        *rows, *({"n_layer": bases[0].spec.n_layer, "seed": seed} for seed in seeds if seed not in learned)
    ])  # fmt: skip


def transfers(
    machine: Machine, found: Sequence[Found], *, candidates: Sequence[str] = ("a^2 + ab", "2a^2", "2b^2"),
    **settings: Any,
) -> pd.DataFrame:  # fmt: skip
    """Train from every start and with every number of disambiguation samples.

    All runs of a seed and draw share fresh weights, ambiguous samples and evaluation pairs. The
    evaluation with the best accuracy on validation pairs is kept and tested on test pairs.

    Parameters
    ----------
    candidates
        Computations that a model's answers may follow.
    settings
        Of :func:`planned`.

    Returns
    -------
    pandas.DataFrame
        One row a run: ``start`` (name of the condition), ``condition`` and ``behaviour`` (the two
        parts of that name), ``inherit``, ``freeze``, ``subtask``, ``task``, ``n_layer``,
        ``n_disambiguation``, ``seed``, ``draw``, ``test_accuracy``, ``validation_accuracy``,
        ``best_step``, ``steps`` (taken), ``last_validation_accuracy`` (at the last step, so
        without a choice of step), ``test_accuracy_unseen`` (on the ``unseen`` test pairs that
        neither the base nor the search was trained on), ``best_constant`` (accuracy of the best
        constant answer), ``frozen`` (weights held), ``inherited`` (entries that start from the base
        beside these), ``density`` (of the discovered subnetwork), ``seconds`` (its share of
        its stack's wall time), and ``agrees CANDIDATE`` for every candidate (see
        :func:`companion.arithmetic.answers.agreement`).
    """
    runs = planned([one.spec for one in found], candidates=candidates, **settings)
    _check_room(found, {name for name, _ in runs})
    results = _make("transfer", [spec for _, spec in runs], machine, _train_transfers)
    return pd.DataFrame([
        _row(name, spec, tensors, meta, candidates) for (name, spec), (tensors, meta) in zip(runs, results, strict=True)
    ])  # fmt: skip


def planned(
    sources: Sequence[Search], *, candidates: Sequence[str] = (), conditions: Sequence[str] = MAIN,
    n_disambiguation: Sequence[int] = (0, 100, 1000), epochs: int = 0, draws: Sequence[int] = (0,),
    inherit: Sequence[str] = INHERITED, freeze: bool = True, **settings: Any,
) -> list[tuple[str, Transfer]]:  # fmt: skip
    """The runs that :func:`transfers` reads or makes: the name of the start, and the spec.

    The searches need not have been made yet.

    Parameters
    ----------
    candidates
        See :func:`transfers`; none are also taken.
    conditions
        Names of :data:`companion.arithmetic.starts.CONDITIONS`.
    n_disambiguation
        A run for each of these numbers of samples.
    epochs
        Above 0: every run sees its own training set this often and is evaluated once an
        epoch, in place of ``steps`` and ``every``. The paper has 100 (appendix B).
    draws
        Several transfers from one base.
    inherit, freeze
        For the conditions that leave them open.
    settings
        Of :class:`companion.arithmetic.specs.Transfer`.

    Raises
    ------
    ValueError
        For anything wrong with a setting, and where there are too few pairs.
    """
    for text in candidates:
        ar.Computation.parse(text)
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"epochs = {epochs!r}: expected an integer of 1 or more, or 0 to train for steps")
    if not conditions:
        raise ValueError(f"conditions is empty: name at least one of {', '.join(CONDITIONS)}")
    if not n_disambiguation:
        raise ValueError("n_disambiguation is empty: name at least one number of samples")
    if not draws or any(isinstance(draw, bool) or not isinstance(draw, int) or draw < 0 for draw in draws):
        raise ValueError(f"draws = {list(draws)}: expected integers of 0 or more, at least one")
    for name in conditions:
        if name not in CONDITIONS:
            raise ValueError(f"conditions: {name!r} does not exist; expected some of {', '.join(CONDITIONS)}")
        for source in sources:
            if CONDITIONS[name].complete and not source.complete:
                raise ValueError(
                    f"conditions: {name!r} needs a search with complete = True, seed {source.base.seed} has none"
                )
    largest = [
        Transfer(
            source=source, n_disambiguation=max(n_disambiguation), draw=draws[0], inherit=tuple(inherit),
            freeze=freeze, **settings,
        ) for source in sources
    ]  # fmt: skip
    for run in largest:  # enough pairs, groups that there are, and candidates that can be told apart
        test = run.split()[2]
        run.inherited()
        if candidates:
            agreement(torch.zeros(len(test)), test, candidates, run.base.p)
    runs = []
    for name, run, draw, n in itertools.product(conditions, largest, draws, n_disambiguation):
        condition, epoch = CONDITIONS[name], -(-(run.ambiguous + n) // run.batch)
        runs.append((name, dataclasses.replace(
            run, copied=condition.copied, behaviour=condition.behaviour, n_disambiguation=n, draw=draw,
            inherit=run.inherit if condition.inherit is None else condition.inherit,
            freeze=run.freeze if condition.freeze is None else condition.freeze,
            steps=epochs * epoch if epochs else run.steps, every=epoch if epochs else run.every,
        )))  # fmt: skip
    return runs


def _check_room(found: Sequence[Found], conditions: Iterable[str]) -> None:
    """``ValueError`` where a complement is asked for, and a subnetwork leaves no room for it."""
    if all(CONDITIONS[name].copied != "complement" for name in conditions):
        return
    for one in found:
        densest = max(one.subnetwork.table(), key=lambda row: row["density"])
        if densest["density"] > 0.5:
            raise ValueError(
                f"conditions: no complement for seed {one.seed}: {densest['parameter']} keeps "
                f"{densest['density']:.0%} of its weights, and at most 50 % leave enough outside. Raise the penalty, "
                "or leave the complement conditions out"
            )


def _row(
    name: str, spec: Transfer, tensors: dict[str, Tensor], meta: dict[str, Any], candidates: Sequence[str]
) -> dict[str, Any]:
    """The row of a run in the table of :func:`transfers`."""
    condition, behaviour = CONDITIONS[name].pair
    shares = agreement(tensors["predicted"].long(), tensors["pairs"].long(), candidates, spec.base.p)
    diverged = {}
    if "diverged" in meta:
        diverged, shares = {"diverged": meta["diverged"]}, dict.fromkeys(shares, math.nan)
    measured = (
        "test_accuracy", "validation_accuracy", "best_step", "steps", "last_validation_accuracy",
        "test_accuracy_unseen", "unseen", "best_constant", "frozen", "inherited", "density", "seconds",
    )  # fmt: skip
    return {
        "start": name, "condition": condition, "behaviour": behaviour, "inherit": ", ".join(spec.inherit),
        "freeze": spec.freeze, "subtask": spec.source.computation, "task": spec.computation,
        "n_layer": spec.base.n_layer, "n_disambiguation": spec.n_disambiguation, "seed": spec.base.seed,
        "draw": spec.draw, **{key: meta[key] for key in measured},
        **{f"agrees {candidate}": share for candidate, share in shares.items()}, **diverged,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------
# Making what the store lacks


def _make(
    kind: str, specs: Sequence[Base | Search | Transfer], machine: Machine,
    job: Callable[[list[Spec], Machine, Any], None],
) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:  # fmt: skip
    return make(kind, [spec.json() for spec in specs], machine, job, COST)


def _memory(spec: Spec) -> int:
    """Bytes that one model of a stack needs at most while it trains (an estimate from above).

    Float32: parameters, gradients, two moments, best and initial values, masks and source
    (12 copies); activations of a batch of training and of one of evaluation, about 60
    values a layer for every unit of width and 6 for every entry of the vocabulary; the
    order of the samples.
    """
    base = spec.get("source", spec).get("base", spec)
    width, vocab = base["n_embd"], ar.vocabulary(base["numbers"], base["p"])
    params = 12 * base["n_layer"] * width**2 + (vocab + 4) * width
    positions = 4 if spec.get("all_positions") else 3
    values = spec["batch"] * positions * (60 * width * base["n_layer"] + 6 * vocab)
    values += 1000 * (3 * 20 * width + 2 * vocab)
    return 4 * (12 * params + values) + 8 * spec["steps"] * spec["batch"]


def check_memory(spec: Base | Search | Transfer, machine: Machine) -> None:
    """``ValueError`` naming the settings when a training would need far more memory than there is."""
    base = spec if isinstance(spec, Base) else spec.base
    # Beside the training itself every pair of numbers, for the draw of the sets.
    need, free = _memory(spec.json()) + 16 * base.numbers**2, free_memory(machine.device)
    if isinstance(spec, Transfer):
        need += 64 * (spec.ambiguous + spec.n_disambiguation)
    if need > 4 * free:  # the estimate is from above
        sizes = {"n_layer": base.n_layer, "n_embd": base.n_embd, "numbers": base.numbers}
        sizes |= {"batch": spec.batch, "steps": spec.steps}
        if isinstance(spec, Transfer):
            sizes |= {"ambiguous": spec.ambiguous, "n_disambiguation": spec.n_disambiguation}
        told = ", ".join(f"{name} = {value}" for name, value in sizes.items())
        raise ValueError(f"{told}: a training needs about {need / 2**30:,.0f} GiB, and {free / 2**30:,.0f} are free")


def _operations(spec: Spec) -> float:
    """Floating-point operations of a training, roughly: six for every weight, token and step."""
    base = spec.get("source", spec).get("base", spec)
    weights = 12 * base["n_layer"] * base["n_embd"] ** 2 + base["numbers"] * base["n_embd"]
    return 6.0 * weights * 4 * spec["batch"] * _length(spec)


def _length(spec: Spec) -> int:
    """Steps that a training takes at most."""
    return spec.get("limit") or spec["steps"]


def _shared(spec: Spec) -> Spec:
    """The part of a spec that all members of a stack have in common."""
    own = {"seed", "draw", "n_disambiguation", "penalty", "copied", "behaviour", "inherit", "freeze"}
    shared = {
        key: _shared(value) if isinstance(value, dict) else value for key, value in spec.items() if key not in own
    }
    return {**shared, "density": True} if spec.get("density") else shared


COST = Cost(_length, _operations, _memory, _shared)


# ---------------------------------------------------------------------------------------
# The three jobs; each trains one stack and puts its models into the store


def _train_bases(specs: list[Spec], machine: Machine, progress: Any) -> None:
    began, device = time.monotonic(), check_device(machine.device)
    runs = [Base.of(spec) for spec in specs]
    one, seeds = runs[0], [run.seed for run in runs]
    computation = ar.Computation.parse(one.computation)
    split = [run.split() for run in runs]
    data = ar.samples(
        [pairs[0] for pairs in split], computation, p=one.p, numbers=one.numbers, batch=one.batch,
        steps=one.steps, generators=[generator(seed, "base", "order") for seed in seeds], device=device,
    )  # fmt: skip
    dropout = Dropout(one.dropout, [derive(seed, "base") for seed in seeds], device)
    params = moved(stack([run.build(seed=derive(run.seed, "base")) for run in runs]), device)
    check = Accuracy(_stacked(split, 1, device), computation, one)

    def measure(params: Params, context: Params, step: int, active: Tensor) -> dict[str, Tensor]:
        found = {"accuracy": check(params, active)}
        return found | {"validation_loss": check.loss(params, active)} if one.patience else found

    if one.patience:
        watch = Watch(
            measure, one.every, metric="validation_loss", maximise=False, patience=one.patience, keep_best=True
        )  # fmt: skip
    else:
        watch = Watch(measure, one.every, metric="accuracy", target=one.target)
    trained = train(
        ar.losses(n_head=one.n_head, all_positions=one.all_positions, dropout=dropout, dtype=DTYPES[one.dtype]),
        params, data, steps=one.steps, lr=one.lr, weight_decay=one.weight_decay, linear_decay=True,
        limit=one.limit or None, clip=one.clip, watch=watch,
        resume=Resume(checkpoint("base", specs, machine), progress=progress),
        run=Run(keep_going=True, streams=dropout.generators),
    )  # fmt: skip
    test = Accuracy(_stacked(split, 2, device), computation, one)
    scores = test(trained.params, torch.arange(len(runs)))
    seconds = (time.monotonic() - began) / len(runs)
    for k, spec in enumerate(specs):
        meta = {
            "test_accuracy": float(scores[k]), "best_constant": best_constant(test.answers[k]),
            "steps_taken": trained.steps[k], "seconds": seconds,
        }  # fmt: skip
        if k not in trained.diverged:
            machine.store.put(
                "base", spec, moved(unstack(trained.params, k), "cpu"),
                {**meta, "history": history_of(trained.history, k)}, machine.device,
            )  # fmt: skip
    check_converged(trained, "base model", [f"seed {seed}" for seed in seeds])


def search(
    runs: Sequence[Search], source: Params, *, accuracy: Callable[[Params, Tensor], Tensor],
    resume: Resume | None = None,
) -> tuple[Params, Trained]:  # fmt: skip
    """The search that ``runs`` describe, in their networks ``source`` [K, ...]; returns what
    :func:`sicore.discovery.discover` does.
    """
    one, base, device = runs[0], runs[0].base, next(iter(source.values())).device
    seeds, names = [run.base.seed for run in runs], one.masked()
    data = ar.samples(
        [run.split()[0] for run in runs], ar.Computation.parse(one.computation), p=base.p, numbers=base.numbers,
        batch=one.batch, steps=one.steps, generators=[generator(seed, "discovery", "order") for seed in seeds],
        device=device,
    )  # fmt: skip
    kind: dict[str, Any] = {"n_head": base.n_head, "dtype": DTYPES[one.dtype]}
    outside = complement = None
    if one.redraw:
        outside = redrawn(
            lambda seed: {name: one.redraw_scale * value for name, value in base.build(seed=seed).named_parameters()},
            one.redrawn(), steps=one.steps, seeds=seeds, every=one.redraw, still=one.redraw_still,
        )  # fmt: skip
    if one.completeness:
        complement = ar.to_uniform(one.completeness, p=base.p, **kind)
    dropout = Dropout(one.dropout, [derive(seed, "discovery") for seed in seeds], device)
    losses = (
        ar.to_source(**kind) if one.to_base else ar.losses(**kind, all_positions=one.all_positions, dropout=dropout)
    )
    return discover(
        losses, source, names, data, steps=one.steps, lr=one.lr, penalty=[run.penalty for run in runs],
        density=[run.density for run in runs] if one.density else None, family=one.masks(), seeds=seeds,
        outside=outside, complement=complement, weight_decay=one.weight_decay, accuracy=accuracy, every=one.every,
        dtype=one.masked_dtype(one.dtype), resume=resume, run=Run(keep_going=True, streams=dropout.generators),
    )  # fmt: skip


def subtask_accuracy(runs: Sequence[Search], part: int, device: torch.device) -> Accuracy:
    """Accuracy on the subtask, on the training (0), validation (1) or test pairs (2) of the searches."""
    pairs = _stacked([run.split() for run in runs], part, device)
    return Accuracy(pairs, ar.Computation.parse(runs[0].computation), runs[0].base)


def _find_subnetworks(specs: list[Spec], machine: Machine, progress: Any) -> None:
    began, device = time.monotonic(), check_device(machine.device)
    runs = [Search.of(spec) for spec in specs]
    source = moved(stack([run.source(_params(run.base, machine)) for run in runs]), device)
    masks, trained = search(
        runs, source, accuracy=subtask_accuracy(runs, 1, device),
        resume=Resume(checkpoint("subnetwork", specs, machine), progress=progress),
    )  # fmt: skip
    found = [Subnetwork(moved(unstack(masks, k), "cpu"), moved(unstack(source, k), "cpu")) for k in range(len(runs))]
    test = subtask_accuracy(runs, 2, device)
    scores = _scores(runs, found, masks, source, test)
    seconds = (time.monotonic() - began) / len(runs)
    for k, spec in enumerate(specs):
        meta: dict[str, Any] = {name: float(score[k]) for name, score in scores.items()}
        meta |= {"density": found[k].density, "seconds": seconds, "best_constant": best_constant(test.answers[k])}
        if k not in trained.diverged:
            meta["history"] = history_of(trained.history, k)
            machine.store.put("subnetwork", spec, found[k].masks, meta, machine.device)
    names = [f"seed {run.base.seed} with penalty {run.penalty:g}" for run in runs]
    check_converged(trained, "search", names)


def _scores(
    runs: Sequence[Search], found: Sequence[Subnetwork], masks: Params, source: Params, on_subtask: Accuracy
) -> dict[str, Tensor]:
    """Accuracies of the subnetworks, and of what is left without them, on the pairs of ``on_subtask``; [K] each."""
    base, every = runs[0].base, torch.arange(len(runs))
    on_base_task = Accuracy(on_subtask.pairs, ar.Computation.parse(base.computation), base)
    drawn = stack([
        dict(one.random(generator(run.base.seed, "discovery", "random")).masks)
        for one, run in zip(found, runs, strict=True)
    ])  # fmt: skip
    inside = source | {name: source[name] * mask for name, mask in masks.items()}
    outside = source | {name: source[name] * ~mask for name, mask in masks.items()}
    sampled_out = source | {name: source[name] * ~mask.to(source[name].device) for name, mask in drawn.items()}
    return {
        "accuracy": on_subtask(inside, every),
        "accuracy_base_task": on_base_task(inside, every),
        "accuracy_ablated": on_subtask(outside, every),
        "accuracy_ablated_base_task": on_base_task(outside, every),
        "accuracy_random_ablated_base_task": on_base_task(sampled_out, every),
        "accuracy_full_model": on_subtask(source, every),
        "accuracy_full_model_base_task": on_base_task(source, every),
    }


def _train_transfers(specs: list[Spec], machine: Machine, progress: Any) -> None:
    began, device = time.monotonic(), check_device(machine.device)
    runs = [Transfer.of(spec) for spec in specs]
    one, base = runs[0], runs[0].base
    computation = ar.Computation.parse(one.computation)
    split = [run.split() for run in runs]
    data = ar.samples(
        [pairs[0] for pairs in split], computation, p=base.p, numbers=base.numbers, batch=one.batch, steps=one.steps,
        generators=[generator(run.seed, "order", run.n_disambiguation) for run in runs], device=device,
    )  # fmt: skip
    dropout = Dropout(one.dropout, [run.seed for run in runs], device)
    starts, densities = zip(*starts_of(runs, machine), strict=True)
    placed = [Start(moved(s.params, device), moved(s.frozen, device), s.inherited) for s in starts]
    trained = transfer(
        ar.losses(n_head=base.n_head, all_positions=one.all_positions, dropout=dropout, dtype=DTYPES[one.dtype]),
        placed, data, accuracy=Accuracy(_stacked(split, 1, device), computation, base),
        dtype=one.source.masked_dtype(one.dtype), steps=one.steps, lr=one.lr, weight_decay=one.weight_decay,
        clip=one.clip, watch=Watch(every=one.every, target=one.target, keep_best=True),
        resume=Resume(checkpoint("transfer", specs, machine), progress=progress),
        run=Run(keep_going=True, streams=dropout.generators),
    )  # fmt: skip
    test = Accuracy(_stacked(split, 2, device), computation, base)
    predicted = test.predict(trained.params, torch.arange(len(runs)))
    right = accuracy(predicted, test.answers)
    seconds = (time.monotonic() - began) / len(runs)
    for k, spec in enumerate(specs):
        meta = {
            "test_accuracy": float(right[k]), "best_constant": best_constant(test.answers[k]),
            **_on_unseen(~runs[k].seen(split[k][2]), (predicted[k] == test.answers[k]).cpu(), float(right[k])),
            **_course(history_of(trained.history, k)), "steps": trained.steps[k], "density": densities[k],
            "frozen": sum(int(mask.sum()) for mask in starts[k].frozen.values()), "inherited": starts[k].inherited,
            "seconds": seconds,
        }  # fmt: skip
        if k in trained.diverged:  # marked, and without an accuracy that an average could take in
            meta |= {"diverged": trained.diverged[k]} | {name: None for name in meta if "accuracy" in name}
        kept = {"predicted": predicted[k].to(torch.int32).cpu(), "pairs": split[k][2].to(torch.int32)}
        machine.store.put("transfer", spec, kept, meta, machine.device)


def _on_unseen(unseen: Tensor, hits: Tensor, on_all: float) -> dict[str, Any]:
    """How many test pairs the base and the search were not trained on, and the accuracy there; both arguments [N]."""
    hits = hits[unseen]
    return {
        "unseen": int(unseen.sum()), "test_accuracy_unseen": float(hits.float().mean()) if len(hits) else on_all,
    }  # fmt: skip


def _course(history: list[dict[str, float]]) -> dict[str, Any]:
    """What the evaluations on validation pairs say: the best, the first of equals as in training, and the last."""
    best = max(history, key=lambda row: row["accuracy"], default={"accuracy": 0.0, "step": 0})
    return {
        "validation_accuracy": best["accuracy"], "best_step": best["step"], "history": history,
        "last_validation_accuracy": history[-1]["accuracy"] if history else 0.0,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------
# What a transfer starts from


def starts_of(runs: Sequence[Transfer], machine: Machine) -> Iterator[tuple[Start, float]]:
    """Initial parameters of every transfer, and the density of the discovered subnetwork.

    ``FileNotFoundError`` naming the base or subnetwork that is no longer in the store.
    """
    sources: dict[Search, tuple[Params, Subnetwork]] = {}
    built: dict[tuple[Base, int], Params] = {}
    for run in runs:
        source, base = run.source, run.base
        if source not in sources:
            params = _params(base, machine)
            masks, _ = fetch("subnetwork", source.json(), machine, f"subnetwork of seed {base.seed}")
            sources[source] = params, Subnetwork(_masks(masks), source.source(params))
        if (base, run.seed) not in built:
            built[base, run.seed] = dict(base.build(seed=run.seed).named_parameters())
        params, discovered = sources[source]
        yield _start(run, params, discovered, built[base, run.seed]), discovered.density


def _start(run: Transfer, params: Params, discovered: Subnetwork, fresh: Params) -> Start:
    inherit = run.inherited()
    if run.copied == "full_model":
        # In the order of a fresh network: clipping adds up a stack's squares in the order of its first member.
        return Start({name: params[name] for name in fresh}, {}, sum(tensor.numel() for tensor in params.values()))
    if run.copied == "nothing" and not inherit:
        return start(fresh)
    if run.copied in ("sampled", "complement"):
        # One draw for both behaviours: the released code sets the drawn weights to zero in a mask of ones, so that all
        # but these are kept.
        drawn = discovered.random(run.generator(run.copied), outside=run.copied == "complement")
        chosen = ~drawn if run.behaviour == "as_released" else drawn
    else:
        chosen = discovered if run.copied == "subnetwork" else discovered - discovered
    beside = [name for name in inherit if name not in discovered.masks]
    return start(fresh, chosen, inherit=beside, freeze=run.freeze)


# ---------------------------------------------------------------------------------------
# Pieces


class Accuracy:
    """``(stacked parameters, active) -> [k]`` on fixed pairs [K, N, 2]."""

    def __init__(self, pairs: Tensor, computation: ar.Computation, base: Base) -> None:
        self.pairs, self.base = pairs, base
        self.answers = computation(pairs[..., 0], pairs[..., 1], base.p)

    def predict(self, params: Params, active: Tensor) -> Tensor:
        """Most likely answers, [k, N]."""
        return ar.predict(params, self.pairs[active], n_head=self.base.n_head, numbers=self.base.numbers)

    def __call__(self, params: Params, active: Tensor) -> Tensor:
        return accuracy(self.predict(params, active), self.answers[active])

    def loss(self, params: Params, active: Tensor) -> Tensor:
        """What the base is trained to lower, without dropout and in float32, [k]."""
        losses = ar.losses(n_head=self.base.n_head, all_positions=self.base.all_positions)
        inputs = ar.tokens(self.pairs[active], self.base.numbers)
        return losses(params, {"index": active}, (inputs, self.answers[active]), 0)


def _stacked(split: Sequence[Sequence[Tensor]], part: int, device: torch.device) -> Tensor:
    """One of the three sets of every model, [K, N, 2]."""
    return torch.stack([pairs[part] for pairs in split]).to(device)


def _masks(tensors: Params) -> Params:
    return {name: mask.bool() for name, mask in tensors.items()}


def _params(base: Base, machine: Machine) -> Params:
    return fetch("base", base.json(), machine, f"base model of seed {base.seed}")[0]
