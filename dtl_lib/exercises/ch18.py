"""Checkers of chapter 18, Is a clean map a true map?"""

import itertools
import math

import torch
from torch import Tensor, nn

from ..models import ViT
from ..tokens import TokenPlan
from . import exercise, expect, expect_close, expect_fresh, expect_number, expect_shape, refuse_mistakes


@exercise
def check_my_replace(my_replace) -> None:
    """Three images of four patches with five values, six others; noise is judged by many draws."""
    drawn = torch.Generator().manual_seed(18)
    values, others = torch.randn(3, 4, 5, generator=drawn), 2 + torch.randn(6, 4, 5, generator=drawn)
    which = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    found = {by: my_replace(values.clone(), which, others, by) for by in ("zero", "mean", "noise", "shuffle")}
    for by, one in found.items():
        expect_shape(one, values.shape, f"{by}: as many patches and values as came in")
        expect_close(one[~which], values[~which], f"{by}: what is not in `which` stays as it is")
        expect(not torch.equal(one[which], values[which]), f"{by}: nothing has been replaced")
    mean = others.mean(dim=0)
    mistakes = {
        "the mean runs over the places as well: each place has its own": others.mean(dim=(0, 1)).expand_as(values),
        "the mean runs over a patch's values as well: each has its own": mean.mean(dim=1, keepdim=True)
        .expand(4, 5).expand_as(values),
        "that is the mean of the images themselves: take that of the others": values.mean(dim=0).expand_as(values),
    }  # fmt: skip
    wrong = {hint: torch.where(which[..., None], new, values) for hint, new in mistakes.items()}
    expect_close(found["zero"][which], torch.zeros(3, 5), "zero: the patches in `which` become 0")
    refuse_mistakes(found["mean"], wrong)
    expect_close(found["mean"][which], mean.expand_as(values)[which], "mean: of the others, at the same place")
    _check_shuffle(found["shuffle"], values, which, others)
    _check_donors(my_replace)
    _check_noise(my_replace)


def _check_shuffle(found: Tensor, values: Tensor, which: Tensor, others: Tensor) -> None:
    at = [(image, place) for image, place in which.nonzero().tolist()]
    donors = {}
    for image, place in at:
        same = [number for number, other in enumerate(others) if torch.allclose(found[image, place], other[place])]
        elsewhere = any(torch.allclose(found[image, place], patch) for other in others for patch in other)
        expect(bool(same) or not elsewhere, "shuffle: a patch comes from another place: take the same place")
        expect(bool(same), "shuffle: what stands there is no patch of another image at this place")
        donors.setdefault(image, []).append(same[0])
    expect(len(set(donors[0])) == 1, "shuffle: an image's patches come from several others: take one other image")


def _check_donors(my_replace) -> None:
    others = torch.arange(4.0).view(4, 1, 1)
    values, which = torch.full((300, 1, 1), -1.0), torch.ones(300, 1, dtype=torch.bool)
    donors = my_replace(values, which, others, "shuffle").flatten()
    expect(bool((donors != donors[0]).any()), "shuffle: every image gets the same other image: draw one for each")
    in_turn = bool((donors[4:] == donors[:-4]).all())
    expect(len(donors.unique()) == 4 and not in_turn, "shuffle: draw any of the others, each image anew")


def _check_noise(my_replace) -> None:
    drawn = torch.Generator().manual_seed(1)
    spread = torch.tensor([0.5, 3.0])[:, None]
    others = torch.tensor([4.0, -2.0])[:, None] + spread * torch.randn(50, 2, 1, generator=drawn)
    which = torch.ones(400, 2, dtype=torch.bool)
    found = my_replace(torch.zeros(400, 2, 1), which, others, "noise")
    expect(float(found.std(dim=0).min()) > 0.05, "noise: every image gets the same value: draw for each")
    mean, width = others.mean(dim=0), others.std(dim=0)
    far = (found.mean(dim=0) - mean).abs() / (width / 20)
    expect(bool((far < 5).all()), "noise: its mean is that of the others at the same place")
    ratio = found.std(dim=0) / width
    expect(bool(((ratio > 0.8) & (ratio < 1.25)).all()), "noise: its standard deviation is that of the others there")
    others = torch.randn(50, 2, 3, generator=drawn)
    found = my_replace(torch.zeros(400, 2, 3), which, others, "noise")
    alike = float(found.flatten(1).T.corrcoef().fill_diagonal_(0).abs().max())
    expect(alike < 0.4, "noise: values of an image go together: draw each value of each patch by itself")


