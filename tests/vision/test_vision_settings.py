"""Every parameter of the vision notebooks reaches the setting that it stands for."""

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest

from companion.lab.make import Machine
from companion.lab.runner import parameters_of
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
    data = settings.data({**seen, "pooled_pictures": 123, "flat_share": 0.5})
    assert data["discovery"] == 123
    assert data["flat"] == 0.5
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
    named = {**seen, "classifier": "torchvision:resnet18", "classifier_weights": "w.pth"}
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
