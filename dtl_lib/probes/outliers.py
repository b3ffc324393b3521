"""Which patches are far longer than the others, from which block on, and what for?"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..checks import as_whole, check_finite, check_tape
from ..tape import Tape
from ..tokens import PATCHES
from .sinks import KINDS, Sinks, find_sinks

FINE, WIDEST = 8, 4096  # bins of the histogram in one spread, and at most
TIMES = 2  # as long as a normal token; more is an outlier, by the second rule of `find_outliers`
TOLD = 0.5  # of the long tokens, from which share on all are left out, by the third


@dataclass(frozen=True)
class Mode:
    """The long patches after one block, a second mode of the patches' lengths.

    Attributes:
        cut: the length that divides them from the others, in the valley between the two modes.
        mask: which patches they are, bool, `(batch, rows, columns)`.
        ratio: their median length over that of the others.
        direction: the mean of their directions, a unit vector, `(dim,)`.
        alike: the squared length of that mean, 0 … 1: the share of their energy that one common vector holds.
        energy: the share of their squared length that each channel holds, `(dim,)`.
        told: the share of them that the input tells, by the third rule of `find_outliers`.
    """

    cut: float
    mask: Tensor
    ratio: float
    direction: Tensor
    alike: float
    energy: Tensor
    told: float

    def channels(self, share: float = 0.5) -> list[int]:
        """The fewest channels that hold a share of their energy, the largest first: massive ones are few."""
        held = self.energy.sort(descending=True)
        return held.indices[: int((held.values.cumsum(0) < share).sum()) + 1].tolist()


@dataclass(frozen=True)
class Outliers:
    """What `find_outliers` finds.

    Attributes:
        modes: the outliers after each block of the trunk, or None.
        left_out: by block, long patches that are no outliers by the third rule.
        sinks: by block, what the outliers that entered it do in its attention; see `Sinks`.
    """

    modes: tuple[Mode | None, ...]
    left_out: dict[int, Mode]
    sinks: dict[int, Sinks]
    _shape: tuple[int, ...] = field(repr=False)

    @property
    def start(self) -> int | None:
        """The first block after which there are outliers; None where there are none."""
        return next((block for block, mode in enumerate(self.modes) if mode), None)

    def mask(self, block: int) -> Tensor:
        """Which patches are outliers after a block, bool, `(batch, rows, columns)`.

        Raises:
            ValueError: for a block that the trunk does not have.
        """
        number = as_whole(block)
        if number is None or not 0 <= number < len(self.modes):
            raise ValueError(f"the trunk has blocks 0 … {len(self.modes) - 1}, not {block}")
        mode = self.modes[number]
        return torch.zeros(self._shape, dtype=torch.bool) if mode is None else mode.mask

    @property
    def kind(self) -> str | None:
        """What the outliers are as sinks, the one of `KINDS` that gets most of their attention; None without any."""
        got = {kind: sum(sinks.attention_on(kind) for sinks in self.sinks.values()) for kind in KINDS}
        return max(KINDS, key=lambda kind: got[kind]) if self.sinks else None


def find_outliers(tape: Tape) -> Outliers:
    """Patches whose lengths form a second mode after a block, found without a threshold, and what they do as sinks.

    Each block is asked alone, over all images recorded, by three rules:

    1. The histogram of log-lengths is blurred by as much as the normal tokens themselves are spread. Does a second hill
       of two tokens or more still stand above the main one? The valley between them is the cut.
    2. A typical token beyond it is more than twice as long as a normal one: most of it is something that normal tokens
       do not have.
    3. The input does not tell which they are. Each is compared with the token of its image that is most like it before
       block 0. Where half of these are long as well, length follows what a patch shows, such as an object on plain
       ground, and is no artefact. That can be wrong where images resemble each other, as the frames of a video do in
       their corners, so `Outliers.left_out` has what this rule leaves out.

    Vision Transformers Need Registers (Darcet et al. 2024, §2.1) cuts DINOv2's at 150, by eye; another model, block or
    size needs another number. Tokens shorter than the others are not looked for, nor is a lone long token.

        >>> import torch
        >>> from dtl_lib import data, load_pretrained, probes, record
        >>> model = load_pretrained("zoo/shapes_depth6")
        >>> images, _ = data.load("shapes").test.batch(range(20))
        >>> with torch.no_grad(), record(model) as tape:
        ...     logits = model(images)
        >>> found = probes.find_outliers(tape)  # this model has none
        >>> found.start, found.kind, tuple(found.mask(3).shape), int(found.mask(3).sum())
        (None, None, (20, 8, 8), 0)

    Args:
        tape: from `record(model)`, of a batch of images; more images show a rarer outlier.

    Raises:
        ValueError: for a tape without the residual stream, or without an image, and non-finite tokens.
    """
    check_tape(tape)
    before = patch_tokens(tape, "input")
    if not len(before):
        raise ValueError("there are no images to measure on")
    long = [_mode(tape, block, before) for block in range(tape.plan.depth)]
    modes = tuple(mode if mode and mode.told < TOLD else None for mode in long)
    left_out = {block: mode for block, mode in enumerate(long) if mode and mode.told >= TOLD}
    entering = {block + 1: mode.mask for block, mode in enumerate(modes[:-1]) if mode}
    sinks = {block: find_sinks(tape, block, mask) for block, mask in entering.items()}
    return Outliers(modes, left_out, sinks, (len(before), *tape.grid))


def second_mode(lengths: Tensor) -> float | None:
    """Where a second mode of long tokens begins, by the first rule of `find_outliers`; None where there is one mode.

        >>> import torch
        >>> from dtl_lib.probes.outliers import second_mode
        >>> lengths = torch.linspace(8, 12, 100)
        >>> second_mode(lengths), 12 < second_mode(torch.cat([lengths, torch.tensor([90.0, 500.0])])) < 90
        (None, True)

    Args:
        lengths: of any shape.

    Raises:
        ValueError: for non-finite lengths.
    """
    check_finite(lengths)
    logs = lengths.flatten().double().clamp(min=1e-30).log().cpu().numpy()
    return second_mode_of(logs, np.ones_like(logs))


def second_mode_of(logs: np.ndarray, counts: np.ndarray) -> float | None:
    """`second_mode` of lengths that were counted.

    Args:
        logs: logarithms of lengths.
        counts: how often each is there, above 0.
    """
    median = middle(logs, counts)
    upper = logs >= median  # one side, since some models have many short tokens
    spread = 1.4826 * middle(logs[upper] - median, counts[upper])  # of a normal distribution its standard deviation
    cut = _valley(logs, counts, spread)
    if cut is not None:  # again with the tail that is there, if it is longer than a normal distribution's
        normal = upper & (logs < cut)
        away = np.average(np.square(logs[normal] - median), weights=counts[normal])
        cut = _valley(logs, counts, max(spread, np.sqrt(away)))
    return None if cut is None or counts[logs > cut].sum() < 2 else float(np.exp(cut))


def middle(values: np.ndarray, counts: np.ndarray) -> float:
    """The median of values that were counted."""
    order = np.argsort(values)
    below = np.cumsum(counts[order])
    ends = (np.searchsorted(below, below[-1] / 2, side) for side in ("left", "right"))
    return float(np.mean([values[order][min(end, len(values) - 1)] for end in ends]))


def _valley(logs: np.ndarray, counts: np.ndarray, spread: float) -> float | None:
    """The first valley above the main hill that is emptier than half a token's own hill, or else the emptiest."""
    from scipy.ndimage import gaussian_filter1d

    around = 4 * spread + (logs.max() - logs.min()) / 100 + 1e-6
    low, high = logs.min() - around, logs.max() + around
    bins = min(WIDEST, int(FINE * (high - low) / max(spread, 1e-9)) + 1)
    heights, edges = np.histogram(logs, bins, (low, high), weights=counts)
    width = (high - low) / bins
    sigma = max(spread / width, 2.0)
    density = gaussian_filter1d(heights.astype(float), sigma, truncate=10, mode="constant")
    one_token, valleys, at = 1 / (sigma * np.sqrt(2 * np.pi)), [], int(density.argmax())
    steps = np.diff(density)
    while (rises := np.flatnonzero(steps[at:] > 0)).size:
        floor = at + int(rises[0])
        first = floor - int(np.argmax(density[at : floor + 1][::-1] > density[floor])) + 1  # the floor may be flat
        valleys.append((density[floor] / one_token, (edges[first] + edges[floor + 1]) / 2))
        falls = np.flatnonzero(steps[floor:] < 0)
        at = floor + int(falls[0])
    return next((cut for depth, cut in valleys if depth < 0.5), min(valleys)[1]) if valleys else None


