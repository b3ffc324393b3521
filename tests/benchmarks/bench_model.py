"""Our ViT against timm's: forward and training step, and what tokens that enter late save.

`python -m tests.benchmarks.bench_model [--record]`. Asked of it (ratio above 1: we are faster): 1.05 or more at
ViT-Ti/16, 1.1 or more at width 192 on CIFAR; the A/A control, timm against a copy of itself, has to hold 1.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dtl_lib.config import ViTConfig, named
from dtl_lib.host import keep_memory
from dtl_lib.lab.bench import BenchConfig, make_step, measure, ratio
from dtl_lib.models import ViT
from dtl_lib.pretrained import from_timm
from dtl_lib.tokens import TokenPlan
from tests.benchmarks.pairs import parser, record, report, values

REGISTERS = 16


@dataclass(frozen=True)
class Case:
    """A timm model, the batch it is given, and the speed that is asked of ours, as a multiple of its own."""

    name: str
    batch: int
    asked: float
    depth: int = 12

    def timm(self) -> nn.Module:
        if self.name.startswith("vit_tiny"):
            return timm.create_model(self.name)
        return VisionTransformer(
            img_size=32, patch_size=4, embed_dim=192, depth=self.depth, num_heads=3, num_classes=10
        )


CASES = (
    Case("vit_tiny_patch16_224", 8, 1.05),
    Case("vit_cifar, width 192, depth 12", 32, 1.05),  # one idle block in twelve is 1.07 at most
    Case("vit_cifar, width 192, depth 6", 32, 1.1, depth=6),
)


PASSES = {"forward": False, "step": True}  # name → whether it trains: the loop's own step


def passes(models: Mapping[str, nn.Module], configs: Mapping[str, ViTConfig], batch: int, what: str, options) -> dict:
    """Seconds of each round, by model."""
    how = BenchConfig(batch, PASSES[what], amp="off", device=options.device)
    runs = {label: make_step(configs[label], how, model) for label, model in models.items()}
    return measure(runs, options.rounds, options.device)


def against_timm(case: Case, what: str, options) -> None:
    """timm, a copy of it (A/A) and ours, with the same weights."""
    theirs = case.timm().to(options.device)
    ours = from_timm(theirs)
    models = {"timm": theirs, "timm, a copy": copy.deepcopy(theirs), "ours": ours}
    seconds = passes(models, dict.fromkeys(models, ours.config), case.batch, what, options)
    control, speed = ratio(seconds, "timm", "timm, a copy"), ratio(seconds, "timm", "ours")
    name = f"{case.name}: {what}, batch {case.batch}"
    report(name, seconds, {"A/A": (control, "control: 1"), "speed": (speed, f"asked: ≥ {case.asked}")})
    if options.record:
        measured = values(seconds, {"control": control, "speed": speed}, batch=case.batch)
        record("bench_model", options, f"ours against timm: {name}", measured, ours.config)


def late_tokens(config: ViTConfig, name: str, batch: int, what: str, options) -> None:
    """A class token and registers from block 0 against the same from the middle, beside what the cost model says."""
    plans = {at: TokenPlan.of(config.depth, at, at, REGISTERS) for at in (0, config.depth // 2, 3 * config.depth // 4)}
    configs = {("from block 0" if not at else f"late, from {at}"): config.with_plan(plans[at]) for at in plans}
    configs = {**configs, "from block 0, a copy": configs["from block 0"]}
    models = {label: ViT(each).to(options.device) for label, each in configs.items()}
    seconds = passes(models, configs, batch, what, options)
    totals = {label: each.cost().total for label, each in configs.items()}
    ratios = {label: ratio(seconds, "from block 0", label) for label in configs if label != "from block 0"}
    predicted = {label: totals["from block 0"] / totals[label] for label in ratios}
    title = f"{name}: {what}, batch {batch}, cls and {REGISTERS} registers"
    report(title, seconds, {k: (value, f"cost model: {predicted[k]:.3f}") for k, value in ratios.items()})
    if options.record:
        more = {f"predicted_{label.split()[-1]}": round(value, 4) for label, value in predicted.items()}
        record("bench_model", options, f"late tokens: {title}", values(seconds, ratios, batch=batch, **more), config)


def main() -> None:
    options = parser(__doc__).parse_args()
    for case in CASES:
        for what in PASSES:
            if options.only in f"{case.name} {what}":
                against_timm(case, what, options)
    cifar = replace(named("vit_cifar_patch4_32"), depth=12)
    for name, config, batch in (("vit_tiny_patch16_224", named("vit_tiny_patch16_224"), 8), ("vit_cifar", cifar, 32)):
        for what in PASSES:
            if options.only in f"late {name} {what}":
                late_tokens(config, name, batch, what, options)


if __name__ == "__main__":
    keep_memory()
    main()
