"""The directive ``{run-card}``: where a notebook's numbers come from, and how to get them again.

    ```{run-card} 03_transfer
    ```

(or ``paper/03_transfer``, for another scale than the book's) shows scale, seeds, device, wall
time, commit and library version from ``results/<scale>/03_transfer.json``, the command that
repeats the run, and links to the table (CSV) and the record (JSON).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from numbers_role import MissingResult, logger, read_result, scale_and_name
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


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


def facts(record: dict[str, Any]) -> dict[str, str]:
    """What the card says, from the record of a run; what is missing there is left out."""
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
        "Commit": f"{commit}, changed since" if commit and record.get("changed_since_commit") else commit,
        "Runs": f"{len(runs)}, merged into one table; above is the latest" if len(runs) > 1 else None,
        "Diverged": f"{lost} of {record['rows']} rows: empty in the table, averages with them are dashes"
        if lost
        else None,
        "Far off": f"{far} of {record['rows']} rows, from the other seeds': marked in the table, kept in the averages"
        if far
        else None,
        "torch": (record.get("versions") or {}).get("torch"),
    }
    return {label: str(value) for label, value in values.items() if value}


class RunCard(SphinxDirective):
    """A box with the provenance of one notebook's results."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        scale, name = scale_and_name(self.env, self.arguments[0])
        try:
            record = read_result(self.env, self.arguments[0])
            if not (Path(self.env.srcdir) / f"results/{scale}/{name}.csv").is_file():
                raise MissingResult(f"there is no results/{scale}/{name}.csv. Run notebooks/{name}.ipynb")
        except MissingResult as error:
            logger.warning("run-card %r: %s", name, error, location=self.get_location(), type="num")
            return []
        listing = nodes.field_list()
        for label, value in facts(record).items():
            listing += nodes.field("", nodes.field_name("", label), nodes.field_body("", nodes.paragraph("", value)))
        command = f"python -m sicore run notebooks/{name}.ipynb -f params/{scale}.yaml"
        rerun = nodes.literal_block(command, command, language="bash")
        links = nodes.paragraph("", "Download: ")
        for text, end in (("table (CSV)", "csv"), ("record (JSON)", "json")):
            # A leading slash means the book's root; Sphinx copies the file into _downloads.
            target = f"/results/{scale}/{name}.{end}"
            label = nodes.inline(text, text)
            links += addnodes.download_reference("", "", label, refdoc=self.env.docname, reftarget=target)
            links += nodes.Text(" · " if end == "csv" else "")
        return [nodes.container("", listing, rerun, links, classes=["run-card"])]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive; the config value comes from ``numbers_role``."""
    app.setup_extension("numbers_role")
    app.add_directive("run-card", RunCard)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
