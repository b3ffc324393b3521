"""Inputs for the numeric half of the definition lock: one function a locked name, of the definition, to a tensor.

It is called once for the notebook's definition and once for the library's, under one seed.
"""

import torch
from torch import nn

from dtl_lib import TokenPlan, ViT, ViTConfig, record
from dtl_lib.train import Recipe


def perturbed(module: nn.Module) -> nn.Module:
    """A module none of whose parameters is at its special value, so that all of them count."""
    for parameter in module.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return module


def on_tokens(**options):
    """A case for a module of tokens, built from `options`: (2, 5, 8) in."""
    return lambda definition: perturbed(definition(**options))(torch.randn(2, 5, 8))


def on_qkv(**options):
    """A case for a module of queries, keys and values: (2, 2, 5, 4) each."""
    return lambda definition: perturbed(definition(**options))(*torch.randn(3, 2, 2, 5, 4))


def block(definition):
    """A block with LayerScale and stochastic depth, asked for every token and for the first two."""
    module = perturbed(definition(8, 2, layer_scale=0.5, drop_path=0.4))
    x = torch.randn(6, 5, 8)
    return torch.cat([module(x).flatten(), module(x, slice(0, 2)).flatten()])


def attention(definition):
    """Attention asked for every token and for the first."""
    module, x = perturbed(definition(8, 2)), torch.randn(2, 5, 8)
    return torch.cat([module(x).flatten(), module(x, slice(0, 1)).flatten()])


def class_attention(definition):
    """Two tokens that ask, beside all and alone."""
    module, x = perturbed(definition(8, 2, layer_scale=0.5, queries=slice(0, 2))), torch.randn(2, 5, 8)
    return torch.cat([module(x).flatten(), module(x, slice(0, 2)).flatten()])


def enter_and_leave(definition):
    """`reg` enters, `late` leaves, `cls` stays."""
    layout = {"cls": slice(0, 1), "late": slice(1, 3), "patches": slice(3, None)}
    next_layout = {"cls": slice(0, 1), "reg": slice(1, 5), "patches": slice(5, None)}
    learned = {"cls": torch.randn(1, 8), "late": torch.randn(2, 8), "reg": torch.randn(4, 8)}
    return definition(torch.randn(2, 7, 8), layout, next_layout, learned)


def initialise(definition):
    """A linear map and a convolution, each drawn anew."""
    modules = nn.Linear(8, 6), nn.Conv2d(3, 6, 4)
    for module in modules:
        definition(module)
    return torch.cat([value.flatten() for module in modules for value in module.parameters()])


def learning_rate(definition):
    """Warm-up, the fall, and the end, which is not zero."""
    recipe = Recipe(max_steps=10, lr=0.5, min_lr=0.1)
    return torch.tensor([definition(recipe, step, 10, 3) for step in range(11)])


def precision(definition):
    """Every choice on a CPU, as its place among the answers."""
    chosen = [definition(torch.device("cpu"), amp) for amp in ("auto", "off", "bf16", "fp16")]
    return torch.tensor([("off", "bf16", "fp16").index(name) for name in chosen])


def indices(definition):
    """Begun in the middle of an epoch, on to the third, with repeats and without."""
    samples_of_steps = [samples for repeats in (1, 2) for _, samples in definition(10, 3, 7, 2, 9, repeats)]
    return torch.cat(samples_of_steps)


def distance(definition):
    """Every head of a model with registers, on a grid that is not square, renormalised and not."""
    plan = TokenPlan.of(2, reg_pos=1, num_reg=2)
    model = perturbed(ViT(ViTConfig((8, 12), 4, dim=8, depth=2, heads=2, plan=plan)).eval())
    with record(model) as tape:
        model(torch.randn(2, 3, 8, 12))
    return torch.stack([definition(tape, block, how) for block in (0, 1) for how in (True, False)])


def distillation_loss(definition):
    """Hard, and soft at temperatures above and below 1."""
    logits, teacher_logits = torch.randn(2, 4, 5)
    cases = (True, 1.0), (False, 2.5), (False, 0.5)
    return torch.stack([definition(logits, teacher_logits, hard, temperature) for hard, temperature in cases])


def lost(definition):
    """Boxes, seeds and degrees of images whose neighbours are alike, on a grid that is not square."""
    rough = torch.nn.functional.avg_pool2d(torch.randn(8, 3, 5, 7), 3, 1, 1)
    found = [definition(rough.permute(0, 2, 3, 1), *given) for given in ((), (4,), (100, -0.1))]
    return torch.cat([part.flatten().double() for one in found for part in (one.boxes, one.seeds, one.degrees)])


def order(definition):
    """Maps with equal values and without, with two seeds."""
    maps = torch.randint(0, 3, (3, 4, 5)).float(), torch.randn(2, 3, 3)
    return torch.cat([definition(one, seed).flatten() for one in maps for seed in (0, 5)]).double()


def verdict(definition):
    """Every claim, over intervals on either side of zero and across it, with two margins."""
    words = ("reproduced", "opposite", "null", "undecided")
    ends = [(0.2, 0.4), (0.4, 2.2), (-2.6, -0.8), (-0.5, 0.7), (-0.8, 2.4), (-2.4, 0.8), (0.0, 0.5)]
    cases = [(*pair, claim, margin) for pair in ends for claim in (-1, 0, 1) for margin in (0.6, 1.0)]
    return torch.tensor([words.index(definition(*case)) for case in cases]).double()


NUMERIC = {
    "dtl_lib.layers.PatchEmbed": lambda definition: perturbed(definition(4, 8))(torch.randn(2, 3, 8, 12)),
    "dtl_lib.layers.interpolate_positions": lambda definition: definition(torch.randn(4, 4, 8), (3, 6)),
    "dtl_lib.layers.sincos_positions": lambda definition: definition((3, 5), 16),
    "dtl_lib.layers.DotProduct": on_qkv(),
    "dtl_lib.layers.TalkingHeads": on_qkv(heads=2),
    "dtl_lib.layers.Attention": attention,
    "dtl_lib.layers.Mlp": on_tokens(dim=8, hidden=16),
    "dtl_lib.layers.LayerScale": on_tokens(dim=8, initial=0.3),
    "dtl_lib.layers.DropPath": on_tokens(probability=0.5),
    "dtl_lib.layers.Block": block,
    "dtl_lib.layers.ClassAttention": class_attention,
    "dtl_lib.layers.initialise": initialise,
    "dtl_lib.models.enter_and_leave": enter_and_leave,
    "dtl_lib.data.loader.indices": indices,
    "dtl_lib.lab.papers.verdict": verdict,
    "dtl_lib.probes.discovery.lost": lost,
    "dtl_lib.probes.distance.mean_attention_distance": distance,
    "dtl_lib.probes.knows.fold_of": lambda definition: definition(torch.tensor([7, 3, 3, 9, 1, 7, 5]), 3, seed=2),
    "dtl_lib.probes.faithful.order": order,
    "dtl_lib.train.device.precision": precision,
    "dtl_lib.train.loss.distillation_loss": distillation_loss,
    "dtl_lib.train.optim.learning_rate": learning_rate,
}
