"""The runs behind the atlas's maps, tried with a few steps: what they record, choose and leave out."""

from dataclasses import replace

import pytest
import torch

from book.experiments import atlas_shapes
from dtl_lib import checkpoint, ledger
from dtl_lib.lab.atlas import ATTENTION, Cell
from dtl_lib.probes.objects import iou

CELL = Cell(ATTENTION, 0, 4)
PLACES = ("", "_head", "_untrained", "_bright", "_cover", "_chance", "_elsewhere")


@pytest.fixture
def few(monkeypatch):
    """Two steps and few images."""
    monkeypatch.setattr(atlas_shapes, "HELD_OUT", 12)
    monkeypatch.setattr(atlas_shapes, "TEST", 20)
    short = replace(atlas_shapes.RECIPE, max_steps=2, warmup_steps=0, batch_size=4, eval_every=2, log_every=1)
    grid = atlas_shapes.shapes_grid(short)
    monkeypatch.setattr(atlas_shapes, "shapes_grid", lambda: replace(grid, cls=(0, ATTENTION), reg=(0,)))


def test_the_cells_are_a_part_of_the_atlas():
    grid = atlas_shapes.shapes_grid()
    assert [str(cell) for cell in grid.cells()] == [
        "class token at 0, no registers", "class token at 0, 4 registers at 0",
        "class token at 4, no registers", "class token at 4, 4 registers at 0",
        "class attention, no registers", "class attention, 4 registers at 0",
    ]  # fmt: skip
    assert (grid.config.dim, grid.config.depth, grid.config.patch_size) == (64, 6, 4)
    assert atlas_shapes.shapes_sets().train.mean == grid.config.mean


def test_runs_their_records_and_their_weights(few, tmp_path, capsys):
    threads, arguments = torch.get_num_threads(), ["--seeds", "0", "--folder", str(tmp_path)]
    try:
        atlas_shapes.main([*arguments, "--weights", str(tmp_path / "weights")])
        atlas_shapes.main(arguments)
    finally:
        torch.set_num_threads(threads)
    records = ledger.read("atlas_shapes", tmp_path)
    assert [record.what for record in records] == ["class token at 0, 4 registers at 0", str(CELL)]
    assert capsys.readouterr().out.count("points at") == 2
    for record in records:
        assert record.n == 20 and record.command == "python -m book.experiments.atlas_shapes"
        for name in ("pointing", "iou"):
            assert all(0 <= record.get(name + place) <= 1 for place in PLACES)
            heads = record.get(f"{name}_heads")
            assert len(heads) == 4 and heads[record.get("head")] == pytest.approx(record.get(f"{name}_head"))
        assert record.get("pointing_cover") == 1 and record.get("iou_cover") > 0.5 > record.get("iou_chance")
        assert record.get("pointing_bright") > 0.9 > record.get("pointing_chance")
        assert record.get("norm_ratio") >= 1 and 0 < record.get("on_registers") < 1 and record.get("entropy") > 0
    model = checkpoint.load_model(tmp_path / "weights" / "shapes_class_attention_4_registers_at_0_seed0.safetensors")
    assert ledger.plain(model.config.to_dict()) == records[1].config and model.card["accuracy"] == records[1].get(
        "accuracy"
    )
    again = atlas_shapes.look(model, model, atlas_shapes.shapes_sets())
    assert again["iou_heads"] == pytest.approx(records[1].get("iou_heads")) and again["iou"] == again["iou_untrained"]


def test_the_head_is_chosen_on_held_out_images(few, monkeypatch):
    sets, grid = atlas_shapes.shapes_sets(), atlas_shapes.shapes_grid()
    model = atlas_shapes.fresh(grid, CELL, 0)
    was = atlas_shapes.class_maps

    def planted(model, images):
        """Head 2 looks at the object on held-out shapes, head 1 on the test's."""
        maps, tape = was(model, images)
        cover = images.masks(torch.arange(len(images)))
        better = torch.nn.functional.avg_pool2d(cover, 4)
        maps = maps.clone()
        maps[:, 2 if images.name == sets.held_out.name else 1] = better
        return maps, tape

    monkeypatch.setattr(atlas_shapes, "class_maps", planted)
    values = atlas_shapes.look(model, model, sets)
    assert values["head"] == 2 and max(values["iou_heads"]) == values["iou_heads"][1] > values["iou_head"]


def test_maps_are_those_of_the_last_block(few):
    sets, grid = atlas_shapes.shapes_sets(), atlas_shapes.shapes_grid()
    for cell, block in ((CELL, 6), (Cell(0), 5)):
        model = atlas_shapes.fresh(grid, cell, 0)
        maps, tape = atlas_shapes.class_maps(model, sets.test)
        assert maps.shape == (20, 4, 8, 8) and maps.equal(tape.maps(block))
    assert iou(maps, atlas_shapes.masks(sets.test)).shape == (20, 4)
