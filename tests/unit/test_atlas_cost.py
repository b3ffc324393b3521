"""What the atlas's cells cost, tried with small models: every cell once, against the standard one."""

from dataclasses import replace

from book.experiments import atlas_cost, rounds
from dtl_lib import ledger
from dtl_lib.lab import bench
from dtl_lib.lab.atlas import ATTENTION, Cell, grids

SHORT = "--device cpu --rounds 2 --batch-size 2".split()


def test_every_cell_is_in_one_group():
    grid, best = grids()["cpu"], Cell(4, 2, 4)
    rows = atlas_cost.groups(grid, grid.sweep_cells(best))
    cells = [cell for row in rows for cell in row]
    assert len(cells) == len(set(cells)) == 24 + 4 and set(cells) >= set(grid.sweep_cells(best))
    assert cells[0] == Cell(0) and cells[:24] == grid.cells() == [c for row in atlas_cost.groups(grid, []) for c in row]


def test_cells_are_measured_against_the_standard_one(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "step_memory", lambda config, batch, **how: config.cost().activation_bytes)
    grid = grids()["cpu"]
    grid = replace(grid, config=replace(grid.config, image_size=8, dim=16), cls=(0, 4, ATTENTION), reg=(None, 0))
    monkeypatch.setattr(atlas_cost.atlas, "grids", lambda: {"cpu": grid})
    atlas_cost.main([*SHORT, "--folder", str(tmp_path)])
    records = ledger.read("atlas_cost", tmp_path)
    assert len(records) == 6 + 1 and sum(rounds.AGAIN in record.what for record in records) == 1
    kept = [record for record in records if rounds.AGAIN not in record.what]
    assert [Cell.from_config(record.config) for record in kept] == grid.cells()
    for cell, record in zip(grid.cells(), kept):
        assert record.what.startswith(f"cpu, {cell}: training step, batches of 2")
        assert ledger.plain(grid.recipe.to_dict()) == record.recipe
        usual, this = (c.config(grid.config).cost().total for c in (Cell(0), cell))
        assert record.get("predicted") == this / usual and record.get("multiply_adds_image") == this


def test_the_sweep_follows_where_the_surface_is_complete(tmp_path, monkeypatch):
    grid = grids()["cpu"]
    grid = replace(grid, config=replace(grid.config, image_size=8, dim=16), cls=(0, 4), reg=(None, 2), seeds=(0, 1))
    monkeypatch.setattr(bench, "step_memory", lambda config, batch, **how: config.cost().activation_bytes)
    monkeypatch.setattr(atlas_cost.atlas, "grids", lambda: {"cpu": grid})
    for cell in grid.cells():
        for seed in grid.seeds:
            values = {"held_out": 0.5 + 0.1 * (cell == Cell(4, 2, 4)) + 0.01 * seed}
            about = {"config": cell.config(grid.config).to_dict(), "recipe": replace(grid.recipe, seed=seed).to_dict()}
            ledger.add(grid.experiment, str(cell), "made up", "cpu", values, n=1, seed=seed, folder=tmp_path, **about)
    atlas_cost.main([*SHORT, "--folder", str(tmp_path), "--records", str(tmp_path), "--only", "class token at 4"])
    measured = [Cell.from_config(record.config) for record in ledger.read("atlas_cost", tmp_path)]
    assert measured == [Cell(4), Cell(4, 2, 4), *(Cell(4, 2, number) for number in (1, 2, 8, 16))]
