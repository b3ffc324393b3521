"""`--finetune`: the weights keep their normalisation, and weights that do not fit are refused."""

import pytest
import torch

from dtl_lib import data
from dtl_lib.__main__ import main
from dtl_lib.checkpoint import load_model, save_model
from dtl_lib.config import HALF, ViTConfig
from dtl_lib.data.shapes import generator as shapes
from dtl_lib.models import ViT
from dtl_lib.train import Recipe, fit

MEAN, STD = (0.9, 0.1, 0.4), (0.2, 0.3, 0.1)
KEEP = "--data shapes --samples 32 --batch-size 16 --max-steps 1 --lr 1e-12 --quiet --device cpu".split()
CONFIG = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=10, mean=MEAN, std=STD, crop=0.8, interpolation="bilinear")


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """Evaluations of a few dozen images are enough here."""
    load = data.load

    def few(*args, **options):
        sets = load(*args, **options)
        for part in (sets.held_out, sets.test):
            part.length = 40
        return sets

    monkeypatch.setattr(data, "load", few)
    monkeypatch.setattr("dtl_lib.cli.train.data.load", few)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    return save_model(tmp_path / "weights.safetensors", ViT(CONFIG))


def tuned(tmp_path, *arguments) -> ViT:
    folder = tmp_path / "tuned"
    assert main(["train", *KEEP, *arguments, "--output-dir", str(folder)]) == 0
    return load_model(folder / "best.safetensors")


class TestNormalisation:
    def test_the_weights_own_holds_and_the_card_says_so(self, weights, tmp_path, capsys):
        model = tuned(tmp_path, "--finetune", str(weights))
        assert (model.config.mean, model.config.std) == (MEAN, STD)
        assert model.card["config"]["mean"] == list(MEAN)
        assert "normalised as these weights expect: mean 0.9 0.1 0.4, std 0.2 0.3 0.1" in capsys.readouterr().out

    def test_the_images_are_really_normalised_so(self, weights, tmp_path, monkeypatch):
        seen = []
        forward = ViT.forward
        monkeypatch.setattr(ViT, "forward", lambda self, x: (seen.append(x), forward(self, x))[1])
        tuned(tmp_path, "--finetune", str(weights))
        pixels = [(x * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255 for x in seen]
        assert len(seen) >= 3  # a step, held-out images and test images
        for x in pixels:
            torch.testing.assert_close(x, x.round(), atol=1e-3, rtol=0)
            assert -0.01 < x.min() and x.max() < 255.01

    def test_also_with_another_configuration(self, weights, tmp_path):
        arguments = [
            "--model",
            "vit_shapes_patch8_32",
            "--dim",
            "16",
            "--depth",
            "2",
            "--heads",
            "2",
            "--image-size",
            "16",
        ]
        config = tuned(tmp_path, "--finetune", str(weights), *arguments).config
        assert (config.mean, config.std, config.crop, config.interpolation) == (MEAN, STD, 0.8, "bilinear")

    def test_from_scratch_the_data_s_holds(self, tmp_path):
        model = tuned(tmp_path, *"--dim 16 --depth 1 --heads 2 --image-size 16".split())
        assert (model.config.mean, model.config.std) == (tuple(shapes.MEAN), tuple(shapes.STD))

    def test_resuming_keeps_it(self, weights, tmp_path, capsys):
        tuned(tmp_path, "--finetune", str(weights))
        assert main(["train", "--resume", str(tmp_path / "tuned"), "--quiet"]) == 0
        assert load_model(tmp_path / "tuned" / "best.safetensors").config.mean == MEAN

    @pytest.mark.parametrize("how", ["a checkpoint", "from_timm", "trained twice", "another plan"])
    def test_in_python_too(self, weights, how):
        import timm

        from dtl_lib.pretrained import from_timm, load_pretrained
        from dtl_lib.tokens import TokenPlan

        sets, recipe = data.load("shapes", image_size=16, samples=16), Recipe(max_steps=1, batch_size=16)
        expected = MEAN
        if how == "a checkpoint":
            model = load_pretrained(weights)
        elif how == "another plan":
            model = load_pretrained(weights, plan=TokenPlan.of(2, reg_pos=0, num_reg=1))
        elif how == "from_timm":
            small = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 10}
            theirs = timm.models.VisionTransformer(**small)
            theirs.pretrained_cfg = {"mean": HALF, "std": HALF}
            model, expected = from_timm(theirs), HALF
        else:
            model = ViT(CONFIG)
            fit(model, sets, recipe, progress=False)
            assert model.config.mean == tuple(shapes.MEAN)
            for part in (sets.train, sets.held_out, sets.test):
                part.mean = (0.3, 0.3, 0.3)
            expected = tuple(shapes.MEAN)
        fit(model, sets, recipe, progress=False)
        assert model.config.mean == expected == tuple(model.card["config"]["mean"])


class TestWeightsThatDoNotFit:
    @pytest.mark.parametrize(
        "flags",
        [
            "--dim 32",
            "--model vit_tiny_patch16_224 --image-size 16",
            "--depth 12",
            "--dim 24 --heads 3 --allow_partial --depth 2",
        ],
    )
    def test_they_are_refused_unless_asked_for(self, weights, tmp_path, capsys, flags):
        flags = flags.split()
        partial = "--allow_partial" in flags
        arguments = ["train", *KEEP, "--finetune", str(weights), *flags, "--output-dir", str(tmp_path / "tuned")]
        assert main(arguments) == (0 if partial else 2)
        captured = capsys.readouterr()
        if partial:
            assert "initialised: " in captured.out
        else:
            assert "% of the weights that this model needs" in captured.err and "--allow-partial" in captured.err
            assert not (tmp_path / "tuned").exists() and len(captured.err.strip().splitlines()) == 1

    def test_other_classes_and_tokens_are_no_such_case(self, tmp_path):
        source = save_model(
            tmp_path / "many.safetensors", ViT(ViTConfig(16, 8, dim=16, depth=1, heads=2, classes=1000))
        )
        tuned(tmp_path, "--finetune", str(source), "--num-reg", "4", "--reg-pos", "0")


@pytest.mark.parametrize(
    "line, flag",
    [
        (["train", "--finetune", ""], "--finetune"),
        (["train", "--finetune="], "--finetune"),
        (["train", "--model", ""], "--model"),
        (["train", "--model", " "], "--model"),
        (["train", "--resume", ""], "--resume"),
        (["train", "--data", ""], "--data"),
        (["train", "--data_path="], "--data-path"),
        (["train", "--output_dir", ""], "--output-dir"),
        (["train", "--distill-from", ""], "--distill-from"),
        (["train", "--record", ""], "--record"),
        (["train", "--device", ""], "--device"),
        (["train", "--lr", ""], "--lr"),
        (["evaluate", "--model_path", ""], "--model-path"),
        (["evaluate", "--model", "", "--pretrained"], "--model"),
        (["plan", "--model", ""], "--model"),
        (["zoo", ""], "an argument"),
        ([""], "the command"),
    ],
)
def test_an_empty_value_is_refused(line, flag, capsys):
    """An unset shell variable: `--finetune "$WEIGHTS"` would train from scratch."""
    assert main(line) == 2
    assert f"dtl: {flag} is empty: give it a value, or leave it out" in capsys.readouterr().err
