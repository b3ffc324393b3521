"""Features of tokens against projections worked out by hand, and against what timm's own projection gives."""

import numpy as np
import pytest
import timm
import torch

from dtl_lib import from_timm, probes, record
from dtl_lib.tokens import TokenNotThere
from tests.unit.fixed import noise
from tests.unit.loops import PLANS, needs_tiny, numbers, real, streams
from tests.unit.small import SMALL, build, disturbed, images

KINDS = ("q", "k", "v")


def recorded(model, x):
    with torch.no_grad(), record(model) as tape:
        model(x)
    return tape


def projected(model, block: int, x: np.ndarray, of: str, bias: str) -> np.ndarray:
    """`(batch, tokens, dim)`, token by token."""
    module, dim = model.blocks[block], model.config.dim
    part = KINDS.index(of)
    weight = numbers(module.attention.qkv.weight)[part * dim : (part + 1) * dim]
    constant = numbers(module.attention.qkv.bias)[part * dim : (part + 1) * dim] * (bias != "drop")
    found = np.empty_like(x)
    for image, token in np.ndindex(*x.shape[:2]):
        row = x[image, token]
        row = (row - row.mean()) / np.sqrt(row.var() + model.config.norm_eps)
        found[image, token] = weight @ (row * numbers(module.norm1.weight) + numbers(module.norm1.bias)) + constant
    return found


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("bias", ["keep", "drop", "centre"])
def test_they_are_the_projections_by_hand(name, bias):
    model, x = build(PLANS[name]), images(SMALL)
    tape = recorded(model, x)
    for block, stream in enumerate(streams(model, x)):
        for of in KINDS if block < model.plan.depth else KINDS[1:]:
            expected = projected(model, block, stream, of, bias)
            if bias == "centre":
                expected = expected - expected[:, -6:].mean(axis=1, keepdims=True)
            found = probes.features(model, tape, block, of, bias)
            assert list(found) == list(model.plan.layout(block))
            for group, where in model.plan.layout(block).items():
                wanted = expected[:, where]
                wanted = wanted.reshape(2, 2, 3, -1) if group == "patches" else wanted
                np.testing.assert_allclose(found[group], wanted, atol=1e-9)


def test_queries_and_keys_are_those_of_the_tape():
    model, x = build(PLANS["registers that enter and leave"]), images(SMALL)
    tape = recorded(model, x)
    for of, kept in (("q", tape.queries(1)), ("k", tape.keys(1))):
        found = torch.cat([part.flatten(1, -2) for part in probes.features(model, tape, 1, of).values()], dim=1)
        torch.testing.assert_close(found, kept.transpose(1, 2).flatten(2))


def test_tokens_are_normalised_as_the_model_does_it():
    model, x = build(SMALL), images(SMALL)
    found = probes.features(model, recorded(model, x), 2, "token")
    wanted = model.features(x)
    torch.testing.assert_close(found["patches"].flatten(1, 2), wanted.patches.detach())
    torch.testing.assert_close(found["cls"], wanted.cls.detach())


def test_a_constant_added_to_all_keys_changes_no_answer_but_their_products():
    """The reason to ask without a bias: softmax cannot see it."""
    model, x = build(SMALL), images(SMALL)
    before, kept = model(x).detach(), recorded(model, x)
    keys, bare = (probes.features(model, kept, 2, "k", bias)["patches"] for bias in ("keep", "drop"))
    with torch.no_grad():
        model.blocks[2].attention.qkv.bias[12:24] += 3 * noise(12, seed=1)
    torch.testing.assert_close(model(x).detach(), before)
    after = recorded(model, x)
    assert not torch.allclose(probes.features(model, after, 2, "k")["patches"], keys)
    torch.testing.assert_close(probes.features(model, after, 2, "k", "drop")["patches"], bare)


def test_they_depend_on_the_blocks_before():
    model, x = build(SMALL), images(SMALL)
    plain = [probes.features(model, recorded(model, x), block, "v")["patches"] for block in range(3)]
    with disturbed(model, 1, slice(1, None)):
        changed = [probes.features(model, recorded(model, x), block, "v")["patches"] for block in range(3)]
    assert plain[0].equal(changed[0]) and plain[1].equal(changed[1]) and not torch.allclose(plain[2], changed[2])


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("vit_tiny_patch16_224", "qkv"),
        ("deit3_small_patch16_224", "qkv"),
        ("vit_small_patch14_reg4_dinov2", "qkv"),
    ],
)
def test_they_are_what_timms_projection_gives(name, attention):
    """On an image that is not square."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, img_size=(56, 84) if "14" in name else (64, 96), depth=2, num_classes=0).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    seen, model = [], from_timm(theirs).eval()
    getattr(theirs.blocks[1].attn, attention).register_forward_hook(lambda _, args, output: seen.append(output))
    x = noise(2, 3, *model.config.image_size, seed=3).float()
    with torch.no_grad():
        theirs(x)
    count = model.config.grid[0] * model.config.grid[1]
    tape = recorded(model, x)
    for of, part in zip(KINDS, seen[0].chunk(3, dim=-1)):
        wanted = part[:, -count:].unflatten(1, model.config.grid)
        torch.testing.assert_close(probes.features(model, tape, 1, of)["patches"], wanted, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "vit_base_patch16_clip_224"])
def test_variants_have_them_too(name):
    """Rotary positions, norms of queries and keys, biases that are not there."""
    torch.manual_seed(0)
    model = from_timm(timm.create_model(name, img_size=(56, 84) if "14" in name else (64, 96), depth=2)).eval()
    x = torch.randn(2, 3, *model.config.image_size)
    tape = recorded(model, x)
    torch.testing.assert_close(
        probes.features(model, tape, 1, "k")["patches"].flatten(1, 2),
        tape.keys(1)[:, :, -tape.grid[0] * tape.grid[1] :].transpose(1, 2).flatten(2),
    )
    for of, bias in (("q", "drop"), ("v", "centre"), ("token", "keep")):
        patches = probes.features(model, tape, 1, of, bias)["patches"]
        assert patches.shape[:3] == (2, *tape.grid) and patches.isfinite().all()


@needs_tiny
def test_with_real_weights_and_an_image_that_is_not_square():
    model, x = real((96, 160), batch=1)
    tape, seen = recorded(model, x), streams(model, x)
    for of in KINDS:
        wanted = projected(model, 11, seen[11], of, "keep")[:, 1:].reshape(1, 6, 10, -1)
        np.testing.assert_allclose(probes.features(model, tape, 11, of)["patches"], wanted, atol=1e-8)


def test_what_is_wrong_is_said():
    model, other, x = build(SMALL), build(PLANS["distillation token"]), images(SMALL)
    tape = recorded(model, x)
    for wrong, said in (({"of": "o"}, "of is one of q, k, v, token"), ({"bias": "no"}, "bias is one of keep")):
        with pytest.raises(ValueError, match=said):
            probes.features(model, tape, 0, **wrong)
    with pytest.raises(ValueError, match="the model that was recorded"):
        probes.features(other, tape, 0)
    late = build(PLANS["class attention"])
    with pytest.raises(TokenNotThere, match="patches have no queries"):
        probes.features(late, recorded(late, x), 2, "q")
