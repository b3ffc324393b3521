"""What folding saves, tried with a small model: what is compared with what, and recorded."""

from dataclasses import replace

from book.experiments import fold_cost
from dtl_lib import ledger, named
from dtl_lib.config import ViTConfig
from dtl_lib.lab import bench

TINY = ViTConfig(16, 8, dim=24, depth=2, heads=3, classes=5, layer_scale=1e-5)


def test_layer_scale_is_measured_against_none(tmp_path, monkeypatch):
    monkeypatch.setattr(fold_cost, "named", lambda name: TINY)
    monkeypatch.setattr(bench, "step_memory", lambda config, batch, **how: config.cost().activation_bytes)
    fold_cost.main([*"--device cpu --rounds 2 --batch-size 2 --folder".split(), str(tmp_path)])
    records = ledger.read("fold_cost", tmp_path)
    labels = [record.what.split(", ")[1].partition(":")[0] for record in records]
    assert len(records) == 6 and {record.config["layer_scale"] for record in records[:2]} == {None}
    assert labels[2] == labels[5] == "LayerScale"
    assert ViTConfig.from_dict(records[2].config) == TINY
    assert ViTConfig.from_dict(records[0].config) == replace(TINY, layer_scale=None)


def test_every_model_has_layer_scale():
    assert all(named(name).layer_scale for name in fold_cost.MODELS)