@exercise
def check_my_deletion(my_deletion) -> None:
    """Two images of six patches; the probability counts each patch by another weight."""
    drawn = torch.Generator().manual_seed(3)
    patches, new = torch.rand(2, 6, 4, generator=drawn) + 1, torch.rand(2, 6, 4, generator=drawn) - 1
    ranking = torch.tensor([[[0.1, 0.9, 0.3], [0.8, 0.2, 0.5]], [[0.4, 0.0, 0.7], [0.6, 0.9, 0.1]]])
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])

    def probability(shown: Tensor) -> Tensor:
        return torch.sigmoid((shown.mean(dim=2) * weights).sum(dim=1) / 10)

    answer = my_deletion(probability, patches.clone(), new.clone(), ranking.clone(), 3)
    flat = ranking.flatten(1)
    place = flat.argsort(dim=1, descending=True).argsort(dim=1)
    order = flat.argsort(dim=1, descending=True)

    def curve(place: Tensor, counts=(0, 2, 4, 6), keep: bool = False) -> Tensor:
        gone = [(place >= count) if keep else (place < count) for count in counts]
        return torch.stack([probability(torch.where(one[..., None], new, patches)) for one in gone], dim=1)

    right = curve(place)
    mistakes = {
        "the smallest values go first: take the largest": curve(5 - place),
        "that is insertion: the first patches come back": curve(place, keep=True),
        "argsort says which patch comes first, second, …; in which place each comes takes argsort once more": curve(
            order
        ),
        "the ranking of the first image is used for both": curve(place[:1].expand(2, -1)),
        "rows and columns of the ranking are exchanged": curve(
            ranking.mT.flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
        ),
        "each step starts from the intact image again, with the patches of that step alone": torch.stack(
            [
                probability(torch.where(((place >= low) & (place < low + 2) & (low >= 0))[..., None], new, patches))
                for low in (-2, 0, 2, 4)
            ],
            dim=1,
        ),
    }
    whole = isinstance(answer, Tensor) and tuple(answer.shape) == (2, 3)
    expect(not whole, "one value is missing: with 3 steps there are 4 points, and the first is the intact image")
    turned = isinstance(answer, Tensor) and tuple(answer.shape) == (4, 2)
    expect(not turned, "the curves lie along the other axis: (batch, steps + 1)")
    expect_shape(answer, (2, 4), "one curve an image: (batch, steps + 1)")
    refuse_mistakes(answer, mistakes)
    expect_close(answer, right, "after step k the first k / steps of the patches are `new`, and all others are intact")
    for steps in (2, 6):
        answer = my_deletion(probability, patches.clone(), new.clone(), ranking.clone(), steps)
        expect_shape(answer, (2, steps + 1), f"with {steps} steps there are {steps + 1} points")
        counts = range(0, 7, 6 // steps)
        expect_close(answer, curve(place, counts), f"with {steps} steps, {6 // steps} of six patches go in each")


@exercise
def check_my_gap(my_gap) -> None:
    """Three images, shares that are not evenly spaced."""
    drawn = torch.Generator().manual_seed(4)
    shares = torch.tensor([0, 0.1, 0.3, 0.6, 1.0])
    deletion, insertion = torch.rand(2, 3, 5, generator=drawn)
    answer = my_gap(shares.clone(), deletion.clone(), insertion.clone())
    area = lambda curve: torch.trapezoid(curve, shares)  # noqa: E731
    right = area(insertion) - area(deletion)
    mistakes = {
        "deletion less insertion: a true map would be negative": -right,
        "the mean over the points is no area: steps of the shares differ": (insertion - deletion).mean(dim=1),
        "each point counts for the whole step after it: take the mean of both ends": (
            (insertion - deletion)[:, :-1] * shares.diff()
        ).sum(dim=1),
        "each point counts for the whole step before it: take the mean of both ends": (
            (insertion - deletion)[:, 1:] * shares.diff()
        ).sum(dim=1),
        "the sign is lost: a map may be worse than a random one": right.abs(),
    }
    expect_shape(answer, (3,), "one number an image")
    refuse_mistakes(answer, mistakes)
    expect_close(answer, right, "the area under insertion less the area under deletion, by trapezoids")


@exercise
def check_my_interval(my_interval) -> None:
    """Four rankings of each of 200 images, not centred on 0, and of one image."""
    drawn = torch.Generator().manual_seed(5)
    gaps = 0.4 * torch.randn(4, 200, generator=drawn) + 0.1
    answer = my_interval(gaps.clone(), 10_000, 0)
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "return two numbers: low and high")
    low, high = (float(end) for end in answer)
    expect(low < high, "the smaller one first")
    spread = float(gaps.square().mean() ** 0.5)
    width = (high - low) / (2 * 1.96 * spread / 200**0.5)
    expect(width < 5, "that is the interval of one image's gap: a map's is a mean over images")
    centre = abs(low + high) / 2 / (spread / 200**0.5)
    expect(centre < 0.5, "it is not around 0: half of the rankings are taken reversed, with the gap's sign changed")
    expect(width > 0.6, "it is too narrow: each map takes one ranking for each image, not the mean of all of them")
    expect(0.93 < width < 1.07, "it should hold the middle 95 % of the means")
    same = tuple(map(float, my_interval(gaps.clone(), 10_000, 0)))
    expect(same == (low, high), "the same seed gives the same interval")
    other = tuple(map(float, my_interval(gaps.clone(), 10_000, 1)))
    expect(other != (low, high), "another seed gives other draws")
    first, last = map(float, my_interval(gaps.clone(), 1, 0))
    expect(abs(last - first) < 1e-6, "one random map has one mean gap, and no interval: make as many as `maps` says")


