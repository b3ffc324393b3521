"""Cards, states, records, plans, recipes and flags with values that nobody meant."""

import contextlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from dtl_lib import checkpoint, ledger
from dtl_lib.__main__ import main
from dtl_lib.cli.commands import COMMANDS
from dtl_lib.cli.parser import Parser
from dtl_lib.config import ViTConfig
from dtl_lib.hashing import plain
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe, fit, state
from tests.fuzz.limited import LEAVES, NASTY_TEXT, changed, examples, limited
from tests.unit.disturbed import RECIPE, small_sets, tiny


@pytest.fixture(scope="module")
def sets():
    return small_sets()


@pytest.fixture(scope="module")
def run(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(tiny(), sets, RECIPE, folder, progress=False, card={"run": {"data": {"name": "shapes", "path": None}}})
    return folder


def test_cards(run, sets, tmp_path_factory, monkeypatch):
    """Without a seal, so that what reads the values sees them; everything up to the evaluation, which takes long."""

    def stopped(*_, **__):
        raise ValueError("here it would be evaluated")

    monkeypatch.setattr("dtl_lib.train.evaluate", stopped)

    @examples(40)
    @given(st.data(), st.sampled_from(("best.safetensors", "state.safetensors")))
    def fuzz(data, name):
        tensors, card = checkpoint.read(run / name)
        card = changed(data.draw, {key: value for key, value in card.items() if key not in ("seal", "digest")})
        folder = tmp_path_factory.mktemp("changed")
        for each in ("best.safetensors", "state.safetensors"):
            (folder / each).write_bytes((run / each).read_bytes())
        save_file(tensors, folder / name, metadata={"card": json.dumps(card)})
        if name == "best.safetensors":
            with limited():
                quiet(["evaluate", "--model-path", str(folder / name), "--quiet", "--device", "cpu"])
        with limited():
            fit(tiny(1), sets, RECIPE, folder, progress=False, resume=True)

    fuzz()


def quiet(line: list[str]) -> int:
    """A command's status, whose output may not hold what drives a terminal, and whose failure is one line."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        status = main(line)
    lines = error.getvalue().splitlines()
    assert status in (0, 2) and (status == 0 or sum(text.startswith("dtl: ") for text in lines) == 1), error.getvalue()
    assert not any(sign in out.getvalue() + error.getvalue() for sign in "\x1b\a\b\0"), (out, error)
    return status


DEFAULTS = {"epochs": 1.0, "distill": "hard"}  # what the help says that leaving one out may mean


@examples(300)
@given(st.data(), st.sampled_from((Recipe, ViTConfig, TokenPlan)))
def test_values_of_recipes_configurations_and_plans(data, kind):
    usual = {
        Recipe: lambda: Recipe(max_steps=3).to_dict(),
        ViTConfig: lambda: ViTConfig(32, 8, dim=16, depth=2, heads=2).to_dict(),
        TokenPlan: lambda: json.loads(TokenPlan.of(4, reg_pos=1, num_reg=2).to_json()),
    }[kind]()
    with limited():
        values = changed(data.draw, usual)
        made = TokenPlan.from_json(values) if kind is TokenPlan else kind.from_dict(values)
        if kind is ViTConfig:
            made.cost()
        written = made.to_json() if kind is TokenPlan else made.to_dict()
        assert made == (TokenPlan.from_json(written) if kind is TokenPlan else kind.from_dict(written))
        written = json.loads(written) if kind is TokenPlan else plain(written)
        for name, value in values.items():  # nothing is taken for something else
            if name == "groups":
                by_name = {group["name"]: group for group in written[name]}
                assert isinstance(value, list) and len(value) == len(by_name)
                assert all(group.items() <= by_name[group["name"]].items() for group in value)
            elif value is None and name in DEFAULTS:
                assert written[name] in (None, DEFAULTS[name]), name
            elif name != "plan":
                square = name == "image_size" and isinstance(value, int)
                assert written[name] == ([value] * 2 if square else value), name


@examples(200)
@given(st.data())
def test_records(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("records")
    record = json.loads((ledger.FOLDER / "training_plateau.jsonl").read_text().splitlines()[0])
    record = changed(data.draw, {**record, "id": ""})
    with limited():
        (folder / "training_plateau.jsonl").write_text(json.dumps(record) + "\n")
        for read in ledger.read("training_plateau", folder):
            read.get("accuracy")


@examples(300)
@given(st.binary(max_size=400))
def test_bytes_that_are_no_checkpoint(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "best.safetensors"
    path.write_bytes(content)
    for read in (checkpoint.read, checkpoint.read_card, checkpoint.load_model, lambda path: state.read(path.parent)):
        with limited():
            read(path)


FLAGS = {
    name: sorted(flag for flag in _flags._option_string_actions if flag.startswith("--") and flag != "--help")
    for name, command in COMMANDS.items()
    for _flags in [Parser()]
    if command.flags(_flags) is None
}
WORDS = st.one_of(LEAVES.map(str), st.sampled_from(NASTY_TEXT), st.sampled_from(("none", "0", "1", "2", "cpu", "0.5")))


@pytest.fixture
def an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DTL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"atlas", "bench"}))  # these two measure for minutes
def test_flags(command, an_empty_folder, monkeypatch):
    """Everything up to the training itself, which is replaced."""

    def stopped(*_, **__):
        raise ValueError("here it would be trained")

    monkeypatch.setattr("dtl_lib.train.fit", stopped)

    @examples(60)
    @given(
        st.lists(st.tuples(st.sampled_from(FLAGS[command] or ["--none"]), WORDS), max_size=4),
        st.lists(WORDS, max_size=1),
    )
    def fuzz(flags, rest):
        line = [command, *rest, *(part for flag in flags for part in flag)]
        with limited():
            quiet(line)
        assert not Path("fuzzed").exists()

    fuzz()
