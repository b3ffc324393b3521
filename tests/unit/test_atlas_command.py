"""`dtl atlas run` and `dtl atlas show`: what they print, draw and refuse."""

import re
import sys

import pytest
from PIL import Image

from dtl_lib import ledger
from dtl_lib.__main__ import main
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import POOLING, Cell
from tests.unit import tiny_atlas
from tests.unit.tiny_atlas import tiny

VALUES = {
    (0, None): (0.40, 0.42),
    (0, 1): (0.44, 0.46),
    (POOLING, None): (0.50, 0.52),
    (POOLING, 1): (0.48, 0.50),
}


def values(cell: Cell, seed: int) -> dict:
    """Values that a run might record."""
    accuracy = VALUES[cell.cls, cell.reg][seed] + 0.001 * cell.num_reg * seed
    values = {"accuracy": accuracy, "held_out": accuracy - 0.01, "seconds": 3.0, "multiply_adds": 1234}
    values |= {"norm_50": [2.0, 4.0], "norm_98": [4.0, 6.0 + cell.num_reg]}
    return values if cell.cls == POOLING else values | {"entropy": 1.5 + 0.1 * seed}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(atlas, "grids", lambda: {"cpu": tiny()})
    monkeypatch.setattr(sys.modules["dtl_lib.lab.atlas.run"], "Workers", MadeUp)


class MadeUp(tiny_atlas.Here):
    """Workers that train nothing."""

    def results(self, jobs):
        for cell, seed in jobs:
            yield (cell, seed), {"n": 40, **values(cell, seed)}
            yield None


@pytest.fixture
def recorded(tmp_path, capsys):
    assert main(["atlas", "run", "--records", str(tmp_path)]) == 0
    capsys.readouterr()
    return tmp_path


def show(folder, capsys, *flags) -> str:
    assert main(["atlas", "show", "--records", str(folder), *flags]) == 0
    return capsys.readouterr().out


