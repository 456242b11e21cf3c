"""Every parameter of the chain reaches the argument that it stands for."""

import ast
import inspect
from pathlib import Path

import pytest

from companion import settings
from companion.arithmetic import stages as experiments
from companion.arithmetic.stages import Machine
from companion.lab.runner import parameters_of
from companion.vision import pictures
from companion.vision import stages as vision_experiments

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "04_depths.ipynb"
# Set by the notebook itself, or left at the paper's value.
ELSEWHERE = {
    "base_models": {"machine", "seeds", "weight_decay"},
    "subnetworks": {
        "machine", "bases", "final_temperature", "initial_logit", "skip_temperature", "weight_decay", "complete",
    },
    "transfers": {"machine", "found", "conditions", "inherit", "freeze", "draws"},
}  # fmt: skip


@pytest.fixture
def parameters():
    values = {name: ast.literal_eval(entry["default"]) for name, entry in parameters_of(NOTEBOOK).items()}
    return {**values, "n_layer": 2}


@pytest.fixture
def machine(tmp_path):
    return Machine.open(store=str(tmp_path))


@pytest.mark.parametrize(
    ("stage", "function"), [("base", "base_models"), ("discovery", "subnetworks"), ("transfer", "transfers")]
)
def test_every_argument_of_a_stage_is_given(stage, function, parameters, machine):
    given = getattr(settings, stage)(machine, parameters)
    wanted = set(inspect.signature(getattr(experiments, function)).parameters)
    assert set(given) == wanted - ELSEWHERE[function]


def test_a_parameter_reaches_its_argument_and_a_change_wins(parameters, machine):
    marked = {**parameters, "base_lr": 0.125, "subtask": "a^2", "transfer_batch": 17}
    assert settings.base(machine, marked)["lr"] == 0.125
    assert settings.discovery(machine, marked)["computation"] == "a^2"
    assert settings.transfer(machine, marked)["batch"] == 17
    assert settings.transfer(machine, marked, transfer_batch=3)["batch"] == 3


def test_no_clipping_and_the_early_end_follow_from_the_transfer_parameters(parameters, machine):
    assert settings.transfer(machine, parameters, transfer_clip=0.0)["clip"] is None
    assert settings.transfer(machine, parameters, transfer_clip=2.0)["clip"] == 2.0
    assert settings.transfer(machine, parameters, transfer_epochs=0)["target"] is None
    assert settings.transfer(machine, parameters, transfer_epochs=5)["target"] == 1.0


def test_missing_parameter_is_named(parameters, machine):
    del parameters["base_lr"]
    with pytest.raises(ValueError, match="parameters: base_lr are missing"):
        settings.base(machine, parameters)


# ---------------------------------------------------------------------------------------
# Vision


@pytest.fixture
def seen():
    path = NOTEBOOK.parent / "10_shape_transfer.ipynb"
    return {name: ast.literal_eval(entry["default"]) for name, entry in parameters_of(path).items()}


def test_drawn_pictures_where_no_folder_is_named(seen):
    data = settings.pictures({**seen, "pooled_pictures": 123, "flat_share": 0.5})
    assert data["discovery"] == 123
    assert data["flat"] == 0.5
    assert set(data) == set(inspect.signature(pictures.scenes).parameters)


def test_photographs_where_a_folder_is_named(seen, monkeypatch):
    given, wanted = {}, set(inspect.signature(pictures.photographs).parameters)
    monkeypatch.setattr(pictures, "photographs", lambda **named: given.update(named))
    settings.pictures({**seen, "ordinary_folder": "a", "mean_pooled_folder": "b", "conflict_folder": "c"})
    assert (given["ordinary"], given["mean_pooled"], given["conflict"], given["silhouette"]) == ("a", "b", "c", "")
    assert set(given) == wanted


def test_classifiers_by_name(seen):
    small = settings.classifier({**seen, "resnet_width": 24})
    assert small["resnet"]["width"] == 24
    assert set(settings.classifier({**seen, "classifier": "vit"})["vit"]) == {
        "size",
        "patch",
        "width",
        "layers",
        "stem",
    }
    other = settings.classifier({**seen, "classifier": "torchvision:resnet18", "classifier_weights": "w.pth"})
    assert other == {"pretrained": {"source": "torchvision:resnet18", "weights": "w.pth"}}
    named = {**seen, "classifier": "torchvision:resnet18", "classifier_weights": "w.pth"}
    assert settings.untrained(named)["model"] == {"untrained": other["pretrained"]}
    assert settings.untrained({**seen, "resnet_width": 24})["model"] == small
    assert settings.untrained(seen)["steps"] == 0


def test_stages_of_the_vision_chain_get_their_parameters(seen):
    # Bases and searches take their other arguments from the notebook, or keep their defaults.
    for given, function, elsewhere in (
        (settings.pretraining(seen), vision_experiments.base_models, {"machine", "seeds", "weight_decay", "every"}),
        (
            settings.search(seen), vision_experiments.subnetworks,
            {"machine", "headed", "final_temperature", "stages", "every"},
        ),
    ):  # fmt: skip
        assert set(given) == set(inspect.signature(function).parameters) - elsewhere
    assert settings.search(seen, search_logit=-0.1)["initial_logit"] == -0.1
    assert settings.search(seen)["lr"] == seen["search_lr"]
    assert settings.pretraining(seen)["lr"] == seen["pretraining_lr"]
