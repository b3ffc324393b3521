"""What a video of attention costs over the forward passes alone: reading, drawing and writing go on beside the model.

`python -m tests.benchmarks.bench_video [--record]`: ViT-Ti/16 over a clip of 854 × 480, the last block, so that no
forward pass ends early. Asked of it: 0.9 times the frame rate of the forward passes alone, or more, where two cores
are free: one for the model, one for all else. The clip has ten seconds. Four rounds, which take five minutes there,
show whether that is near. How much of a video's time the model was at work comes from that video alone, so a machine
that slows down between two runs does not change it.
"""

import statistics
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from dtl_lib.data.video import Writer, open_clip
from dtl_lib.host import keep_memory
from dtl_lib.lab.bench import measure, ratio
from dtl_lib.models import ViT
from dtl_lib.outputs import attention_video
from dtl_lib.outputs.video import size_for
from tests.benchmarks.pairs import parser, record, report, values

NAME, SIZE, FRAMES, BATCH = "vit_tiny_patch16_224", (480, 854), 240, 8


def made_clip(path: Path, frames: int) -> Path:
    """A clip with as much to decode as a real one: a picture that moves, and grain."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (SIZE[0] // 10, SIZE[1] // 7, 3), dtype=np.uint8)
    picture = coarse.repeat(10, axis=0).repeat(7, axis=1)
    with open(path, "wb") as file:
        writer = Writer(file, Fraction(24), Fraction(1, 24))
        for number in range(frames):
            grain = random.integers(0, 12, picture.shape, dtype=np.uint8)
            writer.write(number, (np.roll(picture, 3 * number, axis=1) // 2 + 60 + grain).astype(np.uint8))
        writer.close()
    return path


def forwards(model: ViT, x: torch.Tensor, frames: int):
    """A function that runs the model alone, on as many frames."""

    @torch.inference_mode()
    def run() -> None:
        for _ in range(frames // BATCH):
            model(x)

    return run


def at_work(model: ViT, run: Callable[[], object], shares: list[float]):
    """A function that runs it, and adds to `shares` how much of the time the model was at work."""

    def measured() -> None:
        marks = []
        hooks = [model.register_forward_pre_hook(lambda *_: marks.append(perf_counter()))]
        hooks += [model.register_forward_hook(lambda *_: marks.append(perf_counter()))]
        start = perf_counter()
        run()
        seconds = perf_counter() - start
        for hook in hooks:
            hook.remove()
        shares.append(sum(end - begin for begin, end in zip(marks[::2], marks[1::2], strict=True)) / seconds)

    return measured


def main() -> None:
    options = parser(__doc__, rounds=4).parse_args()
    torch.manual_seed(0)
    model = ViT.build(NAME).eval().to(options.device)
    with tempfile.TemporaryDirectory() as folder:
        clip = made_clip(Path(folder, "clip.mp4"), FRAMES)
        size = size_for(model.config, open_clip(clip).size)
        x = torch.randn(BATCH, 3, *size, device=options.device)
        last = {"block": model.plan.blocks - 1, "batch_size": BATCH, "force": True}

        shares: dict[str, list[float]] = {"side by side": [], "overlay": []}

        def video(name: str):
            layout = name.replace(" ", "-")
            run = partial(attention_video, model, clip, Path(folder, "out.mp4"), layout=layout, **last)
            return at_work(model, run, shares[name])

        ways = {"forwards": forwards(model, x, FRAMES), "forwards, again": forwards(model, x, FRAMES)}
        ways |= {name: video(name) for name in shares}
        seconds = measure(ways, options.rounds, options.device)
    asked = {"forwards, again": "control: 1", "side by side": "≥ 0.9", "overlay": "≥ 0.9"}
    ratios = {name: ratio(seconds, "forwards", name) for name in asked}
    case = f"{NAME}: {FRAMES} frames of {SIZE[1]}×{SIZE[0]}, frame rate over that of the forwards"
    report(case, seconds, {name: (value, asked[name]) for name, value in ratios.items()})
    work = {name: round(statistics.median(parts[-options.rounds :]), 4) for name, parts in shares.items()}
    print(*(f"  the model at work, {name:<15} {part:.3f} of the time" for name, part in work.items()), sep="\n")
    if options.record:
        measured = values(seconds, ratios, batch=BATCH, frames=FRAMES, at_work=[*work.values()])
        record("bench_video", options, f"video: {case}", measured, model.config)


if __name__ == "__main__":
    keep_memory()
    main()
