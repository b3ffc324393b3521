"""A run goes on with the data it has seen, and no other: by pixels, also where only names are the same."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from dtl_lib import checkpoint, data
from dtl_lib.config import ViTConfig
from dtl_lib.hashing import of_parts
from dtl_lib.models import ViT
from dtl_lib.train import Recipe, fit, state

CONFIG = ViTConfig(16, 8, dim=16, depth=1, heads=2, classes=2)
RECIPE = Recipe(max_steps=2, batch_size=4, eval_every=2, log_every=2, amp="off")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of pictures and a run on it, and what an earlier version called that data."""
    root = tmp_path_factory.mktemp("finished")
    for number in range(20):
        place = root / "data" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (9 * number, 80, 160)).save(place / f"{number}.bmp")
    sets = load(root)
    go(root, sets)
    train = sets.train
    return root, of_parts((train.name, len(train), train.image_size, train.classes, *train.identity()))


def load(root) -> data.Sets:
    return data.load("folder", root / "data", config=CONFIG)


def go(root, sets, **more):
    torch.manual_seed(0)
    return fit(ViT(CONFIG), sets, RECIPE, root / "run", progress=False, workers=0, device="cpu", **more)


def rewrite(folder, fingerprint: str) -> None:
    """The state, the best weights and the one before with another fingerprint of their data."""
    for name, kind in ((state.NAME, checkpoint.STATE), (checkpoint.BEST, checkpoint.MODEL)):
        tensors, card = checkpoint.read(folder / name)
        card["data"]["fingerprint"] = fingerprint
        checkpoint.write(folder / name, tensors, {key: card[key] for key in card if key != "seal"}, kind)


def test_a_state_of_before_goes_on_and_says_what_is_not_known(finished, caplog):
    root, former = finished
    now = load(root).train.fingerprint()
    for fingerprint, said in ((now, False), (former, True)):
        caplog.clear()
        rewrite(root / "run", fingerprint)
        assert go(root, load(root), resume=True).test.n == 1
        assert ("told apart by names and a few pixels" in caplog.text) == said


@pytest.mark.parametrize("change", ["pixel", "length", "name", "fewer"])
def test_other_data_is_refused(finished, change):
    root, _ = finished
    images = load(root).train
    rewrite(root / "run", images.fingerprint())
    file = images.source.files[int(images.members[3])]
    content = Path(file).read_bytes()
    try:
        if change in ("pixel", "length"):
            Path(file).write_bytes(content[:-1] + (b"\7" if change == "pixel" else b"\7\7"))
        else:
            Path(f"{file[:-4]}a.bmp").write_bytes(content)
            if change == "name":
                Path(file).unlink()
        with pytest.raises(ValueError, match="was trained with another data .fingerprint was"):
            go(root, load(root), resume=True)
    finally:
        Path(f"{file[:-4]}a.bmp").unlink(missing_ok=True)
        Path(file).write_bytes(content)
