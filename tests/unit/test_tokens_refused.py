"""Every rule of the token plan: what breaks it is refused, and the message says what would be right."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtl_lib.tokens import Group, TokenPlan
from tests.unit.strategies import REGISTERS

ANY_DEPTH = st.integers(1, 12)

# One strategy a rule: (the arguments of a plan that breaks it, what its message says).
NOT_WHOLE = st.sampled_from((0, -1, 2.0, "3", None, True))
NAMES = st.sampled_from(("cls", "dist", *REGISTERS))


def with_cls(name: str, depth: int) -> tuple[Group, ...]:
    return (Group("cls", 1),) if name == "dist" else ()


@st.composite
def enters_after_the_end(draw):
    depth, classes, name = draw(ANY_DEPTH), draw(st.integers(0, 2)), draw(st.sampled_from(REGISTERS))
    enter = depth + classes + draw(st.integers(0, 3))
    cls = (Group("cls", 1),) if classes else ()
    return (depth, (*cls, Group(name, 1, enter)), classes), f"choose a block from 0 to {depth + classes - 1}"


@st.composite
def class_token_enters_at_depth(draw):
    depth, names = draw(ANY_DEPTH), ("cls", "dist")[: draw(st.integers(1, 2))]
    groups = tuple(Group(name, 1, depth) for name in names)
    return (depth, groups), f"cls enters .* from 0 to {depth - 1}, or class_blocks ≥ 1"


@st.composite
def class_token_enters_inside_class_attention(draw):
    depth, extra = draw(ANY_DEPTH), draw(st.integers(1, 3))
    return (depth, (Group("cls", 1, depth + extra),), extra + 1), f"choose a block from 0 to {depth}$"


@st.composite
def leaves_before_it_enters(draw):
    depth = draw(st.integers(2, 12))
    enter = draw(st.integers(1, depth - 1))
    leave = draw(st.integers(1, enter))
    return (depth, (Group("reg", 2, enter, leave),)), f"leave has to be from {enter + 1} to {depth}"


@st.composite
def leaves_after_the_end(draw):
    depth = draw(ANY_DEPTH)
    return (depth, (Group("reg", 2, 0, depth + draw(st.integers(1, 3))),)), f"leave has to be from 1 to {depth}"


@st.composite
def read_by_the_head_and_leaves(draw):
    name, depth = draw(st.sampled_from(("cls", "dist"))), draw(ANY_DEPTH)
    return (depth, (*with_cls(name, depth), Group(name, 1, 0, depth))), f"{name} may not leave.*leave=None"


@st.composite
def more_than_one_class_token(draw):
    name, tokens = draw(st.sampled_from(("cls", "dist"))), draw(st.integers(2, 5))
    return (4, (*with_cls(name, 4), Group(name, tokens))), f"{name} is one token, not {tokens}.*another name"


@st.composite
def two_of_a_name(draw):
    name = draw(NAMES)
    return (4, (*with_cls(name, 4), Group(name, 1), Group(name, 1))), f"two groups are called '{name}'.*its own name"


@st.composite
def dist_without_its_class_token(draw):
    enter = draw(st.integers(0, 11))
    cls = draw(st.none() | st.integers(0, 11).filter(lambda other: other != enter))
    said = "there is none" if cls is None else f"that is block {cls}"
    groups = () if cls is None else (Group("cls", 1, cls),)
    return (12, (*groups, Group("dist", 1, enter))), f"dist enters with cls .{said}"


@st.composite
def names_that_are_none(draw):
    name = draw(st.sampled_from(("patches", "", "two words", "a-b", "0", 3, None, ["reg"])))
    return (4, (Group(name, 1),)), "cannot name a group: take a word"


@st.composite
def class_attention_without_class_token(draw):
    return (draw(ANY_DEPTH), (), draw(st.integers(1, 3))), "add cls, or set class_blocks=0"


RULES = {
    "enters_after_the_end": enters_after_the_end(),
    "class_token_enters_at_depth": class_token_enters_at_depth(),
    "class_token_enters_inside_class_attention": class_token_enters_inside_class_attention(),
    "leaves_before_it_enters": leaves_before_it_enters(),
    "leaves_after_the_end": leaves_after_the_end(),
    "read_by_the_head_and_leaves": read_by_the_head_and_leaves(),
    "more_than_one_class_token": more_than_one_class_token(),
    "two_of_a_name": two_of_a_name(),
    "dist_without_its_class_token": dist_without_its_class_token(),
    "names_that_are_none": names_that_are_none(),
    "class_attention_without_class_token": class_attention_without_class_token(),
    "depth": NOT_WHOLE.map(lambda value: ((value,), "depth is a whole number, 1 or more")),
    "class_blocks": st.sampled_from((-1, 1.0, None)).map(
        lambda value: ((4, (Group("cls", 1),), value), "class_blocks is a whole number, 0 or more")
    ),
    "tokens": NOT_WHOLE.map(lambda value: ((4, (Group("reg", value),)), "reg: tokens is a whole number, 1 or more")),
    "enter": st.sampled_from((-1, 1.0, None, "2")).map(
        lambda value: ((4, (Group("reg", 1, value),)), "reg: enter is a whole number, 0 or more")
    ),
    "leave": st.sampled_from((0, -1, 2.0, "2", True)).map(
        lambda value: ((4, (Group("reg", 1, 0, value),)), "reg: leave is a whole number, 1 or more")
    ),
    "no_group": st.sampled_from(("cls", {"name": "cls", "tokens": 1}, ("cls", 1), None)).map(
        lambda value: ((4, (value,)), r"Group\(.*, not ")
    ),
    "groups_no_tuple": st.sampled_from((Group("cls", 1), None, 3)).map(lambda value: ((4, value), r"groups.*Group\(")),
}


@pytest.mark.parametrize("rule", RULES)
def test_invalid_plans_are_refused(rule):
    @settings(max_examples=40, deadline=None)
    @given(RULES[rule])
    def check(case):
        arguments, message = case
        with pytest.raises(ValueError, match=message):
            TokenPlan(*arguments)

    check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_reg": 4}, "num_reg=4 needs reg_pos"),
        ({"reg_pos": 3}, "reg_pos=3 needs num_reg"),
        ({"reg_pos": 0}, "reg_pos=0 needs num_reg"),
        ({"num_reg": -1, "reg_pos": 0}, "num_reg is a whole number, 0 or more"),
        ({"num_reg": 2.0, "reg_pos": 0}, "num_reg is a whole number"),
        ({"cls_pos": None, "dist": True}, "give cls_pos"),
        ({"cls_pos": 12}, "from 0 to 11, or class_blocks ≥ 1"),
        ({"cls_pos": -1}, "cls: enter is a whole number"),
        ({"reg_pos": 12, "num_reg": 1}, "choose a block from 0 to 11"),
        ({"cls_pos": None, "class_blocks": 2}, "add cls"),
    ],
)
def test_of_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenPlan.of(12, **arguments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        "null",
        "[]",
        "{}",
        '{"depth": 4}',
        '{"depth": 4, "groups": 3}',
        '{"depth": 4, "groups": [3]}',
        '{"depth": 4, "groups": [{"name": "cls"}]}',
        '{"depth": 4, "groups": [], "colour": 1}',
        '{"groups": []}',
    ],
)
def test_json_that_is_no_plan(text):
    with pytest.raises(ValueError, match='this is no token plan .*a plan is {"depth"'):
        TokenPlan.from_json(text)


def test_json_of_a_plan_that_cannot_work_keeps_its_own_message():
    with pytest.raises(ValueError, match="leave has to be from 3 to 4"):
        TokenPlan.from_json('{"depth": 4, "groups": [{"name": "reg", "tokens": 1, "enter": 2, "leave": 2}]}')
