"""Live figures: their data by hand-computed numbers, and what a reader sees of them in a browser."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from conftest import fresh_context
from PIL import Image
from scipy.stats import t as student
from test_book import build, write_part

from companion.arithmetic import starts
from companion.vision import starts as vision_starts

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import live_figure  # noqa: E402
import reference  # noqa: E402
from cell_role import MissingResult  # noqa: E402

FIGURES = {
    "book/index.html": ["main-figure"],
    "book/paper.html": ["paper-figure"],
    "book/subnetwork.html": ["network-figure", "forming-figure"],
    "book/vision.html": ["conflicts-figure"],
}
"""Page -> its live figures."""


def table(name: str) -> pd.DataFrame:
    return reference.table(ROOT, name)


# ---------------------------------------------------------------------------------------
# Data


def runs(values: dict[int, float], **changed: object) -> pd.DataFrame:
    row = {"condition": "subnetwork", "behaviour": "", "n_layer": 2, "n_disambiguation": 100, "best_constant": 0.25}
    return pd.DataFrame([row | changed | {"seed": seed, "test_accuracy": value} for seed, value in values.items()])


def test_curves_have_mean_interval_and_each_seed():
    data = live_figure.curves(runs({0: 0.5, 1: 0.6, 3: 0.7}))
    ((count, mean, low, high, values),) = data["lines"][0]["points"][2]
    assert (data["depths"], data["seeds"], data["floors"]) == ([2], [0, 1, 3], {2: 0.25})
    assert (count, mean, values) == (100, 0.6, [0.5, 0.6, 0.7])
    assert (low, high) == (0.5, 0.7), "of too few seeds the lowest and the highest"
    assert data["least"] == {2: 10}
    # By hand: 0.5 and 0.7 five times each have a deviation of 0.10541, t(0.975, 9) = 2.2622.
    ((_, mean, low, high, _),) = live_figure.curves(runs(dict(enumerate([0.5, 0.7] * 5))))["lines"][0]["points"][2]
    half = 2.262157 * 0.1054093 / math.sqrt(10)
    assert (mean, low, high) == pytest.approx((0.6, 0.6 - half, 0.6 + half), rel=1e-5)


def ends(values: np.ndarray, depth: int) -> tuple[float, float]:
    """Of the 95 % interval, within 0 to 1; of too few seeds the lowest and the highest."""
    if len(values) < (10 if depth < 6 else 5):
        return values.min(), values.max()
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return max(values.mean() - half, 0), min(values.mean() + half, 1)


def test_a_single_seed_has_no_interval_and_a_run_that_is_not_there_no_value():
    two = pd.concat([runs({0: 0.5, 1: 0.7}), runs({1: 0.8}, n_disambiguation=200)])
    _, (count, mean, *ends, values) = live_figure.curves(two)["lines"][0]["points"][2]
    assert (count, mean, ends, values) == (200, 0.8, [None, None], [None, 0.8])


def test_a_run_that_diverged_leaves_a_gap_in_its_mean_too():
    ((_, mean, low, high, values),) = live_figure.curves(runs({0: 0.5, 1: math.nan}))["lines"][0]["points"][2]
    assert (mean, low, high, values) == (None, None, None, [0.5, None])


def test_the_papers_curves_stand_under_our_names_of_their_starts():
    paper = pd.DataFrame(
        [(4, "sampled_complement", 0, 0.25), (4, "sampled_complement", 10, 0.5), (2, "random_init", 10, 0.75)],
        columns=["layers", "condition", "n_disambiguation", "test_accuracy"],
    )
    data = live_figure.curves(runs({0: 0.5}), paper)
    lines = {line["label"]: line for line in data["lines"]}
    assert data["depths"] == [2, 4]
    assert lines["outside the subnetwork (as released)"]["paper"] == {4: [[0, 0.25], [10, 0.5]]}
    assert lines["random initialisation"]["paper"] == {2: [[10, 0.75]]}
    assert lines["subnetwork"]["paper"] == {}


@pytest.mark.parametrize("name", ["quick/03_transfer", "paper/04_depths"])
def test_the_curves_of_the_book_are_those_of_the_table(name):
    """Every mean and end against numpy and a quantile of scipy's, every seed against the table's cell."""
    rows = table(name)
    data = live_figure.curves(rows)
    rows = rows.set_index(["condition", "behaviour", "n_layer", "n_disambiguation", "seed"])["test_accuracy"]
    seen = 0
    for start, line in itertools.product(starts.CONDITIONS.values(), data["lines"]):
        if line["label"] != start.label:
            continue
        key = start.pair
        assert (line["colour"], line["marker"], line["dash"]) == (start.colour, start.marker, start.dash)
        for depth, points in line["points"].items():
            for count, mean, low, high, values in points:
                own = np.array([value for value in values if value is not None])
                assert own.tolist() == [
                    rows[(*key, depth, count, s)] for s in data["seeds"] if (*key, depth, count, s) in rows.index
                ]
                assert mean == pytest.approx(own.mean(), rel=1e-5)
                if len(own) == 1:  # says nothing about the spread
                    assert (low, high) == (None, None)
                else:
                    assert (low, high) == pytest.approx(ends(own, depth), rel=1e-5)
                seen += len(own)
    assert seen == len(rows)


def frames() -> pd.DataFrame:
    """Two matrices of 10 and 30 weights at two steps."""
    rows = [
        ("transformer.h.0.attn.c_attn.weight", 2, 5, [0.0, 0.5]),
        ("transformer.h.1.mlp.c_fc.weight", 3, 10, [0.0, 0.1]),
    ]
    return pd.DataFrame([
        {
            "seed": 3, "step": step, "temperature": 1.0 + step, "parameter": name, "inputs": inputs, "outputs": outputs,
            "density": shares[k], "soft_mean": 0.475, "picture": "0z/hh",
        } for name, inputs, outputs, shares in rows for k, step in enumerate((0, 50))
    ])  # fmt: skip


def test_a_layers_density_counts_its_weights():
    data = live_figure.forming(frames())
    assert (data["seed"], data["steps"], data["temperatures"]) == (3, [0, 50], [1.0, 51.0])
    assert data["density"] == [0.0, 0.2]  # 5 + 3 of 40 weights
    assert data["layers"] == [{"layer": 0, "density": [0.0, 0.5]}, {"layer": 1, "density": [0.0, 0.1]}]
    assert [one["part"] for one in data["matrices"]] == ["attn.c_attn", "mlp.c_fc"]
    assert data["matrices"][1]["pictures"] == ["0z/hh", "0z/hh"]
    assert (len(data["colours"]), data["colours"][0], data["colours"][-1]) == (36, "#00224e", "#fee838")  # cividis


def test_the_network_has_what_every_seed_keeps():
    names = frames()["parameter"].unique()
    sizes = pd.DataFrame([
        {"seed": seed, "parameter": name, "measure": measure, "value": value + seed}
        for seed in (4, 3) for name, value in zip(names, (5, 3), strict=True) for measure in ("size", "total")
    ])  # fmt: skip
    data = live_figure.network(sizes, frames())
    assert (data["seeds"], data["pictured"]) == ([3, 4], 3)
    assert [(one["layer"], one["inputs"], one["outputs"], one["kept"]) for one in data["matrices"]] == [
        (0, 2, 5, [8, 9]),
        (1, 3, 10, [6, 7]),
    ]
    with pytest.raises(MissingResult, match=r"h\.1\.mlp\.c_fc\.weight is not in the first table once for every seed"):
        live_figure.network(sizes[(sizes["parameter"] != names[1]) | (sizes["seed"] == 3)], frames())


def test_the_masks_of_the_book_end_where_the_search_ended():
    """The frames come from a search that was repeated: its last masks keep what those in the store keep."""
    last = table("quick/02_discovery_frames")
    last = last[last["step"] == last["step"].max()]
    found = table("quick/02_discovery")
    found = found[(found["measure"] == "size") & (found["seed"] == last["seed"].iloc[0])].set_index("parameter")[
        "value"
    ]
    assert len(last) == len(found) == 8
    for row in last.itertuples():
        assert row.density * row.inputs * row.outputs == pytest.approx(found[row.parameter], abs=0.5)


def test_pictures_of_masks_have_the_mean_of_their_mask():
    """A character stands for a level of 35; blocks are of equal size, so that the picture's mean is the mask's."""
    for row in table("quick/02_discovery_frames").itertuples():
        levels = np.array([[int(level, 36) for level in line] for line in row.picture.split("/")])
        assert levels.shape == (32, 32)
        assert levels.mean() / 35 == pytest.approx(row.soft_mean, abs=0.5 / 35)


def test_answers_are_marked_by_what_they_follow():
    for scale in ("quick", "vit"):
        rows = table(f"{scale}/10_shape_transfer_answers")
        assert (rows["shape"] != rows["texture"]).all()
        for row in rows.itertuples():
            follows = {row.shape: "shape", row.texture: "texture"}.get(row.answer, "neither")
            assert row.follows == follows
        for row in table(f"{scale}/10_shape_transfer_pictures").itertuples():
            assert Image.open(io.BytesIO(base64.b64decode(row.png))).size == (32, 32)


def conflict_tables() -> list[pd.DataFrame]:
    answers = [("subnetwork", 0, "bell", "shape"), ("scratch", 0, "cup", "texture")]
    return [
        pd.DataFrame([
            {
                "seed": 1, "picture": k, "shape": "bell", "texture": "cup", "condition": name, "answer": said,
                "follows": to,
            } for name, k, said, to in answers
        ]),
        pd.DataFrame([{"seed": 1, "picture": 0, "shape": "bell", "texture": "cup", "png": "AAAA"}]),
        pd.DataFrame([
            {"seed": seed, "condition": name, "shape": 10 + seed, "texture": 20, "neither": 70 - seed, "images": 100}
            for seed in (0, 1) for name in ("scratch", "subnetwork")
        ]),
    ]  # fmt: skip


def test_conflicts_have_the_totals_of_their_seed():
    data = live_figure.conflicts(*conflict_tables())
    assert [one["label"] for one in data["networks"]] == ["subnetwork, held", "from scratch"]
    assert data["networks"][0]["totals"] == {"shape": 11, "texture": 20, "neither": 69, "images": 100}
    assert data["pictures"] == [{"shape": "bell", "texture": "cup", "png": "AAAA"}]
    answers, pictures, totals = conflict_tables()
    with pytest.raises(MissingResult, match="scratch: answers, pictures and totals do not fit together"):
        live_figure.conflicts(answers, pictures, totals[totals["condition"] != "scratch"])


# ---------------------------------------------------------------------------------------
# The directive


def test_json_cannot_leave_its_element():
    text = live_figure.embedded({"a": "</script><!--\u2028", "b": [1.5, None]})
    assert not re.search("[<\u2028]", text)
    assert json.loads(text) == {"a": "</script><!--\u2028", "b": [1.5, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        live_figure.embedded({"a": math.nan})


def page(
    kind: str = "curves", tables: str = "quick/x", alt: str = "A </script> chart.", caption: str = "Caption."
) -> str:
    lines = [f"```{{live-figure}} {kind}", f":tables: {tables}", ":fallback: x.png"]
    return "\n".join([*lines, *([f":alt: {alt}"] if alt else []), "", caption, "```"])


def built(folder: Path, text: str) -> tuple[str, str]:
    Image.new("RGB", (4, 4)).save(folder / "x.png")
    for name, rows in {
        "x": runs({0: 0.5, 1: 0.7}),
        "short": runs({0: 0.5}).drop(columns="behaviour"),
        "twice": pd.concat([runs({0: 0.5})] * 2),
    }.items():
        write_part(folder / "results", f"quick/{name}", rows.to_csv(index=False))
    return build(folder, text, extensions=["live_figure"])


def test_the_page_has_picture_data_caption_and_table(tmp_path):
    html, warnings = built(tmp_path, page())
    assert warnings == ""
    (text,) = re.findall(r'<script type="application/json" class="live-data">(.*?)</script>', html)
    assert json.loads(text)["alt"] == "A </script> chart."
    assert json.loads(text)["lines"][0]["points"]["2"][0][:2] == [100, 0.6]
    assert re.search(r'<figure class="[^"]*live live-curves', html)
    assert re.search(r'<img alt="A &lt;/script&gt; chart."[^>]*src="_images/x.png"', html)
    assert re.search(r'href="_downloads/[^"]*/x\.csv"', html)
    assert "Caption." in html
    assert html.count("live.js") == 1


def test_a_page_without_a_live_figure_does_not_load_the_script(tmp_path):
    assert "live.js" not in built(tmp_path, "Text.")[0]


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        (page("curve"), "there is no kind 'curve': write one of curves, forming, network, conflicts"),
        (page(tables=""), ":tables: names 0 tables, curves is drawn from 1 to 2"),
        (page("forming", "quick/x quick/x"), ":tables: names 2 tables, forming is drawn from 1"),
        (page(tables="quick/y"), "there is no results/quick/y: run the notebook that writes it"),
        (page(tables="quick/short"), "results/quick/short has no column behaviour, which curves needs; it has"),
        (page(tables="quick/twice"), "one row a start, depth, count and seed"),
        (page(alt=""), "add :alt:"),
        (page(caption=""), "add a caption"),
    ],
)
def test_what_is_wrong_is_a_warning_with_the_fix(tmp_path, text, fix):
    _, warnings = built(tmp_path, text)
    assert fix in warnings
    assert "index.md:3" in warnings


def test_pages_with_live_figures_are_small(html):
    for name in FIGURES:
        path = html / name
        images = [path.parent / src for src in re.findall(r'<img[^>]*src="([^":]*)"', path.read_text(encoding="utf-8"))]
        total = path.stat().st_size + sum(image.stat().st_size for image in images)
        assert total < (1_000_000 if name == "book/index.html" else 5_000_000), f"{name}: {total:,} bytes"


# ---------------------------------------------------------------------------------------
# In a browser


@pytest.fixture
def visit(html, browser):
    """Opens a page of the book; after the test, no error may have been told."""
    contexts, wrong = [], []

    def opened(name: str, first: str = "", **options):
        """``first``: a script that runs before those of the page."""
        context = fresh_context(browser, **options)
        context.add_init_script(first)
        contexts.append(context)
        shown = context.new_page()
        shown.on("pageerror", lambda error: wrong.append(str(error)))
        shown.on("console", lambda line: line.type == "error" and "live" in line.text and wrong.append(line.text))
        shown.goto((html / name).as_uri())
        return shown

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def box_of(shown, name):
    """The figure, once it is drawn."""
    figure = shown.locator(f"#{name}")
    figure.locator(".live-box").wait_for()
    return figure


def told(figure) -> str:
    return figure.locator(".live-readout").inner_text()


@pytest.mark.parametrize("name", FIGURES)
def test_without_scripts_and_on_paper_the_picture_is_shown(visit, name):
    plain, live = visit(name, java_script_enabled=False), visit(name)
    for figure in FIGURES[name]:
        assert plain.locator(f"#{figure} img").first.is_visible()
        assert plain.locator(f"#{figure} .live-box").count() == 0
        shown = box_of(live, figure)
        picture = shown.locator("xpath=.//img[not(ancestor::*[contains(@class, 'live-box')])]")
        assert (picture.is_visible(), shown.locator(".live-box").is_visible()) == (False, True)
        live.emulate_media(media="print")
        assert (picture.is_visible(), shown.locator(".live-box").is_visible()) == (True, False)
        live.emulate_media(media="screen")


def accuracy(rows: pd.DataFrame, label: str, depth: int, count: int) -> pd.DataFrame:
    (start,) = [start.name for start in starts.CONDITIONS.values() if start.label == label]
    return rows[(rows["start"] == start) & (rows["n_layer"] == depth) & (rows["n_disambiguation"] == count)]


READ = re.compile(
    r"(.*), ([\d,]+) samples(?:, seed (\d+))?: (\d\.\d{3})(?: \(one seed\))?"
    r"(?: \(mean of (\d+) seeds; (95 % interval|lowest and highest), (\d\.\d{3}) to (\d\.\d{3})\))?\."
)
"""What is read out: start, samples, seed, accuracy; seeds, which ends, and these."""


def check_readout(text: str, rows: pd.DataFrame, paper: pd.DataFrame | None = None, depth: int = 2) -> None:
    """Every number that is read out is the table's."""
    if found := re.fullmatch(r"The paper's (.*), ([\d,]+) samples: (\d\.\d{3}) \(one run\)\.", text):
        (name,) = [start.published for start in starts.CONDITIONS.values() if start.label == found[1]]
        there = paper[(paper["layers"] == depth) & (paper["condition"] == name)]
        there = there.set_index("n_disambiguation")["test_accuracy"]
        assert f"{there[int(found[2].replace(',', ''))]:.3f}" == found[3]
        return
    found = READ.fullmatch(text)
    assert found, text
    own = accuracy(rows, found[1], depth, int(found[2].replace(",", "")))
    if found[3]:
        (value,) = own[own["seed"] == int(found[3])]["test_accuracy"]
        assert f"{value:.3f}" == found[4]
        return
    values = own["test_accuracy"].to_numpy()
    assert float(found[4]) == pytest.approx(values.mean(), abs=0.00051)
    if len(values) == 1:
        assert found[5] is None
        return
    assert len(values) == int(found[5])
    assert found[6] == ("95 % interval" if len(values) >= (10 if depth < 6 else 5) else "lowest and highest")
    assert (float(found[7]), float(found[8])) == pytest.approx(ends(values, depth), abs=0.00051)


