"""Accuracy, its interval, and the lengths of tokens."""

import dataclasses
from dataclasses import replace

import pytest
import torch

from dtl_lib.config import ViTConfig
from dtl_lib.data import InMemory
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import evaluate, token_norms, wilson

CONFIG = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=12, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ViT(CONFIG)


def images_with(labels, pixels):
    names = [f"class {number}" for number in range(12)]
    return InMemory("made test", names, (0.5,) * 3, (0.5,) * 3, pixels, torch.as_tensor(labels))


@pytest.mark.parametrize(("right", "n"), [(8, 10), (0, 10), (10, 10), (1, 3), (9_871, 10_000)])
def test_wilson_s_interval_is_scipy_s(right, n):
    from scipy.stats import binomtest

    assert wilson(right, n) == pytest.approx(binomtest(right, n).proportion_ci(method="wilson"), abs=1e-7)


@pytest.mark.parametrize("batch_size", [7, 50])
def test_accuracy_counts_what_is_right(model, batch_size):
    pixels = torch.randint(256, (50, 3, 16, 16), dtype=torch.uint8)
    logits = model.eval()((pixels / 255 - 0.5) / 0.5)
    ranked = logits.argsort(dim=1, descending=True)
    labels = ranked[:, 0].clone()
    labels[:10], labels[10:15] = ranked[:10, 4], ranked[10:15, 5]  # fifth and sixth place
    found = evaluate(model.train(), images_with(labels, pixels), batch_size)
    assert (found.accuracy, found.top5, found.n) == (0.7, 0.9, 50)
    assert (found.low, found.high) == wilson(35, 50)
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert str(found) == "70.0% ± 12.3 (n = 50), top-5 90.0%"
    assert model.training


def test_ten_classes_have_no_top_five(model):
    ten = ViT(dataclasses.replace(CONFIG, classes=10))
    images = images_with([0] * 4, torch.zeros(4, 3, 16, 16, dtype=torch.uint8))
    images.classes = images.classes[:10]
    found = evaluate(ten, images)
    assert found.top5 is None and "top-5" not in str(found) and "top5" not in found.to_dict()


def test_what_cannot_be_measured_is_refused(model):
    small = ViT(dataclasses.replace(CONFIG, classes=3))
    some = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match="the model has 3 classes and made test 12: build it with classes=12"):
        evaluate(small, images_with([0] * 4, some))
    with pytest.raises(ValueError, match="holds no images"):
        evaluate(model, images_with(torch.zeros(0, dtype=torch.int64), some[:0]))


def test_token_norms_are_the_residual_stream_s_lengths():
    torch.manual_seed(1)
    plan = TokenPlan.of(2, cls_pos=1, reg_pos=0, num_reg=3)
    model = ViT(dataclasses.replace(CONFIG, image_size=32, plan=plan)).train()
    x = torch.randn(4, 3, 32, 32)
    found = token_norms(model, x)
    stream, _ = model.eval().encode(x)
    lengths = stream.norm(dim=-1)
    assert set(found) == {"cls", "reg", "patches", "patches_98"}
    assert found["cls"] == pytest.approx(lengths[:, 0].median().item(), rel=1e-5)
    assert found["reg"] == pytest.approx(lengths[:, 1:4].median().item(), rel=1e-5)
    assert found["patches_98"] == pytest.approx(lengths[:, 4:].quantile(0.98).item(), rel=1e-5)
    with torch.no_grad():
        model.blocks[1].mlp.contract.bias.add_(100.0)
    assert token_norms(model, x)["patches"] > 10 * found["patches"]
    with torch.no_grad():
        model.norm.weight.mul_(100.0)  # comes after what is measured
    assert token_norms(model, x)["patches"] < 1000


SOME = images_with(
    [0] * 6, torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38, -3e20])
@pytest.mark.parametrize("name", ["patch_embed.project.weight", "blocks.1.mlp.expand.bias", "tokens.cls", "positions"])
def test_weights_with_which_nothing_is_right_are_named(model, name, value):
    """1e38 in the first layer gives finite logits, the same for every image: its square is infinite, and 1 / ∞ is 0."""
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"{name} of the model holds (non-finite values|values as large as)"):
        evaluate(model.train(), SOME)
    assert model.training


@pytest.mark.parametrize("images_hit", [6, 2])
def test_logits_that_are_not_finite_are_said(model, images_hit, monkeypatch):
    forward = model.forward

    def overflowing(x):
        logits = forward(x)
        logits[:images_hit, 3] = torch.inf
        return logits

    monkeypatch.setattr(model, "forward", overflowing)
    with pytest.raises(ValueError, match=f"the logits are non-finite for {images_hit} of 6 images"):
        evaluate(model, SOME)


def test_weights_that_overflow_only_together(model):
    with torch.no_grad():
        model.classifiers["cls"].weight.fill_(9e17)
        model.norm.weight.fill_(9e17)
        model.blocks[1].mlp.contract.bias.copy_(torch.arange(16.0))
        model.norm.bias.fill_(9e17)
        model.classifiers["cls"].weight.mul_(1)
    model.classifiers["cls"].half()  # 9e17 is infinite there
    with pytest.raises(ValueError, match="classifiers.cls.weight of the model holds non-finite values"):
        evaluate(model, SOME)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"batch_size": 0}, "batch_size is a whole number, 1 or more, not 0"),
        ({"batch_size": -3}, "batch_size is a whole number, 1 or more, not -3"),
        ({"batch_size": 2.5}, "batch_size is a whole number, 1 or more, not 2.5"),
        ({"batch_size": True}, "batch_size is a whole number, 1 or more, not True"),
        ({"batch_size": None}, "batch_size is a whole number"),
        ({"amp": "x"}, "amp is one of auto, off, bf16, fp16, not 'x'"),
        ({"amp": None}, "amp is one of auto, off, bf16, fp16, not None"),
        ({"amp": True}, "amp is one of auto, off, bf16, fp16, not True"),
    ],
)
def test_what_cannot_be_asked(model, options, said):
    with pytest.raises(ValueError, match=said):
        evaluate(model, SOME, **options)


def test_a_model_on_meta_is_refused(model):
    with pytest.raises(ValueError, match="on the meta device, which holds no weights"):
        evaluate(model.to("meta"), SOME)


def test_the_command_line_ends_with_status_2(tmp_path, capsys):
    from dtl_lib.__main__ import main
    from dtl_lib.checkpoint import save_model

    model = ViT(replace(CONFIG, classes=10))
    with torch.no_grad():
        model.blocks[0].norm1.bias[3] = torch.nan
    save_model(tmp_path / "x.safetensors", model)
    assert main(["evaluate", "--model-path", str(tmp_path / "x.safetensors"), "--data", "shapes", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert "blocks.0.norm1.bias of the model holds non-finite values" in err and len(err.strip().splitlines()) == 1
