"""Weights from a file that somebody has, of every kind there is, by Python and by the command line; nothing is run."""

import argparse
import logging
import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from dtl_lib import checkpoint
from dtl_lib.cli.main import main
from dtl_lib.pretrained import from_timm, load_pretrained
from tests.unit.test_pretrained import DATA

TINY, REGISTERS = "test_vit", "vit_small_patch14_reg4_dinov2"
SALIENCY = DATA / "weights" / "vit_small_patch14_dinov2.saliency.safetensors"


@pytest.fixture(scope="module")
def tiny():
    """timm's smallest ViT, away from its first values."""
    torch.manual_seed(0)
    model = timm.create_model(TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def same(ours, theirs, atol=1e-5):
    images = torch.randn(2, 3, *ours.config.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=atol)


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def without_head(state):
    return {name: value for name, value in state.items() if not name.startswith("head.")}


def dino(state):
    """As DINO saves a run: a student, a teacher in DataParallel, each with its projection head, and arguments."""
    heads = {"module.head.mlp.0.weight": torch.zeros(3, 64), "module.head.last_layer.weight_g": torch.ones(5, 1)}
    teacher = prefixed("module.backbone.", without_head(state))
    student = {name: torch.zeros_like(value) for name, value in teacher.items()}
    args = argparse.Namespace(arch="vit_small", lr=0.1)
    return {"student": student | heads, "teacher": teacher | heads, "epoch": 3, "args": args}


WHOLE = {
    "timm's": lambda state: state,
    "DeiT's": lambda state: {"model": state},
    "its average": lambda state: {
        "state_dict": {n: 0 * v for n, v in state.items()},
        "state_dict_ema": state,
        "arch": "a",
    },
    "Lightning's": lambda state: {"state_dict": prefixed("model.", state), "hyper_parameters": {"lr": 0.1}},
    "a compiled model's": lambda state: prefixed("_orig_mod.", state),
    "DataParallel's": lambda state: {"model": prefixed("module.", state), "optimizer": {"state": {}}},
}


class TestEveryFormat:
    @pytest.mark.parametrize("kind", WHOLE)
    def test_of_torch_save(self, tiny, tmp_path, kind):
        torch.save(WHOLE[kind](tiny.state_dict()), tmp_path / "weights.pth")
        model = load_pretrained(TINY, weights=tmp_path / "weights.pth")
        same(model, tiny)
        assert not model.training and model.loaded.initialised == ()

    @pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "visual.trunk."])
    def test_safetensors(self, tiny, tmp_path, prefix):
        save_file(prefixed(prefix, tiny.state_dict()), tmp_path / "weights.safetensors")
        same(load_pretrained(TINY, weights=str(tmp_path / "weights.safetensors")), tiny)

    def test_dino_s(self, tiny, tmp_path, caplog):
        torch.save(dino(tiny.state_dict()), tmp_path / "dino.pth")
        with caplog.at_level(logging.WARNING, logger="dtl_lib"):
            model = load_pretrained(TINY, weights=tmp_path / "dino.pth")
        assert torch.equal(model.norm.weight, tiny.norm.weight) and model.config.classes == 0
        left = ("module.head.mlp.0.weight", "module.head.last_layer.weight_g", "student", "epoch", "args")
        assert model.loaded.left == left and "module.head.mlp.0.weight" in caplog.text

    def test_ours(self, tiny, tmp_path):
        own = from_timm(tiny)
        checkpoint.save_model(tmp_path / "best.safetensors", own, {"accuracy": 0.5})
        model = load_pretrained(TINY, weights=tmp_path / "best.safetensors")
        assert model.config == own.config and model.card["accuracy"] == 0.5
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in own.state_dict().items())
        with pytest.raises(
            ValueError, match="a checkpoint of ours, and no vit_tiny_patch16_224: it has dim 64, not 192"
        ):
            load_pretrained("vit_tiny_patch16_224", weights=tmp_path / "best.safetensors")

    def test_dinov2_s_own_names(self, tmp_path):
        """With registers, it adds a position to the class token alone, and keeps a mask token (Registers, §3)."""
        torch.manual_seed(0)
        theirs = timm.create_model(REGISTERS, num_classes=0).eval()
        state = theirs.state_dict()
        place = torch.randn(1, 1, 384)
        state["pos_embed"] = torch.cat([place, state["pos_embed"]], dim=1)
        state["cls_token"] = state["cls_token"] - place
        state["register_tokens"], state["mask_token"] = state.pop("reg_token"), torch.zeros(1, 384)
        torch.save(state, tmp_path / "dinov2.pth")
        model = load_pretrained(REGISTERS, weights=tmp_path / "dinov2.pth")
        torch.testing.assert_close(model.tokens["cls"], theirs.cls_token[0])
        assert torch.equal(model.tokens["reg"], theirs.reg_token[0]) and model.loaded.left == ("mask_token",)

    def test_dinov3_s_own_names(self, tmp_path, capsys):
        theirs = timm.create_model("vit_tiny_patch16_dinov3_qkvb", num_classes=0).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter += 0.1
        state = {}
        for name, value in theirs.state_dict().items():
            if name.endswith(("q_bias", "v_bias")):
                continue
            name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            state[name.replace("reg_token", "storage_tokens")] = value
        for index, block in enumerate(theirs.blocks):
            biases = block.attn.q_bias, torch.zeros(192), block.attn.v_bias
            state[f"blocks.{index}.attn.qkv.bias"] = torch.cat(biases).detach()
        state |= {"rope_embed.periods": torch.ones(16), "mask_token": torch.zeros(1, 192)}
        torch.save(state, tmp_path / "dinov3.pth")
        model = load_pretrained("vit_tiny_patch16_dinov3_qkvb", weights=tmp_path / "dinov3.pth")
        same(model, theirs, atol=1e-4)
        assert set(model.loaded.left) == {"rope_embed.periods", "mask_token"} and not capsys.readouterr().out

    def test_half_precision_becomes_float32(self, tiny, tmp_path, caplog):
        half = {name: value.half() for name, value in tiny.state_dict().items()}
        save_file(half, tmp_path / "half.safetensors", metadata={"about": "of a test"})
        with caplog.at_level(logging.WARNING, logger="dtl_lib"):
            model = load_pretrained(TINY, weights=tmp_path / "half.safetensors")
        assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
        assert torch.equal(model.norm.weight, half["norm.weight"].float())
        assert "it says of itself: of a test" in caplog.text and "float16 becomes float32" in str(model.loaded)

    def test_a_head_of_its_own_another_plan_and_fewer_classes(self, tiny, tmp_path):
        state = without_head(tiny.state_dict()) | {"head.weight": torch.randn(7, 64), "head.bias": torch.randn(7)}
        torch.save(state | {"decoder.weight": torch.zeros(2)}, tmp_path / "w.pth")
        model = load_pretrained(TINY, weights=tmp_path / "w.pth")
        assert torch.equal(model.classifiers["cls"].bias, state["head.bias"])
        assert model.loaded.left == ("decoder.weight",)
        model = load_pretrained(TINY, classes=3, weights=tmp_path / "w.pth")
        assert model.loaded.initialised == ("classifiers.cls.bias", "classifiers.cls.weight")
        assert "decoder.weight" in model.loaded.left and "classifiers.cls.bias" in model.loaded.left


