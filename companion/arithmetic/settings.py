"""From a notebook's parameters to the settings of the three stages: the one place where a name meets its setting::

    bases = stages.base_models(machine, seeds, **settings.base(machine, parameters))
    found = stages.subnetworks(machine, bases, **settings.search(machine, parameters))
    table = stages.transfers(machine, found, **settings.transfer(machine, parameters))

``changes`` are put in place of parameters, by the parameters' names: ``settings.base(machine, parameters, n_layer=4)``.

The first of these lines checks the parameters of all three stages (:func:`check`): a notebook says what is wrong with
its last stage before it trains the first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from companion.arithmetic import stages
from companion.arithmetic.specs import Base, Search, Transfer
from companion.arithmetic.task import Computation
from companion.lab.make import Machine
from companion.lab.naming import changed, sayers, settings, told_by
from sicore.seeding import derive

# Setting -> the parameter that says it; of several, the first that the notebook has.
BASE = {
    "computation": "base_computation", "p": "p", "numbers": "numbers", "n_layer": "n_layer", "n_embd": "n_embd",
    "n_head": "n_head", "train_pairs": "base_pairs", "validation_pairs": "evaluation_pairs",
    "test_pairs": "evaluation_pairs", "steps": "base_steps", "limit": "base_limit", "batch": "base_batch",
    "lr": "base_lr", "dropout": "base_dropout", "clip": "clip", "all_positions": "base_all_positions",
    "every": "base_every", "target": "base_target", "dtype": "dtype",
}  # fmt: skip
SEARCH = {
    "computation": "subtask", "pairs": "discovery_pairs", "validation_pairs": "evaluation_pairs",
    "test_pairs": "evaluation_pairs", "steps": "discovery_steps", "batch": "discovery_batch", "lr": "discovery_lr",
    "penalty": "penalty", "stages": "stages", "all_positions": "discovery_all_positions", "every": "discovery_every",
    "dtype": "dtype",
}  # fmt: skip
TRANSFER = {
    "computation": "task", "candidates": "candidates", "n_disambiguation": "n_disambiguation few_counts mask_counts",
    "ambiguous": "ambiguous", "validation_pairs": "evaluation_pairs", "test_pairs": "evaluation_pairs",
    "steps": "transfer_steps", "batch": "transfer_batch", "lr": "transfer_lr", "weight_decay": "transfer_weight_decay",
    "dropout": "transfer_dropout", "clip": "transfer_clip clip", "every": "transfer_every", "dtype": "dtype",
}  # fmt: skip
# What OPTIONAL is for a transfer, for a base model and for a search:
BASE_OPTIONAL = {"patience": "base_patience"}
SEARCH_OPTIONAL = {
    "weight_decay": "discovery_weight_decay", "skip_temperature": "discovery_skip_temperature",
    "family": "mask_family", "density": "density transplant_density", "redraw": "redraw",
    "redraw_only": "redraw_only", "redraw_scale": "redraw_scale", "redraw_still": "redraw_still",
    "dropout": "discovery_dropout", "completeness": "completeness",
    "to_base": "to_base", "complete": "complete",
}  # fmt: skip
OPTIONAL = {
    "conditions": "conditions", "epochs": "transfer_epochs", "all_positions": "transfer_all_positions",
    "inherit": "inherit", "freeze": "freeze",
}  # fmt: skip
"""Settings of a transfer that stay at their defaults where a notebook has no such parameter."""


VARIED = {
    "n_layers": "n_layer", "penalties": "penalty", "complete_penalty": "penalty", "subtasks": "subtask",
    "tasks": "task", "shared_tasks": "task", "densities": "density", "transplant_densities": "density",
    "mask_families": "mask_family", "transplant_families": "mask_family", "hard_concrete_lr": "discovery_lr",
    "gaussian_gate_lr": "discovery_lr", "straight_through_lr": "discovery_lr", "rest_weight": "completeness",
    "search_dropout": "discovery_dropout", "second_subtask": "subtask", "assign_penalty": "penalty",
    "assign_lr": "discovery_lr", "assign_deviation": "redraw_scale",
}  # fmt: skip
"""Parameters whose values a notebook puts in place of another one's, one after the other."""
STARTS = ("conditions", "depth_starts", "check_starts", "check_base_starts")
"""Parameters that name conditions."""
SEEDS = ("seeds", "few_seeds", "mask_seeds", "assign_seeds")
AMONG = ("tradeoff_seeds", "complete_seeds", "check_base_seeds")
"""Parameters that name some of a notebook's seeds."""
MAY_BE_EMPTY = (
    "subtasks", "tasks", "check_base_seeds", "inherit", "densities", "objectives", "transplants",
    "transplant_densities", "transplant_families",
)  # fmt: skip


def check(machine: Machine, parameters: Mapping[str, Any]) -> None:
    """All that can be known to be wrong with a notebook's parameters before it trains anything.

    Every spec of its stages is made that it has parameters for, with each value of those in :data:`VARIED`, and the
    pairs of the first seed are drawn. What depends on what is found, such as a complement that has no room, is not
    known yet.

    Raises
    ------
    ValueError
        Naming the parameter, its value and what is allowed.
    """
    for name, value in parameters.items():
        if isinstance(value, list) and not value and name not in MAY_BE_EMPTY:
            raise ValueError(f"{name} is empty: expected at least one value")
    for name in ("densities", "transplant_densities"):
        if 0 in parameters.get(name, []):
            raise ValueError(f"{name} = {parameters[name]}: expected shares of the weights above 0")
    seeds = _seeds(parameters)
    _check_chain(machine, parameters, seeds, {})
    for name, of in VARIED.items():
        if name in parameters:
            values = parameters[name] if isinstance(parameters[name], list) else [parameters[name]]
            for value in values:
                _check_chain(machine, {**parameters, of: value}, seeds, {of: name})


