"""The rules of every exercise: a stub is "not attempted", a wrong answer raises with a hint, a right one says so.

A chapter's checkers are one module, `dtl_lib.exercises.ch01` and so on. A checker is a function of the reader's answer,
decorated with `exercise`, that uses the `expect` functions below::

    @exercise
    def check_patchify(patchify):
        patches = patchify(images, 4)
        expect_shape(patches, (2, 64, 48), "one row a patch: (batch, patches, patch_size² · channels)")
"""

import dis
import functools
import math
import types
from collections.abc import Callable, Mapping, Sequence

import torch


class WrongAnswer(AssertionError):
    """An answer that a checker refused; the message is the hint."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet: {self}"]  # what IPython shows: the hint, without the checker's insides


class NotAttempted(Exception):
    """Raised inside a checker where the answer is still the stub."""


def exercise(check: Callable) -> Callable:
    """Turn a function that checks an answer into a checker that keeps the book's rules.

    The checker prints "not attempted" for a stub and "right" for a right answer.

    Args:
        check: a function of one answer (a function, a class or a value) that raises through `expect`.

    Raises:
        WrongAnswer: by the checker, for every other answer, also for one that crashes.
    """

    @functools.wraps(check)
    def checker(answer) -> None:
        try:
            if is_stub(answer):
                raise NotAttempted
            check(_watched(answer))
        except NotAttempted:
            print("not attempted")
        except WrongAnswer as wrong:
            raise WrongAnswer(str(wrong)) from None
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise WrongAnswer(f"your answer stops with {type(error).__name__}: {reason}") from error
        else:
            print("right")

    setattr(checker, "is_exercise", True)  # noqa: B010 - a function's own attributes have no type
    return checker


def is_stub(answer) -> bool:
    """Whether an answer is still the stub: None, `...`, or a function whose body is only `...`, `pass` or `raise`.

    `raise` of NotImplementedError, that is; torch raises it too, for an operation that a type lacks.
    """
    if answer is None or answer is ...:
        return True
    if isinstance(answer, type):
        methods = [value for value in vars(answer).values() if isinstance(value, types.FunctionType)]
        return any(map(is_stub, methods))
    return isinstance(answer, types.FunctionType) and _does_nothing(answer)


def expect(condition: bool, hint: str) -> None:
    """Refuse the answer with `hint` unless `condition` holds."""
    if not condition:
        raise WrongAnswer(hint)


def expect_shape(tensor, shape: Sequence[int], hint: str) -> None:
    """Refuse anything but a tensor of this shape."""
    expect(isinstance(tensor, torch.Tensor), f"expected a tensor, not {type(tensor).__name__}: {hint}")
    expect(tuple(tensor.shape) == tuple(shape), f"expected the shape {tuple(shape)}, not {tuple(tensor.shape)}: {hint}")


def expect_close(tensor, expected, hint: str, tolerance: float = 1e-5) -> None:
    """Refuse a tensor that is not `expected`, element by element, to within `tolerance` (relative and absolute)."""
    expected = torch.as_tensor(expected)
    tensor = tensor if isinstance(tensor, torch.Tensor) else torch.as_tensor(tensor)
    expect_shape(tensor, expected.shape, hint)
    expect(torch.allclose(tensor.double(), expected.double(), rtol=tolerance, atol=tolerance), hint)


def expect_learns(tensor, sources: Mapping[str, torch.Tensor]) -> None:
    """Refuse a result through which no gradient reaches one of the named sources: a parameter, an input."""
    for name, source in sources.items():
        expect(source.requires_grad, f"{name} can learn nothing: leave requires_grad as it is")
    grads: Sequence[torch.Tensor | None] = [None] * len(sources)
    if tensor.requires_grad:
        grads = torch.autograd.grad(tensor.square().sum(), list(sources.values()), allow_unused=True)
    for name, grad in zip(sources, grads):
        reached = grad is not None and bool(grad.any())
        expect(reached, f"no gradient reaches {name}, and so nothing is learned there: without detach() and no_grad()")


def expect_fresh(build: Callable) -> None:
    """Refuse a function that returns the same model each time: a second run would go on with a trained one."""
    expect(build() is not build(), "build a fresh model in each call: this one is the same object twice")


def is_near(answer, expected: float) -> bool:
    """Whether an answer is this number, to within float32's digits; NumPy's and torch's scalars are numbers, too."""
    answer = answer.item() if hasattr(answer, "item") and getattr(answer, "ndim", None) == 0 else answer
    return isinstance(answer, int | float) and math.isclose(answer, expected, rel_tol=1e-6, abs_tol=1e-12)