def _mode(tape: Tape, block: int, before: Tensor) -> Mode | None:
    tokens = patch_tokens(tape, block)
    lengths = tokens.norm(dim=-1)
    cut = second_mode(lengths)
    if cut is None:
        return None
    long = lengths > cut
    ratio = float(lengths[long].median() / lengths[~long].median())
    if ratio <= TIMES:
        return None
    found = tokens[long]
    mean, squares = F.normalize(found, dim=-1).mean(dim=0), found.square().mean(dim=0)
    mask = rearrange(long, "batch (rows columns) -> batch rows columns", rows=tape.grid[0]).cpu()
    energy = (squares / squares.sum()).cpu()
    told = told_by_input(before, long)
    return Mode(cut, mask, ratio, F.normalize(mean, dim=0).cpu(), float(mean.square().sum()), energy, told)


def told_by_input(before: Tensor, long: Tensor) -> float:
    """Of the long tokens, the share whose most similar other token of the same image, before block 0, is long too.

    Args:
        before: the patches' tokens before block 0, `(batch, patches, dim)`; likeness is the cosine around their mean.
        long: bool, `(batch, patches)`, one at least.
    """
    return float(likest_is_long(before, long).double().mean())


def likest_is_long(before: Tensor, long: Tensor) -> Tensor:
    """Of each long token, whether the token of its image that is most like it is long: bool, `(n,)`; see
    `told_by_input`."""
    unit = F.normalize(before - before.mean(dim=(0, 1)), dim=-1)
    same = []
    for tokens, is_long in zip(unit, long):
        which = is_long.nonzero().flatten()
        cosines = tokens[which] @ tokens.T
        cosines[torch.arange(len(which)), which] = -2  # not itself
        same.append(is_long[cosines.argmax(dim=-1)])
    return torch.cat(same)


