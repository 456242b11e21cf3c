"""Every parameter of the chain reaches the setting that it stands for."""

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest

from companion.arithmetic import settings, stages
from companion.arithmetic.specs import Base, Search, Transfer
from companion.lab.make import Machine
from companion.lab.runner import parameters_of

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
# Set by the stage or by the notebook itself, or left at the paper's value.
ELSEWHERE = {
    Base: {"device", "stack", "seed", "weight_decay"},
    Search: {"base", "final_temperature", "initial_logit", "skip_temperature", "weight_decay", "complete"},
    Transfer: {"source", "copied", "behaviour", "inherit", "freeze", "draw"},
}
OF_THE_STAGE = {"candidates", "epochs"}


def defaults(number):
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    return {name: ast.literal_eval(entry["default"]) for name, entry in parameters_of(path).items()}


@pytest.fixture
def parameters():
    return {**defaults("04"), "n_layer": 2}


@pytest.fixture
def machine(tmp_path):
    return Machine.open(store=str(tmp_path))


@pytest.mark.parametrize(("stage", "spec"), [("base", Base), ("search", Search), ("transfer", Transfer)])
def test_every_setting_of_a_stage_is_given(stage, spec, parameters, machine):
    given = set(getattr(settings, stage)(machine, parameters))
    wanted = {field.name for field in dataclasses.fields(spec)} - ELSEWHERE[spec]
    assert given == wanted | (OF_THE_STAGE if spec is Transfer else set())


@pytest.mark.parametrize(
    ("number", "chain"), [("01", ["base"]), ("02", ["base", "search"])]
    + [(number, ["base", "search", "transfer"]) for number in ("03", "04", "05", "06", "07", "11")],
)  # fmt: skip
def test_the_parameters_of_every_notebook_make_the_specs(number, chain, machine):
    parameters = {"n_layer": 2, **defaults(number)}
    base = Base(**settings.base(machine, parameters))
    if "search" in chain:
        source = Search(**settings.search(machine, parameters), base=base)
    if "transfer" in chain:
        given = settings.transfer(machine, parameters)
        known = {*inspect.signature(stages.planned).parameters, "candidates"}
        assert Transfer(source=source, **{name: value for name, value in given.items() if name not in known})
        assert set(given) <= known | {field.name for field in dataclasses.fields(Transfer)}


def test_a_parameter_reaches_its_setting_and_a_change_wins(parameters, machine):
    marked = {**parameters, "base_lr": 0.125, "subtask": "a^2", "transfer_batch": 17}
    assert settings.base(machine, marked)["lr"] == 0.125
    assert settings.search(machine, marked)["computation"] == "a^2"
    assert settings.transfer(machine, marked)["batch"] == 17
    assert settings.transfer(machine, marked, transfer_batch=3)["batch"] == 3


def test_a_change_of_what_is_no_parameter_is_named(parameters, machine):
    with pytest.raises(ValueError, match=r"changes: 'batch' is no parameter; expected some of .*transfer_batch"):
        settings.transfer(machine, parameters, batch=3)


def test_no_clipping_and_the_early_end_follow_from_the_transfer_parameters(parameters, machine):
    assert settings.transfer(machine, parameters, transfer_clip=0.0)["clip"] is None
    assert settings.transfer(machine, parameters, transfer_clip=2.0)["clip"] == 2.0
    assert settings.transfer(machine, parameters, transfer_epochs=0)["target"] is None
    assert settings.transfer(machine, parameters, transfer_epochs=5)["target"] == 1.0


def test_what_a_notebook_does_not_say_is_left_at_its_default(parameters, machine):
    for name in ("transfer_epochs", "transfer_all_positions", "transfer_clip", "n_disambiguation"):
        del parameters[name]
    given = settings.transfer(machine, {**parameters, "clip": 0.5, "few_counts": [7]})
    assert (given["clip"], given["target"], given["n_disambiguation"]) == (0.5, None, [7])
    assert not {"epochs", "all_positions", "conditions", "inherit", "freeze"} & set(given)
    given = settings.transfer(
        machine, {**parameters, "few_counts": [7]} | {"conditions": ["subnetwork"], "freeze": False}
    )
    assert (given["conditions"], given["freeze"]) == (["subnetwork"], False)


def test_missing_parameter_is_named(parameters, machine):
    del parameters["base_lr"]
    with pytest.raises(ValueError, match="parameters: base_lr are missing"):
        settings.base(machine, parameters)
