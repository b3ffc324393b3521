"""A grid of the user's own, from flags: what is run, recorded, shown, continued and refused."""

import json
import os
import re
import signal
import sys
import textwrap
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dtl_lib import host, ledger
from dtl_lib.__main__ import main
from dtl_lib.figures import show_surface
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import ATTENTION, POOLING, Cell
from dtl_lib.lab.atlas.draw import LABELS
from tests.processes import launch
from tests.unit import tiny_atlas
from tests.unit.tiny_atlas import tiny

RUN = sys.modules["dtl_lib.lab.atlas.run"]
SMALL = "--depth 2 --dim 16 --heads 2 --patch-size 16 --max-steps 20 --batch-size 16 --samples 64 --device cpu".split()
AXES = "--cls 0,1,none --reg none,0 --num-reg 2 --seeds 0,1".split()


class MadeUp(tiny_atlas.Here):
    """Workers that train nothing: accuracy rises with the place, most for pooling, and with the seed."""

    grids = []

    def results(self, jobs):
        self.grids.append(self.grid)
        for cell, seed in jobs:
            place = {ATTENTION: 8, POOLING: 9}.get(cell.cls, cell.cls)
            accuracy = 0.3 + 0.01 * place + 0.003 * seed * (place + 1) + 0.001 * seed * cell.num_reg
            values = {"accuracy": accuracy, "held_out": accuracy, "seconds": 1.0, "multiply_adds": 100 + place}
            yield (cell, seed), {"n": 40, **values}
            yield None


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    monkeypatch.setattr(RUN, "Workers", MadeUp)
    monkeypatch.setattr(MadeUp, "grids", [])


