"""A page loads nothing from outside: not while it is read, and not by surprise later.

Jupyter Book and its extensions add scripts that come from a CDN (thebe, require.js).
This removes every external script and style sheet from every page, and what prepares them.

The theme's icons come as two web fonts, which a browser refuses to load for a page that was
opened as a file, and a second time as a script of 1.5 MB. Both are taken out. In their place
comes one small style sheet that has in it the few icons the book uses.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

FONTAWESOME = re.compile(r"[ \t]*<(?:link|script)\b[^>]*/vendor/fontawesome/[^>]*>(?:</script>)?\n?")
STYLE_SHEET = re.compile(r"/vendor/fontawesome/[^\"]*\.css[^\"]*")
ICON = re.compile(r'class="[^"]*\bfa(?:s|-solid) fa-([a-z-]+)')
ICONS_OF_SCRIPTS = {"xmark"}
"""Icons that no page names, but a script of the theme."""

NO_SUMMARIES = "if (location.protocol === 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;"
"""A page that was opened as a file may not read others, so the search shows titles without an excerpt."""

RULES = """/* Icons: a part of Font Awesome Free (SIL Open Font License 1.1), see vendor/fontawesome. */
@font-face { font-family: "Font Awesome 6 Free"; font-weight: 900; src: url(data:font/woff;base64,FONT); }
:root { --fa-font-solid: normal 900 1em/1 "Font Awesome 6 Free"; }
.fas, .fa-solid { font: var(--fa-font-solid); display: inline-block; -webkit-font-smoothing: antialiased; }
.fa-lg { font-size: 1.25em; vertical-align: -0.075em; }
"""


def is_outside(asset: Any) -> bool:
    """Is this script or style sheet loaded from outside, or the loader of one that is?"""
    name = str(getattr(asset, "filename", asset) or "")
    body = str(getattr(asset, "attributes", {}).get("body") or "")
    return name.startswith(("http:", "https:", "//")) or "thebe" in name or "https://" in body


def is_mathjax(asset: Any) -> bool:
    """Is this MathJax, or what sets it up?"""
    body = str(getattr(asset, "attributes", {}).get("body") or "")
    return "mathjax" in str(getattr(asset, "filename", "") or "") or body.startswith("window.MathJax")


def drop_assets(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Take external assets out of a page's list of scripts and style sheets.

    And MathJax, 2 MB, out of pages without a formula: Sphinx loads it also where a page below has one.
    """
    formulas = doctree is not None and any(
        True for kind in (nodes.math, nodes.math_block) for _ in doctree.findall(kind)
    )
    for kind in ("script_files", "css_files"):
        context[kind] = [
            asset for asset in context.get(kind, []) if not is_outside(asset) and (formulas or not is_mathjax(asset))
        ]


def drop_thebe_nodes(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Take out the configuration that thebe puts into a page's text."""
    for node in list(doctree.findall(nodes.raw)):
        if "thebe" in node.astext():
            node.parent.remove(node)


def with_small_icons(page: str) -> str:
    """A page's HTML with our sheet of icons in place of the theme's, and without its fonts and scripts.

    >>> with_small_icons('<link rel="preload" href="_static/vendor/fontawesome/6/a.woff2" />\\n<p>')
    '<p>'
    >>> with_small_icons('<link href="_static/vendor/fontawesome/6/css/a.css?v=1" rel="stylesheet" />')
    '<link href="_static/icons.css" rel="stylesheet" />'
    """
    return FONTAWESOME.sub("", STYLE_SHEET.sub("/icons.css", page))


def icon_sheet(theme: Path, names: Iterable[str], texts: Iterable[str] = ()) -> str:
    """A style sheet that has icons in it.

    Parameters
    ----------
    theme
        The theme's folder of Font Awesome, with ``css`` and ``webfonts``.
    names
        Icons to have as classes, ``arrow-up`` for ``fa-arrow-up``.
    texts
        Style sheets that name icons by their character; these are had as well.

    Raises
    ------
    ValueError
        Naming the icons that the theme does not have.
    """
    rules = (theme / "css" / "all.min.css").read_text(encoding="utf-8")
    codes = {
        name: int(code, 16)
        for group, code in re.findall(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\(\w+)"', rules)
        for name in re.findall(r"\.fa-([\w-]+):before", group)
    }
    wanted = sorted(set(names))
    if unknown := [name for name in wanted if name not in codes]:
        raise ValueError(f"icons {', '.join(unknown)}: Font Awesome's free solid icons have none of that name")
    characters = {codes[name] for name in wanted} | {
        ord(c) for text in texts for c in text if "\ue000" <= c <= "\uf8ff"
    }
    font = TTFont(theme / "webfonts" / "fa-solid-900.ttf")
    small = subset.Subsetter(subset.Options(layout_features=[], notdef_outline=True))
    small.populate(unicodes=characters)
    small.subset(font)
    font.flavor = "woff"
    file = io.BytesIO()
    font.save(file)
    classes = "".join(f'.fa-{name}::before {{ content: "\\{codes[name]:x}"; }}\n' for name in wanted)
    return RULES.replace("FONT", base64.b64encode(file.getvalue()).decode()) + classes


def replace_icons(app: Sphinx, error: Exception | None) -> None:
    """Take the theme's icons out of every page, and write the sheet that has those that are used."""
    static = Path(app.outdir) / "_static"
    if error or not (static / "vendor" / "fontawesome").is_dir():
        return
    used = set(ICONS_OF_SCRIPTS)
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        used.update(ICON.findall(page))
        if (clean := with_small_icons(page)) != page:
            path.write_text(clean, encoding="utf-8")
    theme = next((path.parent for path in (static / "vendor" / "fontawesome").glob("*/css")), None)
    if theme is None:  # nothing was written, so the sheet of the last build stands
        return
    sheet = icon_sheet(theme, used, [path.read_text(encoding="utf-8") for path in (static / "styles").glob("*.css")])
    (static / "icons.css").write_text(sheet, encoding="utf-8")
    for folder in ("css", "js", "webfonts"):  # its licence stays
        shutil.rmtree(theme / folder)


def setup(app: Sphinx) -> dict[str, Any]:
    """Run after every other extension (a late priority)."""
    app.add_js_file(None, body=NO_SUMMARIES)
    app.connect("html-page-context", drop_assets, priority=990)
    app.connect("doctree-resolved", drop_thebe_nodes, priority=990)
    app.connect("build-finished", replace_icons, priority=990)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
