"""Pictures of any size and paths of any kind: no memory without end, no wait without end, one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dtl_lib import checkpoint, data, host, ledger
from dtl_lib.__main__ import main
from dtl_lib.config import ViTConfig
from dtl_lib.data import photos
from dtl_lib.data.decoding import decode
from dtl_lib.models import ViT
from dtl_lib.paths import kind, require, user_path
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import evaluate

ROOT = Path(__file__).parents[2]
TINY = ViTConfig(image_size=16, patch_size=8, dim=16, depth=1, heads=2, classes=2, plan=TokenPlan.of(1))

LONG = """
import resource, sys, warnings
from pathlib import Path
from PIL import Image
from dtl_lib import data
import timm.data, torchvision.transforms.v2
data.prepare(data.photo("camera"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for size in ((50_000, 1), (1, 50_000), (40_000, 2), (3, 65_000)):
    image = Image.new("RGB", size, (200, 100, 50))
    x = data.prepare(image)
    assert x.shape == (1, 3, 224, 224) and (x.std((2, 3)) < 1e-4).all(), size
    print(size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, flush=True)
folder = Path(sys.argv[1])
images = data.load("folder", folder, image_size=32)
images.train.batch(range(len(images.train)), data.Augment(crop=4), (0, 0))
images.test.batch([0])
print("folder", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
Image.new("1", (12_000, 12_001)).save(folder / "large.png")  # 144 megapixels: Pillow would warn
print(data.open_image(folder / "large.png").shape)
"""


@pytest.mark.slow
def test_a_very_long_picture_takes_little_memory_and_a_large_one_no_warning(tmp_path):
    """torchvision and timm resize all of 50,000 × 1 before they cut: 13.5 GB."""
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.new("RGB", [(30_000, 1), (1, 30_000)][number % 2]).save(tmp_path / label / f"{number}.png")
    done = subprocess.run([sys.executable, "-c", LONG, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "(12001, 12000, 3)" and len(lines) == 5
    assert all(int(line.split()[-1]) < 400 for line in lines), done.stdout  # MB


@pytest.mark.parametrize("shape", [(10, 300), (301, 11), (7, 90), (2, 640), (40, 1000), (1001, 40), (500, 510)])
@pytest.mark.parametrize(("size", "crop"), [(32, 0.9), ((32, 48), 1.0), (16, 0.5)])
@pytest.mark.parametrize("cut", [False, True])
def test_the_middle_of_a_long_picture_is_what_timm_sees(shape, size, crop, cut, monkeypatch):
    """To the last bit, and where the ends are cut off before, to a pixel."""
    from timm.data import create_transform

    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    if cut:  # a shift of a pixel would not be seen for the noise
        monkeypatch.setattr(photos, "ENOUGH", 0)
        places = np.linspace(0, 255, max(shape)).astype(np.uint8)
        picture = np.broadcast_to(places[:, None, None] if shape[0] > shape[1] else places[:, None], (*shape, 3)).copy()
    height, width = (size, size) if isinstance(size, int) else size
    theirs = create_transform((3, height, width), crop_pct=crop, interpolation="bicubic")(Image.fromarray(picture))
    difference = (data.prepare(picture, size, crop)[0] - theirs).abs()
    assert difference.max() < (0.05 if cut else 2e-6)  # a level of 255 is 0.017


@pytest.mark.parametrize(
    "settings", [{"size": 100_000}, {"size": 10**30}, {"crop": 1e-9}, {"crop": 1e-3}, {"size": (8, 10**9)}]
)
def test_a_result_that_is_too_large_is_refused(settings):
    with pytest.raises(ValueError, match="would be resized to more than 268,435,456 .*choose a smaller image_size"):
        data.prepare(np.zeros((500, 500, 3), np.uint8), **settings)


@pytest.mark.parametrize("picture", [None, [1, 2], [[1], [1, 2]], {}, 7, np.zeros((0, 3, 3), np.uint8), "cat.jpg"])
def test_what_is_no_picture_is_one_line(picture):
    with pytest.raises(ValueError, match=r"an image is uint8 \(height, width, 3\)|open_image\('cat.jpg'\)"):
        data.prepare(picture)


@pytest.mark.parametrize("images", [np.zeros((1, 3, 16, 16), np.float32), [1], None, "x", 7])
def test_images_that_are_no_tensor_are_one_line(images):
    model = ViT(TINY)
    for call in (model, model.heads, model.features):
        with pytest.raises(ValueError, match=r"images are a tensor \(batch, 3, height, width\), not a"):
            call(images)
    with pytest.raises(ValueError, match="images are part of a data set"):
        evaluate(model, images)


@pytest.mark.parametrize("indices", [None, "x", [None], {}, [10**30], [[1], [1, 2]]])
def test_indices_that_are_none_are_one_line(indices):
    with pytest.raises(ValueError, match="indices are 1-D integers"):
        data.load("shapes", samples=4).train.batch(indices)


@pytest.mark.parametrize("name", [None, 3, ["shapes"], b"shapes"])
def test_a_data_set_s_name_is_text(name):
    with pytest.raises(ValueError, match="a data set's name is text"):
        data.load(name)


@pytest.fixture(params=["a pipe", "a folder", "a device", "a socket"])
def odd(request, tmp_path, monkeypatch):
    """A path that is there and no file, and what it is."""
    path = tmp_path / "odd.jpg"
    if request.param == "a pipe":
        os.mkfifo(path)
    elif request.param == "a folder":
        path.mkdir()
    elif request.param == "a device":
        path.symlink_to("/dev/zero")
    else:
        import socket

        server = socket.socket(socket.AF_UNIX)
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        server.bind("odd.jpg")
        server.close()
    return path, request.param


def test_what_is_no_file_neither_blocks_nor_is_missing(odd, tmp_path, capsys, monkeypatch):
    path, what = odd
    assert kind(path) == what and kind(tmp_path / "none") is None and kind(__file__) == "a file"
    with pytest.raises(ValueError, match=f"odd.jpg is {what}, not a file; an image file"):
        data.open_image(path)
    with pytest.raises(data.CorruptImage, match=f"odd.jpg is {what}; a .jpg"):
        decode(str(path), path)
    with pytest.raises(checkpoint.CheckpointError, match=f"odd.jpg is {what}: give a checkpoint file"):
        checkpoint.load_model(path)
    path.rename(tmp_path / "some.jsonl")
    with pytest.raises(ValueError, match=f"some.jsonl: it is {what}"):
        ledger.check_writable("some", tmp_path)


@pytest.mark.parametrize("source", ["folder", "imagenet", "wds", "cifar10", "torch/image_folder"])
def test_a_data_path_that_is_no_folder_neither_blocks_nor_passes(odd, source):
    path, what = odd
    if what != "a folder":
        with pytest.raises(ValueError, match="odd.jpg"):
            data.load(source, path)


def test_a_pipe_in_a_folder_of_pictures_is_a_corrupt_picture(tmp_path):
    (tmp_path / "val/cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "val/cat/0.png")
    os.mkfifo(tmp_path / "val/cat/1.png")
    images = data.load("folder", tmp_path, image_size=8).test
    assert len(images.fingerprint()) == 12
    with pytest.raises(data.CorruptImage, match="1.png is a pipe"):
        images.raw([0, 1])


def test_a_pipe_among_cifar_s_files_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "data_batch_1")
    with pytest.raises(ValueError, match="data_batch_1 is a pipe, not a file; delete"):
        data.load("cifar10", tmp_path)


def test_an_unknown_user_s_home_is_one_line(tmp_path, monkeypatch, capsys):
    said = "~nosuchuser has no home folder here: write the path out"
    for work in (
        lambda: user_path("~nosuchuser/x"),
        lambda: data.open_image("~nosuchuser/cat.jpg"),
        *(lambda name=name: data.load(name, "~nosuchuser/x") for name in ("folder", "wds", "cifar100", "torch/mnist")),
    ):
        with pytest.raises(ValueError, match=said):
            work()
    monkeypatch.setenv("DTL_DATA", "~nosuchuser/data")
    for work in (host.data_folder, lambda: data.load("cifar10"), lambda: data.load("folder"), lambda: data.load("wds")):
        with pytest.raises(ValueError, match=said):
            work()
    for flags in (["--data", "cifar10"], ["--data", "folder", "--data-path", "~nosuchuser/x"]):
        assert main(["train", *flags, "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == tmp_path / "x" and user_path(tmp_path) == tmp_path


def test_what_is_required_is_named(tmp_path):
    require(tmp_path, "a folder", "anything")
    with pytest.raises(ValueError, match="none does not exist; give another"):
        require(tmp_path / "none", "a folder", "give another")
    with pytest.raises(ValueError, match="cannot be a path; give another"):
        require("\0", "a file", "give another")


def test_a_photo_is_prepared_as_before():
    from timm.data import create_transform

    theirs = create_transform((3, 224, 224), crop_pct=0.9, interpolation="bicubic")
    for name in ("chelsea", "coffee"):
        expected = theirs(Image.fromarray(data.photo(name)))
        torch.testing.assert_close(data.prepare(data.photo(name))[0], expected, rtol=0, atol=2e-6)
