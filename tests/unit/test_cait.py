"""The experiments of chapter 9: which runs there are, that they cost what is said, and what their records hold."""

import pytest
import torch

from book.experiments import cait, cait_frozen
from dtl_lib import ledger
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan


def test_a_pair_costs_nearly_the_same():
    for k in (*cait.TRUNKS, cait.LAST):
        plain, class_attention = (cait.CIFAR.with_plan(plan).cost().total for plan in cait.pair(k).values())
        assert abs(class_attention / plain - 1) < 0.04, k


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_decisive_runs_come_first_and_first_seeds_before_second(scale):
    runs = cait.study(scale).runs
    assert len({(run.what, run.seed) for run in runs}) == len(runs) == 3 * 12
    assert [run.seed for run in runs] == [0] * 6 + [1] * 6 + [2] * 6 + [0] * 4 + [1] * 4 + [2] * 4 + [0, 0, 1, 1, 2, 2]
    assert {run.what for run in runs[:6]} == {name for k in (3, 6, 12) for name in cait.pair(k)}
    assert all(run.recipe.seed == run.seed for run in runs)


def test_the_toy_runs_have_records(tmp_path):
    for run in cait.study("toy").runs:
        values = cait.measure_toy(run, "cpu")
        ledger.add("cait", run.what, "toy", "cpu", values, n=values.pop("n"), seed=0, folder=tmp_path)
        blocks, registers = values["blocks"], run.config.plan.group("reg")
        assert blocks == [b for b in range(run.config.plan.blocks) if "cls" in run.config.plan.layout(b)]
        assert all(0 < share < 1 for share in values["on_itself"] + values["evenness"])
        stay = registers is not None and registers.leave is None
        assert all((share > 0) == stay for share in values["on_registers"])
        assert len(values["on_registers"]) == len(blocks)
    assert len(ledger.read("cait", tmp_path)) == len(cait.study("toy").runs)


def test_the_last_block_is_class_attention_already_and_others_are_not():
    torch.manual_seed(0)
    model = ViT(ViTConfig(32, 8, dim=24, depth=4, heads=3, classes=5)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        usual = model(images)
        assert torch.allclose(cait_frozen.changed(model, "class attention", 3)(images), usual, atol=1e-5)
        assert not torch.allclose(cait_frozen.changed(model, "class attention", 2)(images), usual, atol=1e-2)
        left_out = cait_frozen.changed(model, "left out", 3)(images)
        model.blocks = model.blocks[:3]
        assert torch.allclose(left_out, model.classify("cls", model.norm(stream(model, images)[:, 0])), atol=1e-5)


def stream(model: ViT, images: torch.Tensor) -> torch.Tensor:
    """What the blocks make of the class token and the patches."""
    x, _ = model.embed(images)
    x = torch.cat([model.tokens["cls"].expand(len(x), -1, -1), x], dim=1)
    for block in model.blocks:
        x = block(x)
    return x


def test_rows_that_have_records_are_not_measured_again(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = ViT(ViTConfig(32, 8, dim=12, depth=12, heads=3, classes=5)).eval()
    batches = [(torch.randn(6, 3, 32, 32), torch.arange(6) % 5)]
    monkeypatch.setattr(cait_frozen, "load_pretrained", lambda name: model)
    monkeypatch.setattr(cait_frozen, "photos", lambda *_: batches)
    cait_frozen.main(["--photos", "none", "--folder", str(tmp_path)])
    records = ledger.read("cait_frozen", tmp_path)
    assert len(records) == 2 * len(cait_frozen.BLOCKS)
    first = next(record for record in records if record.what == "class attention from block 11")
    assert first.get("agreement") == 1 and first.get("accuracy") == first.get("untouched")
    monkeypatch.setattr(cait_frozen, "load_pretrained", lambda name: pytest.fail("measured again"))
    cait_frozen.main(["--photos", "none", "--folder", str(tmp_path)])


def test_another_way_is_refused():
    model = ViT(ViTConfig(32, 8, dim=12, depth=2, heads=3, plan=TokenPlan.of(2)))
    with pytest.raises(ValueError, match="way is one of class attention, left out"):
        cait_frozen.changed(model, "skipped", 1)
