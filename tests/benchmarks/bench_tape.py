"""What looking inside costs: recording, reading the class token's maps, reading every row, against timm with hooks.

`python -m tests.benchmarks.bench_tape [--record]`: ViT-Ti/16 at 224, and the CIFAR model of width 192. Asked of it, as
multiples of a plain forward pass: recording ≤ 1.05, the class token's maps of every block ≤ 1.1, every row of every
block, one block at a time, ≤ 1.3 and with less memory at the peak than timm's hooks need, and the mean attention
distance of every head, averaged over images, ≤ 1.5.
"""

import copy
import multiprocessing
from pathlib import Path

import timm
import torch

from dtl_lib.host import keep_memory
from dtl_lib.lab.bench import measure, ratio
from dtl_lib.models import ViT
from dtl_lib.probes import mean_attention_distance, over_images
from dtl_lib.tape import record as record_tape
from dtl_lib.timm_models import from_timm
from tests.benchmarks.pairs import parser, record, report, values

NAME, BATCH, MEMORY_BATCH = "vit_tiny_patch16_224", 8, 32
WIDTH_192 = "vit_cifar_patch4_32"


def hooked(model):
    """timm's model with fused attention off and every block's map kept by a hook, the usual way to look inside."""
    model, maps = copy.deepcopy(model), []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, args, output: maps.append(output))
    return model, maps


def with_hooks(model, images):
    """A function that runs `hooked` and lets its maps go."""
    model, maps = hooked(model)

    def run():
        maps.clear()
        model(images)

    return run


def all_rows(model, images):
    """A function that runs without the shortcut of the last block, as a recorded forward does."""

    def run():
        model.all_queries = True
        model(images)
        model.all_queries = False

    return run


def recorded(model, images, read=lambda tape, block: None, **how):
    """A function that runs and records, and then reads each block once."""

    def run():
        with record_tape(model, **how) as tape:
            model(images)
        for block in range(model.plan.blocks):
            read(tape, block)

    return run


def class_token(tape, block: int) -> None:
    tape.maps(block, of="cls")


def every_row(tape, block: int) -> None:
    tape.attention(block)


def distances(model, images):
    """A function that averages the attention distance of every head over the images."""

    def measure(tape):
        return {block: mean_attention_distance(tape, block) for block in range(tape.plan.depth)}

    return lambda: over_images(model, [images], measure, stream=False)


def models(device: str = "cpu"):
    """timm's ViT-Ti/16 and ours with its weights."""
    torch.manual_seed(0)
    theirs = timm.create_model(NAME).eval().to(device)
    return theirs, from_timm(theirs)


def peak_of(kind: str) -> float:
    """MiB that one way of looking inside adds to a process at its peak, over the models and the images."""
    theirs, ours = models()
    images = torch.randn(MEMORY_BATCH, 3, 224, 224)
    run = {
        "plain": lambda: ours(images),
        "hooks": with_hooks(theirs, images),
        "every row": recorded(ours, images, every_row),
        "every row, tokens=False": recorded(ours, images, every_row, stream=False),
    }[kind]
    with torch.inference_mode():
        ours(images[:1])
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
        before = _kib("VmRSS")
        run()
    return (_kib("VmHWM") - before) / 1024


def _kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peaks() -> dict[str, float]:
    """`peak_of` each way, in a fresh process each: a peak is never given back."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for kind in ("plain", "hooks", "every row", "every row, tokens=False"):
        with context.Pool(1) as pool:
            peaks[kind] = pool.apply(peak_of, (kind,))
    return peaks


def looking(name: str, ours, others: dict, options) -> None:
    """Time a plain forward pass and each way of looking inside; print, and record where that is asked for."""
    images = torch.randn(BATCH, 3, *ours.config.image_size, device=options.device)
    ways = {
        "plain": lambda: ours(images),
        "plain, again": lambda: ours(images),
        "plain, every row": all_rows(ours, images),
        "recording": recorded(ours, images),
        "recording, all_rows=False": recorded(ours, images, all_queries=False),
        "the same and the class token": recorded(ours, images, class_token, all_queries=False),
        "class token of every block": recorded(ours, images, class_token),
        "every row of every block": recorded(ours, images, every_row),
        "distance of every head": distances(ours, images),
    }
    with torch.inference_mode():
        seconds = measure(ways, options.rounds, options.device)
        if others:
            seconds |= measure({key: run(images) for key, run in others.items()}, options.rounds, options.device)
    asked = {"plain, again": "control: 1", "plain, every row": "what every row of the last block costs"}
    asked |= {"recording, all_rows=False": "≤ 1.05", "the same and the class token": "≤ 1.1"}
    asked |= {"recording": "≤ 1.05", "class token of every block": "≤ 1.1", "every row of every block": "≤ 1.3"}
    asked |= {"distance of every head": "≤ 1.5"}
    ratios = {key: ratio(seconds, key, "plain") for key in asked}
    ratios["recording over every row"] = ratio(seconds, "recording", "plain, every row")
    if others:
        ratios["hooks over timm"] = ratio(seconds, "timm, unfused, with hooks", "timm")
    case = f"{name}: forward, batch {BATCH}, over a plain forward"
    report(case, seconds, {key: (value, asked.get(key, "for comparison")) for key, value in ratios.items()})
    memory = {}
    if others and options.device == "cpu" and Path("/proc/self/clear_refs").exists():
        memory = {
            f"peak_{key.replace(',', '').replace('=', '_').replace(' ', '_')}_mib": round(value, 1)
            for key, value in peaks().items()
        }
        print(f"  peak memory, batch {MEMORY_BATCH}: " + ", ".join(f"{k} {v}" for k, v in memory.items()))
    if options.record:
        values_of = values(seconds, ratios, batch=BATCH, **memory)
        record("bench_tape", options, f"looking inside: {case}", values_of, ours.config)


def main() -> None:
    options = parser(__doc__).parse_args()
    theirs, ours = models(options.device)
    others = {
        "timm": lambda images: lambda: theirs(images),
        "timm, unfused, with hooks": lambda images: with_hooks(theirs, images),
    }
    if options.only in NAME:
        looking(NAME, ours, others, options)
    if options.only in WIDTH_192:
        looking(WIDTH_192, ViT.build(WIDTH_192).eval().to(options.device), {}, options)


if __name__ == "__main__":
    keep_memory()
    main()
