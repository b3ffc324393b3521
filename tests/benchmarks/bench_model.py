"""Our ViT against timm's: forward and training step, and what tokens that enter late save.

`python -m tests.benchmarks.bench_model [--record]`. Asked of it (ratio above 1: we are faster): 1.05 or more at
ViT-Ti/16, 1.1 or more at width 192 on CIFAR; the A/A control, timm against a copy of itself, has to hold 1.
"""

import copy
from dataclasses import dataclass, replace

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dtl_lib.config import ViTConfig, named
from dtl_lib.host import keep_memory
from dtl_lib.lab.bench import measure, ratio
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


def forward(model: nn.Module, images: torch.Tensor):
    """A forward pass without gradients."""

    def run():
        with torch.inference_mode():
            model(images)

    model.eval()
    return run


def step(model: nn.Module, images: torch.Tensor):
    """Forward, backward, AdamW."""
    targets = torch.arange(len(images), device=images.device) % 10
    make_optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def run():
        make_optimizer.zero_grad()
        F.cross_entropy(model(images), targets).backward()
        make_optimizer.step()

    model.train()
    return run


def against_timm(case: Case, make_step, options) -> None:
    """timm, a copy of it (A/A) and ours, with the same weights."""
    theirs = case.timm().to(options.device)
    ours = from_timm(theirs)
    images = torch.randn(case.batch, 3, *ours.config.image_size, device=options.device)
    models = {"timm": theirs, "timm, a copy": copy.deepcopy(theirs), "ours": ours}
    seconds = measure(
        {name: make_step(model, images) for name, model in models.items()}, options.rounds, options.device
    )
    control, speed = ratio(seconds, "timm", "timm, a copy"), ratio(seconds, "timm", "ours")
    name = f"{case.name}: {make_step.__name__}, batch {case.batch}"
    report(name, seconds, {"A/A": (control, "control: 1"), "speed": (speed, f"asked: ≥ {case.asked}")})
    if options.record:
        measured = values(seconds, {"control": control, "speed": speed}, batch=case.batch)
        record("bench_model", options, f"ours against timm: {name}", measured, ours.config)


def late_tokens(config: ViTConfig, name: str, batch: int, make_step, options) -> None:
    """A class token and registers from block 0 against the same from the middle, beside what the cost model says."""
    images = torch.randn(batch, 3, *config.image_size, device=options.device)
    plans = {at: TokenPlan.of(config.depth, at, at, REGISTERS) for at in (0, config.depth // 2, 3 * config.depth // 4)}
    configs = {("from block 0" if not at else f"late, from {at}"): config.with_plan(plans[at]) for at in plans}
    configs = {**configs, "from block 0, a copy": configs["from block 0"]}
    models = {label: ViT(each).to(options.device) for label, each in configs.items()}
    seconds = measure(
        {label: make_step(model, images) for label, model in models.items()}, options.rounds, options.device
    )
    totals = {label: each.cost().total for label, each in configs.items()}
    ratios = {label: ratio(seconds, "from block 0", label) for label in configs if label != "from block 0"}
    predicted = {label: totals["from block 0"] / totals[label] for label in ratios}
    title = f"{name}: {make_step.__name__}, batch {batch}, cls and {REGISTERS} registers"
    report(title, seconds, {k: (value, f"cost model: {predicted[k]:.3f}") for k, value in ratios.items()})
    if options.record:
        more = {f"predicted_{label.split()[-1]}": round(value, 4) for label, value in predicted.items()}
        record("bench_model", options, f"late tokens: {title}", values(seconds, ratios, batch=batch, **more), config)


def main() -> None:
    options = parser(__doc__).parse_args()
    for case in CASES:
        for make_step in (forward, step):
            if options.only in f"{case.name} {make_step.__name__}":
                against_timm(case, make_step, options)
    cifar = replace(named("vit_cifar_patch4_32"), depth=12)
    for name, config, batch in (("vit_tiny_patch16_224", named("vit_tiny_patch16_224"), 8), ("vit_cifar", cifar, 32)):
        for make_step in (forward, step):
            if options.only in f"late {name} {make_step.__name__}":
                late_tokens(config, name, batch, make_step, options)


if __name__ == "__main__":
    keep_memory()
    main()
