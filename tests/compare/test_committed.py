"""All committed tables and all numbers of the pages: no interval outside of what its quantity can be, no verdict from
too few seeds."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest

from companion.compare import cells
from companion.compare.statistics import OUTCOMES, bounds, interval, judge, least_seeds, prediction
from companion.lab import tables

ROOT = Path(__file__).parents[2]
SCALES = ("quick", "paper", "vit")
TABLES = [(scale, name) for scale in SCALES for name in tables.names(scale, root=ROOT / "results")]
PAGES = sorted((ROOT / "book").glob("*.md"))
QUERIES = {
    " ".join(query.split())
    for page in PAGES
    for query in re.findall(r"\{cell\}`([^`]+)`", page.read_text(encoding="utf-8"))
}
OVER_SEEDS = ("interval", "lead", "gain", "judged", "share")
INTERVAL = re.compile(r"\((\S+?)(?: %)? to (\S+?)(?: %)?\)")


def read(scale: str, name: str) -> pd.DataFrame:
    return tables.read(name, scale, root=ROOT / "results")


def groups(table: pd.DataFrame, column: str) -> list[pd.Series]:
    """The values of rows that differ in their seed alone, as far as texts and counts say."""
    kinds = [
        name for name in table.columns
        if name not in ("seed", column) and (not pd.api.types.is_float_dtype(table[name]) or name == "penalty")
        and table[name].nunique() < 60
    ]  # fmt: skip
    parts = table.groupby(kinds, dropna=False)[column] if kinds else [("", table[column])]
    return [values.dropna() for _, values in parts if values.notna().any()]


@pytest.mark.parametrize(("scale", "name"), TABLES, ids=["/".join(one) for one in TABLES])
def test_every_value_interval_and_prediction_lies_within_what_its_quantity_can_be(scale, name):
    table = read(scale, name)
    for column in table.select_dtypes("number"):
        low, high = bounds(column)
        if (low, high) == (-math.inf, math.inf):
            assert not re.search("accuracy|density|share|bias", column), f"{column} is a share and has no bounds"
            continue
        # Older tables have a rounding's -3e-8 for a share of 0.
        assert table[column].dropna().between(low - 1e-6, high).all(), f"{column}: a value outside {low} to {high}"
        for values in groups(table, column):
            found = interval(values.tolist(), (low, high))
            ends = [*found[1:3], *prediction(values.tolist(), bounds=(low, high), grain=0.001)]
            assert all(math.isnan(end) or low <= end <= high for end in ends), (column, ends)


@pytest.mark.parametrize(("scale", "name"), TABLES, ids=["/".join(one) for one in TABLES])
def test_no_verdict_from_too_few_seeds(scale, name):
    table = read(scale, name)
    if "seed" not in table:
        return
    few = [
        (column, values)
        for column in table.select_dtypes("number") if bounds(column) == (0, 1)
        for values in groups(table, column) if len(values) < least_seeds(6)
    ]  # fmt: skip
    for column, values in few:
        assert judge(values.tolist()).outcome == "too few seeds", column


def told(query: str) -> tuple[cells.Query, pd.DataFrame, str]:
    scale, name, view, rest = cells.name_of(query, "quick")
    shown = cells.view_of(read(scale, name), view)
    table, asked = cells._asked(shown, rest)
    return asked, table, cells.text(shown, rest)


def test_the_pages_have_numbers():
    assert len(QUERIES) > 100


@pytest.mark.parametrize("query", sorted(QUERIES))
def test_a_pages_number_has_an_interval_only_of_seeds_enough_and_within_its_bounds(query):
    asked, table, text = told(query)
    if asked.verb in ("verdict", "judged", "settle"):
        few = len(cells._values(table, asked)) < least_seeds(cells._depth(table, asked))
        outcome = cells.judged(table, asked).outcome
        assert few == (outcome == "too few seeds"), f"{text}: {outcome}"
        assert outcome in OUTCOMES
    if asked.verb not in OVER_SEEDS:
        return
    found = INTERVAL.search(text)
    few = len(cells._values(table, asked)) < least_seeds(cells._depth(table, asked))
    assert bool(found) != few or text == "–", text
    if found:
        low, high = (float(end.replace(",", "")) for end in found.groups())
        least, most = cells.limits(cells.name_of(query, "quick")[3])
        assert least <= low <= high <= most, text
