"""Do the intervals of "Did it reproduce?" hold what they say? The reference's own seeds, left out and predicted.

Of every headline number 1, 2 or 3 seeds are left out, in all ways (or in 200, where there are more), and the others say
where their mean should lie. Counted is how often it does: 95 % is what is said.

    python benchmarks/coverage.py
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

from companion.compare import cells
from companion.compare.reproduction import HEADLINES, SCALE, coverage, read_headlines
from companion.compare.statistics import enough
from companion.lab import tables
from companion.lab.project import project_root

AHEAD = (1, 2, 3)
"""How many seeds are left out."""
SETS = 200


def measured(results: Path) -> pd.DataFrame:
    """A row for each headline and number of seeds left out, and one for all headlines, which count alike."""
    rows = []
    for headline in read_headlines(project_root() / HEADLINES):
        values = cells.values(tables.read(headline.table, SCALE, root=results), headline.asked)
        if not enough(len(values)) or values.isna().any():
            print(f"left out: {headline.id}, {len(values)} seeds")
            continue
        for of in AHEAD:
            inside, sets = coverage(values, of, headline.limits, SETS)
            rows.append(("each", headline.group, headline.id, of, len(values), sets, inside / sets))
    columns = ["headline", "group", "id", "of", "seeds", "sets", "coverage"]
    each = pd.DataFrame(rows, columns=columns)
    means = each.groupby("of", as_index=False).agg({"seeds": "min", "sets": "sum", "coverage": "mean"})
    return pd.concat([means.assign(headline="all", group="", id="")[columns], each], ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="folder of the tables (default: results)")
    parser.add_argument("--write", action="store_true", help="write the table to results/benchmark/")
    given = parser.parse_args()
    began = time.monotonic()
    table = measured(given.results or project_root() / "results")
    print(table.round({"coverage": 3}).to_string(index=False))
    if given.write:
        tables.write_benchmark("coverage", table, parameters={"of": list(AHEAD), "sets": SETS}, began=began)


if __name__ == "__main__":
    main()