def test_every_point_of_the_first_figure_is_read_by_keyboard(visit):
    """Arrow keys lead from one end of every line to the other."""
    rows = table("quick/03_transfer")
    shown = visit("book/index.html")
    figure = box_of(shown, "main-figure")
    chart = figure.get_by_role("application")
    before = told(figure)
    chart.focus()
    assert chart.evaluate("node => node.matches(':focus-visible')")
    read = set()
    starts = figure.locator("fieldset input")
    for start in range(starts.count()):
        for other in range(starts.count()):
            starts.nth(other).set_checked(other == start)
        chart.focus()
        for way in ("Home", "Home", *["ArrowRight"] * 4):
            shown.keyboard.press(way)
            check_readout(told(figure), rows)
            read.add(told(figure))
    assert before not in read
    assert len(read) == rows["start"].nunique() * rows["n_disambiguation"].nunique()


def test_arrow_up_reads_the_next_line_at_the_same_count(visit):
    rows = table("quick/03_transfer")
    shown = visit("book/index.html")
    figure = box_of(shown, "main-figure")
    figure.get_by_role("application").focus()
    means = []
    for key in ("ArrowRight", "End", *["ArrowDown"] * 8, *["ArrowUp"] * 7):
        shown.keyboard.press(key)
        check_readout(told(figure), rows)
        means.append(float(re.search(r": (\d\.\d+)", told(figure))[1]))
    assert means[9:] == sorted(means[9:])
    assert len(means[9:]) == 8


