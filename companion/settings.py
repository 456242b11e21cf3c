"""From a notebook's parameters to the arguments of the experiment's stages.

The notebooks that repeat the paper's chain share the names of their parameters; here
each name meets the argument that it stands for, in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from companion.arithmetic.stages import Machine

_SHARED = {"p": "p", "numbers": "numbers", "n_embd": "n_embd", "n_head": "n_head"}
_EVALUATION = {"validation_pairs": "evaluation_pairs", "test_pairs": "evaluation_pairs"}

_BASE = {
    **_SHARED, **_EVALUATION, "n_layer": "n_layer", "computation": "base_computation", "train_pairs": "base_pairs",
    "steps": "base_steps", "limit": "base_limit", "batch": "base_batch", "lr": "base_lr", "dropout": "base_dropout",
    "clip": "clip", "all_positions": "base_all_positions", "every": "base_every", "target": "base_target",
}  # fmt: skip

_DISCOVERY = {
    **_EVALUATION, "computation": "subtask", "pairs": "discovery_pairs", "steps": "discovery_steps",
    "batch": "discovery_batch", "lr": "discovery_lr", "all_positions": "discovery_all_positions",
    "every": "discovery_every", "stages": "stages", "penalty": "penalty",
}  # fmt: skip

_TRANSFER = {
    **_EVALUATION, "computation": "task", "candidates": "candidates", "ambiguous": "ambiguous",
    "n_disambiguation": "n_disambiguation", "epochs": "transfer_epochs", "steps": "transfer_steps",
    "batch": "transfer_batch", "lr": "transfer_lr", "weight_decay": "transfer_weight_decay",
    "dropout": "transfer_dropout", "every": "transfer_every", "all_positions": "transfer_all_positions",
}  # fmt: skip


def base(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Arguments of :func:`companion.arithmetic.stages.base_models`; ``changes`` are put in place of parameters."""
    return _arguments(_BASE, machine, parameters, changes)


def discovery(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Arguments of :func:`companion.arithmetic.stages.subnetworks`."""
    return _arguments(_DISCOVERY, machine, parameters, changes)


def transfer(machine: Machine, parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Arguments of :func:`companion.arithmetic.stages.transfers`.

    With ``transfer_epochs`` a run that has reached an accuracy of 1 stops, which changes
    no result, and a ``transfer_clip`` of 0 means that gradients are not clipped.
    """
    given = {**parameters, **changes}
    more = {"clip": given["transfer_clip"] or None, "target": 1.0 if given["transfer_epochs"] else None}
    return _arguments(_TRANSFER, machine, parameters, changes) | more


def _arguments(
    names: Mapping[str, str], machine: Machine, parameters: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    given = {**parameters, **changes}
    missing = sorted({name for name in names.values() if name not in given})
    if missing:
        raise ValueError(f"parameters: {', '.join(missing)} are missing; a notebook of this chain has all of them")
    return {argument: given[name] for argument, name in names.items()} | {"dtype": machine.dtype(given["dtype"])}


def pictures(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The data spec of the vision notebooks: drawn scenes, or photographs where a folder is named."""
    from companion.vision.pictures import photographs, scenes

    if not parameters["ordinary_folder"]:
        names = {
            "pretraining": "pretraining",
            "training": "training",
            "discovery": "pooled",
            "evaluation": "evaluation",
        }
        counts = {name: parameters[f"{start}_pictures"] for name, start in names.items()}
        return scenes(
            size=parameters["picture_size"], flat=parameters["flat_share"], imbalance=parameters["imbalance"], **counts
        )
    folders = {kind: parameters[f"{kind}_folder"] for kind in ("ordinary", "mean_pooled", "conflict", "silhouette")}
    folders["skip"] = parameters["skip_file"]
    return photographs(**folders, size=parameters["picture_size"], evaluation=parameters["evaluation_pictures"])


def classifier(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The model spec of the vision notebooks: a small network from scratch, or a pretrained one by its name."""
    name = parameters["classifier"]
    if name == "resnet":
        sizes = {"width": "resnet_width", "depths": "resnet_depths", "stem": "resnet_stem", "stride": "resnet_stride"}
        return {"resnet": {size: parameters[parameter] for size, parameter in sizes.items()}}
    if name == "vit":
        sizes = {"patch": "vit_patch", "width": "vit_width", "layers": "vit_layers", "stem": "vit_stem"}
        sizes["size"] = "picture_size"
        return {"vit": {size: parameters[parameter] for size, parameter in sizes.items()}}
    return {"pretrained": {"source": name, "weights": parameters["classifier_weights"]}}


def pretraining(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :func:`companion.vision.stages.base_models`."""
    return {
        "data": pictures(parameters), "model": classifier(parameters), "steps": parameters["pretraining_steps"],
        "batch": parameters["vision_batch"], "lr": parameters["pretraining_lr"], "dtype": parameters["dtype"],
        "pieces": parameters["pieces"],
    }  # fmt: skip


def untrained(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As :func:`pretraining`, for the same architecture without its training."""
    given = pretraining(parameters)
    model = given["model"]
    return given | {"model": {"untrained": model["pretrained"]} if "pretrained" in model else model, "steps": 0}


def search(parameters: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Arguments of :func:`companion.vision.stages.subnetworks`; ``changes`` are put in place of parameters."""
    names = {
        "steps": "search_steps", "batch": "vision_batch", "lr": "search_lr", "penalty": "search_penalty",
        "initial_logit": "search_logit", "initial_temperature": "search_temperature",
    }  # fmt: skip
    given = {**parameters, **changes}
    return {argument: given[name] for argument, name in names.items()}
