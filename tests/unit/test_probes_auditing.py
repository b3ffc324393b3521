"""An audit: its numbers are those of plain float64, planted outliers have place and type, batches are forgotten."""

import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from dtl_lib import ViT, load_pretrained, probes, record
from dtl_lib.cli.questions.outliers import outliers
from dtl_lib.config import ViTConfig
from dtl_lib.probes.lengths import RunningLengths
from dtl_lib.probes.ranks import RunningScatter
from dtl_lib.tokens import TokenPlan
from tests.unit.loops import PLANS, attention, streams
from tests.unit.planted import planted, random_mask, small_model
from tests.unit.small import build, images
from tests.unit.test_probes_outliers import SHAPES, ZOO, blank_at_the_left, recorded, with_sink


def audited(model, x, batch=20, **options):
    return probes.audit(model, x.split(batch), **options)


@pytest.mark.parametrize("name", PLANS)
def test_numbers_are_those_of_plain_float64(name):
    model, x = build(PLANS[name]), images(PLANS[name], batch=5)
    found, before = audited(model, x, batch=2), streams(model, x)
    plan = model.plan
    assert found.n == 5 and len(found.blocks) == plan.blocks and found.config.grid == (2, 3)
    for number, block in enumerate(found.blocks):
        layout = plan.layout(number)
        with torch.no_grad(), record(model) as tape:
            model(x)
        after = tape.tokens(number).double().numpy()
        assert set(block.norms) == set(block.received) == set(layout)
        for group, where in layout.items():
            lengths = np.sqrt(np.square(after[:, where]).sum(axis=-1))
            norms = block.norms[group]
            expected = [np.quantile(lengths, 0.5), np.quantile(lengths, 0.98), lengths.max()]
            np.testing.assert_allclose([norms.median, norms.p98, norms.largest], expected, rtol=2e-4)
        if number < plan.depth:
            weights = attention(model, number, before[number]).mean(axis=(0, 1, 2))
            np.testing.assert_allclose(
                list(block.received.values()), [weights[w].sum() for w in layout.values()], rtol=1e-4
            )
            best = np.sort(weights)[::-1]
            np.testing.assert_allclose([one.times for one in block.columns], best[:3] * len(best), rtol=1e-4)
            assert block.half == int((best.cumsum() < 0.5).sum()) + 1
            states = after[:, layout["patches"]].reshape(-1, after.shape[-1])
            shares = np.linalg.svd(states - states.mean(axis=0), compute_uv=False)
            shares = shares[shares > 1e-6 * shares[0]] / shares.sum()
            assert block.rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
            assert block.rank_without == pytest.approx(block.rank) and block.counts.sum() == 30
        else:
            assert block.rank is block.outliers is block.sinks is block.counts is None


@pytest.mark.parametrize(
    "registers, says", [((1,), ": one register would cost 5.6%"), ((2, 9), ": 2 registers would cost 11.3%"), ((), ".")]
)
def test_the_verdict_names_a_cost_that_was_asked_for(registers, says):
    found = probes.audit(ViT.build("vit_shapes_patch8_32"), [torch.randn(2, 3, 32, 32)], registers=registers)
    assert found.verdict.startswith(f"No patch is an outlier in 2 images{says}")


@pytest.mark.parametrize("batch", [60, 17, 8])
@pytest.mark.parametrize("times", [3.0, 8.0])
def test_planted_outliers_are_reported_where_they_are_whatever_the_batches(times, batch):
    model, mask = small_model(), random_mask(60, (8, 8), 0.03)
    found, tape = None, None
    with planted(model, mask, 2, times):
        tape = recorded(model, SHAPES)
    once = probes.find_outliers(tape)
    masks = iter(mask.split(batch))

    def batches():  # each batch has its own part of the mask
        for x in SHAPES.split(batch):
            with planted(model, next(masks), 2, times):
                yield x

    found = probes.audit(model, batches())
    assert found.start == once.start == 2 and found.last == 5
    for number in range(6):
        truth, block = once.mask(number).double(), found.blocks[number]
        if number < 2:
            assert block.outliers is None
            continue
        assert block.outliers.n == pytest.approx(int(truth.sum()), abs=2 if batch == 60 else 6)
        np.testing.assert_allclose(block.outliers.places, truth.mean(dim=0), atol=0.051)
        assert block.outliers.ratio == pytest.approx(once.modes[number].ratio, rel=0.05)
        assert block.outliers.alike == pytest.approx(once.modes[number].alike, rel=0.05)
    shown = found.blocks[found.shown].outliers  # its numbers are not those of every block
    said = f"{shown.n / 60:.2g} of 64 after block {found.shown}, {shown.ratio:.2g} times as long ({shown.images} of"
    assert f"From block 2 on, some patches of an image are longer than the others: {said}" in found.verdict


