"""Checkers of chapter 15, What an outlier knows."""

import torch
from torch import Tensor

from . import exercise, expect, expect_close, expect_shape, refuse_mistakes


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise
def check_my_folds(my_folds) -> None:
    """Images whose numbers have gaps, out of order, with another number of tokens each."""
    gaps = torch.tensor([1, 3, 5, 6, 9, 15, 40, 90])  # uneven: no division makes 0 … 7 of them
    images = 12 * gaps[torch.tensor([7, 1, 1, 4, 0, 7, 0, 0, 3, 2, 2, 4, 5, 6, 6, 1])]
    for folds in (2, 3, 4):
        found = my_folds(images.clone(), folds)
        expect_shape(found, images.shape, "one fold a token: (tokens,)")
        expect(not found.is_floating_point(), "folds are whole numbers, 0 … folds − 1")
        expect(0 <= int(found.min()) and int(found.max()) < folds, f"of {folds} folds the numbers are 0 … {folds - 1}")
        for image in images.unique().tolist():
            spread = len(found[images == image].unique())
            expect(
                spread == 1, f"image {image} is in {spread} folds: a token may not meet its own image in the other part"
            )
        sizes = [len(images[found == fold].unique()) for fold in range(folds)]
        hint = f"{folds} folds have {sizes} of the 8 images: image numbers may have gaps, so count the images first"
        expect(max(sizes) - min(sizes) <= 1, hint)


@exercise
def check_my_probe(my_probe) -> None:
    """Tokens with channels of other means and sizes, and two numbers to predict that are far from 0."""
    x, new = (3 + _random(rows, 5, seed=seed) * torch.tensor([1, 1, 0.2, 1, 40.0]) for rows, seed in ((30, 0), (7, 1)))
    new = new + 0.5
    y = 10 + (x / torch.tensor([1, 1, 0.2, 1, 40.0])) @ _random(5, 2, seed=2) + 0.3 * _random(30, 2, seed=3)
    found, right = my_probe(x, y, new, 6.0), _ridge(x, y, new, 6.0)
    expect_shape(found, (7, 2), "one row for each new token: (new, values)")
    refuse_mistakes(
        found,
        {
            "the new tokens are scaled by their own mean and deviation: use those of x": _ridge(
                x, y, new, 6.0, own=True
            ),
            "add the mean of y again: the weights say how far from it": right - y.mean(dim=0),
            "alpha is not used: it is added to the diagonal": _ridge(x, y, new, 0.0),
            "channels are not scaled: divide by the deviation of each": _ridge(x, y, new, 6.0, scaled=False),
            "subtract the mean of x and of y first": _ridge(x, y, new, 6.0, centred=False),
            "alpha is added to the sum over tokens, not to the mean": _ridge(x, y, new, 6.0 * 30),
            "the answers for x itself are not asked": _ridge(x, y, x, 6.0)[:7],
        },
    )
    expect_close(found, right, "not ridge regression on standardised channels", 1e-4)


def _ridge(
    x: Tensor, y: Tensor, new: Tensor, alpha: float, own: bool = False, scaled: bool = True, centred: bool = True
) -> Tensor:
    """Ridge regression, right or with one mistake."""
    mean, spread, usual = x.mean(dim=0), x.std(dim=0, correction=0), y.mean(dim=0)
    spread = spread if scaled else torch.ones_like(spread)
    if not centred:
        mean, usual = torch.zeros_like(mean), torch.zeros_like(usual)
    z = (x - mean) / spread
    weights = torch.linalg.solve(z.T @ z + alpha * torch.eye(x.shape[1]), z.T @ (y - usual))
    if own:
        mean, spread = new.mean(dim=0), new.std(dim=0, correction=0)
    return (new - mean) / spread @ weights + usual


@exercise
def check_shuffled(shuffled) -> None:
    """Labels of images that have several tokens, in no order."""
    images = torch.tensor([2, 0, 0, 3, 1, 1, 2, 4, 4, 0])
    of_image = torch.tensor([7, 3, 9, 1, 5])
    labels, order = of_image[images], torch.tensor([1, 2, 3, 4, 0])  # not its own inverse
    found = shuffled(labels.clone(), images, order)
    expect_shape(found, labels.shape, "one label a token: (tokens,)")
    for image in range(5):
        expect(len(found[images == image].unique()) == 1, "all tokens of an image keep one label: shuffle images")
    refuse_mistakes(
        found,
        {
            "nothing is shuffled": labels,
            "image i gets the label of image order[i], and not the other way round": of_image[order.argsort()][images],
            "labels are wanted, not numbers of images": order[images],
        },
    )
    expect_close(found, of_image[order][images], "image i gets the label of image order[i]")


