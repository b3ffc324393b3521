"""Chapter 10's experiment: who is taught by whom, in which order, and what is measured of heads and tokens."""

from dataclasses import replace

import pytest
import torch

from book.experiments import distillation, distillation_teacher
from book.experiments.distillation import SCALES, measure, of_the_heads, of_the_teacher, of_the_tokens, study
from dtl_lib import checkpoint, ledger, record
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan

PLAN = TokenPlan.of(2, dist=True)
CONFIG = replace(SCALES["toy"].config, plan=PLAN)


@pytest.fixture
def sets():
    return distillation.sets_at("toy", "cpu")


class Says(torch.nn.Module):
    """A teacher that gives the logits of a table, by the sum of an image."""

    def __init__(self, images, logits):
        super().__init__()
        self.table = {image.sum().item(): row for image, row in zip(images, logits)}

    def forward(self, images):
        return torch.stack([self.table[image.sum().item()] for image in images])


def test_the_teacher_comes_first_and_every_condition_before_a_second_seed():
    for scale in SCALES:
        runs, seeds = study(scale).runs, len(SCALES[scale].seeds)
        assert study(scale).first == 1 and runs[0].what == "teacher" and len(runs) == 1 + 7 * seeds
        assert len({run.what for run in runs[1:8]}) == 7 and {run.seed for run in runs[1:8]} == {0}
        assert [run.recipe.seed for run in runs] == [run.seed for run in runs]
    by_name = {run.what: run for run in runs}
    late = by_name.pop("hard, both tokens, from block 1")
    assert {group.enter for group in late.config.plan.groups} == {1} and late.recipe.distill == "hard"
    for name, run in by_name.items():
        assert ("dist" in run.config.head_names) == ("both tokens" in name)
        assert run.recipe.distill == next((who for who in ("soft", "hard") if name.startswith(who)), None)


def test_a_run_of_each_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = {run.what: run for run in study("toy").runs if run.seed == 0}
    values = {what: measure("toy", run, "cpu") for what, run in runs.items()}
    assert len(values["teacher"]["shares_3"]) == 100 and all(found["n"] == 48 for found in values.values())
    for what, run in runs.items():
        ledger.add("toy", what, "make", "cpu", dict(values[what]), n=48, seed=0, folder=str(tmp_path))
        if "both tokens" in what:
            file = distillation.RUNS / "toy" / f"{what.replace(', ', '_').replace(' ', '_')}.safetensors"
            saved = checkpoint.load_model(file)
            card = saved.card
            assert saved.plan == run.config.plan and card["recipe"] == run.recipe.to_dict()
            assert ("teacher" in card) == (not what.startswith("no teacher"))
    assert values["hard, both tokens"]["cosine"] != values["soft, both tokens"]["cosine"]
    assert "cosine" not in values["hard, class token"]


def test_heads_are_counted_one_by_one(sets):
    torch.manual_seed(0)
    images, labels = sets.test.batch(torch.arange(48))
    model = ViT(CONFIG).eval()
    teacher = Says(
        images, torch.nn.functional.one_hot(torch.where(torch.arange(48) < 20, labels, (labels + 1) % 10), 10)
    )
    found = of_the_heads(model, teacher, sets)
    with torch.no_grad():
        heads = dict(zip(("cls", "dist"), (head.argmax(dim=1) for head in model.heads(images))))
        heads["mean"] = model(images).argmax(dim=1)
    for name, answers in heads.items():
        right = [int(answer == label) for answer, label in zip(answers, labels)]
        repeated = [int(answer == (label + 1) % 10) for answer, label in zip(answers, labels)][20:]
        assert found[f"accuracy_{name}"] == pytest.approx(sum(right) / 48)
        assert found[f"repeated_{name}"] == sum(repeated)
        assert found[f"agreement_{name}"] == pytest.approx((sum(right[:20]) + sum(repeated)) / 48)
    assert found["same"] == pytest.approx((heads["cls"] == heads["dist"]).double().mean().item())
    assert found["teacher_wrong"] == 28 and found["accuracy"] == found["accuracy_mean"]


def test_shares_are_means_over_the_images_of_a_class(sets):
    images, labels = sets.test.batch(torch.arange(48))
    logits = torch.randn(48, 10, generator=torch.Generator().manual_seed(1))
    found = of_the_teacher(Says(images, logits), sets)
    for temperature in (1, 3):
        mine = [
            [sum((row / temperature).softmax(0)[k].item() for row in logits[labels == c]) / max(1, (labels == c).sum())
             for k in range(10)] for c in range(10)
        ]  # fmt: skip
        assert torch.allclose(torch.tensor(found[f"shares_{temperature}"]).view(10, 10), torch.tensor(mine), atol=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(dim=1) == labels).double().mean().item())


def test_tokens_against_a_loop(sets):
    torch.manual_seed(2)
    model = ViT(replace(CONFIG, plan=TokenPlan.of(2, 1, dist=True))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    found = of_the_tokens(model, sets)
    images = sets.test.batch(torch.arange(48))[0]
    with record(model) as tape, torch.no_grad():
        model(images)
    first, second = tape.tokens(1)[:, 0].double(), tape.tokens(1)[:, 1].double()
    learned = {name: token.detach() for name, token in model.tokens.items()}

    def cosine(a, b):
        return sum(float(x @ y / x.norm() / y.norm()) for x, y in zip(a, b)) / len(a)

    assert found["first_block"] == 1 and len(found["cosine"]) == 2 and len(found["map_distance"]) == 1
    assert found["cosine"][0] == pytest.approx(cosine(learned["cls"], learned["dist"]), abs=1e-6)
    assert found["cosine"][1] == pytest.approx(cosine(first, second), abs=1e-6)
    assert found["cosine_centred"][0] == pytest.approx(cosine(first - first.mean(0), second - second.mean(0)), abs=1e-6)
    maps = tape.attention(1).mean(dim=1)
    assert found["map_distance"][0] == pytest.approx(float((maps[:, 0] - maps[:, 1]).abs().sum(1).mean() / 2), abs=1e-6)
    assert found["patches_dist"][0] == pytest.approx(float(maps[:, 1, 2:].sum(1).mean()), abs=1e-6)


def test_the_teacher_takes_images_as_they_are_and_halves_them_late():
    teacher = distillation.convnet(SCALES["gpu"])
    seen = {}
    for name in ("layer1", "layer4"):
        getattr(teacher, name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.shape[-1]}))
    teacher(torch.zeros(2, 3, 32, 32))
    assert seen == {"layer1": 32, "layer4": 4}
    assert 2 * sum(parameter.numel() for parameter in teacher.parameters()) < 4e6  # bytes in float16


def test_what_the_teacher_says_of_training_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (teacher,) = [run for run in study("toy").runs if run.what == "teacher"]
    measure("toy", teacher, "cpu")
    distillation_teacher.main(["--scale", "toy", "--folder", str(tmp_path)])
    (found,) = ledger.read("distillation_teacher", tmp_path)
    sets, model = distillation.sets_at("toy", "cpu"), distillation.saved_teacher("toy", "cpu")
    images, labels = sets.train.batch(torch.arange(64), augment=SCALES["toy"].recipe.augment(), key=(0, 0))
    with torch.no_grad():
        logits = model(images)
    assert found.get("accuracy_train") == pytest.approx((logits.argmax(dim=1) == labels).double().mean().item())
    own = [(row / 3).softmax(0)[label].item() for row, label in zip(logits, labels)]
    assert found.get("share_train_3") == pytest.approx(sum(own) / 64, abs=1e-6)
    assert found.n == 48 and found.get("share_test_1") != found.get("share_train_1")