def dtl(capsys, *line) -> str:
    assert main(["atlas", *map(str, line)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def refused(capsys, *line) -> str:
    assert main(["atlas", *map(str, line)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("dtl: ")
    return captured.err


@pytest.fixture
def begun(tmp_path, capsys):
    dtl(capsys, "run", *SMALL, *AXES, "--records", tmp_path)
    return tmp_path


class TestRun:
    def test_what_the_flags_say(self, tmp_path, capsys):
        flags = "--level 2 --image-size 24 --patch-size 8 --channels 1 --depth 3 --dim 24 --heads 3 --epochs 0.5"
        rest = "--lr 0.01 --flip --cls 0,2,attention,none --reg none,1 --num-reg 3 --seeds 4,7 --samples 640"
        dtl(capsys, "run", *flags.split(), *rest.split(), "--batch-size", 16, "--output-dir", tmp_path)
        grid = MadeUp.grids[0]
        assert (grid.cls, grid.reg, grid.num_reg, grid.seeds) == ((0, 2, ATTENTION, POOLING), (None, 1), 3, (4, 7))
        config, recipe = grid.config, grid.recipe
        assert (config.depth, config.dim, config.heads, config.size, config.channels) == (3, 24, 3, (24, 24), 1)
        assert (recipe.lr, recipe.epochs, recipe.max_steps, recipe.flip, recipe.warmup_steps) == (
            0.01,
            0.5,
            None,
            True,
            2,
        )
        sets = grid.sets()
        assert (len(sets.train), sets.train.level, sets.train.image_size) == (640, 2, (24, 24))
        assert (config.mean, config.classes) == (tuple(sets.train.mean), len(sets.train.classes))
        assert {(Cell.from_config(run.config), run.seed) for run in ledger.read("atlas_own", tmp_path)} == {
            (cell, seed) for cell in grid.cells() for seed in (4, 7)
        }

    def test_what_is_not_said_is_as_in_the_cpu_grid(self, tmp_path, capsys):
        dtl(capsys, "run", "--cls", "0,4", "--records", tmp_path)
        grid, cpu = MadeUp.grids[0], atlas.grids()["cpu"]
        for name in ("depth", "dim", "heads"):
            assert getattr(grid.config, name) == getattr(cpu.config, name)
        assert (grid.recipe.lr, grid.recipe.batch_size) == (cpu.recipe.lr, cpu.recipe.batch_size)
        steps = grid.recipe.steps(50_000)
        assert steps == 50_000 // 64 and grid.recipe.warmup_steps == steps // 7
        assert grid.seeds == cpu.seeds and grid.reg == (None,) and grid.sweep == ()

    def test_the_ledger_is_never_its_place_unasked(self, capsys, monkeypatch, tmp_path):
        monkeypatch.setattr(ledger, "FOLDER", tmp_path)
        assert "say which folder the records of your own grid are in: --records" in refused(
            capsys, "run", *SMALL, *AXES
        )
        assert not list(tmp_path.iterdir())

    def test_the_recorded_command_makes_the_same_grid(self, begun, tmp_path, capsys):
        words = ledger.read("atlas_own", begun)[0].command.split()
        assert words[:3] == ["dtl", "atlas", "run"] and words[-2:] == ["--records", "DIR"]
        first = MadeUp.grids[0]
        dtl(capsys, "run", *words[3:-1], tmp_path / "other")
        assert MadeUp.grids[-1] == first

    def test_goes_on_with_and_without_the_flags(self, begun, capsys):
        path = begun / "atlas_own.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        for flags in ([*SMALL, *AXES], []):
            path.write_text("".join(lines[:5]) + lines[5][:50])
            out = dtl(capsys, "run", *flags, "--records", begun).splitlines()
            assert out[0] == f"{path}, line 6: half a record, 50 bytes, is removed; its run is repeated"
            assert out[1] == "own: 3 × 2 places × 2 seeds: 7 of 12 runs left"
            assert path.read_text().splitlines(keepends=True)[:5] == lines[:5]
            assert MadeUp.grids[-1] == MadeUp.grids[0] and len(ledger.read("atlas_own", begun)) == 12

    def test_show_says_what_mends_half_a_record(self, begun, capsys):
        path = begun / "atlas_own.jsonl"
        path.write_bytes(path.read_bytes()[:-100])
        half = path.read_bytes()
        error = refused(capsys, "show", "--records", begun)
        assert f"{path}, line 12: half a record, " in error
        assert f"dtl atlas run --grid own --records {begun} repeats it" in error
        assert path.read_bytes() == half
        assert dtl(capsys, "run", "--records", begun) and "12 of 12" in dtl(capsys, "show", "--records", begun)

    def test_grows(self, begun, capsys):
        more = "--cls 0,1,attention --reg none,0 --num-reg 2 --seeds 0,1,2".split()
        out = dtl(capsys, "run", *SMALL, *more, "--records", begun)
        assert (
            "own: 3 × 2 places × 3 seeds: 10 of 18 runs left; 4 recorded runs of other places or seeds are left out"
            in out
        )
        out = dtl(capsys, "show", "--records", begun)
        assert "18 of 18 runs are recorded, 0 missing; 4 recorded runs" in out and "average pooling" not in out

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            (["--lr", "0.5"], r"another recipe than this grid \(lr 0.002 instead of 0.5\)"),
            (["--dim", "32"], r"another model than this grid \(dim 16 instead of 32\)"),
            (["--depth", "3"], r"another model than this grid \(depth 2 instead of 3\)"),
            (["--max-steps", "30"], r"\(max_steps 20 instead of 30, warmup_steps 2 instead of 4\)"),
            (["--level", "2"], "has runs with --level 1, and this grid has 2"),
            (["--samples", "80"], "has runs with --samples 64, and this grid has 80"),
        ],
    )
    def test_another_grid_is_not_continued(self, begun, capsys, other, said):
        before = (begun / "atlas_own.jsonl").read_bytes()
        error = refused(capsys, "run", *SMALL, *AXES, *other, "--records", begun)
        assert re.search(said, error) and "keep its runs in another folder" in error
        assert (begun / "atlas_own.jsonl").read_bytes() == before

    def test_the_load_is_noted_where_it_is_counted(self, tmp_path, monkeypatch):
        for load, values in (((1.5, 2.0, 2.5), [1.5, 2.0, 2.5]), (None, None)):
            monkeypatch.setattr(RUN, "machine_load", lambda load=load: load)
            made = list(atlas.run(tiny(sweep=()), tmp_path / str(load), command="none", progress=False))
            assert [run.values.get("load") for run in made] == [values] * 8
        monkeypatch.delattr(os, "getloadavg")
        assert host.machine_load() is None

    def test_records_without_load_are_read(self):
        old = ledger.read("atlas_cpu")
        assert not any("load" in run.values for run in old) and len(atlas.read(atlas.grids()["cpu"])) == len(old)


BAD = {
    "--cls 0,2": "--cls 2 is not a block of a trunk of 2: choose from 0 to 1, attention or none",
    "--cls 0 --reg none,2 --num-reg 1": "--reg 2 is not a block of a trunk of 2: choose from 0 to 1 or none",
    "--cls 0 --reg none,0": "--reg none,0 needs --num-reg",
    "--cls 0 --num-reg 4": "--num-reg 4 needs --reg",
    "--cls 0 --reg 0 --num-reg 0": "--num-reg: give a whole number, 1 or more",
    "--cls 0,1,0": "--cls: 0 is there twice",
    "--cls 0 --reg none,none --num-reg 2": "--reg: none is there twice",
    "--cls 0 --seeds 1,1": "--seeds: 1 is there twice",
    "--cls 0 --seeds ,": "--seeds: give whole numbers, such as 0,1,2, not ','",
    "--cls 0 --seeds -1": "--seeds: give whole numbers",
    "--cls last": "--cls: give blocks, such as 0,4,attention,none, not 'last'",
    "--reg none": "say where the class token enters in your grid: --cls 0,2,none",
    "--cls 0 --lr 0": "lr is above 0",
    "--cls 0 --epochs 0": "epochs is above 0",
    "--cls 0 --data mnist": "there is no data set 'mnist'",
    "--cls 0 --data-path there": "say what there holds: --data NAME",
    "--cls 0 --data cifar10 --level 2": "--level is how difficult shapes are",
    "--cls 0 --level 7": "shapes come in levels 1, 2, 3",
    "--cls 0 --heads 3": "dim has to be divisible by heads",
    "--cls 0 --image-size 40": "the nearest that does is",
    "--cls 0 --batch-size 100": "batch_size=100 is more than the 64 training images",
    "--cls 0 --warmup-steps 20": "--warmup-steps 20 does not end within a run's 20 steps",
    "--cls 0 --device abacus": "there is no device 'abacus'",
    "--cls 0 --grid cpu": "the grid cpu is fixed, and --cls describes one of your own",
}


@pytest.mark.parametrize("flags", BAD)
def test_bad_flags_are_one_line_before_anything_trains(flags, tmp_path, capsys):
    assert BAD[flags] in refused(capsys, "run", *SMALL, *flags.split(), "--records", tmp_path / "new")
    assert MadeUp.grids == [] and not (tmp_path / "new").exists()


def test_which_grid_a_folder_holds(begun, capsys, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    assert "atlas_cpu.jsonl holds no records yet" in refused(capsys, "show", "--records", empty)
    for what in ("run", "show"):
        assert "own" in refused(capsys, what, "--grid", "own", "--records", empty)
    assert "--cls is a flag of dtl atlas run: leave it out" in refused(capsys, "show", *AXES, "--records", begun)
    (begun / "atlas_cpu.jsonl").write_text("")
    assert "records of cpu and of your own grid: say which, --grid NAME" in refused(capsys, "show", "--records", begun)
    assert "own: 3 × 2" in dtl(capsys, "show", "--grid", "own", "--records", begun)


def test_records_whose_command_says_nothing_of_a_grid(begun, capsys):
    path = begun / "atlas_own.jsonl"
    lines = [json.loads(line) | {"command": "my script", "id": ""} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    error = refused(capsys, "show", "--records", begun)
    assert "does not say which grid it is of (it is my script): dtl atlas run has not made it" in error
    path.write_text("no record\n" + path.read_text())
    assert f"{path}, line 1: " in refused(capsys, "show", "--records", begun)
    assert f"{path}, line 1: " in refused(capsys, "run", "--records", begun)


class TestShow:
    def test_contrasts_by_strata(self, begun, capsys):
        out = dtl(capsys, "show", "--records", begun, "--figure", begun / "f.png")
        grid = MadeUp.grids[0]
        records = atlas.read(grid, begun)
        found = atlas.find(grid, records, scale=100)
        assert found.post_hoc and f"± {found.strata.half:.2f} a cell (95 %)" in out and "registered" not in out
        for one in found.post_hoc:
            (line,) = (line for line in out.splitlines() if line.startswith(f"{one.name} "))
            assert f"{one.estimate.value:+.2f}".replace("-", "−") in line
        assert out.count(" ± ") == 1 + len(found.post_hoc_effects[0]) + len(found.post_hoc_effects[1])
        assert "\ndtl atlas run --cls 0,1,none " in out and (begun / "f.png").stat().st_size

    def test_a_part(self, begun, capsys):
        path = begun / "atlas_own.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        for kept, lacking in ((1, "11 are missing"), (11, "1 is missing")):
            path.write_text("".join(lines[:kept]))
            out = dtl(capsys, "show", "--records", begun, "--figure", begun / f"{kept}.png")
            assert f"{kept} of 12 runs are recorded, {12 - kept} missing" in out and "±" not in out
            assert f"no intervals, main effects or contrasts yet: they need every run of the grid, and {lacking}" in out

    @pytest.mark.parametrize(
        ("axes", "said"),
        [
            ("--cls 0,1 --reg none,0 --num-reg 2 --seeds 3", "one seed has no spread; add some, such as --seeds 3,4"),
            ("--cls 1 --seeds 0,1", "they compare cells, and 1 has this value"),
            ("--cls 1 --seeds 0", "one seed has no spread"),
        ],
    )
    def test_what_has_no_spread(self, tmp_path, capsys, axes, said):
        dtl(capsys, "run", *SMALL, *axes.split(), "--records", tmp_path)
        out = dtl(capsys, "show", "--records", tmp_path, "--figure", tmp_path / "f.svg")
        assert said in out and "±" not in out and "contrast, percentage" not in out

    def test_one_row_or_one_column(self, tmp_path, capsys):
        for name, axes in {"column": "--cls 0,1,none", "row": "--cls 1 --reg none,0,1 --num-reg 2"}.items():
            dtl(capsys, "run", *SMALL, *axes.split(), "--records", tmp_path / name)
            out = dtl(capsys, "show", "--records", tmp_path / name, "--figure", tmp_path / "f.pdf")
            assert "nan" not in out and "∞" not in out and "contrast, percentage points" in out


@pytest.mark.parametrize("rows", [("0", "2"), ("0", "class attention", "average pooling")])
@pytest.mark.parametrize("columns", [("none",), ("none", "0"), ("none", "0", "2", "4")])
def test_a_title_stays_in_the_figure(rows, columns):
    for label in LABELS.values():
        figure = show_surface(np.eye(len(rows), len(columns)), rows, columns, 0.123, label)
        figure.draw_without_rendering()
        title = figure.axes[0].title.get_window_extent()
        assert 0 <= title.x0 and title.x1 <= figure.bbox.x1 and title.y1 <= figure.bbox.y1, label
        assert figure.axes[0].get_title().replace("\n", " ").startswith(label)
        plt.close(figure)


class TestContrasts:
    def test_without_a_token_at_0(self):
        grid = tiny(cls=(1, ATTENTION, POOLING), reg=(None,))
        names = [one.name for one in atlas.contrasts(grid)]
        assert names == ["class attention − class token at 1", "average pooling − class token at 1"]

    def test_one_sided_comparisons_are_left_out(self):
        early = replace(tiny(), config=replace(tiny().config, depth=8, plan=None), cls=(0, 1))
        assert [one.name for one in atlas.contrasts(early)] == ["registers − none"]
        assert atlas.contrasts(tiny(cls=(POOLING,), reg=(1,))) == []


class TestGrid:
    @pytest.mark.parametrize(
        ("axes", "said"),
        [
            ({"cls": (0, 2)}, "choose a block from 0 to 1"),
            ({"cls": (0, 0)}, "cls holds 0 twice"),
            ({"reg": ()}, "reg is a tuple of one value or more"),
            ({"seeds": ()}, "seeds is a tuple of one value or more"),
            ({"seeds": (0, -1)}, "a seed is a whole number"),
            ({"reg": (0,), "num_reg": 0}, "contradict each other"),
        ],
    )
    def test_what_cannot_be(self, axes, said):
        with pytest.raises(ValueError, match=said):
            tiny(**axes)


@pytest.mark.slow
def test_two_at_once_killed_and_resumed(tmp_path, monkeypatch):
    """Real processes: the second is refused, the first is killed, and a third makes what is missing."""
    monkeypatch.undo()
    path = tmp_path / "atlas_own.jsonl"
    line = [sys.executable, "-m", "dtl_lib", "atlas", "run", *SMALL, "--cls", "0,none", "--seeds", "0,1", "--quiet"]
    line += ["--records", tmp_path]
    first = launch.start(line)
    launch.wait_for(lambda: path.is_file() and path.read_bytes().endswith(b"\n"), "record", first)
    os.kill(first.pid, signal.SIGSTOP)  # it holds its lock for as long as the second asks
    status, out, error = launch.finished(launch.start(line))
    assert (status, out) == (2, "") and error.startswith(f"dtl: another process makes runs for {path}: let it end")
    launch.end(first)
    launch.finished(first)
    done = path.read_text().splitlines()
    assert 1 <= len(done) < 4
    status, out, error = launch.finished(launch.start(line))
    assert status == 0 and f"{4 - len(done)} of 4 runs left" in out, error
    again = path.read_text().splitlines()
    assert len(again) == 4 and again[: len(done)] == done


@pytest.mark.slow
def test_a_full_disk_leaves_whole_records(tmp_path, monkeypatch):
    monkeypatch.undo()
    code = """
        import resource, sys
        from dtl_lib.__main__ import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        sys.exit(main(sys.argv[1:]))
    """
    line = ["atlas", "run", *SMALL, "--cls", "0,none", "--seeds", "0,1", "--quiet", "--records", tmp_path]
    status, out, error = launch.finished(launch.start([sys.executable, "-c", textwrap.dedent(code), *line]))
    assert (status, error) == (2, f"dtl: {tmp_path}/atlas_own.jsonl: File too large\n")
    assert len(ledger.read("atlas_own", tmp_path)) == out.count("runs left") - 1 > 0