def test_a_seed_is_chosen_and_read_with_the_mouse(visit):
    rows = table("quick/03_transfer")
    shown = visit("book/index.html")
    figure = box_of(shown, "main-figure")
    figure.get_by_label("Show", exact=True).select_option("seed 3")
    marks = figure.locator(".live-chart g path[transform]")
    assert marks.count() == rows["start"].nunique() * rows["n_disambiguation"].nunique()
    read = set()
    for number in range(0, marks.count(), 3):
        place = marks.nth(number).bounding_box()
        shown.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        assert ", seed 3: " in told(figure)
        check_readout(told(figure), rows)
        read.add(told(figure))
    assert len(read) > 8


def ticks(figure) -> list[str]:
    return figure.locator(".live-chart svg > text").all_inner_texts()


def test_zoom_by_buttons_keys_and_mouse_and_back(visit):
    shown = visit("book/index.html")
    figure = box_of(shown, "main-figure")
    chart = figure.get_by_role("application")
    whole = ticks(figure)
    figure.get_by_role("button", name="Zoom in").press("Enter")
    closer = ticks(figure)
    assert closer != whole
    figure.get_by_role("button", name="Show the whole chart").click()
    assert ticks(figure) == whole
    chart.focus()
    shown.keyboard.press("+")
    assert ticks(figure) == closer
    shown.keyboard.press("0")
    assert ticks(figure) == whole
    box = chart.bounding_box()
    shown.mouse.move(box["x"] + 200, box["y"] + 60)
    shown.mouse.down()
    shown.mouse.move(box["x"] + 420, box["y"] + 200, steps=5)
    shown.mouse.up()
    assert ticks(figure) != whole
    chart.focus()
    shown.keyboard.press("-")
    for _ in range(8):
        shown.keyboard.press("-")
    assert ticks(figure) == whole


