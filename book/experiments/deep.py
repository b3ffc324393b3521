"""How deep can a plain ViT be trained, and what do ReZero, Fixup and LayerScale change? Width 64, depth 12 to 96.

    python -m book.experiments.deep
    python -m book.experiments.deep --scale gpu --jobs 12

The first trains on `shapes`, on a CPU; the second on CIFAR-10, which has to be there (`DTL_DATA`). A record has the
held-out curve, and of the trained model, by block: the stream, its gradient, what branches add (`probes.signal`), and
the learned factors. What was expected is in `book/predictions.md`, committed before the first run.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from book.experiments.stacked import fit_all
from book.experiments.study import Run, Study, main
from dtl_lib import data
from dtl_lib.config import ViTConfig
from dtl_lib.layers import LayerScale
from dtl_lib.models import ViT
from dtl_lib.probes.stream import signal
from dtl_lib.train import FitResult, Recipe

EXPERIMENT = "deep"
SHARES = (0.1, 0.5, 0.9)  # quantiles of |λ| over channels
LOOKED_AT = 256  # test images that the signal is measured on

# method → changes to the configuration; `build` knows the names of those that are more than that
METHODS = {
    "plain": {},
    "LayerScale 1e-1": {"layer_scale": 0.1},
    "LayerScale 1e-5": {"layer_scale": 1e-5},
    "LayerScale 1e-6": {"layer_scale": 1e-6},
    "ReZero": {"layer_scale": 0.0},
    "Fixup-style": {"layer_scale": 1.0},
    "LayerScale 1e-5, stochastic depth": {"layer_scale": 1e-5, "drop_path": 0.1},
    "plain, wide": {},
    "LayerScale 1e-5, wide": {"layer_scale": 1e-5},
}
FEW = ("plain", "LayerScale 1e-5")
# depth → methods, the decisive ones first
CONDITIONS = (
    (48, ("plain", "LayerScale 1e-5", "plain, wide", "LayerScale 1e-5, wide", "ReZero", "LayerScale 1e-1")),
    (12, (*FEW, "plain, wide", "LayerScale 1e-5, wide", "ReZero", "LayerScale 1e-1", "LayerScale 1e-6")),
    (48, ("LayerScale 1e-6", "LayerScale 1e-5, stochastic depth", "Fixup-style")),
    (24, FEW),
    (96, FEW),
)
SIZES = {
    "gpu": {"patch_size": 4, "dim": 64, "heads": 2},
    "cpu": {"patch_size": 8, "dim": 64, "heads": 2},
    "toy": {"patch_size": 16, "dim": 8, "heads": 2},
}
RECIPES = {
    "gpu": Recipe(epochs=5, batch_size=512, lr=1e-3, warmup_steps=50, crop=4, flip=True, eval_every=44),
    "cpu": Recipe(max_steps=300, batch_size=32, lr=1e-3, warmup_steps=20, eval_every=50),
    "toy": Recipe(max_steps=4, batch_size=16, lr=1e-3, warmup_steps=1, eval_every=2),
}
SEEDS = {"gpu": (0, 1, 2), "cpu": (0, 1, 2), "toy": (0,)}


def build(what: str, config: ViTConfig) -> ViT:
    """An untrained model for a condition, from the global random state.

    ReZero (Bachlechner et al. 2020, §3): x + α f(x), one number α a branch, 0 at first, and no norms in the blocks.
    Fixup-style (Zhang et al. 2019, §3): no norms in the blocks; the last matrix of each branch is 0 at first, the
    others are divided by the square root of the number of branches, and each branch has one factor, 1 at first.
    Wide: matrices of a standard deviation of 1/√(fan in), so that a branch adds about as much as there is.
    """
    model = ViT(config)
    for block in model.blocks:
        if "wide" in what:
            for linear in (part for part in block.modules() if isinstance(part, nn.Linear)):
                nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5)
        if "ReZero" in what or "Fixup" in what:
            block.norm1, block.norm2 = nn.Identity(), nn.Identity()
            block.scale1, block.scale2 = (LayerScale(1, config.layer_scale) for _ in range(2))
        if "Fixup" in what:
            with torch.no_grad():
                for linear in (block.attention.qkv, block.mlp.expand):
                    linear.weight.mul_((2 * config.depth) ** -0.5)
                for linear in (block.attention.project, block.mlp.contract):
                    linear.weight.zero_()
    return model


@cache
def sets(scale: str) -> data.Sets:
    """The images of a scale, once in a process."""
    if scale == "gpu":
        return data.load("cifar10", os.environ.get("DTL_DATA"))
    made = data.load("shapes", level=1, samples=None if scale == "cpu" else 32)
    fewer = 500 if scale == "cpu" else 16
    return replace(made, **{name: _first(getattr(made, name), fewer) for name in ("held_out", "test")})


def _first(part: data.Shapes, images: int) -> data.Shapes:
    return data.Shapes(32, part.level, 0, part.start, images, part.name)


def factors(model: ViT) -> dict[str, list[float]]:
    """Quantiles of |λ| over channels by block, for each branch that has one."""
    found = {}
    for name, scale in (("attention", "scale1"), ("mlp", "scale2")):
        scales = [getattr(block, scale) for block in model.blocks]
        if isinstance(scales[0], LayerScale):
            sizes = torch.stack([part.factor.detach().float().abs().cpu() for part in scales])
            for share in SHARES:
                found[f"{name}_factor_{share:.0%}"] = sizes.quantile(share, dim=1).tolist()
    return found


def measure(run: Run, device: str) -> dict:
    """One run: accuracy, its curve, and what the trained model looks like by block."""
    return measure_stacked([run], device)[0]


def measure_stacked(runs: Sequence[Run], device: str) -> list[dict]:
    """Runs that differ in the seed alone, trained as one; the values of each."""
    scale = next(name for name, size in SIZES.items() if size["patch_size"] == runs[0].config.patch_size)
    models, images, losses = [], sets(scale), []
    for run in runs:
        torch.manual_seed(run.seed)
        models.append(build(run.what, run.config))
    results = fit_all(models, images, [run.recipe for run in runs], device, lambda _, loss: losses.append(loss))
    curves = torch.stack(losses).float().cpu().unfold(0, 4, 4).mean(dim=-1)  # of 4 steps each
    return [_values(*each, images, device) for each in zip(models, results, curves.T)]


def _values(model: ViT, result: FitResult, losses: Tensor, images: data.Sets, device: str) -> dict:
    rows = [row for row in result.history if "accuracy" in row]
    model.eval()
    pixels, labels = images.test.batch(range(min(LOOKED_AT, len(images.test))))
    return {
        "n": result.test.n,
        "accuracy": result.test.accuracy,
        "steps": [row["step"] for row in rows],
        "held_out": [row["accuracy"] for row in rows],
        "losses": losses.tolist(),
        **signal(model, pixels.to(device), labels.to(device)).to_dict(),
        **factors(model),
    }


def study(scale: str) -> Study:
    """The runs of a scale: every condition's first seed before any second."""
    most = {"cpu": 48}.get(scale, 96)
    conditions = [(depth, method) for depth, methods in CONDITIONS for method in methods if depth <= most]
    if scale == "toy":
        conditions = [(2, method) for method in METHODS]
    runs = tuple(
        Run(
            f"depth {depth}, {method}", seed,
            ViTConfig(image_size=32, depth=depth, classes=10, **SIZES[scale], **METHODS[method]),
            replace(RECIPES[scale], seed=seed),
        )
        for seed in SEEDS[scale] for depth, method in conditions
    )  # fmt: skip
    command = "python -m book.experiments.deep" + (" --scale gpu --jobs 12" if scale == "gpu" else "")
    return Study(EXPERIMENT, command, runs, measure, measure_stacked=measure_stacked)


if __name__ == "__main__":
    main(study, about=__doc__.splitlines()[0])
