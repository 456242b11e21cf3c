"""Tables and a picture of the runs at the paper's scale, made when a build begins."""

import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import beside_paper  # noqa: E402


def test_they_are_made_of_the_reference_and_again_where_it_has_changed(tmp_path):
    for name in ("04_depths", "04_depths_masks"):
        shutil.copytree(ROOT / "results" / "paper" / name, tmp_path / "results" / "paper" / name)
    beside_paper.write(SimpleNamespace(srcdir=tmp_path))
    made = tmp_path / beside_paper.FOLDER
    names = {"what_ran.csv", "five_runs.csv", "over_depths.csv", "depth_leads.csv", "curves.png"}
    assert {path.name for path in made.iterdir()} == {*names, "state.txt"}
    page = (ROOT / "book" / "paper.md").read_text(encoding="utf-8")
    assert all(f"../{beside_paper.FOLDER}/{name}" in page for name in names)
    with Image.open(made / "curves.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in made.iterdir()}
    beside_paper.write(SimpleNamespace(srcdir=tmp_path))
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in made.iterdir()} == before

    for part in (tmp_path / "results" / "paper" / "04_depths").glob("*.csv"):
        if 12 in pd.read_csv(part)["n_layer"].tolist():
            part.unlink()
    beside_paper.write(SimpleNamespace(srcdir=tmp_path))
    assert (made / "five_runs.csv").read_bytes() != before["five_runs.csv"][1], "a part that has gone is noticed"
    less = beside_paper.contents(tmp_path / "results")
    assert pd.read_csv(io.BytesIO(less["five_runs.csv"])).empty
    assert less["what_ran.csv"] != before["what_ran.csv"][1]


def test_without_runs_there_is_nothing(tmp_path):
    assert beside_paper.contents(tmp_path) == {}
