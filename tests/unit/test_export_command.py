"""`dtl export`: the ONNX file computes what PyTorch does, int8's cost is measured, and bad input is one line."""

import importlib.util

import numpy as np
import pytest
import torch

from dtl_lib import checkpoint, record
from dtl_lib.cli.main import main
from dtl_lib.explore import int8, onnx_file
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tokens import Group, TokenPlan
from tests.unit import test_registers as long

HERE = all(importlib.util.find_spec(name) for name in onnx_file.NEEDED)
onnx = pytest.mark.skipif(not HERE, reason="onnx, onnxscript or onnxruntime is not installed")
PLANS = {
    "late, registers that leave": (
        TokenPlan(3, (Group("cls", 1, 2), Group("dist", 1, 2), Group("reg", 2, 0, 2))),
        {"layer_scale": 0.3},
    ),
    "class attention": (TokenPlan(2, (Group("cls", 1, 2), Group("reg", 2, 1)), 1), {"talking_heads": True}),
    "mean": (TokenPlan.of(2, None, 1, 2), {"pool": "patches", "rotary": "axial", "mlp": "swiglu"}),
}


def saved(folder, kind="late, registers that leave"):
    torch.manual_seed(1)
    plan, options = PLANS[kind]
    model = ViT(ViTConfig(16, 8, dim=16, depth=plan.depth, heads=2, plan=plan, classes=4, **options)).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
    return model, checkpoint.save_model(folder / "best.safetensors", model, {})


@onnx
@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.slow
def test_every_output_is_pytorchs(tmp_path, capsys, kind):
    import onnxruntime

    model, path = saved(tmp_path, kind)
    file = tmp_path / "model.onnx"
    assert main(["export", str(path), "--output", str(file)]) == 0
    said = capsys.readouterr().out
    assert f"{file}: 0." in said and "over 12 images" in said and "0 predictions differ" in said
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad(), record(model) as tape:
        logits = model(images)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    got = dict(zip(names, map(torch.from_numpy, session.run(None, {"images": images.numpy()}))))
    assert torch.allclose(got["logits"], logits, atol=1e-4)
    for block in range(model.plan.blocks):
        if f"q_{block}" in got:
            q, k = got[f"q_{block}"], got[f"k_{block}"]
            maps = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        else:
            maps = got[f"attention_{block}"]
        if kind != "mean":  # rotary positions turn q and k after the tape has them
            assert torch.allclose(maps, tape.attention(block), atol=1e-5)
        assert torch.allclose(got[f"norms_{block}"], tape.tokens(block).norm(dim=-1), rtol=1e-4)
    assert set(names) == set(onnx_file.Outputs(model).names)


@onnx
def test_a_file_of_another_model_is_seen(tmp_path):
    model, _ = saved(tmp_path)
    onnx_file.write(model, tmp_path / "model.onnx")
    images = torch.randn(2, 3, 16, 16)
    assert onnx_file.compare(model, tmp_path / "model.onnx", images).largest < 1e-5
    with torch.no_grad():
        model.blocks[1].attention.qkv.weight.mul_(1.05)
    checked = onnx_file.compare(model, tmp_path / "model.onnx", images)
    assert checked.differences["q_1"] > 0.01 > 1e-5 > checked.differences["q_0"] and checked.largest > 0.01


@onnx
def test_int8_is_smaller_and_says_what_it_changes(tmp_path, capsys):
    _, path = saved(tmp_path)
    file = tmp_path / "model.onnx"
    assert main(["export", "--model-path", str(path), "--output", str(file), "--int8"]) == 0
    said = capsys.readouterr().out
    assert "int8 changes a logit by up to 0." in said and "no patch token is an outlier after any block" in said


@onnx
def test_int8_with_long_patches_says_what_registers_do(tmp_path, capsys, monkeypatch):
    made, _ = long.images()
    monkeypatch.setattr("dtl_lib.cli.export.sample", lambda model: made)
    path = checkpoint.save_model(tmp_path / "best.safetensors", long.planted(), {})
    assert main(["export", str(path), "--output", str(tmp_path / "long.onnx"), "--int8"]) == 0
    said = capsys.readouterr().out
    assert "some patch tokens are far longer" in said and "with a test-time register in their place" in said


def test_registers_take_int8s_error_away():
    """A neuron that makes patches long costs the others their digits; a register with its own factor restores them."""
    model, (made, mask) = long.planted(), long.images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found, ratios = int8.outliers(model, made)
    assert torch.equal(found.mask(long.BLOCK), mask) and ratios[long.BLOCK] > 5
    plain, registers, own = int8.with_and_without_registers(model, made)
    assert plain == int8.change(model, made, mask) and plain.n == 3 and 0 < plain.logit
    assert own.patches < 0.5 * min(plain.patches, registers.patches) and own.logit < registers.logit
    assert "of 3 predictions" in str(plain)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_rounding_by_hand():
    x = torch.tensor([-1.0, 0.0, 0.3, 254.0])
    assert int8.rounded(x).tolist() == [-1.0, 0.0, 0.0, 254.0]
    assert int8.rounded(torch.tensor([0.0, 0.3, 2.55])).tolist() == pytest.approx([0.0, 0.3, 2.55])
    assert int8.rounded(torch.zeros(3)).tolist() == [0, 0, 0]
    tokens = torch.tensor([[[0.3, 2.55], [0.3, 255.0], [2.55, 0.3]]])
    assert int8.rounded(tokens)[0].tolist() == [[0, 3], [0, 255], [3, 0]]
    own = int8.rounded(tokens, slice(1, 2))[0].flatten().tolist()
    assert own == pytest.approx([0.3, 2.55, 0, 255, 2.55, 0.3])
    weight = torch.tensor([[127.0, 1.4], [1.27, -0.014]])
    np.testing.assert_allclose(int8.rounded_rows(weight), [[127, 1], [1.27, -0.01]], rtol=1e-6)


def test_without_long_patches_there_is_nothing_to_compare(tmp_path):
    model, _ = saved(tmp_path)
    assert int8.with_and_without_registers(model, torch.randn(4, 3, 16, 16)) is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["best.safetensors"], "say which file to write"),
        (["best.safetensors", "--output", "model.pt"], "let it end in .onnx"),
        (["best.safetensors", "--output", "there.onnx"], "is there already: give --force"),
        (["missing.safetensors", "--output", "new.onnx"], "missing.safetensors"),
        (["best.safetensors", "--model", "zoo/shapes_depth6", "--output", "new.onnx"], "give the model once"),
        (["--output", "new.onnx"], "say which model"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, given, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(onnx_file, "require_packages", lambda: None)
    saved(tmp_path)
    (tmp_path / "there.onnx").write_text("kept")
    before = sorted(tmp_path.iterdir())
    assert main(["export", *given]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "there.onnx").read_text() == "kept"


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    saved(tmp_path)
    monkeypatch.setattr(onnx_file, "NEEDED", ("torch", "no_such_onnx"))
    assert main(["export", str(tmp_path / "best.safetensors"), "--output", str(tmp_path / "a.onnx")]) == 2
    error = capsys.readouterr().err
    assert "needs no_such_onnx, not installed here: pip install 'dtl_lib[onnx]'" in error and error.count("\n") == 1
    assert not (tmp_path / "a.onnx").exists()
