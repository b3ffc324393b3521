"""Norms and attention by group: what they depend on, and where the token is not."""

import math
from dataclasses import replace

import pytest
import torch

from dtl_lib.probes.attention import attention_row, entropy, share
from dtl_lib.probes.norms import norm_quantiles, norm_ratio
from dtl_lib.tape import record
from dtl_lib.tokens import Group, TokenNotThere, TokenPlan
from tests.unit.small import SMALL, build, disturbed, images

PLAN = TokenPlan.of(3, cls_pos=1, reg_pos=0, num_reg=4)
CAIT = TokenPlan(2, (Group("cls", 1, 2), Group("reg", 2, 1)), class_blocks=1)


def recorded(config, change=lambda model: None, **how):
    model = build(config)
    with torch.no_grad():
        change(model)
        with record(model, **how) as tape:
            model(images(config))
    return tape


@pytest.fixture(scope="module")
def tape():
    return recorded(replace(SMALL, plan=PLAN))


@pytest.fixture(scope="module")
def cait():
    return recorded(replace(SMALL, depth=2, plan=CAIT, talking_heads=True))


def same(row, of_all):
    """Up to rounding: some processors sum one row of a product in another order than all of its rows."""
    torch.testing.assert_close(row, of_all, rtol=1e-6, atol=1e-7)


def test_a_row_is_what_the_token_attends_to(tape):
    row, attention = attention_row(tape, 1), tape.attention(1)
    assert row.shape == (2, 3, 1 + 4 + 6)
    same(row, attention[:, :, 0])
    torch.testing.assert_close(row.sum(dim=-1), torch.ones(2, 3))
    same(attention_row(tape, 1, ("reg", 2)), attention[:, :, 3])
    same(attention_row(tape, 1, "reg"), attention[:, :, 1:5])
    same(attention_row(tape, 1, ("patch", 1, 0)), attention[:, :, 5 + 3])


def test_a_row_and_a_map_say_the_same(tape):
    for of in ("cls", "reg", ("reg", 1), ("patch", 0, 2)):
        same(attention_row(tape, 2, of)[..., 5:].unflatten(-1, (2, 3)), tape.maps(2, of))


def test_enough_is_recorded_where_the_head_reads_alone(tape):
    short = recorded(replace(SMALL, plan=PLAN), all_queries=False)
    torch.testing.assert_close(attention_row(short, 2), attention_row(tape, 2))


def test_shares_of_all_groups_are_everything(tape):
    shares = torch.stack([share(tape, 1, group) for group in ("cls", "reg", "patches")])
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(2, 3))
    assert shares.min() > 0 and share(tape, 1, "patches", of="reg").shape == (2, 3, 4)


def test_registers_that_change_change_their_share(tape):
    def other(model):
        model.tokens["reg"].copy_(-2 * model.tokens["reg"].flip(-1))

    changed = recorded(replace(SMALL, plan=PLAN), other)
    assert not torch.allclose(share(changed, 1, "reg"), share(tape, 1, "reg"), atol=1e-3)


def test_keys_that_match_the_question_get_all_of_it():
    """A class token that asks for what registers alone have looks at nothing else."""

    def matched(model):
        model.blocks[0].attention.qkv.weight.zero_()
        model.blocks[0].attention.qkv.bias.zero_()

    config = replace(SMALL, plan=TokenPlan.of(3, 0, 0, 4))
    tape = recorded(config, matched)
    torch.testing.assert_close(share(tape, 0, "reg"), torch.full((2, 3), 4 / 11))
    torch.testing.assert_close(entropy(attention_row(tape, 0)), torch.full((2, 3), math.log(11)))


def test_entropy():
    assert entropy(torch.full((2, 8), 1 / 8)).tolist() == pytest.approx([math.log(8)] * 2)
    assert entropy(torch.tensor([0.0, 1.0, 0.0])).item() == 0
    assert entropy(torch.tensor([0.75, 0.25])).item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    with pytest.raises(ValueError, match="no distribution"):
        entropy(torch.tensor([1.1, -0.1]))


def test_talking_heads_have_a_distribution_and_what_they_make_of_it():
    talking = recorded(replace(SMALL, plan=PLAN, talking_heads=True))
    row, mixed = attention_row(talking, 1), attention_row(talking, 1, stage="attention")
    torch.testing.assert_close(row.sum(dim=-1), torch.ones(2, 3))
    same(row, talking.attention(1, stage="softmax")[:, :, 0])
    same(mixed, talking.attention(1)[:, :, 0])
    assert not torch.allclose(mixed.sum(dim=-1), torch.ones(2, 3))
    assert share(talking, 1, "reg").max() < 1


def test_in_class_attention_the_class_token_alone_asks(cait):
    row = attention_row(cait, 2)
    assert row.shape == (2, 3, 1 + 2 + 6)
    same(row, cait.attention(2)[:, :, 0])
    torch.testing.assert_close(share(cait, 2, "reg") + share(cait, 2, "patches") + share(cait, 2, "cls"), row.sum(-1))
    for of in ("reg", ("reg", 1), ("patch", 0, 0)):
        with pytest.raises(TokenNotThere, match="class attention, only cls attends"):
            attention_row(cait, 2, of)


def test_a_token_that_is_not_there(tape, cait):
    with pytest.raises(TokenNotThere, match="cls enters at block 1; in block 0 the sequence holds reg, patches"):
        attention_row(tape, 0)
    with pytest.raises(TokenNotThere, match="cls enters at block 1"):
        share(tape, 0, "cls", of="reg")
    with pytest.raises(TokenNotThere, match="reg enters at block 1; in block 0 the sequence holds only patches"):
        attention_row(cait, 0, "reg")
    with pytest.raises(TokenNotThere, match="reg enters at block 1; in block 0 there are patches"):
        share(cait, 0, "reg", of=("patch", 0, 0))


def test_norms_are_of_the_patches_after_that_block(tape):
    lengths = tape.tokens(1)[:, 5:].norm(dim=-1).flatten()
    assert norm_quantiles(tape, 1, (0, 0.5, 1)) == pytest.approx(
        [lengths.min().item(), lengths.quantile(0.5).item(), lengths.max().item()]
    )
    assert norm_quantiles(tape, "input", [1]) == pytest.approx([tape.tokens("input")[:, 4:].norm(dim=-1).max().item()])
    with pytest.raises(ValueError, match="from 0 to 1"):
        norm_quantiles(tape, 1, [98])


def test_the_ratio_sees_one_long_patch_and_no_long_register():
    config = replace(SMALL, plan=PLAN)
    model, before = build(config), norm_ratio(recorded(config), 0)

    def ratio(where):
        def longer(module, args, output):
            output = output.clone()
            output[:, where] *= 100
            return output

        hook = model.blocks[0].register_forward_hook(longer)
        with record(model) as tape, torch.no_grad():
            model(images(config))
        hook.remove()
        return norm_ratio(tape, 0)

    assert ratio(slice(0, 4)) == pytest.approx(before)
    assert ratio(slice(5, 6)) > 20 * before


def test_norms_change_with_the_patches_alone():
    config = replace(SMALL, plan=PLAN)
    model, quantiles = build(config), {}
    for name, where in {"as it is": slice(0, 0), "registers": slice(0, 4), "patches": slice(4, None)}.items():
        with disturbed(model, 0, where), record(model) as tape, torch.no_grad():
            model(images(config))
        quantiles[name] = norm_quantiles(tape, 0)
    assert quantiles["registers"] == quantiles["as it is"] != quantiles["patches"]
