"""Two shapes of a model on the clock: each is built, timed and printed; a stub is not."""

from dataclasses import replace

from dtl_lib import named
from dtl_lib.lab.bench import compare_steps

CONFIG = replace(named("vit_shapes_patch8_32"), dim=32)


def stub(config): ...


def wide(config):
    return replace(config, dim=2 * config.dim, depth=2, plan=None)


def test_both_shapes_are_printed_with_their_own_count(capsys):
    compare_steps(CONFIG, wide, batch=2, device="cpu", rounds=1)
    _, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert [row[0] for row in rows] == ["deep", "wide"]
    for row, config in zip(rows, (CONFIG, wide(CONFIG))):
        assert row[1] == f"{config.cost().total / 1e6:.0f}" and float(row[2].replace(",", "")) > 0


def test_a_stub_is_not_timed(capsys):
    compare_steps(CONFIG, stub, batch=2, device="cpu")
    assert capsys.readouterr().out == "not attempted\n"
