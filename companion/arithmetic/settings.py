"""From a notebook's parameters to the settings of the three stages: the one place where a name meets its setting::

    bases = stages.base_models(machine, seeds, **settings.base(machine, parameters))
    found = stages.subnetworks(machine, bases, **settings.search(machine, parameters))
    table = stages.transfers(machine, found, **settings.transfer(machine, parameters))

``changes`` are put in place of parameters, by the parameters' names: ``settings.base(machine, parameters, n_layer=4)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from companion.lab.make import Machine

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
    "computation": "task", "candidates": "candidates", "n_disambiguation": "n_disambiguation few_counts",
    "ambiguous": "ambiguous", "validation_pairs": "evaluation_pairs", "test_pairs": "evaluation_pairs",
    "steps": "transfer_steps", "batch": "transfer_batch", "lr": "transfer_lr", "weight_decay": "transfer_weight_decay",
    "dropout": "transfer_dropout", "clip": "transfer_clip clip", "every": "transfer_every", "dtype": "dtype",
}  # fmt: skip
OPTIONAL = {
    "conditions": "conditions", "epochs": "transfer_epochs", "all_positions": "transfer_all_positions",
    "inherit": "inherit", "freeze": "freeze",
}  # fmt: skip
"""Settings of a transfer that stay at their defaults where a notebook has no such parameter."""


def base(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.arithmetic.stages.base_models`."""
    return _settings(BASE, machine, _changed(parameters, changes, BASE))


def search(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.arithmetic.stages.subnetworks`."""
    return _settings(SEARCH, machine, _changed(parameters, changes, SEARCH))


def transfer(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.arithmetic.stages.transfers`.

    With ``transfer_epochs`` a run that has reached an accuracy of 1 stops, which changes
    no result, and a ``transfer_clip`` of 0 means that gradients are not clipped.
    """
    given = _changed(parameters, changes, TRANSFER | OPTIONAL)
    some = {setting: name for setting, name in OPTIONAL.items() if name in given}
    found = _settings(TRANSFER | some, machine, given)
    return found | {"clip": found["clip"] or None, "target": 1.0 if found.get("epochs") else None}


def _changed(parameters: Mapping[str, Any], changes: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    known = {*parameters, *" ".join(names.values()).split()}
    if unknown := [name for name in changes if name not in known]:
        raise ValueError(f"changes: {unknown[0]!r} is no parameter; expected some of {', '.join(sorted(known))}")
    return {**parameters, **changes}


def _settings(names: Mapping[str, str], machine: Machine, given: Mapping[str, Any]) -> dict[str, Any]:
    missing = sorted({name for name in names.values() if not any(one in given for one in name.split())})
    if missing:
        raise ValueError(
            f"parameters: {', '.join(name.replace(' ', ' or ') for name in missing)} are missing; "
            "a notebook of this chain has all of them"
        )
    found = {setting: given[next(one for one in name.split() if one in given)] for setting, name in names.items()}
    return found | {"dtype": machine.dtype(found["dtype"])}
