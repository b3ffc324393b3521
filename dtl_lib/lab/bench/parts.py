"""Where the time of a training step goes: PyTorch's profile, by the parts that the book names."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn

from ...checks import whole
from ...config import ViTConfig
from ...layers import Attention, DotProduct, Mlp, PatchEmbed, TalkingHeads
from ...models import ViT
from ...train.loss import Objective
from .pairs import WARM_UP, silence_kineto, wait
from .step import BenchConfig, augmented, build_inputs, make_bench_learner, trainable, training_step

DATA, REST, PROJECTION, HEAD = "data: crop, flip, normalise", "tokens, positions, residuals", "projection", "head"
KINDS = {
    ViT: REST, PatchEmbed: "patches", nn.LayerNorm: "layer norms", Attention: "queries, keys, values",
    DotProduct: "attention product", TalkingHeads: "attention product", Mlp: "MLP", Objective: "loss",
}  # fmt: skip
FORWARD = (*dict.fromkeys([*KINDS.values()][1:-1]), PROJECTION, HEAD, "loss", REST)
BACKWARD, KEPT, UPDATE = ", backward", "gradients kept", "gradient's norm, optimiser"
NAMES = {"data": DATA, "update": UPDATE}
MARK = "part: "


class Part(NamedTuple):
    """What a part of a step takes."""

    name: str
    seconds: float


def profile_step(config: ViTConfig, batch_size: int, *, steps: int = 3, **how) -> list[Part]:
    """Seconds a step that each part of training takes, forward and backward apart.

    Own time of PyTorch's operations. On a CPU with what Python does between them: the parts add up to the step. On a
    GPU its kernels' alone: they add up to what the GPU is busy, and the rest of a step is waiting. Watching takes time
    itself, the more the smaller the operations: read the shares.

    Args:
        config: the model.
        batch_size: images a step; they lie on the device, and are cropped, flipped and normalised there.
        steps: that are watched, after a warm-up.
        how: the other fields of `BenchConfig`.

    Raises:
        ValueError: for a compiled model, whose parts are one, or a forward pass.
    """
    steps = whole("steps", steps)
    how, config = BenchConfig(batch_size, **how), trainable(config)
    if how.compiled or not how.training:
        raise ValueError("a profile takes a training step apart that is not compiled: leave compiling out")
    silence_kineto()
    from torch.profiler import ProfilerActivity, profile, record_function

    learner = make_bench_learner(build_inputs(config, how)[0], how)
    step = training_step(learner, config, how, augmented(config, how))
    gpu = how.place.type == "cuda"
    with marked(learner.objective, lambda name: record_function(MARK + name)):
        for _ in range(WARM_UP):
            step()
        wait(how.device)
        with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]) as watched:
            for _ in range(steps):
                with record_function(MARK + REST):
                    step()
            wait(how.device)
    seconds = by_part(watched.events(), "self_device_time_total" if gpu else "self_cpu_time_total")
    order = (DATA, *FORWARD, *(name + BACKWARD for name in FORWARD), KEPT, UPDATE)
    return [Part(name, seconds[name] / steps) for name in order if name in seconds]


@contextmanager
def marked(model: nn.Module, mark: Callable):
    """Inside, what a model's parts do runs in the context `mark(name)`; outside, nothing is left of it.

    Args:
        model: a `ViT`, or its `Objective`.
        mark: name → context.
    """
    inside = [(module, KINDS[type(module)]) for module in model.modules() if type(module) in KINDS]
    inside += [(module.project, PROJECTION) for module in model.modules() if isinstance(module, Attention)]
    inside += [(module, HEAD) for module in getattr(model, "model", model).classifiers.values()]
    stack, hooks = [], []

    def enter(name: str) -> None:
        stack.append(mark(name))
        stack[-1].__enter__()

    for module, name in inside:
        hooks.append(module.register_forward_pre_hook(lambda module, args, name=name: enter(name)))
        hooks.append(module.register_forward_hook(lambda *_: stack.pop().__exit__(None, None, None), always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def by_part(events: Iterable, time: str = "self_cpu_time_total") -> dict[str, float]:
    """Seconds by part of a profile whose steps are marked.

    An operation belongs to the innermost mark around it. One of the backward pass belongs to the part whose forward
    operation made it: the two carry the same sequence number.

    Args:
        events: of `torch.profiler`, with marks named `MARK` and the part.
        time: the events' attribute to add up, in µs.
    """
    roots = [event for event in events if event.cpu_parent is None and event.device_type.name == "CPU"]
    roots.sort(key=lambda event: event.time_range.start)
    made, seconds = {}, defaultdict(float)
    for event, part in _walk(roots, None):
        if part and event.scope == 0 and event.sequence_nr >= 0 and not event.fwd_thread:
            made[event.sequence_nr] = part
    for event, part in _walk(roots, None, made):
        if part:
            seconds[part] += getattr(event, time) / 1e6
    return dict(seconds)


def _walk(events: Iterable, part: str | None, made: dict[int, str] | None = None):
    """Every event with the part it belongs to; with `made`, also those of the backward pass."""
    for event in events:
        here = part
        if event.name.startswith(MARK):
            name = event.name.removeprefix(MARK)
            here = NAMES.get(name, name)
        if event.name.startswith("autograd::engine::evaluate_function"):
            here = None if made is None else made[event.sequence_nr] + BACKWARD if event.sequence_nr in made else KEPT
        yield event, here
        yield from _walk(event.cpu_children, here, made)
