"""`dtl probe entry`: the table is what the probe measures, on labelled images, on any folder, and in records."""

import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from dtl_lib import checkpoint, data, ledger
from dtl_lib.cli.main import main
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.probes import measure_entry
from dtl_lib.tokens import TokenPlan

CONFIG = ViTConfig(16, 8, dim=16, depth=3, heads=2, classes=3, crop=1.0, plan=TokenPlan.of(3, 0, 0, 2))
NAMES = ["cat", "dog", "owl"]
QUIET = ["--workers", "0", "--quiet", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path):
    """Seven images in folders of three classes, not all of one shape."""
    for number in range(7):
        path = tmp_path / "images" / "val" / NAMES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.rand(16, 24, 3, generator=torch.Generator().manual_seed(number)).mul(255).byte().numpy()
        Image.fromarray(pixels).resize((30 + number, 20)).save(path)
    return tmp_path / "images"


def saved(folder, config=CONFIG, **card):
    torch.manual_seed(3)
    model = ViT(config).eval()
    for classifier in model.classifiers.values():
        torch.nn.init.normal_(classifier.weight, std=1.0)
    return model, str(checkpoint.save_model(folder / "model.safetensors", model, {"classes": NAMES} | card))


def expected(model, folder, size=None, **options):
    images = data.load("folder", folder, size, config=model.config).test
    return measure_entry(model, [images.batch(range(4)), images.batch(range(4, 7))], **options)


def table(text: str) -> dict[tuple[str, str, int], list[str]]:
    """The cells of each row, by way, what is before, and block."""
    rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    return {(row[0], row[1], int(row[2])): row[3:] for row in rows if len(row) > 4 and row[2].isdigit()}


def test_the_table_is_what_the_probe_measures(tmp_path, folder, capsys):
    model, path = saved(tmp_path)
    assert main(["probe", "entry", path, "--data", "folder", "--data-path", str(folder), *QUIET]) == 0
    out = capsys.readouterr().out
    result = expected(model, folder)
    rows = table(out)
    assert list(rows) == [(row.way, row.before, row.block) for row in result.rows] and len(rows) == 8 * 3 + 2
    assert f"n = 7; untouched: {100 * result.accuracy.value:.1f} (" in out
    for row in result.rows:
        correct, difference, agreement, cosine, _, cost = rows[row.way, row.before, row.block]
        for interval, cell, sign in ((row.accuracy, correct, ""), (row.difference, difference, "+")):
            numbers = (interval.value, interval.low, interval.high)
            value, low, high = (f"{100 * number:{sign}.1f}".replace("-", "−") for number in numbers)
            assert cell == f"{value} ({low} to {high})"
        assert agreement.startswith(f"{100 * row.agreement.value:.1f} (") and cost == f"{row.cost:.4f}"
        assert float(cosine) == pytest.approx(row.similarity.value, abs=0.00051)


def test_flags_choose_the_rows_the_group_and_the_size(tmp_path, folder, capsys):
    model, path = saved(tmp_path)
    flags = "--blocks 2 1 --ways mean leave --before absent --group reg --image-size 16 24 --batch-size 3".split()
    assert main(["probe", "entry", path, "--data", "folder", "--data-path", str(folder), *flags, *QUIET]) == 0
    out = capsys.readouterr().out
    keys = [("mean", "absent", 2), ("mean", "absent", 1), ("leave", "present", 2), ("leave", "present", 1)]
    assert out.startswith("reg of") and list(table(out)) == keys
    result = expected(model, folder, (16, 24), blocks=[2, 1], group="reg", ways=["mean", "leave"], before=["absent"])
    for row in result.rows:
        assert table(out)[row.way, row.before, row.block][-1] == f"{row.cost:.4f}"