def test_a_value_outside_the_zoomed_part_moves_it_into_sight(visit):
    shown = visit("book/index.html")
    figure = box_of(shown, "main-figure")
    chart = figure.get_by_role("application")
    chart.focus()
    for key in ("ArrowRight", "Home", *["+"] * 4, "End"):
        shown.keyboard.press(key)
    ring, box = figure.locator(".live-ring").bounding_box(), chart.bounding_box()
    assert box["x"] < ring["x"] < ring["x"] + ring["width"] < box["x"] + box["width"] + 1
    assert box["y"] < ring["y"] < box["y"] + box["height"]


def test_depth_and_the_papers_curve_are_picked(visit):
    rows, paper = table("paper/04_depths"), table("published/appendix_arithmetic_by_depth")
    shown = visit("book/paper.html")
    figure = box_of(shown, "paper-figure")
    chart, layers = figure.get_by_role("application"), figure.get_by_label("Layers", exact=True)
    assert layers.locator("option").count() == paper["layers"].nunique()
    hollow = figure.locator(".live-hollow")
    assert hollow.count() == (paper["layers"] == 2).sum()
    seen = {"ours": 0, "paper": 0}
    chart.focus()
    shown.keyboard.press("ArrowRight")
    for key in (*["ArrowRight"] * 5, *["ArrowUp"] * 4, *["ArrowDown"] * 8):
        shown.keyboard.press(key)
        check_readout(told(figure), rows, paper)
        seen["paper" if told(figure).startswith("The paper's") else "ours"] += 1
    assert min(seen.values()) > 0
    overlay = figure.get_by_role("checkbox", name="the paper's values")
    overlay.press("Space")
    assert hollow.count() == 0
    overlay.check()


