"""A group of tokens enters later or leaves early: what each way depends on, and what nothing may change."""

import doctest
import math
from dataclasses import replace

import pytest
import torch

from dtl_lib import probes
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.probes import entry, entry_states, measure_entry
from dtl_lib.probes.entry_route import Route
from dtl_lib.probes.entry_rows import mean, paired, wilson
from dtl_lib.tape import record
from dtl_lib.timm_models import from_timm
from dtl_lib.tokens import Group, TokenNotThere, TokenPlan
from tests.unit.fixed import noise
from tests.unit.small import SMALL, build, images

REG = replace(SMALL, plan=TokenPlan(3, (Group("cls", 1), Group("reg", 2, enter=1))))
DIST = replace(SMALL, plan=TokenPlan.of(3, dist=True))
POOLED = replace(SMALL, plan=TokenPlan.of(3, cls_pos=None, reg_pos=0, num_reg=2), pool="patches", norm_after_pool=True)
CAIT = replace(
    SMALL, depth=2, talking_heads=True, plan=TokenPlan(2, (Group("cls", 1, 2), Group("reg", 2, 1)), class_blocks=2)
)
MOVES = [(SMALL, "cls"), (REG, "cls"), (REG, "reg"), (DIST, "cls"), (POOLED, "reg"), (CAIT, "cls"), (CAIT, "reg")]
IDS = ["cls", "cls of registers", "reg", "cls and dist", "pooled", "class attention", "keys of class attention"]
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def sharp(config: ViTConfig) -> ViT:
    """A model whose images get different classes."""
    model = ViT(config).double().eval()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(noise(*parameter.shape, seed=seed) * (0.6 if parameter.ndim > 1 else 0.3))
        for classifier, logits in zip(model.classifiers.values(), model.heads(images(config, 7))):
            classifier.bias -= logits.mean(dim=0)
    return model


def batches(config=SMALL, count=7, size=3, labels=True):
    """`count` images in batches of `size`, the last one smaller."""
    x = images(config, count)
    return [(x[at : at + size], LABELS[:count][at : at + size] if labels else None) for at in range(0, count, size)]


def reads(model, group, x, cell):
    """What the classifiers read of images in one cell, as `measure_entry` computes it."""
    route = Route(model, group)
    with torch.inference_mode():
        states = entry_states.States(route, [cell[2]], 0)
        states.keep(x)
        return entry._reads(route, x, states, [cell])[0][cell]


@pytest.mark.parametrize(("config", "group"), MOVES, ids=IDS)
def test_the_control_and_the_plan_s_own_entry_change_nothing(config, group):
    model = sharp(config)
    first, stop = Route(model, group).first, Route(model, group).stop
    result = measure_entry(model, batches(config), group=group)
    for block in range(first, stop):
        assert result.row(block, "itself", "present").largest_change < 1e-12
    for before in entry.BEFORE:
        for way in ("learned", "mean", "itself"):  # there the state is of no image yet
            assert result.row(first, way, before).largest_change < 1e-12
        assert result.row(first, "learned", before).largest_change == 0
    with torch.no_grad():
        logits = torch.cat([model(x) for x, _ in batches(config)])
    assert result.n == 7 and result.accuracy.value == (logits.argmax(dim=1) == LABELS).double().mean()
    unseen = (config, group) == (CAIT, "cls")  # class attention changes no other token, so that nothing is lost there
    later = [row for row in result.rows if row.block > first and (row.way, row.before) != ("itself", "present")]
    assert later and all((row.largest_change > 1e-6) != (unseen and row.way == "itself") for row in later)


@pytest.mark.parametrize(("config", "group"), MOVES[:5], ids=IDS[:5])
def test_a_learned_token_that_enters_later_is_the_model_with_that_plan(config, group):
    model = sharp(config)
    moved = ("cls", "dist") if group == "cls" else (group,)
    groups = tuple(replace(g, enter=2) if g.name in moved else g for g in config.plan.groups)
    other = ViT(config.with_plan(TokenPlan(3, groups))).double().eval()
    other.load_state_dict(model.state_dict())
    row = measure_entry(model, batches(config), [2], ["learned"], ["absent"], group).row(2, "learned")
    with torch.no_grad():
        expected, logits = (torch.cat([m(x) for x, _ in batches(config)]) for m in (other, model))
    assert row.largest_change == pytest.approx(float((expected - logits).abs().max()), rel=1e-9)
    assert row.agreement.value == (expected.argmax(dim=1) == logits.argmax(dim=1)).double().mean()
    assert row.accuracy.value == (expected.argmax(dim=1) == LABELS).double().mean()
    assert row.cost == pytest.approx(other.config.cost().total / config.cost().total, rel=1e-12)


