"""What LayerScale costs in a forward pass, and so what folding it into the weights saves: for chapter 08.

    python -m book.experiments.fold_cost

A folded model has the shapes of one that was built without LayerScale, so this is what it is compared with (experiment
`fold_cost`), in alternating rounds, on the GPU where there is one; run it alone on a machine. An interrupted command
goes on where it stopped.
"""

from dataclasses import replace

from dtl_lib.config import named
from dtl_lib.lab import bench

from . import rounds

EXPERIMENT = "fold_cost"
FOLDED, SCALED = "folded", "LayerScale"
MODELS = {"deit3_small_patch16_224": {"cpu": 1, "cuda": 256}, "cait_xxs24_224": {"cpu": 1, "cuda": 128}}  # → images
ROUNDS = {"cpu": 40, "cuda": 100}


def main(arguments: list[str] | None = None) -> None:
    """Every model's forward pass."""
    options = rounds.parser(__doc__.splitlines()[0], ROUNDS).parse_args(arguments)
    bench.keep_memory()
    kind = rounds.kind(options)
    for name, batch in MODELS.items():
        how = bench.BenchConfig(options.batch_size or batch[kind], False, device=options.device)
        folded = replace(named(name), layer_scale=None)
        configs = {FOLDED: folded, f"{FOLDED}, {rounds.AGAIN}": folded, SCALED: named(name)}
        rounds.compare(EXPERIMENT, f"{name}, {{}}: {how}", configs, how, options.rounds or ROUNDS[kind], options)


if __name__ == "__main__":
    main()
