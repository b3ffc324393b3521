"""The atlas's live view: its state says what the records and the maps say, and its fragment stands alone."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from book.experiments import atlas_maps
from dtl_lib import checkpoint
from dtl_lib.lab.atlas import ATTENTION, POOLING, Cell, maps, strata
from dtl_lib.lab.atlas import view as atlas
from dtl_lib.models import ViT
from dtl_lib.tape import record
from dtl_lib.tokens import TokenPlan
from tests.unit import made_up_atlas as made_up

GRID = made_up.grid()
CELLS = GRID.cells()


@pytest.fixture(scope="module")
def records():
    return made_up.records(GRID)


@pytest.fixture(scope="module")
def state(records):
    return atlas.state(GRID, records, made_up.maps(GRID))


def measure(state, name):
    return next(measure for measure in state["measures"] if measure["name"] == name)


def values_in(text):
    """The JSON of a fragment, as a browser finds it: up to the first closing tag."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script', text, re.DOTALL)[1])


def test_numbers_are_the_records(state, records):
    at, cell = 6, CELLS[6]
    runs = [100 * records[cell, seed].values["accuracy"] for seed in GRID.seeds]
    assert measure(state, "accuracy")["values"][at] == pytest.approx(np.mean(runs), abs=1e-3)
    assert measure(state, "accuracy")["runs"][at] == pytest.approx(runs, abs=1e-3)
    level = strata(records, "accuracy", 100)
    assert measure(state, "accuracy")["half"] == pytest.approx(level.half, abs=1e-3)
    others = (Cell(0, 0, 4), Cell(2), Cell(2, 0, 4))
    halves = [level.estimate({Cell(0): 1, other: -1}).half for other in others]
    assert measure(state, "accuracy")["apart"] == pytest.approx(halves, abs=1e-3) and halves[0] != halves[1]
    assert measure(state, "multiply–adds")["values"][at] == pytest.approx(
        cell.config(GRID.config).cost().total / 1e6, abs=1e-3
    )
    assert measure(state, "multiply–adds")["half"] is measure(state, "multiply–adds")["apart"] is None
    standard = GRID.config.with_plan(TokenPlan.of(GRID.config.depth)).cost().total
    assert measure(state, "multiply–adds")["standard"] == pytest.approx(standard / 1e6, abs=1e-3)
    assert measure(state, "norm ratio")["values"][at] == pytest.approx((9 + 0.2 * at) / 6.01, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "name", "change"),
    [
        ("accuracy", "accuracy", 0.03),
        ("entropy", "entropy", 0.5),
        ("on_registers", "share on registers", 0.02),
        ("norm_98", "norm ratio", [5.0, 20.0]),
        ("multiply_adds", "multiply–adds", 10**6),
    ],
)
def test_one_record_moves_one_cell(records, state, value, name, change):
    at, key = 9, (CELLS[9], 1)
    old = records[key].values
    new = change if isinstance(change, list) else old[value] + change
    moved = atlas.state(GRID, records | {key: made_up.record(GRID, *key, {**old, value: new})})
    before, after = measure(state, name), measure(moved, name)
    assert after["values"][at] > before["values"][at] and after["runs"][at][1] > before["runs"][at][1]
    differ = [index for index in range(len(CELLS)) if after["values"][index] != before["values"][index]]
    assert differ == [at] and after["half"] != before["half"]


def test_what_a_cell_has_not_is_none(state):
    for at, cell in enumerate(CELLS):
        assert (measure(state, "entropy")["values"][at] is None) == (cell.cls == POOLING)
        assert (measure(state, "share on registers")["values"][at] is None) == (cell.cls == POOLING or cell.reg is None)
        assert (state["maps"]["of"][at] is None) == (cell.cls == POOLING)


def test_timelines_are_the_plans(state):
    timelines = dict(zip(CELLS, state["cells"]))
    assert timelines[Cell(2, 4, 4)] == {
        "name": "class token at 2, 4 registers at 4", "depth": 6, "class_blocks": 0,
        "groups": [["class token", 1, 2, 6], ["registers", 4, 4, 6], ["patches", 64, 0, 6]],
    }  # fmt: skip
    assert timelines[Cell(ATTENTION, 0, 4)]["class_blocks"] == 1
    assert timelines[Cell(ATTENTION, 0, 4)]["groups"][0] == ["class token", 1, 6, 7]
    assert timelines[Cell(POOLING)]["groups"][:2] == [["class token", 0, 0, 0], ["registers", 0, 0, 0]]


def test_maps_share_a_scale(records):
    kept = made_up.maps(GRID)
    torch.manual_seed(0)
    kept = replace(kept, by_cell={cell: 0.1 * torch.rand(3, 4, 8, 8) for cell in kept.by_cell})
    kept.by_cell[CELLS[6]][0, 1, 2, 3] = 0.9
    packed = atlas.state(GRID, records, kept)["maps"]
    top = np.quantile(np.stack([cell_maps.numpy() for cell_maps in kept.by_cell.values()]), 0.99)
    assert packed["top"] == pytest.approx(top, abs=1e-4)
    for at in (0, 6, 18):
        codes = np.frombuffer(base64.b64decode(packed["of"][at]), np.uint8).reshape(3, 4, 8, 8)
        wanted = (kept.by_cell[CELLS[at]].numpy() / top).clip(0, 1) ** 0.5
        assert np.abs(codes / 255 - wanted).max() <= 0.5 / 255 + 1e-6
    assert [photo["uri"][:22] for photo in packed["photos"]] == ["data:image/png;base64,"] * 3