def test_one_batch_is_what_find_outliers_finds_to_the_last_patch():
    model, mask = small_model(), random_mask(60, (8, 8), 0.03)
    with planted(model, mask, 2):
        tape, found = recorded(model, SHAPES), probes.audit(model, [SHAPES])
    once = probes.find_outliers(tape)
    for number, block in enumerate(found.blocks):
        if once.modes[number]:
            mode, truth = once.modes[number], once.mask(number)
            assert block.outliers.n == int(truth.sum()) and block.outliers.channels == tuple(mode.channels())
            assert block.outliers.images == int(truth.flatten(1).any(dim=1).sum())
            np.testing.assert_allclose(block.outliers.places, truth.double().mean(dim=0))
            assert block.outliers.cut == pytest.approx(mode.cut, rel=0.05)
        if number in once.sinks:
            sinks = once.sinks[number]
            assert block.sinks.share == pytest.approx(float(sinks.attention.sum()) / 60, rel=1e-4)
            assert {k: v for k, v in block.sinks.kinds.items() if v} == {
                k: sinks.kinds.count(k) for k in set(sinks.kinds)
            }
            assert block.sinks.output == pytest.approx(float(np.median(sinks.output)), rel=0.01)
    assert torch.equal(torch.as_tensor(found.pictures[3].long), torch.stack([once.mask(n)[3] for n in range(6)]))


def test_long_patches_that_are_left_out_are_named():
    model, x, mask = blank_at_the_left()
    with planted(model, mask, 1):
        tape, found, answer = recorded(model, x), probes.audit(model, [x]), outliers(model, [x])
    left_out, last = probes.find_outliers(tape).left_out, model.plan.depth - 1
    assert found.start is None and [n for n, block in enumerate(found.blocks) if block.left_out] == list(left_out)
    for number, mode in left_out.items():
        assert found.blocks[number].left_out == pytest.approx(mode.ratio, rel=0.05)
    most = max(found.blocks[number].left_out for number in left_out)
    said = f"after blocks 1 to {last} some patches are long, typically up to {most:.3g} times as long as the others"
    assert said in found.left_out and found.verdict.endswith(found.left_out) and "nothing for them" not in found.verdict
    assert found.to_dict()["blocks"][1]["left_out"] > 2
    assert answer.lines == ["no outliers in 2 images", found.left_out]


def test_long_patches_that_were_never_compared_are_not_said_to_be_left_out():
    """Long in the first batch, where nothing could be told; a mode of their own by the second, which has none."""
    running = probes.running_outliers.AfterBlock()
    generator = torch.Generator().manual_seed(1)
    for count, spread in ((1, 0.6), (20, 0.05)):
        before = torch.randn(count, 64, 16, generator=generator)
        lengths = torch.exp(spread * torch.randn(count, 64, 1, generator=generator))
        if count == 1:
            lengths[0, :2] = 3.6
        running.add(lengths * torch.nn.functional.normalize(before, dim=-1), before)
    assert running.lengths.second_mode() is not None and running.cut is None and running.left_out is None


@pytest.mark.parametrize("kind", ["no-op", "broadcast", "ignored"])
def test_the_type_of_a_planted_sink(kind):
    model, _, mask = with_sink(kind)
    x = images(ViTConfig(32, 4, dim=48, depth=5, heads=3, classes=5), batch=4).float()
    with planted(model, mask, 2, times=4.0):
        sinks = probes.audit(model, [x]).blocks[3].sinks
    assert sinks.kinds[kind] == sum(sinks.kinds.values()) == int(mask.sum())
    assert (sinks.share > sinks.even) == (kind != "ignored") and sinks.low < sinks.share < sinks.high


@pytest.mark.parametrize("name", ZOO)
def test_clean_models_have_none(name):
    found = audited(load_pretrained(f"zoo/{name}"), SHAPES, batch=12)
    assert found.start is found.last is found.kind is found.strongest is found.left_out is None
    registers = 4 if name.endswith("reg4") else 0
    assert found.registers == registers
    assert found.verdict.startswith(f"{'With 4 registers, no' if registers else 'No'} patch is an outlier in 60 images")
    assert f"{1 - 0.05 ** (1 / 60):.1%} of images could have been missed" in found.verdict
    assert not any(picture.long.any() for picture in found.pictures)


def test_a_rare_outlier_is_found_over_batches_and_a_false_alarm_forgotten():
    model = small_model()
    alone = torch.zeros(12, 8, 8, dtype=torch.bool)
    alone[5, 2, 3] = True  # one in each batch, which find_outliers takes for none
    with planted(model, alone, 2):
        assert probes.find_outliers(recorded(model, SHAPES[:12])).start is None
        assert audited(model, SHAPES, batch=12).start == 2
    running = probes.running_outliers.AfterBlock()
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(4, 16, 64, generator=generator)
    long = before.clone()
    long[0, :3] *= 40
    assert not probes.outliers.likest_is_long(before, long.norm(dim=-1) > 100).all()
    assert running.add(long, before).sum() == 3 and running.there
    for _ in range(40):  # what was a hill of its own is now the end of one
        running.add(before * torch.exp(2.0 * torch.randn(4, 16, 1, generator=generator)), before)
    assert not running.there


