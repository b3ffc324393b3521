"""Attention over a video, streamed: frames are read and written in other threads while the model works."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from os import PathLike, path
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import atomic
from ..checks import typed
from ..data.images import size_of
from ..data.photos import prepare, resampling
from ..data.video import KEYFRAMES, Clip, Writer, open_clip, resized
from ..figures import FrameLayout
from ..host import usable_cores
from ..models import ViT
from ..paths import kind, require_writable, user_path
from ..tape import Token
from .looking import TITLES, called, default_tokens, read_maps, stage_of
from .pages import check_heads, scale_of

LAYOUTS = ("side-by-side", "overlay")
SAMPLE = 256  # frames, at most, that the scale is taken from: as many as the model takes while the others are read
KEPT = 2**26  # bytes, at most, of their maps, of 16 frames or more
APART = 4  # frames, more in a long clip; between them, in the second pass, are others to compute while some are written
FIRST = 2  # frames of the first batch and of the last, in both passes: the model, or the writer, waits for no more
AHEAD = 3  # batches that are read, and that are written, beside the one in the model
MOST_PATCHES = 2**15


@dataclass(frozen=True)
class Written:
    """What became of a video.

    Attributes:
        frames: how many were written.
        high: where the scale of colours ends.
        grid: rows and columns of patches.
        problems: what could not be read.
    """

    frames: int
    high: float
    grid: tuple[int, int]
    problems: tuple[str, ...]


def attention_video(
    model: ViT,
    source: str | PathLike,
    output: str | PathLike,
    block: int = 2,
    of: Token | None = None,
    head: int | str = "mean",
    layout: str = "side-by-side",
    scale: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    fps: float | None = None,
    batch_size: int = 8,
    force: bool = False,
    progress: Callable[[int | None], Callable[[list], object]] | None = None,
    name: str = "",
) -> Written:
    """Write a video of what a token attends to, over every frame of another, in constant memory.

    A frame goes into the model whole, at its own shape: its shorter side is the model's image size, and both sides are
    rounded to what the patch size divides. All frames have one scale of colours, from 0.

    Args:
        model: to look into.
        source: a video file, or a folder of images.
        output: an `.mp4` to write; it is there when it is complete, or not at all.
        block: 0 … blocks − 1.
        of: a token, as in `look`; where None, the class token, or `"patches"` where it is not there.
        head: `"mean"`, `"all"` (a grid, with the mean first), or the number of one.
        layout: `"side-by-side"`, the frame beside its maps, with a scale below; `"overlay"`, the maps alone.
        scale: where the colours end; where None, 99.5 % of the values of up to 256 frames, taken from the whole
            clip, lie below.
        image_size: the shorter side for the model, in pixels, or (height, width); the model's own where None.
        fps: frames a second of a folder of images; 24 where None. A video keeps its own times.
        batch_size: frames in a batch.
        force: replace an output that is there.
        progress: called with about the number of frames, where known; what it returns is called with those just done.
        name: what the model is called; the file's comment says it, and what the colours are.

    Raises:
        TokenNotThere: as in `look`.
        ValueError: as in `look`; where the source cannot be read, or holds no frames; where the output
            is there already, is the source, or does not end in `.mp4`.
    """
    source, output = user_path(source), user_path(output)
    _check(source, output, layout, scale, force)
    of = default_tokens(model.plan, model.plan.check_block(block))[0] if of is None else of
    clip = open_clip(source, fps)
    with _threads() as (reading, writing):
        maps = _Maps(model, clip, block, of, head, image_size, batch_size, reading)
        known: dict[int, np.ndarray] = {}
        if scale is None:
            scale, known = maps.sample()
        panels = FrameLayout(clip.size, maps.titles, scale, maps.caption, layout == "side-by-side")
        comment = f"{name and name + ': '}{maps.caption}: {', '.join(maps.titles)}; colours from 0 to {scale:.4g}"
        done, frames = progress(clip.count) if progress else len, 0

        def write(file: Path) -> None:
            nonlocal frames
            with open(file, "wb") as stream, _written_by(writing, stream, clip, panels, comment) as put:
                for batch in maps.of_frames(clip.frames(), clip.count, known):
                    put(batch)
                    frames += len(batch)
                    done(batch)

        atomic.replace(output, write, force=force)
    return Written(frames, scale, maps.grid, tuple(clip.problems.values()))


@contextmanager
def _threads() -> Iterator[tuple[Executor, Executor]]:
    """One thread that reads and one that draws and writes; one for both where a core is missing, so that the model
    keeps its own."""
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        yield reading, writing if len(usable_cores()) > 2 else reading


class _Maps:
    """The maps of frames: (panels, rows, columns) each."""

    def __init__(self, model: ViT, clip: Clip, block: int, of: Token, head, image_size, batch_size: int, reading):
        config = model.config
        if head not in ("mean", "all"):
            check_heads([head], config.heads)
        self.model, self.clip, self.block, self.of, self.head = model, clip, block, of, head
        self.size = size_for(config, clip.size, image_size)
        self.grid, self.batch_size, self.reading = config.grid_of(*self.size), batch_size, reading
        numbers = range(config.heads) if head == "all" else [head] if head != "mean" else []
        mean = ["mean of heads"] if head in ("mean", "all") else []
        self.titles = [*mean, *(f"head {number}" for number in numbers)]
        title = called(of)
        what = "softmax" if stage_of(model, block) == "softmax" else "attention"
        self.caption = f"{what} of the {title}, block {block}" if of in TITLES else f"{what} of {title}, block {block}"

    def sample(self) -> tuple[float, dict[int, np.ndarray]]:
        """Where the scale ends, and the maps by time of the frames that it is taken from, which come again."""
        count = self.clip.count or 0
        most = max(16, min(SAMPLE, KEPT // (4 * len(self.titles) * self.grid[0] * self.grid[1])))
        apart = max(1, min(APART, count // 4), -(-count // most))
        batches = self.of_frames(islice(self.clip.frames(apart), most), min(most, -(-count // apart) or most), {})
        maps = {time: maps for batch in batches for time, _, maps in batch}
        return scale_of(np.stack([*maps.values()])), maps if apart <= KEYFRAMES else {}

    def of_frames(self, frames: Iterable, count: int | None, known: Mapping[int, np.ndarray]) -> Iterator[list[tuple]]:
        """Batches of (time, frame, maps) of about `count` frames; what is known already is not computed again."""
        for chunk, x in ahead(self._batches(iter(frames), count, known), self.reading):
            fresh = iter(() if x is None else self._of_batch(x))
            yield [(time, frame, known[time] if time in known else next(fresh)) for time, frame in chunk]

    def _batches(self, frames: Iterator, count: int | None, known: Mapping) -> Iterator[tuple[list, Tensor | None]]:
        for size in batch_sizes(count, self.batch_size):
            if not (chunk := list(islice(frames, size))):
                return
            fresh = [self._prepared(frame) for time, frame in chunk if time not in known]
            yield chunk, torch.cat(fresh) if fresh else None

    def _prepared(self, frame: np.ndarray) -> Tensor:
        """A frame for the model, whole: `prepare` would cut its ends off."""
        config = self.model.config
        whole = resized(frame, self.size, resampling(config.interpolation))
        return prepare(whole, size=self.size, crop=1.0, config=config)

    def _of_batch(self, x: Tensor) -> np.ndarray:
        x = x.to(next(self.model.parameters()).device)
        found = [*read_maps(self.model, x, self.block, [self.of]).values()]
        if len(found) > 1:
            raise ValueError(f"{self.of} is {len(found)} tokens, and a video shows one: give ({self.of!r}, 0)")
        maps = found[0][0]
        mean = maps.mean(dim=1, keepdim=True)
        if self.head == "mean":
            return mean.cpu().numpy()
        return (torch.cat([mean, maps], dim=1) if self.head == "all" else maps[:, [self.head]]).cpu().numpy()


def size_for(config, size: tuple[int, int], image_size=None) -> tuple[int, int]:
    """Height and width, in pixels, at which a frame goes into a model: its own shape as nearly as patches allow.

    Args:
        config: of the model.
        size: height and width of the frame.
        image_size: the shorter side; or both, (height, width). The model's own where None.

    Raises:
        ValueError: for a size that the patch size does not divide, or of too many patches.
    """
    short = min(config.size) if image_size is None else image_size
    both = size_of(short)
    config.grid_of(*both)
    if not isinstance(short, Sequence):
        patch, factor = config.patch_size, short / min(size)
        both = tuple(max(patch, round(length * factor / patch) * patch) for length in size)
    if np.prod([length // config.patch_size for length in both]) > MOST_PATCHES:
        raise ValueError(
            f"frames of {size[0]}×{size[1]} pixels would be {both[0]}×{both[1]} for the model, more than "
            f"{MOST_PATCHES:,} patches: give a smaller image_size, or (height, width)"
        )
    config.grid_of(*both)
    return both


def batch_sizes(count: int | None, most: int) -> Iterator[int]:
    """Sizes, without end, of the batches of about so many frames: they double at the start and halve at the end."""
    first, left = min(FIRST, most), math.inf if count is None else count
    grown = first
    while True:
        size = max(first, int(min(grown, most, left / 2)))
        yield size
        grown, left = 2 * size, left - size


def ahead(items: Iterator, pool: Executor, count: int = AHEAD) -> Iterator:
    """The items, made in a pool's one thread, up to so many before they are asked for."""
    end = object()
    waiting = deque(pool.submit(next, items, end) for _ in range(count))
    try:
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def _written_by(
    pool: Executor, file, clip: Clip, panels: FrameLayout, comment: str
) -> Iterator[Callable[[list], None]]:
    """A function that draws and writes a batch of (time, frame, maps) in a pool's one thread, in order."""
    writer, waiting, first = Writer(file, clip.rate, clip.time_base, comment), deque(), []

    def write(batch: list) -> None:
        for time, frame, maps in batch:
            first.append(time) if not first else None
            writer.write(time - first[0], panels.draw(frame, maps))

    def put(batch: list) -> None:
        waiting.append(pool.submit(write, batch))
        if len(waiting) > AHEAD:
            waiting.popleft().result()

    with closing(writer):
        try:
            yield put
            while waiting:
                waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            pool.submit(len, ()).result()  # by then the one thread has ended what it was writing


def _check(source: Path, output: Path, layout: str, scale: float | None, force: bool) -> None:
    """A ValueError where what was asked for cannot be, or the output may not be written."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {' or '.join(LAYOUTS)}, not {layout!r}")
    if scale is not None and not typed("scale", scale, float) > 0:
        raise ValueError(f"scale is where the colours end, above 0, not {scale}")
    if output.suffix.lower() != ".mp4":
        raise ValueError(f"{output} does not end in .mp4, the format that is written")
    if (found := kind(output)) is None:
        return require_writable(output, "the video")
    if found != "a file":
        raise ValueError(f"{output} is {found}: give the name of a file to write")
    if kind(source) and path.samefile(source, output):
        raise ValueError(f"{output} is the video that is read: give another name to write")
    if not force:
        raise ValueError(f"{output} is there already: give --force to replace it (force=True), or another name")