def refused(capsys, *line) -> str:
    assert main(["atlas", *map(str, line)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


class TestRun:
    def test_a_line_a_run_where_no_bar_can_be(self, tmp_path, capsys):
        assert main(["atlas", "run", "--records", str(tmp_path)]) == 0
        captured = capsys.readouterr()
        first, *lines, last = captured.out.splitlines()
        assert first == (
            "cpu: 2 × 2 places × 2 seeds, then 0, 1, 2 registers at the best: 10 of 10 runs left"
        )  # fmt: skip
        assert lines[0] == "class token at 0, no registers, seed 0: 40.00%, 3 s; 9 of 10 runs left"
        assert lines[-1].startswith("class token at 0, 1 register at 1, seed 1: ") and len(lines) == 10
        assert last == f"complete; for the results: dtl atlas show --grid cpu --records {tmp_path}"
        assert captured.err == ""
        assert {run.command for run in ledger.read("tiny", tmp_path)} == {"dtl atlas run --grid cpu"}

    def test_goes_on_where_it_was_and_says_what_was_cut_off(self, recorded, capsys):
        path = recorded / "tiny.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:6]) + lines[6][:100])
        assert main(["atlas", "run", "--records", str(recorded), "--quiet"]) == 0
        out = capsys.readouterr().out.splitlines()
        assert out[0] == f"{path}, line 7: half a record, 100 bytes, is removed; its run is repeated"
        assert out[1].endswith(": 4 of 10 runs left") and len(out) == 2 + 4 + 1
        again = path.read_text().splitlines(keepends=True)
        assert len(again) == 10 and again[:6] == lines[:6]
        assert main(["atlas", "run", "--records", str(recorded)]) == 0
        assert capsys.readouterr().out.splitlines()[0].endswith(": 0 of 10 runs left")

    def test_a_bar_on_a_terminal(self, tmp_path, capsys, monkeypatch):
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        assert main(["atlas", "run", "--records", str(tmp_path)]) == 0
        captured = capsys.readouterr()
        assert len(captured.out.splitlines()) == 2 and "\r0 of 10 runs left: 100%" in captured.err
        assert "20.0/20.0" in captured.err

    def test_where_a_run_fails(self, tmp_path, capsys, monkeypatch):
        class Failing(MadeUp):
            def results(self, jobs):
                yield from list(super().results(jobs[:1]))
                raise atlas.RunFailed("class token at 0, 2 registers at 1, seed 0: its process was killed")

        monkeypatch.setattr(sys.modules["dtl_lib.lab.atlas.run"], "Workers", Failing)
        assert main(["atlas", "run", "--records", str(tmp_path)]) == 2
        assert capsys.readouterr().err == "dtl: class token at 0, 2 registers at 1, seed 0: its process was killed\n"
        assert len(ledger.read("tiny", tmp_path)) == 1

    def test_without_the_data(self, tmp_path, capsys, monkeypatch):
        def sets(self):
            raise ValueError("cifar10 is not under there: unpack it")

        monkeypatch.setattr(tiny_atlas.Tiny, "sets", sets)
        assert main(["atlas", "run", "--records", str(tmp_path)]) == 2
        assert capsys.readouterr().err == "dtl: cifar10 is not under there: unpack it\n"

    @pytest.mark.parametrize("flags", [["--value", "loss"], ["--figure", "a.png"]])
    def test_a_flag_of_the_other(self, flags, capsys):
        assert f"{flags[0]} is a flag of dtl atlas show: leave it out" in refused(capsys, "run", *flags)
        assert "--jobs is a flag of dtl atlas run: leave it out" in refused(capsys, "show", "--jobs", 2)


class TestShow:
    def test_the_whole_of_it(self, recorded, capsys):
        out = show(recorded, capsys)
        findings = atlas.find(tiny(), atlas.read(tiny(), recorded), scale=100)
        assert "10 of 10 runs are recorded, 0 missing" in out
        assert f"test accuracy, %; ± {findings.surface.half:.2f} a cell (95 %), the seeds' own effect left out" in out
        assert re.search(r"^0 +41\.0 +45\.1$", out, re.M) and re.search(r"^average pooling +51\.0 +49\.1$", out, re.M)
        pooling = findings.effects[0][POOLING]
        by_strata = findings.post_hoc_effects[0][POOLING]
        assert re.search(
            rf"^average pooling +\+{pooling.value:.2f} ± {pooling.half:.2f} ± {by_strata.half:.2f}$", out, re.M
        )
        assert by_strata.value == pytest.approx(pooling.value) and by_strata.half != pytest.approx(pooling.half)
        assert pooling.value == pytest.approx((51 + 49.1) / 2 - (41 + 45.1 + 51 + 49.1) / 4)
        contrast = next(contrast for contrast in findings.tested if contrast.name == "registers − none")
        assert f"\n{contrast.name} " in out and atlas.verdict(contrast) in out
        assert "class token: class token at 0, 2 registers at 1" in out
        assert re.search(r"^registers +0 +1 +2$", out, re.M) and re.search(r"^mean +41\.0 +45\.\d +45\.1$", out, re.M)
        assert f"slope: +{findings.slope.value:.2f} ± {findings.slope.half:.2f}" in out
        cost = Cell(POOLING).config(tiny().config).cost().total / 1e6
        assert re.search(rf"^average pooling +{cost:.2f} ", out, re.M)

    def test_contrasts_in_the_words_of_the_predictions(self, recorded, capsys):
        out = show(recorded, capsys)
        findings = atlas.find(tiny(), atlas.read(tiny(), recorded), scale=100)
        registered, post_hoc = out.split("post hoc, by error strata")
        said = [(registered, one) for one in findings.tested] + [(post_hoc, one) for one in findings.post_hoc]
        assert len(said) == 2 * len(findings.tested) > 2 and "as registered: all noise" in registered
        for text, contrast in said:
            (line,) = (line for line in text.splitlines() if line.startswith(f"{contrast.name} "))
            assert line.endswith(f"   {atlas.verdict(contrast)}")
            assert f"{contrast.estimate.value:+.2f}".replace("-", "−") in line
            assert "< 0.001" in line if contrast.p < 0.001 else f"{contrast.p:.3f}" in line

    def test_a_value_that_some_cells_have_not(self, recorded, capsys):
        out = show(recorded, capsys, "--value", "entropy")
        assert "entropy of the class token's attention, nats; ± " in out and "contrast" not in out
        assert re.search(r"^0 +1\.55 +1\.55$", out, re.M) and re.search(r"^average pooling$", out, re.M)
        out = show(recorded, capsys, "--value", "norm_ratio")
        assert re.search(r"^average pooling +1\.50 +2\.00$", out, re.M)

    def test_what_there_is_of_an_incomplete_grid(self, recorded, capsys):
        path = recorded / "tiny.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:2] + lines[3:5]))
        out = show(recorded, capsys)
        assert "4 of 10 runs are recorded, 6 missing" in out and "means over the runs so far" in out
        assert re.search(r"^0 +41\.0 +44\.0$", out, re.M) and re.search(r"^average pooling +48\.0$", out, re.M)
        assert not any(word in out for word in ("±", "contrast", "slope", "main effects"))
        path.write_text("".join(lines[:9]))
        out = show(recorded, capsys)
        assert "1 missing" in out and "contrast" in out and "slope" not in out

    def test_nothing_recorded_yet(self, tmp_path, capsys):
        error = refused(capsys, "show", "--records", tmp_path)
        assert error == (
            f"dtl: {tmp_path}/tiny.jsonl holds no records yet: run dtl atlas run --grid cpu --records {tmp_path}\n"
        )

    def test_a_name_that_no_record_has(self, recorded, capsys):
        error = refused(capsys, "show", "--records", recorded, "--value", "norm_98")
        assert "no value 'norm_98'; they have accuracy, held_out, seconds, multiply_adds, entropy, norm_ratio" in error

    def test_draws(self, recorded, capsys):
        for name, flags in {"both.png": [], "one.png": ["--value", "entropy"], "vector.svg": []}.items():
            out = show(recorded, capsys, "--figure", str(recorded / name), *flags)
            assert out.endswith(f"figure saved in {recorded / name}\n")
        both, one = (Image.open(recorded / name).size for name in ("both.png", "one.png"))
        assert both[1] > 1.5 * one[1]  # the surface alone is not as high
        assert (recorded / "vector.svg").read_text().count("<svg") == 1
        error = refused(capsys, "show", "--records", recorded, "--figure", "atlas.gif")
        assert "--figure is a file that ends in .png, .pdf, .svg, not 'atlas.gif'" in error
