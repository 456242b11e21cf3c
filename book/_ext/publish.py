"""What a book on the web has and a book in a folder has not: addresses, a card, launch links; and how to cite it.

Two addresses are set in one place each, and may be unset, as they are by default:

- ``BOOK_URL``, where the book is published, with it absolute addresses (canonical, Open Graph) and
  ``sitemap.xml``, which allows no others;
- ``BOOK_REPOSITORY``, the repository's ``https://github.com/<owner>/<name>``, with it the links that open
  a notebook on a server.

Both are environment variables, or the config values ``book_url`` and ``book_repository``.
"""

from __future__ import annotations

import os
import re
from html import escape, unescape
from pathlib import Path
from typing import Any

import reference
import social_card
import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

NOTEBOOK_PAGES = "book/runs/"
CARD = "_static/social_card.png"


def read_addresses(app: Sphinx, config: Config) -> None:
    """Take the addresses from the environment where they are set there, and check them."""
    for name in ("book_url", "book_repository"):
        address = os.environ.get(name.upper(), "") or getattr(config, name)
        if address and not address.startswith("https://"):
            raise ValueError(f"{name.upper()} = {address!r}: expected an address that begins with https://, or none")
        setattr(config, name, address.rstrip("/") + "/" if address and name == "book_url" else address.rstrip("/"))
    repository = config.book_repository
    if repository and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"BOOK_REPOSITORY = {repository!r}: expected https://github.com/<owner>/<name>, or none")
    if config.book_url:
        config.html_baseurl = config.book_url  # Sphinx makes canonical addresses of it


def launch_links(repository: str, notebook: str) -> dict[str, str]:
    """Where a notebook can be opened on a server; nothing without a repository.

    >>> launch_links("https://github.com/a/b", "notebooks/x.ipynb")["Colab"]
    'https://colab.research.google.com/github/a/b/blob/main/notebooks/x.ipynb'
    >>> launch_links("", "notebooks/x.ipynb")
    {}
    """
    if not repository:
        return {}
    name = repository.removeprefix("https://github.com/")
    return {
        "Colab": f"https://colab.research.google.com/github/{name}/blob/main/{notebook}",
        "Binder": f"https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/{notebook}",
    }


def add_notebook_links(app: Sphinx, doctree: nodes.document) -> None:
    """Below the title of a notebook's page: its source to download, and where it can be opened."""
    docname = app.env.docname
    notebook = f"notebooks/{docname.removeprefix(NOTEBOOK_PAGES)}.ipynb"
    title = next(iter(doctree.findall(nodes.title)), None)
    if not docname.startswith(NOTEBOOK_PAGES) or title is None or not (Path(app.srcdir) / notebook).is_file():
        return
    line = nodes.paragraph("", "Notebook: ", classes=["notebook-links"])
    label = nodes.inline("", "download")
    line += addnodes.download_reference("", "", label, refdoc=docname, reftarget=f"/{notebook}")
    for name, address in launch_links(app.config.book_repository, notebook).items():
        line += [nodes.Text(" · "), nodes.reference("", f"open in {name}", refuri=address)]
    title.parent.insert(title.parent.index(title) + 1, line)


def summary_of(doctree: nodes.document | None, most: int = 200) -> str:
    """The first paragraph of a page that says something, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree is not None else ():
        text = " ".join(paragraph.astext().split())
        if "notebook-links" not in paragraph.get("classes", []) and len(text) > 40:
            return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"
    return ""


def add_card(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """What other sites show of a page; a picture and an address only where the book's is known."""
    title = unescape(re.sub("<[^>]*>", "", str(context.get("title", ""))))
    tags = {"og:type": "article", "og:title": title, "og:site_name": app.config.project}
    if text := summary_of(doctree):
        tags["og:description"] = text
    if url := app.config.book_url:
        tags |= {"og:url": f"{url}{page}.html", "og:image": url + CARD, "twitter:card": "summary_large_image"}
    lines = [f'<meta property="{name}" content="{escape(value)}" />' for name, value in tags.items()]
    if text:
        lines.append(f'<meta name="description" content="{escape(text)}" />')
    context["metatags"] = context.get("metatags", "") + "\n" + "\n".join(lines)


def write_sitemap(app: Sphinx, error: Exception | None) -> None:
    """``sitemap.xml``, of absolute addresses; none where the book's address is not known."""
    target = Path(app.outdir) / "sitemap.xml"
    if error or not app.config.book_url:
        target.unlink(missing_ok=True)  # of an earlier build
        return
    places = "".join(
        f"<url><loc>{escape(app.config.book_url + name)}.html</loc></url>\n" for name in sorted(app.env.found_docs)
    )
    target.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{places}</urlset>\n',
        encoding="utf-8",
    )


def draw_card(app: Sphinx, error: Exception | None) -> None:
    """The picture of :func:`add_card`, where it has an address."""
    if error is None and app.config.book_url:
        scale = app.config.results_scale
        runs = reference.table(Path(app.srcdir), f"{scale}/03_transfer")
        social_card.draw(runs, scale, Path(app.outdir) / CARD)


def bibtex(entry: dict[str, Any], key: str) -> str:
    """A BibTeX entry of what a CITATION.cff says about a work."""
    people = " and ".join(
        f"{who['family-names']}, {who['given-names']}" if "family-names" in who else "{" + who["name"] + "}"
        for who in entry["authors"]
    )
    fields = {
        "title": entry["title"],
        "author": people,
        "journal": entry.get("journal"),
        "version": entry.get("version"),
        "year": entry.get("year"),
        "url": entry.get("url") if "journal" not in entry else None,
    }
    kind = {"article": "article", "software": "software"}[entry["type"]]
    lines = [f"  {name:<7} = {{{value}}}" for name, value in fields.items() if value]
    return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}"


class Citation(SphinxDirective):
    """How to cite the paper and this software, from ``CITATION.cff``; and the book's versions, if published."""

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "CITATION.cff"
        self.env.note_dependency(str(path))
        software = yaml.safe_load(path.read_text(encoding="utf-8"))
        found: list[nodes.Node] = []
        for title, entry, key in (
            ("The paper, for the method", software["preferred-citation"], "zhang2023instilling"),
            ("This book and its software", software, "sicore"),
        ):
            text = bibtex(entry, key)
            found += [nodes.rubric("", title), nodes.literal_block(text, text, language="bibtex")]
        line = nodes.paragraph("", "Download: ")
        line += addnodes.download_reference(
            "", "", nodes.inline("", "CITATION.cff"), refdoc=self.env.docname, reftarget="/CITATION.cff"
        )
        if url := self.config.book_url:
            line += [nodes.Text(". "), nodes.reference("", "All versions of this book", refuri=f"{url}versions/")]
            line += [nodes.Text(", and "), nodes.reference("", "this one as a zip", refuri=f"{url}book.zip")]
        return [*found, line]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the config values."""
    app.setup_extension("cell_role")  # has the scale of the tables
    app.add_config_value("book_url", "", "env", [str])
    app.add_config_value("book_repository", "", "env", [str])
    app.add_directive("citation", Citation)
    app.connect("config-inited", read_addresses)
    app.connect("doctree-read", add_notebook_links, priority=100)  # before downloads are collected
    app.connect("html-page-context", add_card)
    app.connect("build-finished", write_sitemap)
    app.connect("build-finished", draw_card)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
