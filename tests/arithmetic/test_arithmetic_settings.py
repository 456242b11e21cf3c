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
    Search: {
        "base",
        "final_temperature",
        "initial_logit",
        "complete",
        "family",
        "density",
        "redraw",
        "redraw_only",
        "redraw_scale",
        "redraw_still",
        "dropout",
        "completeness",
        "to_base",
    },
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
    + [(number, ["base", "search", "transfer"]) for number in ("03", "04", "05", "06", "07", "11", "13", "15")],
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


def test_a_family_is_searched_with_its_own_rate_unless_another_is_asked_for(machine):
    given = defaults("13")
    assert settings.search(machine, given)["lr"] == given["discovery_lr"]
    for family in ("hard_concrete", "gaussian_gate", "straight_through"):
        assert (
            settings.search(machine, given, mask_family=family)["lr"] == given[f"{family}_lr"] != given["discovery_lr"]
        )
    assert settings.search(machine, given, mask_family="magnitude")["lr"] == given["discovery_lr"]
    assert settings.search(machine, given, mask_family="hard_concrete", discovery_lr=0.7)["lr"] == 0.7


def test_a_parameter_reaches_its_setting_and_a_change_wins(parameters, machine):
    marked = {**parameters, "base_lr": 0.125, "subtask": "a^2", "transfer_batch": 17}
    assert settings.base(machine, marked)["lr"] == 0.125
    assert settings.search(machine, marked)["computation"] == "a^2"
    assert settings.transfer(machine, marked)["batch"] == 17
    assert settings.transfer(machine, marked, transfer_batch=3)["batch"] == 3


def test_what_only_some_notebooks_have_reaches_its_setting_too(parameters, machine):
    marked = {**parameters, "base_patience": 4, "discovery_weight_decay": 0.01, "discovery_skip_temperature": True}
    assert settings.base(machine, marked)["patience"] == 4
    searched = settings.search(machine, marked)
    assert (searched["weight_decay"], searched["skip_temperature"]) == (0.01, True)
    plain = {**defaults("03"), "n_layer": 2}
    assert "patience" not in settings.base(machine, plain)
    assert settings.base(machine, plain, base_patience=4)["patience"] == 4
    assert not {"weight_decay", "skip_temperature"} & set(settings.search(machine, plain))
    with pytest.raises(ValueError, match="base_patience = -1"):
        settings.base(machine, {**marked, "base_patience": -1})
    with pytest.raises(ValueError, match=r"discovery_weight_decay = -0\.5"):
        settings.base(machine, {**marked, "discovery_weight_decay": -0.5})


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


# What stays in a test of one parameter: the first notebook that has it, as it means the same in all.
NUMBERS: dict[str, tuple[str, str]] = {}
for path in sorted(NOTEBOOKS.glob("*.ipynb")):
    if "base_lr" in (found := parameters_of(path)):  # of the arithmetic experiment
        for name, entry in found.items():
            if entry["type"] in ("int", "float", "list[int]", "list[float]"):
                NUMBERS.setdefault(name, (path.stem, entry["type"]))
HUGE = {"int": 10**12, "float": 1e300}
ZERO = {
    "workers", "stack", "seeds", "few_seeds", "tradeoff_seeds", "complete_seeds", "check_base_seeds", "draws",
    "base_dropout", "base_target", "base_limit", "penalty", "penalties", "complete_penalty", "n_disambiguation",
    "few_counts", "transfer_weight_decay", "transfer_dropout", "transfer_epochs", "transfer_clip", "base_patience",
    "discovery_weight_decay", "rest_weight", "search_dropout", "mask_seeds", "mask_counts", "assign_seeds",
    "assign_penalty",
    "transplant_density",
}  # fmt: skip
"""A value of 0 is meant."""
ANY_SIZE = {
    "seeds", "few_seeds", "draws", "workers", "stack", "stages", "clip", "transfer_clip", "base_lr", "discovery_lr",
    "transfer_lr", "base_every", "discovery_every", "transfer_every", "penalty", "penalties", "complete_penalty",
    "transfer_weight_decay", "base_patience", "discovery_weight_decay", "rest_weight",
    "mask_seeds", "assign_seeds", "assign_penalty", "assign_lr",
    "assign_deviation", "hard_concrete_lr", "gaussian_gate_lr", "straight_through_lr",
}  # fmt: skip
"""Without an upper end: a search or a training may come to nothing, and says so."""


