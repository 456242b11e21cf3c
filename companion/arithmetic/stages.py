"""The three stages of the arithmetic experiment, each kept in the store.

``base_models`` -> ``subnetworks`` -> ``transfers``. What is there is read; what is missing is
trained in stacks by several processes (see :mod:`companion.lab.make`).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from companion.arithmetic import task as ar
from companion.arithmetic.answers import accuracy, agreement, best_constant
from companion.arithmetic.gpt2 import Dropout, gpt2
from companion.lab.make import (
    DTYPES,
    Cost,
    Machine,
    Spec,
    check_converged,
    check_counts,
    check_dtype,
    checkpoint,
    fetch,
    history_of,
    make,
    moved,
)
from sicore.discovery import discover
from sicore.files import canonical_json
from sicore.masking import ContinuousSparsification, Params, maskable, parameter_groups
from sicore.seeding import derive, generator
from sicore.stacks import stack, unstack
from sicore.subnetwork import Subnetwork
from sicore.training import Resume, Run, Trained, Watch, check_device, train
from sicore.transfer import Start, start, transfer

INHERITED = ("embeddings", "norms", "biases")
"""What the released code copies beside the masked weights (see :func:`sicore.masking.parameter_groups`)."""


@dataclass(frozen=True)
class Condition:
    """What a transfer starts from.

    Parameters
    ----------
    copied
        Which weights of the masked layers come from the base: ``subnetwork`` (the
        discovered one), ``sampled`` or ``complement`` (the random controls),
        ``full_model`` (all, and all else too), or ``nothing``.
    behaviour
        Of a random control: ``as_described`` in the paper, ``as_released`` in its code.
    inherit
        Groups of further parameters to copy; None for what the call of :func:`transfers` says.
    freeze
        Hold the copied weights; None for what the call says.
    """

    copied: str
    behaviour: str = ""
    inherit: tuple[str, ...] | None = None
    freeze: bool | None = None


CONDITIONS = {
    "subnetwork": Condition("subnetwork"),
    "full_model": Condition("full_model", freeze=False),
    "sampled_as_described": Condition("sampled", "as_described"),
    "sampled_as_released": Condition("sampled", "as_released"),
    "complement_as_described": Condition("complement", "as_described"),
    "complement_as_released": Condition("complement", "as_released"),
    "inherited_only": Condition("nothing"),
    "random_initialisation": Condition("nothing", inherit=()),
    # Appendix B.3: the same weights as a starting point, not held.
    "subnetwork_trainable": Condition("subnetwork", freeze=False),
    "sampled_as_described_trainable": Condition("sampled", "as_described", freeze=False),
    "sampled_as_released_trainable": Condition("sampled", "as_released", freeze=False),
    # Which inherited part brings what.
    "subnetwork_alone": Condition("subnetwork", inherit=()),
    "subnetwork_with_embeddings": Condition("subnetwork", inherit=("embeddings",)),
    "subnetwork_with_norms": Condition("subnetwork", inherit=("norms",)),
    "subnetwork_with_biases": Condition("subnetwork", inherit=("biases",)),
    "sampled_alone": Condition("sampled", "as_described", inherit=()),
    "embeddings_only": Condition("nothing", inherit=("embeddings",)),
}
"""The conditions that have a name; the first eight are those of the main figure."""

MAIN_CONDITIONS = tuple(CONDITIONS)[:8]


def memory_of(spec: Spec) -> int:
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


@dataclass(frozen=True)
class Base:
    """A trained base model: ``spec``, ``params``, ``meta`` (accuracies, steps) and ``history``."""

    spec: Spec
    params: Params
    meta: dict[str, Any]

    @property
    def history(self) -> pd.DataFrame:
        """``step``, ``loss``, ``accuracy`` (on validation pairs)."""
        return pd.DataFrame(self.meta["history"])


@dataclass(frozen=True)
class Found:
    """A discovered subnetwork with its ``spec``, ``meta`` and ``history``."""

    spec: Spec
    subnetwork: Subnetwork
    meta: dict[str, Any]

    @property
    def history(self) -> pd.DataFrame:
        """``step``, ``loss``, ``density``, ``soft_mean``, ``temperature``, ``accuracy``, ``soft_accuracy``."""
        return pd.DataFrame(self.meta["history"])


def base_models(
    machine: Machine, seeds: Iterable[int], *, computation: str = "a + ab", p: int = 7, numbers: int = 1000,
    n_layer: int = 2, n_embd: int = 128, n_head: int = 4, train_pairs: int = 200_000, validation_pairs: int = 1000,
    test_pairs: int = 1000, steps: int = 200_000, limit: int = 0, batch: int = 50, lr: float = 5e-4,
    weight_decay: float = 0.0, dropout: float = 0.1, clip: float | None = 1.0, all_positions: bool = True,
    every: int = 1000, target: float | None = 0.999, dtype: str = "float32",
) -> list[Base]:  # fmt: skip
    """Train GPT-2 from scratch on ``computation``, one model per seed (paper, section 4).

    The defaults are the paper's settings, but for stopping: training ends when the accuracy
    on validation pairs reaches ``target``, in place of ten epochs without a lower loss.
    ``train_pairs``, ``validation_pairs`` and ``test_pairs`` are disjoint.

    Models stay on a plateau for a time that differs much from seed to seed. With ``limit``
    above 0, one that has not reached ``target`` after so many steps is given up and not among
    the models returned; the learning rate still falls over ``steps``. ``RuntimeError`` when
    none is left.
    """
    ar.Computation.parse(computation)
    ar.vocabulary(numbers, p)
    check_dtype(dtype)
    check_counts(
        steps=steps, batch=batch, every=every, train_pairs=train_pairs, validation_pairs=validation_pairs,
        test_pairs=test_pairs,
    )  # fmt: skip
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= steps:
        raise ValueError(f"limit = {limit!r}: expected 1 to steps = {steps}, or 0 for no limit")
    seeds = list(seeds)
    for seed in seeds:
        derive(seed)
    settings = {
        "computation": computation, "p": p, "numbers": numbers, "n_layer": n_layer, "n_embd": n_embd, "n_head": n_head,
        "train_pairs": train_pairs, "validation_pairs": validation_pairs, "test_pairs": test_pairs, "steps": steps,
        "limit": limit, "batch": batch, "lr": lr, "weight_decay": weight_decay, "dropout": dropout, "clip": clip,
        "all_positions": all_positions, "every": every, "target": target, "dtype": dtype,
        "device": machine.device.split(":")[0],
    }  # fmt: skip
    specs = [{**settings, "seed": seed} for seed in seeds]
    for spec in specs[:1]:
        _base_pairs(spec)  # too many pairs: said now, not in a worker
        _build(spec, seed=0)
    found = _make("base", specs, machine, _train_bases)
    bases = [Base(spec, tensors, meta) for spec, (tensors, meta) in zip(specs, found, strict=True)]
    if not limit or target is None:
        return bases
    learned = [base for base in bases if base.meta["history"][-1]["accuracy"] >= target]
    if not learned:
        raise RuntimeError(f"no base model of the seeds {seeds} reached target = {target} within limit = {limit} steps")
    return learned


def subnetworks(
    machine: Machine, bases: Sequence[Base], *, computation: str = "ab", pairs: int = 50_000,
    validation_pairs: int = 1000, test_pairs: int = 1000, steps: int = 5000, batch: int = 500, lr: float = 1e-3,
    penalty: float = 1e-7, stages: int = 50, final_temperature: float = 100.0, initial_logit: float = -0.1,
    skip_temperature: bool = False, weight_decay: float = 0.0, all_positions: bool = False, every: int = 100,
    complete: bool = False, dtype: str = "float32",
) -> list[Found]:  # fmt: skip
    """Find the subnetwork for ``computation`` in every base model (paper, section 3.1).

    Masked are the attention and MLP projections. The defaults are the paper's settings.
    With ``complete`` the embeddings are masked too, and the search runs with norms at 1 and
    biases at 0, as they are in a fresh network: the subnetwork then needs nothing beside itself.
    ``meta`` has, on test pairs: ``accuracy`` of the subnetwork on the subtask,
    ``accuracy_base_task`` of the subnetwork on what the base was trained for, and of the
    base without the subnetwork ``accuracy_ablated`` on the subtask and
    ``accuracy_ablated_base_task`` on its own task, with ``accuracy_random_ablated_base_task``
    beside it: without as many weights drawn at random in each matrix. ``best_constant`` is
    the accuracy of the best constant answer on the subtask.
    """
    ar.Computation.parse(computation)
    check_dtype(dtype)
    check_counts(
        steps=steps, batch=batch, every=every, pairs=pairs, validation_pairs=validation_pairs, test_pairs=test_pairs
    )
    settings = {
        "computation": computation, "pairs": pairs, "validation_pairs": validation_pairs, "test_pairs": test_pairs,
        "steps": steps, "batch": batch, "lr": lr, "penalty": penalty, "stages": stages,
        "final_temperature": final_temperature, "initial_logit": initial_logit, "skip_temperature": skip_temperature,
        "weight_decay": weight_decay, "all_positions": all_positions, "every": every, "complete": complete,
        "dtype": dtype,
    }  # fmt: skip
    specs = [{**settings, "base": base.spec} for base in bases]
    for spec in specs:
        _subtask_pairs(spec)
    found = _make("subnetwork", specs, machine, _find_subnetworks)
    result = []
    for spec, base, (tensors, meta) in zip(specs, bases, found, strict=True):
        masks = {name: mask.bool() for name, mask in tensors.items()}
        about = {key: value for key, value in meta.items() if key not in ("history", "spec")}
        result.append(Found(spec, Subnetwork(masks, search_source(spec, base.params), {**about, "spec": spec}), meta))
    return result


def transfers(
    machine: Machine, found: Sequence[Found], *, computation: str = "a^2 + ab",
    conditions: Sequence[str] = MAIN_CONDITIONS, n_disambiguation: Sequence[int] = (0, 100, 1000),
    ambiguous: int = 1000, validation_pairs: int = 1000, test_pairs: int = 1000, epochs: int = 0, steps: int = 10_000,
    batch: int = 50, lr: float = 2e-4, weight_decay: float = 0.01, dropout: float = 0.1, clip: float | None = 1.0,
    all_positions: bool = False, every: int = 100, target: float | None = None,
    inherit: Sequence[str] = INHERITED, freeze: bool = True, draws: Sequence[int] = (0,),
    candidates: Sequence[str] = ("a^2 + ab", "2a^2", "2b^2"), dtype: str = "float32",
) -> pd.DataFrame:  # fmt: skip
    """Train on ``computation`` from every start and with every number of disambiguation samples.

    The training set is ``ambiguous`` pairs with a = b and the first n of a fixed random
    sequence of pairs with a != b. All runs of a seed and draw share fresh weights, ambiguous
    samples and evaluation pairs. The evaluation with the best accuracy on validation pairs is kept
    and tested on test pairs; both are disjoint from the training pairs and hold a != b.

    Parameters
    ----------
    conditions
        Names of :data:`CONDITIONS`.
    epochs
        Above 0: every run sees its own training set this often and is evaluated once an
        epoch, in place of ``steps`` and ``every``. The paper has 100 (appendix B).
    target
        A run stops at this accuracy on validation pairs. With 1.0 that changes no test
        accuracy: of equally good evaluations the first is kept anyway.
    inherit, freeze
        For the conditions that leave them open.
    draws
        Several transfers from one base: each draw has other fresh weights and other samples.

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
    for text in (computation, *candidates):
        ar.Computation.parse(text)
    check_dtype(dtype)
    check_counts(steps=steps, batch=batch, every=every, validation_pairs=validation_pairs, test_pairs=test_pairs)
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"epochs = {epochs!r}: expected an integer of 1 or more, or 0 to train for steps")
    if not n_disambiguation:
        raise ValueError("n_disambiguation is empty: name at least one number of samples")
    for n in n_disambiguation:
        if n < 0 or n + ambiguous < 1:
            raise ValueError(
                f"n_disambiguation = {n} with ambiguous = {ambiguous}: a training set needs 1 sample or more"
            )
    if not draws or any(isinstance(draw, bool) or not isinstance(draw, int) or draw < 0 for draw in draws):
        raise ValueError(f"draws = {list(draws)}: expected integers of 0 or more, at least one")
    for condition in conditions:
        if condition not in CONDITIONS:
            raise ValueError(f"conditions: {condition!r} does not exist; expected some of {', '.join(CONDITIONS)}")
    settings = {
        "computation": computation, "ambiguous": ambiguous, "validation_pairs": validation_pairs,
        "test_pairs": test_pairs, "batch": batch, "lr": lr, "weight_decay": weight_decay,
        "dropout": dropout, "clip": clip, "all_positions": all_positions, "target": target, "dtype": dtype,
    }  # fmt: skip

    def length(n: int) -> dict[str, int]:
        epoch = -(-(ambiguous + n) // batch)
        return {"steps": epochs * epoch, "every": epoch} if epochs else {"steps": steps, "every": every}

    def origin(name: str) -> dict[str, Any]:
        one = CONDITIONS[name]
        groups = one.inherit if one.inherit is not None else tuple(inherit)
        held = one.freeze if one.freeze is not None else freeze
        return {"copied": one.copied, "behaviour": one.behaviour, "inherit": list(groups), "freeze": held}

    for one in found:
        densest = max(one.subnetwork.table(), key=lambda row: row["density"])
        if densest["density"] > 0.5 and any(CONDITIONS[name].copied == "complement" for name in conditions):
            raise ValueError(
                f"conditions: no complement for seed {one.spec['base']['seed']}: {densest['parameter']} keeps "
                f"{densest['density']:.0%} of its weights, and at most 50 % leave enough outside. Raise the penalty, "
                "or leave the complement conditions out"
            )
    runs = [
        (condition, {
            **settings, **length(n), **origin(condition), "n_disambiguation": n, "draw": draw, "source": one.spec,
        })
        for condition in conditions for one in found for draw in draws for n in n_disambiguation
    ]  # fmt: skip
    for one in found:
        _, _, test = _transfer_pairs(
            {**settings, "n_disambiguation": max(n_disambiguation), "draw": draws[0], "source": one.spec}
        )
        base = one.spec["base"]
        agreement(torch.zeros(len(test)), test, candidates, base["p"])  # candidates that cannot be told apart
        Dropout(dropout, [])
        _inherited_names(one.spec["base"], inherit)
    results = _make("transfer", [spec for _, spec in runs], machine, _train_transfers)
    rows = []
    for (start_name, spec), (tensors, meta) in zip(runs, results, strict=True):
        base = spec["source"]["base"]
        condition, _, behaviour = start_name.partition("_as_")
        shares = agreement(tensors["predicted"].long(), tensors["pairs"].long(), candidates, base["p"])
        diverged = {}
        if "diverged" in meta:
            diverged, shares = {"diverged": meta["diverged"]}, dict.fromkeys(shares, math.nan)
        rows.append({
            "start": start_name, "condition": condition, "behaviour": f"as_{behaviour}" if behaviour else "",
            "inherit": ", ".join(spec["inherit"]), "freeze": spec["freeze"],
            "subtask": spec["source"]["computation"], "task": computation, "n_layer": base["n_layer"],
            "n_disambiguation": spec["n_disambiguation"], "seed": base["seed"], "draw": spec["draw"],
            **{name: meta[name] for name in (
                "test_accuracy", "validation_accuracy", "best_step", "steps", "last_validation_accuracy",
                "test_accuracy_unseen", "unseen", "best_constant", "frozen", "inherited", "density", "seconds",
            )},
            **{f"agrees {name}": share for name, share in shares.items()}, **diverged,
        })  # fmt: skip
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------
# Making what the store lacks


def _make(
    kind: str, specs: Sequence[Spec], machine: Machine, job: Callable[[list[Spec], Machine, Any], None]
) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    return make(kind, specs, machine, job, Cost(_length, _operations, memory_of, _shared))


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
    return {
        key: _shared(value) if isinstance(value, dict) else value
        for key, value in spec.items() if key not in own
    }  # fmt: skip


# ---------------------------------------------------------------------------------------
# The three jobs; each trains one stack and puts its models into the store


def _train_bases(specs: list[Spec], machine: Machine, progress: Any) -> None:
    began, one = time.monotonic(), specs[0]
    device = check_device(machine.device)
    computation = ar.Computation.parse(one["computation"])
    seeds = [spec["seed"] for spec in specs]
    split = [_base_pairs(spec) for spec in specs]
    data = ar.samples(
        [pairs[0] for pairs in split], computation, p=one["p"], numbers=one["numbers"], batch=one["batch"],
        steps=one["steps"], generators=[generator(seed, "base", "order") for seed in seeds], device=device,
    )  # fmt: skip
    dropout = Dropout(one["dropout"], [derive(seed, "base") for seed in seeds], device)
    params = moved(stack([_build(spec, seed=derive(spec["seed"], "base")) for spec in specs]), device)
    validation = torch.stack([pairs[1] for pairs in split]).to(device)
    check = Accuracy(validation, computation, one)

    trained = train(
        ar.losses(
            n_head=one["n_head"], all_positions=one["all_positions"], dropout=dropout, dtype=DTYPES[one["dtype"]]
        ),
        params, data, steps=one["steps"], lr=one["lr"], weight_decay=one["weight_decay"], linear_decay=True,
        limit=one["limit"] or None, clip=one["clip"],
        watch=Watch(
            lambda params, context, step, active: {"accuracy": check(params, active)}, one["every"],
            metric="accuracy", target=one["target"],
        ),
        resume=Resume(checkpoint("base", specs, machine), progress=progress),
        run=Run(keep_going=True, streams=dropout.generators),
    )  # fmt: skip
    test = torch.stack([pairs[2] for pairs in split]).to(device)
    scores = Accuracy(test, computation, one)(trained.params, torch.arange(len(specs)))
    seconds = (time.monotonic() - began) / len(specs)
    for k, spec in enumerate(specs):
        floor = best_constant(computation(test[k, :, 0], test[k, :, 1], one["p"]))
        meta = {
            "test_accuracy": float(scores[k]), "best_constant": floor, "steps_taken": trained.steps[k],
            "seconds": seconds,
        }  # fmt: skip
        if k not in trained.diverged:
            machine.store.put(
                "base", spec, moved(unstack(trained.params, k), "cpu"),
                {**meta, "history": history_of(trained.history, k)}, machine.device,
            )  # fmt: skip
    check_converged(trained, "base model", [f"seed {seed}" for seed in seeds])


def search(
    specs: Sequence[Spec], source: Params, *, accuracy: Callable[[Params, Tensor], Tensor],
    resume: Resume | None = None,
) -> tuple[Params, Trained]:  # fmt: skip
    """The search that ``specs`` describe, in their networks ``source`` [K, ...]; returns what
    :func:`sicore.discovery.discover` does.
    """
    one = specs[0]
    base, computation = one["base"], ar.Computation.parse(one["computation"])
    data = ar.samples(
        [_subtask_pairs(spec)[0] for spec in specs], computation, p=base["p"], numbers=base["numbers"],
        batch=one["batch"], steps=one["steps"],
        generators=[generator(spec["base"]["seed"], "discovery", "order") for spec in specs],
        device=next(iter(source.values())).device,
    )  # fmt: skip
    return discover(
        ar.losses(n_head=base["n_head"], all_positions=one["all_positions"], dtype=DTYPES[one["dtype"]]), source,
        masked_names(one), data,
        steps=one["steps"], lr=one["lr"], penalty=[spec["penalty"] for spec in specs], family=family_of(one),
        weight_decay=one["weight_decay"], accuracy=accuracy, every=one["every"], dtype=_dtype_of_masked(one, one),
        resume=resume, run=Run(keep_going=True),
    )  # fmt: skip


def family_of(found: Spec) -> ContinuousSparsification:
    """The mask family of a search."""
    return ContinuousSparsification(
        found["initial_logit"], final=found["final_temperature"], stages=found["stages"], skip=found["skip_temperature"]
    )


def subtask_accuracy(specs: Sequence[Spec], part: int, device: torch.device) -> Accuracy:
    """Accuracy on the subtask, on the training (0), validation (1) or test pairs (2) of the specs' searches."""
    pairs = torch.stack([_subtask_pairs(spec)[part] for spec in specs]).to(device)
    return Accuracy(pairs, ar.Computation.parse(specs[0]["computation"]), specs[0]["base"])


def _find_subnetworks(specs: list[Spec], machine: Machine, progress: Any) -> None:
    began, one = time.monotonic(), specs[0]
    device = check_device(machine.device)
    base = one["base"]
    source = moved(stack([search_source(spec, _base_params(spec["base"], machine)) for spec in specs]), device)
    masks, trained = search(
        specs, source, accuracy=subtask_accuracy(specs, 1, device),
        resume=Resume(checkpoint("subnetwork", specs, machine), progress=progress),
    )  # fmt: skip
    on_subtask = subtask_accuracy(specs, 2, device)
    test, every = on_subtask.pairs, torch.arange(len(specs))
    on_base_task = Accuracy(test, ar.Computation.parse(base["computation"]), base)
    inside = source | {name: source[name] * mask for name, mask in masks.items()}
    outside = source | {name: source[name] * ~mask for name, mask in masks.items()}
    found = [Subnetwork(moved(unstack(masks, k), "cpu"), moved(unstack(source, k), "cpu")) for k in range(len(specs))]
    removed = [
        one.random(generator(spec["base"]["seed"], "discovery", "random")).masks
        for one, spec in zip(found, specs, strict=True)
    ]
    sampled_out = source | {
        name: source[name] * ~torch.stack([drawn[name] for drawn in removed]).to(device) for name in masks
    }
    scores = {
        "accuracy": on_subtask(inside, every),
        "accuracy_base_task": on_base_task(inside, every),
        "accuracy_ablated": on_subtask(outside, every),
        "accuracy_ablated_base_task": on_base_task(outside, every),
        "accuracy_random_ablated_base_task": on_base_task(sampled_out, every),
        "accuracy_full_model": on_subtask(source, every),
        "accuracy_full_model_base_task": on_base_task(source, every),
    }
    seconds = (time.monotonic() - began) / len(specs)
    for k, spec in enumerate(specs):
        meta: dict[str, Any] = {name: float(score[k]) for name, score in scores.items()}
        meta |= {"density": found[k].density, "seconds": seconds}
        meta["best_constant"] = best_constant(on_subtask.answers[k])
        if k not in trained.diverged:
            meta["history"] = history_of(trained.history, k)
            machine.store.put("subnetwork", spec, found[k].masks, meta, machine.device)
    names = [f"seed {spec['base']['seed']} with penalty {spec['penalty']:g}" for spec in specs]
    check_converged(trained, "search", names)


def _train_transfers(specs: list[Spec], machine: Machine, progress: Any) -> None:
    began, one = time.monotonic(), specs[0]
    device = check_device(machine.device)
    base = one["source"]["base"]
    computation = ar.Computation.parse(one["computation"])
    split = [_transfer_pairs(spec) for spec in specs]
    seeds = [_transfer_seed(spec) for spec in specs]
    orders = [generator(seed, "order", spec["n_disambiguation"]) for seed, spec in zip(seeds, specs, strict=True)]
    data = ar.samples(
        [pairs[0] for pairs in split], computation, p=base["p"], numbers=base["numbers"], batch=one["batch"],
        steps=one["steps"], generators=orders, device=device,
    )  # fmt: skip
    dropout = Dropout(one["dropout"], seeds, device)
    starts, densities = zip(*_starts(specs, machine), strict=True)
    placed = [Start(moved(s.params, device), moved(s.frozen, device), s.inherited) for s in starts]
    validation, test = (torch.stack([pairs[i] for pairs in split]).to(device) for i in (1, 2))
    trained = transfer(
        ar.losses(
            n_head=base["n_head"], all_positions=one["all_positions"], dropout=dropout, dtype=DTYPES[one["dtype"]]
        ),
        placed, data, accuracy=Accuracy(validation, computation, base),
        dtype=_dtype_of_masked(one, one["source"]), steps=one["steps"], lr=one["lr"],
        weight_decay=one["weight_decay"], clip=one["clip"],
        watch=Watch(every=one["every"], target=one["target"], keep_best=True),
        resume=Resume(checkpoint("transfer", specs, machine), progress=progress),
        run=Run(keep_going=True, streams=dropout.generators),
    )  # fmt: skip
    predicted = ar.predict(trained.params, test, n_head=base["n_head"], numbers=base["numbers"])
    answers = computation(test[..., 0], test[..., 1], base["p"])
    right = accuracy(predicted, answers)
    seconds = (time.monotonic() - began) / len(specs)
    for k, spec in enumerate(specs):
        history = history_of(trained.history, k)
        # The first of equals, as in training.
        best = max(history, key=lambda row: row["accuracy"], default={"accuracy": 0.0, "step": 0})
        unseen = ~_seen(spec["source"], test[k].cpu())
        hits = (predicted[k] == answers[k]).cpu()[unseen]
        meta = {
            "test_accuracy": float(right[k]), "validation_accuracy": best["accuracy"], "best_step": best["step"],
            "steps": trained.steps[k],
            "last_validation_accuracy": history[-1]["accuracy"] if history else 0.0, "unseen": int(unseen.sum()),
            "test_accuracy_unseen": float(hits.float().mean()) if len(hits) else float(right[k]),
            "best_constant": best_constant(answers[k]),
            "frozen": sum(int(mask.sum()) for mask in starts[k].frozen.values()), "inherited": starts[k].inherited,
            "density": densities[k], "seconds": seconds, "history": history,
        }  # fmt: skip
        if k in trained.diverged:  # marked, and without an accuracy that an average could take in
            meta |= {"diverged": trained.diverged[k]} | {name: None for name in meta if "accuracy" in name}
        kept = {"predicted": predicted[k].to(torch.int32).cpu(), "pairs": test[k].to(torch.int32).cpu()}
        machine.store.put("transfer", spec, kept, meta, machine.device)


# ---------------------------------------------------------------------------------------
# Pieces: what a spec says, as data


class Accuracy:
    """``(stacked parameters, active) -> [k]`` on fixed pairs [K, N, 2]."""

    def __init__(self, pairs: Tensor, computation: ar.Computation, base: Spec) -> None:
        self.pairs, self.base = pairs, base
        self.answers = computation(pairs[..., 0], pairs[..., 1], base["p"])

    def __call__(self, params: Params, active: Tensor) -> Tensor:
        predicted = ar.predict(params, self.pairs[active], n_head=self.base["n_head"], numbers=self.base["numbers"])
        return accuracy(predicted, self.answers[active])


def _build(base: Spec, seed: int) -> nn.Module:
    return gpt2(
        vocab=ar.vocabulary(base["numbers"], base["p"]), n_layer=base["n_layer"], n_embd=base["n_embd"],
        n_head=base["n_head"], seed=seed,
    )  # fmt: skip


def masked_names(found: Spec) -> tuple[str, ...]:
    """The parameters that a search masks: the layers' matrices, for a complete subnetwork the embeddings too."""
    model = _build(found["base"], seed=0)
    layers = maskable(model, include="transformer.h.*")
    return layers + parameter_groups(model)["embeddings"] if found["complete"] else layers


def search_source(found: Spec, params: Params) -> Params:
    """The network that is searched: the base, for a complete subnetwork with norms at 1 and biases at 0."""
    if not found["complete"]:
        return params
    groups = parameter_groups(_build(found["base"], seed=0))
    plain = {}
    for name in groups["norms"] + groups["biases"]:
        one = name in groups["norms"] and name.endswith("weight")
        plain[name] = torch.ones_like(params[name]) if one else torch.zeros_like(params[name])
    return params | plain


def _dtype_of_masked(spec: Spec, found: Spec) -> torch.dtype:
    # Embeddings are looked up in float32: a token's gradient is a sum over the whole batch.
    return torch.float32 if found["complete"] else DTYPES[spec["dtype"]]


def _inherited_names(base: Spec, groups: Sequence[str]) -> list[str]:
    known = parameter_groups(_build(base, seed=0))
    for group in groups:
        if group not in known:
            raise ValueError(f"inherit: {group!r} does not exist; expected some of {', '.join(known)}")
    return [name for group in groups for name in known[group]]


def _base_params(spec: Spec, machine: Machine) -> Params:
    return fetch("base", spec, machine, f"base model of seed {spec['seed']}")[0]


def _base_pairs(spec: Spec) -> list[Tensor]:
    sizes = [spec["train_pairs"], spec["validation_pairs"], spec["test_pairs"]]
    return _split(spec["numbers"], tuple(sizes), spec["seed"], "base")


def _subtask_pairs(spec: Spec) -> list[Tensor]:
    sizes = [spec["pairs"], spec["validation_pairs"], spec["test_pairs"]]
    return _split(spec["base"]["numbers"], tuple(sizes), spec["base"]["seed"], "discovery")


@functools.lru_cache(maxsize=16)  # asked for again by every run that is made from them
def _split(numbers: int, sizes: tuple[int, ...], seed: int, stage: str) -> list[Tensor]:
    return ar.split_pairs(numbers, sizes, generator(seed, stage, "pairs"))


def _transfer_pairs(spec: Spec) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test pairs; the first n disambiguation samples of one sequence."""
    base, n = spec["source"]["base"], spec["n_disambiguation"]
    sizes = (spec["ambiguous"], spec["validation_pairs"], spec["test_pairs"])
    ambiguous, validation, test, pool = _drawn_pairs(base["numbers"], base["seed"], spec["draw"], *sizes)
    if n > len(pool):
        raise ValueError(
            f"n_disambiguation = {n}: only {len(pool)} pairs with a != b are left among {base['numbers']} numbers "
            f"beside {len(validation) + len(test)} for validation and test"
        )
    return torch.cat([ambiguous, pool[:n]]), validation, test


@functools.lru_cache(maxsize=8)  # the runs of a seed share them
def _drawn_pairs(numbers: int, seed: int, draw: int, ambiguous: int, validation: int, test: int) -> list[Tensor]:
    rng = generator(seed, "transfer", "pairs", *_draw(draw))
    rest = numbers * (numbers - 1) - validation - test
    if rest < 0:
        raise ValueError(
            f"n_disambiguation: {validation} + {test} pairs for validation and test are more than the "
            f"{numbers * (numbers - 1)} pairs with a != b among {numbers} numbers"
        )
    return [
        ar.ambiguous_pairs(numbers, ambiguous, rng),
        *ar.unambiguous_pairs(numbers, [validation, test, rest], rng),
    ]


def _draw(draw: int) -> tuple[Any, ...]:
    """Further words for a generator's purpose; none for the first draw."""
    return ("draw", draw) if draw else ()


def _transfer_seed(spec: Spec) -> int:
    return derive(spec["source"]["base"]["seed"], "transfer", *_draw(spec["draw"]))


def _seen(source: Spec, pairs: Tensor) -> Tensor:
    """Which of the pairs [N, 2] were training pairs of the base or of the search? Boolean [N]."""
    numbers = source["base"]["numbers"]
    seen = torch.zeros(numbers * numbers, dtype=torch.bool)
    for trained in (_base_pairs(source["base"])[0], _subtask_pairs(source)[0]):
        seen[trained[:, 0] * numbers + trained[:, 1]] = True
    return seen[pairs[:, 0] * numbers + pairs[:, 1]]


def _starts(specs: Sequence[Spec], machine: Machine) -> Iterator[tuple[Start, float]]:
    """Initial parameters of every transfer, and the density of the discovered subnetwork."""
    sources: dict[str, tuple[Params, Subnetwork]] = {}
    built: dict[tuple[str, int], Params] = {}
    for spec in specs:
        source = spec["source"]
        base, seed, fresh_seed = source["base"], source["base"]["seed"], _transfer_seed(spec)
        key = canonical_json(source)
        if key not in sources:
            params = _base_params(base, machine)
            found, _ = fetch("subnetwork", source, machine, f"subnetwork of seed {seed}")
            masks = {name: mask.bool() for name, mask in found.items()}
            sources[key] = params, Subnetwork(masks, search_source(source, params))
        if (key, fresh_seed) not in built:
            built[key, fresh_seed] = dict(_build(base, seed=fresh_seed).named_parameters())
        (params, discovered), fresh = sources[key], built[key, fresh_seed]
        inherit = _inherited_names(base, spec["inherit"])
        yield _start(spec, params, discovered, fresh, inherit), discovered.density


def _start(spec: Spec, params: Params, discovered: Subnetwork, fresh: Params, inherit: Sequence[str]) -> Start:
    copied = spec["copied"]
    if copied == "full_model":
        # In the order of a fresh network: clipping adds up a stack's squares in the order of its first member.
        return Start({name: params[name] for name in fresh}, {}, sum(tensor.numel() for tensor in params.values()))
    if copied == "nothing" and not inherit:
        return start(fresh)
    # One draw for both behaviours: one is the other's inverse.
    rng = generator(spec["source"]["base"]["seed"], "transfer", copied, *_draw(spec["draw"]))
    if copied in ("sampled", "complement"):
        chosen = discovered.random(rng, outside=copied == "complement")
        # The released code sets the drawn weights to zero in a mask of ones, so that all but these are kept.
        chosen = ~chosen if spec["behaviour"] == "as_released" else chosen
    else:
        chosen = discovered if copied == "subnetwork" else discovered - discovered
    masked = {name for name in inherit if name in discovered.masks}
    return start(fresh, chosen, inherit=[name for name in inherit if name not in masked], freeze=spec["freeze"])