def test_any_folder_of_images_will_do_without_labels(tmp_path, folder, capsys):
    model, path = saved(tmp_path)
    flags = ["--data-path", str(folder), "--blocks", "2", *QUIET]
    assert main(["probe", "entry", path, "--unlabelled", *flags]) == 0
    out = capsys.readouterr().out
    assert "n = 7" in out and "agreement" in out and "correct" not in out and "difference" not in out
    row = expected(model, folder, blocks=[2]).row(2, "learned", "present")
    assert table(out)["learned", "present", 2][0].startswith(f"{100 * row.agreement.value:.1f} (")
    _, features = saved(tmp_path, replace(CONFIG, classes=0), classes=None)
    assert main(["probe", "entry", features, *flags]) == 0
    assert "agreement" not in (out := capsys.readouterr().out) and "cosine" in out
    _, path = saved(tmp_path)
    assert main(["probe", "entry", path, "--unlabelled", "--data", "shapes", "--part", "held_out", *flags[2:]]) == 0
    out = capsys.readouterr().out
    assert "on shapes level 1 held_out, n = 2,000" in out and "agreement" in out and "correct" not in out


def test_each_row_is_a_record(tmp_path, folder, capsys, monkeypatch):
    monkeypatch.setattr(ledger, "FOLDER", tmp_path / "ledger")
    model, path = saved(tmp_path)
    flags = ["--data", "folder", "--data-path", str(folder), "--blocks", "2", "--record", "places", *QUIET]
    assert main(["probe", "entry", path, *flags]) == 0
    assert "9 rows recorded in" in capsys.readouterr().out
    records, result = ledger.read("places"), expected(model, folder, blocks=[2])
    for record, row in zip(records, result.rows, strict=True):
        assert record.what == f"{path} on folder test, cls: {row.way}, {row.before} before block 2"
        assert record.values["accuracy"] == row.accuracy.value and record.values["cost"] == row.cost
        assert record.values["untouched"] == result.accuracy.value and record.n == 7
        assert ViTConfig.from_dict(record.config) == model.config


def test_an_image_that_cannot_be_read_is_left_out_both_times(tmp_path, folder, capsys):
    _, path = saved(tmp_path)
    (folder / "val" / "cat" / "0.png").write_bytes(b"no image")
    flags = ["--data", "folder", "--data-path", str(folder), "--blocks", "2", "--max-corrupt", "0.2", *QUIET]
    assert main(["probe", "entry", path, *flags]) == 0
    out = capsys.readouterr().out
    assert "n = 6" in out and "1 image could not be read" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--data folder --blocks 3", "cls is in blocks 0 … 2 of this model, not in 3"),
        ("--data folder --blocks one", "--blocks: give a whole number"),
        ("--data folder --ways median", "--ways: invalid choice: median"),
        ("--data folder --group late", "this plan has no late"),
        ("--data folder --image-size 15", "does not divide into patches of 8"),
        ("--data nothing", "there is no data set 'nothing'"),
        ("", "does not say what it was trained on: give --data NAME, or --unlabelled"),
        ("--data folder --level 2", "leave it out"),
    ],
)
def test_bad_input_is_one_line(tmp_path, folder, capsys, flags, said):
    _, path = saved(tmp_path)
    assert main(["probe", "entry", path, "--data-path", str(folder), *flags.split(), *QUIET]) == 2
    out, err = capsys.readouterr()
    assert said in err.replace("'median'", "median") and len(err.splitlines()) == 1 and not out


def test_a_folder_that_is_missing_or_empty_or_not_given(tmp_path, capsys):
    _, path = saved(tmp_path)
    (tmp_path / "empty").mkdir()
    for flags, said in (
        (["--data-path", str(tmp_path / "nowhere")], "does not exist; give one that holds images"),
        (["--data-path", str(tmp_path / "empty")], "holds no images"),
        ([], "say where the images are: --data-path DIR"),
    ):
        assert main(["probe", "entry", path, "--unlabelled", *flags, *QUIET]) == 2
        err = capsys.readouterr().err
        assert said in err and len(err.splitlines()) == 1
    for words in (["probe"], ["probe", "entry"]):
        assert main(words) == 2 and "dtl probe entry MODEL" in capsys.readouterr().err
    assert main(["probe", "what", path]) == 2 and "choose from entry" in capsys.readouterr().err


def test_the_help_names_the_ways_that_there_are():
    from dtl_lib.cli import probe
    from dtl_lib.probes import entry

    assert tuple(probe.WAYS) == entry.WAYS and probe.BEFORE == entry.BEFORE
