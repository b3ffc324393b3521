"""Models beside each other: the time of each step in alternating rounds, and its memory at the peak, over the first's.

What the scripts `register_cost` and `atlas_cost` share. What has its record of this device is not measured again.
"""

import argparse
from collections.abc import Mapping

from dtl_lib import ledger
from dtl_lib.config import ViTConfig
from dtl_lib.host import find_device
from dtl_lib.lab import bench

AGAIN = "again"  # a copy of the first: what a difference of nothing looks like


def parser(description: str, rounds: Mapping[str, int]) -> argparse.ArgumentParser:
    """The options that both scripts have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--device", help="the GPU where there is one")
    made.add_argument("--batch-size", type=int, help="images a step")
    made.add_argument("--rounds", type=int, help=f"{rounds['cpu']} on a CPU, {rounds['cuda']} on a GPU")
    made.add_argument("--only", default="", help="what holds these words")
    made.add_argument("--folder", help="where the records go; the library's ledger where left out")
    return made


def kind(options: argparse.Namespace) -> str:
    """ "cuda", or "cpu" for every other device."""
    return "cuda" if find_device(options.device).type == "cuda" else "cpu"


def compare(
    experiment: str, title: str, configs: Mapping[str, ViTConfig], how: bench.BenchConfig, rounds: int,
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Measure models side by side and record each, those with a record left out.

    Args:
        experiment: the ledger's file.
        title: what is measured, with {} for the label.
        configs: label → model; the others are compared with the first.
        how: all are run.
        rounds: each runs every model once.
        options: of the command line.
    """
    first, done = next(iter(configs)), ledger.measured(experiment, how.device, options.folder)
    todo = [label for label in configs if title.format(label) not in done and options.only in title.format(label)]
    if not todo:
        return
    begun = {label: bench.warm_step(configs[label], how) for label in dict.fromkeys([first, *todo])}
    seconds = bench.measure({label: one.run for label, one in begun.items()}, rounds, how.device)
    same = {"training": how.training, "device": how.device, "recipe": how.recipe}
    peak = {label: bench.step_memory(one.config, how.batch_size, **same) for label, one in begun.items()}
    for label in todo:
        time, timing = bench.ratio(seconds, label, first), begun[label].timing(seconds[label])
        values = timing.to_dict() | {"time": [time.value, time.low, time.high], "peak_bytes": peak[label]}
        values |= {"memory": peak[label] / peak[first], **predicted(configs[label], configs[first], how)}
        about = {"config": configs[label].to_dict(), "recipe": how.recipe.to_dict()}
        command, n = f"python -m book.experiments.{experiment}", len(timing.seconds)
        what = title.format(label)
        ledger.add(experiment, what, command, how.device, values, n=n, seed=None, folder=options.folder, **about)
        print(f"{what}: {time} times the first's time, {values['memory']:.3f} times its memory", flush=True)


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
