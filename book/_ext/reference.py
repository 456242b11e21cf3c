"""The reference tables for the book: each joined from its parts into one file, before any page is read.

``results/<scale>/<table>/`` becomes ``_build/tables/<scale>/<table>.csv`` and ``.json``. Pages offer these, as in
``../_build/tables/quick/10_shape_transfer.csv``, and depend on them: a new part makes them new, and the page with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from companion.compare.statistics import far_off
from companion.lab import tables
from sicore.files import write_text, written_aside

JOINED = Path("_build/tables")
"""From the book's root."""
SOURCES = ("results", "runs/quick", "companion", "book/_ext", "book/claims.yaml", "book/headlines.yaml")
"""All that what is computed from tables depends on, from the book's root."""
STATE = "state.txt"
"""In a folder of computed files: the sources from which they were made."""


class MissingResult(Exception):
    """A result that a page asks for and that is not there; the message names the fix."""


def state(root: Path) -> str:
    """The sources as they are: a line a file, with its size and time."""
    found = []
    for source in SOURCES:
        paths = [root / source, *(root / source).rglob("*")]
        for path in sorted(one for one in paths if one.suffix in (".csv", ".json", ".py", ".yaml")):
            if path.is_file():
                told = path.stat()
                found.append(f"{path.relative_to(root)} {told.st_size} {told.st_mtime_ns}")
    return "\n".join(found) + "\n"


def keep(root: Path, folder: Path, contents: Callable[[], Mapping[str, bytes]]) -> None:
    """Have a folder of files that are computed from the sources, and no others; compute them where the sources changed.

    Parameters
    ----------
    folder
        From the book's root. A file that is there as it is stays as old as it is, with the pages that depend on it.
    contents
        Computes path in the folder -> what is in it.
    """
    now, kept = state(root), root / folder / STATE
    if kept.is_file() and kept.read_text(encoding="utf-8") == now:
        return
    found = {root / folder / name: content for name, content in contents().items()}
    for target, content in found.items():
        if not target.is_file() or target.read_bytes() != content:
            with written_aside(target) as temporary:
                temporary.write_bytes(content)
    for old in (root / folder).rglob("*.*"):
        if old.is_file() and old not in {*found, kept}:
            old.unlink()
    write_text(kept, now)  # last, so that what was cut short is done again


def depends_on_all(env: BuildEnvironment) -> None:
    """Have the page read again when any of the sources has changed."""
    env.note_dependency(str(Path(env.srcdir) / JOINED / STATE))


def contents(results: Path) -> dict[str, bytes]:
    """Every table of the reference, and its record."""
    found = {}
    for scale in sorted(path.name for path in results.glob("*") if path.is_dir()):
        for name in tables.names(scale, root=results):
            told = tables.record(name, scale, root=results, marks=far_off)
            found[f"{scale}/{name}.csv"] = tables.text(name, scale, root=results, marks=far_off).encode()
            found[f"{scale}/{name}.json"] = (json.dumps(told, indent=1) + "\n").encode()
    return found


def write(app: Sphinx) -> None:
    """Write what is not there as it is; remove what has gone."""
    root = Path(app.srcdir)
    keep(root, JOINED, lambda: contents(root / "results"))


def place(root: Path, name: str, ending: str = "csv") -> str:
    """The file of ``<scale>/<table>``, from the book's root; a single file of ``results`` where it is no notebook's."""
    alone = f"results/{name}.{ending}"
    return alone if (root / alone).is_file() else f"{JOINED}/{name}.{ending}"


def read(env: BuildEnvironment, name: str) -> pd.DataFrame:
    """The table ``<scale>/<table>``, on which the page then depends.

    Raises
    ------
    MissingResult
        When it is not there, naming the notebook to run.
    """
    root = Path(env.srcdir)
    env.note_dependency(str(root / place(root, name)))
    return table(root, name)


def table(root: Path, name: str) -> pd.DataFrame:
    """:func:`read`, from the book's root."""
    alone, (scale, _, short) = root / "results" / f"{name}.csv", name.partition("/")
    if alone.is_file():
        return pd.read_csv(alone, keep_default_na=False, na_values=["nan"])
    found = tables.find(short, scale, root=root / "results")
    if found is None:
        own = [file.name for file in sorted((root / "notebooks").glob("*.ipynb")) if file.stem in short]
        raise MissingResult(f"there is no results/{name}: run {' or '.join(own) or 'the notebook that writes it'}")
    return found


def record(env: BuildEnvironment, scale: str, name: str) -> dict[str, Any]:
    """Where a table comes from (:func:`companion.lab.tables.record`); the page then depends on it.

    Raises :class:`MissingResult` naming the tables of this scale.
    """
    path = Path(env.srcdir) / JOINED / scale / f"{name}.json"
    env.note_dependency(str(path))
    if not path.is_file():
        there = ", ".join(tables.names(scale, root=Path(env.srcdir) / "results")) or "none"
        raise MissingResult(
            f"there is no results/{scale}/{name}; results of this scale: {there}. Run notebooks/{name}.ipynb"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def download(env: BuildEnvironment, name: str, text: str, ending: str = "csv") -> addnodes.download_reference:
    """A link that offers a table or its record; Sphinx copies the file into ``_downloads``."""
    # A leading slash means the book's root.
    target = f"/{place(Path(env.srcdir), name, ending)}"
    return addnodes.download_reference("", "", nodes.inline(text, text), refdoc=env.docname, reftarget=target)


def setup(app: Sphinx) -> dict[str, Any]:
    """Join the tables when a build begins."""
    app.connect("builder-inited", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