def test_agreement_and_the_paired_difference_by_hand():
    """A mean class token put in at block 1 of an untouched stream, computed with the tape."""
    model, x = sharp(SMALL), images(SMALL, 7)
    with torch.no_grad(), record(model) as tape:
        logits = model(x)
        before = tape.tokens(0)
    mean_of_others = torch.stack([before[torch.arange(7) != i, 0].mean(dim=0) for i in range(7)])
    with torch.no_grad():
        after = model.blocks[2](model.blocks[1](torch.cat([mean_of_others[:, None], before[:, 1:]], dim=1)))
        other = model.classifiers["cls"](model.norm(after[:, 0]))
    predicted, usual = other.argmax(dim=1), logits.argmax(dim=1)
    row = measure_entry(model, batches(), [1], ["mean"]).row(1, "mean", "present")
    assert 0 < (predicted == usual).sum() < 7, "the example has to show a difference"
    assert row.agreement == wilson(int((predicted == usual).sum()), 7)
    gained = ((predicted == LABELS) & (usual != LABELS)).sum()
    lost = ((predicted != LABELS) & (usual == LABELS)).sum()
    assert row.difference == paired(int(gained), int(lost), 7)
    assert row.largest_change == pytest.approx(float((other - logits).abs().max()), rel=1e-9)
    assert row.cost == 1


@pytest.mark.parametrize("before", entry.BEFORE)
def test_of_its_own_image_a_mean_token_holds_nothing(before):
    """Every pixel of one image changes: with the patches kept, what is read of the mean token stays."""
    model, x = sharp(SMALL), images(SMALL, 4)
    changed = x.clone()
    changed[1] = noise(3, 8, 12, seed=77)
    route = Route(model, "cls")
    for way, of_others in (("mean_of_others", True), ("state", False)):
        found = []
        for pixels in (x, changed):
            with torch.inference_mode():
                states = entry_states.States(route, [2], 0)
                states.keep(pixels)
                *_, sequence = route.sequences(pixels)
                own = route.state(sequence, 2)
                found.append((states.mean_of_others(own, 2) if of_others else own)[:, 0])
        same = [torch.allclose(a, b, atol=1e-12) for a, b in zip(*found)]
        assert same == ([False, True, False, False] if of_others else [True, False, True, True]), way
    cell = ("mean", before, 2)
    assert not torch.allclose(reads(model, "cls", x, cell)[1], reads(model, "cls", changed, cell)[1])  # the patches do


def test_before_absent_the_other_tokens_do_not_see_the_group():
    model, x = sharp(REG), images(REG)
    other = sharp(REG)
    with torch.no_grad():
        other.tokens["cls"] += 1
    for before, same in (("absent", True), ("present", False)):
        kept = []
        for one in (model, other):
            route = Route(one, "cls")
            *_, sequence = route.sequences(x, absent=before == "absent")
            kept.append(sequence if before == "absent" else route.others(sequence, 2))
        assert torch.equal(*kept) == same


def test_shuffle_takes_each_token_from_another_image_whatever_the_batches():
    model, x = sharp(SMALL), images(SMALL, 7)
    route = Route(model, "cls")
    with torch.inference_mode():
        *_, sequence = route.sequences(x)
        own = route.state(sequence, 2)
    drawn = []
    for size in (7, 3, 1):
        with torch.inference_mode():
            states = entry_states.States(route, [2], seed=4)
            for part in x.split(size):
                states.keep(part)
            found = []
            for part in x.split(size):
                states.draw(len(part))
                found += states.of_another(2)
                states.check_same([own[len(found) - len(part) : len(found)]])
        of = [int(torch.stack([(one - token).norm() for token in own]).argmin()) for one in found]
        assert all(place != donor for place, donor in enumerate(of))
        drawn.append(of)
    assert drawn[0] == drawn[1] == drawn[2] and len(set(drawn[0])) > 1
    rows = [measure_entry(model, batches(size=size), [2], ["shuffle"]).rows for size in (7, 3)]
    for a, b in zip(*rows):
        assert a.agreement == b.agreement and a.largest_change == pytest.approx(b.largest_change)


def test_of_two_images_each_gets_the_other_s_state():
    model, x = sharp(SMALL), images(SMALL, 2)
    with torch.no_grad():
        straight = reads(model, "cls", x, ("itself", "present", 2))
        swapped = reads(model, "cls", x, ("shuffle", "present", 2))
        mean_of_one = reads(model, "cls", x, ("mean", "present", 2))
    assert torch.allclose(swapped, mean_of_one) and not torch.allclose(swapped, straight)


@pytest.mark.parametrize("ways", [["shuffle"], ["mean"], ["mean", "shuffle"]])
def test_one_image_has_no_other(ways):
    model = sharp(SMALL)
    with pytest.raises(ValueError, match=f"{' and '.join(ways)} needs? another image"):
        measure_entry(model, [images(SMALL, 1)], ways=[*ways, "itself"])
    result = measure_entry(model, [images(SMALL, 1)], ways=["learned", "itself", "leave"])
    assert result.n == 1 and result.between is None and result.row(2, "itself", "present").agreement.value == 1


