"""Distillation through the whole of training: what is learnt, what is saved, and what a resumed run insists on."""

import dataclasses

import pytest
import torch

from dtl_lib import checkpoint, data, record
from dtl_lib.__main__ import main
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe, fit

TINY = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=10, plan=TokenPlan.of(2, dist=True))
SHORT = Recipe(max_steps=6, batch_size=16, lr=3e-3, mixup=0.4, log_every=2, eval_every=3)


def tiny(seed=0):
    torch.manual_seed(seed)
    return ViT(TINY)


@pytest.fixture(scope="module")
def sets():
    whole = data.load("shapes", image_size=16, samples=96)
    for part in (whole.held_out, whole.test):
        part.length = 40
    return whole


def as_the_teacher_sees(sets):
    """The training images, normalised with a mean of 0.2 and a standard deviation of 0.5, and their labels."""
    images, labels = sets.train.batch(torch.arange(96))
    mean, std = (torch.tensor(values)[:, None, None] for values in (sets.train.mean, sets.train.std))
    return (images * std + mean - 0.2) / 0.5, labels


@pytest.fixture
def teacher(sets, tmp_path):
    """One that knows nothing, but is sure, and names every class about as often."""
    torch.manual_seed(7)
    wide = ViT(dataclasses.replace(TINY, dim=24, plan=None, mean=(0.2,) * 3, std=(0.5,) * 3))
    with torch.no_grad():
        wide.classifiers["cls"].weight.mul_(100)
        wide.classifiers["cls"].bias.sub_(wide(as_the_teacher_sees(sets)[0]).mean(dim=0))
    return str(checkpoint.save_model(tmp_path / "teacher.safetensors", wide))


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_who_is_taught_by_whom_decides_the_weights(sets, teacher):
    found = {}
    for name, changes in {
        "alone": {}, "hard": {"distill_from": teacher}, "soft": {"distill_from": teacher, "distill": "soft"},
        "softer": {"distill_from": teacher, "distill": "soft", "distill_temperature": 9.0},
        "less": {"distill_from": teacher, "distill_weight": 0.1},
    }.items():  # fmt: skip
        model = tiny()
        fit(model, sets, dataclasses.replace(SHORT, **changes), progress=False)
        found[name] = weights(model)
    names = list(found)
    assert not [(a, b) for a in names for b in names if a < b and torch.equal(found[a], found[b])]


def test_the_distillation_head_comes_to_say_what_the_teacher_says(sets, teacher):
    master, model = checkpoint.load_model(teacher), tiny()
    recipe = Recipe(max_steps=150, batch_size=32, lr=5e-3, distill_from=teacher, distill_weight=1.0, eval_every=150)
    fit(model, sets, recipe, progress=False)
    images, labels = as_the_teacher_sees(sets)
    with torch.no_grad():
        said = master(images).argmax(dim=1)
        cls, dist = (head.argmax(dim=1) for head in model.heads(sets.train.batch(torch.arange(96))[0]))
    shares = {
        name: (who == said).float().mean().item() for name, who in {"dist": dist, "cls": cls, "labels": labels}.items()
    }
    assert len(said.unique()) >= 5
    assert shares["dist"] > 0.7 and shares["cls"] < 0.4 and shares["labels"] < 0.4, shares  # cls, whom nobody told


def test_the_teacher_is_on_the_card_and_nowhere_else(sets, teacher, tmp_path):
    run, recipe = tmp_path / "run", dataclasses.replace(SHORT, distill_from=teacher)
    model = tiny()
    fit(model, sets, recipe, run, progress=False)
    tensors, card = checkpoint.read(run / "state.safetensors")
    own = {f"{part}/{name}" for name, _ in tiny().named_parameters() for part in ("model", "optimizer/exp_avg")}
    own |= {f"optimizer/{moment}/{name}" for name, _ in tiny().named_parameters() for moment in ("step", "exp_avg_sq")}
    assert set(tensors) == own
    assert card["teacher"]["name"] == teacher == card["recipe"]["distill_from"] and card["recipe"]["distill"] == "hard"
    assert model.card["teacher"] == card["teacher"]


def test_a_distilled_run_resumes_to_the_same_weights_with_the_same_teacher(sets, teacher, tmp_path):
    recipe = dataclasses.replace(SHORT, distill_from=teacher, distill="soft")

    def stop(step, loss, model):
        if step == 4:
            raise KeyboardInterrupt

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(tiny(), sets, recipe, whole, progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), sets, recipe, cut, progress=False, on_step=stop)
    fit(tiny(seed=3), sets, recipe, cut, progress=False, resume=True)
    first, second = (checkpoint.read(run / "state.safetensors")[0] for run in (whole, cut))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    other = checkpoint.load_model(teacher)
    with torch.no_grad():
        other.norm.bias[0] += 1
    checkpoint.save_model(teacher, other)
    with pytest.raises(ValueError, match=r"trained with another teacher \(sha256 was .* and is now .*\): resume with"):
        fit(tiny(), sets, recipe, cut, progress=False, resume=True)


