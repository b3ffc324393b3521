"""Tokens replaced where they enter a block, against runs by hand in float64, for every way tokens come and go."""

import doctest

import numpy as np
import pytest
import torch

from dtl_lib import ViT, probes, record
from dtl_lib.probes import replacing
from dtl_lib.tokens import TokenNotThere
from tests.unit.fixed import noise
from tests.unit.small import SMALL, build, images
from tests.unit.test_probes_rollouts import MODELS


def run(model: ViT, x: torch.Tensor, change: dict | None = None) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What enters each block and the logits, block by block; `change` is (block, mask, new values)."""
    seen = []
    with torch.no_grad():
        x, grid = model.embed(x)
        layout = {"patches": slice(0, None)}
        for number, block in enumerate(model.blocks):
            following = model.plan.layout(number)
            parts = [
                x[:, layout[name]] if name in layout else model.tokens[name].expand(len(x), -1, -1)
                for name in following
            ]
            x, layout = torch.cat(parts, dim=1), following
            if change and change[0] == number:
                x = torch.where(change[1][..., None], change[2], x)
            seen.append(x)
            x = block(x, slice(None))
        if model.head_tokens is None:
            return seen, model.classify("patches", model.pool_patches(x))
        read = model.norm(x[:, model.head_tokens])
        return seen, torch.stack([model.classify(n, t) for n, t in zip(model.head_names, read.unbind(1))]).mean(dim=0)


def loop(values, which, by, reference, seed):
    """`replace` value by value."""
    result = values.clone()
    for i in range(len(values)):
        drawn = torch.Generator().manual_seed(seed + i)
        if by == "shuffle":
            donor = int(torch.randint(len(reference), (1,), generator=drawn))
        normal = torch.randn(values.shape[1:], generator=drawn).double() if by == "noise" else None
        for place in range(values.shape[1]):
            for channel in range(values.shape[2]):
                if not which[i, place]:
                    continue
                there = [float(other[place, channel]) for other in reference]
                mean = sum(there) / len(there)
                spread = (sum((value - mean) ** 2 for value in there) / len(there)) ** 0.5
                new = {"zero": 0.0, "mean": mean}
                if by == "noise":
                    new["noise"] = mean + spread * float(normal[place, channel])
                if by == "shuffle":
                    new["shuffle"] = there[donor]
                result[i, place, channel] = new[by]
    return result


@pytest.mark.parametrize("by", probes.replacing.REPLACEMENTS)
def test_replacements_are_those_of_a_loop(by):
    values, others = noise(3, 5, 4, seed=1), 2 + 3 * noise(6, 5, 4, seed=2)
    which = noise(3, 5, seed=3) > 0
    found = probes.replace(values, which, by, others, seed=7)
    assert torch.allclose(found, loop(values, which, by, others, 7), atol=1e-12)
    assert torch.equal(found[~which], values[~which])
    alone = [probes.replace(values[i : i + 1], which[i : i + 1], by, others, seed=7 + i) for i in range(3)]
    assert torch.equal(torch.cat(alone), found)
    more = probes.replace(values, torch.ones_like(which), by, others, seed=7)
    assert torch.equal(more[which], found[which])  # one place gets the same, whichever others are replaced
    again = probes.replace(values, which, by, others, seed=8)
    assert torch.equal(again, found) == (by in ("zero", "mean"))


@pytest.mark.parametrize("name", MODELS)
def test_replaced_tokens_are_those_of_a_run_by_hand(name):
    model = build(MODELS[name])
    x, other, reference = (images(model.config, count, seed) for count, seed in ((2, 5), (2, 6), (4, 7)))
    grid = model.config.grid_of(*x.shape[-2:])
    mask = noise(2, *grid, seed=9) > 0
    for block in range(model.plan.blocks):
        layout = model.plan.layout(block)
        states, donors = run(model, x)[0][block], run(model, other)[0][block]
        assert torch.allclose(probes.states_at(model, x, block), states, atol=1e-12)
        many = probes.states_at(model, reference, block)
        asked = {"mask": mask, ("patch", 1, 2): None} | {group: None for group in layout}
        asked |= {(group, 0): None for group in layout if group != "patches"}
        for which, given in asked.items():
            at = torch.zeros(states.shape[:2], dtype=torch.bool)
            if which == "mask":
                at[:, layout["patches"]] = mask.flatten(1)
            elif which[0] == "patch":
                at[:, (layout["patches"].start or 0) + grid[1] + 2] = True
            else:
                start = layout[which if isinstance(which, str) else which[0]]
                at[:, start if isinstance(which, str) else slice(start.start, start.start + 1)] = True
            token = which if given is None else given
            for by in replacing.REPLACEMENTS:
                new = probes.replace(states, at, by, many, seed=3)
                wanted = run(model, x, (block, at, new))[1]
                found = probes.replace_tokens(model, x, token, block, by, many, seed=3)
                assert torch.allclose(found, wanted, atol=1e-10), (which, block, by)
            wanted = run(model, x, (block, at, donors))[1]
            assert torch.allclose(probes.patch_state(model, other, x, token, block), wanted, atol=1e-10)


def test_a_batch_gives_what_its_images_give_and_the_model_is_restored():
    model = build(MODELS["registers late"]).train()
    x, other, many = images(model.config, 3), images(model.config, 3, 8), images(model.config, 4, 9)
    state, before = {k: v.clone() for k, v in model.state_dict().items()}, len(_hooks(model))
    reference = probes.states_at(model, many, 1)
    for by in replacing.REPLACEMENTS:
        together = probes.replace_tokens(model, x, "reg", 1, by, reference, seed=4)
        alone = [probes.replace_tokens(model, x[i : i + 1], "reg", 1, by, reference, 4 + i) for i in range(3)]
        assert torch.allclose(torch.cat(alone), together, atol=1e-6)
    together = probes.patch_state(model, other, x, "cls", 2)
    alone = [probes.patch_state(model, other[i : i + 1], x[i : i + 1], "cls", 2) for i in range(3)]
    assert torch.allclose(torch.cat(alone), together, atol=1e-6)
    with pytest.raises(RuntimeError, match="inside"), probes.changed_input(model, 1, lambda x: x):
        raise RuntimeError("inside")
    assert model.training and len(_hooks(model)) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def _hooks(model):
    return [hook for part in model.modules() for hook in part._forward_pre_hooks.values()]


def test_all_of_another_image_gives_its_answer():
    model = build(MODELS["plain"])
    x, other = images(model.config, 2), images(model.config, 2, 8)
    with torch.no_grad():
        wanted, own = model(other), model(x)
    everything = torch.ones(2, 2, 3, dtype=torch.bool)
    last = model.plan.blocks - 1
    assert torch.allclose(probes.patch_state(model, other, x, everything, 0), wanted, atol=1e-10)
    assert not torch.allclose(probes.patch_state(model, other, x, "cls", last), own, atol=1e-3)
    assert torch.allclose(probes.patch_state(model, other, x, "cls", 0), own, atol=1e-10)  # it is learned there
    assert torch.allclose(probes.patch_state(model, x, x, "cls", 1), own, atol=1e-10)
    with torch.no_grad(), record(model) as tape, probes.changed_input(model, 1, torch.zeros_like):
        model(x)
    assert not torch.allclose(tape.tokens(1), tape.tokens(0))


def test_it_refuses_what_makes_no_sense():
    model, values, which = build(SMALL), noise(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    x = images(SMALL)
    for words, call in {
        "by is one of": lambda: probes.replace(values, which, "blur"),
        "needs a reference of 1": lambda: probes.replace(values, which, "mean"),
        "needs a reference of 2": lambda: probes.replace(values, which, "noise", values[:1]),
        r"reference is \(images, 3, 4\)": lambda: probes.replace(values, which, "mean", values[:, :2]),
        r"which is bool, \(2, 3\)": lambda: probes.replace(values, which.float(), "zero"),
        "there is no block 3": lambda: probes.states_at(model, x, 3),
        "row is a whole number": lambda: probes.replace_tokens(model, x, ("patch", 2, 0), 1, "zero"),
        "a patch is": lambda: probes.replace_tokens(model, x, ("patch", 2), 1, "zero"),
        "tokens are a group by name": lambda: probes.replace_tokens(model, x, np.ones((2, 2, 3), bool), 1, "zero"),
        "a mask of patches is bool": lambda: probes.replace_tokens(model, x, which, 1, "zero"),
        "one shape": lambda: probes.patch_state(model, x, x[:1], "cls", 1),
        "change returns": lambda: _changed(model, x),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TokenNotThere, match="no reg"):
        probes.replace_tokens(model, x, "reg", 1, "zero")
    with pytest.raises(TokenNotThere, match="cls enters at block 1"):
        probes.patch_state(build(MODELS["class token late"]), x, x, "cls", 0)


def _changed(model, x):
    with probes.changed_input(model, 1, lambda x: x[:, 1:]):
        model(x)


def test_the_example_of_the_docstring():
    assert doctest.testmod(replacing).failed == 0
