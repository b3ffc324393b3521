"""The late token by an edit of weights: in planted cases it is exactly the untouched model."""

from dataclasses import replace

import pytest
import torch

from book.experiments import entry_edit, entry_why
from dtl_lib.models import ViT
from tests.unit.small import SMALL, build, images
from tests.unit.test_entry_finetune import CONFIG, photos  # noqa: F401 (a fixture)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def planted(equal_shares: bool) -> ViT:
    """Block 0 whose patches all give the token the same share, because queries are 0 there; and a token that in block 0
    attends to nothing but itself, or evenly."""
    model = build(SMALL)
    attention = model.blocks[0].attention
    if equal_shares:
        attention.qkv.weight[: SMALL.dim] = 0
        attention.qkv.bias[: SMALL.dim] = 0
    return model


@pytest.mark.parametrize("equal_shares", [True, False])
def test_patches_after_block_0_are_the_untouched_model_s_where_shares_are_equal(equal_shares):
    model, x = planted(equal_shares), images(SMALL, 5)
    study = entry_why.Study(model, [(x, torch.zeros(5).long())], (1,), long_after=1)
    late = entry_edit.edited(study, 1, (0,))
    untouched = study.streams[1][0]
    assert late.plan.group("cls").enter == 1
    assert torch.allclose(late.tokens["cls"][0], untouched[:, 0].mean(dim=0), atol=1e-12)
    change = (late.blocks[0](late.embed(x)[0]) - untouched[:, 1:]).abs().max()
    without = (entry_edit.edited(study, 1, ()).blocks[0](late.embed(x)[0]) - untouched[:, 1:]).abs().max()
    assert (change < 1e-10) == equal_shares and without > 1e-3
    assert torch.equal(late.blocks[1].attention.project.weight, model.blocks[1].attention.project.weight)
    assert torch.equal(
        planted(equal_shares).blocks[0].attention.project.weight, model.blocks[0].attention.project.weight
    )


def test_one_record_a_way_over_all_photos(photos, tmp_path, monkeypatch):  # noqa: F811
    from dtl_lib import ledger

    def small(name):
        torch.manual_seed(0)
        return ViT(replace(CONFIG, depth=8, plan=None)).eval()

    monkeypatch.setattr(entry_edit, "load_pretrained", small)
    monkeypatch.setattr(entry_edit, "SIZE", 32)
    monkeypatch.setattr("book.experiments.entry_finetune.SIZE", 32)
    arguments = ["--photos", photos, "--folder", str(tmp_path / "records")]
    entry_edit.main(arguments)
    records = ledger.read("entry_edit", tmp_path / "records")
    assert [record.n for record in records] == [17] * 11 and len({record.what for record in records}) == 11
    entry_edit.main(arguments)
    assert ledger.read("entry_edit", tmp_path / "records") == records
