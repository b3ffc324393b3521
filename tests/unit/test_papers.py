"""What the book says it did with the papers' equations, figures and tables: whole, and backed."""

import math
import re
from itertools import groupby
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from book.tools.project import ROOT
from dtl_lib import ledger
from dtl_lib.exercises import ch22
from dtl_lib.lab import atlas, papers
from dtl_lib.lab.atlas import followup
from dtl_lib.lab.atlas.grid import grids

ITEMS = papers.read()
SOURCES = tuple(papers.TITLES)
ASKED = [item for item in ITEMS if item.interval]
CHAPTERS = {int(path.name[:2]): path for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}


def called(item):
    return f"{item.source} {item.kind} {item.number}"


@pytest.mark.parametrize("source", SOURCES)
def test_no_number_is_missing(source):
    """A part of a figure, 7a, stands for the figure where the others do."""
    for kind in papers.KINDS:
        numbers = [
            int(re.match(r"\d+", item.number)[0]) for item in ITEMS if (item.source, item.kind) == (source, kind)
        ]
        once = [number for number, _ in groupby(numbers)]
        unread = papers.UNREAD.get((source, kind), ())
        assert sorted([*once, *unread]) == list(range(1, len(once) + len(unread) + 1)), f"{source}, {kind}"
        assert once == sorted(once)


def test_each_is_there_once_and_in_the_words_of_the_table():
    names = [called(item) for item in ITEMS]
    assert len(set(names)) == len(names)
    assert list(dict.fromkeys(item.source for item in ITEMS)) == list(SOURCES)
    assert {item.verdict for item in ITEMS} <= set(papers.VERDICTS)
    assert {item.kind for item in ITEMS} == set(papers.KINDS)


@pytest.mark.parametrize("item", ITEMS, ids=called)
def test_what_is_said_of_one_is_backed(item):
    assert item.shows and len(item.shows.split()) <= 16
    assert set(item.chapters) <= set(CHAPTERS)
    for name in item.records:
        assert ledger.read(name), f"{name} has no record"
    for name in item.stored:
        assert list((ledger.FOLDER / name).parent.glob(f"{Path(name).name}.*")), f"{name} is not stored"
    if item.verdict in ("out of reach", "not tried"):
        assert not item.interval and item.note, "says what is missing, or what was not done"
    else:
        assert item.chapters, "somewhere it is taken up"
    if item.verdict == "built":
        assert (ROOT / item.check).is_file(), "a test checks it"
    elif item.verdict not in ("out of reach", "not tried"):
        assert item.command, "measured, and so repeatable, as the chapter says"
        assert item.note, "on which model, and what came out"


def ends(found):
    """Low and high of an estimate."""
    return found.value - found.half, found.value + found.half


def over_seeds(experiment, more, less, value="accuracy", of=None):
    """Ends in points of `more` − `less`, paired by seed: what their records are called, on a CPU."""
    runs = [one for one in ledger.read(experiment) if "CPU" in one.device]
    by_seed = [{one.seed: one for one in runs if one.what == what} for what in (more, less)]
    assert len(by_seed[0]) == len(by_seed[1]) == 3
    pairs = [(by_seed[0][seed], by_seed[1][seed]) for seed in sorted(by_seed[0])]
    return ends(followup.over_seeds([100 * (a.get(value) - b.get(of or value)) for a, b in pairs]))


def of_record(identity, *name):
    """Ends that a record holds as (value, low, high), or as low and high, of which the last block's is taken."""
    (record,) = [one for name in ("knows", "registers_paper") for one in ledger.read(name) if one.id == identity]
    if len(name) == 1:
        return tuple(record.get(name[0])[1:])
    return tuple(value[-1] if isinstance(value, list) else value for value in map(record.get, name))


def registers_varied():
    """The atlas's slope: points for each doubling of 1 + registers."""
    grid = grids()["cpu"]
    return ends(atlas.find(grid, atlas.read(grid), scale=100).slope)


def pooled():
    """The mean of the patches less a class token at 0, by their own three seeds, at each cell's better rate."""
    better, grid = followup.surface_at_better_rate(), grids()["cpu"]
    cells = {pool: [cell for cell in grid.cells() if cell.cls == pool] for pool in (atlas.POOLING, 0)}
    points = {
        (pool, seed): fmean(100 * better[cell, seed].get("accuracy") for cell in of)
        for pool, of in cells.items()
        for seed in grid.seeds
    }
    return ends(followup.over_seeds([points[atlas.POOLING, seed] - points[0, seed] for seed in grid.seeds]))


