"""What can be read from a single token? A linear probe, asked of images that it was not fitted to."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..checks import as_whole, check_finite, check_tape, whole
from ..tape import Tape
from ..tokens import PATCHES, TokenNotThere
from .entry_rows import Interval

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

ALPHAS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)  # of ridge regression
COSTS = (1e-3, 1e-2, 1e-1, 1.0)  # C of logistic regression
DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Score:
    """How well a probe answers for images that it was not fitted to.

    Attributes:
        value: of classes, the share that it names; of numbers, R², the share of their variance that it explains, which
            is 0 for whoever answers with the mean, and below 0 for whoever does worse.
        low, high: 95 % interval of the value, by a bootstrap over images; it takes the fitted probes as they are.
        chance: the same value where labels have been shuffled over images.
        tokens, images: how many.
        predictions: of each token, by the probe that had not seen its image: classes, or numbers as `targets`.
    """

    value: float
    low: float
    high: float
    chance: float
    tokens: int
    images: int
    predictions: Tensor = field(repr=False)
    _names: np.ndarray = field(repr=False)  # of the images
    _parts: np.ndarray = field(repr=False)  # (images, 2): what is gained, and what could be

    def less(self, other: "Score", draws: int = DRAWS, seed: int = 0) -> Interval:
        """This value less another, with a 95 % interval; images that both have are drawn together.

        Args:
            other: of another kind of token, and the same question.
            draws, seed: of the bootstrap.
        """
        names = np.union1d(self._names, other._names)
        ends = np.percentile(
            np.subtract(*(_values(_spread(one, names), draws, seed) for one in (self, other))), (2.5, 97.5)
        )
        return Interval(self.value - other.value, *map(float, ends))


def token_probe(
    features: Tensor, targets: Tensor, groups: Tensor, folds: int = 5, shuffles: int = 1, seed: int = 0
) -> Score:
    """What a linear probe reads from one token: a class (logistic regression), or numbers (ridge regression).

    Images are divided into folds. The tokens of each fold are answered by a probe that is fitted to all others, so no
    image is on both sides. Channels are standardised, with means and deviations of the tokens that the probe is fitted
    to. How strongly it is held back is chosen on a part of these images, too, for each probe alone: so kinds of token
    that need another strength are compared fairly. The probes of Vision Transformers Need Registers (Darcet et al.
    2024, §2.1) are such; intervals and shuffled labels are not in that paper.

        >>> import torch
        >>> from dtl_lib import probes
        >>> draw = torch.Generator().manual_seed(0)
        >>> targets = torch.arange(300) % 3
        >>> told = torch.eye(3)[targets] + 0.1 * torch.randn(300, 3, generator=draw)
        >>> noise = torch.randn(300, 3, generator=draw)
        >>> images = torch.arange(300) // 2  # two tokens an image
        >>> knows, nothing = (probes.token_probe(one, targets, images) for one in (told, noise))
        >>> knows.value, nothing.low < 1 / 3 < nothing.high
        (1.0, True)

    Args:
        features: one row a token, `(tokens, dim)`.
        targets: whole numbers are classes, `(tokens,)`; others are to be predicted as they are, `(tokens,)` or
            `(tokens, values)`.
        groups: the image of each token, whole numbers, `(tokens,)`.
        folds: how many; a probe is fitted to all but one.
        shuffles: how often labels are shuffled for `chance`: those of images where all tokens of an image have the
            same, else those of tokens. With 0 it is NaN.
        seed: of folds, shuffles and bootstrap.

    Raises:
        ValueError: for numbers of rows that differ, values that are not finite, fewer images than folds, and targets
            that are all the same.
    """
    x, y, groups = _checked(features, targets, groups, folds)
    fold = fold_of(groups, folds, seed).numpy()
    predictions = _answers(x, y, groups, fold)
    names, parts = _gains(y, predictions, groups, fold)
    chance = []
    for number in range(whole("shuffles", shuffles, 0)):
        other = _shuffled(y, groups, seed + 1 + number)
        chance.append(_value(_gains(other, _answers(x, other, groups, fold), groups, fold)[1]))
    low, high = np.percentile(_values(parts, DRAWS, seed), (2.5, 97.5))
    about = float(np.mean(chance)) if chance else math.nan, len(x), len(names), torch.from_numpy(predictions)
    return Score(_value(parts), float(low), float(high), *about, _names=names, _parts=parts)


def fold_of(groups: Tensor, folds: int, seed: int = 0) -> Tensor:
    """The fold of each token, 0 … folds − 1, `(tokens,)`: all tokens of an image are in one."""
    images, member = groups.unique(return_inverse=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return (order % folds)[member]


def fit_probe(features, targets, groups, seed: int = 0) -> "Pipeline":
    """The probe of `token_probe` fitted to all of these tokens, as a scikit-learn pipeline.

    Args:
        features, targets, groups, seed: as there; of five folds of images one chooses the strength.

    Raises:
        ValueError: as there.
    """
    x, y, groups = _checked(features, targets, groups, 2)
    return _fit(x, y, groups, seed)


def one_token(tape: Tape, block: int, group: str = PATCHES, where: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Tokens of one kind as rows for a probe: the residual stream after a block, not normalised.

    Args:
        tape: from `record(model)`.
        block: 0 … blocks − 1, or `"input"`: before block 0.
        group: of tokens, such as `"cls"` or `"reg"`.
        where: which patches, bool `(batch, rows, columns)`, such as `find_outliers(tape).mask(block)`; all if None.

    Returns:
        features `(tokens, dim)`, float32 at least, on the CPU; and the image of each, its number in the batch.

    Raises:
        ValueError: for a mask of another shape, and of another group than patches.
        TokenNotThere: for a group that is not there after this block.
    """
    check_tape(tape)
    layout = tape.plan.layout(0 if block == "input" else block)
    if group not in layout:
        raise TokenNotThere(f"after block {block} there are {', '.join(layout)}, and no {group!r}")
    found = tape.tokens(block)[:, layout[group]].detach().cpu()
    found = found if found.dtype == torch.float64 else found.float()
    images = torch.arange(len(found))[:, None].expand(found.shape[:2])
    if where is None:
        return found.flatten(0, 1), images.flatten()
    shape = (len(found), *tape.grid)
    if group != PATCHES or where.dtype != torch.bool or tuple(where.shape) != shape:
        raise ValueError(f"where is a mask of patches, bool {shape}")
    chosen = where.flatten(1).cpu()
    return found[chosen], images[chosen]


