"""Do two halves of the reference say the same? Verdicts from disjoint halves of the seeds.

Asked are every pair of starts of a table, what the pages of the book say, and the claims of the ledger that it answers.

    python benchmarks/verdicts.py            # prints; --write: to results/benchmark/

Ours asks for an interval beyond the smallest difference that matters, or within it
(:func:`companion.compare.statistics.judge_all`). Beside it the usual rule, by which an interval that leaves 0 out is a
difference, and one within that smallest difference an equality. Tables with fewer than 20 seeds have no halves with
enough of them.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from companion.compare import cells, ledger, statistics
from companion.compare.cells import Query
from companion.compare.statistics import ABOVE, BELOW, EQUIVALENT, LEVEL, MARGIN, OPEN, interval
from companion.lab import tables
from companion.lab.project import project_root

TABLES = {"03_transfer": (), "05_causes": (), "06_variants": ("task",)}
"""Table -> columns of whose values each has comparisons of its own."""

Family = dict[str, list[float]]


def families(name: str, apart: tuple[str, ...]) -> list[pd.DataFrame]:
    """For every start the differences of the others from it: a row a seed, a column a start."""
    table = tables.read(name, "quick")
    parts = [part for _, part in table.groupby(list(apart))] if apart else [table]
    found = []
    for part in parts:
        means = part.groupby(["seed", "start"])["test_accuracy"].mean().unstack("start")
        found += [means.drop(columns=one).sub(means[one], axis=0).dropna(axis=1) for one in means]
    return found


def ours(family: Family) -> dict[str, str]:
    return {name: one.outcome for name, one in statistics.judge_all(family).items()}


def usual(family: Family) -> dict[str, str]:
    """The usual rule, with Holm's levels too."""
    ends = {name: interval(values) for name, values in family.items()}
    order = sorted(family, key=lambda name: -abs(ends[name].mean) / max(ends[name].high - ends[name].mean, 1e-12))
    found, is_open = {}, False
    for place, name in enumerate(order):
        _, low, high, _ = interval(family[name], level=LEVEL / (len(order) - place))
        inside = low > -MARGIN and high < MARGIN
        told = EQUIVALENT if inside else ABOVE if low > 0 else BELOW if high < 0 else OPEN
        is_open = is_open or told == OPEN
        found[name] = OPEN if is_open else told
    return found


def compared(first: str, second: str) -> str:
    if first == second:
        return "agree"
    return "one open" if OPEN in (first, second) else "contradict"


def halves(family: pd.DataFrame, order: np.ndarray, rule: Callable[[Family], dict[str, str]]) -> Counter[str]:
    """How often two disjoint halves of the seeds, in this order, get which verdicts."""
    size = len(order) // 2
    first, second = (rule(family.iloc[half].to_dict("list")) for half in (order[:size], order[size : 2 * size]))
    return Counter(compared(first[name], second[name]) for name in family)


def stated() -> list[tuple[str, Query]]:
    """Table and query of every verdict in the book's pages on a table of this scale."""
    found = []
    for page in sorted((project_root() / "book").glob("*.md")):
        for query in re.findall(r"\{cell\}`([^`]+)`", page.read_text(encoding="utf-8")):
            scale, name, _, rest = cells.name_of(" ".join(query.split()), "quick")
            asked = Query.parse(rest)
            plain = replace(asked, options={key: value for key, value in asked.options.items() if key != "words"})
            if scale == "quick" and asked.verb in ("verdict", "judged") and (name, plain) not in found:
                found.append((name, plain))
    return found


def of_pages(splits: int, seed: int) -> dict[str, object]:
    """The row of what is stated, where the reference has seeds enough for halves."""
    every, drawn, counted = stated(), np.random.default_rng(seed), Counter[str]()
    read = {name: tables.read(name, "quick") for name, _ in every}
    seeds = {name: table["seed"].nunique() for name, table in read.items()}
    asked = [(name, query) for name, query in every if seeds[name] >= 2 * statistics.least_seeds()]
    for _, (name, query) in itertools.product(range(splits), asked):
        order = drawn.permutation(sorted(read[name]["seed"].unique()))
        size = len(order) // 2
        first, second = (
            cells.judged(read[name][read[name]["seed"].isin(half)], query).outcome
            for half in (order[:size], order[size : 2 * size])
        )
        counted[compared(first, second)] += 1
    fewest = min((seeds[name] for name, _ in asked), default=0)
    return {
        "table": "stated in the book", "rule": "ours", "seeds": fewest, "comparisons": len(asked), **shares(counted),
    }  # fmt: skip


def of_ledger(splits: int, seed: int) -> dict[str, object]:
    """The row of the claims that the reference at this scale answers, again where it has seeds enough for halves."""
    least = 2 * statistics.least_seeds()
    answered = {one.id: one.seeds for one in ledger.judge_all() if one.scale == "quick" and one.seeds >= least}
    claims = [one for one in ledger.read_claims(project_root() / "book" / "claims.yaml") if one["id"] in answered]
    drawn, counted = np.random.default_rng(seed), Counter[str]()
    read = functools.cache(lambda name: tables.find(name, "quick"))

    def told(half: np.ndarray) -> dict[str, str]:
        def find(name: str, scale: str) -> pd.DataFrame | None:
            table = read(name) if scale == "quick" else None
            return None if table is None else table[table["seed"].isin(half)]

        return {one.id: one.verdict for one in ledger.judge(claims, find)}

    for _ in range(splits):
        order = drawn.permutation(least)
        first, second = told(order[: least // 2]), told(order[least // 2 :])
        counted += Counter(compared(first[name], second[name]) for name in answered)
    return {
        "table": "the ledger's claims", "rule": "ours", "seeds": min(answered.values(), default=0),
        "comparisons": len(answered), **shares(counted),
    }  # fmt: skip


def shares(counted: Counter[str]) -> dict[str, float]:
    """Of how many comparisons which; nan where there is none."""
    total = counted.total() or math.nan
    return {key: round(counted[key] / total, 4) for key in ("agree", "one open", "contradict")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the table to results/benchmark/")
    given = parser.parse_args()
    rows = []
    for (name, apart), (title, rule) in itertools.product(TABLES.items(), {"ours": ours, "usual": usual}.items()):
        drawn, counted = np.random.default_rng(given.seed), Counter[str]()
        every = families(name, apart)
        for _, family in itertools.product(range(given.splits), every):
            counted += halves(family, drawn.permutation(len(family)), rule)
        pairs = counted.total() // given.splits
        rows.append({"table": name, "rule": title, "seeds": len(every[0]), "comparisons": pairs, **shares(counted)})
    table = pd.DataFrame([of_pages(given.splits, given.seed), of_ledger(given.splits, given.seed), *rows])
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    if given.write:
        tables.write_benchmark("verdicts", table, parameters={"splits": given.splits, "seed": given.seed})


if __name__ == "__main__":
    main()
