"""From a notebook's parameters to the settings of the stages: the one place where a name meets its setting::

    bases = stages.base_models(machine, vision_seeds, **settings.base(machine, parameters))
    headed = stages.heads(machine, bases, **settings.head(machine, parameters))
    found = stages.subnetworks(machine, headed, **settings.search(machine, parameters))
    rows = stages.transfers(machine, found, others, **settings.transfer(machine, parameters))

``changes`` are put in place of parameters, by the parameters' names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from companion.lab.make import Machine
from companion.vision.pictures import photographs, scenes

# Setting -> the parameter that says it.
SCENES = {
    "size": "picture_size", "pretraining": "pretraining_pictures", "training": "training_pictures",
    "discovery": "pooled_pictures", "evaluation": "evaluation_pictures", "flat": "flat_share", "imbalance": "imbalance",
}  # fmt: skip
PHOTOGRAPHS = {
    "ordinary": "ordinary_folder", "mean_pooled": "mean_pooled_folder", "conflict": "conflict_folder",
    "silhouette": "silhouette_folder", "skip": "skip_file", "size": "picture_size", "evaluation": "evaluation_pictures",
}  # fmt: skip
RESNET = {"width": "resnet_width", "depths": "resnet_depths", "stem": "resnet_stem", "stride": "resnet_stride"}
VIT = {"size": "picture_size", "patch": "vit_patch", "width": "vit_width", "layers": "vit_layers", "stem": "vit_stem"}
BASE = {
    "steps": "pretraining_steps", "batch": "vision_batch", "lr": "pretraining_lr", "dtype": "dtype", "pieces": "pieces",
}  # fmt: skip
HEAD = {"steps": "head_steps"}
SEARCH = {
    "steps": "search_steps", "batch": "vision_batch", "lr": "search_lr", "penalty": "search_penalty",
    "initial_logit": "search_logit", "initial_temperature": "search_temperature",
}  # fmt: skip
TRANSFER = {
    "conditions": "table_rows", "rates": "row_rates", "steps": "row_steps", "batch": "vision_batch",
    "weight_decay": "row_weight_decay", "momentum": "row_momentum", "every": "row_every",
}  # fmt: skip


def base(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.vision.stages.base_models`."""
    given = _changed(parameters, changes)
    found = _settings(BASE, given)
    return found | {"data": data(given), "model": model(given), "dtype": machine.dtype(found["dtype"])}


def untrained(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """As :func:`base`, for the same architecture without its training."""
    found = base(machine, parameters, **changes)
    kind = found["model"]
    return found | {"steps": 0, "model": {"untrained": kind["pretrained"]} if "pretrained" in kind else kind}


def head(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.vision.stages.heads`."""
    return _settings(HEAD, _changed(parameters, changes))


def search(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.vision.stages.subnetworks`."""
    return _settings(SEARCH, _changed(parameters, changes))


def transfer(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.vision.stages.transfers`."""
    return _settings(TRANSFER, _changed(parameters, changes))


def data(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The data spec: drawn scenes, or photographs where a folder is named."""
    if not parameters["ordinary_folder"]:
        return scenes(**_settings(SCENES, parameters))
    return photographs(**_settings(PHOTOGRAPHS, parameters))


def model(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The model spec: a small network from scratch, or a pretrained one by its name."""
    name = parameters["classifier"]
    if name in ("resnet", "vit"):
        return {name: _settings(RESNET if name == "resnet" else VIT, parameters)}
    return {"pretrained": {"source": name, "weights": parameters["classifier_weights"]}}


def _changed(parameters: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := [name for name in changes if name not in parameters]:
        raise ValueError(f"changes: {unknown[0]!r} is no parameter; expected some of {', '.join(sorted(parameters))}")
    return {**parameters, **changes}


def _settings(names: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    missing = sorted({name for name in names.values() if name not in given})
    if missing:
        raise ValueError(f"parameters: {', '.join(missing)} are missing; a notebook of this chain has all of them")
    return {setting: given[name] for setting, name in names.items()}
