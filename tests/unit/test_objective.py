"""The loss: by hand, by who learns from whom, and under what wraps it."""

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe
from dtl_lib.train.loss import Objective
from tests.unit.fixed import noise
from tests.unit.small import build

ONE = ViTConfig(16, 8, dim=12, depth=2, heads=2, classes=5)
TWO = dataclasses.replace(ONE, plan=TokenPlan.of(2, dist=True))
LATE = dataclasses.replace(ONE, plan=TokenPlan.of(2, cls_pos=1))
ROOT = Path(__file__).parents[2]
IMAGES, LABELS, TAUGHT = noise(4, 3, 16, 16), torch.tensor([0, 3, 4, 3]), 3 * noise(4, 5, seed=1)
SHARES = torch.tensor([[0.3, 0.7, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0.1, 0, 0.9], [0, 0, 0, 0.5, 0.5]])
HARD = Recipe(distill="hard", distill_from="x")
SOFT = Recipe(distill="soft", distill_from="x")


def loss(config, recipe, targets=LABELS, teacher_logits=None):
    return Objective(build(config), recipe)(IMAGES, targets, teacher_logits)


def gradient(config, recipe, targets=LABELS, teacher_logits=TAUGHT):
    """Of each head's weights."""
    model = build(config)
    Objective(model, recipe)(IMAGES, targets, teacher_logits).backward()
    return {name: head.weight.grad for name, head in model.classifiers.items()}


@pytest.mark.parametrize("config", [ONE, TWO])
@pytest.mark.parametrize("targets", [LABELS, SHARES.double()])
def test_without_more_it_is_the_cross_entropy_of_the_model_s_logits(config, targets):
    logits = build(config)(IMAGES)
    assert torch.equal(loss(config, Recipe(), targets), F.cross_entropy(logits, targets))
    smoothed = F.cross_entropy(logits, targets, label_smoothing=0.1)
    assert torch.equal(loss(config, Recipe(smoothing=0.1), targets), smoothed) and smoothed != loss(config, Recipe())


def by_hand(logits, present, smoothing=0.0):
    wanted = present.double() * (1 - smoothing) + smoothing / present.shape[1]
    yes = logits.sigmoid()
    return -(wanted * yes.log() + (1 - wanted) * (1 - yes).log()).mean()


def test_binary_cross_entropy_by_hand_and_as_timm_has_it():
    from timm.loss import BinaryCrossEntropy

    logits, asked = build(ONE)(IMAGES), Recipe(loss="bce", smoothing=0.1)
    torch.testing.assert_close(loss(ONE, asked), by_hand(logits, F.one_hot(LABELS, 5), 0.1))
    torch.testing.assert_close(loss(ONE, asked), BinaryCrossEntropy(0.1)(logits, LABELS))
    plain = Recipe(loss="bce")
    torch.testing.assert_close(loss(ONE, plain, SHARES), by_hand(logits, SHARES > 0))
    torch.testing.assert_close(
        loss(ONE, plain, SHARES), BinaryCrossEntropy(0.0, target_threshold=0.0)(logits, SHARES.double())
    )
    assert loss(ONE, asked) != loss(ONE, plain) != loss(ONE, Recipe())


def test_a_mixed_in_class_is_there_whatever_its_share():
    other = SHARES.clone()
    other[0] = torch.tensor([0.9, 0.1, 0, 0, 0])
    assert loss(ONE, Recipe(loss="bce"), SHARES) == loss(ONE, Recipe(loss="bce"), other)
    assert loss(ONE, Recipe(), SHARES) != loss(ONE, Recipe(), other)
    other[0] = torch.tensor([1.0, 0, 0, 0, 0])
    assert loss(ONE, Recipe(loss="bce"), SHARES) != loss(ONE, Recipe(loss="bce"), other)


@pytest.mark.parametrize("recipe", [HARD, SOFT])
def test_each_of_two_heads_learns_from_its_own_teacher(recipe):
    plain, labels, teacher_logits = (
        gradient(TWO, recipe), gradient(TWO, recipe, targets=LABELS.flip(0)),
        gradient(TWO, recipe, teacher_logits=-TAUGHT),
    )  # fmt: skip
    assert torch.equal(plain["dist"], labels["dist"]) and not torch.equal(plain["cls"], labels["cls"])
    assert torch.equal(plain["cls"], teacher_logits["cls"]) and not torch.equal(plain["dist"], teacher_logits["dist"])


@pytest.mark.parametrize("recipe", [HARD, SOFT])
def test_one_head_learns_from_both(recipe):
    plain = gradient(ONE, recipe)["cls"]
    assert not torch.equal(plain, gradient(ONE, recipe, targets=LABELS.flip(0))["cls"])
    assert not torch.equal(plain, gradient(ONE, recipe, teacher_logits=-TAUGHT)["cls"])


