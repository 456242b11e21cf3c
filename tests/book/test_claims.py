"""The ledger of claims on its page."""

from __future__ import annotations

import csv
import re
from html import unescape
from pathlib import Path

import pytest

from companion.compare import ledger

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def judged() -> dict[str, ledger.Judged]:
    return {one.id: one for one in ledger.judge_all(ROOT)}


def test_every_claims_group_is_drawn_on_the_page(judged):
    page = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    drawn = re.findall(r"```\{claims\} (\w+)", page)
    assert sorted(drawn) == sorted({one.group for one in judged.values()})


def test_the_page_shows_every_claim_with_its_verdict(html, judged):
    page = (html / "book" / "claims.html").read_text(encoding="utf-8")
    for one in judged.values():
        (row,) = re.findall(rf'<tr[^>]*id="claim-{re.escape(one.id.replace("_", "-"))}".*?</tr>', page, re.DOTALL)
        text = unescape(re.sub("<[^>]*>", "", row)).replace("’", "'")
        assert one.verdict in text
        assert ("To settle it:" in text) == (one.verdict == "open")
        assert one.settle in text
        assert one.ours in text
        assert one.bound in text
        assert f"{Path(one.page).name}.html" in row
    with (html / "_static" / "claims.csv").open(encoding="utf-8", newline="") as file:
        assert {row["id"]: (row["verdict"], row["settle"]) for row in csv.DictReader(file)} == {
            one.id: (one.verdict, one.settle) for one in judged.values()
        }


def test_every_verdict_has_a_badge_of_its_own_look():
    style = (ROOT / "book" / "_static" / "claims.css").read_text(encoding="utf-8")
    looks = {re.search(r"\{.*\}", line)[0] for line in style.splitlines() if line.startswith(".verdict.")}
    named = re.findall(r"^\.verdict\.(\S+) \{", style, re.MULTILINE)
    assert sorted(named) == sorted(verdict.replace(" ", "-") for verdict in ledger.VERDICTS)
    assert len(looks) == len(named)


def test_the_first_page_leads_to_the_ledger(html):
    assert 'href="claims.html"' in (html / "book" / "index.html").read_text(encoding="utf-8").split("<article", 1)[1]


def test_another_page_shows_some_claims_and_leads_to_the_rules(html, judged):
    page = (html / "book" / "paper.html").read_text(encoding="utf-8")
    for one in judged.values():
        rows = re.findall(rf'<tr[^>]*id="claim-{re.escape(one.id)}".*?</tr>', page, re.DOTALL)
        assert len(rows) == (one.group == "whole")
        assert all(one.verdict in row and 'href="claims.html"' in row for row in rows)
