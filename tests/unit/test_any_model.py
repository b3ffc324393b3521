"""Chapters 14 to 18 on any model of timm's: square or not, a batch gives what its images give one by one, and the model
stays as it was, with each of its modules in its own mode.
"""

import copy
import functools

import pytest
import torch
from timm.models.cait import Cait
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dtl_lib import ViT, add_registers, find_register_neurons, from_timm, move_to_registers, probes, record
from dtl_lib.registers import RegisterNeuron, test_time_registers
from dtl_lib.train.registers import RegisterRecipe, clean_states, train_registers
from tests.unit.fixed import noise

COMMON = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "num_classes": 5}
MODELS = {
    "plain": lambda: VisionTransformer(depth=3, **COMMON),
    "patch of 4": lambda: VisionTransformer(depth=3, **{**COMMON, "patch_size": 4}),
    "grey": lambda: VisionTransformer(depth=3, in_chans=1, **COMMON),
    "mean of patches": lambda: VisionTransformer(depth=3, global_pool="avg", class_token=False, **COMMON),
    "mean, and a class token": lambda: VisionTransformer(depth=3, global_pool="avg", **COMMON),
    "attention pooling": lambda: VisionTransformer(depth=3, global_pool="map", class_token=False, **COMMON),
    "registers": lambda: VisionTransformer(depth=3, reg_tokens=2, no_embed_class=True, init_values=0.3, **COMMON),
    "norms of queries": lambda: VisionTransformer(depth=3, qk_norm=True, **COMMON),
    "distilled": lambda: VisionTransformerDistilled(depth=3, **COMMON),
    "class attention": lambda: Cait(depth=3, init_values=0.3, **COMMON),
    "rotary, gated": lambda: Eva(
        depth=3, use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True, ref_feat_shape=(4, 4), **COMMON
    ),
}
SIZES = [(32, 32), (32, 48)]
LAST = 2  # block of the trunk


def built(kind: str) -> ViT:
    return copy.deepcopy(converted(kind))


@functools.cache
def converted(kind: str) -> ViT:
    """With weights that all matter, as a reader has it: converted from timm."""
    torch.manual_seed(0)
    theirs = MODELS[kind]()
    with torch.no_grad():
        for seed, parameter in enumerate(theirs.parameters()):
            parameter.add_(0.1 * noise(*parameter.shape, seed=seed).float())
    return from_timm(theirs).eval()


def images(model: ViT, size: tuple[int, int], batch: int = 3, seed: int = 1) -> Tensor:
    return noise(batch, model.config.channels, *size, seed=seed).float()


def mask_of(model: ViT, x: Tensor) -> Tensor:
    """Some patches of each image, by its pixels: the same ones whatever batch it is in."""
    side = model.config.patch_size
    bright = x.mean(dim=1).unfold(1, side, side).unfold(2, side, side).mean(dim=(-2, -1))
    return bright > bright.flatten(1).median(dim=1).values[:, None, None]


def taped(model: ViT, x: Tensor):
    with torch.no_grad(), record(model) as tape:
        model(x)
    return tape


def neurons(model: ViT) -> list[RegisterNeuron]:
    return [RegisterNeuron(0, 3, 1.0, 1.0, 1.0, 0.0), RegisterNeuron(LAST, 5, -1.0, 1.0, -1.0, 0.0)]


def last_token(model: ViT):
    return "cls" if model.plan.group("cls") else ("patch", 1, 2)


def moved_for_a_while(model: ViT, x: Tensor) -> Tensor:
    with torch.no_grad(), test_time_registers(model, neurons(model), 2) as registers:
        return registers(x)


def patches(model: ViT, x: Tensor, of: str) -> Tensor:
    return probes.features(model, taped(model, x), LAST, of, "centre")["patches"]


def other_states(model: ViT, x: Tensor) -> Tensor:
    """What enters the last block in other images."""
    return probes.states_at(model, images(model, tuple(x.shape[-2:]), seed=9), model.plan.blocks - 1)


def sink_attention(model: ViT, x: Tensor) -> Tensor:
    """What each patch of a mask gets, at its place."""
    mask = mask_of(model, x)
    return torch.zeros(mask.shape).masked_scatter(mask, probes.find_sinks(taped(model, x), LAST, mask).attention)


