"""The role ``{num}``: a number in prose, taken from a result file.

``{num}`03_transfer.subnetwork_250``` becomes the text that stands under ``numbers`` in
``results/<scale>/03_transfer.json``, and links to the notebook that computed it. The scale
is the config value ``results_scale``, or stands in front of the name, as in
``{num}`paper/05_causes.density```. A number that does not exist is a warning, so a build
with ``-W`` fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

logger = logging.getLogger(__name__)

PHRASE = 30
"""A longer text than this many characters wraps like the sentence around it; a shorter one stays in one piece."""


class MissingResult(Exception):
    """A result that a page asks for and that is not there; the message names the fix."""


def scale_and_name(env: BuildEnvironment, target: str) -> tuple[str, str]:
    """``paper/05_causes`` -> (paper, 05_causes); without a scale in front, that of the config."""
    scale, slash, name = target.rpartition("/")
    return (scale, name) if slash else (env.config.results_scale, target)


def read_result(env: BuildEnvironment, target: str) -> dict[str, Any]:
    """The JSON of a notebook's result, which becomes a dependency of the current page."""
    scale, name = scale_and_name(env, target)
    relative = f"results/{scale}/{name}.json"
    path = Path(env.srcdir) / relative
    env.note_dependency(str(path))
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.json"))) or "none"
        raise MissingResult(f"there is no {relative}; results of this scale: {there}. Run notebooks/{name}.ipynb")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise MissingResult(f"{relative} is not JSON ({error}); run notebooks/{name}.ipynb again") from error


def number(env: BuildEnvironment, target: str) -> str:
    """The text of ``<notebook>.<key>``; raises :class:`MissingResult` naming the known keys."""
    name, dot, key = target.partition(".")
    if not dot or not key:
        raise MissingResult("write <notebook>.<key>, such as 03_transfer.subnetwork_250")
    known = read_result(env, name).get("numbers", {})
    if key not in known:
        there = ", ".join(sorted(known)) or "none"
        raise MissingResult(
            f"results/{'/'.join(scale_and_name(env, name))}.json has no number {key!r}; known keys: {there}"
        )
    return str(known[key])


class NumberRole(SphinxRole):
    """``{num}`notebook.key```."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        target = self.text.strip()
        try:
            text = number(self.env, target)
        except MissingResult as error:
            logger.warning("num %r: %s", target, error, location=self.get_location(), type="num")
            return [nodes.problematic(self.rawtext, f"[{target}?]")], []
        page = f"/book/runs/{scale_and_name(self.env, target.partition('.')[0])[1]}"
        link = addnodes.pending_xref(
            "", nodes.inline(text, text), refdomain="std", reftype="doc", reftarget=page, refexplicit=True,
            refwarn=True, refdoc=self.env.docname,
        )  # fmt: skip
        classes = ["num", "phrase"] if len(text) > PHRASE else ["num"]
        return [nodes.inline("", "", link, classes=classes)], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role and the config value ``results_scale``."""
    app.add_config_value("results_scale", "quick", "env", [str])
    app.add_role("num", NumberRole())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
