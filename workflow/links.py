"""Ask for every outside address that the built book links to.

    python workflow/links.py [_build/html]

An address that answers "not found" or "gone" is broken, and the exit status is 1. One that does not
answer, or wants no robots, is named, and breaks nothing: the fault may be the network's.
(Links within the book are checked by the tests.)
"""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

LINK = re.compile(r'<a\b[^>]*\bhref="(https?://[^"#]+)')


def addresses(html: Path) -> dict[str, str]:
    """Outside address -> the first page that links to it."""
    found: dict[str, str] = {}
    for path in sorted(html.rglob("*.html")):
        for address in LINK.findall(path.read_text(encoding="utf-8")):
            found.setdefault(unescape(address), str(path.relative_to(html)))
    return found


def ask(address: str, seconds: float = 15) -> tuple[str, str]:
    """``ok``, ``broken`` or ``unknown``, and why."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (link check of a book)"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return "ok", str(answer.status)
    except urllib.error.HTTPError as error:
        return ("broken" if error.code in (404, 410) else "unknown"), str(error.code)
    except (OSError, ValueError) as error:
        return "unknown", str(error)


def main(words: list[str] | None = None) -> int:
    given = sys.argv[1:] if words is None else words
    found = addresses(Path(given[0] if given else "_build/html"))
    with ThreadPoolExecutor(8) as pool:
        told = dict(zip(found, pool.map(ask, found), strict=True))
    for address, (state, why) in told.items():
        if state != "ok":
            print(f"{state}: {address} ({why}), on {found[address]}")
    states = [state for state, _ in told.values()]
    print(", ".join(f"{states.count(state)} {state}" for state in ("ok", "broken", "unknown")))
    return 1 if "broken" in states else 0


if __name__ == "__main__":
    sys.exit(main())