def test_a_depth_without_runs_has_the_papers_values_alone(visit):
    paper, depth = table("published/appendix_arithmetic_by_depth"), 12
    drop = f"""
        const parse = JSON.parse;
        JSON.parse = (...given) => {{
          const data = parse(...given);
          for (const line of data.lines || []) if (line.points) delete line.points[{depth}];
          return data;
        }};
    """
    shown = visit("book/paper.html", first=drop)
    figure = box_of(shown, "paper-figure")
    layers = figure.get_by_label("Layers", exact=True)
    layers.focus()
    layers.select_option(index=sorted(paper["layers"].unique()).index(depth))
    assert told(figure) == f"{depth} layers have not been run here: the paper's values alone."
    figure.get_by_role("application").focus()
    for key in ("ArrowRight", "End"):
        shown.keyboard.press(key)
        assert told(figure).startswith("The paper's")
        check_readout(told(figure), paper.iloc[:0], paper, depth=depth)


def test_the_seeds_on_offer_are_those_of_the_depth(visit):
    rows, paper = table("paper/04_depths"), table("published/appendix_arithmetic_by_depth")
    figure = box_of(visit("book/paper.html"), "paper-figure")
    layers, seeds = (figure.get_by_label(name, exact=True) for name in ("Layers", "Show"))
    for index, depth in enumerate(sorted(paper["layers"].unique())):
        part = rows[rows["n_layer"] == depth]
        own, at_a_point = sorted(part["seed"].unique()), part.groupby(["start", "n_disambiguation"])["seed"].nunique()
        many = " to ".join(map(str, sorted({at_a_point.min(), at_a_point.max()})))
        mean = f"mean of {many} seed{'' if many == '1' else 's'}" if own else "no runs of ours"
        layers.select_option(index=index)
        assert seeds.locator("option").all_inner_texts() == [mean, *(f"seed {seed}" for seed in own)]
        assert seeds.input_value() == mean  # the seed chosen before is not one of this depth
        if only := set(own) - set(rows.loc[rows["n_layer"] != depth, "seed"]):
            seeds.select_option(f"seed {min(only)}")