@exercise
def check_my_tau(my_tau) -> None:
    """Every order of four scores against one, scores of another scale; then five and three methods."""
    one = [0.3, 0.1, 0.9, 0.4]
    for other in itertools.permutations((1.0, 5.0, 20.0, 21.0)):
        pairs = list(itertools.combinations(range(4), 2))
        signs = [math.copysign(1, (one[i] - one[j]) * (other[i] - other[j])) for i, j in pairs]
        expected, agree = sum(signs) / 6, sum(sign > 0 for sign in signs)
        answer = my_tau(torch.tensor(one), torch.tensor(other))
        wrong = {
            agree / 6: "that is the share of pairs that agree: take off the share of those that do not",
            sum(signs): "that is not divided by the number of pairs",
            sum(signs) / 12: "each pair counts once: six pairs of four methods, not twelve",
            sum(signs) / 16: "a method with itself is no pair",
        }
        value = float(answer)
        for mistake, hint in wrong.items():
            close = abs(value - mistake) < 1e-6
            clear = abs(expected - mistake) > 1e-6
            expect(not (close and clear), hint)
        expect_number(value, expected, "pairs in the same order less pairs in the other, over all pairs")
    for other, expected in (([5.0, 4.0, 1.0, 2.0, 3.0], -0.4), ([2.0, 3.0, 1.0], -1 / 3)):
        value = float(my_tau(torch.arange(len(other)).double(), torch.tensor(other).double()))
        expect_number(value, expected, f"of {len(other)} methods there are {len(other) * (len(other) - 1) // 2} pairs")


