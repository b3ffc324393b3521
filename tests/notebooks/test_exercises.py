"""Every checker refuses planted wrong answers, passes the folded solution and lets the stub be."""

import importlib
import types

import pytest
import torch

from book.tools.exercises import find
from book.tools.project import Project, read
from dtl_lib.exercises import exercise, expect_close, expect_shape
from tests.notebooks.conftest import markdown
from tests.notebooks.planted import problems

PAIR = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("path", Project().notebooks, ids=lambda path: path.stem)
def test_the_chapters_checkers(path):
    notebook, chapter = read(path), f"ch{path.name[:2]}"
    checkers = importlib.import_module(f"dtl_lib.exercises.{chapter}")
    wrong = importlib.import_module(f"tests.notebooks.wrong_answers.{chapter}").WRONG
    assert problems(notebook, find(notebook), checkers, wrong) == []


def chapter(notebook, stub="def double(x): ...", solution="def double(x):\n    return FACTOR * x"):
    """A notebook with one exercise: double a tensor."""
    return notebook(
        "from dtl_lib.exercises import ch01\nFACTOR = 2\nslow = undefined_name",
        markdown("### Exercise 1 · Double it\n\nDifficulty 1 of 3 · 2 minutes"),
        f"{stub}\n\n\nch01.check_double(double)",
        markdown(f"<details><summary>Solution</summary>\n\n```python\n{solution}\n```\n\n</details>"),
    )


def checkers(check):
    """A chapter's module of checkers."""
    return types.SimpleNamespace(check_double=exercise(check))


def fair(double):
    """What a checker of `double` should be."""
    expect_close(double(PAIR), 2 * PAIR, "twice each number")


def identity(x):
    return x


def crash(x):
    raise RuntimeError("two\nlines")


def run(notebook, check=fair, wrong=(identity, crash)):
    """The problems of a chapter."""
    return problems(notebook, find(notebook), checkers(check), {"check_double": list(wrong)})


def test_a_fair_exercise_passes(notebook):
    assert find(chapter(notebook))[0].effort == (1, 2)
    assert run(chapter(notebook)) == []


def test_a_checker_that_accepts_a_wrong_answer_is_found(notebook):
    messages = run(chapter(notebook), check=lambda double: expect_close(double(PAIR).shape, [2], "the shape"))
    assert messages == ["check_double says 'right' to the planted identity"]


def test_a_checker_without_planted_answers_is_found(notebook):
    assert run(chapter(notebook), wrong=()) == ["check_double has no planted wrong answer"]


def test_a_checker_that_refuses_the_solution_is_found(notebook):
    def unfair(double):
        expect_close(double(PAIR), 3 * PAIR, "three times")

    assert run(chapter(notebook), check=unfair) == ["check_double says 'wrong: three times' to the folded solution"]


def test_a_solution_that_stops_is_found(notebook):
    (message,) = run(chapter(notebook, solution="def double(x):\n    return missing * x"))
    assert "folded solution" in message


def test_a_stub_that_is_an_answer_is_found(notebook):
    (message,) = run(chapter(notebook, stub="def double(x):\n    return x"))
    assert message == "check_double says 'wrong: twice each number' to the notebook's stub"


def test_an_unplanted_checker_of_the_module_is_found(notebook):
    module = checkers(fair)
    module.check_more = exercise(fair)
    messages = problems(chapter(notebook), find(chapter(notebook)), module, {"check_double": [identity]})
    assert messages == ["check_more has no planted wrong answer"]


def test_a_checker_without_the_decorator_is_found(notebook):
    module = types.SimpleNamespace(check_double=fair)
    messages = problems(chapter(notebook), find(chapter(notebook)), module, {"check_double": [identity]})
    assert messages == ["check_double is not in the chapter's checkers, or lacks @exercise"]


def test_a_checker_that_takes_one_model_twice_is_found(notebook):
    build = "import torch\n\n\ndef double():\n    return torch.nn.Linear(2, 2)"

    def gullible(double):
        expect_shape(double().weight, (2, 2), "two numbers to two")

    def none():
        return torch.nn.Linear(2, 3)

    path = chapter(notebook, stub="def double(): ...", solution=build)
    (message,) = run(path, check=gullible, wrong=[none])
    assert message == "check_double says 'right' to a function that returns the same model twice: expect_fresh"
