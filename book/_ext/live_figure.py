"""The directive ``{live-figure}``: a figure that can be read, zoomed and asked, with its picture for print.

    ```{live-figure} curves
    :tables: quick/03_transfer
    :fallback: ../results/quick/03_transfer/03_transfer.png
    :alt: Line chart. ...
    :name: main-figure

    The caption.
    ```

The page holds the picture, the data as JSON, and links to the tables (CSV). ``_static/live.js`` draws
the figure in the picture's place. Without it, and on paper, the picture stays. Kinds and their tables
are :data:`KINDS`; every number in the JSON is one of a table, or computed here from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from cell_role import logger
from docutils import nodes
from docutils.parsers.rst import directives
from reference import MissingResult, download, place, table
from sphinx.application import Sphinx
from sphinx.directives.patches import Figure
from sphinx.util.docutils import SphinxDirective

from companion.arithmetic import starts
from companion.arithmetic.forming import LEVELS
from companion.compare.statistics import least_seeds, span
from companion.vision import starts as vision_starts

Table = pd.DataFrame
POINT = ["condition", "behaviour", "n_layer", "n_disambiguation", "seed", "test_accuracy", "best_constant"]
FRAMES = ["seed", "step", "temperature", "parameter", "inputs", "outputs", "density", "soft_mean", "picture"]
PARTS = {
    "attn.c_attn": "attention: makes queries, keys and values",
    "attn.c_proj": "attention: writes its result back",
    "mlp.c_fc": "MLP: first layer",
    "mlp.c_proj": "MLP: second layer",
}
"""Matrices of a layer of GPT-2, and what they do."""


def series(start: starts.Condition) -> dict[str, Any]:
    """Name and looks of a start, as in the pictures."""
    return {name: getattr(start, name) for name in ("label", "colour", "marker", "dash")}


def curves(runs: Table, paper: Table | None = None) -> dict[str, Any]:
    """Accuracy by the number of samples: every start's value of each seed, their mean, and its interval.

    Returns
    -------
    dict
        ``depths`` in order; ``seeds``; ``floors``: depth -> mean accuracy of the best constant answer; ``lines``:
        name and looks of a start, and its ``points``: depth -> [[samples, mean, low, high, [value per seed]]],
        ends as of :func:`companion.compare.statistics.span`; ``least``: depth -> the fewest seeds with an interval;
        ``paper``: depth -> [[samples, value]]. What there is not is None.
    """
    doubled = runs[runs.duplicated(["condition", "behaviour", "n_layer", "n_disambiguation", "seed"])]
    if len(doubled):
        raise MissingResult(f"a table of curves has one row a start, depth, count and seed; twice: {doubled.index[0]}")
    seeds = sorted(int(seed) for seed in runs["seed"].unique())
    runs = runs.assign(behaviour=runs["behaviour"].fillna("").astype(str))
    lines = []
    for key in dict.fromkeys(start.pair for start in starts.CONDITIONS.values()):
        start = starts.of(*key)
        own = runs[(runs["condition"] == key[0]) & (runs["behaviour"] == key[1])]
        points: dict[int, list[Any]] = {}
        for (depth, count), part in own.groupby(["n_layer", "n_disambiguation"]):
            by_seed = part.set_index("seed")["test_accuracy"]
            found = span(by_seed.tolist(), (0.0, 1.0), int(depth))
            values = [plain(by_seed.get(seed, math.nan)) for seed in seeds]
            points.setdefault(int(depth), []).append([int(count), *map(plain, found[:3]), values])
        lines.append({**series(start), "points": points, "paper": {}})
        if paper is not None and start.published:
            there = paper[paper["condition"] == start.published]
            lines[-1]["paper"] = {
                int(depth): part[["n_disambiguation", "test_accuracy"]].values.tolist()
                for depth, part in there.groupby("layers")
            }
    lines = [line for line in lines if line["points"] or line["paper"]]
    depths = sorted({depth for line in lines for depth in (*line["points"], *line["paper"])})
    return {
        "depths": depths,
        "seeds": seeds,
        "least": {depth: least_seeds(depth) for depth in depths},
        "floors": {int(depth): plain(part["best_constant"].mean()) for depth, part in runs.groupby("n_layer")},
        "lines": lines,
    }


def levels() -> list[str]:
    """Colours of the levels of a mask's picture, those of :func:`companion.figures.mask_forming`."""
    return [mpl.colors.to_hex(mpl.colormaps["cividis"](level / (len(LEVELS) - 1))) for level in range(len(LEVELS))]


