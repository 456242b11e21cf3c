"""The ledger of claims on its page."""

from __future__ import annotations

import csv
import re
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
        text = re.sub("<[^>]*>", "", row)
        assert one.verdict in text
        assert one.ours in text
        assert one.bound in text
        assert f"{Path(one.page).name}.html" in row
    with (html / "_static" / "claims.csv").open(encoding="utf-8", newline="") as file:
        assert {row["id"]: row["verdict"] for row in csv.DictReader(file)} == {
            one.id: one.verdict for one in judged.values()
        }


def test_the_first_page_leads_to_the_ledger(html):
    assert 'href="claims.html"' in (html / "book" / "index.html").read_text(encoding="utf-8").split("<article", 1)[1]


def test_another_page_shows_some_claims_and_leads_to_the_rules(html, judged):
    page = (html / "book" / "paper.html").read_text(encoding="utf-8")
    for one in judged.values():
        rows = re.findall(rf'<tr[^>]*id="claim-{re.escape(one.id)}".*?</tr>', page, re.DOTALL)
        assert len(rows) == (one.group == "whole")
        assert all(one.verdict in row and 'href="claims.html"' in row for row in rows)