def test_more_measures(records):
    step = atlas.Measure("step time", {CELLS[3]: 0.91}, "of the standard plan’s", 2, 0.02, says="measured")
    step_time = measure(atlas.state(GRID, records, extra=[step]), "step time")
    assert step_time["values"][3] == 0.91 and step_time["values"][4] is None and step_time["half"] == 0.02
    assert step_time["runs"] is None


def test_the_sweep_is_left_out(records):
    cell = Cell(0, 0, 16)
    more = {(cell, seed): made_up.record(GRID, cell, seed, {"accuracy": 0.9}) for seed in (0, 1, 2)}
    assert atlas.state(GRID, records | more) == atlas.state(GRID, records)


def test_missing_records_are_said(records):
    with pytest.raises(ValueError, match="1 cells have no record, such as class token at 2, no registers"):
        atlas.state(GRID, {job: record for job, record in records.items() if job[0] != Cell(2)})
    with pytest.raises(ValueError, match="1 runs are missing, such as class token at 2, no registers, seed 1"):
        atlas.state(GRID, {job: record for job, record in records.items() if job != (Cell(2), 1)})
    with pytest.raises(ValueError, match="no cell of this grid"):
        atlas.state(GRID, records, replace(made_up.maps(GRID), by_cell={Cell(1): torch.ones(3, 4, 8, 8)}))


class Balanced(HTMLParser):
    """Whether every tag that opens closes."""

    def __init__(self):
        super().__init__()
        self.open, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_fragment_stands_alone(state):
    text = atlas.view(state)._repr_html_()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert parser.cells == [f"{value:.1f}" for value in measure(state, "accuracy")["values"]]
    assert not re.search(r"https?:|\bsrc=|@import|url\(|import\s*\(|fetch\s*\(", text)
    assert len(text.encode()) <= 300_000
    assert values_in(text) == state
    assert len(repr(atlas.view(state))) < 80  # a notebook keeps it beside the HTML


def test_two_fragments_have_two_ids(state):
    ids = [re.search(r'class="dtl-atlas" id="([^"]+)"', atlas.view(state).text)[1] for _ in range(2)]
    assert ids[0] != ids[1] and atlas.view(state).text.count(ids[0]) == 0


def test_labels_cannot_end_the_script(state):
    hostile = json.loads(json.dumps(state))
    hostile["rows"]["names"][0] = hostile["cells"][0]["name"] = "</script><script>alert(1)</script><!-- &"
    text = atlas.view(hostile).text
    assert values_in(text) == hostile
    assert text.count("</script>") == 2 and "<!--" not in text


@pytest.fixture(scope="module")
def models():
    """Small untrained models of four cells; a shorter trunk than the grid's would not fit it."""
    torch.manual_seed(0)
    small = replace(GRID.config, dim=16, heads=2, plan=None)
    return {cell: ViT(cell.config(small)).eval() for cell in (Cell(0), Cell(2, 4, 4), Cell(ATTENTION), Cell(POOLING))}


def test_maps_are_what_the_class_token_takes(models):
    loaded = maps.maps_of(models, ("coffee", "chelsea"))
    assert set(loaded.by_cell) == set(models) - {Cell(POOLING)} and loaded.photos == ("coffee", "chelsea")
    model = models[Cell(2, 4, 4)]
    with record(model) as tape, torch.no_grad():
        model(maps.prepare(maps.photo("chelsea"), config=model.config))
    torch.testing.assert_close(loaded.by_cell[Cell(2, 4, 4)][1], tape.maps(5)[0])
    with torch.no_grad():
        model.blocks[5].attention.qkv.weight.mul_(3)
    moved = maps.maps_of({Cell(2, 4, 4): model}, ("coffee", "chelsea"))
    assert not torch.allclose(moved.by_cell[Cell(2, 4, 4)], loaded.by_cell[Cell(2, 4, 4)], atol=1e-4)


def test_maps_come_back_from_the_file(tmp_path):
    kept = made_up.maps(GRID)
    file = maps.save(kept, "made_up", tmp_path)
    assert file.stat().st_size <= 300_000
    loaded = maps.load("made_up", tmp_path)
    assert list(loaded.by_cell) == list(kept.by_cell) and (loaded.photos, loaded.seed) == (kept.photos, 0)
    for cell, wanted in kept.by_cell.items():
        assert (loaded.by_cell[cell].sqrt() - wanted.sqrt()).abs().max() <= 0.51 / 255


def test_a_missing_or_damaged_file_is_said(tmp_path):
    with pytest.raises(ValueError, match="no maps of made_up are stored .*atlas_maps` makes them"):
        maps.load("made_up", tmp_path)
    file = maps.save(made_up.maps(GRID), "made_up", tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged .*atlas_maps` writes it again"):
        maps.load("made_up", tmp_path)


def test_command_reads_what_the_run_keeps(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    small = replace(GRID, config=replace(GRID.config, dim=16, heads=2, plan=None), cls=(0, POOLING), reg=(None, 2))
    monkeypatch.setattr(atlas_maps, "grids", lambda: {"cpu": small})
    arguments = ["--weights", str(tmp_path / "weights"), "--folder", str(tmp_path)]
    assert atlas_maps.main(arguments) == 2 and "holds no weights of seed 0" in capsys.readouterr().err
    for number, cell in enumerate(small.cells()):
        if number == 3:
            assert atlas_maps.main(arguments) == 2
            assert "lacks 1 cells of seed 0, such as average pooling, 4 registers at 2" in capsys.readouterr().err
        checkpoint.save_model(tmp_path / "weights" / f"{number}_seed0.safetensors", ViT(cell.config(small.config)))
    assert atlas_maps.main(arguments) == 0
    assert list(maps.load("atlas_cpu", tmp_path).by_cell) == [Cell(0), Cell(0, 2, 4)]
