"""A page loads nothing from outside: not while it is read, and not by surprise later.

Jupyter Book and its extensions add scripts that come from a CDN (thebe, require.js).
This removes every external script and style sheet from every page, and what prepares them.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def is_outside(asset: Any) -> bool:
    """Is this script or style sheet loaded from outside, or the loader of one that is?"""
    name = str(getattr(asset, "filename", asset) or "")
    body = str(getattr(asset, "attributes", {}).get("body") or "")
    return name.startswith(("http:", "https:", "//")) or "thebe" in name or "https://" in body


def drop_assets(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Take external assets out of a page's list of scripts and style sheets."""
    for kind in ("script_files", "css_files"):
        context[kind] = [asset for asset in context.get(kind, []) if not is_outside(asset)]


def drop_thebe_nodes(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Take out the configuration that thebe puts into a page's text."""
    for node in list(doctree.findall(nodes.raw)):
        if "thebe" in node.astext():
            node.parent.remove(node)


def setup(app: Sphinx) -> dict[str, Any]:
    """Run after every other extension (a late priority)."""
    app.connect("html-page-context", drop_assets, priority=990)
    app.connect("doctree-resolved", drop_thebe_nodes, priority=990)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