@exercise
def check_interval(interval) -> None:
    """Images with one to five tokens each, in no order, whose answers mostly agree within an image."""
    draw = torch.Generator().manual_seed(0)
    images = torch.arange(40).repeat_interleave(torch.randint(1, 6, (40,), generator=draw))
    images = images[torch.randperm(len(images), generator=draw)]
    easy = torch.rand(40, generator=draw) < 0.6
    right = torch.rand(len(images), generator=draw) < torch.where(easy, 0.9, 0.1)[images]
    counts = torch.stack([torch.bincount(torch.randint(40, (40,), generator=draw), minlength=40) for _ in range(400)])
    found = interval(right, images, counts)
    expect(isinstance(found, tuple | list) and len(found) == 2, "return two numbers: low, high")
    found = torch.stack([torch.as_tensor(end).double() for end in found])
    hits, tokens = (torch.bincount(images, part.double(), 40) for part in (right, torch.ones_like(right)))
    shares = (counts.double() @ hits) / (counts.double() @ tokens)

    def ends(values: Tensor, low: float = 0.025) -> Tensor:
        return torch.stack([values.quantile(low), values.quantile(1 - low)])

    alike = counts.double() @ (hits / tokens) / 40
    refuse_mistakes(
        found,
        {
            "each token counts once, so an image with more of them counts for more": ends(alike),
            "95 % lie between 2.5 % and 97.5 %": ends(shares, 0.05),
            "divide by the tokens that were drawn: not every draw has as many": ends(
                counts.double() @ hits / len(images)
            ),
            "the low end comes first": ends(shares).flip(0),
        },
    )
    expect_close(
        found, ends(shares), "not the 2.5th and 97.5th percentile of the share of right tokens, draw by draw", 1e-4
    )


@exercise
def check_matched(matched) -> None:
    """Places with more long tokens, with fewer, and with none."""
    draw = torch.Generator().manual_seed(0)
    rates = torch.tensor([0.5, 0.8, 0.2, 0.0])
    long = torch.rand(30, 4, generator=draw) < rates
    never = ~long & (torch.rand(30, 4, generator=draw) < 0.9)
    found = matched(long.clone(), never.clone())
    expect(isinstance(found, tuple | list) and len(found) == 2, "return two masks: of long tokens, and of the others")
    fewer = torch.minimum(long.sum(dim=0), never.sum(dim=0))
    for name, mask, whole in (("long", found[0], long), ("never", found[1], never)):
        expect_shape(mask, long.shape, "a mask has the shape (views, places)")
        expect(mask.dtype == torch.bool, "a mask is bool")
        expect(not bool((mask & ~whole).any()), f"a token is kept that is not in `{name}`")
        same = int(mask.sum()) == int(fewer.sum()) and not torch.equal(mask.sum(dim=0), fewer)
        expect(not same, "as many in all is not enough: as many at each place")
        expect(torch.equal(mask.sum(dim=0), fewer), f"of `{name}`, {fewer.tolist()} at the four places are to be kept")
    first = [side & (side.cumsum(dim=0) <= fewer) for side in (long, never)]
    expect(all(map(torch.equal, found, first)), "keep the earliest views of each place")


@exercise
def check_rounded(rounded) -> None:
    """Tokens of which one is far longer than the others."""
    tokens = _random(6, 9)
    tokens[2, 4] = 90.0
    found = rounded(tokens.clone())
    expect_shape(found, (6, 9), "tokens of the same shape")
    step = tokens.abs().amax(dim=1, keepdim=True) / 127
    whole = tokens.abs().max() / 127
    refuse_mistakes(
        found,
        {
            "nothing is rounded": tokens,
            "each token has a step of its own, from its own largest value": (tokens / whole).round() * whole,
            "each token has a step of its own, not each channel": _by_channel(tokens),
            "round to the nearest step, not down": (tokens / step).floor() * step,
            "round to the nearest step, not towards 0": (tokens / step).trunc() * step,
            "these are the numbers of steps: multiply by the step again": (tokens / step).round(),
            "127 steps lead from 0 to the largest value, not 255": (tokens / step * 255 / 127).round()
            * step
            * 127
            / 255,
            "the largest value counts whatever its sign": _signed(tokens),
        },
    )
    expect_close(found, (tokens / step).round() * step, "not the nearest of the 255 values from −127 to 127 steps")


def _by_channel(tokens: Tensor) -> Tensor:
    step = tokens.abs().amax(dim=0, keepdim=True) / 127
    return (tokens / step).round() * step


def _signed(tokens: Tensor) -> Tensor:
    step = tokens.amax(dim=1, keepdim=True) / 127
    return (tokens / step).round() * step
