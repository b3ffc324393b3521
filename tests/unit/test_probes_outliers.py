"""High-norm tokens: planted ones are found, where and from when; clean models have none; wrong detectors are told."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dtl_lib import ViT, ViTConfig, data, load_pretrained, probes, record
from dtl_lib.tokens import TokenPlan
from dtl_lib.train.evaluation import wilson
from tests.unit.loops import PLANS, TINY, needs_tiny
from tests.unit.planted import WRONG, direction, planted, random_mask, small_model
from tests.unit.small import SMALL, build, images

SHAPES = data.load("shapes").test.batch(range(60))[0]
ZOO = ("shapes_depth6", "shapes_depth6_reg4", "shapes_depth12_cls0", "shapes_depth12_cls9")


def recorded(model, x):
    with torch.no_grad(), record(model) as tape:
        model(x)
    return tape


def masks(found: probes.Outliers) -> list[torch.Tensor]:
    return [found.mask(block) for block in range(len(found.modes))]


def case(name):
    """A tape, and the truth: a mask for each block."""
    model, block, share, times, leave = small_model(), 2, 0.03, 8.0, None
    if name == "rare":
        share = 0.0
    if name == "common":
        share = 0.12
    if name == "small":
        times = 3.0
    if name == "huge":
        times = 80.0
    if name == "in the last block":
        block = 5
    if name == "gone before the last block":
        block, leave = 1, 4
    if name == "clean":
        return recorded(model, SHAPES), [torch.zeros(60, 8, 8, dtype=torch.bool)] * 6
    mask = random_mask(60, (8, 8), share)
    with planted(model, mask, block, times, leave):
        tape = recorded(model, SHAPES)
    there = [block <= number < (6 if leave is None else leave) for number in range(6)]
    return tape, [mask & present for present in there]


CASES = ("rare", "common", "small", "huge", "in the last block", "gone before the last block", "clean")


def precision_and_recall(found, truth):
    hit = sum(int((a & b).sum()) for a, b in zip(found, truth))
    return hit, sum(int(a.sum()) for a in found), sum(int(b.sum()) for b in truth)


@pytest.mark.parametrize("name", CASES)
def test_planted_outliers_are_found_and_nothing_else(name):
    tape, truth = case(name)
    found = probes.find_outliers(tape)
    hit, said, there = precision_and_recall(masks(found), truth)
    assert not found.left_out
    if name == "clean":
        assert found.start is None and found.kind is None and said == 0
        return
    assert found.start == next(block for block, mask in enumerate(truth) if mask.any())
    assert hit / there > 0.95 and hit / said > 0.95
    assert wilson(hit, there)[0] > (0.9 if there > 60 else 0.6) and wilson(hit, said)[0] > (0.9 if said > 60 else 0.6)


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_detectors_fail(wrong):
    failures = 0
    for name in CASES:
        tape, truth = case(name)
        hit, said, there = precision_and_recall(WRONG[wrong](tape), truth)
        failures += said > 0 if not there else hit < 0.95 * there or hit < 0.95 * said
    assert failures >= 2


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_clean_models_have_none(level, count):
    for name in ZOO:
        x = data.load("shapes", level=level).test.batch(range(count))[0]
        assert probes.find_outliers(recorded(load_pretrained(f"zoo/{name}"), x)).start is None, name


@pytest.mark.parametrize("seed", range(10))
def test_untrained_models_and_random_lengths_have_none(seed):
    torch.manual_seed(seed)
    model = ViT(ViTConfig(image_size=(32, 48), patch_size=4, dim=48, depth=4, heads=3, classes=5)).eval()
    x = data.prepare(data.photo("coffee"), config=replace(model.config, image_size=32), size=32)
    x = torch.cat([x, x.flip(-1)], dim=-1)[..., :48]
    assert probes.find_outliers(recorded(model, x)).start is None
    generator = np.random.default_rng(seed)
    for lengths in (
        generator.lognormal(0, 0.2, 5000),
        generator.gamma(20, 1, 5000),
        generator.uniform(1, 2, 500),
        np.ones(50),
        generator.normal(10, 1e-4, 500),
    ):
        assert probes.second_mode(torch.tensor(lengths)) is None


def test_a_plain_rectangular_grid_and_every_plan():
    for name, config in PLANS.items():
        config = replace(config, image_size=(24, 40), dim=24, heads=3)
        torch.manual_seed(1)
        model, mask = ViT(config).eval(), random_mask(3, (6, 10), 0.04)
        x = images(config, batch=3).float()
        with planted(model, mask, 0):
            found = probes.find_outliers(recorded(model, x))
        assert found.start == 0 and torch.equal(found.mask(0), mask), name
        seen = found.modes[0]
        assert seen.alike > 0.9 and abs(seen.direction @ direction(24)) > 0.95
        assert found.modes[0].ratio == pytest.approx(8, rel=0.3)


def blank_at_the_left():
    """A model, images, and a mask: blank patches in an image of which the rest is noise."""
    torch.manual_seed(0)
    model = ViT(replace(SMALL, image_size=(32, 32), dim=24)).eval()
    x = images(replace(SMALL, image_size=(32, 32)), batch=2).float()
    x[0, :, :, :8] = 0
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, :, :2] = True
    with torch.no_grad():
        model.positions.mul_(0.01)
    return model, x, mask


def test_what_an_image_shows_is_no_outlier():
    """Blank patches that a model writes long."""
    model, x, mask = blank_at_the_left()
    with planted(model, mask, 1):
        tape = recorded(model, x)
    assert probes.second_mode(tape.norms(1)["patches"]) is not None
    found = probes.find_outliers(tape)
    assert found.start is None and min(found.left_out) == 1 and torch.equal(found.left_out[1].mask, mask)
    assert found.left_out[1].told >= 0.5 and found.left_out[1].ratio > 2


def test_channels_are_the_fewest_that_hold_the_share():
    mode = probes.Mode(1.0, torch.ones(1, 1, 1), 2.0, torch.ones(4), 1.0, torch.tensor([0.1, 0.55, 0.05, 0.3]), 0.0)
    assert mode.channels() == [1] and mode.channels(0.8) == [1, 3] and mode.channels(0.9) == [1, 3, 0]


def test_likeness_to_neighbours_is_the_mean_cosine_of_those_that_are_there():
    tokens = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens[1, 2, 3] = 0
    found = probes.neighbour_likeness(tokens)
    for image, row, column in np.ndindex(2, 4, 5):
        cosines = []
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            r, c = row + down, column + right
            if 0 <= r < 4 and 0 <= c < 5:
                cosines.append(torch.cosine_similarity(tokens[image, row, column], tokens[image, r, c], dim=0))
        assert found[image, row, column] == pytest.approx(float(sum(cosines) / len(cosines)), abs=1e-12)
    assert found.dtype == torch.float64 and found[1, 2, 3] == 0
    one_row = probes.neighbour_likeness(tokens[:, :1].half())
    assert one_row.shape == (2, 1, 5) and one_row.dtype == torch.float32
    assert torch.equal(one_row, probes.neighbour_likeness(tokens[:, :1].half().transpose(1, 2)).transpose(1, 2))
    for wrong in (tokens[0], tokens[:, :1, :1], tokens[:, :0]):
        with pytest.raises(ValueError, match="two patches an image or more, not"):
            probes.neighbour_likeness(wrong)
    with pytest.raises(ValueError, match="non-finite"):
        probes.neighbour_likeness(tokens / 0)


def test_half_precision_and_the_order_of_images():
    model, mask = small_model(), random_mask(60, (8, 8), 0.03)
    with planted(model, mask, 2):
        found = probes.find_outliers(recorded(model, SHAPES))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    with planted(model, mask[order], 2):
        turned = probes.find_outliers(recorded(model, SHAPES[order]))
    assert torch.equal(turned.mask(3), found.mask(3)[order])
    with planted(model.bfloat16(), mask, 2):
        half = probes.find_outliers(recorded(model, SHAPES.bfloat16()))
    assert torch.equal(half.mask(3), found.mask(3)) and half.start == found.start


def test_refusals():
    tape = recorded(small_model(), SHAPES[:2])
    found = probes.find_outliers(tape)
    for block in (-1, 6):
        with pytest.raises(ValueError, match="blocks 0 … 5"):
            found.mask(block)
    with pytest.raises(ValueError, match="non-finite"):
        probes.second_mode(torch.tensor([1.0, float("nan")]))
    for mask in (torch.ones(2, 3, 3) > 0, torch.ones(1, 8, 8) > 0, torch.ones(2, 8, 8)):
        with pytest.raises(ValueError, match=r"mask of patches, bool \(2, 8, 8\)"):
            probes.find_sinks(tape, 3, mask)
    cait = recorded(load_pretrained("zoo/shapes_cait4"), SHAPES[:2])
    with pytest.raises(ValueError, match="block 4 is class attention"):
        probes.find_sinks(cait, 4, torch.ones(2, 8, 8) > 0)
    with pytest.raises(ValueError, match="no images"):
        probes.find_outliers(recorded(small_model(), SHAPES[:0]))
    with pytest.raises(ValueError, match="blocks 0 … 5, not 1.5"):
        found.mask(1.5)
    damaged = small_model()
    damaged.blocks[2].mlp.contract.weight.data[0] = torch.inf
    with pytest.raises(ValueError, match="non-finite"):
        probes.predict_direction(damaged)
    with pytest.raises(ValueError, match="from_timm"):
        probes.predict_direction(torch.nn.Linear(2, 2))


def with_sink(kind):
    """A model whose block 3 attends to one planted direction, and what its value is."""
    torch.manual_seed(0)
    model = ViT(
        ViTConfig(32, 4, dim=48, depth=5, heads=3, classes=5, plan=TokenPlan.of(5, num_reg=2, reg_pos=1))
    ).eval()
    way, mask = direction(48), random_mask(4, (8, 8), 0.04)
    qkv = model.blocks[3].attention.qkv
    with torch.no_grad():
        if kind != "ignored":  # every query is the same, and that direction's key answers it
            qkv.bias[:48] += 1.0
            qkv.weight[48:96] += 0.3 * way
        else:
            qkv.bias[:48] += 1.0
            qkv.weight[48:96] -= 0.3 * way
        if kind == "no-op":
            qkv.weight[96:] -= (qkv.weight[96:] @ way)[:, None] * way
        else:
            qkv.weight[96:] += torch.linspace(-1, 1, 48)[:, None] * way
    x = images(ViTConfig(32, 4, dim=48, depth=5, heads=3, classes=5), batch=4).float()
    with planted(model, mask, 2, times=4.0):
        return model, recorded(model, x), mask


@pytest.mark.parametrize("kind", ["no-op", "broadcast", "ignored"])
def test_the_type_of_a_planted_sink(kind):
    model, tape, mask = with_sink(kind)
    sinks = probes.find_outliers(tape).sinks[3]
    assert sinks.kinds == (kind,) * int(mask.sum())


def test_a_sink_s_numbers_are_those_of_a_loop():
    model, tape, mask = with_sink("broadcast")
    sinks = probes.find_sinks(tape, 3, mask)
    attention, block = tape.attention(3).double(), model.blocks[3]
    first = tape.plan.layout(3)["patches"].start
    long = {(i, first + r * 8 + c) for i, r, c in mask.nonzero().tolist()}
    tokens = tape.tokens(2)
    adds, shares = {}, {}
    for image in range(4):
        values = block.attention.qkv(block.norm1(tokens[image]))[:, 96:].double()
        asking = [q for q in range(attention.shape[2]) if (image, q) not in long]
        for key in range(first, attention.shape[3]):
            by_head = [float(np.mean([attention[image, head, q, key] for q in asking])) for head in range(3)]
            mixed = [by_head[h] / sum(by_head) * values[key, 16 * h : 16 * h + 16] for h in range(3)]
            adds[image, key] = (block.attention.project.weight.double() @ torch.cat(mixed)).detach()
            shares[image, key] = sum(by_head) / 3
    normal = np.median([float(add.norm()) for place, add in adds.items() if place not in long])
    torch.testing.assert_close(
        sinks.attention.double(), torch.tensor([shares[p] for p in sorted(long)]).double(), rtol=1e-4, atol=1e-7
    )
    lengths = [float(adds[p].norm()) / normal for p in sorted(long)]
    np.testing.assert_allclose(
        sinks.output.numpy(), lengths, rtol=0.03
    )  # of an even number torch takes the lower middle
    assert sinks.even == pytest.approx(1 / 67)


def test_a_patch_that_nobody_attends_to_is_no_gap():
    """In large scores softmax underflows to 0, for every token that asks: what a patch would add is then a number."""
    model = small_model()
    with torch.no_grad():
        model.blocks[3].attention.qkv.weight[: 2 * model.config.dim] *= 1000
    tape, mask = recorded(model, SHAPES[:4]), random_mask(4, (8, 8), 0.3)
    unseen = tape.attention(3).sum(dim=(1, 2))[:, -64:] == 0
    assert unseen.any() and not unseen.all()
    found = probes.find_sinks(tape, 3, mask)
    assert found.output.isfinite().all() and 0 <= found.alike <= 1
    assert all(kind == "ignored" for kind, none in zip(found.kinds, unseen[mask.flatten(1)].tolist()) if none)


def test_the_leading_direction_is_what_the_branch_amplifies_most():
    model = build(replace(SMALL, layer_scale=0.3))
    with torch.no_grad():
        way = direction(12).double()
        model.blocks[1].mlp.contract.weight[:] += 30 * way[:, None] * torch.ones(48).double()
    writers = probes.predict_direction(model)
    assert writers.block == 1 and writers.branch == "mlp"
    linear = torch.autograd.functional.jacobian(
        lambda x: model.blocks[1].scale2(
            model.blocks[1].mlp.contract.weight
            @ (model.blocks[1].mlp.expand.weight @ (model.blocks[1].norm2.weight * (x - x.mean())))
        ),
        torch.zeros(12).double(),
    )
    left, values, _ = torch.linalg.svd(linear)
    assert float(writers.gains[1, 1]) == pytest.approx(float(values[0]), rel=1e-5)
    assert abs(float(writers.direction.double() @ left[:, 0])) == pytest.approx(1, abs=1e-5)
    attention = model.blocks[2].attention
    linear = 0.0 + torch.autograd.functional.jacobian(
        lambda x: model.blocks[2].scale1(
            attention.project.weight @ (attention.qkv.weight[24:] @ (model.blocks[2].norm1.weight * (x - x.mean())))
        ),
        torch.zeros(12).double(),
    )
    assert float(writers.gains[2, 0]) == pytest.approx(float(torch.linalg.svdvals(linear)[0]), rel=1e-5)


@needs_tiny
def test_a_real_model_s_corners():
    """ViT-Tiny: four patches an image from block 6 or 7 on, no-op sinks, along what block 7's weights amplify."""
    model = load_pretrained(TINY)
    x = torch.cat([data.prepare(data.photo(name), config=model.config) for name in ("chelsea", "coffee", "astronaut")])
    found = probes.find_outliers(recorded(model, x))
    corners = torch.zeros(3, 14, 14, dtype=torch.bool)
    corners[:, [0, 0, 13, 13], [0, 13, 0, 13]] = True
    assert found.start in (6, 7) and found.kind == "no-op"
    for block in range(7, 12):
        assert torch.equal(found.mask(block), corners)
    writers = probes.predict_direction(model)
    assert (writers.block, writers.branch) == (7, "mlp")
    assert abs(float(writers.direction @ found.modes[7].direction)) > 0.99
    assert found.modes[7].channels() == [41]