def draw_places(masks: Tensor, count: int, seed: int = 0) -> Tensor:
    """In each image `count` of the patches that a mask has, at random: equal counts of each kind.

    Args:
        masks: bool `(batch, rows, columns)`.
        count: patches an image.
        seed: of the draw.

    Raises:
        ValueError: where an image has fewer, and for masks of another type or shape.
    """
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool or masks.ndim != 3 or not len(masks):
        raise ValueError("masks are bool, (batch, rows, columns), of one image or more")
    least = int(masks.flatten(1).sum(dim=1).min())
    if (number := as_whole(count)) is None or not 1 <= number <= least:
        raise ValueError(f"count is from 1 to {least}, the fewest patches that an image's mask has, not {count}")
    chance = torch.rand(masks.flatten(1).shape, generator=torch.Generator().manual_seed(seed))
    chosen = chance.masked_fill(~masks.flatten(1), -1).topk(number, dim=1).indices
    return torch.zeros_like(masks.flatten(1)).scatter(1, chosen, True).view_as(masks)


def patch_pixels(images: Tensor, patch_size: int) -> Tensor:
    """The pixels of each patch: `(batch, channels, height, width)` → `(batch, rows, columns, pixels · channels)`.

    Raises:
        ValueError: for images that the patch size does not divide.
    """
    side = whole("patch_size", patch_size)
    if images.ndim != 4 or images.shape[2] % side or images.shape[3] % side:
        raise ValueError(f"images are (batch, channels, height, width), multiples of {side}, not {tuple(images.shape)}")
    shape = "batch c (rows h) (columns w) -> batch rows columns (h w c)"
    return rearrange(images, shape, h=patch_size, w=patch_size)


def pictures_of(pixels: Tensor, patch_size: int) -> Tensor:
    """Patches put together: the inverse of `patch_pixels`; a ValueError for pixels that make no patch of that size."""
    if pixels.ndim != 4 or pixels.shape[3] % whole("patch_size", patch_size) ** 2:
        raise ValueError(
            f"pixels are (batch, rows, columns, {patch_size} · {patch_size} · channels), not {tuple(pixels.shape)}"
        )
    shape = "batch rows columns (h w c) -> batch c (rows h) (columns w)"
    return rearrange(pixels, shape, h=patch_size, w=patch_size)