def _seeds(parameters: Mapping[str, Any]) -> Sequence[int]:
    """The seeds of the chains; ``ValueError`` where one is none, or where some are to be taken that are not there."""
    for name in (*SEEDS, *AMONG):
        for seed in parameters.get(name, []):
            with told_by({"seed": name}):
                derive(seed)
    seeds: Sequence[int] = next((parameters[name] for name in SEEDS if name in parameters), [0])
    for name in AMONG:
        if parameters.get(name) and not set(parameters[name]) & set(seeds):
            raise ValueError(f"{name} = {parameters[name]}: expected at least one of the seeds {list(seeds)}")
    return seeds


def _check_chain(
    machine: Machine, parameters: Mapping[str, Any], seeds: Sequence[int], instead: Mapping[str, str]
) -> None:
    """``ValueError`` for the settings of one chain; ``instead`` says by which other name a parameter was given."""

    def named(names: Mapping[str, str]) -> contextlib.AbstractContextManager[None]:
        return told_by({setting: instead.get(name, name) for setting, name in sayers(names, parameters).items()})

    if not _has(BASE, parameters):  # n_layers are varied
        return
    device = machine.device.split(":")[0]
    with named(BASE | BASE_OPTIONAL):
        base = Base(**_settings(BASE, BASE_OPTIONAL, machine, parameters), device=device, seed=seeds[0])
        stages.check_memory(base, machine)
        base.split()
    if not _has(SEARCH, parameters):
        return
    with named(BASE | SEARCH | SEARCH_OPTIONAL):
        source = Search(**_settings(SEARCH, SEARCH_OPTIONAL, machine, parameters), base=base)
        stages.check_memory(source, machine)
        source.split()
    if not _has(TRANSFER, parameters):
        return
    moves = transfer(machine, parameters)
    with named(BASE | SEARCH | TRANSFER):  # before the samples are drawn
        sizes = {name: moves[name] for name in ("ambiguous", "steps", "batch")}
        stages.check_memory(
            Transfer(source=source, **sizes, n_disambiguation=max(moves["n_disambiguation"])), machine
        )  # fmt: skip
    candidates = moves.pop("candidates") if "task" not in instead else []  # those are of the first task
    with told_by({"computation": "candidates"}):
        for text in candidates:
            Computation.parse(text)
    epochs = moves.get("epochs")
    steps = {"steps": f"transfer_epochs = {epochs}, so steps"} if epochs else {}
    for name in [name for name in STARTS if name in parameters] or [""]:
        own = moves | ({"conditions": parameters[name]} if name else {})
        own |= {"draws": parameters["draws"]} if "draws" in parameters else {}
        with named(BASE | SEARCH | TRANSFER | OPTIONAL | {"conditions": name or "conditions", "draws": "draws"}):
            runs = stages.planned([source], **{**own, "candidates": candidates})
        with named(BASE | SEARCH | TRANSFER), told_by(steps):
            for _, run in runs:
                stages.check_memory(run, machine)


def _has(names: Mapping[str, str], parameters: Mapping[str, Any]) -> bool:
    return sayers(names, parameters).keys() == names.keys()


def base(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.arithmetic.stages.base_models`, after a :func:`check` of the parameters."""
    given = changed(parameters, changes, BASE | BASE_OPTIONAL)
    found = _settings(BASE, BASE_OPTIONAL, machine, given)
    # Not n_layer where a notebook has n_layers: every value of these is checked, under this name.
    check(machine, {**parameters, **{name: value for name, value in changes.items() if name in parameters}})
    return found


def search(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.arithmetic.stages.subnetworks`.

    A family that has a rate of its own among the parameters, ``hard_concrete_lr`` for instance, is searched with it, in
    place of ``discovery_lr``.
    """
    given = changed(parameters, changes, SEARCH | SEARCH_OPTIONAL)
    own = f"{given.get('mask_family')}_lr"
    if own in given and "discovery_lr" not in changes:
        given["discovery_lr"] = given[own]
    return _settings(SEARCH, SEARCH_OPTIONAL, machine, given)


def transfer(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.arithmetic.stages.transfers`.

    With ``transfer_epochs`` a run that has reached an accuracy of 1 stops, which changes
    no result, and a ``transfer_clip`` of 0 means that gradients are not clipped.
    """
    given = changed(parameters, changes, TRANSFER | OPTIONAL)
    found = _settings(TRANSFER, OPTIONAL, machine, given)
    return found | {"clip": found["clip"] or None, "target": 1.0 if found.get("epochs") else None}


def _settings(
    names: Mapping[str, str], optional: Mapping[str, str], machine: Machine, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What the names stand for, and the optional ones that are given."""
    some = sayers(optional, given)
    found = settings({**names, **some}, given)
    return found | {"dtype": machine.dtype(found["dtype"])}
