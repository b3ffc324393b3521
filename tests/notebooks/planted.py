"""Holds a chapter's checkers against its stubs, its folded solutions and planted wrong answers."""

import contextlib
import inspect
import io
import types

from torch import nn

from book.tools.definitions import parse
from book.tools.exercises import Exercise, definitions_before
from dtl_lib.exercises import WrongAnswer


def verdict(checker, answer) -> str:
    """What a checker says of an answer: "right", "not attempted", "wrong: …", or "crash: …"."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            checker(answer)
    except WrongAnswer as wrong:
        return f"wrong: {wrong}"
    except Exception as error:
        return f"crash: {type(error).__name__}: {error}"
    return printed.getvalue().strip()


def problems(notebook, exercises: list[Exercise], checkers, wrong: dict[str, list]) -> list[str]:
    """What is wrong with the checkers of a chapter, one line each.

    Args:
        checkers: the chapter's module of checkers.
        wrong: the planted wrong answers by checker's name.
    """
    messages = []
    decorated = {name for name, value in vars(checkers).items() if getattr(value, "is_exercise", False)}
    for name in sorted(decorated | {exercise.checker for exercise in exercises}):
        if name not in decorated:
            messages.append(f"{name} is not in the chapter's checkers, or lacks @exercise")
            continue
        if not wrong.get(name):
            messages.append(f"{name} has no planted wrong answer")
        for answer in wrong.get(name, []):
            if not (result := verdict(getattr(checkers, name), answer)).startswith("wrong: ") or "\n" in result:
                messages.append(f"{name} says {result!r} to the planted {getattr(answer, '__name__', answer)}")
    for exercise in exercises:
        if exercise.checker in decorated:
            checker = getattr(checkers, exercise.checker)
            messages += _stub(notebook, exercise, checker) + _solution(notebook, exercise, checker)
    return messages


def _stub(notebook, exercise: Exercise, checker) -> list[str]:
    names = definitions_before(notebook, exercise.stub + 1)
    result = verdict(checker, names[exercise.answer]) if exercise.answer in names else "no stub"
    return [] if result == "not attempted" else [f"{exercise.checker} says {result!r} to the notebook's stub"]


def _solution(notebook, exercise: Exercise, checker) -> list[str]:
    names = definitions_before(notebook, exercise.stub)
    try:
        exec(compile(parse(exercise.solution), "solution", "exec"), names)
    except Exception as error:
        return [f"the folded solution for {exercise.checker} stops with {type(error).__name__}: {error}"]
    answer = names.get(exercise.answer)
    if (result := verdict(checker, answer)) != "right":
        return [f"{exercise.checker} says {result!r} to the folded solution"]
    return _kept(exercise, checker, answer)


def _kept(exercise: Exercise, checker, answer) -> list[str]:
    """A function that builds a model has to build another one in each call: the trials train what it returns."""
    if not isinstance(answer, types.FunctionType) or inspect.signature(answer).parameters:
        return []
    model = answer()
    if not isinstance(model, nn.Module) or verdict(checker, lambda: model).startswith("wrong: "):
        return []
    return [f"{exercise.checker} says 'right' to a function that returns the same model twice: expect_fresh"]