def _checked(features, targets, groups, folds: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
    features, targets, groups = map(torch.as_tensor, (features, targets, groups))
    rows = len(features)
    if features.ndim != 2 or targets.ndim not in (1, 2) or groups.ndim != 1 or not rows == len(targets) == len(groups):
        shapes = ", ".join(str(tuple(one.shape)) for one in (features, targets, groups))
        raise ValueError(f"features, targets and groups have one row a token: (tokens, dim), (tokens,), not {shapes}")
    check_finite(features, targets)
    images, folds = len(groups.unique()), whole("folds", folds, 2)
    if images < 2 * folds:
        raise ValueError(f"{folds} folds take {2 * folds} images or more, not {images}")
    if bool((targets == targets[0]).all()):
        raise ValueError("all targets are the same: there is nothing to tell apart")
    y = targets.detach().cpu().numpy()
    y = y.astype(float if targets.is_floating_point() or y.ndim == 2 else np.int64)
    return features.detach().cpu().double().numpy(), y, groups.detach().cpu()


def _fit(x: np.ndarray, y: np.ndarray, groups: Tensor, seed: int) -> "Pipeline":
    """Of all strengths the one that is best on a fifth of these images, fitted to all of them."""
    held = fold_of(groups, 5 if len(groups.unique()) >= 10 else 2, seed + 7).numpy() == 0
    scores = [_scored(_pipeline(y, strength).fit(x[~held], y[~held]), x[held], y[held]) for strength in _strengths(y)]
    return _pipeline(y, _strengths(y)[int(np.argmax(scores))]).fit(x, y)


def _pipeline(y: np.ndarray, strength: float) -> "Pipeline":
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = LogisticRegression(C=strength, max_iter=2000, tol=1e-3) if _is_class(y) else Ridge(alpha=strength)
    return make_pipeline(StandardScaler(), classes)


def _strengths(y: np.ndarray) -> tuple[float, ...]:
    return COSTS if _is_class(y) else ALPHAS


def _is_class(y: np.ndarray) -> bool:
    return y.dtype == np.int64 and y.ndim == 1


def _scored(probe: "Pipeline", x: np.ndarray, y: np.ndarray) -> float:
    predictions = probe.predict(x)
    return float((predictions == y).mean()) if _is_class(y) else -float(np.square(predictions - y).sum())


def _answers(x: np.ndarray, y: np.ndarray, groups: Tensor, fold: np.ndarray) -> np.ndarray:
    found = np.empty_like(y)
    for number in np.unique(fold):
        out = fold == number
        found[out] = _fit(x[~out], y[~out], groups[torch.from_numpy(~out)], int(number)).predict(x[out])
    return found


def _gains(y: np.ndarray, predictions: np.ndarray, groups: Tensor, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each image what its answers gain and what they could: right ones of all; variance explained of all."""
    if _is_class(y):
        gained, whole_of = (predictions == y).astype(float), np.ones(len(y))
    else:
        usual = np.empty_like(y)  # what who knows nothing answers: the mean of the tokens that the probe was fitted to
        for number in np.unique(fold):
            usual[fold == number] = y[fold != number].mean(axis=0)
        sums = [np.square(y - other).reshape(len(y), -1).sum(axis=1) for other in (usual, predictions)]
        gained, whole_of = sums[0] - sums[1], sums[0]
    names, member = np.unique(groups.numpy(), return_inverse=True)
    return names, np.stack([np.bincount(member, one, len(names)) for one in (gained, whole_of)], axis=1)


def _shuffled(y: np.ndarray, groups: Tensor, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    _, first, member = np.unique(groups.numpy(), return_index=True, return_inverse=True)
    of_image = y[first]
    return of_image[draw.permutation(len(first))][member] if (of_image[member] == y).all() else draw.permutation(y)


def _value(parts: np.ndarray) -> float:
    return float(parts[:, 0].sum() / parts[:, 1].sum())


def _values(parts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """The value over images drawn with replacement, `(draws,)`."""
    counts = np.random.default_rng(seed).multinomial(len(parts), np.full(len(parts), 1 / len(parts)), draws)
    gained, whole_of = (counts @ parts).T
    return gained / whole_of


def _spread(score: Score, names: np.ndarray) -> np.ndarray:
    parts = np.zeros((len(names), 2))
    parts[np.searchsorted(names, score._names)] = score._parts
    return parts