OF_EACH = {  # a function of a model and images, whose value has a row for each image
    "test_time_registers": moved_for_a_while,
    "move_to_registers": lambda model, x: move_to_registers(model, neurons(model), leave=3)(x),
    "add_registers": lambda model, x: add_registers(
        model, 2, at=1, leave=3, name="new", images=images(model, tuple(x.shape[-2:]), seed=7)
    )(x),
    "find_sinks": sink_attention,
    "one_token": lambda model, x: probes.one_token(taped(model, x), LAST, "patches")[0].unflatten(0, (len(x), -1)),
    "pca_map": lambda model, x: probes.pca_map(patches(model, x, "token"), 2, joint=False).maps,
    "lost": lambda model, x: probes.lost(patches(model, x, "k")).boxes,
    "lost, of queries": lambda model, x: probes.lost(patches(model, x, "q"), k=3).degrees,
    "states_at": lambda model, x: probes.states_at(model, x, LAST),
    "replace_tokens": lambda model, x: probes.replace_tokens(model, x, mask_of(model, x), LAST, "zero"),
    "replace_tokens by a mean": lambda model, x: probes.replace_tokens(
        model, x, last_token(model), model.plan.blocks - 1, "mean", other_states(model, x)
    ),
    "patch_state": lambda model, x: probes.patch_state(
        model, x.flip(3), x, last_token(model), model.plan.blocks - 1
    ),
    "replace_patches": lambda model, x: probes.replace_patches(x, mask_of(model, x), "zero"),
    "insertion_deletion": lambda model, x: probes.insertion_deletion(
        model, x, probes.rollout(taped(model, x), of=last_token(model)), steps=4
    ).gap,
    "patch_pixels": lambda model, x: probes.patch_pixels(x, model.config.patch_size),
}  # fmt: skip


def long_neurons(model: ViT, x: Tensor):
    return find_register_neurons(model, x, mask_of(model, x), LAST, most=3)


def trained(model: ViT, x: Tensor):
    wider = add_registers(model, 1, name="new")
    losses = train_registers(
        wider, clean_states(model, neurons(model)), x, RegisterRecipe(steps=2, batch_size=3), "new"
    )
    assert all(loss > 0 for loss in losses) and not torch.equal(wider.tokens["new"], torch.zeros(1, 24))
    return losses


OF_ALL = {  # what is asked of all images together
    "find_outliers": lambda model, x: [probes.find_outliers(taped(model, x)).mask(block) for block in range(3)],
    "audit": lambda model, x: probes.audit(model, [x[:2], x[2:]]).to_dict(),
    "find_register_neurons": long_neurons,
    "train_registers": trained,
    "predict_direction": lambda model, x: probes.predict_direction(model).gains,
}


def everything(model: ViT):
    """What a function must leave as it was."""
    return (
        [part.training for part in model.modules()],
        [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.modules()],
        {name: (value.requires_grad, value.grad is None) for name, value in model.named_parameters()},
        model.plan,
        model.config,
    )


def unusual(model: ViT) -> ViT:
    """In training, but for one block that is frozen; one parameter has a gradient."""
    model.train().blocks[0].eval().requires_grad_(False)
    model.norm.weight.grad = torch.ones_like(model.norm.weight)
    return model


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("what", OF_EACH)
def test_a_batch_gives_what_its_images_give_one_by_one(what, kind, size):
    model, ask = built(kind), OF_EACH[what]
    x = images(model, size)
    with torch.no_grad():
        together, alone = ask(model, x), torch.cat([ask(model, image[None]) for image in x])
    assert together.shape == alone.shape and together.shape[0] == 3 and together.double().isfinite().all()
    assert len({tuple(each.flatten().tolist()) for each in together}) > 1 or what == "lost"
    torch.testing.assert_close(together.double(), alone.double(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("what", OF_ALL)
def test_what_is_asked_of_all_images_works_on_any_model(what, kind, size):
    model = built(kind)
    assert OF_ALL[what](model, images(model, size)) is not None


@pytest.mark.parametrize("what", [*OF_EACH, *OF_ALL])
def test_the_model_stays_as_it_was(what):
    model = unusual(built("plain"))
    before, weights = everything(model), copy.deepcopy(model.state_dict())
    (OF_EACH | OF_ALL)[what](model, images(model, (32, 32)))
    assert everything(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("what", ["audit", "add_registers", "states_at", "insertion_deletion"])
def test_also_where_the_images_do_not_fit(what):
    model = unusual(built("plain"))
    before, wrong = everything(model), images(model, (33, 32))
    ask = {"insertion_deletion": lambda model, x: probes.insertion_deletion(model, x, torch.rand(3, 33, 32))}
    ask |= {"add_registers": lambda model, x: add_registers(model, 1, images=x)}
    with pytest.raises(ValueError, match="an image of 33×32 does not divide into patches of 8"):
        (OF_EACH | OF_ALL | ask)[what](model, wrong)
    assert everything(model) == before
