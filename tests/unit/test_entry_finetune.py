"""The late model that is fine-tuned: who sees which photo, what learns, and what is not trained again."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from book.experiments import entry_finetune
from dtl_lib import checkpoint, data, ledger
from dtl_lib.config import ViTConfig
from dtl_lib.data.sources.folder import wordnet_classes
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan

CONFIG = ViTConfig(32, 16, dim=12, depth=6, heads=3, classes=1000)


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """A small model in the place of the ViT-Ti/16, steps in the place of many, and its path."""
    torch.manual_seed(0)
    model = ViT(CONFIG)
    with torch.no_grad():
        model.classifiers["cls"].weight.mul_(50)
    path = str(checkpoint.save_model(tmp_path / "teacher.safetensors", model))
    short = replace(entry_finetune.RECIPE, distill_from=path, max_steps=4, warmup_steps=1, eval_every=4)
    for name, value in {"RECIPE": short, "MARKS": (0, 2, 4), "SIZE": 32}.items():
        monkeypatch.setattr(entry_finetune, name, value)
    return path


@pytest.fixture
def photos(tmp_path):
    """Seventeen photos of as many classes, in two parts."""
    for number, name in enumerate(wordnet_classes()[0][:17]):
        path = tmp_path / "photos" / ("train" if number < 12 else "val") / name / "1.png"
        path.parent.mkdir(parents=True)
        Image.effect_noise((40, 40), 20 + 10 * number).convert("RGB").save(path)
    return str(tmp_path / "photos")


def test_each_photo_is_judged_once_by_a_model_that_has_not_seen_it(photos, teacher):
    sets = data.load("imagenet", photos, 32)
    judged = []
    for number in range(3):
        learns, held_out = entry_finetune.fold(sets, number, CONFIG)
        seen, unseen = set(learns.train.members.tolist()), set(held_out.members.tolist())
        assert not seen & unseen and seen | unseen == set(range(17))
        assert set(learns.held_out.members.tolist()) <= seen and set(learns.test.members.tolist()) <= seen
        judged += held_out.labels(range(len(held_out))).tolist()
    assert sorted(judged) == [*range(17)]


@pytest.mark.parametrize("name", entry_finetune.CONDITIONS)
def test_what_learns(photos, teacher, name, tmp_path):
    sets = data.load("imagenet", photos, 32)
    master = checkpoint.load_model(teacher)
    values, n, model, recipe = entry_finetune.run(sets, name, 1, tmp_path / "run")
    assert n == len(values["was_right"]) == len(values["same_4"]) == 6 and values["learned_from"] == 11
    assert model.plan == TokenPlan.of(6, entry_finetune.CONDITIONS[name].cls_pos) and recipe.seed == 1
    assert recipe.distill == "soft" and recipe.distill_weight == 1
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, master.state_dict()[key])}
    assert changed == ({"tokens.cls"} if name == "token" else set(master.state_dict()))
    assert (min(values["same_0"]) == 1) == (name == "control")  # only there the model begins as its teacher
    assert values["agreement"] == sum(values["same_4"]) / 6 and values["accuracy"] == sum(values["right_4"]) / 6
    assert {"loss_2", "loss_4"} <= set(values) and ("loss_0" not in values)
    assert checkpoint.load_model(teacher).state_dict().keys() == master.state_dict().keys()


def test_one_record_a_run_and_none_is_trained_again(photos, teacher, tmp_path, capsys):
    arguments = ["--photos", photos, "--folder", str(tmp_path / "records"), "--runs", str(tmp_path / "runs")]
    entry_finetune.main(arguments)
    records = ledger.read("entry_finetune", tmp_path / "records")
    assert [record.what for record in records] == [
        f"{name}, fold {number}" for number in range(3) for name in ("late", "control", "token")
    ]
    assert sum(record.n for record in records) == 3 * 17 and not [*(tmp_path / "runs").iterdir()]
    capsys.readouterr()
    entry_finetune.main(arguments)
    assert ledger.read("entry_finetune", tmp_path / "records") == records and not capsys.readouterr().out


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(photos, teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(entry_finetune, "EVERY", 1)
    sets, fit, steps = data.load("imagenet", photos, 32), entry_finetune.fit, []
    whole, _, model, _ = entry_finetune.run(sets, "late", 0, tmp_path / "whole")

    def stopped(*given, on_step, **options):
        def step(number, loss, model):
            on_step(number, loss, model)
            steps.append(number)
            if steps == [1, 2, 3]:
                raise KeyboardInterrupt

        return fit(*given, on_step=step, **options)

    monkeypatch.setattr(entry_finetune, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        entry_finetune.run(sets, "late", 0, tmp_path / "cut")
    capsys.readouterr()
    again, _, resumed, _ = entry_finetune.run(sets, "late", 0, tmp_path / "cut")
    assert again == whole and steps == [1, 2, 3, 3, 4] and "step 4" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), resumed.state_dict().values()))