def matrix(parameter: str) -> dict[str, Any]:
    """Names of a masked matrix: ``transformer.h.0.attn.c_attn.weight`` is ``attn.c_attn`` of layer 0."""
    words = parameter.split(".")
    part = ".".join(words[3:5])
    return {"layer": int(words[2]), "part": part, "meaning": PARTS.get(part, "")}


def forming(frames: Table) -> dict[str, Any]:
    """A mask on its way: density of every matrix and layer, and the matrix's picture, at every step.

    Returns
    -------
    dict
        ``seed``, ``steps``, ``temperatures`` (one a step), ``colours`` of the pictures' levels; ``matrices``: names,
        ``inputs``, ``outputs``, and for every step ``density``, ``soft`` and ``pictures``; ``layers``: ``layer`` and
        ``density`` of all its weights; ``density`` of all weights.
    """
    frames = frames[frames["seed"] == frames["seed"].iloc[0]]
    by_step = frames.drop_duplicates("step").sort_values("step")
    frames = frames.assign(
        layer=[matrix(name)["layer"] for name in frames["parameter"]], weights=frames["inputs"] * frames["outputs"]
    )

    def densities(rows: Table) -> list[float | None]:
        sums = (rows["density"] * rows["weights"]).groupby(rows["step"]).sum()
        return [plain(share) for share in sums / rows["weights"].groupby(rows["step"]).sum()]

    matrices = []
    for name in frames["parameter"].unique():
        rows = frames[frames["parameter"] == name].sort_values("step")
        if rows["step"].tolist() != by_step["step"].tolist():
            raise MissingResult(f"{name} has not the same steps as the first matrix: run the notebook again")
        matrices.append({
            **matrix(name), "inputs": int(rows["inputs"].iloc[0]), "outputs": int(rows["outputs"].iloc[0]),
            "density": rows["density"].tolist(), "soft": rows["soft_mean"].tolist(),
            "pictures": rows["picture"].tolist(),
        })  # fmt: skip
    return {
        "seed": int(by_step["seed"].iloc[0]),
        "steps": by_step["step"].tolist(),
        "temperatures": by_step["temperature"].tolist(),
        "colours": levels(),
        "matrices": matrices,
        "layers": [{"layer": int(layer), "density": densities(rows)} for layer, rows in frames.groupby("layer")],
        "density": densities(frames),
    }


def network(discovery: Table, frames: Table) -> dict[str, Any]:
    """The masked matrices of the network, and what a subnetwork keeps of each, for every seed.

    Returns
    -------
    dict
        ``seeds``; ``pictured``: the seed whose pictures are there; ``colours`` of their levels; ``matrices``: names,
        ``inputs``, ``outputs``, ``kept`` (weights, one number a seed) and ``picture`` (at the end of the search).
    """
    rows = discovery[discovery["measure"] == "size"]
    seeds = sorted(int(seed) for seed in rows["seed"].unique())
    matrices = []
    for name, last in frames[frames["step"] == frames["step"].max()].groupby("parameter", sort=False):
        kept = rows[rows["parameter"] == name].set_index("seed")["value"]
        if sorted(kept.index) != seeds:
            raise MissingResult(f"{name} is not in the first table once for every seed: run the notebook again")
        matrices.append({
            **matrix(str(name)), "inputs": int(last["inputs"].iloc[0]), "outputs": int(last["outputs"].iloc[0]),
            "kept": [int(kept[seed]) for seed in seeds], "picture": last["picture"].iloc[0],
        })  # fmt: skip
    return {"seeds": seeds, "pictured": int(frames["seed"].iloc[0]), "colours": levels(), "matrices": matrices}


def conflicts(answers: Table, pictures: Table, totals: Table) -> dict[str, Any]:
    """Cue-conflict pictures and what every network answered to them.

    Returns
    -------
    dict
        ``seed``; ``pictures``: ``shape``, ``texture`` and ``png`` (base 64); ``networks``: ``label``, ``answers`` and
        ``follows`` (one a picture: ``shape``, ``texture`` or ``neither``), and ``totals`` of these three over
        ``images``, all test pictures of this seed.
    """
    seed = int(answers["seed"].iloc[0])
    pictures = pictures[pictures["seed"] == seed].sort_values("picture")
    networks = []
    for name, rows in answers.groupby("condition", sort=False):
        rows, whole = rows.sort_values("picture"), totals[(totals["condition"] == name) & (totals["seed"] == seed)]
        if rows["picture"].tolist() != pictures["picture"].tolist() or len(whole) != 1:
            raise MissingResult(f"{name}: answers, pictures and totals do not fit together: run the notebook again")
        counts = {kind: int(whole[kind].iloc[0]) for kind in ("shape", "texture", "neither", "images")}
        networks.append({
            "label": vision_starts.CONDITIONS[str(name)].label, "answers": rows["answer"].tolist(),
            "follows": rows["follows"].tolist(),
            "totals": counts,
        })  # fmt: skip
    shown = pictures[["shape", "texture", "png"]].to_dict("records")
    return {"seed": seed, "pictures": shown, "networks": networks}


