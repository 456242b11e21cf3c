"""The pages on which the reader names pictures, and sees their own tables."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_browser import AXE, Visit, barriers, visiting

from companion.compare.statistics import wilson

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "book" / "_ext"), str(ROOT / "book" / "figures")]

import try_it  # noqa: E402
import try_pictures  # noqa: E402

DATA = json.loads((ROOT / "book" / "_static" / "try_pictures.json").read_text(encoding="utf-8"))
KEYS = "1234567890abcdef"


# ---------------------------------------------------------------------------------------
# What the pages are made from


def test_the_pictures_are_what_their_script_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(try_pictures, "TARGET", tmp_path)
    try_pictures.main()
    assert json.loads((tmp_path / "try_pictures.json").read_text(encoding="utf-8")) == DATA
    for name in ("try_pictures.png", "try_classes.png"):
        drawn, kept = (
            np.asarray(Image.open(folder / name)).astype(int) for folder in (tmp_path, ROOT / "book" / "_static")
        )
        # Another processor may round a colour to its neighbour.
        assert drawn.shape == kept.shape
        assert np.abs(drawn - kept).max() <= 1


def test_the_pictures_are_balanced_and_only_conflicts_have_two_classes():
    kinds = {kind: [p for p in DATA["pictures"] if p["kind"] == kind] for kind in try_pictures.COUNTS}
    assert {kind: len(found) for kind, found in kinds.items()} == try_pictures.COUNTS
    for kind, found in kinds.items():
        shapes = [picture["shape"] for picture in found]
        assert set(shapes) == set(range(16))
        assert max(map(shapes.count, shapes)) <= 2
        assert all((p["shape"] != p["texture"]) == (kind == "cue_conflict") for p in found)


def test_curves_are_means_over_seeds_and_leave_out_what_diverged():
    rows = [
        "start,condition,behaviour,inherit,n_layer,n_disambiguation,seed,test_accuracy",
        'subnetwork,subnetwork,,"embeddings, norms, biases",2,100,0,0.4',
        'subnetwork,subnetwork,,"embeddings, norms, biases",2,100,1,0.6',
        'subnetwork,subnetwork,,"embeddings, norms, biases",2,0,0,0.25',
        'subnetwork,subnetwork,,"embeddings, norms, biases",2,0,1,nan',
    ]
    table = pd.read_csv(io.StringIO("\n".join(rows)), keep_default_na=False, na_values=["nan"])
    (line,) = try_it.curves(table)
    assert (line["label"], line["n_layer"]) == ("subnetwork", 2)
    assert line["points"] == [[0, 0.25, None, None, 1], [100, 0.5, 0.4, 0.6, 2]]  # few seeds are shown themselves


def test_a_table_without_a_network_of_the_page_is_named():
    tables = {
        "09_shape_subnetwork": pd.DataFrame({"network": ["untrained"], "shape_bias": [1.0]}),
        "10_shape_transfer": pd.DataFrame({"condition": ["scratch"]}),
    }
    with pytest.raises(ValueError, match=r"09_shape_subnetwork has no row with .*pretrained"):
        try_it.networks(tables)


# ---------------------------------------------------------------------------------------
# In the browser


def begin(visit: Visit, html: Path, seed: int) -> None:
    visit.go(html / "book" / "try.html")
    visit.page.fill("#try-seed", str(seed))
    visit.page.get_by_role("button", name="Start").press("Enter")


def asked(visit: Visit) -> int:
    """Which picture is shown, from the place of the sprite that is seen."""
    across, down = visit.page.evaluate(
        "document.querySelector('#try .picture').style.backgroundPosition.split(' ').map(parseFloat)"
    )
    rows = len(DATA["pictures"]) // DATA["row"]
    return round(across / 100 * (DATA["row"] - 1)) + DATA["row"] * round(down / 100 * (rows - 1))


def test_pictures_are_named_by_key_and_mouse_and_the_score_is_right(html, browser):
    given = {"mean_pooled": 0, "ordinary": 0, "cue_conflict": 0}
    with visiting(browser) as visit:
        begin(visit, html, 7)
        loaded = len(visit.asked)
        order = []
        for step in range(len(DATA["pictures"])):
            assert visit.page.inner_text("#try .count") == f"Picture {step + 1} of 56"
            order.append(asked(visit))
            picture = DATA["pictures"][order[-1]]
            kind, shape, texture = (picture[name] for name in ("kind", "shape", "texture"))
            nth = given[kind]
            given[kind] += 1
            other = next(c for c in range(16) if c not in (shape, texture))
            # 15 of 20 mean-pooled pictures, all ordinary ones; of conflicts 9 by shape, 3 by texture, 4 by neither.
            answer = {
                "mean_pooled": shape if nth < 15 else other,
                "ordinary": shape,
                "cue_conflict": shape if nth < 9 else texture if nth < 12 else other,
            }[kind]
            if step % 2:
                visit.page.keyboard.press(KEYS[answer])
            else:
                visit.page.locator("#try .choices button").nth(answer).click()
        assert sorted(order) == list(range(56))
        assert all(DATA["pictures"][index]["kind"] == "cue_conflict" for index in order[-16:])
        told = visit.page.inner_text("#try .result")
        row = visit.page.inner_text("#try-you")
        with visit.page.expect_download() as saved:
            visit.page.get_by_role("button", name="Download as JSON").press("Enter")
        record = json.loads(saved.value.path().read_text(encoding="utf-8"))
        with visit.page.expect_download() as saved:
            visit.page.get_by_role("button", name="Download as CSV").click()
        lines = saved.value.path().read_text(encoding="utf-8").splitlines()
        # What it needed was there when it began: the sheet of pictures is all that may follow.
        assert {Path(name).name for name in visit.asked[loaded:] if name.startswith("file:")} <= {
            "try_pictures.png", "try_classes.png",
        }  # fmt: skip
        assert not visit.wrong
    for right, n in ((15, 20), (20, 20), (9, 12)):
        low, high = wilson(right, n)
        text = f"{right / n:.2f} ({right} of {n}; {low:.2f} to {high:.2f})"
        assert text in told
        assert text in row
    assert "9 answers follow the shape, 3 the texture, 4 neither" in told
    assert (record["seed"], record["mean_pooled"], record["ordinary"]) == (7, [15, 20], [20, 20])
    assert (record["shape"], record["texture"], record["neither"], record["conflicts"]) == (9, 3, 4, 16)
    assert [answer["picture"] for answer in record["answers"]] == order
    assert lines[0] == "picture,kind,shape,texture,answer_shape,answer_texture"
    assert len(lines) == 57


def test_a_seed_gives_its_order_and_one_may_stop_early(html, browser):
    orders = []
    with visiting(browser) as visit:
        for seed in (3, 3, 4):
            begin(visit, html, seed)
            orders.append([])
            for _ in range(6):
                orders[-1].append(asked(visit))
                visit.page.keyboard.press("1")
        assert orders[0] == orders[1] != orders[2]
        visit.page.get_by_role("button", name="Stop here").click()
        kinds = [DATA["pictures"][index]["kind"] for index in orders[2]]
        counts = re.findall(r"of (\d+);", visit.page.inner_text("#try .result"))
        assert sorted(map(int, counts)) == sorted(kinds.count(k) for k in set(kinds))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_there_is_no_barrier_while_pictures_are_named_and_after(html, browser, dark):
    with visiting(browser, color_scheme="dark" if dark else "light") as visit:
        begin(visit, html, 1)
        visit.page.evaluate(AXE)
        assert not barriers(visit.page)
        visit.page.keyboard.press("1")
        visit.page.get_by_role("button", name="Stop here").click()
        assert not barriers(visit.page)


@pytest.mark.parametrize("name", ["try", "your_results"])
def test_without_scripts_the_page_says_that_it_needs_them(html, browser, name):
    with visiting(browser, java_script_enabled=False) as visit:
        visit.go(html / "book" / f"{name}.html")
        assert visit.page.get_by_text("needs scripts").is_visible()


TABLE = """start,condition,behaviour,inherit,n_layer,n_disambiguation,seed,test_accuracy
subnetwork,subnetwork,,"embeddings, norms, biases",7,0,0,0.3
subnetwork,subnetwork,,"embeddings, norms, biases",7,100,0,0.4
subnetwork,subnetwork,,"embeddings, norms, biases",7,100,1,0.6
subnetwork,subnetwork,,"embeddings, norms, biases",7,400,0,nan
"""


def rows(visit: Visit) -> list[list[str]]:
    return [text.split("\t") for text in visit.page.locator("#own tbody tr").all_inner_texts()]


def test_own_tables_become_lines_beside_those_of_the_book(html, browser, tmp_path):
    folder = tmp_path / "mine"
    later = "\n".join([TABLE.splitlines()[0], 'subnetwork,subnetwork,,"embeddings, norms, biases",7,0,0,0.3', ""])
    for part, text in (
        ("03_transfer/1", TABLE.replace("7,0,0,0.3", "7,0,0,0.9")),
        ("03_transfer/2", later),  # the same run again: this one counts
        ("01_base_model/1", "a,b\n1,2\n"),
    ):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{part}.csv").write_text(text, encoding="utf-8")
        (folder / f"{part}.json").write_text("{}", encoding="utf-8")
    # A run that was killed has left this.
    (folder / "03_transfer" / "3.csv").write_text(later.replace("0.3", "0.7"), encoding="utf-8")
    with visiting(browser) as visit:
        visit.go(html / "book" / "your_results.html")
        books = visit.page.locator("#own svg g.book").count()
        assert books >= 5
        assert {row[0] for row in rows(visit)} == {"the book, quick"}
        visit.page.set_input_files("#own-folder", folder)
        visit.page.locator("#own .taken li").wait_for()
        visit.page.select_option("#own-depth", "7")
        # Two seeds of 0.4 and 0.6 are too few for an interval: these are the ends.
        assert rows(visit) == [
            ["mine/03_transfer", "subnetwork", "0", "0.300", "–", "–", "1"],
            ["mine/03_transfer", "subnetwork", "100", "0.500", "0.400", "0.600", "2"],
        ]
        assert visit.page.locator("#own svg g.yours circle").count() == 2
        visit.page.get_by_role("button", name="remove mine/03_transfer").press("Enter")
        assert visit.page.locator("#own svg g.yours").count() == 0
        visit.page.select_option("#own-book", "paper")
        assert {row[0] for row in rows(visit)} == {"the book, paper"}
        visit.page.focus("#own-start")
        visit.page.keyboard.press("ArrowDown")
        assert visit.page.locator("#own svg g.book").count() == 1
        assert not [wrong for wrong in visit.wrong if "outside" in wrong or "error" in wrong]


def test_a_dropped_file_is_read_and_a_wrong_one_is_told_by_its_missing_column(html, browser):
    drop = """([name, text]) => {
        const data = new DataTransfer();
        data.items.add(new File([text], name, {type: "text/csv"}));
        document.querySelector("#own .drop").dispatchEvent(
            new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
    }"""
    with visiting(browser) as visit:
        visit.go(html / "book" / "your_results.html")
        problem = visit.page.locator("#own .problem")
        visit.page.evaluate(drop, ["x.csv", TABLE.replace("test_accuracy", "accuracy")])
        problem.get_by_text("no column").wait_for()
        assert problem.inner_text() == (
            "x.csv has no column test_accuracy. Expected a table like 03_transfer.csv or 04_depths.csv."
        )
        visit.page.evaluate(drop, ["x.csv", TABLE.replace(",100,1,0.6", ",100,1,60")])
        problem.get_by_text("row 4").wait_for()
        assert 'test_accuracy is "60"' in problem.inner_text()
        assert visit.page.locator("#own .taken li").count() == 0
        visit.page.evaluate(drop, ["x.csv", TABLE])
        visit.page.locator("#own .taken li").wait_for()
        assert problem.inner_text() == ""
        assert "x.csv" in visit.page.inner_text("#own .taken")
        assert not visit.wrong
