"""The book on the web: addresses, launch links, the card, the citation, the site with its zip and versions."""

from __future__ import annotations

import doctest
import re
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "book" / "_ext"), str(ROOT / "book" / "figures"), str(ROOT / "workflow")]

import accessible  # noqa: E402
import links  # noqa: E402
import offline  # noqa: E402
import publish  # noqa: E402
import website  # noqa: E402

URL, REPOSITORY = "https://example.org/book", "https://github.com/some-owner/some.name"


@pytest.mark.parametrize("module", [accessible, offline, publish, website], ids=lambda module: module.__name__)
def test_examples_in_docstrings_hold(module):
    told = doctest.testmod(module)
    assert told.attempted
    assert not told.failed


def build(folder: Path) -> Path:
    """Two pages, one of a notebook, built with the extension; the folder of the HTML."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    for name in ("book/runs", "notebooks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "index.md").write_text(
        "# Title & more\n\nA first paragraph of a page, with *some* words in it, long enough to say something.\n\n"
        "```{citation}\n```\n\n```{toctree}\nbook/runs/01_x\n```\n", encoding="utf-8",
    )  # fmt: skip
    (folder / "book" / "runs" / "01_x.md").write_text("# Notebook\n\nShort.\n", encoding="utf-8")
    (folder / "notebooks" / "01_x.ipynb").write_text("{}", encoding="utf-8")
    shutil.copytree(ROOT / "results/quick/03_transfer", folder / "results/quick/03_transfer", dirs_exist_ok=True)
    (folder / "CITATION.cff").write_bytes((ROOT / "CITATION.cff").read_bytes())
    warnings = folder / "warnings"
    with warnings.open("w", encoding="utf-8") as stream, patch_docutils(), docutils_namespace():
        app = Sphinx(
            folder, None, folder / "out", folder / "trees", "html",
            confoverrides={"extensions": ["myst_parser", "publish"], "project": "Book"}, status=None, warning=stream,
        )  # fmt: skip
        app.build(force_all=True)
    assert warnings.read_text(encoding="utf-8") == ""
    return folder / "out"


@pytest.fixture
def unset(monkeypatch):
    for name in ("BOOK_URL", "BOOK_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)


def test_without_addresses_there_are_no_launch_links_and_no_sitemap(tmp_path, unset):
    html = build(tmp_path)
    first, notebook = ((html / name).read_text(encoding="utf-8") for name in ("index.html", "book/runs/01_x.html"))
    assert not (html / "sitemap.xml").exists()
    for page in (first, notebook):
        assert not re.search(r"og:url|og:image|canonical|colab|mybinder", page)
    (download,) = re.findall(r'href="([^"]*01_x\.ipynb)"', notebook)
    assert (html / "book" / "runs" / download).resolve().read_text() == "{}"
    assert '<meta property="og:title" content="Title &amp; more" />' in first
    assert 'og:description" content="A first paragraph of a page, with some words' in first
    assert "All versions" not in first


def test_addresses_of_the_environment_make_links_card_and_sitemap(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_URL", URL)
    monkeypatch.setenv("BOOK_REPOSITORY", REPOSITORY + "/")
    html = build(tmp_path)
    first, notebook = ((html / name).read_text(encoding="utf-8") for name in ("index.html", "book/runs/01_x.html"))
    places = [element.text for element in ElementTree.parse(html / "sitemap.xml").iter() if element.tag.endswith("loc")]
    assert sorted(places) == [f"{URL}/book/runs/01_x.html", f"{URL}/index.html"]
    assert all((html / str(place).removeprefix(f"{URL}/")).is_file() for place in places)
    assert f'<link rel="canonical" href="{URL}/index.html" />' in first
    assert f'og:image" content="{URL}/_static/social_card.png"' in first
    with Image.open(html / "_static" / "social_card.png") as card:
        assert card.size == (1200, 630)
        assert len(card.convert("RGB").getcolors(1 << 20) or []) > 50
    assert f'href="{URL}/versions/"' in first
    assert "https://colab.research.google.com/github/some-owner/some.name/blob/main/notebooks/01_x.ipynb" in notebook
    assert "https://mybinder.org/v2/gh/some-owner/some.name/main?urlpath=lab/tree/notebooks/01_x.ipynb" in notebook
    assert "colab" not in first
    # Built again without them, nothing of them stays.
    monkeypatch.delenv("BOOK_URL")
    build(tmp_path)
    assert not (html / "sitemap.xml").exists()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("BOOK_URL", "http://x.org", "begins with https"), ("BOOK_REPOSITORY", "https://x.org/a/b", "github.com/<owner>")],
)
def test_a_wrong_address_is_an_error_that_names_it(tmp_path, unset, monkeypatch, name, value, told):
    monkeypatch.setenv(name, value)
    with pytest.raises(Exception, match=f"(?s){name}.*{re.escape(value)}.*{told}"):
        build(tmp_path)


def test_every_page_of_a_notebook_offers_a_file_that_is_there(html):
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page = html / "book" / "runs" / f"{source.stem}.html"
        (place,) = re.findall(rf'href="([^"]*_downloads/[^"]*{source.name})"', page.read_text(encoding="utf-8"))
        assert (page.parent / place).resolve().read_bytes() == source.read_bytes()


def fields(text: str) -> dict[str, str]:
    return {name: " ".join(value.split()) for name, value in re.findall(r"(\w+)\s*=\s*\{(.*?)\}[,\n]", text)}


def test_the_papers_entry_is_that_of_the_readme():
    readme = re.search(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert readme
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    made, written = (
        fields(text) for text in (publish.bibtex(citation["preferred-citation"], "zhang2023instilling"), readme[1])
    )
    # The journal's name has the number of the preprint in the README.
    assert written.pop("journal").startswith(made.pop("journal"))
    assert made == written
    assert len(made) == 3


# ---------------------------------------------------------------------------------------
# The site


@pytest.fixture
def book(tmp_path) -> Path:
    pages = tmp_path / "html"
    (pages / "book").mkdir(parents=True)
    (pages / "index.html").write_text("new", encoding="utf-8")
    (pages / "book" / "a.html").write_text("page", encoding="utf-8")
    return pages


def test_the_site_has_the_book_its_zip_and_every_release(tmp_path, book):
    versions = tmp_path / "zips"
    versions.mkdir()
    for tag in ("v0.9", "v0.10"):
        (book / "index.html").write_text(tag, encoding="utf-8")
        website.pack(book, versions / f"{tag}.zip")
    (book / "index.html").write_text("new", encoding="utf-8")
    site = tmp_path / "site"
    (site / "left_over").mkdir(parents=True)
    assert website.assemble(book, site, versions) == ["v0.10", "v0.9"]
    assert not (site / "left_over").exists()
    assert (site / "index.html").read_text() == "new"
    assert (site / "versions" / "v0.9" / "index.html").read_text() == "v0.9"
    assert (site / "versions" / "v0.10" / "book" / "a.html").read_text() == "page"
    listed = (site / "versions" / "index.html").read_text(encoding="utf-8")
    for address in re.findall(r'href="([^"]*)"', listed):
        assert (site / "versions" / address).is_file(), address
    assert listed.index("newest") < listed.index("v0.10") < listed.index("v0.9")
    with zipfile.ZipFile(site / "book.zip") as file:
        assert sorted(file.namelist()) == ["book/book/a.html", "book/index.html"]
    again = tmp_path / "again.zip"
    website.pack(book, again)
    assert again.read_bytes() == (site / "book.zip").read_bytes()


def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path, book):
    versions = tmp_path / "zips"
    versions.mkdir()
    with zipfile.ZipFile(versions / "v1.zip", "w") as file:
        file.writestr("book/../../../evil.html", "x")
    with pytest.raises(ValueError, match="evil"):
        website.assemble(book, tmp_path / "site", versions)
    assert not (tmp_path / "evil.html").exists()


def test_a_site_without_a_book_or_with_a_name_that_is_no_tag_is_an_error(tmp_path, book, capsys):
    assert website.main(["--html", str(tmp_path / "none"), "--out", str(tmp_path / "site")]) == 2
    assert "build the book first" in capsys.readouterr().err
    (tmp_path / "zips").mkdir()
    website.pack(book, tmp_path / "zips" / "a b.zip")
    with pytest.raises(ValueError, match="'a b' is no tag"):
        website.assemble(book, tmp_path / "site", tmp_path / "zips")


# ---------------------------------------------------------------------------------------
# Outside links


@pytest.fixture
def server() -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path[1:]))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    found = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


def test_a_link_that_is_not_found_fails_and_one_that_does_not_answer_does_not(tmp_path, server, capsys):
    page = tmp_path / "a.html"
    page.write_text(f'<a href="{server}/200">a</a><a href="{server}/403">b</a><a href="http://127.0.0.1:9/">c</a>')
    assert links.main([str(tmp_path)]) == 0
    assert "1 ok, 0 broken, 2 unknown" in capsys.readouterr().out
    page.write_text(f'<a class="x" href="{server}/404#part">a</a><a href="b.html">inside</a>')
    assert links.main([str(tmp_path)]) == 1
    assert f"broken: {server}/404 (404), on a.html" in capsys.readouterr().out