def test_a_class_token_that_leaves_is_read_as_it_last_was():
    model = sharp(DIST)
    with torch.no_grad(), record(model) as tape:
        logits = torch.cat([model(x) for x, _ in batches(DIST, size=7)])
        last = model.norm(tape.tokens(1)[:, :2])
        heads = [model.classifiers[name](last[:, at]) for at, name in enumerate(("cls", "dist"))]
    result = measure_entry(model, batches(DIST), ways=["leave"])
    assert [row.block for row in result.rows] == [1, 2] and result.row(2, "leave").before == "present"
    change = (torch.stack(heads).mean(dim=0) - logits).abs().max()
    assert result.row(2, "leave").largest_change == pytest.approx(float(change), rel=1e-9)
    shorter = replace(DIST, depth=2, plan=TokenPlan.of(2, dist=True)).cost().total
    assert result.row(2, "leave").cost == pytest.approx(shorter / DIST.cost().total)


@pytest.mark.parametrize("config", [REG, POOLED], ids=["class token", "pooled"])
def test_registers_that_leave_are_a_plan(config):
    model = sharp(config)
    groups = tuple(replace(g, leave=2) if g.name == "reg" else g for g in config.plan.groups)
    other = ViT(config.with_plan(TokenPlan(3, groups))).double().eval()
    other.load_state_dict(model.state_dict())
    row = measure_entry(model, batches(config), [2], ["leave"], group="reg").row(2, "leave")
    with torch.no_grad():
        change = max(float((other(x) - model(x)).abs().max()) for x, _ in batches(config))
    assert row.largest_change == pytest.approx(change, rel=1e-9) and change > 1e-6
    assert row.cost == pytest.approx(other.config.cost().total / config.cost().total, rel=1e-12)


def test_a_class_token_may_skip_class_attention():
    """Without it, class attention changes nothing, and costs nothing."""
    model, x = sharp(CAIT), images(CAIT)
    route = Route(model, "cls")
    *_, before, after = route.sequences(x, absent=True)
    assert torch.equal(before, after)
    result = measure_entry(model, batches(CAIT), [3], ["learned", "leave"], ["absent"])
    one_less = replace(CAIT, plan=TokenPlan(2, CAIT.plan.groups, class_blocks=1)).cost().total / CAIT.cost().total
    assert [row.cost for row in result.rows] == pytest.approx([one_less, one_less])


def test_labels_are_optional_and_a_model_without_classes_is_compared_by_what_it_reads():
    labelled = measure_entry(sharp(SMALL), batches(), [1, 2])
    unlabelled = measure_entry(sharp(SMALL), [x for x, _ in batches()], [1, 2])
    assert unlabelled.accuracy is None
    for one, other in zip(labelled.rows, unlabelled.rows):
        assert replace(one, accuracy=None, difference=None) == other
    features = measure_entry(sharp(replace(SMALL, classes=0)), batches(), [2], ["mean", "itself"])
    row = features.row(2, "mean", "present")
    assert features.accuracy is row.accuracy is row.agreement is None and row.similarity.value < 1
    assert features.row(2, "itself", "present").similarity.value == pytest.approx(1)
    assert set(row.values()) == {"block", "cost", "largest_change", "similarity", "similarity_low", "similarity_high"}


def test_similarity_and_what_two_images_have_in_common():
    model, x = sharp(SMALL), images(SMALL, 2)
    a, b = reads(model, "cls", x, ("itself", "present", 1))[:, 0]
    result = measure_entry(model, [x], [1], ["itself"])
    assert result.between == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)))
    cosines = [0.2, 0.6, 0.7]
    found = mean(sum(cosines), sum(value**2 for value in cosines), 3)
    half = 4.302653 * torch.tensor(cosines).std().item() / math.sqrt(3)
    assert (found.value, found.high - found.low) == pytest.approx((0.5, 2 * half), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "size", "group"),
    [
        ("vit_tiny_patch16_224", 32, "cls"),
        ("deit_tiny_distilled_patch16_224", 32, "dist"),
        ("vit_small_patch14_reg4_dinov2", 28, "reg"),
    ],
)
def test_a_model_of_timm_s_on_images_that_are_not_square(name, size, group):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = from_timm(timm.create_model(name, depth=3, embed_dim=12, num_heads=3, img_size=size)).eval()
    patch = model.config.patch_size
    x = noise(4, 3, 2 * patch, 3 * patch, seed=1, dtype=torch.float32)
    result = measure_entry(model, [x[:3], x[3:]], group=group)
    for block in range(3):
        assert result.row(block, "itself", "present").largest_change < 1e-5
    assert result.row(0, "learned").largest_change == 0
    assert result.row(2, "learned").cost < result.row(1, "learned").cost < 1 == result.row(0, "learned").cost
    square = Route(model, group).relative_cost((2 * patch, 2 * patch), 2)
    assert square < result.row(2, "learned").cost  # of more patches the group is a smaller part


