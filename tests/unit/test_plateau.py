"""The runs of chapter 04's plateau: what attention begins with, what is measured, what is not run again."""

from dataclasses import replace

import pytest
import torch

from book.experiments import plateau
from dtl_lib import ledger, record
from dtl_lib.models import ViT


@pytest.fixture
def pictures():
    return plateau.Shapes(32, level=2, length=8).batch(torch.arange(8))


def fresh(seed: int) -> ViT:
    torch.manual_seed(seed)
    return ViT.build(plateau.MODEL)


def maps(model: ViT, images) -> torch.Tensor:
    with record(model.eval()) as tape, torch.no_grad():
        model(images)
    return torch.stack([tape.maps(block) for block in range(model.plan.blocks)])


def test_frozen_attention_is_the_mean_and_stays_it(pictures):
    images, labels = pictures
    model, usual = fresh(0), fresh(0)
    plateau.average(model)
    attention = model.blocks[0].attention
    x = torch.randn(2, 17, 64)
    v = attention.qkv(x)[..., 128:]
    mean = attention.project(v.mean(dim=1, keepdim=True))
    assert torch.allclose(attention(x), mean.expand(2, 17, 64), atol=1e-6)
    assert torch.equal(attention.qkv.weight[128:], usual.blocks[0].attention.qkv.weight[128:])
    before = model.blocks[3].attention.qkv.weight[128:].clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(maps(model, images), torch.tensor(1 / 17))
    assert not torch.equal(model.blocks[3].attention.qkv.weight[128:], before)


def test_queries_and_keys_are_copied_and_nothing_else():
    model, donor, before = fresh(0), fresh(1), fresh(0).state_dict()
    with torch.no_grad():
        for block in donor.blocks:
            block.attention.qkv.bias.normal_()
    plateau.copy(model, donor)
    for name, value in model.state_dict().items():
        if ".qkv." in name:
            assert torch.equal(value[:128], donor.state_dict()[name][:128])
            assert torch.equal(value[128:], before[name][128:])
        else:
            assert torch.equal(value, before[name])


def test_shuffled_they_are_the_same_values_in_other_places():
    model, donor = fresh(0), fresh(1)
    plateau.copy(model, donor, shuffled=True)
    for ours, theirs in zip(plateau.queries_and_keys(model), plateau.queries_and_keys(donor)):
        assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values)
    weight, other = (one.blocks[0].attention.qkv.weight[:128] for one in (model, donor))
    assert (weight != other).float().mean() > 0.9
    assert torch.equal(donor.blocks[0].attention.qkv.weight, fresh(1).blocks[0].attention.qkv.weight)


@pytest.mark.parametrize(
    "accuracies, step",
    [([0.1, 0.2, 0.21, 0.1], 30), ([0.3, 0.1, 0.4, 0.5], 10), ([0.1, 0.2, 0.2, 0.1], None)],
)
def test_the_step_of_leaving_is_the_first_above_twice_chance(accuracies, step):
    assert plateau.step_of_leaving([10, 20, 30, 40], accuracies) == step


def test_scores_of_maps_by_hand():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4, :4], masks[1, 4:, 4:] = True, True
    looks = plateau.Looks(torch.zeros(2, 3, 8, 8), masks)
    maps = torch.tensor([[[0.3, 0.1], [0.0, 0.1]], [[0.2, 0.1], [0.05, 0.15]]])
    pointing, on_object = looks.score(maps)
    assert pointing == 0.5
    assert on_object == pytest.approx((0.6 + 0.3) / 2)
    assert looks.score(torch.ones(2, 2, 2)) == (0.25, 0.25)


def test_runs_and_their_records(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(plateau, "SEEN", 12)
    short = replace(plateau.RECIPE, max_steps=2, warmup_steps=0, batch_size=4, eval_every=1, log_every=1)
    plateau.runs(3, str(tmp_path), short)
    plateau.runs(3, str(tmp_path), short)
    records = ledger.read("plateau", tmp_path)
    assert [one.what for one in records] == list(plateau.CONDITIONS)
    assert capsys.readouterr().out.count("seed 3") == 4
    looked = {one.what: one.get("on_object") for one in records}
    assert all(one.get("steps") == [1, 2] and one.get("looked_at") == [0, 1, 2] for one in records)
    assert looked[plateau.AVERAGE] == pytest.approx([records[0].get("on_object_chance")] * 3)
    assert len({tuple(values) for values in looked.values()}) == 4


def test_a_run_made_again_for_its_weights_gives_the_same_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(plateau, "SEEN", 12)
    short = replace(plateau.RECIPE, max_steps=2, warmup_steps=0, batch_size=4, eval_every=1, log_every=1)
    plateau.runs(3, str(tmp_path / "whole"), short)
    whole = ledger.read("plateau", tmp_path / "whole")
    for one in whole[:2]:
        ledger.append(one, tmp_path / "resumed")
    plateau.runs(3, str(tmp_path / "resumed"), short)
    resumed = ledger.read("plateau", tmp_path / "resumed")
    assert [one.values for one in resumed] == [one.values for one in whole]
