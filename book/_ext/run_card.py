"""The directive ``{run-card}``: where a notebook's numbers come from, and how to get them again.

    ```{run-card} 03_transfer
    ```

(or ``paper/03_transfer``, for another scale than the book's) shows scale, seeds, device, wall
time, time of training, commit and library versions from the record of ``results/<scale>/03_transfer``, who made the
trained networks that its runs have read, all parameters, the command that repeats the run, and links to the joined
table (CSV) and its record (JSON).

On a notebook's page (``book/runs/``) the card also says when and at which scale the page itself was
executed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from cell_role import logger, scale_and_name
from docutils import nodes
from reference import MissingResult, download, read, record
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from companion.lab.origin import together
from companion.lab.runner import NotebookError, as_typed, resolve, with_defaults

OF_THE_MACHINE = ("scale", "store", "workers")
"""Parameters that a command does not repeat: they change no result, or are in the file it names."""
RUNS = "book/runs/"
REFERENCE = "params/reference.yaml"
FEW_COMMANDS = 3
"""More of them open on demand."""


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(48.2), duration(372), duration(9000)
    ('48 s', '6 min 12 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def trained_for(table: pd.DataFrame) -> float:
    """Seconds of training, summed over the rows of a table; 0 where it has no column of them."""
    return float(table["seconds"].sum()) if "seconds" in table else 0.0


UNKNOWN = "unknown: from before objects said who made them"


def made(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each maker of the trained networks that the runs of a table have read, of all kinds of network.

    >>> made([{"makers": None}])
    ['unknown: from before objects said who made them']
    """
    known = [run["makers"] for run in runs if run.get("makers") is not None]
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for maker in together(one for makers in known for one in makers):
        commit = str(maker["commit"] or "")[:10] + (", changed since" if maker.get("changed_since_commit") else "")
        versions = ", ".join(f"{name} {version}" for name, version in (maker["versions"] or {}).items())
        who = (f"commit {commit}" if maker["commit"] else "no commit", maker["device"], versions)
        found.setdefault(who if maker["device"] else (UNKNOWN,), []).append(maker)
    lines = [
        f"{sum(maker['objects'] for maker in makers):,} objects "
        f"({', '.join(sorted({maker['kind'].replace('_', ' ') for maker in makers}))}; "
        f"{duration(sum(maker['seconds'] for maker in makers))}): {'; '.join(who)}{_dates(makers)}"
        for who, makers in found.items()
    ]
    older = len(runs) - len(known)
    if older:
        lines.append(UNKNOWN if older == len(runs) else f"of {older} of {len(runs)} runs {UNKNOWN}")
    return lines


def _dates(makers: Sequence[Mapping[str, Any]]) -> str:
    days = sorted({str(maker[end])[:10] for maker in makers for end in ("first", "last") if maker[end]})
    return f"; {' to '.join(dict.fromkeys([days[0], days[-1]]))}" if days else ""


def facts(record: dict[str, Any], trained: float = 0.0) -> dict[str, str]:
    """What the card says, from the record of a run and the seconds of its trainings; what is missing is left out.

    The wall time alone would say too little: a run that finds its networks in the store takes seconds.
    """
    seeds = record.get("seeds") or []
    runs = record.get("runs") or []
    commit = str(record.get("commit") or "")[:10]
    lost, far = record.get("diverged"), record.get("far_off")
    values = {
        "Scale": record.get("scale"),
        "Seeds": f"{len(seeds)} ({', '.join(map(str, seeds))})" if seeds else None,
        "Device": record.get("device"),
        "Matrix products": record.get("dtype"),
        "Wall time": duration(record["wall_seconds"]) if record.get("wall_seconds") is not None else None,
        "Training": f"{duration(trained)}, all rows of the table together" if trained else None,
        "Commit": f"{commit}, changed since" if commit and record.get("changed_since_commit") else commit,
        "Runs": f"{len(runs)}, joined into one table; above is the latest" if len(runs) > 1 else None,
        "Diverged": f"{lost} of {record['rows']} rows: empty in the table, averages with them are dashes"
        if lost
        else None,
        "Far off": f"{far} of {record['rows']} rows, from the other seeds': marked in the table, kept in the averages"
        if far
        else None,
        "Versions": ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items()),
    }
    return {label: str(value) for label, value in values.items() if value}


def page_facts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What the card says of the page itself, from an executed notebook's metadata."""
    if metadata.get("companion", {}).get("not_executed"):
        return {"This page": "text and code, not executed here"}
    papermill = metadata.get("papermill") or {}
    if not papermill.get("start_time"):
        return {}
    scale = (papermill.get("parameters") or {}).get("scale", "smoke")
    day, seconds = str(papermill["start_time"])[:10], float(papermill.get("duration") or 0)
    return {"This page": f"executed on {day} at the {scale} scale, in {duration(seconds)}"}


