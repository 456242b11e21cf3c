"""Did it reproduce: the list of headlines, an interval by hand, refusals, how many chance puts outside, the command."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from companion.__main__ import main
from companion.compare import cells, reproduction
from companion.compare.reproduction import Chance, Headline, compare
from companion.lab import tables

ROOT = Path(__file__).parents[2]
HEADLINES = reproduction.read_headlines(ROOT / reproduction.HEADLINES)
ACCURACY = Headline("one", "arithmetic", "an accuracy", "book/index", "01_x test_accuracy start=a")
LEAD = Headline("two", "arithmetic", "a lead", "book/index", "01_x lead test_accuracy start=a over=b")
T10 = 2.262157
"""Student's t, 97.5 %, 9 degrees of freedom (from a printed table)."""


def by_seed(values, first=0) -> pd.Series:
    return pd.Series(values, index=range(first, first + len(values)), dtype=float)


# ---------------------------------------------------------------------------------------
# The list


def test_every_headline_has_a_page_and_an_answer_in_the_reference():
    assert 35 <= len(HEADLINES) <= 60
    for one in HEADLINES:
        assert (ROOT / f"{one.page}.md").is_file() or (ROOT / "notebooks" / f"{Path(one.page).name}.ipynb").is_file()
        values = cells.values(tables.read(one.table, reproduction.SCALE), one.asked)
        low, high = one.limits
        assert low <= values.min() <= values.max() <= high, one.id


GOOD = {"id": "a", "text": "an accuracy", "page": "book/index", "query": "01_x test_accuracy"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"page": None}, "headline a: page is missing"),
        ({"id": ""}, "id is missing"),
        ({"digits": 2}, "headline a: digits is not known"),
        ({"query": "01_x verdict test_accuracy start=a over=b"}, "headline a: query"),
        ({"query": "01_x test_accuracy as=percent"}, "headline a: query"),
        ({"query": "paper/01_x test_accuracy"}, "headline a: query"),
        ({"query": "01_x.points mean inside"}, "headline a: query"),
        ({"query": "01_x"}, "headline a: query '01_x': .*one column"),
        ({"query": "01_x test_accuracy start='a"}, "headline a: query"),
    ],
)
def test_a_wrong_headline_is_named(tmp_path, change, said):
    path = tmp_path / "headlines.yaml"
    path.write_text(json.dumps({"arithmetic": [GOOD]}))
    assert [one.text for one in reproduction.read_headlines(path)] == ["an accuracy"]
    path.write_text(json.dumps({"arithmetic": [{**GOOD, **change}]}))
    with pytest.raises(ValueError, match=said):
        reproduction.read_headlines(path)


def test_an_id_stands_once(tmp_path):
    path = tmp_path / "headlines.yaml"
    path.write_text(json.dumps({"arithmetic": [GOOD], "pictures": [GOOD]}))
    with pytest.raises(ValueError, match="headline a: the id stands twice"):
        reproduction.read_headlines(path)


# ---------------------------------------------------------------------------------------
# One headline


def test_the_interval_is_the_one_for_as_many_seeds_as_the_reader_has():
    values = [0.50, 0.52, 0.54, 0.56, 0.58, 0.60, 0.62, 0.64, 0.66, 0.68]
    for own in ([0.6], [0.5, 0.7], [0.3, 0.6, 0.9]):
        found = compare(ACCURACY, by_seed(values), by_seed(own, 100))
        reach = T10 * statistics.stdev(values) * math.sqrt(1 / len(own) + 1 / 10) + 0.001
        assert (found.low, found.high) == pytest.approx((0.59 - reach, 0.59 + reach), abs=1e-6)
        assert (found.outcome, found.value) == ("inside", pytest.approx(0.6))
    assert compare(ACCURACY, by_seed(values), by_seed([0.9], 100)).outcome == "outside"
    assert compare(ACCURACY, by_seed(values), by_seed([0.2], 100)).outcome == "outside"


