"""A teacher: where its weights come from, what it sees, and that it is part of nothing."""

import dataclasses
import hashlib

import pytest
import timm
import torch
from safetensors.torch import save_file

from dtl_lib.checkpoint import save_model
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.train.teacher import load_teacher
from tests.unit.fixed import noise

NET = "test_efficientnet"
STUDENT = ViTConfig(32, 8, dim=12, depth=2, heads=2, classes=1000, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
CPU = torch.device("cpu")
IMAGES = noise(3, 3, 32, 32, dtype=torch.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty DTL_DATA, an empty cache of the hub's client, and no network."""
    monkeypatch.setenv("DTL_DATA", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def stored(folder, name):
    """A timm model with random weights and statistics that are not special, stored as if fetched."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith(("running_mean", "bias")):
                value.add_(0.1 * torch.randn_like(value))
    save_file(model.state_dict(), folder / f"{name}.safetensors")
    return model


def seen_by(config, images):
    """The student's images with its normalisation undone: pixels from 0 to 1, more or less."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    return images * std + mean


@pytest.mark.parametrize("name", [NET, "test_resnet"])
def test_a_timm_convnet_sees_pixels_in_its_own_normalisation(folder, name):
    theirs, teacher = stored(folder, name), load_teacher(name, CPU, STUDENT)
    normalised = dataclasses.replace(STUDENT, mean=theirs.pretrained_cfg["mean"], std=theirs.pretrained_cfg["std"])
    mean, std = (torch.tensor(values)[:, None, None] for values in (normalised.mean, normalised.std))
    expected = theirs((seen_by(STUDENT, IMAGES) - mean) / std)
    torch.testing.assert_close(teacher(IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(teacher(IMAGES), theirs(IMAGES), rtol=1e-2)  # what the student sees is something else
    alike = load_teacher(name, CPU, normalised)
    torch.testing.assert_close(alike(IMAGES), theirs(IMAGES), rtol=1e-4, atol=1e-5)


def test_a_timm_vit_takes_the_student_s_size(folder):
    stored(folder, "test_vit")
    assert load_teacher("test_vit", CPU, STUDENT)(IMAGES).shape == (3, 1000)
    with pytest.raises(ValueError, match="teacher test_vit does not take the student's 40×24 images .*: choose"):
        load_teacher("test_vit", CPU, dataclasses.replace(STUDENT, image_size=(40, 24)))


def test_a_checkpoint_of_ours_by_path_and_from_the_zoo(tmp_path, monkeypatch):
    torch.manual_seed(1)
    model = ViT(dataclasses.replace(STUDENT, dim=8, mean=(0.0,) * 3, std=(1.0,) * 3)).eval()
    path = save_model(tmp_path / "best.safetensors", model)
    monkeypatch.setattr("dtl_lib.zoo.FOLDER", tmp_path)
    monkeypatch.setattr("dtl_lib.zoo.check", lambda card, name: None)  # test_zoo.py looks at cards
    for name in (str(path), "zoo/best"):
        teacher = load_teacher(name, CPU, STUDENT)
        torch.testing.assert_close(teacher(IMAGES), model(seen_by(STUDENT, IMAGES)))
        assert teacher.card["name"] == name


def test_nothing_of_it_moves_or_is_learnt(folder):
    stored(folder, NET)
    teacher = load_teacher(NET, CPU, STUDENT)
    images, before = IMAGES.clone().requires_grad_(), {n: v.clone() for n, v in teacher.model.state_dict().items()}
    logits = teacher(images)
    assert not logits.requires_grad and not logits.is_inference()  # a loss may keep it for its backward pass
    assert not teacher.model.training and not any(value.requires_grad for value in teacher.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())
    assert torch.allclose(teacher(IMAGES)[:1], teacher(IMAGES[:1]), atol=1e-5)  # no statistics of the batch
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(IMAGES).dtype == torch.bfloat16


def test_its_card_names_the_weights_and_not_the_file(folder):
    theirs = stored(folder, NET)
    card = load_teacher(NET, CPU, STUDENT).card
    (folder / f"{NET}.safetensors").rename(folder / f"{NET}.r160_in1k.safetensors")
    assert load_teacher(NET, CPU, STUDENT).card == card
    assert card["name"] == NET and len(card["sha256"]) == len(hashlib.sha256().hexdigest())
    with torch.no_grad():
        theirs.classifier.bias[0] += 1
    save_file(theirs.state_dict(), folder / f"{NET}.r160_in1k.safetensors")
    assert load_teacher(NET, CPU, STUDENT).card["sha256"] != card["sha256"]


@pytest.mark.parametrize("change", [{"classes": 10}, {"classes": 0}])
def test_other_classes_than_the_student_s_are_refused(folder, change):
    stored(folder, NET)
    with pytest.raises(ValueError, match=rf"tells 1000 classes apart and the student {change['classes']}: choose a"):
        load_teacher(NET, CPU, dataclasses.replace(STUDENT, **change))


def test_weights_that_are_not_there_or_not_its_own(folder):
    with pytest.raises(ValueError, match=rf"no weights for {NET}: put them at {folder}/{NET}.r160_in1k.safetensors"):
        load_teacher(NET, CPU, STUDENT)
    with pytest.raises(ValueError, match="'regnety_16000' is no timm model, no zoo/… and no path"):
        load_teacher("regnety_16000", CPU, STUDENT)
    with pytest.raises(ValueError, match="nowhere.safetensors does not exist"):
        load_teacher("nowhere.safetensors", CPU, STUDENT)
    stored(folder, "test_resnet")
    (folder / "test_resnet.safetensors").rename(folder / f"{NET}.safetensors")
    with pytest.raises(ValueError, match=rf"does not hold the weights of {NET}"):
        load_teacher(NET, CPU, STUDENT)
