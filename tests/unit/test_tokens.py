"""The token plan: random valid plans keep their promises, every invalid one is refused with what would be right."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtl_lib.tokens import PATCHES, Group, TokenPlan
from tests.unit.strategies import REGISTERS, plans

PATCHES_IN_IMAGE = 7
many = settings(max_examples=200, deadline=None)


def sequence(layout: dict[str, slice]) -> list[str]:
    """The sequence a layout describes, one name a token; `?` where no slice, `!` where two claim a token."""
    length = layout[PATCHES].start + PATCHES_IN_IMAGE
    row = ["?"] * length
    for name, where in layout.items():
        for index in range(*where.indices(length)):
            row[index] = name if row[index] == "?" else "!"
    return row


def expected(plan: TokenPlan, block: int) -> list[str]:
    """The same from the contract's words alone: cls, dist, registers as declared, patches; in from enter to leave."""
    registers = [group for group in plan.groups if group.name not in ("cls", "dist")]
    special = [group for name in ("cls", "dist") for group in plan.groups if group.name == name]
    row = []
    for group in special + registers:
        if group.enter <= block and not (group.leave is not None and group.leave <= block):
            row += [group.name] * group.tokens
    return row + [PATCHES] * PATCHES_IN_IMAGE


class TestValidPlans:
    @many
    @given(plans())
    def test_every_token_is_in_one_slice_in_canonical_order(self, plan):
        for block in range(plan.blocks):
            assert sequence(plan.layout(block)) == expected(plan, block)
            assert list(plan.layout(block)) == list(dict.fromkeys(expected(plan, block)))

    @many
    @given(plans())
    def test_lengths_add_up(self, plan):
        for block in range(plan.blocks):
            present = sum(group.tokens for group in plan.groups if group.present(block))
            assert plan.tokens(block) == present == plan.layout(block)[PATCHES].start
            for name, where in plan.layout(block).items():
                if name != PATCHES:
                    assert where.stop - where.start == plan.group(name).tokens

    @many
    @given(plans())
    def test_final_is_the_last_block_without_those_who_leave_after_it(self, plan):
        assert sequence(plan.final) == expected(plan, plan.blocks)
        leaving = {group.name for group in plan.groups if group.leave == plan.blocks}
        assert set(plan.final) == set(plan.layout(plan.blocks - 1)) - leaving
        for name in ("cls", "dist"):
            assert (name in plan.final) == (plan.group(name) is not None)

    @many
    @given(plans())
    def test_json_round_trip_is_the_identity(self, plan):
        assert TokenPlan.from_json(plan.to_json()) == plan
        assert TokenPlan.from_json(json.loads(plan.to_json())) == plan
        assert "\n" not in plan.to_json()
        assert hash(TokenPlan.from_json(plan.to_json())) == hash(plan)

    @many
    @given(plans(), st.randoms())
    def test_only_the_order_of_registers_matters(self, plan, random):
        registers = [group for group in plan.groups if group.name in REGISTERS]
        special = [group for group in plan.groups if group.name not in REGISTERS]
        mixed = list(registers)
        for group in special:
            mixed.insert(random.randint(0, len(mixed)), group)
        assert replace(plan, groups=tuple(mixed)) == plan
        if len(registers) > 1:
            assert replace(plan, groups=tuple(special + registers[::-1])) != plan

    @many
    @given(plans())
    def test_timeline_says_what_the_layout_says(self, plan):
        head, *rows = str(plan).splitlines()
        assert head.split()[1:] == [str(block) for block in range(plan.blocks)]
        assert len({len(row) for row in [head, *rows]}) == 1
        assert len(rows) == len(plan.groups) + 1
        for row, name in zip(rows, [group.name for group in plan.groups] + [PATCHES]):
            label, cells = row.split()[0], [cell for cell in row if cell in "█▒·"]
            assert label == name
            for block, cell in enumerate(cells):
                there = "█" if block < plan.depth else "▒"
                assert cell == (there if name in plan.layout(block) else "·")

    @many
    @given(plans())
    def test_blocks_outside_are_refused(self, plan):
        for block in (-1, plan.blocks, plan.blocks + 3, 0.0, True, "0", None):
            with pytest.raises(ValueError, match=f"blocks 0 … {plan.blocks - 1}"):
                plan.layout(block)


def test_timeline_text():
    plan = TokenPlan(3, (Group("reg", 4, enter=1, leave=4), Group("cls", 1, enter=3)), class_blocks=2)
    assert str(plan).splitlines() == [
        "block   0 1 2 3 4",
        "cls ×1  · · · ▒ ▒",
        "reg ×4  · █ █ ▒ ·",
        "patches █ █ █ ▒ ▒",
    ]


def test_the_examples_of_the_contract():
    plan = TokenPlan.of(depth=12, cls_pos=6, reg_pos=3, num_reg=4)
    assert plan == TokenPlan(12, (Group("reg", 4, enter=3), Group("cls", 1, enter=6)))
    assert plan.layout(0) == {"patches": slice(0, None)}
    assert plan.layout(3) == {"reg": slice(0, 4), "patches": slice(4, None)}
    assert plan.layout(6) == {"cls": slice(0, 1), "reg": slice(1, 5), "patches": slice(5, None)}
    groups = (Group("cls", 1, enter=6), Group("reg", 4, enter=3), Group("late", 2, enter=9, leave=11))
    plan = TokenPlan(12, groups, class_blocks=0)
    assert list(plan.layout(10)) == ["cls", "reg", "late", "patches"]
    assert list(plan.layout(11)) == ["cls", "reg", "patches"]


def test_of():
    assert TokenPlan.of(4) == TokenPlan(4, (Group("cls", 1),))
    assert TokenPlan.of(4, cls_pos=None) == TokenPlan(4)
    assert TokenPlan.of(4, cls_pos=2, dist=True) == TokenPlan(4, (Group("cls", 1, 2), Group("dist", 1, 2)))
    cait = TokenPlan.of(4, cls_pos=4, class_blocks=2, reg_pos=4, num_reg=3)
    assert cait.layout(3) == {"patches": slice(0, None)}
    assert list(cait.layout(4)) == ["cls", "reg", "patches"]
    assert cait.blocks == 6


def test_a_plan_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        TokenPlan.of(4).depth = 5


def test_where():
    plan = TokenPlan(12, (Group("cls", 1), Group("reg", 4, enter=3, leave=9)))
    assert plan.where("reg") == "reg enters at block 3 and leaves at 9"
    assert plan.where("cls") == "cls enters at block 0"
    assert plan.where("patches") == "patches are in every block"
    assert plan.where("dist") == "this plan has no dist (it has cls, reg, patches)"