def changes(parameters: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run that a parameter file does not give; both have all of a notebook's.

    >>> changes({"scale": "quick", "seeds": [0, 1], "p": 7}, {"scale": "quick", "seeds": [0], "p": 7})
    {'seeds': [0, 1]}
    """
    return {
        name: value
        for name, value in parameters.items()
        if name not in OF_THE_MACHINE and name in expected and value != expected[name]
    }


def command(root: Path, name: str, scale: str, parameters: Mapping[str, Any] | None) -> str:
    """The line that repeats a run: the parameter files to which it is nearest, and ``-p`` for what was given beside.

    That is the scale's own file, or it and the one with the reference's seeds (``params/reference.yaml``).
    """
    notebook, own = root / "notebooks" / f"{name}.ipynb", f"params/{scale}.yaml"
    line = f"python -m companion run notebooks/{name}.ipynb"
    if not parameters or not notebook.is_file():
        return f"{line} -f {own}"
    if not (root / own).is_file():
        given = {"scale": scale, **changes(parameters, with_defaults(notebook, {}))}
        return " ".join([line, *map(shlex.quote, as_typed(notebook, given))])
    lines = []
    for files in ([own], [own, REFERENCE]):
        if all((root / file).is_file() for file in files):
            try:
                expected = with_defaults(notebook, resolve(notebook, [root / file for file in files]))
            except NotebookError:  # a notebook of today that a file of today does not fit is told by the tests
                continue
            words = as_typed(notebook, changes(parameters, expected))
            named = " ".join(f"-f {file}" for file in files)
            lines.append((len(words), " ".join([f"{line} {named}", *map(shlex.quote, words)])))
    return min(lines)[1] if lines else f"{line} -f {own}"


class RunCard(SphinxDirective):
    """A box with the provenance of one notebook's results."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        scale, name = scale_and_name(self.env, self.arguments[0])
        try:
            told, table = record(self.env, scale, name), read(self.env, f"{scale}/{name}")
        except MissingResult as error:
            logger.warning("run-card %r: %s", name, error, location=self.get_location(), type="num")
            return []
        listing = nodes.field_list()
        for label, value in (facts(told, trained_for(table)) | self.of_the_page()).items():
            body = nodes.field_body("", nodes.paragraph("", value))
            listing += nodes.field("", nodes.field_name("", label), body)
        made_by: list[nodes.Node] = []
        if told["makers"] != []:
            made_by = on_demand("Who made its networks", *(nodes.paragraph("", line) for line in made(told["runs"])))
        root = Path(self.env.srcdir)
        lines = list(dict.fromkeys(command(root, name, scale, run["parameters"]) for run in told["runs"]))
        for file in (f"notebooks/{name}.ipynb", f"params/{scale}.yaml"):
            self.env.note_dependency(str(root / file))
        commands = "\n".join(lines)
        rerun: list[nodes.Node] = [nodes.literal_block(commands, commands, language="bash")]
        if len(lines) > FEW_COMMANDS:
            rerun = on_demand(f"The {len(lines)} commands that made the table", *rerun)
        links = nodes.paragraph("", "Download: ")
        links += download(self.env, f"{scale}/{name}", "table (CSV)")
        links += nodes.Text(" · ")
        links += download(self.env, f"{scale}/{name}", "record (JSON)", "json")
        card = [listing, *rerun, *made_by, *all_parameters(told["parameters"]), links]
        return [nodes.container("", *card, classes=["run-card"])]

    def of_the_page(self) -> dict[str, str]:
        if not self.env.docname.startswith(RUNS):
            return {}
        path = Path(self.env.doc2path(self.env.docname))
        return page_facts(json.loads(path.read_text(encoding="utf-8"))["metadata"]) if path.suffix == ".ipynb" else {}


def all_parameters(parameters: Mapping[str, Any]) -> list[nodes.Node]:
    """A list that opens on demand, of the latest run."""
    if not parameters:
        return []
    listing = nodes.field_list(classes=["all-parameters"])
    for name, value in parameters.items():
        text = value if isinstance(value, str) and value else json.dumps(value)
        body = nodes.paragraph("", "", nodes.literal(text, text))
        listing += nodes.field("", nodes.field_name("", name), nodes.field_body("", body))
    return on_demand(f"All {len(parameters)} parameters", listing)


def on_demand(title: str, *content: nodes.Node) -> list[nodes.Node]:
    """``content`` behind a line that opens it; in print it is open (``print.js``)."""
    begin = f"<details><summary>{title}</summary>"
    return [nodes.raw("", begin, format="html"), *content, nodes.raw("", "</details>", format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive; the config value comes from ``cell_role``."""
    app.setup_extension("cell_role")
    app.add_directive("run-card", RunCard)
    app.add_js_file("print.js", loading_method="defer")  # paper has what is behind a line too
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