@exercise
def check_my_swap(my_swap) -> None:
    """A small model with registers, two pairs of images, every block; and the model afterwards."""
    torch.manual_seed(6)
    model = ViT.build("vit_shapes_patch8_32", TokenPlan.of(4, reg_pos=1, num_reg=2)).eval()
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    source, target = torch.randn(2, 2, 3, 32, 32)
    from ..probes import patch_state

    hooks = sum(len(part._forward_pre_hooks) for part in model.modules())
    for block in (3, 1):
        answer = my_swap(model, source.clone(), target.clone(), block)
        with torch.no_grad():
            theirs, own = model(source), model(target)
        expect_shape(answer, (2, 10), "the logits of the target images")
        right = patch_state(model, source, target, "cls", block)
        left = sum(len(part._forward_pre_hooks) for part in model.modules())
        expect(left == hooks, "a hook stays on the model: remove it, or all that follows has the swapped token")
        mistakes = {
            "the whole sequence was swapped: those are the source's logits": theirs.detach(),
            "nothing was swapped: those are the target's own logits": own.detach(),
            "source and target are exchanged": patch_state(model, target, source, "cls", block),
            "the state of the first image went into both": patch_state(
                model, source[:1].expand_as(source), target, "cls", block
            ),
        }
        if block < 3:
            mistakes["that is one block later: the state at the block's output"] = patch_state(
                model, source, target, "cls", block + 1
            )
        mistakes["that is one block too early"] = patch_state(model, source, target, "cls", block - 1)
        mistakes["a register was swapped: the class token stands at 0"] = patch_state(
            model, source, target, ("reg", 0), block
        )
        refuse_mistakes(answer.detach(), mistakes)
        expect_close(
            answer.detach(), right, "token 0 of what enters the block is the source's, all else the target's", 1e-4
        )


@exercise
def check_with_holes(with_holes) -> None:
    """What the patch embedding sees, in training and in evaluation."""
    model = with_holes()
    expect(isinstance(model, nn.Module), "return the model")
    parts = [part for part in model.modules() if isinstance(part, ViT)]
    expect(len(parts) == 1, 'it holds one ViT, ViT.build("vit_shapes_patch8_32")')
    vit = parts[0]
    wanted = ViT.build("vit_shapes_patch8_32").config
    expect(vit.config == wanted, 'the ViT is ViT.build("vit_shapes_patch8_32"), nothing else changed')
    expect_fresh(with_holes)
    seen: list[Tensor] = []
    hook = vit.patch_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    images = torch.rand(64, 3, 32, 32) + 1
    try:
        for mode in (True, False):
            model.train(mode)
            logits = model(images)
            expect_shape(logits, (64, 10), "logits: (batch, classes)")
    finally:
        hook.remove()
    train, evaluated = seen
    expect_close(evaluated, images, "in evaluation every patch is there: ask for self.training")
    patches = lambda x: x.unflatten(3, (4, 8)).unflatten(2, (4, 8)).transpose(3, 4).flatten(4)  # noqa: E731
    gone = patches(train) == 0
    all_gone, some_gone = gone.all(dim=4).all(dim=1), gone.any(dim=4).any(dim=1)
    expect(bool(some_gone.any()), "in training nothing is 0")
    expect(torch.equal(all_gone, some_gone), "whole patches of 8 × 8 pixels are 0, in all three channels")
    share = float(all_gone.double().mean())
    paired = torch.equal(all_gone[:, ::2], all_gone[:, 1::2]) or torch.equal(all_gone[..., ::2], all_gone[..., 1::2])
    expect(not paired, "whole patches of 8 × 8 pixels are 0, each drawn by itself")
    expect(0.4 < share < 0.6, f"half of the patches are 0, not {share:.0%}")
    expect(not torch.equal(all_gone[0], all_gone[1]), "every image has its own holes")
    counts = all_gone.flatten(1).sum(dim=1)
    expect(bool((counts != counts[0]).any()), "each patch is drawn by itself: the number of holes differs by image")
    expect_close(patches(train)[~gone], patches(images)[~gone], "the patches that stay are as they were")
    model.train()
    seen.clear()
    hook = vit.patch_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    model(images)
    hook.remove()
    expect(not torch.equal(seen[0], train), "the holes are drawn anew in each step")
