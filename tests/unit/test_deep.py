"""The runs of the depth study: what is built, in which order, and what a record holds."""

from dataclasses import replace

import pytest
import torch

from book.experiments import deep
from dtl_lib.models import ViT
from dtl_lib.probes.stream import signal

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4)


def made(method: str, depth: int = 3) -> ViT:
    (config,) = {run.config for run in deep.study("toy").runs if run.what == f"depth 2, {method}"}
    torch.manual_seed(0)
    return deep.build(f"depth {depth}, {method}", replace(config, depth=depth, plan=None)).eval()


@pytest.mark.parametrize("run", deep.study("toy").runs, ids=lambda run: run.what)
def test_a_run_of_every_method(run):
    values = deep.measure(run, "cpu")
    assert values["n"] == 16 and values["steps"] == [2, 4] and len(values["losses"]) == 1
    assert len(values["stream"]) == len(values["gradient"]) == 3 and len(values["mlp"]) == 2
    scaled = run.config.layer_scale is not None
    assert ("attention_factor_50%" in values) == ("mlp_factor_90%" in values) == scaled
    if scaled:
        assert all(low <= high for low, high in zip(values["mlp_factor_10%"], values["mlp_factor_90%"]))


@pytest.mark.parametrize("method", ["ReZero", "Fixup-style"])
def test_a_model_that_begins_as_the_identity(method):
    model = made(method)
    found = signal(model, IMAGES, LABELS)
    assert not found.attention.any() and not found.mlp.any()
    assert torch.equal(found.stream, found.stream[:1].expand(4))
    assert not any(name.startswith("blocks.") and "norm" in name for name, _ in model.named_parameters())
    assert model.blocks[0].scale1.factor.item() == (method == "Fixup-style")


def test_fixup_divides_by_the_root_of_the_branches():
    shallow, deeper = made("Fixup-style", 2), made("Fixup-style", 8)
    ratio = shallow.blocks[0].mlp.expand.weight.norm() / deeper.blocks[0].mlp.expand.weight.norm()
    assert ratio.item() == pytest.approx(2, rel=0.2)
    assert deeper.blocks[7].mlp.contract.weight.abs().sum() == 0


def test_wide_branches_add_more():
    assert signal(made("plain, wide"), IMAGES, LABELS).mlp.min() > 3 * signal(made("plain"), IMAGES, LABELS).mlp.max()


@pytest.mark.parametrize(("scale", "deepest"), [("gpu", 96), ("cpu", 48)])
def test_every_condition_once_before_any_twice(scale, deepest):
    runs = deep.study(scale).runs
    conditions = sum(len(methods) for depth, methods in deep.CONDITIONS if depth <= deepest)
    assert max(run.config.depth for run in runs) == deepest
    assert len({(run.what, run.seed) for run in runs}) == len(runs) == conditions * len(deep.SEEDS[scale])
    assert {run.seed for run in runs[:conditions]} == {0} and len({run.what for run in runs[:conditions]}) == conditions
    assert all(run.recipe.seed == run.seed and f"depth {run.config.depth}," in run.what for run in runs)