def test_memory_does_not_grow_with_the_images(monkeypatch):
    monkeypatch.setattr(entry_states, "DONORS", 4)
    model, read = sharp(SMALL), []

    class Counted:
        """Images that are made as they are asked for; how many batches are alive is not more than a few."""

        def __iter__(self):
            for seed in range(20):
                read.append(seed)
                yield noise(2, 3, 8, 12, seed=seed), torch.tensor([seed % 5, 0])

    kept = []
    monkeypatch.setattr(entry_states.States, "check_all_seen", lambda self: kept.append(self))
    result = measure_entry(model, Counted(), [2])
    assert result.n == 40 and read == [*range(20), *range(20)]
    assert [len(held) for held in (kept[0]._donors, kept[0]._reads, kept[0]._numbers)] == [4, 4, 4]
    assert len(kept[0]._drawn) == 2 and kept[0]._sum.shape == (1, 1, 12)
    assert all(one.untyped_storage().nbytes() == 12 * 8 for one in kept[0]._donors)  # no view of a batch


def test_other_images_the_second_time_are_refused():
    model = sharp(SMALL)

    class Changing:
        def __init__(self, second):
            self.passes = iter([batches(), second])

        def __iter__(self):
            return iter(next(self.passes))

    for second in (batches()[::-1], batches()[:1], batches() + batches(count=2)):
        with pytest.raises(ValueError, match="other images the second time"):
            measure_entry(model, Changing(second), [2], ["mean"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batches": (x for x, _ in batches())}, "batches are read twice"),
        ({"batches": images(SMALL)}, "images are \\(batch, 3, height, width\\)"),
        ({"batches": []}, "no images"),
        ({"batches": ["cat.jpg"]}, "a batch is images, a tensor, or a pair"),
        ({"batches": [(images(SMALL), torch.tensor([0, 5]))]}, "labels are 0 … 4"),
        ({"batches": [(images(SMALL), torch.tensor([0.0, 1.0]))]}, "labels are whole numbers"),
        ({"batches": [(images(SMALL), LABELS[:2]), images(SMALL)]}, "some batches have labels and some do not"),
        ({"blocks": [3]}, "cls is in blocks 0 … 2 of this model, not in 3"),
        ({"blocks": [True]}, "not in True"),
        ({"blocks": [0], "ways": ["leave"]}, "give a later block"),
        ({"ways": ["median"]}, "ways are some of learned, mean, shuffle, itself, leave, not"),
        ({"ways": "mean"}, "ways are some of"),
        ({"before": []}, "before are some of absent, present"),
        ({"group": "patches"}, "patches are in every block: name a group"),
        ({"model": torch.nn.Linear(2, 2)}, "from_timm makes one"),
    ],
)
def test_bad_input_is_one_sentence(changed, message):
    with pytest.raises(ValueError, match=message):
        measure_entry(**({"model": sharp(SMALL), "batches": batches()} | changed))


def test_a_group_that_is_not_there_is_named():
    with pytest.raises(TokenNotThere, match="this plan has no reg"):
        measure_entry(sharp(SMALL), batches(), group="reg")


def test_non_finite_logits_are_refused_and_the_mode_of_the_model_stays():
    model = build(SMALL).train()
    with torch.no_grad():
        model.classifiers["cls"].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="non-finite"):
        measure_entry(model, batches(), [2])
    assert model.training


def test_intervals_against_published_and_simulated_ones():
    assert [wilson(81, 263).low, wilson(81, 263).high] == pytest.approx([0.2553, 0.3662], abs=1e-4)  # Newcombe 1998
    nothing = paired(0, 0, 200)
    assert nothing.value == 0 and nothing.low < 0 < nothing.high
    assert paired(3, 9, 100).value == -0.06 and paired(9, 3, 100).low == pytest.approx(-paired(3, 9, 100).high)
    generator, covered = torch.Generator().manual_seed(0), []
    for _ in range(400):
        draw = torch.rand(150, generator=generator)
        found = paired(int((draw < 0.05).sum()), int((draw > 0.85).sum()), 150)
        covered.append(found.low <= 0.05 - 0.15 <= found.high)
    assert 0.92 < sum(covered) / len(covered) < 0.98


def test_the_example_of_the_docstring_runs():
    found = doctest.DocTestFinder(recurse=False).find(probes.measure_entry, globs={})
    failed, tried = doctest.DocTestRunner().run(found[0])
    assert tried >= 6 and not failed
