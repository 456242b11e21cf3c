"""The built book as a site: the pages, a zip of them that opens without a server, and earlier versions.

    python workflow/website.py [--html _build/html] [--out _build/site] [--versions FOLDER]

``--versions`` has one zip for each release, named by its tag, ``v0.1.0.zip``, as this script has
written it at that release. Each is unpacked into ``versions/<tag>``, and ``versions/index.html`` lists them.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import zipfile
from html import escape
from pathlib import Path

TAG = re.compile(r"[A-Za-z0-9][\w.+-]*")
LIST = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Versions of this book</title></head>
<body style="font-family: sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem"><main>
<h1>Versions of this book</h1>
<p>A zip holds a whole book: unpack it, and open <code>index.html</code>.</p>
<ul>
{items}
</ul></main></body></html>
"""


def pack(html: Path, target: Path) -> None:
    """A zip of a built book; the same pages give the same bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(path for path in html.rglob("*") if path.is_file()):
            # The earliest date that a zip can say.
            file.writestr(
                zipfile.ZipInfo(f"book/{path.relative_to(html).as_posix()}"), path.read_bytes(), zipfile.ZIP_DEFLATED
            )


def unpack(source: Path, target: Path) -> None:
    """The pages of a zip of :func:`pack`; a name that leads out of the book is an error."""
    with zipfile.ZipFile(source) as file:
        for name in file.namelist():
            inside = name.removeprefix("book/")
            path = target / inside
            if inside == name or not path.resolve().is_relative_to(target.resolve()):
                raise ValueError(f"{source}: {name!r} is no page of a book: expected names below book/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read(name))


def by_version(tag: str) -> list[tuple[int, str]]:
    """To sort tags as people do: v0.10 comes after v0.9.

    >>> sorted(["v0.10", "v0.9"], key=by_version)
    ['v0.9', 'v0.10']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", tag)]


def assemble(html: Path, out: Path, versions: Path | None = None) -> list[str]:
    """Write the site into an empty ``out``; returns the tags, newest first.

    Raises
    ------
    ValueError
        If ``html`` has no built book, or a version's name is no tag.
    """
    if not (html / "index.html").is_file():
        raise ValueError(f"html = {html}: there is no index.html; build the book first")
    found = sorted(versions.glob("*.zip"), key=lambda path: by_version(path.stem), reverse=True) if versions else []
    for path in found:
        if not TAG.fullmatch(path.stem):
            raise ValueError(f"{path}: {path.stem!r} is no tag of a release, such as v0.1.0")
    if out.exists():
        shutil.rmtree(out)
    shutil.copytree(html, out)
    pack(html, out / "book.zip")
    items = ['<li><a href="../index.html">newest</a> (<a href="../book.zip">zip</a>)</li>']
    for path in found:
        tag = escape(path.stem)
        unpack(path, out / "versions" / path.stem)
        shutil.copy(path, out / "versions" / path.name)
        items.append(f'<li><a href="{tag}/index.html">{tag}</a> (<a href="{tag}.zip">zip</a>)</li>')
    (out / "versions").mkdir(exist_ok=True)
    (out / "versions" / "index.html").write_text(LIST.format(items="\n".join(items)), encoding="utf-8")
    return [path.stem for path in found]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", type=Path, default=Path("_build/html"), help="the built book")
    parser.add_argument("--out", type=Path, default=Path("_build/site"), help="replaced if it is there")
    parser.add_argument("--versions", type=Path, help="a folder of <tag>.zip")
    given = parser.parse_args(words)
    try:
        tags = assemble(given.html, given.out, given.versions)
    except ValueError as error:
        print(f"website: {error}", file=sys.stderr)
        return 2
    size = (given.out / "book.zip").stat().st_size
    print(f"{given.out}: the book, book.zip ({size / 1e6:.1f} MB), {len(tags)} earlier versions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