def first_call(machine_folder, given):
    """What a notebook does before it trains anything."""
    names = ("device", "workers", "stack")
    machine = Machine.open(store=str(machine_folder), **{name: given[name] for name in names})
    return settings.base(machine, given, **({} if "n_layer" in given else {"n_layer": (given["n_layers"] or [2])[0]}))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_range_is_refused_by_its_parameters_name_before_any_training(tmp_path, name):
    stem, kind = NUMBERS[name]
    given = defaults(stem[:2])
    assert first_call(tmp_path, given)["p"] == given["p"]
    inner = kind.removeprefix("list[").removesuffix("]")
    cases = [(-1, True), (0, name not in ZERO), (HUGE[inner], name not in ANY_SIZE)]
    if kind != inner:
        cases.append((None, name not in settings.MAY_BE_EMPTY))
    for value, refused in cases:
        one = value if kind == inner else [] if value is None else [value]
        if refused:
            with pytest.raises(ValueError, match=rf"\b{name}( = | is empty)"):
                first_call(tmp_path, {**given, name: one})
        else:
            first_call(tmp_path, {**given, name: one})


@pytest.mark.parametrize(
    ("number", "wrong", "message"),
    [
        ("01", {"evaluation_pairs": 10**6}, "evaluation_pairs = 1000000"),
        ("02", {"penalties": [1e-6, -1.0]}, "penalties = -1.0"),
        ("02", {"tradeoff_seeds": [7]}, r"tradeoff_seeds = \[7\]: expected at least one of the seeds \[0, 1\]"),
        ("03", {"conditions": ["subnetwork", "lottery"]}, "conditions: 'lottery' does not exist; expected some of sub"),
        ("03", {"inherit": ["heads"]}, "inherit: 'heads' does not exist; expected some of embeddings, norms"),
        ("03", {"n_disambiguation": [0, 2000]}, "n_disambiguation = 2000: only 1360 pairs"),
        ("03", {"candidates": ["a^2 + ab", "c"]}, "candidates = 'c'"),
        ("03", {"candidates": ["ab", "ba"]}, r"candidates = \['ab', 'ba'\]: no pair tells them apart"),
        ("03", {"task": "c"}, "task = 'c'"),
        ("04", {"depth_starts": ["complete_sampled_alone"]}, "depth_starts: 'complete_sampled_alone' needs a search"),
        ("04", {"n_layers": [1, 0]}, "n_layers = 0: expected an integer of 1 or more"),
        ("04", {"n_head": 5}, "n_embd = 64 is not a multiple of n_head = 5"),
        ("05", {"complete_penalty": -1.0}, "complete_penalty = -1.0"),
        ("05", {"complete_seeds": [5]}, r"complete_seeds = \[5\]: expected at least one of the seeds \[0, 1\]"),
        ("06", {"subtasks": ["a^2", "c"]}, "subtasks = 'c'"),
        ("06", {"shared_tasks": ["c"]}, "shared_tasks = 'c'"),
        ("06", {"shared_tasks": []}, "shared_tasks is empty"),
        ("06", {"tasks": ["c"]}, "tasks = 'c'"),
        ("07", {"check_base_starts": ["x"]}, "check_base_starts: 'x' does not exist"),
        ("07", {"check_starts": []}, "check_starts is empty"),
        ("07", {"draws": [0, -1]}, r"draws = \[0, -1\]"),
        ("11", {"few_counts": [2000]}, "few_counts = 2000: only 1360 pairs"),
    ],
)
def test_what_a_later_stage_needs_is_refused_before_the_first_one(tmp_path, number, wrong, message):
    with pytest.raises(ValueError, match=message):
        first_call(tmp_path, {**defaults(number), **wrong})


def test_lists_that_may_be_empty_are_taken(tmp_path):
    for number, names in (("06", ["tasks", "subtasks"]), ("07", ["check_base_seeds"]), ("03", ["inherit"])):
        assert first_call(tmp_path, {**defaults(number), **{name: [] for name in names}})


def test_missing_parameter_is_named(parameters, machine):
    del parameters["base_lr"]
    with pytest.raises(ValueError, match="parameters: base_lr are missing"):
        settings.base(machine, parameters)