def test_the_slider_shows_every_step_of_the_search(visit):
    frames = table("quick/02_discovery_frames")
    shown = visit("book/subnetwork.html")
    figure = box_of(shown, "forming-figure")
    slider, picture = figure.get_by_role("slider"), figure.locator("canvas")
    slider.focus()
    shown.keyboard.press("Home")
    names = list(frames["parameter"].unique())
    pixels = set()
    for step in sorted(frames["step"].unique()):
        now = frames[frames["step"] == step].set_index("parameter").loc[names]
        weights = now["inputs"] * now["outputs"]
        text = told(figure)
        assert f"At step {step:,} of 1,000, temperature {now['temperature'].iloc[0]:.1f}" in text
        assert f"keeps {100 * (now['density'] * weights).sum() / weights.sum():.1f} %" in text
        bars = figure.locator(".live-value").all_inner_texts()
        assert bars == [f"{100 * share:.1f} %" for share in now["density"]]
        pixels.add(picture.evaluate("node => node.toDataURL()"))
        shown.keyboard.press("ArrowRight")
    assert len(pixels) > 10
    assert slider.get_attribute("aria-valuetext") == "step 1,000 of 1,000"
    figure.get_by_role("button", name="One step back").click()
    assert "At step 950 of" in told(figure)
    figure.get_by_label("Picture of", exact=True).select_option("layer 0, mlp.c_proj")
    assert "layer 0, mlp.c_proj" in picture.get_attribute("aria-label")
    own = frames[(frames["step"] == 950) & (frames["parameter"] == "transformer.h.0.mlp.c_proj.weight")].iloc[0]
    assert f"the mean of the soft mask is {own['soft_mean']:.3f}" in told(figure)
    expected = [mpl.colors.to_rgb(mpl.colormaps["cividis"](int(level, 36) / 35)) for level in own["picture"][:32]]
    drawn = picture.evaluate("node => [...node.getContext('2d').getImageData(0, 0, 32, 1).data]")
    assert np.allclose(np.array(drawn).reshape(32, 4)[:, :3], 255 * np.array(expected), atol=1)
    box = slider.bounding_box()
    shown.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
    assert "At step 0 of" in told(figure)


