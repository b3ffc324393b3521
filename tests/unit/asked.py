"""What tests of `dtl probe`, `attention` and `video` share: a small model in a file, images, how one asks."""

import csv
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from dtl_lib import checkpoint, data
from dtl_lib.cli.main import main
from dtl_lib.cli.probe import QUESTIONS
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.tokens import Group, TokenPlan

PLAN = TokenPlan(3, (Group("cls", 1, 1), Group("reg", 2, 0)))
CONFIG = ViTConfig((16, 24), 8, dim=16, depth=3, heads=2, classes=3, crop=1.0, plan=PLAN)
NAMES = ["cat", "dog", "owl"]
DATA = Path(os.environ.get("DTL_DATA") or "nowhere")
TINY = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
IMAGES = [q for q, row in QUESTIONS.items() if type(row).__name__ in ("OfEach", "OverImages", "Together")]


def needs(*paths: str):
    """A mark for a test that looks at real files or folders under DTL_DATA."""
    there = all((DATA / path).exists() for path in paths)
    return pytest.mark.skipif(not there, reason=f"needs DTL_DATA with {' and '.join(paths)}")


def pictures(tmp_path):
    """Five images below one folder, two of them of one name, and what is no image."""
    names = ("a.png", "b.jpg", "sub/a.png", "sub/c.png", "sub/deep/d.png")
    for number, name in enumerate(names):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.rand(16, 24, 3, generator=torch.Generator().manual_seed(number)).mul(255).byte().numpy()
        Image.fromarray(pixels).resize((48, 32)).save(path)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


STEMS = ["a", "b", "sub_a", "sub_c", "sub_deep_d"]


def saved(folder, config=CONFIG, **card):
    torch.manual_seed(3)
    model = ViT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, str(checkpoint.save_model(folder / "model.safetensors", model, {"classes": NAMES} | card))


def ask(*words, folder, quiet=True) -> int:
    flags = ["--output-dir", str(folder), "--workers", "0", "--device", "cpu", *["--quiet"] * quiet]
    return main(["probe", *map(str, words), *flags])


def read(model, folder, *names) -> torch.Tensor:
    return torch.cat([data.prepare(data.open_image(folder / name), config=model.config) for name in names])


def everything(model, folder) -> torch.Tensor:
    return read(model, folder, "a.png", "b.jpg", "sub/a.png", "sub/c.png", "sub/deep/d.png")


def table(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