def plain(value: float) -> float | None:
    """A number for JSON with six digits, as tables have them; None for what is none."""
    return None if value != value else float(f"{value:.6g}")


@dataclass(frozen=True)
class Kind:
    """What a figure is made of: columns that each table must have, of which ``optional`` may be left out."""

    build: Callable[..., dict[str, Any]]
    columns: Sequence[Sequence[str]]
    optional: int = 0


KINDS = {
    "curves": Kind(curves, [POINT, ["layers", "condition", "n_disambiguation", "test_accuracy"]], optional=1),
    "forming": Kind(forming, [FRAMES]),
    "network": Kind(network, [["seed", "parameter", "measure", "value"], FRAMES]),
    "conflicts": Kind(conflicts, [
        ["seed", "picture", "shape", "texture", "condition", "answer", "follows"],
        ["seed", "picture", "shape", "texture", "png"],
        ["seed", "condition", "shape", "texture", "neither", "images"],
    ]),
}  # fmt: skip


def figure_data(root: Path, kind: str, names: Sequence[str]) -> dict[str, Any]:
    """The JSON of a figure from the tables ``results/<name>``.

    Raises
    ------
    MissingResult
        Naming what is wrong, and what to write or run: an unknown kind, a number of tables that does not fit,
        a table that is not there, a column that it does not have.
    """
    if kind not in KINDS:
        raise MissingResult(f"there is no kind {kind!r}: write one of {', '.join(KINDS)}")
    wanted = KINDS[kind]
    if not len(wanted.columns) - wanted.optional <= len(names) <= len(wanted.columns):
        least = len(wanted.columns) - wanted.optional
        count = f"{least} to {len(wanted.columns)}" if wanted.optional else str(least)
        raise MissingResult(f":tables: names {len(names)} tables, {kind} is drawn from {count}")
    tables = []
    for name, columns in zip(names, wanted.columns, strict=False):
        found = table(root, name)
        if missing := [column for column in columns if column not in found]:
            raise MissingResult(
                f"results/{name} has no column {', '.join(missing)}, which {kind} needs; "
                f"it has {', '.join(found.columns)}"
            )
        tables.append(found)
    return wanted.build(*tables)


def embedded(data: dict[str, Any]) -> str:
    """JSON for a script element: no character of it can end the element or begin a comment.

    >>> embedded({"a": "</script>"})
    '{"a":"\\\\u003c/script>"}'
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


class LiveFigure(Figure, SphinxDirective):
    """A figure whose picture is the fallback, with the data beside it."""

    required_arguments = 1
    option_spec = {  # noqa: RUF012
        "tables": directives.unchanged_required,
        "fallback": directives.unchanged_required,
        "alt": directives.unchanged_required,
        "name": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        root, kind, names = Path(self.env.srcdir), self.arguments[0], self.options.pop("tables", "").split()
        try:
            missing = [option for option in ("fallback", "alt") if not self.options.get(option)]
            if missing or not self.content:
                raise MissingResult(f"add {', '.join(f':{option}:' for option in missing) or 'a caption'}")
            for name in names:
                self.env.note_dependency(str(root / place(root, name)))
            data = figure_data(root, kind, names)
        except MissingResult as error:
            logger.warning("live-figure %r: %s", kind, error, location=self.get_location(), type="live")
            return []
        label = self.options["alt"]
        self.arguments[0] = self.options.pop("fallback")
        figure = super().run()[0]
        if not isinstance(figure, nodes.figure):  # what is wrong with the caption has been said
            return [figure]
        script = f'<script type="application/json" class="live-data">{embedded({"alt": label, **data})}</script>'
        figure.insert(1, nodes.raw("", script, format="html"))
        figure["classes"] += ["live", f"live-{kind}"]
        links = nodes.inline("", " Data: ", classes=["live-links"])
        for name in names:
            links += download(self.env, name, f"{name}.csv")
            links += nodes.Text(", " if name != names[-1] else ".")
        next(figure.findall(nodes.caption)).append(links)
        return [figure]


def add_assets(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Script and styles, on pages with a live figure alone."""
    if doctree is not None and any("live" in figure["classes"] for figure in doctree.findall(nodes.figure)):
        app.add_js_file("live.js", loading_method="defer")
        app.add_css_file("live.css")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.setup_extension("reference")
    app.add_directive("live-figure", LiveFigure)
    app.connect("html-page-context", add_assets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