def test_an_interval_ends_where_the_quantity_does():
    values = [0.98, 0.99, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 1.0]
    found = compare(ACCURACY, by_seed(values), by_seed([1.0], 100))
    assert (found.high, found.inside) == (1.0, True)
    lead = compare(LEAD, by_seed([value - 1 for value in values]), by_seed([0.0], 100))
    assert lead.high > 0.01  # a difference can be positive


def test_where_all_seeds_agree_one_test_pair_makes_no_difference():
    for value, outcome in ((1.0, "inside"), (0.9991, "inside"), (0.997, "outside")):
        assert compare(ACCURACY, by_seed([1.0] * 20), by_seed([value], 100)).outcome == outcome


@pytest.mark.parametrize(
    ("reference", "own", "why"),
    [
        ([0.5] * 9, by_seed([0.5], 100), "the reference has 9 seeds, of 10"),
        ([0.5] * 9 + [math.nan], by_seed([0.5], 100), "the reference's seed 9 diverged"),
        ([0.5, 0.6] * 5, by_seed([0.5, 0.6], 2), "the reference has seeds 2 and 3, too"),
        ([0.5, 0.6] * 5, by_seed([0.5, math.nan], 100), "seed 101 diverged"),
        ([0.5, 0.6] * 5, reproduction.NOTHING, reproduction.NO_RUN),
    ],
)
def test_what_cannot_be_compared_says_why(reference, own, why):
    found = compare(ACCURACY, by_seed(reference), own)
    assert (found.refused, found.outcome, found.inside) == (why, why, False)


def test_seeds_that_the_reference_has_do_not_count():
    found = compare(ACCURACY, by_seed([0.5, 0.6] * 5), by_seed([0.9, 0.55], 9))  # 9 and 10
    assert (found.own.to_dict(), found.shared, found.outcome) == ({10: 0.55}, (9,), "inside")


# ---------------------------------------------------------------------------------------
# Coverage, and chance


def test_of_ordinary_values_95_percent_lie_inside():
    rng = np.random.default_rng(0)
    for of in (1, 2, 3):
        found = [reproduction.coverage(by_seed(rng.normal(0.5, 0.05, 20)), of, (0, 1), 60) for _ in range(60)]
        share = sum(inside for inside, _ in found) / sum(sets for _, sets in found)
        assert 0.93 <= share <= 0.97, (of, share)


def test_one_odd_seed_of_twenty_is_the_one_outside():
    values = by_seed([0.5, 0.51] * 9 + [0.5, 0.9])
    assert reproduction.coverage(values, 1, (0, 1)) == (19, 20)


def in_group(group: str, values: pd.Series, own: pd.Series, name: str) -> reproduction.Compared:
    return compare(Headline(name, group, name, "book/index", ACCURACY.query), values, own)


def test_headlines_of_one_group_miss_together_and_groups_by_themselves():
    odd = by_seed([0.5, 0.51] * 9 + [0.5, 0.9])
    together = [in_group("arithmetic", odd, by_seed([0.5], 100), str(i)) for i in range(3)]
    found = reproduction.chance(together)
    assert found.shares[:4] == pytest.approx((0.95, 0, 0, 0.05))
    assert (found.mean, found.most) == (pytest.approx(0.15), 0)
    apart = [in_group(str(i), odd, by_seed([0.5], 100), str(i)) for i in range(2)]
    assert reproduction.chance(apart).shares[:3] == pytest.approx((0.95**2, 2 * 0.95 * 0.05, 0.05**2))
    assert reproduction.chance(apart).most == 1


def test_each_headline_leaves_out_the_seeds_that_it_has():
    odd = by_seed([0.5, 0.51] * 9 + [0.5, 0.9])
    one, other = (in_group("a", odd, by_seed([0.5], first), str(first)) for first in (100, 101))
    assert reproduction.chance([one, other]).shares[:3] == pytest.approx((0.9, 0.1, 0))  # never both the odd one
    assert Chance((0.9, 0.05, 0.05)).most == 1


def test_a_run_of_more_seeds_than_the_reference_is_compared_too():
    found = in_group("a", by_seed([0.5, 0.51] * 6), by_seed([0.505] * 30, 100), "many")
    assert found.inside
    assert 0 <= reproduction.chance([found]).mean <= 0.2


