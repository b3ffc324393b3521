"""The rules of `dtl_lib.exercises`, on answers of every kind."""

import numpy as np
import pytest
import torch
from torch import nn

from dtl_lib.exercises import (
    WrongAnswer,
    exercise,
    expect,
    expect_close,
    expect_fresh,
    expect_learns,
    expect_number,
    expect_shape,
    give_weights,
    is_near,
    refuse_mistakes,
)


@exercise
def check_double(double):
    expect_close(double(torch.tensor([1.0, 2.0])), [2.0, 4.0], "twice each number")


@exercise
def check_layer(layer):
    expect_shape(layer()(torch.zeros(2, 3)), (2, 3), "the layer keeps the shape")


@exercise
def check_guess(guess):
    expect(guess == 7, "count again")


def dots(x): ...


def passes(x):
    """What to do."""
    pass


def raises(x):
    raise NotImplementedError("your turn")


def placeholder(x):
    y = ...
    return y


class Stub(nn.Module):
    def forward(self, x): ...


@pytest.mark.parametrize("stub", [dots, passes, raises, placeholder, None, ...])
def test_a_stub_is_not_attempted(stub, capsys):
    check_double(stub)
    assert capsys.readouterr().out == "not attempted\n"


def test_a_class_with_a_stub_method_is_not_attempted(capsys):
    check_layer(Stub)
    assert capsys.readouterr().out == "not attempted\n"


def test_right_answers_are_right(capsys):
    check_double(lambda x: 2 * x)
    check_layer(nn.Identity)
    check_guess(7)
    assert capsys.readouterr().out == "right\n" * 3


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda x: x, "twice each number"),
        (lambda x: (2 * x)[None], r"expected the shape \(2,\), not \(1, 2\)"),
        (lambda x: print(x), "returns nothing"),
        (lambda x: x @ torch.zeros(5), "stops with RuntimeError"),
        (lambda x: x.long().softmax(dim=0), "stops with NotImplementedError.*not implemented for 'Long'"),
        (lambda: 1, "stops with TypeError"),
        (torch.zeros(2), "stops with TypeError"),
    ],
)
def test_a_wrong_answer_raises_with_a_hint_of_one_line(wrong, hint, capsys):
    with pytest.raises(WrongAnswer, match=hint) as caught:
        check_double(wrong)
    assert "\n" not in str(caught.value)
    assert "right" not in capsys.readouterr().out


def test_a_function_that_returns_a_constant_is_an_answer():
    with pytest.raises(WrongAnswer):
        check_double(lambda x: torch.zeros(2))
    with pytest.raises(WrongAnswer):
        check_double(lambda x: 3)


def test_a_wrong_value_raises():
    with pytest.raises(WrongAnswer, match="count again"):
        check_guess(8)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)


class Mine(Twice):
    pass


class Renamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)


class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.map, self.norm = nn.Linear(3, 2), nn.LayerNorm(2)


class More(Twice):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(1, 1)


def test_both_get_the_same_random_weights_norms_included():
    mine, library = Mine(), Twice()
    give_weights(mine, library)
    for name, value in library.state_dict().items():
        assert torch.equal(mine.state_dict()[name], value)
        assert value.std() > 0, "a weight of one value would hide what it is multiplied with"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (3, "expected an nn.Module, not int"),
        (Renamed(), "there is no 'map.weight' among your parameters"),
        (Narrow(), r"map.weight is \(2, 3\), and should be \(4, 3\)"),
        (More(), "a parameter too many: extra.bias, extra.weight"),
    ],
)
def test_other_parameters_are_named(answer, hint):
    with pytest.raises(WrongAnswer, match=hint):
        give_weights(answer, Twice())


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, torch.tensor])
def test_a_number_of_any_kind_is_compared(kind):
    assert is_near(kind(0.1), 0.1) and not is_near(kind(0.1001), 0.1)
    expect_number(kind(0.1), 0.1, "a tenth")
    with pytest.raises(WrongAnswer, match="a tenth; not .*0.2"):
        expect_number(kind(0.2), 0.1, "a tenth")


@pytest.mark.parametrize("answer", ["0.1", None, [0.1], torch.tensor([0.1, 0.1]), float("nan")])
def test_what_is_no_number_is_no_answer(answer):
    assert not is_near(answer, 0.1)


def in_place(x):
    return x.mul_(2)


def through_a_view(x):
    x[1:] *= 2
    return 2 * x


def then_stops(x):
    x.zero_()
    raise KeyError("gone")


@pytest.mark.parametrize("answer", [in_place, through_a_view, then_stops])
def test_an_answer_that_changes_a_tensor_it_is_given_hears_so(answer):
    with pytest.raises(WrongAnswer, match="^x itself has changed: build a new one$"):
        check_double(answer)


def test_an_answer_that_changes_a_dictionary_it_is_given_hears_so():
    @exercise
    def check_first(first):
        expect(first({"a": 1, "b": 2}) == 1, "the first value")

    with pytest.raises(WrongAnswer, match="names itself has changed"):
        check_first(lambda names: names.pop("a"))
    check_first(lambda names: next(iter(names.values())))


@pytest.mark.parametrize(
    "change",
    [lambda parts: parts.reverse(), lambda parts: parts.pop(), lambda parts: parts[1].add_(1)],
    ids=["order", "length", "a part"],
)
def test_an_answer_that_works_on_a_list_is_refused(change):
    @exercise
    def check_sum(add):
        expect_close(add([torch.ones(2), torch.ones(2)]), [2.0, 2.0], "the sum")

    def in_place(parts):
        total = sum(parts)
        change(parts)
        return total

    with pytest.raises(WrongAnswer, match="parts itself has changed"):
        check_sum(in_place)
    check_sum(lambda parts: sum(parts))


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.int64])
def test_a_mistake_is_known_in_any_type(kind):
    answer = torch.tensor([1.0, 2.0])
    with pytest.raises(WrongAnswer, match="once, not twice"):
        refuse_mistakes(answer.to(kind), {"once, not twice": answer})
    refuse_mistakes(2 * answer.to(kind), {"once, not twice": answer})


def test_a_gradient_has_to_reach_every_source():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    sources = dict(layer.named_parameters())
    expect_learns(layer(x), sources)
    for cut in (layer(x).detach(), x @ layer.weight + layer.bias.detach()):
        with pytest.raises(WrongAnswer, match="no gradient reaches"):
            expect_learns(cut, sources)
    layer.bias.requires_grad_(False)
    with pytest.raises(WrongAnswer, match="bias can learn nothing"):
        expect_learns(layer(x), sources)


def test_a_model_has_to_be_built_anew():
    expect_fresh(lambda: nn.Linear(2, 2))
    once = nn.Linear(2, 2)
    with pytest.raises(WrongAnswer, match="fresh"):
        expect_fresh(lambda: once)