def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_written(teacher, tmp_path, capsys):
    checkpoint.save_model(teacher, ViT(dataclasses.replace(TINY, classes=7)))
    small = "--samples 64 --image-size 16 --dim 16 --depth 2 --heads 2 --dist --batch-size 16 --max-steps 2 --quiet"
    run = tmp_path / "run"
    assert main(["train", *small.split(), "--distill-from", teacher, "--output-dir", str(run)]) == 2
    assert "tells 7 classes apart and the student 10" in capsys.readouterr().err and not run.exists()


def test_from_the_command_line(teacher, tmp_path, capsys):
    small = "--samples 64 --image-size 16 --dim 16 --depth 2 --heads 2 --dist --batch-size 16 --max-steps 2 --quiet"
    run = tmp_path / "run"
    assert main(["train", *small.split(), "--distill-from", teacher, "--output-dir", str(run)]) == 0
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert checkpoint.load_model(run / "best.safetensors").card["teacher"]["name"] == teacher


class Convolutional(torch.nn.Module):
    """A teacher that is no ViT."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.Linear(8, 10)

    def forward(self, images):
        return self.head(self.convolution(images).relu().mean(dim=(2, 3)) * 100)


def test_any_module_teaches_and_sees_the_students_images(sets):
    torch.manual_seed(5)
    module, seen = Convolutional().train(), []
    module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    recipe, model = dataclasses.replace(SHORT, distill_from="mine"), tiny()
    fit(model, sets, recipe, progress=False, teacher=module)
    assert model.card["teacher"]["name"] == "mine" and not module.training
    assert not torch.equal(weights(model), weights(fitted(sets, SHORT)))
    with torch.no_grad():
        module.head.bias[3] += 1e4
    other = tiny()
    fit(other, sets, recipe, progress=False, teacher=module)
    assert not torch.equal(weights(model), weights(other))
    plain = dataclasses.replace(recipe, mixup=0.0, max_steps=1, batch_size=96)
    seen.clear()
    fit(tiny(), sets, plain, progress=False, teacher=module)
    images = sets.train.batch(torch.arange(96))[0]
    assert torch.allclose(seen[-1].sum(dim=(1, 2, 3)).sort().values, images.sum(dim=(1, 2, 3)).sort().values, atol=1e-2)


def fitted(sets, recipe):
    model = tiny()
    fit(model, sets, recipe, progress=False)
    return model


def test_a_teacher_without_a_name_or_of_other_classes_is_refused(sets):
    with pytest.raises(ValueError, match="distill_from is its name"):
        fit(tiny(), sets, SHORT, progress=False, teacher=Convolutional())
    module = Convolutional()
    module.head = torch.nn.Linear(8, 7)
    with pytest.raises(ValueError, match="the teacher mine tells 7 classes apart and the student 10"):
        fit(tiny(), sets, dataclasses.replace(SHORT, distill_from="mine"), progress=False, teacher=module)


def test_in_class_attention_both_tokens_ask_and_the_patches_stay():
    plan = TokenPlan.of(1, cls_pos=1, class_blocks=1, dist=True)
    torch.manual_seed(0)
    model = ViT(dataclasses.replace(TINY, depth=1, plan=plan, talking_heads=True, layer_scale=0.3)).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    with record(model) as tape, torch.no_grad():
        features = model.features(torch.randn(2, 3, 16, 16, dtype=torch.float64))
    block, before, after = model.blocks[1], tape.tokens(0), tape.tokens(1)
    for image in range(2):
        x = torch.cat([model.tokens["cls"], model.tokens["dist"], before[image]]).detach()
        q, k, v = block.attention.qkv(block.norm1(x)).detach().view(6, 3, 2, 8).unbind(dim=1)  # token, head, channel
        for token in range(2):
            mixed = torch.cat([
                sum(share * v[key, head] for key, share in enumerate((k[:, head] @ q[token, head] / 8**0.5).softmax(0)))
                for head in range(2)
            ])  # fmt: skip
            new = x[token] + block.scale1.factor * block.attention.project(mixed)
            new = new + block.scale2.factor * block.mlp(block.norm2(new))
            assert torch.allclose(after[image, token], new.detach(), atol=1e-6), (image, token)
        assert torch.equal(after[image, 2:], before[image])
    assert torch.allclose(features.dist, model.norm(after[:, 1:2]).detach(), atol=1e-6)