def neighbour_likeness(tokens: Tensor) -> Tensor:
    """How like its neighbours each patch is: the mean cosine with the patches above, below, left and right of it.

    Vision Transformers Need Registers (Darcet et al. 2024, §2.1, Fig. 5a) takes the patch embedding before positions
    are added, and finds that DINOv2's outliers are where this is high. A corner has two neighbours, a patch of the
    border three.

        >>> import torch
        >>> from dtl_lib import probes
        >>> tokens = torch.tensor([[1.0, 0], [2, 0], [0, 3]]).view(1, 1, 3, 2)  # one row of three patches
        >>> probes.neighbour_likeness(tokens)
        tensor([[[1.0000, 0.5000, 0.0000]]])

    Args:
        tokens: `(batch, rows, columns, dim)`, such as `model.patch_embed(images)`; the cosine with a token of length 0
            counts as 0.

    Returns:
        `(batch, rows, columns)`, −1 … 1, float32 at least.

    Raises:
        ValueError: for another shape, a grid of one patch, and non-finite tokens.
    """
    if tokens.ndim != 4 or tokens.shape[1] * tokens.shape[2] < 2:
        given = tuple(tokens.shape)
        raise ValueError(f"tokens are (batch, rows, columns, dim), two patches an image or more, not {given}")
    check_finite(tokens)
    unit = F.normalize(tokens if tokens.dtype == torch.float64 else tokens.float(), dim=-1)
    down = (unit[:, 1:] * unit[:, :-1]).sum(dim=-1)
    across = (unit[:, :, 1:] * unit[:, :, :-1]).sum(dim=-1)
    return _around(down, across) / _around(torch.ones_like(down), torch.ones_like(across))


def _around(down: Tensor, across: Tensor) -> Tensor:
    """Of each patch the sum over its neighbours, of values between rows and of values between columns."""
    return F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1)) + F.pad(across, (1, 0)) + F.pad(across, (0, 1))


def patch_tokens(tape: Tape, block) -> Tensor:
    """The patches' tokens, `(batch, patches, dim)`, float32 at least."""
    tokens = tape.tokens(block)[:, tape.plan.layout(0 if block == "input" else block)[PATCHES]]
    return tokens if tokens.dtype == torch.float64 else tokens.float()