BEST = "best of eleven, moved less untouched, DAVIS"
HARD, SOFT, NONE = "hard, class token", "soft, class token", "no teacher, class token"
BOTH = "hard, both tokens"
EVIDENCE = {
    "touvron2021training table 3a": lambda: over_seeds("distillation", HARD, NONE),
    "touvron2021training table 3b": lambda: over_seeds("distillation", SOFT, NONE),
    "touvron2021training table 3c": lambda: over_seeds("distillation", HARD, SOFT),
    "touvron2021training table 3d": lambda: over_seeds("distillation", BOTH, HARD),
    "touvron2021training table 3e": lambda: over_seeds("distillation", BOTH, BOTH, "accuracy_mean", "accuracy_cls"),
    "touvron2021going table 1a": lambda: over_seeds("deep", "depth 48, plain", "depth 12, plain"),
    "touvron2021going table 1c": lambda: over_seeds("deep", "depth 48, ReZero", "depth 48, LayerScale 1e-5"),
    "touvron2021going table 2b": pooled,
    "darcet2024vision figure 5b": lambda: of_record("a7237dc54c97", "low", "high"),
    "darcet2024vision figure 5c": lambda: of_record("a7bdc31b152f", "long less twin"),
    "darcet2024vision figure 8b": registers_varied,
    "darcet2024vision table 1": lambda: of_record("19cc91963bfb", "outlier less twin"),
    "darcet2024vision table 3": lambda: of_record("6b38da828db9", *(BEST + end for end in ("_low", "_high"))),
}


@pytest.mark.parametrize("item", ASKED, ids=called)
def test_the_verdict_is_the_intervals(item):
    asked = item.interval
    assert item.verdict == papers.verdict(asked.low, asked.high, asked.claim, asked.margin)
    low, high = EVIDENCE[called(item)]()
    digit = 0.05 if asked.margin == 1 else 5e-4
    assert asked.low == pytest.approx(low, abs=digit)
    assert asked.high == pytest.approx(high, abs=digit)


@pytest.mark.parametrize(
    ("low", "high", "claim", "verdict"),
    [
        (0.1, 0.2, 1, "reproduced"),
        (0.1, 0.2, -1, "opposite"),
        (-3, -1, -1, "reproduced"),
        (-3, -1, 1, "opposite"),
        (-0.9, 0.9, 1, "null"),
        (-0.9, 1.1, 1, "undecided"),
        (-1.1, 0.9, -1, "undecided"),
        (-0.9, 0.9, 0, "reproduced"),
        (0.1, 0.9, 0, "reproduced"),
        (0.1, 1.1, 0, "opposite"),
        (-0.1, 1.1, 0, "undecided"),
    ],
)
def test_verdict(low, high, claim, verdict):
    assert papers.verdict(low, high, claim, margin=1) == verdict


@pytest.mark.parametrize(("factor", "others"), [(2, {}), (0.5, {"touvron2021training table 3e": "undecided"})])
def test_other_margins_change_what_chapter_22_says(factor, others):
    again = {
        called(item): papers.verdict(one.low, one.high, one.claim, factor * one.margin)
        for item in ASKED
        for one in [item.interval]
    }
    assert {
        name: found for name, found in again.items() if found != {called(i): i.verdict for i in ASKED}[name]
    } == others


RIGHT = {  # right answers that a checker has to take, in other types and by other ways of adding up
    "check_my_verdict": [lambda *case: np.str_(papers.verdict(*case))],
    "check_by_chance": [
        lambda claims, level: [claims * level / 2, 1 - (1 - level / 2) ** claims],
        lambda claims, level: np.array([claims * level / 2, 1 - (1 - level / 2) ** claims]),
        lambda claims, level: (np.float64(claims * level / 2), np.float64(1 - (1 - level / 2) ** claims)),
        lambda claims, level: torch.tensor([claims * level / 2, 1 - (1 - level / 2) ** claims]),
    ],
    "check_runs_needed": [
        lambda half, runs, margin: max(runs, math.ceil((half * math.sqrt(runs) / margin) ** 2)),
        lambda half, runs, margin: max(runs, math.ceil(runs / (margin / half) ** 2)),
        lambda half, runs, margin: max(runs, np.ceil(runs * (half / margin) ** 2)),
        lambda half, runs, margin: next(n for n in range(runs, 1000) if half * (runs / n) ** 0.5 <= margin),
    ],
}


@pytest.mark.parametrize(("check", "answer"), [(check, answer) for check in RIGHT for answer in RIGHT[check]])
def test_a_right_answer_of_another_kind_is_right(check, answer, capsys):
    getattr(ch22, check)(answer)
    assert capsys.readouterr().out == "right\n"


def test_a_note_is_short():
    assert [called(item) for item in ITEMS if len(item.note.split()) > 35] == []


def test_the_checkers_verdicts_are_the_librarys():
    for low, high, claim, margin, verdict in ch22.CASES.values():
        assert papers.verdict(low, high, claim, margin) == verdict


def test_counts():
    counts = papers.counts(ITEMS)
    assert list(counts) == list(papers.VERDICTS) and sum(counts.values()) == len(ITEMS)
    assert counts["built"] == sum(item.verdict == "built" for item in ITEMS)