def test_hard_is_the_cross_entropy_with_the_class_the_teacher_names():
    cls, dist = build(TWO).heads(IMAGES)
    expected = 0.5 * F.cross_entropy(cls, LABELS) + 0.5 * F.cross_entropy(dist, TAUGHT.argmax(dim=1))
    torch.testing.assert_close(loss(TWO, HARD, teacher_logits=TAUGHT), expected)
    assert loss(TWO, HARD, teacher_logits=TAUGHT) == loss(
        TWO, HARD, teacher_logits=7 * TAUGHT
    )  # how sure it is does not matter
    assert loss(TWO, SOFT, teacher_logits=TAUGHT) != loss(TWO, SOFT, teacher_logits=7 * TAUGHT)
    smoothed = dataclasses.replace(HARD, smoothing=0.1, distill_weight=1.0)  # of labels, not of the teacher's choice
    torch.testing.assert_close(loss(TWO, smoothed, teacher_logits=TAUGHT), F.cross_entropy(dist, TAUGHT.argmax(dim=1)))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_is_the_divergence_at_the_temperature_by_hand(temperature):
    recipe = dataclasses.replace(SOFT, distill_weight=1.0, distill_temperature=temperature)
    _, dist = build(TWO).heads(IMAGES)
    theirs, ours = (TAUGHT / temperature).softmax(dim=1), (dist / temperature).softmax(dim=1)
    expected = temperature**2 * (theirs * (theirs.log() - ours.log())).sum(dim=1).mean()
    torch.testing.assert_close(loss(TWO, recipe, teacher_logits=TAUGHT), expected)
    assert loss(TWO, recipe, teacher_logits=dist.detach()).abs() < 1e-12  # nothing is left to learn
    assert gradient(TWO, recipe, teacher_logits=dist.detach())["dist"].abs().max() < 1e-12


def test_tau_squared_keeps_the_gradient_s_size():
    sizes = [
        gradient(TWO, dataclasses.replace(SOFT, distill_temperature=temperature))["dist"].norm()
        for temperature in (30.0, 300.0)
    ]
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.1, atol=0)
    near = gradient(TWO, dataclasses.replace(SOFT, distill_temperature=1.0))["dist"].norm()
    assert not torch.isclose(near, sizes[0], rtol=0.1)


@pytest.mark.parametrize("recipe", [HARD, SOFT])
def test_the_weight_goes_from_labels_alone_to_the_teacher_alone(recipe):
    losses = [loss(TWO, dataclasses.replace(recipe, distill_weight=w), teacher_logits=TAUGHT) for w in (0.0, 0.25, 1.0)]
    cls, _ = build(TWO).heads(IMAGES)
    torch.testing.assert_close(losses[0], F.cross_entropy(cls, LABELS))
    torch.testing.assert_close(losses[1], 0.75 * losses[0] + 0.25 * losses[2])
    assert losses[0] != losses[2]


def test_labels_are_learnt_with_the_recipe_s_own_loss_beside_a_teacher():
    recipe = dataclasses.replace(HARD, loss="bce", distill_weight=0.0)
    cls, _ = build(TWO).heads(IMAGES)
    torch.testing.assert_close(loss(TWO, recipe, teacher_logits=TAUGHT), by_hand(cls, F.one_hot(LABELS, 5)))


def test_the_model_is_all_there_is_to_wrap():
    objective = Objective(build(TWO), SOFT)
    assert [name for name, _ in objective.named_children()] == ["model"]
    assert {name.removeprefix("model.") for name in objective.state_dict()} == set(objective.model.state_dict())
    assert not [name for name, _ in objective.named_buffers() if not name.startswith("model.")]


@pytest.mark.parametrize("recipe", [Recipe(loss="bce", smoothing=0.1), HARD, SOFT])
@pytest.mark.slow
def test_it_compiles_into_one_graph(recipe):
    torch.compiler.reset()
    objective, teacher_logits = Objective(build(TWO), recipe), TAUGHT if recipe.distill else None
    compiled = torch.compile(objective, backend="eager", fullgraph=True)
    for targets in (LABELS, SHARES):
        torch.testing.assert_close(
            compiled(IMAGES, targets, teacher_logits), objective(IMAGES, targets, teacher_logits)
        )


COMPILED = """
    import torch
    from dtl_lib.train import Recipe
    from dtl_lib.train.loss import Objective, compile_once
    from tests.unit.small import build
    from tests.unit.test_objective import IMAGES, LABELS, LATE

    graphs = []
    module, given = (Objective(build(LATE), Recipe()), (IMAGES, LABELS)) if {training} else (build(LATE), (IMAGES,))
    compile_once(module, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    for _ in range(3):
        module(*given)
    print(len(graphs))
"""


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.slow
def test_it_is_compiled_once(training):
    """In a new process, where einops has not met a tensor yet: its list of types grows at the first call."""
    code = textwrap.dedent(COMPILED).format(training=training)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stdout + done.stderr


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(loss="bce"), HARD, SOFT])
def test_under_autocast_the_loss_is_in_single_precision(recipe):
    objective = Objective(ViT(TWO), recipe)
    teacher_logits = TAUGHT.to(torch.bfloat16) if recipe.distill else None
    with torch.autocast("cpu", torch.bfloat16):
        assert objective.model(IMAGES.float()).dtype == torch.bfloat16
        found = objective(IMAGES.float(), SHARES, teacher_logits)
    assert found.dtype == torch.float32
    exact = objective(IMAGES.float(), SHARES, teacher_logits)
    assert found.item() == pytest.approx(exact.item(), rel=0.02) and found != exact