class TestBadFiles:
    def test_what_a_model_needs_and_a_file_lacks_is_listed(self, tiny, tmp_path):
        state = tiny.state_dict()
        wrong = {"norm.bias": torch.zeros(3), "blocks.1.mlp.fc1.weight": torch.zeros(5, 64)}
        kept = {n: v for n, v in state.items() if n not in ("cls_token", "blocks.0.norm1.bias")}
        torch.save(kept | wrong | {"extra": torch.zeros(1)}, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=f"w.pth does not hold the weights of {TINY}: it lacks") as raised:
            load_pretrained(TINY, weights=tmp_path / "w.pth")
        text = str(raised.value)
        for said in ("cls_token, blocks.0.norm1.bias", "norm.bias (3,), not (64,)", "(5, 64), not (", "model: extra"):
            assert said in text, text
        assert "\n" not in text

    def test_of_another_model(self, tmp_path):
        torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"it lacks .* and \d+ more; in it and not in the model: weight, bias"):
            load_pretrained(TINY, weights=tmp_path / "w.pth")

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pt"])
    def test_nothing_is_run(self, tmp_path, suffix):
        ran = tmp_path / "ran"

        class Bomb:
            def __reduce__(self):
                return Path.touch, (ran,)

        torch.save({"model": {"norm.weight": torch.zeros(3)}, "bomb": Bomb()}, tmp_path / f"w{suffix}")
        with pytest.raises(ValueError, match="holds more than tensors.*nothing in it is run: save its state dict"):
            load_pretrained(TINY, weights=tmp_path / f"w{suffix}")
        assert not ran.exists()

    def test_a_whole_model_is_not_unpickled(self, tiny, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
        with pytest.raises(ValueError, match="holds more than tensors"):
            load_pretrained(TINY, weights=tmp_path / "w.pth")

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("keep", [0, 5, 1000, -1])
    def test_cut_short(self, tiny, tmp_path, suffix, keep):
        file = tmp_path / f"w{suffix}"
        (torch.save if suffix == ".pth" else save_file)(tiny.state_dict(), file)
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(ValueError, match="fetch it again|or is damaged") as raised:
            load_pretrained(TINY, weights=file)
        assert "\n" not in str(raised.value) and "w." in str(raised.value)

    @pytest.mark.parametrize("content", [{"epoch": 3}, {"model": {}}, [torch.zeros(2)], torch.zeros(2)])
    def test_no_tensors_by_name(self, tmp_path, content):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ValueError, match="w.pth holds no tensors by name, nor under any of model_ema"):
            load_pretrained(TINY, weights=tmp_path / "w.pth")

    @pytest.mark.parametrize(
        "path, said",
        [
            ("none.pth", "none.pth does not exist; give a file of weights"),
            (".", ". is a folder, not a file"),
            ("https://host/w.pth", "is an address: give a file"),
            ("", "is not a path"),
        ],
    )
    def test_paths(self, path, said):
        with pytest.raises(ValueError, match=re.escape(said)):
            load_pretrained(TINY, weights=path)

    @pytest.mark.parametrize("name", ["zoo/shapes_depth6_reg4", "best.safetensors"])
    def test_a_model_with_weights_of_its_own(self, name):
        with pytest.raises(ValueError, match="weights go with a name of timm's"):
            load_pretrained(name, weights="w.pth")


