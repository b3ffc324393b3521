"""What registers cost, for chapter 06: time and memory as a function of their number, and of the block they enter at.

    python -m book.experiments.register_cost

measures a forward pass and a training step of two models of twelve blocks, of 64 and of 196 patches, against the same
without registers (experiment `register_cost`). What is compared runs in alternating rounds, on the GPU where there is
one; run it alone on a machine. An interrupted command goes on where it stopped.
"""

from dtl_lib.config import named
from dtl_lib.lab import bench
from dtl_lib.tokens import TokenPlan

from . import rounds

EXPERIMENT = "register_cost"
DEPTH, NONE = 12, "no registers"
NUMBERS, MANY, PLACES = (1, 4, 8, 16), 16, (3, 6, 9)
MODELS = {"vit_cifar_patch4_32": {"cpu": 16, "cuda": 512}, "deit_tiny_patch16_224": {"cpu": 4, "cuda": 256}}  # → images
ROUNDS = {"cpu": 40, "cuda": 100}


def plans() -> list[dict[str, TokenPlan]]:
    """What runs in the same rounds: numbers of registers from the first block on, then places of many."""
    none = TokenPlan.of(DEPTH)
    numbers = {_label(number, 0): TokenPlan.of(DEPTH, 0, 0, number) for number in NUMBERS}
    places = {_label(MANY, place): TokenPlan.of(DEPTH, 0, place, MANY) for place in PLACES}
    return [{NONE: none, f"{NONE}, {rounds.AGAIN}": none, **numbers}, {NONE: none, **places}]


def _label(number: int, place: int) -> str:
    return f"{number} register{'s' * (number > 1)} from {place}"


def main(arguments: list[str] | None = None) -> None:
    """Every model, forward pass and training step."""
    options = rounds.parser(__doc__.splitlines()[0], ROUNDS).parse_args(arguments)
    bench.keep_memory()
    kind = rounds.kind(options)
    for name, batch in MODELS.items():
        for training in (False, True):
            how = bench.BenchConfig(options.batch_size or batch[kind], training, device=options.device)
            title = f"{name}, {{}}: {'training step' if training else 'forward pass'}, {how}"
            for group in plans():
                configs = {label: named(name).with_plan(plan) for label, plan in group.items()}
                rounds.compare(EXPERIMENT, title, configs, how, options.rounds or ROUNDS[kind], options)


if __name__ == "__main__":
    main()
