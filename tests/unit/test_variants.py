"""Rotary positions, norms, MLPs and pools that a plain ViT does not have: against sums by hand, in every plan."""

import copy
import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from dtl_lib.config import ViTConfig, named
from dtl_lib.layers import ALL, Block
from dtl_lib.models import ViT
from dtl_lib.probes import position_similarity
from dtl_lib.probes.entry_route import Route
from dtl_lib.tape import record
from dtl_lib.tokens import Group, TokenPlan
from dtl_lib.variants import MixedAngles, gelu_tanh, quick_gelu, rotary_places, swiglu
from tests.unit.fixed import noise
from tests.unit.small import SMALL, build, images
from tests.unit.strategies import configs

MOVING = TokenPlan(4, (Group("cls", 1, 2), Group("reg", 3, 1, 3), Group("late", 2, 3)))
WIDE = ViTConfig((16, 24), 4, dim=24, depth=4, heads=3, classes=5, plan=MOVING)
ROTARY = {
    "axial": {"rotary": "axial", "rotary_temperature": 50.0},
    "axial, columns first": {"rotary": "axial", "rotary_columns_first": True, "rotary_offset": 1.0},
    "axial, stretched": {"rotary": "axial", "rotary_reference": (3, 5), "rotary_halves": True},
    "centred": {"rotary": "centred", "rotary_temperature": 100.0, "rotary_halves": True},
    "mixed": {"rotary": "mixed"},
}


def rotary(kind: str, **more) -> ViT:
    return build(replace(WIDE, **ROTARY[kind], **more))


def angle(model: ViT, grid, block: int, head: int, row: int, column: int, pair: int) -> float:
    """How far a pair of channels turns, written out."""
    config = model.config
    count = config.dim // config.heads // 4
    places = [row + config.rotary_offset, column + config.rotary_offset]
    if config.rotary == "mixed":
        rates = model.blocks[block].attention.angles.frequencies
        return sum(place * float(rates[axis, head, pair]) for axis, place in enumerate(places))
    for axis in (0, 1):
        if config.rotary == "centred":
            places[axis] = 2 * math.pi * (2 * (places[axis] + 0.5) / grid[axis] - 1)
        if config.rotary_reference:
            places[axis] = places[axis] / grid[axis] * config.rotary_reference[axis]
    axis = (pair >= count) != config.rotary_columns_first
    return places[axis] * config.rotary_temperature ** (-(pair % count) / count)