def test_the_search_plays_only_for_who_wants_motion(visit):
    calm = box_of(visit("book/subnetwork.html"), "forming-figure")
    assert calm.get_by_role("button", name="play").count() == 0
    shown = visit("book/subnetwork.html", reduced_motion="no-preference")
    shown.clock.install(time=0)  # the page's time is moved by hand: a slow machine misses no frame
    shown.reload()
    lively = box_of(shown, "forming-figure")
    shown.clock.pause_at(3_600_000)
    slider = lively.locator("input[type=range]")
    last = slider.get_attribute("max")
    lively.get_by_role("button", name="play").click()
    frames = [(slider.input_value(), told(lively))]
    for _ in range(3):
        shown.clock.run_for(350)  # one frame
        frames.append((slider.input_value(), told(lively)))
    assert [at for at, _ in frames] == ["0", "1", "2", "3"]
    assert len({line for _, line in frames}) == 4
    assert frames[2][1].startswith("At step 100 of")
    lively.get_by_role("button", name="stop").click()
    shown.clock.run_for(3_500)
    assert (slider.input_value(), told(lively)) == frames[-1]
    lively.get_by_role("button", name="play").click()
    shown.clock.run_for(350 * (int(last) + 1))
    assert slider.input_value() == last
    assert lively.get_by_role("button", name="play").count() == 1  # it stops at the end


