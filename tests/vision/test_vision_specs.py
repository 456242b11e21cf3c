"""Specs of the vision experiment: the JSON that stored objects have, and the table of starts."""

import json
import sys
from pathlib import Path

import pytest

from companion.vision.specs import Base, Head, Row, Search
from companion.vision.starts import CONDITIONS

sys.path[:0] = [str(Path(__file__).parents[1] / "lab")]
from test_golden import VISION_BASE, VISION_HEAD, VISION_MASK, VISION_ROW  # noqa: E402

SPECS = [(Base, VISION_BASE), (Head, VISION_HEAD), (Search, VISION_MASK), (Row, VISION_ROW)]


@pytest.mark.parametrize(("kind", "spec"), SPECS)
def test_the_json_of_a_spec_is_that_of_stored_objects(kind, spec):
    made = kind.of(json.loads(json.dumps(spec)))
    assert made.json() == spec
    assert kind.of(made.json()) == made


def test_a_batch_in_pieces_is_said_and_one_in_one_piece_is_not():
    assert "pieces" not in Base.of(VISION_BASE).json()
    assert Base.of({**VISION_BASE, "pieces": 2}).json() == {**VISION_BASE, "pieces": 2}


def test_a_row_that_goes_on_from_another_has_it_inside():
    before = Row.of(VISION_ROW)
    row = Row(condition=CONDITIONS["subnetwork_then_free"], source=before.source, before=before)
    assert row.json()["before"] == VISION_ROW
    assert row.json()["condition"]["after"] == "subnetwork"
    assert Row.of(row.json()) == row


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (VISION_BASE, {"batch": 63, "pieces": 2}, "batch = 63 is not a multiple of pieces = 2"),
        (VISION_BASE, {"model": {"mlp": {}}}, "expected resnet, vit, pretrained or untrained"),
        (VISION_BASE, {"model": {"pretrained": {}}}, "steps = 1750: a pretrained model is taken as it is"),
        (VISION_BASE, {"lr": float("inf")}, "lr = inf"),
        (VISION_HEAD, {"steps": 0}, "steps = 0"),
        (VISION_MASK, {"penalty": -1.0}, "penalty = -1.0"),
        (VISION_MASK, {"final_temperature": 5.0}, "final = 5.0: the final temperature must exceed 10.0"),
        (VISION_ROW, {"momentum": 1.0}, "momentum = 1.0"),
        (VISION_ROW, {"lr": 0.0}, "lr = 0.0"),
    ],
)
def test_a_setting_out_of_range_is_refused_when_the_spec_is_made(spec, change, message):
    kind = next(kind for kind, known in SPECS if known is spec)
    with pytest.raises(ValueError, match=message):
        kind.of({**spec, **change})


def test_every_start_has_a_label_and_looks_of_its_own():
    every = CONDITIONS.values()
    assert len({one.label for one in every}) == len({(one.colour, one.marker, one.dash) for one in every}) == len(every)
    assert [one.name for one in every] == list(CONDITIONS)
    assert {one.published: one.name for one in every if one.published} == {
        "subnetwork": "subnetwork", "random_init": "scratch",
    }  # fmt: skip


def test_names_and_looks_are_no_part_of_what_decides_a_network():
    assert not {"name", "label", "colour", "marker", "dash", "published"} & set(CONDITIONS["subnetwork"].json())
    assert CONDITIONS["subnetwork"].json() == VISION_ROW["condition"]
