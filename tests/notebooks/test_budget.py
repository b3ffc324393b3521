"""The time a chapter has: what is over, what a build makes of it, and what decides."""

import pytest

from book.tools import budget, build
from book.tools.budget import over_budget
from book.tools.meter import Cost


@pytest.mark.parametrize(
    ("wall", "cpu", "delayed", "over"),
    [
        (29, 28, 0, False),
        (31, 5, 0, True),
        (31, 5, 2, False),  # it waited while the machine did something else
        (29, 31, 0, True),  # two processes of its own
        (100, 20, 75, False),
        (100, 31, 75, True),
    ],
)
def test_a_chapter_has_thirty_seconds_of_its_own(wall, cpu, delayed, over):
    costs = {"01_a.ipynb": Cost(wall, cpu, delayed, 0, 0)} | {f"{n}.ipynb": Cost(1, 1, 0, 0, 0) for n in range(2)}
    assert [problem.startswith("01_a.ipynb took 31 s (") for problem in over_budget(costs)] == [True] * over


def test_the_median_chapter_has_half():
    assert over_budget({}) == []
    costs = {f"{n}.ipynb": Cost(seconds, seconds, 0, 0, 0) for n, seconds in enumerate((1, 14, 29))}
    assert over_budget(costs) == []
    assert over_budget(costs | {"1.ipynb": Cost(17, 4, 1, 0, 0)}) == ["the median notebook took 16 s of at most 15"]


@pytest.fixture
def slow(project, add, notebook, monkeypatch):
    """A project whose chapter takes longer than it has."""
    monkeypatch.setattr(budget, "CHAPTER", 0.1)
    add("01_slow.ipynb", notebook("import time\n\ntime.sleep(0.5)"))
    return project


def test_a_build_says_what_is_over_and_goes_on(slow, capsys, monkeypatch):
    monkeypatch.setattr(build.subprocess, "run", lambda *args, **how: type("Done", (), {"returncode": 0}))
    monkeypatch.setattr(build, "check_executed", lambda project: [])
    for _ in range(2):  # and again where nothing has to be run
        assert build.build(slow) == 0
        shown = capsys.readouterr()
        assert "01_slow.ipynb took" in shown.out and "make budget" in shown.out and not shown.err


def test_the_budget_s_own_command_fails(slow, add, notebook, capsys, monkeypatch):
    assert budget.main(slow) == 1
    shown = capsys.readouterr()
    assert "01_slow.ipynb: Ran in" in shown.out and "01_slow.ipynb took" in shown.err
    monkeypatch.setattr(budget, "CHAPTER", 300.0)
    monkeypatch.setattr(budget, "MEDIAN", 300.0)
    assert budget.main(slow) == 0
    assert "every chapter keeps its budget" in capsys.readouterr().out
    add("01_slow.ipynb", notebook("1 / 0"))
    assert budget.main(slow) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
