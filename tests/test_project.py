"""The repository itself: dependencies agree, notebooks are clean, parameters are known."""

import ast
import json
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from companion.lab import tables
from companion.lab.runner import parameters_of, resolve

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WITH_TABLES = [path for path in NOTEBOOKS if path.stem in tables.names("quick", root=ROOT / "results")]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GONE = ("merge", "data_parallel")
"""Parameters of earlier notebooks that changed no result."""
LOCKED = PYPROJECT["dependency-groups"]["locked"]


def test_environment_yml_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == [*LOCKED, "--editable ."]
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert python.removeprefix("python=") in PYPROJECT["project"]["requires-python"]


def test_every_dependency_has_one_locked_version_inside_its_range():
    locked = {}
    for line in LOCKED:
        requirement = Requirement(line)
        (only,) = requirement.specifier
        assert only.operator == "==", line
        assert requirement.name.lower() not in locked, line
        locked[requirement.name.lower()] = only.version
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    for line in [*PYPROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(line)
        if requirement.name != PYPROJECT["project"]["name"]:  # an extra that brings another one
            assert requirement.specifier.contains(locked[requirement.name.lower()]), line


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_base_model",
        "02_discovery",
        "03_transfer",
        "04_depths",
        "05_causes",
        "06_variants",
        "07_checks",
        "08_scenes",
        "09_shape_subnetwork",
        "10_shape_transfer",
        "11_audit",
        "12_published",
        "13_masks",
        "14_mixed",
        "15_transplant",
        "16_sharing",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_clean_source(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code), "clear the outputs"
    assert any("assert " in "".join(cell["source"]) for cell in code[-1:]), "the last code cell asserts what must hold"
    assert cells[0]["cell_type"] == "markdown"
    assert "**The question.**" in "".join(cells[0]["source"])
    for cell in code:
        if "figure = " in "".join(cell["source"]):
            mystnb = cell["metadata"]["mystnb"]
            assert len(mystnb["image"]["alt"]) > 60
            assert len(mystnb["figure"]["caption"]) > 60


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_parameters_are_typed_explained_and_smoke_by_default(path):
    found = parameters_of(path)
    assert found["scale"]["default"] == "'smoke'"
    for name, entry in found.items():
        assert entry["type"].split("[")[0] in ("int", "float", "str", "bool", "list"), name
        assert entry["help"], f"{name} has no comment"


@pytest.mark.parametrize("files", [["smoke"], ["quick"], ["quick", "reference"], ["paper"]], ids="-".join)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameter_files_fit_every_notebook(path, files):
    values = resolve(path, [ROOT / "params" / f"{file}.yaml" for file in files])
    assert values["scale"] == files[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_readers_seeds_are_none_of_the_references(path):
    quick, reference = ({}, {})
    for found, files in ((quick, ["quick"]), (reference, ["quick", "reference"])):
        found |= resolve(path, [ROOT / "params" / f"{file}.yaml" for file in files])
    for name in (name for name in quick if name.endswith("seeds") and quick[name]):
        own, kept = set(quick[name]), set(reference[name])
        assert not own & kept, name
        assert len(kept) >= (12 if name in ("vision_seeds", "scene_seeds") else 20), name
        assert max(kept) < 100 <= min(own) <= max(own) < 1000, name
    others = {name for name in quick if quick[name] != reference[name]} - {name for name in quick if "seeds" in name}
    more = {"mask_families", "densities", "objectives", "transplants", "transplant_densities", "transplant_families"}
    assert others <= {"table_rows", *more}, "the reference differs in its seeds, and in how many rows it has"


@pytest.mark.parametrize("name", ["09_shape_subnetwork", "10_shape_transfer"])
def test_the_papers_vision_settings_fit_behind_its_scale(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    values = resolve(path, [ROOT / "params" / "paper.yaml", ROOT / "params" / "imagenet.yaml"])
    assert (values["scale"], values["vision_batch"], values["pretraining_steps"]) == ("paper", 128, 0)
    own = yaml.safe_load((ROOT / "params" / "imagenet.yaml").read_text())
    assert set(own) <= set(parameters_of(ROOT / "notebooks" / "10_shape_transfer.ipynb"))


@pytest.mark.parametrize("name", ["09_shape_subnetwork", "10_shape_transfer"])
def test_the_transformer_and_the_papers_scale_draw_as_the_quick_one_does(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    quick, paper, values = (resolve(path, [ROOT / "params" / f"{scale}.yaml"]) for scale in ("quick", "paper", "vit"))
    assert (values["scale"], values["classifier"]) == ("vit", "vit")
    for name in ("flat_share", "pretraining_classes", "object_turn", "search_logit", "search_temperature"):
        assert values[name] == paper[name] == quick[name], name
    own = yaml.safe_load((ROOT / "params" / "vit.yaml").read_text())
    assert set(own) <= set(parameters_of(ROOT / "notebooks" / "10_shape_transfer.ipynb"))


def test_shared_parameters_have_one_default_and_one_meaning():
    seen: dict[str, dict[str, str]] = {}
    for path in NOTEBOOKS:
        for name, entry in parameters_of(path).items():
            assert seen.setdefault(name, entry) == entry, name


def test_every_notebook_but_one_that_reads_tables_has_one_of_the_quick_scale():
    assert {path.stem for path in NOTEBOOKS} - {path.stem for path in WITH_TABLES} == {"12_published"}


BEGUN = ("13_masks", "15_transplant", "16_sharing")
"""Notebooks whose reference has not all of its seeds and rows yet."""


@pytest.mark.parametrize("path", WITH_TABLES, ids=lambda path: path.stem)
def test_committed_results_come_from_the_committed_parameters(path):
    defaults = {name: ast.literal_eval(entry["default"]) for name, entry in parameters_of(path).items()}
    wanted = {**defaults, **resolve(path, [ROOT / "params" / f"{file}.yaml" for file in ("quick", "reference")])}
    parameters = [run["parameters"] for run in tables.record(path.stem, "quick", root=ROOT / "results")["runs"]]
    for given in parameters:
        # A parameter that came later, with a default that leaves everything as it was, makes no record stale.
        given |= {name: value for name, value in defaults.items() if name not in given}
        for name in GONE:
            given.pop(name, None)
    if path.stem in BEGUN:  # with the same settings, and a part of the seeds and rows
        assert [tables.differing(given, wanted) for given in parameters] == [[]] * len(parameters)
    else:
        assert wanted in parameters
