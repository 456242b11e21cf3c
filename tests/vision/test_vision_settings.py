"""Every parameter of the vision notebooks reaches the setting that it stands for."""

import ast
import dataclasses
import inspect
import re
import runpy
from pathlib import Path

import pytest

from companion.lab.make import Machine
from companion.lab.runner import parameters_of, resolve
from companion.vision import pictures, settings
from companion.vision.specs import Base, Head, Row, Search

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "10_shape_transfer.ipynb"


@pytest.fixture
def seen():
    return {name: ast.literal_eval(entry["default"]) for name, entry in parameters_of(NOTEBOOK).items()}


@pytest.fixture
def machine(tmp_path):
    return Machine.open(store=str(tmp_path))


def test_drawn_pictures_where_no_folder_is_named(seen):
    changes = {
        "pooled_pictures": 123,
        "flat_share": 0.5,
        "pretraining_classes": "cues",
        "shape_textures": 2,
        "object_turn": 45,
    }
    data = settings.data({**seen, **changes})
    assert data["discovery"] == 123
    assert data["flat"] == 0.5
    assert (data["classes"], data["textures"], data["turn"]) == ("cues", 2, 45)
    assert set(data) == set(inspect.signature(pictures.scenes).parameters)


def test_photographs_where_a_folder_is_named(seen, monkeypatch):
    given, wanted = {}, set(inspect.signature(pictures.photographs).parameters)
    monkeypatch.setattr(settings, "photographs", lambda **named: given.update(named))
    settings.data({**seen, "ordinary_folder": "a", "mean_pooled_folder": "b", "conflict_folder": "c"})
    assert (given["ordinary"], given["mean_pooled"], given["conflict"], given["silhouette"]) == ("a", "b", "c", "")
    assert set(given) == wanted


def test_classifiers_by_name(seen, machine):
    small = settings.model({**seen, "resnet_width": 24})
    assert small["resnet"]["width"] == 24
    assert set(settings.model({**seen, "classifier": "vit"})["vit"]) == {"size", "patch", "width", "layers", "stem"}
    named = {**seen, "classifier": "torchvision:resnet18", "classifier_weights": "w.pth", "pretraining_steps": 0}
    other = settings.model(named)
    assert other == {"pretrained": {"source": "torchvision:resnet18", "weights": "w.pth"}}
    assert settings.untrained(machine, named)["model"] == {"untrained": other["pretrained"]}
    assert settings.untrained(machine, {**seen, "resnet_width": 24})["model"] == small
    assert settings.untrained(machine, seen)["steps"] == 0


@pytest.mark.parametrize(
    ("stage", "spec", "elsewhere"),
    [
        ("base", Base, {"device", "code", "weight_decay", "every"}),
        ("untrained", Base, {"device", "code", "weight_decay", "every"}),
        ("head", Head, {"base", "on", "batch", "lr", "weight_decay"}),
        ("search", Search, {"headed", "final_temperature", "stages", "every"}),
        ("transfer", Row, {"condition", "source", "before", "lr", "weighted"}),
    ],
)
def test_every_setting_of_a_stage_is_given_or_has_its_default(stage, spec, elsewhere, seen, machine):
    given = set(getattr(settings, stage)(machine, seen))
    of_the_stage = {"conditions", "rates"} if spec is Row else set()
    assert given == {field.name for field in dataclasses.fields(spec)} - elsewhere | of_the_stage


def test_a_parameter_reaches_its_setting_and_a_change_wins(seen, machine):
    assert settings.search(machine, seen)["lr"] == seen["search_lr"]
    assert settings.search(machine, seen, search_logit=-0.1)["initial_logit"] == -0.1
    assert settings.base(machine, seen)["lr"] == seen["pretraining_lr"]
    assert settings.base(machine, seen, picture_size=48)["data"]["size"] == 48
    assert settings.head(machine, seen) == {"steps": seen["head_steps"]}
    assert settings.transfer(machine, seen, row_rates={"scratch": 0.5})["rates"] == {"scratch": 0.5}
    with pytest.raises(ValueError, match="changes: 'logit' is no parameter"):
        settings.search(machine, seen, logit=-0.1)


def test_missing_parameter_is_named(seen, machine):
    del seen["search_lr"]
    with pytest.raises(ValueError, match="parameters: search_lr are missing"):
        settings.search(machine, seen)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"training_pictures": 0}, "training_pictures = 0"),
        ({"pooled_pictures": 400}, "pooled_pictures = 400: expected at most training_pictures = 320"),
        ({"picture_size": 3}, "picture_size = 3"),
        ({"shape_textures": 17}, "shape_textures = 17: expected an integer from 1 to 16"),
        (
            {"pretraining_classes": "shapes"},
            "pretraining_classes = 'shapes': expected pairs, pairs and shapes, or cues",
        ),
        ({"object_turn": 200.0}, "object_turn = 200.0: expected degrees from 0 to 180"),
        ({"evaluation_pictures": -1}, "evaluation_pictures = -1"),
        ({"vision_seeds": [0, -1]}, "vision_seeds = -1"),
        ({"vision_seeds": []}, "vision_seeds is empty"),
        ({"resnet_width": 0}, "resnet_width = 0"),
        (
            {"classifier": "vit", "vit_patch": 5, "vit_stem": False},
            "picture_size = 32 is not a multiple of vit_patch = 5",
        ),
        ({"pretraining_lr": 0.0}, "pretraining_lr = 0.0"),
        ({"vision_batch": 63, "pieces": 2}, "vision_batch = 63 is not a multiple of pieces = 2"),
        ({"head_steps": 0}, "head_steps = 0"),
        ({"search_steps": 0}, "search_steps = 0"),
        ({"search_penalty": -1.0}, "search_penalty = -1.0"),
        ({"row_steps": 0}, "row_steps = 0"),
        ({"row_rates": [1e-3, -1.0]}, "row_rates = -1.0"),
        ({"row_rates": []}, "row_rates is empty"),
        ({"row_every": 0}, "row_every = 0"),
        ({"row_momentum": 1.0}, "row_momentum = 1.0"),
        ({"table_rows": ["scratch", "lottery"]}, "table_rows: 'lottery' does not exist; expected some of scratch"),
        ({"table_rows": []}, "table_rows is empty"),
    ],
)
def test_what_a_later_stage_needs_is_refused_before_the_first_one(seen, machine, wrong, message):
    assert settings.base(machine, seen)["steps"] == seen["pretraining_steps"]
    for first in (settings.base, settings.untrained):
        with pytest.raises(ValueError, match=re.escape(message)):
            first(machine, {**seen, **wrong})


def test_the_scales_are_those_whose_premise_was_tried():
    root = NOTEBOOK.parents[1]
    premise = runpy.run_path(str(root / "benchmarks" / "premise.py"))
    notebook = root / "notebooks" / "09_shape_subnetwork.ipynb"
    defaults = {name: ast.literal_eval(entry["default"]) for name, entry in parameters_of(notebook).items()}
    for scale in ("quick", "vit"):
        run = defaults | resolve(notebook, [root / "params" / f"{scale}.yaml"])
        tried = premise["FIRST"] | premise["TRIED"][scale][0]
        told = [name for name in tried if run["classifier"] == "resnet" or not name.startswith("resnet")]
        assert {name: run[name] for name in told} == {name: tried[name] for name in told}
    assert min(seed for _, seeds in premise["TRIED"].values() for seed in seeds) >= 1000
