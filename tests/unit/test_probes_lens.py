"""The logit lens against a norm and a head worked out by hand, token by token."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dtl_lib import probes, record
from dtl_lib.tokens import TokenPlan
from tests.unit.loops import PLANS, needs_tiny, numbers, prefix, real
from tests.unit.small import SMALL, build, disturbed, images


def by_hand(model, tokens: np.ndarray, names: tuple[str, ...], beside: list[str]) -> np.ndarray:
    """Logits of each token: those of its own head, or the mean of the heads'. `beside`: the token's name, by place."""
    heads = {name: (numbers(head.weight), numbers(head.bias)) for name, head in model.classifiers.items()}
    found = np.empty((*tokens.shape[:2], model.config.classes))
    for image, place in np.ndindex(*tokens.shape[:2]):
        x = tokens[image, place]
        x = (x - x.mean()) / np.sqrt(x.var() + model.config.norm_eps) * numbers(model.norm.weight) + numbers(
            model.norm.bias
        )
        name = beside[place] if place < len(beside) else "patches"
        read = [name] if name in heads else list(names)
        found[image, place] = np.mean([heads[one][0] @ x + heads[one][1] for one in read], axis=0)
    return found


def recorded(model, x):
    with torch.no_grad(), record(model) as tape:
        logits = model(x)
    return tape, logits


def beside(model, block) -> list[str]:
    return [g.name for g in model.plan.groups if g.present(block) for _ in range(g.tokens)]


@pytest.mark.parametrize("name", PLANS)
def test_it_is_norm_and_head_by_hand(name):
    model, x = build(PLANS[name]), images(SMALL)
    tape, _ = recorded(model, x)
    seen = []
    hooks = [
        block.register_forward_hook(lambda _, args, output: seen.append(numbers(output))) for block in model.blocks
    ]
    with torch.no_grad():
        model.features(x)
    for hook in hooks:
        hook.remove()
    for block, tokens in enumerate(seen):
        lens = probes.logit_lens(model, tape, block)
        assert lens.shape == (2, tokens.shape[1], 5) and tokens.shape[1] == prefix(model, block) + 6
        np.testing.assert_allclose(lens, by_hand(model, tokens, model.config.head_names, beside(model, block)), 1e-9)


def test_after_the_last_block_each_head_s_token_says_what_the_model_says():
    model, x = build(PLANS["distillation token"]), images(SMALL)
    tape, logits = recorded(model, x)
    lens = probes.logit_lens(model, tape, 2)
    with torch.no_grad():
        cls, dist = model.heads(x)
    torch.testing.assert_close(lens[:, 0], cls)
    torch.testing.assert_close(lens[:, 1], dist)
    torch.testing.assert_close(lens[:, :2].mean(dim=1), logits)
    model, x = build(PLANS["class attention"]), images(SMALL)
    tape, logits = recorded(model, x)
    torch.testing.assert_close(probes.logit_lens(model, tape, 3)[:, 0], logits)


def test_the_patches_mean_is_the_model_s_answer_where_they_are_normalised_before_pooling():
    for name, same in (("no class token", True), ("norm after pooling", False)):
        model, x = build(PLANS[name]), images(SMALL)
        tape, logits = recorded(model, x)
        patches = probes.logit_lens(model, tape, 2)[:, prefix(model, 2) :].mean(dim=1)
        assert torch.allclose(patches, logits) is same


def test_attention_pooling_is_asked_of_each_token_alone():
    config = replace(SMALL, plan=TokenPlan.of(3, None), pool="attention")
    model, x = build(config), images(SMALL)
    tape, _ = recorded(model, x)
    lens = probes.logit_lens(model, tape, 2)
    for place in range(6):
        with torch.no_grad():
            expected = model.classifiers["patches"](model.pool_patches(tape.tokens(2)[:, place : place + 1]))
        torch.testing.assert_close(lens[:, place], expected)


def test_before_the_first_block_it_reads_the_patches_and_their_positions():
    model, x = build(replace(SMALL, plan=TokenPlan.of(3, 1))), images(SMALL)
    tape, _ = recorded(model, x)
    with torch.no_grad():
        expected = model.classifiers["cls"](model.norm(model.embed(x)[0]))
    torch.testing.assert_close(probes.logit_lens(model, tape, "input"), expected)


def test_it_depends_on_the_block_and_on_the_token():
    model, x = build(SMALL), images(SMALL)
    plain = probes.logit_lens(model, recorded(model, x)[0], 1)
    with disturbed(model, 1, slice(3, 4)):
        tape, _ = recorded(model, x)
    changed, after = probes.logit_lens(model, tape, 1), probes.logit_lens(model, tape, 2)
    same = [place for place in range(7) if plain[:, place].equal(changed[:, place])]
    assert same == [0, 1, 2, 4, 5, 6] and not torch.allclose(after, plain, rtol=1e-3)


def test_a_map_lies_as_the_patches_do_and_holds_probabilities():
    model, x = build(PLANS["registers that enter and leave"]), images(SMALL)
    tape, _ = recorded(model, x)
    lens, first = probes.logit_lens(model, tape, 1), prefix(model, 1)
    maps = [probes.class_map(model, tape, 1, number) for number in range(5)]
    for row, column in np.ndindex(2, 3):
        expected = lens[:, first + 3 * row + column].exp() / lens[:, first + 3 * row + column].exp().sum(-1, True)
        torch.testing.assert_close(torch.stack([one[:, row, column] for one in maps], dim=-1), expected)
    assert maps[0].shape == (2, 2, 3)
    for number in (-1, 5):
        with pytest.raises(ValueError, match="the model has classes 0 … 4"):
            probes.class_map(model, tape, 1, number)


def test_the_likeliest_by_name():
    logits = torch.tensor([[[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]]])
    ((first, second),) = probes.likeliest(logits, ["cat", "dog", "owl"], top=2)
    assert [name for name, _ in first] == ["dog", "owl"] and second[0][0] == "cat"
    assert first[0][1] == pytest.approx(logits[0, 0].softmax(0)[1].item())
    assert probes.likeliest(logits[0, 0]) == [("1", pytest.approx(first[0][1]))]
    assert len(probes.likeliest(logits[0, 0], top=7)) == 3
    with pytest.raises(ValueError, match="give a name for each of the 3 classes, not 2"):
        probes.likeliest(logits, ["cat", "dog"])


@needs_tiny
def test_real_weights_say_what_they_see():
    from dtl_lib.train.classes import class_names, shown_names

    model, x = real()
    tape, logits = recorded(model, x)
    torch.testing.assert_close(probes.logit_lens(model, tape, 11)[:, 0], logits)
    names = shown_names(class_names(model))
    (cat,), (cup,) = probes.likeliest(probes.logit_lens(model, tape, 11)[:, 0], names)
    assert "cat" in cat[0] and cup[0].startswith(("espresso", "cup", "coffee"))
    blocks = [numbers(tape.tokens(block)) for block in (3, 11)]
    for block, tokens in zip((3, 11), blocks):
        found = probes.logit_lens(model, tape, block)[:1, :20]
        np.testing.assert_allclose(found, by_hand(model, tokens[:1, :20], ("cls",), ["cls"]), rtol=1e-7, atol=1e-9)


def test_what_has_no_classes_or_was_not_recorded():
    model, x = build(replace(SMALL, classes=0)), images(SMALL)
    tape, _ = recorded(model, x)
    with pytest.raises(ValueError, match="this model has no classes"):
        probes.logit_lens(model, tape, 1)
    tape, _ = recorded(build(SMALL), x)
    for other in (build(replace(SMALL, plan=TokenPlan.of(3, 1))), torch.nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="give the model that was recorded"):
            probes.logit_lens(other, tape, 1)


def test_half_precision_gives_float32():
    model, x = build(SMALL).to(torch.bfloat16), images(SMALL).to(torch.bfloat16)
    tape, _ = recorded(model, x)
    assert probes.logit_lens(model, tape, 1).dtype == torch.float32
