"""From a notebook's parameters to the settings of the stages: the one place where a name meets its setting::

    bases = stages.base_models(machine, vision_seeds, **settings.base(machine, parameters))
    headed = stages.heads(machine, bases, **settings.head(machine, parameters))
    found = stages.subnetworks(machine, headed, **settings.search(machine, parameters))
    rows = stages.transfers(machine, found, others, **settings.transfer(machine, parameters))

``changes`` are put in place of parameters, by the parameters' names.

The first of these lines checks the parameters of all stages (:func:`check`): a notebook says what is wrong with its
last stage before it trains the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from companion.lab.make import Machine
from companion.lab.naming import changed, settings, told_by
from companion.vision.pictures import photographs, scenes
from companion.vision.specs import Base, Head, Row, Search
from companion.vision.starts import CONDITIONS
from sicore.seeding import derive
from sicore.training import check_counts

# Setting -> the parameter that says it.
SCENES = {
    "size": "picture_size", "pretraining": "pretraining_pictures", "training": "training_pictures",
    "discovery": "pooled_pictures", "evaluation": "evaluation_pictures", "flat": "flat_share", "imbalance": "imbalance",
    "classes": "pretraining_classes", "textures": "shape_textures", "turn": "object_turn",
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


def check(machine: Machine, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """All that can be known to be wrong with a notebook's parameters before it trains anything.

    Every spec of its stages is made that it has parameters for.

    Returns
    -------
    dict
        The settings of the first stage.

    Raises
    ------
    ValueError
        Naming the parameter, its value and what is allowed.
    """
    for name in ("vision_seeds", "table_rows", "row_rates"):
        if name in parameters and not parameters[name]:
            raise ValueError(f"{name} is empty: expected at least one value")
    seeds = parameters.get("vision_seeds", [0])
    with told_by({"seed": "vision_seeds"}):
        for seed in seeds:
            derive(seed)
    with told_by((PHOTOGRAPHS if parameters.get("ordinary_folder") else SCENES) | BASE):
        found = settings(BASE, parameters) | {"data": data(parameters), "model": model(parameters)}
        found["dtype"] = machine.dtype(found["dtype"])
        one = Base(**{**found, "data": {**found["data"], "seed": seeds[0]}})
    kind = next(iter(found["model"]))
    with told_by({"resnet": RESNET, "vit": VIT}.get(kind, {})):
        if kind in ("resnet", "vit"):
            one.build()
    if all(name in parameters for name in HEAD.values()):
        with told_by(HEAD):
            headed = Head(base=one, **head(machine, parameters))
    if all(name in parameters for name in (*HEAD.values(), *SEARCH.values())):
        with told_by(SEARCH):
            source = Search(headed=headed, **search(machine, parameters))
    if not all(name in parameters for name in (*HEAD.values(), *SEARCH.values(), *TRANSFER.values())):
        return found
    rows = transfer(machine, parameters)
    names, rates = rows.pop("conditions"), rows.pop("rates")
    if unknown := [name for name in names if name not in CONDITIONS]:
        raise ValueError(f"table_rows: {unknown[0]!r} does not exist; expected some of {', '.join(CONDITIONS)}")
    with told_by({"lr": "row_rates"} | TRANSFER):
        check_counts(steps=rows["steps"])
        for condition in (CONDITIONS[name] for name in names):
            for lr in rates.values() if isinstance(rates, Mapping) else rates:
                Row(condition=condition, source=source, lr=lr, **rows)
    return found


def base(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.vision.stages.base_models`, after a :func:`check` of the parameters."""
    return check(machine, changed(parameters, changes))


def untrained(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """As :func:`base`, for the same architecture without its training."""
    found = base(machine, parameters, **changes)
    kind = found["model"]
    return found | {"steps": 0, "model": {"untrained": kind["pretrained"]} if "pretrained" in kind else kind}


def head(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.vision.stages.heads`."""
    return settings(HEAD, changed(parameters, changes))


def search(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.vision.stages.subnetworks`."""
    return settings(SEARCH, changed(parameters, changes))


def transfer(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of :func:`companion.vision.stages.transfers`."""
    return settings(TRANSFER, changed(parameters, changes))


def data(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The data spec: drawn scenes, or photographs where a folder is named."""
    if not parameters["ordinary_folder"]:
        return scenes(**settings(SCENES, parameters))
    return photographs(**settings(PHOTOGRAPHS, parameters))


def model(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The model spec: a small network from scratch, or a pretrained one by its name."""
    name = parameters["classifier"]
    if name in ("resnet", "vit"):
        return {name: settings(RESNET if name == "resnet" else VIT, parameters)}
    return {"pretrained": {"source": name, "weights": parameters["classifier_weights"]}}
