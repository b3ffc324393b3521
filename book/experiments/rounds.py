"""Steps beside each other: the time of each in alternating rounds, over the first's.

What `register_cost`, `atlas_cost`, `one_gpu` and `gpu` share. What has its record of this device is not measured again.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

from dtl_lib import ledger
from dtl_lib.config import ViTConfig
from dtl_lib.host import find_device
from dtl_lib.lab import bench

AGAIN = "again"  # a copy of the first: what a difference of nothing looks like


@dataclass(frozen=True)
class Subject:
    """What is timed.

    Args:
        config: of the model.
        how: it is run.
        make: gives a function that makes a step; `bench.make_step(config, how)` where None.
        inside: gives a context that every step runs in.
    """

    config: ViTConfig
    how: bench.BenchConfig
    make: Callable[[], Callable] | None = None
    inside: Callable = nullcontext

    def begin(self) -> Callable:
        """A function that makes a step, in its context."""
        run = self.make() if self.make else bench.make_step(self.config, self.how)

        def step():
            with self.inside():
                return run()

        return step


@dataclass(frozen=True)
class Compared:
    """What came of one subject beside the first.

    Attributes:
        label: of it.
        subject, first: what was timed, and what it is compared with.
        timing: of it.
        slower, faster: its time over the first's, and the first's over its.
    """

    label: str
    subject: Subject
    first: Subject
    timing: bench.Timing
    slower: bench.Ratio
    faster: bench.Ratio


def parser(description: str, rounds: Mapping[str, int]) -> argparse.ArgumentParser:
    """The options that these scripts have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--device", help="the GPU where there is one")
    made.add_argument("--batch-size", type=int, help="images a step")
    made.add_argument("--rounds", type=int, help=f"{rounds['cpu']} on a CPU, {rounds['cuda']} on a GPU")
    made.add_argument("--only", default="", help="what holds these words")
    made.add_argument("--folder", help="where the records go; the library's ledger where left out")
    made.add_argument("--dry", action="store_true", help="record nothing")
    return made


def kind(options: argparse.Namespace) -> str:
    """ "cuda", or "cpu" for every other device."""
    return "cuda" if find_device(options.device).type == "cuda" else "cpu"


def compared(
    experiment: str, title: str, subjects: Mapping[str, Subject], rounds: int, options: argparse.Namespace
) -> Iterator[Compared]:
    """Measure subjects side by side, those with a record left out.

    Args:
        experiment: whose records there may be.
        title: what is measured, with {} for the label.
        subjects: label → what is timed; the others are compared with the first. All on one device.
        rounds: each runs every subject once.
        options: of the command line; `only` and `folder` count here.
    """
    first = next(iter(subjects))
    device = subjects[first].how.device
    done = ledger.measured(experiment, device, options.folder)
    todo = [label for label in subjects if title.format(label) not in done and options.only in title.format(label)]
    if not todo:
        return
    begun = {
        label: bench.warm_step(subjects[label].config, subjects[label].how, subjects[label].begin)
        for label in dict.fromkeys([first, *todo])
    }
    seconds = bench.measure({label: one.run for label, one in begun.items()}, rounds, device)
    for label in todo:
        ratios = (bench.ratio(seconds, *pair) for pair in ((label, first), (first, label)))
        yield Compared(label, subjects[label], subjects[first], begun[label].timing(seconds[label]), *ratios)


def record(experiment: str, what: str, one: Compared, values: Mapping, command: str, options) -> None:
    """Print what came out, and add it to the ledger unless it is only tried."""
    timing, values = one.timing, one.timing.to_dict() | dict(values)
    print(f"{what}: {1e3 * timing.median:.1f} ms, {one.slower} times the first's time", flush=True)
    if not options.dry:
        about = {"config": one.subject.config.to_dict(), "recipe": timing.how.recipe.to_dict()}
        about |= {"n": len(timing.seconds), "seed": None, "folder": options.folder}
        ledger.add(experiment, what, command, timing.how.device, values, **about)


def compare(
    experiment: str, title: str, configs: Mapping[str, ViTConfig], how: bench.BenchConfig, rounds: int,
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Measure models that are run in the same way, time and memory, and record each beside what the cost model says.

    Args:
        experiment, title, rounds, options: as in `compared`; the experiment has its script's name.
        configs: label → model; the others are compared with the first.
        how: all are run.
    """
    same = {"training": how.training, "device": how.device, "recipe": how.recipe}
    peak = cache(lambda config: bench.step_memory(config, how.batch_size, **same))
    subjects = {label: Subject(config, how) for label, config in configs.items()}
    for one in compared(experiment, title, subjects, rounds, options):
        config, first, ratio = one.subject.config, one.first.config, one.slower
        values = {"time": [ratio.value, ratio.low, ratio.high], "peak_bytes": peak(config)}
        values |= {"memory": peak(config) / peak(first), **predicted(config, first, how)}
        command = f"python -m book.experiments.{experiment}"
        record(experiment, title.format(one.label), one, values, command, options)


def predicted(config: ViTConfig, first: ViTConfig, how: bench.BenchConfig) -> dict[str, float]:
    """By the cost model: multiply–adds and kept activations of an image, and their ratios.

    The memory's holds weights, gradients and the optimiser's two averages too, and takes all to be there at one time.
    """
    cost, usual = config.cost(), first.cost()
    values = {"predicted": cost.total / usual.total, "multiply_adds_image": cost.total}
    if how.training:
        ours, theirs = (how.batch_size * one.activation_bytes + 16 * one.parameters for one in (cost, usual))
        values |= {"activation_bytes": cost.activation_bytes, "model_bytes": ours, "predicted_memory": ours / theirs}
    return values