class TestOnTheCommandLine:
    def test_predict(self, tiny, tmp_path, capsys):
        torch.save({"model": tiny.state_dict()}, tmp_path / "w.pth")
        Image.new("RGB", (200, 160), "teal").save(tmp_path / "a.png")
        main(["predict", str(tmp_path / "a.png"), "--model", TINY, "--weights", str(tmp_path / "w.pth"), "--top", "2"])
        assert capsys.readouterr().out.count("%") == 2

    def test_probe(self, tiny, tmp_path, capsys):
        state = without_head(tiny.state_dict()) | {"head.weight": torch.randn(10, 64), "head.bias": torch.zeros(10)}
        torch.save(state, tmp_path / "w.pth")
        for number in range(3):
            Image.new("RGB", (170, 160), (80 * number, 90, 30)).save(tmp_path / f"{number}.png")
        weights = ["--weights", str(tmp_path / "w.pth"), "--quiet", "--workers", "1"]
        main(["probe", "entry", TINY, *weights, "--unlabelled", "--data-path", str(tmp_path), "--blocks", "1"])
        assert f"cls of {TINY}" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "line",
        [
            f"evaluate --model {TINY} --pretrained --weights w.pth --data shapes",
            "evaluate --weights w.pth --data shapes",
            "predict a.png --weights w.pth",
            "predict a.png --model-path best.safetensors --weights w.pth",
        ],
    )
    def test_flags_that_do_not_go_together(self, line, capsys):
        status = main(line.split())
        said = capsys.readouterr().err.strip()
        assert status == 2 and "--weights FILE holds the weights of --model NAME" in said
        assert "\n" not in said

    def test_weights_to_train_on_from(self, capsys):
        assert main(["train", "--weights", "w.pth"]) == 2
        assert "--weights a file of them" in capsys.readouterr().err


@pytest.mark.skipif(not SALIENCY.is_file(), reason=f"needs DTL_DATA with weights/{SALIENCY.name}")
class TestRealWeights:
    """A ViT-S/14 that began as DINOv2's and has been fine-tuned to predict saliency, in half precision."""

    @pytest.mark.slow
    def test_at_every_size_and_what_it_is(self):
        name = "vit_small_patch14_dinov2"
        model = load_pretrained(name, weights=SALIENCY)
        theirs = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
        theirs.load_state_dict({key: value.float() for key, value in checkpoint.load(SALIENCY.read_bytes()).items()})
        for size in ((224, 224), (518, 518), (280, 504)):
            images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
            with torch.inference_mode():
                a, b = model(images), theirs(images)
            assert float((a - b).norm() / b.norm()) <= 5e-6
        assert "fine-tuned to predict saliency" in str(model.loaded) and model.loaded.left == ()
        assert next(model.parameters()).dtype == torch.float32
