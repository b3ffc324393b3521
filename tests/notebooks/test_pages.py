"""The pages made from records and from the parser."""

import argparse
import dataclasses
import re

import pytest

from book.tools import command_line, records, reference
from book.tools.project import Project
from dtl_lib import ledger
from dtl_lib.checks import is_line
from dtl_lib.cli.commands import COMMANDS
from dtl_lib.config import configurations
from dtl_lib.train.recipe import recipes


def record(seed, accuracy, what="plain | ViT"):
    """A record of one run."""
    values = {"accuracy": accuracy, "curve": [0.1, accuracy]}
    date = "2026-11-21T10:00:00+00:00"
    return ledger.Record(
        "cifar", what, f"dtl train --seed {seed}", date, "2 CPU cores", "0.1.0", "2.6", seed, 500, values
    )


@pytest.fixture
def folder(project):
    """A ledger of three runs of one kind and one of another."""
    folder = project.root / "dtl_lib" / "ledger"
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        ledger.append(record(seed, accuracy), folder)
    ledger.append(record(0, 0.25, what="with registers"), folder)
    return folder


def test_runs_of_one_kind_are_one_row(project, folder):
    table = records.tables(project.root)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == "| what | accuracy | curve |" and len(rows) == 4
    assert rows[2].endswith("plain \\| ViT (3 runs, each over 500) | 0.6 ± 0.25 |  |")
    assert rows[3].endswith("with registers (1 run, each over 500) | 0.25 | 0.1, 0.25 |")
    assert "`dtl train --seed 2`; `dtl train --seed 0`." in table
    targets = records.ledger(project.root)
    assert {"cifar", record(1, 0.6).id} <= set(targets)
    assert all(table.count(f'id="{target}"') == 1 for target in targets)


def test_an_experiment_is_a_section_whose_anchors_lie_inside(project, folder):
    for name in ("other", "third"):
        ledger.append(dataclasses.replace(record(0, 0.1), experiment=name, id=""), folder)
    sections = records.tables(project.root).split("<details>")[1:]
    assert [re.search("<code>(.*)</code>", section)[1] for section in sections] == ["cifar", "other", "third"]
    assert "</code> 4 records, 2 CPU cores, 2026-11-21</summary>" in sections[0]
    for section in sections:
        summary, _, rest = section.partition("</summary>")
        assert "id=" not in summary and rest.strip().endswith("</details>") and 'id="' in rest


def test_many_values_are_one_column_and_those_that_never_differ_are_said_once(project):
    folder = project.root / "dtl_lib" / "ledger"
    for seed, what in enumerate("ab"):
        values = {name: seed + number for number, name in enumerate("uvwxy")} | {"threads": 2, "flops": 3.2e9 + seed}
        values |= {"rate": 12345.6, "rate_low_quartile": 10.0 + seed, "rate_high_quartile": 2e4}
        ledger.append(dataclasses.replace(record(seed, 0.1, what), values=values, id=""), folder)
    lines = records.tables(project.root).splitlines()
    assert "In all: threads 2, rate 12,346, rate_high_quartile 20,000." in "\n".join(lines)
    head, _, first, _ = (line for line in lines if line.startswith("|"))
    assert head == "| what | values |" and first.count("|") == 3
    assert first.endswith("w **2**<br>x **3**<br>y **4**<br>flops **3.2 G**<br>rate_low_quartile **10** |")


