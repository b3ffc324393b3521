"""Curves of deletion and insertion, against loops over patches, and on models that read one known patch."""

import doctest
from dataclasses import replace

import pytest
import torch
from torch import nn

from dtl_lib import probes
from dtl_lib.probes import faithful
from dtl_lib.probes.replacing import REPLACEMENTS
from tests.unit.fixed import noise
from tests.unit.small import SMALL, build, images


class ReadsOnePatch(nn.Module):
    """Class 1 where patch (row, column) of 4 × 4 pixels is bright; nothing else counts."""

    def __init__(self, row: int, column: int):
        super().__init__()
        self.row, self.column = row, column

    def forward(self, x):
        patch = x[..., 4 * self.row : 4 * self.row + 4, 4 * self.column : 4 * self.column + 4]
        bright = 8 * patch.mean(dim=(1, 2, 3)) - 4
        return torch.stack([torch.zeros_like(bright), bright], dim=1)


def by_loops(model, x, ranking, target, by, others, steps, seed):
    """One image at a time, patch after patch; without equal values in the ranking."""
    rows, columns = ranking.shape[-2:]
    size = x.shape[-1] // columns
    cut = lambda pixels, r, c: pixels[..., r * size : (r + 1) * size, c * size : (c + 1) * size]  # noqa: E731
    deletion, insertion = [], []
    for i in range(len(x)):
        gone = x[i].clone()
        drawn = torch.Generator().manual_seed(seed + i)
        donor = int(torch.randint(len(others), (1,), generator=drawn)) if by == "shuffle" else None
        normal = torch.randn(rows * columns, x[0].numel() // (rows * columns), generator=drawn).double()
        for r in range(rows):
            for c in range(columns):
                there = cut(others, r, c)
                new = {
                    "zero": torch.zeros_like(there[0]),
                    "mean": there.mean(dim=0),
                    "noise": there.mean(dim=0)
                    + there.std(dim=0, correction=0) * normal[r * columns + c].view(there.shape[1:]),
                    "shuffle": there[donor or 0],
                }
                cut(gone, r, c)[:] = new[by]
        places = sorted(((r, c) for r in range(rows) for c in range(columns)), key=lambda p: -float(ranking[i][p]))
        curves = [], []
        for step in range(steps + 1):
            count = round(len(places) * step / steps)
            for curve, taken in zip(curves, (places[:count], places[count:])):
                image = x[i].clone()
                for r, c in taken:
                    cut(image, r, c)[:] = cut(gone, r, c)
                with torch.no_grad():
                    curve.append(float(model(image[None]).softmax(dim=-1)[0, target[i]]))
        deletion.append(curves[0])
        insertion.append(curves[1])
    return torch.tensor(deletion).double(), torch.tensor(insertion).double()


@pytest.mark.parametrize("by", REPLACEMENTS)
def test_curves_are_those_of_loops_on_an_oblong_image(by):
    model, x, others = build(SMALL), images(SMALL, 3), images(SMALL, 5, seed=8)
    ranking = noise(3, 2, 3, seed=2)
    with torch.no_grad():
        own = model(x).argmax(dim=1)
    found = probes.insertion_deletion(model, x, ranking, None, by, others, steps=4, seed=6)
    deletion, insertion = by_loops(model, x, ranking, own, by, others, 4, 6)
    assert torch.allclose(found.deletion, deletion, atol=1e-10)
    assert torch.allclose(found.insertion, insertion, atol=1e-10)
    assert torch.allclose(found.shares, torch.tensor([0, 2, 3, 4, 6]) / 6)
    alone = [
        probes.insertion_deletion(model, x[i : i + 1], ranking[i : i + 1], None, by, others, 4, 6 + i).gap
        for i in range(3)
    ]
    assert torch.allclose(torch.cat(alone), found.gap, atol=1e-6)
    two = probes.insertion_deletion(model, x, torch.stack([ranking, -ranking]), None, by, others, 4, 6)
    assert torch.allclose(two.gap[0], found.gap)
    other = probes.insertion_deletion(model, x, ranking, (own + 1) % 5, by, others, 4, 6)
    assert not torch.allclose(other.deletion, found.deletion, atol=1e-3)


def test_replaced_patches_are_where_the_mask_says():
    x = images(SMALL, 2)
    which = torch.tensor([[[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 1, 0]]]).bool()
    found = probes.replace_patches(x, which, "zero")
    assert (found[0, :, :4, :4] == 0).all() and (found[0, :, 4:, 8:] == 0).all() and (found[1, :, 4:, 4:8] == 0).all()
    assert (found == 0).sum() == 3 * 3 * 16 and torch.equal(found[0, :, :4, 4:], x[0, :, :4, 4:])


def test_a_ranking_reversed_has_the_gap_reversed():
    model, x, ranking = build(SMALL), images(SMALL, 3), noise(3, 2, 3, seed=2)
    one, other = (probes.insertion_deletion(model, x, each, steps=6).gap for each in (ranking, -ranking))
    assert torch.allclose(one, -other, atol=1e-12) and one.abs().min() > 1e-6


@pytest.mark.parametrize("by", REPLACEMENTS)
def test_the_map_that_names_the_patch_wins_and_one_with_its_axes_exchanged_loses(by):
    model, x = ReadsOnePatch(1, 2), torch.ones(2, 3, 16, 16)
    others = 0.1 * noise(6, 3, 16, 16, dtype=torch.float32)
    true = torch.zeros(2, 4, 4)
    true[:, 1, 2] = 1
    flat = torch.ones(2, 4, 4)
    both = torch.stack([true, true.mT, 1 - true, flat])
    curves = probes.insertion_deletion(model, x, both, by=by, reference=others, steps=16)
    assert curves.deletion[0, 0, 0] > 0.95 and (curves.deletion[0, :, 1:] < 0.2).all()  # falls with the first patch
    assert (curves.insertion[0, :, 1:] > 0.95).all()
    right, exchanged, last, even = curves.gap.mean(dim=1)
    assert right > 0.7 and last < -0.7 and right > exchanged + 0.3 and right > even + 0.2


def test_equal_values_are_in_random_order_and_the_same_for_the_same_seed():
    flat = torch.zeros(40, 3, 3)
    places = faithful.order(flat)
    assert (places.sort(dim=1).values == torch.arange(9)).all()
    assert places[:, 0].unique().numel() > 5 and torch.equal(places, faithful.order(flat))
    assert not torch.equal(places, faithful.order(flat, seed=1))
    assert torch.equal(faithful.order(flat[:5], seed=35), places[35:])
    known = torch.tensor([[[3.0, 9.0], [1.0, 4.0]]])
    assert faithful.order(known).tolist() == [[2, 0, 3, 1]]


def test_a_function_will_do():
    model, x, maps = ReadsOnePatch(1, 2), noise(2, 3, 16, 16), noise(2, 4, 4)
    asked, expected = (probes.insertion_deletion(one, x, maps, steps=4) for one in (lambda x: model(x), model))
    assert torch.equal(asked.deletion, expected.deletion) and torch.equal(asked.insertion, expected.insertion)


def test_areas_are_those_under_the_curves():
    shares = torch.tensor([0, 0.5, 1])
    curves = probes.Curves(shares, torch.tensor([[1, 0.5, 0.0]]), torch.tensor([[0, 1.0, 1.0]]))
    assert curves.deletion_area.tolist() == [0.5] and curves.insertion_area.tolist() == [0.75]
    assert curves.gap.tolist() == [0.25]


def test_the_mode_is_restored_and_bad_input_refused():
    model, x = build(SMALL).train(), images(SMALL)
    probes.insertion_deletion(model, x, torch.rand(2, 2, 3), steps=2)
    assert model.training
    maps = torch.rand(2, 2, 3)
    by_numpy, by_torch = (
        probes.insertion_deletion(model, x, one, target, steps=2).gap
        for one, target in ((maps.numpy(), [1, 4]), (maps, torch.tensor([1, 4])))
    )
    assert torch.equal(by_numpy, by_torch)
    for words, call in {
        "of the same images": lambda: probes.insertion_deletion(model, x, torch.rand(3, 2, 3)),
        "whole numbers from 0 to 4": lambda: probes.insertion_deletion(model, x, maps, torch.tensor([1]), steps=2),
        r"\(2,\) whole numbers": lambda: probes.insertion_deletion(model, x, maps, torch.tensor([1.0, 2]), steps=2),
        "whole numbers from 0": lambda: probes.insertion_deletion(model, x, maps, [1, 5], steps=2),
        "a probability is of a class": lambda: probes.insertion_deletion(
            build(replace(SMALL, classes=0)), x, maps, steps=2
        ),
        "the weights are damaged": lambda: probes.insertion_deletion(model, x / 0, maps, steps=2),
        "square patches": lambda: probes.insertion_deletion(model, x, torch.rand(2, 3, 2)),
        "non-finite": lambda: probes.insertion_deletion(model, x, torch.full((2, 2, 3), torch.nan)),
        "steps is a whole number, at most 6": lambda: probes.insertion_deletion(model, x, torch.rand(2, 2, 3)),
        "mean needs a reference": lambda: probes.insertion_deletion(model, x, torch.rand(2, 2, 3), by="mean", steps=2),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_the_example_of_the_docstring():
    assert doctest.testmod(faithful).failed == 0