def turned(model: ViT, flat: torch.Tensor, grid, block: int) -> torch.Tensor:
    """`(tokens, dim)` → `(heads, tokens, head_dim)`, each pair of a patch turned as a complex number."""
    config, first = model.config, model.plan.tokens(block)
    width = config.dim // config.heads
    out = flat.reshape(len(flat), config.heads, width).transpose(0, 1).clone()
    for head, place, pair in itertools.product(range(config.heads), range(grid[0] * grid[1]), range(width // 2)):
        a, b = (pair, pair + width // 2) if config.rotary_halves else (2 * pair, 2 * pair + 1)
        number = complex(*out[head, first + place, [a, b]].tolist())
        phi = angle(model, grid, block, head, place // grid[1], place % grid[1], pair)
        number *= complex(math.cos(phi), math.sin(phi))
        out[head, first + place, a], out[head, first + place, b] = number.real, number.imag
    return out


@pytest.mark.parametrize("kind, size", itertools.product(ROTARY, [(16, 24), (12, 16)]))
def test_queries_and_keys_by_hand(kind, size):
    """Tokens that enter late, and leave: patches alone turn, by where they are in the image that is there."""
    model, grid = rotary(kind), (size[0] // 4, size[1] // 4)
    x = images(replace(WIDE, image_size=size), batch=1)
    with record(model) as tape, torch.no_grad():
        model(x)
        for block in range(4):
            before = tape.tokens("input" if block == 0 else block - 1)
            layout = model.plan.layout(block - 1) if block else {"patches": ALL}
            learned = model.learned()
            parts = [before[0, layout[n]] if n in layout else learned[n] for n in model.plan.layout(block)]
            normed = model.blocks[block].norm1(torch.cat(parts))
            q, k, _ = model.blocks[block].attention.qkv(normed).chunk(3, dim=-1)
            torch.testing.assert_close(tape.queries(block)[0], turned(model, q, grid, block), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(tape.keys(block)[0], turned(model, k, grid, block), rtol=1e-5, atol=1e-5)


def test_scores_depend_on_how_far_two_patches_are_apart():
    """Of equal patches without other positions: the property that rotary positions have by construction."""
    for kind in ("axial", "axial, columns first", "mixed"):
        model = rotary(kind, positions="none")
        with record(model) as tape, torch.no_grad():
            model(torch.ones(1, 3, 16, 24, dtype=torch.float64))
        scores = (tape.queries(0) @ tape.keys(0).mT)[0].reshape(3, 4, 6, 4, 6)
        torch.testing.assert_close(scores[:, 1, 2, 2, 5], scores[:, 0, 0, 1, 3], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(scores[:, 1, 2, 2, 5], scores[:, 1, 2, 1, 5], rtol=1e-3)


@pytest.mark.parametrize("kind", ROTARY)
def test_a_forward_pass_inside_another_changes_nothing(kind):
    """Nothing about the images is kept in the model: passes of other sizes, in other threads, do not meet."""
    model, x, other = rotary(kind), images(WIDE), images(replace(WIDE, image_size=(8, 32)))

    def disturb(*_) -> None:
        hook.remove()
        model(other)

    with torch.no_grad():
        before = model(x)
        hook = model.blocks[2].register_forward_pre_hook(disturb)
        assert torch.equal(model(x), before)
    assert not model.blocks[2]._forward_pre_hooks


@pytest.mark.parametrize("kind", ROTARY)
def test_copies_and_halves(kind):
    model = rotary(kind).float()
    x = images(WIDE).float()
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        rough = copy.deepcopy(model).bfloat16()(x.bfloat16())
        assert rough.dtype == torch.bfloat16 and (rough.float() - expected).norm() < 0.2 * expected.norm()
        with torch.autocast("cpu", torch.bfloat16), record(model) as tape:
            model(x)
        assert tape.queries(1).dtype == tape.keys(1).dtype == torch.bfloat16


def test_angles_stay_exact_in_a_model_of_half_precision():
    places = [rotary_places(rotary(kind).bfloat16().config, (37, 66), torch.device("cpu"))[0] for kind in ROTARY]
    assert all(place.dtype == torch.float32 for place in places)
    model = rotary("centred").bfloat16()
    assert model.places((4, 6))[0].dtype == torch.float32


def test_a_block_alone_says_what_it_needs():
    model = rotary("axial")
    with pytest.raises(ValueError, match=r"block\(x, queries, \*model.places\(grid\)\)"):
        model.blocks[0](noise(1, 24, 24))
    model.blocks[0](noise(1, 24, 24), ALL, *model.places((4, 6)))


def test_fresh_mixed_frequencies_are_as_published():
    """Each head's two axes are at right angles, and as fast as axial ones (RoPE-ViT, §3.2)."""
    config = replace(WIDE, rotary="mixed", rotary_temperature=10.0)
    row, column = MixedAngles(config).frequencies.detach()
    rates = 10.0 ** (-torch.arange(2) / 2)
    torch.testing.assert_close((row**2 + column**2).sqrt(), rates.repeat(3, 2))
    torch.testing.assert_close(row[:, :2] * row[:, 2:] + column[:, :2] * column[:, 2:], torch.zeros(3, 2))
    assert len({round(float(value), 4) for value in row[:, 0]}) == 3


def test_activations():
    x = noise(2, 6)
    torch.testing.assert_close(quick_gelu(x), x / (1 + (-1.702 * x).exp()))
    cubic = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    torch.testing.assert_close(gelu_tanh(x), x * (1 + cubic.tanh()) / 2)
    gate, value = x[:, :3], x[:, 3:]
    torch.testing.assert_close(swiglu(x), gate / (1 + (-gate).exp()) * value)


@pytest.mark.parametrize("rms", [False, True])
def test_every_norm_by_hand(rms):
    config = replace(
        SMALL, norm="rms" if rms else "layer", qk_norm=True, mlp_norm=True, attention_norm=True, norm_before=True
    )
    model, kind = build(config), torch.nn.RMSNorm if rms else torch.nn.LayerNorm
    found = [name for name, part in model.named_modules() if isinstance(part, kind)]
    assert len(found) == 2 + 3 * 6 and not any(
        isinstance(part, torch.nn.LayerNorm) != (not rms) for part in model.modules() if hasattr(part, "eps")
    )
    block, x = model.blocks[0], noise(2, 5, 12)

    def norm(part, values):
        centred = values if rms else values - values.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        return scaled * part.weight + (0 if rms else part.bias)

    with torch.no_grad():
        attn, y = block.attention, norm(block.norm1, x)
        q, k, v = (part.reshape(2, 5, 3, 4).transpose(1, 2) for part in attn.qkv(y).chunk(3, dim=-1))
        q, k = norm(attn.norm_q, q), norm(attn.norm_k, k)
        mixed = ((q @ k.mT / 2).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        project, contract = attn.project, block.mlp.contract
        y = x + norm(project.norm, mixed) @ project.weight.T + project.bias
        hidden = torch.nn.functional.gelu(block.mlp.expand(norm(block.norm2, y)))
        y = y + norm(contract.norm, hidden) @ contract.weight.T + contract.bias
        torch.testing.assert_close(block(x), y)


def test_what_enters_late_is_normalised_before_as_patches_are():
    model = build(replace(SMALL, norm_before=True, plan=TokenPlan(3, (Group("cls", 1, 1), Group("reg", 2, 2)))))
    entering = model.norm_before(model.tokens["reg"])
    seen = []
    model.blocks[2].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images(SMALL))
    torch.testing.assert_close(seen[0][:, 1:3], entering.expand(2, -1, -1))


def test_a_pool_with_prefix_reads_what_is_left():
    plan = TokenPlan(3, (Group("cls", 1), Group("reg", 2, 0, 3), Group("late", 1, 1)))
    model = build(replace(SMALL, plan=plan, pool="patches", pool_prefix=True))
    x = images(SMALL)
    stream, _ = model.encode(x)
    kept = torch.cat([stream[:, :1], stream[:, 3:]], dim=1)  # reg leaves after the last block
    torch.testing.assert_close(model(x), model.classifiers["patches"](model.norm(kept).mean(dim=1)))


@pytest.mark.parametrize("prefix", [False, True])
def test_a_pools_map_is_exact(prefix):
    pooled = replace(SMALL, pool="attention", pool_prefix=prefix, pool_heads=4, plan=TokenPlan.of(3, None))
    model, seen = build(pooled), []
    model.pool.core.register_forward_hook(lambda _, qkv, output: seen.append((qkv[2], output)))
    with record(model) as tape, torch.no_grad():
        model(images(SMALL))
    v, output = seen.pop()
    assert tape.pool_maps().shape == (2, 4, 2, 3)
    row = tape.pool_maps().flatten(2)[:, :, None]
    torch.testing.assert_close(row.double() @ v, output, rtol=1e-5, atol=1e-6)


def test_a_model_that_pools_otherwise_has_no_such_map():
    with record(build(SMALL)) as tape, pytest.raises(ValueError, match='pool="attention"'):
        tape.pool_maps()


@pytest.mark.parametrize("kind", ROTARY)
def test_the_probe_of_entry_takes_the_same_way(kind):
    model = rotary(kind, norm_before=True)
    route, x = Route(model, "cls"), images(replace(WIDE, image_size=(12, 16)))
    with torch.no_grad():
        for block, stream in enumerate(route.sequences(x)):
            torch.testing.assert_close(route.logits(route.finish(stream, block)), model(x))


def test_positions_that_are_not_there_cannot_be_compared():
    with pytest.raises(ValueError, match="adds no positions to its patches"):
        position_similarity(rotary("centred", positions="none"))


@settings(max_examples=30, deadline=None)
@given(configs())
def test_attention_times_v_is_the_fused_output_of_any_configuration(config):
    model, seen = build(config), []
    for block in model.blocks:
        block.attention.core.register_forward_hook(lambda _, qkv, output: seen.append((qkv[2], output)))
    with record(model) as tape, torch.no_grad():
        model(images(config))
    for index, (v, output) in enumerate(list(seen)):
        attention = tape.attention(index).double()
        assert attention.shape[2] == (v.shape[2] if index < config.depth else len(config.head_names))
        torch.testing.assert_close(attention[:, :, : output.shape[2]] @ v, output, rtol=1e-4, atol=1e-5)


class TestConfiguration:
    def test_a_plain_one_is_saved_as_before_there_were_variants(self):
        saved = named("deit3_small_patch16_224").to_dict()
        assert set(saved) == {
            "image_size", "patch_size", "channels", "dim", "depth", "heads", "mlp_ratio", "plan", "classes", "pool",
            "norm_after_pool", "qkv_bias", "norm_eps", "layer_scale", "drop_path", "drop_path_schedule",
            "talking_heads", "positions", "position_offset", "mean", "std", "crop", "interpolation",
        }  # fmt: skip
        assert named("deit3_small_patch16_224").variants == ()

    def test_another_one_round_trips(self):
        config = replace(WIDE, rotary="axial", rotary_reference=[4, 4], mlp="swiglu", norm="rms", pool="attention")
        saved = json.loads(json.dumps(config.to_dict()))
        assert ViTConfig.from_dict(saved) == config and saved["rotary_reference"] == [4, 4]
        assert set(config.variants) == {"rotary", "rotary_reference", "mlp", "norm"}

    def test_a_pool_of_attention_stays_with_another_plan(self):
        config = replace(SMALL, pool="attention")
        assert config.with_plan(TokenPlan.of(3, cls_pos=None)).pool == "attention"
        assert SMALL.with_plan(TokenPlan.of(3, cls_pos=None)).pool == "patches"

    @pytest.mark.parametrize(
        "fields, said",
        [
            ({"norm": "batch"}, "norm is one of layer, rms, not 'batch'"),
            ({"mlp": "relu"}, "mlp is one of gelu, gelu_tanh, quick_gelu, swiglu, not 'relu'"),
            ({"rotary": "spiral"}, "rotary is one of none, axial, centred, mixed, not 'spiral'"),
            ({"rotary": "axial", "heads": 2, "dim": 12}, "heads of a width divisible by 4, not 6"),
            ({"rotary": "axial", "rotary_temperature": 0.0}, "rotary_temperature is above 0"),
            ({"rotary": "centred", "rotary_reference": (2, 2)}, "rotary_reference is"),
            ({"rotary": "axial", "rotary_reference": (0, 2)}, "rotary_reference is"),
            ({"rotary": "axial", "rotary_reference": 14}, "rotary_reference is two whole numbers or none, not 14"),
            ({"rotary": "mixed", "rotary_halves": True}, "leave the order of channels out"),
            (
                {"rotary": "axial", "plan": TokenPlan.of(3, 3, class_blocks=1)},
                "set class_blocks=0, or leave rotary out",
            ),
            ({"pool_prefix": True}, 'goes with pool="patches" or "attention"'),
            ({"pool_heads": 3}, 'go with pool="attention"'),
            ({"pool": "attention", "pool_heads": 5}, "dim has to be divisible by pool_heads: 12 is not divisible by 5"),
            ({"pool": "attention", "pool_mlp_ratio": 0.01}, "pool_mlp_ratio is that MLP's width over dim"),
            ({"pool": "attention", "norm_after_pool": True}, 'norm_after_pool goes with pool="patches"'),
            ({"pool": "attention", "plan": TokenPlan.of(3, 3, class_blocks=1)}, 'use pool="cls", or class_blocks=0'),
        ],
    )
    def test_what_does_not_fit_is_refused(self, fields, said):
        with pytest.raises(ValueError, match=said):
            replace(SMALL, **fields)

    def test_a_plain_model_has_plain_parts(self):
        model = ViT(SMALL)
        assert type(model.blocks[0]) is Block and isinstance(model.norm_before, torch.nn.Identity)
        assert not [name for name in model.state_dict() if "norm_q" in name or name.startswith("pool")]
        free = build(replace(SMALL, rotary="mixed", pool="attention")).no_weight_decay()
        assert {"blocks.0.attention.angles.frequencies", "pool.query"} <= free and "pool.ask.weight" not in free