def test_a_batch_is_forgotten_before_the_next_and_nothing_grows():
    model, alive = small_model(), []

    def batches(count):
        for _ in range(count):
            x = SHAPES[:10].clone()
            alive.append(weakref.ref(x))
            yield x
            del x
            assert alive[-1]() is None or alive[-1]().data_ptr() and sum(one() is not None for one in alive) <= 1

    kept = []
    for count in (2, 9):
        running = probes.auditing._Running(model.eval(), 2, 3)
        for x in batches(count):
            with torch.inference_mode(), record(model) as tape:
                model(x)
            running.add(tape, x)
            del tape, x
        sizes = [len(one.lengths._places) for one in running.outliers.after]
        sizes += [one.normal.scatter.numel() for one in running.blocks] + [len(running.kept)]
        kept.append(sizes)
    assert kept[0] == kept[1]


def test_lengths_have_the_quantiles_and_the_mode_of_all():
    values = torch.from_numpy(np.random.default_rng(0).lognormal(1, 0.3, 4001))
    values[::100] *= 30
    running = RunningLengths()
    for part in values.split(333):
        running.add(part)
    assert np.isnan(RunningLengths().quantile(0.5)) and running.n == 4001
    for share in (0.0, 0.1, 0.5, 0.98, 1.0):
        assert running.quantile(share) == pytest.approx(float(values.quantile(share)), rel=2e-4)
    cut = probes.second_mode(values)
    assert running.second_mode() == pytest.approx(cut, rel=0.02)
    expected = float(np.median(values[values > cut]) / np.median(values[values <= cut]))
    assert running.ratio(cut) == pytest.approx(expected, rel=3e-4) and running.largest == float(values.max())
    assert running.histogram(running.smallest * 0.99, running.largest * 1.01, 7).sum() == 4001


def test_a_scatter_of_parts_is_that_of_all():
    values = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double() + 1000
    parts = [RunningScatter(4), RunningScatter(4)]
    for number, part in enumerate(values.split(7)):
        parts[number % 2].add(part)
    merged = parts[0].merged(parts[1])
    torch.testing.assert_close(merged.scatter, torch.cov(values.T) * 49)
    torch.testing.assert_close(merged.mean, values.mean(dim=0))
    assert probes.effective_rank(torch.zeros(3, 3)) == 0.0


def test_registers_cost_what_the_plan_with_them_costs():
    config = replace(PLANS["registers that enter and leave"])
    for cost in probes.register_costs(config, (1, 5)):
        plan = TokenPlan(
            3, (*config.plan.groups, replace(config.plan.groups[1], name="x", tokens=cost.registers, leave=None))
        )
        then = replace(config, plan=plan).cost()
        assert cost.multiply_adds == pytest.approx(then.total / config.cost().total - 1)
        assert cost.parameters == cost.registers * config.dim


def test_a_picture_is_the_first_images_and_what_the_head_reads():
    model, x = small_model(), SHAPES[:6]
    found = audited(model, x, batch=2, pictures=3)
    with torch.no_grad(), record(model) as tape:
        model(x)
    assert len(found.pictures) == 3 and found.reader == "cls"
    for number, picture in enumerate(found.pictures):
        assert torch.equal(picture.image, x[number])
        np.testing.assert_allclose(picture.look, tape.maps(5)[number].mean(dim=0), atol=1e-6)
        np.testing.assert_allclose(picture.lengths[3], tape.norms(3)["patches"][number], rtol=1e-5)


def test_numbers_can_be_json_and_hold_nothing_that_is_not_known():
    found = audited(load_pretrained("zoo/shapes_depth6"), SHAPES[:1])
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (
        again["start"] is None and again["images"] == 1 and len(again["blocks"]) == 6 and "0.95" not in again["verdict"]
    )


def test_refusals():
    model = load_pretrained("zoo/shapes_depth6")
    with pytest.raises(ValueError, match="no images"):
        probes.audit(model, [])
    with pytest.raises(ValueError, match="from_timm"):
        probes.audit(torch.nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match="images have one size"):
        probes.audit(model, [torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 64)])
    with pytest.raises(ValueError, match="pictures"):
        probes.audit(model, [SHAPES], pictures=-1)
    damaged = ViT(replace(model.config))
    with torch.no_grad():
        damaged.blocks[3].mlp.contract.weight[0] = float("nan")
    with pytest.raises(ValueError, match="non-finite"):
        probes.audit(damaged, [SHAPES[:2]])
    assert damaged.training