# ---------------------------------------------------------------------------------------
# A project


def write(folder: Path, seeds, shift=0.0, lr=0.1, starts="ab", part="000", counts=(0, 25)) -> None:
    rows = [
        (start, seed, 0.5 + 0.2 * (start == "a") + 0.01 * ((7 * seed + ord(start)) % 5) + shift * (start == "a"))
        for start in starts
        for seed in seeds
    ]
    table = pd.DataFrame(rows, columns=["start", "seed", "test_accuracy"])
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{part}.csv", index=False)
    parameters = {"scale": "quick", "seeds": list(seeds), "lr": lr, "device": "cpu", "n_disambiguation": list(counts)}
    record = {"keys": ["start", "seed"], "rows": len(table), "columns": [*table.columns], "parameters": parameters}
    (folder / f"{part}.json").write_text(json.dumps({"name": "01_x", "scale": "quick", **record}))


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COMPANION_HOME", str(tmp_path))
    monkeypatch.delenv("COMPANION_TABLES", raising=False)
    write(tmp_path / "results" / "quick" / "01_x", range(12))
    (tmp_path / "book").mkdir()
    entries = [
        {"id": one.id, "text": one.text, "page": one.page, "query": one.query} for one in (ACCURACY, LEAD)
    ]  # fmt: skip
    (tmp_path / "book" / "headlines.yaml").write_text(json.dumps({"arithmetic": entries}))
    return tmp_path


def test_the_command_says_that_it_reproduced(project, capsys):
    write(project / "runs" / "quick" / "01_x", [100, 101])
    assert main(["reproduced"]) == 0
    told = capsys.readouterr().out
    assert "Reproduced. 0 of 2 headline numbers lie outside" in " ".join(told.split())
    assert "seeds 100 and 101" in " ".join(told.split())
    lines = [line for line in told.splitlines() if line.startswith(("an accuracy", "a lead"))]
    assert len(lines) == 2
    assert len({line.index("inside") for line in lines}) == 1  # aligned


def test_the_command_says_that_it_did_not(project, capsys):
    write(project / "runs" / "quick" / "01_x", [100, 101], shift=0.25)
    assert main(["reproduced"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "Not reproduced. 2 of 2 headline numbers lie outside" in told
    assert "OUTSIDE" in told


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (None, "no run of yours (make book makes one)"),
        ({"seeds": [0, 1]}, "the reference has seeds 0 and 1, too"),
        ({"seeds": [100], "lr": 0.2}, "your run has another lr"),
        ({"seeds": [100], "counts": [25]}, "your run has another n_disambiguation"),
        ({"seeds": [100], "starts": "c"}, "your run has no such rows"),
    ],
)
def test_the_command_says_why_it_cannot_say(project, capsys, own, why):
    if own:
        write(project / "runs" / "quick" / "01_x", **own)
    assert main(["reproduced"]) == 2
    assert f"It cannot be said whether it reproduced: {why}." in " ".join(capsys.readouterr().out.split())


def test_another_scale_of_ones_own_is_compared_with_the_same_reference(project, capsys):
    write(project / "runs" / "mine" / "01_x", [100, 101])
    assert (main(["reproduced"]), main(["reproduced", "--scale", "mine"])) == (2, 0)


def test_runs_of_other_settings_in_the_same_folder_do_not_count(project, capsys):
    write(project / "runs" / "quick" / "01_x", [100, 101])
    write(project / "runs" / "quick" / "01_x", [102], shift=0.25, lr=0.2, part="001")
    assert main(["reproduced"]) == 0
    assert "means over seeds 100 and 101." in " ".join(capsys.readouterr().out.split())


def test_a_list_that_is_wrong_is_said(project, capsys):
    (project / "book" / "headlines.yaml").write_text(json.dumps({"arithmetic": [{**GOOD, "query": "01_x nothing"}]}))
    assert main(["reproduced"]) == 2
    assert "headline a" in capsys.readouterr().err