def expect_number(answer, expected: float, hint: str) -> None:
    """Refuse a number that is not `expected`, as `is_near` compares them."""
    expect(is_near(answer, expected), f"{hint}; not {answer!r}")


def refuse_mistakes(answer: torch.Tensor, mistakes: Mapping[str, torch.Tensor]) -> None:
    """Refuse an answer that is what a known mistake gives, to within 1e-5; the keys are the hints."""
    for hint, wrong in mistakes.items():
        same = answer.shape == wrong.shape and torch.allclose(answer.double(), wrong.double(), rtol=1e-5, atol=1e-5)
        expect(not same, hint)


def give_weights(answer, library: torch.nn.Module, seed: int = 0) -> None:
    """Fill the library's module with random weights, biases and norms included, and the reader's with the same.

    Args:
        answer: the reader's module.
        library: the module it is compared with, built with the same arguments.
        seed: of the weights.

    Raises:
        WrongAnswer: where the answer is no module, or its parameters have other names or shapes.
    """
    expect(isinstance(answer, torch.nn.Module), f"expected an nn.Module, not {type(answer).__name__}")
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(value.shape, generator=generator) / 4 for name, value in library.state_dict().items()}
    library.load_state_dict(weights)
    mine = {name: tuple(value.shape) for name, value in answer.state_dict().items()}
    for name, value in weights.items():
        expect(
            name in mine, f"there is no {name!r} among your parameters: {', '.join(sorted(mine)) or 'there are none'}"
        )
        expect(mine[name] == tuple(value.shape), f"{name} is {mine[name]}, and should be {tuple(value.shape)}")
    expect(set(mine) == set(weights), f"a parameter too many: {', '.join(sorted(set(mine) - set(weights)))}")
    answer.load_state_dict(weights)


def _does_nothing(function: types.FunctionType) -> bool:
    """Whether the body only returns None or `...`; read from bytecode, which needs no source."""
    if function.__code__.co_names == ("NotImplementedError",):
        return True
    steps = [step for step in dis.get_instructions(function) if step.opname not in ("RESUME", "NOP", "COPY_FREE_VARS")]
    constants = [step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return len(steps) - len(constants) <= 1 and len(constants) == 1 and constants[0] in (None, ...)


def _watched(answer):
    """A function answer that says so when it returns the placeholder or nothing, or changes what it is given."""
    if not isinstance(answer, types.FunctionType):
        return answer

    @functools.wraps(answer)
    def watched(*args, **kwargs):
        before = [_state(value) for value in args]
        try:
            result = answer(*args, **kwargs)
        finally:
            for name, value, state in zip(answer.__code__.co_varnames, args, before):
                expect(_state(value) == state, f"{name} itself has changed: build a new one")
        if result is ...:
            raise NotAttempted
        expect(result is not None, f"{answer.__name__} returns nothing: does it end with `return`?")
        return result

    return watched


def _state(value):
    """What an answer changes when it works in place on an argument: a tensor's version, a dictionary's names, a
    list's parts.
    """
    if isinstance(value, torch.Tensor):
        return None if value.is_inference() else value._version
    if isinstance(value, list | tuple):
        return [(id(part), _state(part)) for part in value]
    return list(value) if isinstance(value, dict) else None