def test_every_matrix_of_the_network_is_chosen(visit):
    found = table("quick/02_discovery")
    found = found[found["measure"].isin(["size", "total"])].pivot(
        index=["parameter", "seed"], columns="measure", values="value"
    )
    shown = visit("book/subnetwork.html")
    figure = box_of(shown, "network-figure")
    tiles = figure.locator("[role=button]")
    assert tiles.count() == found.index.get_level_values("parameter").nunique()

    def check(layer: str, part: str, seed: int) -> None:
        size, total = found.loc[(f"transformer.h.{layer}.{part}.weight", seed), ["size", "total"]]
        kept, of = found.xs(seed, level="seed")[["size", "total"]].sum()
        assert told(figure) == (
            f"layer {layer}, {part}: {size:,.0f} of {total:,.0f} weights kept, {100 * size / total:.1f} %. "
            f"All matrices: {kept:,.0f} of {of:,.0f}, {100 * kept / of:.1f} %."
        )
        assert figure.locator("dd").all_inner_texts()[3:] == [f"{size:,.0f}", f"{100 * size / total:.1f} %"]

    names = [re.match(r"layer (\d), (\S+):", tiles.nth(k).get_attribute("aria-label")).groups() for k in range(8)]
    tiles.first.focus()
    for number, name in enumerate(names):
        check(*name, seed=0)
        assert tiles.nth(number).get_attribute("aria-pressed") == "true"
        shown.keyboard.press("ArrowDown")
    tiles.nth(2).click()
    check(*names[2], seed=0)
    tiles.nth(5).focus()
    shown.keyboard.press("Enter")
    check(*names[5], seed=0)
    assert figure.locator("canvas").is_visible()
    figure.get_by_label("Subnetwork of", exact=True).select_option("seed 4")
    check(*names[5], seed=4)
    assert not figure.locator("canvas").is_visible()


def test_cue_conflicts_show_what_each_network_answered(visit):
    answers, totals = table("quick/10_shape_transfer_answers"), table("quick/10_shape_transfer")
    shown = visit("book/vision.html")
    figure = box_of(shown, "conflicts-figure")
    pictures = figure.locator(".live-grid-pictures button")
    network = figure.get_by_label("Network", exact=True)
    for name in answers["condition"].unique():
        label = vision_starts.CONDITIONS[name].label
        network.focus()
        network.select_option(label)
        own = answers[answers["condition"] == name].sort_values("picture")
        counts = [int((own["follows"] == kind).sum()) for kind in ("shape", "texture", "neither")]
        row = totals[(totals["condition"] == name) & (totals["seed"] == own["seed"].iloc[0])].iloc[0]
        assert told(figure) == (
            f"{label}: of these {len(own)} answers {counts[0]} follow the shape, {counts[1]} the texture, {counts[2]} "
            f"neither. Of all {row['images']:,}: {row['shape']:,}, {row['texture']:,}, {row['neither']:,}."
        )
        shown_answers = [text.split()[:-1] for text in pictures.all_inner_texts()]
        assert [" ".join(words) for words in shown_answers] == own["answer"].tolist()
    pictures.nth(5).focus()
    shown.keyboard.press("Enter")
    rows = [[cell.inner_text() for cell in line.locator("th, td").all()] for line in figure.locator("tbody tr").all()]
    own = answers[answers["picture"] == 5]
    assert [line[0] for line in rows] == [vision_starts.CONDITIONS[name].label for name in own["condition"]]
    assert [line[1] for line in rows] == own["answer"].tolist()
    assert [line[2].split()[-1] for line in rows] == own["follows"].tolist()
    last = answers[answers["condition"] == name]
    figure.get_by_label("Answers", exact=True).select_option("▨ follow the texture")
    assert pictures.locator("visible=true").count() == (last["follows"] == "texture").sum()
    pictures.locator("visible=true").first.click()
    first = last[last["follows"] == "texture"]["picture"].min()
    assert f"Picture {first + 1}. " in figure.locator(".live-asked").inner_text()
    sizes = figure.locator(".live-grid-pictures img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert set(sizes) == {32}


@pytest.mark.parametrize("name", FIGURES)
def test_a_phone_shows_every_figure_whole_and_a_finger_reads_it(visit, name):
    shown = visit(name, viewport={"width": 360, "height": 800}, has_touch=True, is_mobile=True)
    for figure in FIGURES[name]:
        box = box_of(shown, figure).locator(".live-box")
        assert box.evaluate("node => node.scrollWidth <= node.clientWidth + 1")
        assert box.bounding_box()["x"] + box.bounding_box()["width"] <= 360
    if name == "book/index.html":
        figure = box_of(shown, "main-figure")
        before = told(figure)
        mark = figure.locator(".live-chart g path[transform]").nth(2)
        mark.scroll_into_view_if_needed()
        place = mark.bounding_box()
        shown.touchscreen.tap(place["x"] + 3, place["y"] + 3)
        assert told(figure) != before
        check_readout(told(figure), table("quick/03_transfer"))