HOSTILE = [
    "<svg onload=alert(1)>.safetensors",
    "`</code><script>alert(1)</script>",
    "{{ ''.__class__ }}",
    "[here](javascript:alert(1)) ![](x) <javascript:alert(1)>",
    "$x$ \\ &lt; *a* _b_ | c ~d~ {ref}`target`",
    "one\n\n<script>alert(1)</script>\n\n:::{include} /etc/passwd\n:::",
    "```` \x1b]0;mine\x07 ``",
]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_record_says_is_shown_and_not_run(project, text, many):
    from markdown_it.renderer import RendererHTML
    from myst_parser.config.main import MdParserConfig
    from myst_parser.parsers.mdit import create_md_parser

    folder = project.root / "dtl_lib" / "ledger"
    line = text if is_line(text) else "a line"  # a record holds no other; the names of its values may be anything
    for what in (line, f"another {line}"):
        values = {text: 1.0, "same": 2.0} | ({name: float(len(what)) for name in "uvwxy"} if many else {"u": len(what)})
        made = {"what": what, "command": f"dtl evaluate {what}", "device": line, "values": values, "id": ""}
        ledger.append(dataclasses.replace(record(0, 0.5), **made), folder)
    extensions = {"amsmath", "colon_fence", "deflist", "dollarmath", "substitution"}  # _config.yml's
    parser = create_md_parser(MdParserConfig(enable_extensions=extensions), RendererHTML)
    tokens = parser.parse(records.tables(project.root))
    blocks = {token.type for token in tokens if token.type not in ("inline", "html_block")}
    assert {name.rsplit("_", 1)[0] for name in blocks} <= {
        "paragraph", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    inside = [child for token in tokens if token.type == "inline" for child in token.children]
    assert {child.type for child in inside} <= {"text", "html_inline", "code_inline", "strong_open", "strong_close"}
    assert all(
        re.fullmatch(r'<span id="\w+">|</span>|<br>', one.content) for one in inside if one.type == "html_inline"
    )
    raw = [token.content for token in tokens if token.type == "html_block"]
    assert len(raw) == 2 and re.fullmatch(r"<details>\n<summary><code>cifar</code> [^<>]*</summary>\n", raw[0])
    shown = "".join(child.content for child in inside if child.type == "text")
    plain = " ".join(text.split()).replace("\x1b", r"\x1b").replace("\x07", r"\x07")
    assert plain in shown and f"dtl evaluate {line}" in [c.content for c in inside if c.type == "code_inline"]


def test_what_a_link_states(project, folder):
    one = records.stated(project.root, record(1, 0.6).id)
    assert one["accuracy"] == [0.6] and one["n"] == [500] and one["curve"] == [0.1, 0.6]
    assert one["accuracy over runs"] == pytest.approx([0.6, 3, 0.248, 0.1], abs=1e-3)
    every = records.stated(project.root, "cifar")
    assert every["accuracy"] == [0.5, 0.6, 0.7, 0.25] and every["accuracy over runs"][4:] == [0.25, 1]
    assert records.stated(project.root, "nothing") == {}


def test_an_empty_ledger_says_so(project):
    assert records.tables(project.root) == "No records yet.\n"


def test_every_reference_has_a_title(project):
    titles = records.references(project.root)
    assert titles["touvron2021going"] == "Going Deeper with Image Transformers"
    assert len(titles) > 30


def test_a_parser_becomes_a_page():
    parser = argparse.ArgumentParser(prog="dtl", description="All of it.")
    train = parser.add_subparsers().add_parser("train", description="Train a model.")
    train.add_argument("--lr", type=float, default=1e-3, metavar="RATE", help="learning rate, 100%% of it")
    train.add_argument("--data", choices=["shapes", "cifar10"], help="what to train on")
    train.add_argument("--ema", action="store_true", help="average the weights")
    page = command_line.describe(parser)
    assert "## `dtl train`\n\nTrain a model." in page
    assert "`--lr RATE`\n: learning rate, 100% of it. Default: `0.001`." in page
    assert "One of `shapes`, `cifar10`." in page
    assert "`--ema`\n: average the weights. Default: off." in page
    assert "--help" not in page


@pytest.mark.slow
def test_every_flag_on_the_page_has_its_default():
    flags = re.findall(r"^`--.*\n: (.*)$", command_line.reference(), re.MULTILINE)
    assert len(flags) > 100
    assert [text for text in flags if "efault: " not in text] == []
    assert (
        "`--batch-size N`\n: images in one optimiser step, over all processes. Default: `128`"
        in command_line.reference()
    )


def test_the_tables_hold_every_model_and_recipe_as_they_are(monkeypatch):
    table = reference.models()
    columns = [cell.strip() for cell in table.splitlines()[0].split("|")]
    for name, config in configurations().items():
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}` |")]
        shown = dict(zip(columns, (cell.strip() for cell in row.split("|")), strict=True))
        assert shown["width"] == str(config.dim) and shown["heads"] == str(config.heads)
        assert shown["parameters, M"] == f"{config.cost().parameters / 1e6:.2f}" and shown["patch"] == str(
            config.patch_size
        )
    assert f"`{'`, `'.join(['deit', 'cait'])}`".replace(", ", " | ") in reference.recipe_tables()
    known = recipes()
    known["novel"] = dataclasses.replace(known["deit"], lr=0.0123)
    monkeypatch.setattr(reference, "recipes", lambda: known)
    assert "### Others\n\n| field | `novel` |" in reference.recipe_tables()
    assert "| `lr` | 0.0123 |" in reference.recipe_tables()


def test_a_citation_names_the_commit(project, monkeypatch):
    monkeypatch.setattr(reference, "commit", lambda root: "abc123")
    entry = reference.citation(Project())
    assert "note    = {commit abc123}" in entry and Project().address in entry
    monkeypatch.undo()
    assert reference.commit(project.root) == "unknown"


@pytest.mark.slow
def test_the_command_line_page_has_every_command():
    page = command_line.reference()
    for name, command in COMMANDS.items():
        assert f"## `dtl {name}`\n\n{command.SUMMARY}" in page
