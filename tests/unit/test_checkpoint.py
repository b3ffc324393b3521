"""Weights and card in one file, whole or not at all; nothing is ever unpickled."""

import errno
import json
import os
import pickle
import resource
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dtl_lib import __version__, atomic, checkpoint
from dtl_lib.checkpoint import CheckpointError, load_model, read, save_model
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.pretrained import load_pretrained
from dtl_lib.tokens import Group, TokenPlan

ROOT = Path(__file__).parents[2]
PLAN = TokenPlan(3, (Group("cls", 1, 1), Group("reg", 2, 0), Group("late", 1, 1, 2)))
CONFIG = ViTConfig(16, 8, dim=16, depth=3, heads=2, classes=5, plan=PLAN, mean=(0.1, 0.2, 0.3), layer_scale=0.5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = ViT(CONFIG)
    for value in model.parameters():
        torch.nn.init.normal_(value)
    return model.eval()


@pytest.fixture
def saved(model, tmp_path):
    return save_model(tmp_path / "deep" / "best.safetensors", model, {"accuracy": 0.5, "name": "tiny ± ViT"})


def test_what_is_saved_is_what_is_loaded(model, saved):
    again = load_model(saved)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(images), model(images))
    assert again.config == CONFIG and again.plan == PLAN and not again.training
    assert again.card["accuracy"] == 0.5 and again.card["name"] == "tiny ± ViT"
    assert again.card["library"] == __version__ and again.card["date"]
    assert torch.equal(load_pretrained(str(saved))(images), model(images))


def test_the_card_is_readable_beside_it_and_not_needed(saved):
    beside = saved.with_suffix(".json")
    assert json.loads(beside.read_text(encoding="utf-8")) == read(saved)[1]
    beside.unlink()
    assert load_model(saved).config == CONFIG
    assert sorted(path.name for path in saved.parent.iterdir()) == ["best.safetensors"]


def test_saving_does_not_touch_the_model(model, tmp_path):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_model(tmp_path / "x.safetensors", model)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_other_suffixes_and_cards_that_are_no_json_are_refused(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"call it best\.safetensors, not best\.pt"):
        save_model(tmp_path / "best.pt", model)
    with pytest.raises(CheckpointError, match="plain values"):
        save_model(tmp_path / "x.safetensors", model, {"model": model})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 40, 0.5, 0.99, -1])
def test_a_file_cut_short_is_refused(saved, keep):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="is empty" if keep == 0 else "cut short") as error:
        load_model(saved)
    assert str(saved) in str(error.value) and "\n" not in str(error.value)


def test_random_bytes_are_refused(tmp_path):
    for seed in range(40):
        path = tmp_path / f"{seed}.safetensors"
        path.write_bytes(bytes(torch.randint(256, (500,), generator=torch.Generator().manual_seed(seed)).tolist()))
        with pytest.raises(CheckpointError):
            load_model(path)


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["best.pt", "best.pth", "renamed.safetensors"])
@pytest.mark.parametrize("how", ["pickle", "old pickle", "torch", "old torch"])
def test_a_pickle_is_refused_and_never_run(tmp_path, name, how):
    path, trap = tmp_path / name, Trap(tmp_path / "ran")
    if how.endswith("pickle"):
        path.write_bytes(pickle.dumps(trap, protocol=0 if how.startswith("old") else 5))
    else:
        torch.save({"model": trap}, path, _use_new_zipfile_serialization=how == "torch")
    for load in (load_model, read):
        with pytest.raises(CheckpointError, match="is no safetensors|is a pickle"):
            load(path)
    if how != "old pickle" or name != "renamed.safetensors":
        with pytest.raises(CheckpointError, match="pickle .*safetensors file"):
            load_model(path)
    assert not (tmp_path / "ran").exists()
    with open(path, "rb") as file:  # the trap does work
        torch.load(file, weights_only=False) if how.endswith("torch") else pickle.load(file)
    assert (tmp_path / "ran").exists()


def test_a_header_that_begins_like_a_pickle_is_still_read(tmp_path, model):
    sizes = set()
    for length in range(0, 256, 8):  # the header's length is the file's first bytes: some of them are 0x80
        path = save_model(tmp_path / "x.safetensors", model, {"note": "x" * length})
        sizes.add(path.read_bytes()[0])
        assert load_model(path).config == CONFIG
    assert 0x80 in sizes


@pytest.mark.parametrize("change", [{"accuracy": 0.9}, {"name": "another"}, {"more": 1}, {"date": "2020-01-01"}])
def test_a_card_changed_by_hand_is_refused(saved, change):
    tensors, card = read(saved)
    save_file(tensors, saved, metadata={"card": json.dumps(card)})
    assert read(saved)[1] == card
    save_file(tensors, saved, metadata={"card": json.dumps(card | change)})
    for look in (load_model, checkpoint.read_card):
        with pytest.raises(CheckpointError, match="is damaged: its card is not the one that was saved"):
            look(saved)


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path, model, saved):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "nowhere.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_model(tmp_path)
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match=r"no card .* load_pretrained\(name\)"):
        load_model(tmp_path / "bare.safetensors")
    for card in ("no json", "[]", '"text"', '{"format": "another"}', "{}"):
        save_file(model.state_dict(), tmp_path / "bare.safetensors", metadata={"card": card})
        with pytest.raises(CheckpointError, match="no card"):
            load_model(tmp_path / "bare.safetensors")
    checkpoint.write(tmp_path / "state.safetensors", model.state_dict(), {}, checkpoint.STATE)
    with pytest.raises(CheckpointError, match="training state, not a model"):
        load_model(tmp_path / "state.safetensors")


def tampered(saved, change_tensors=None, change_card=None):
    tensors, card = read(saved)
    tensors, card = (change_tensors or dict)(tensors), (change_card or dict)(card)
    card = {name: value for name, value in card.items() if name not in ("digest", "seal")}  # by one who knows both
    save_file(tensors, saved, metadata={"card": json.dumps(card)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, dim=32), "has shape .* and its configuration needs"),
        (lambda c: replace(c, classes=7), r"classifiers.cls.bias has shape \(5,\)"),
        (lambda c: c.with_plan(TokenPlan.of(3)), "holds tokens.late, which its configuration does not have"),
        (lambda c: replace(c, layer_scale=None), "holds blocks.0.scale1.factor"),
        (lambda c: replace(c, qkv_bias=False), "holds blocks.0.attention.qkv.bias"),
        (lambda c: c.with_plan(TokenPlan(3, (*PLAN.groups, Group("more", 1)))), "lacks tokens.more"),
    ],
)
def test_another_configuration_or_plan_is_refused(saved, change, message):
    tampered(saved, change_card=lambda card: card | {"config": change(CONFIG).to_dict()})
    with pytest.raises(CheckpointError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"dim": 16, "colour": 1}, "no colour"), ({"dim": "wide"}, "no configuration"), (None, "no configuration")],
)
def test_a_card_without_a_configuration_is_refused(saved, config, message):
    tampered(saved, change_card=lambda card: card | {"config": config})
    with pytest.raises(CheckpointError, match=message):
        load_model(saved)


def test_weights_of_another_type_are_refused(saved):
    tampered(saved, lambda tensors: tensors | {"norm.bias": tensors["norm.bias"].to(torch.int32)})
    with pytest.raises(CheckpointError, match="norm.bias is torch.int32"):
        load_model(saved)


def test_a_failed_save_leaves_the_old_one_and_nothing_else(saved, model, monkeypatch):
    before = saved.read_bytes()

    def full(*args, **kwargs):
        Path(args[1]).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full)
    torch.nn.init.zeros_(model.norm.weight)
    with pytest.raises(CheckpointError, match=r"No space left on device\); the one before it is untouched"):
        save_model(saved, model)
    assert saved.read_bytes() == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["best.json", "best.safetensors"]


SAVE_UNDER_A_LIMIT = """
import resource, signal, sys, torch
from dtl_lib.checkpoint import load_model, save_model
model = load_model(sys.argv[1])
torch.nn.init.zeros_(model.norm.weight)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_model(sys.argv[1], model)
except ValueError as error:
    print(error)
"""


def test_a_disk_that_fills_up_while_saving(saved):
    assert saved.stat().st_size > 20_000, "the model has to be larger than the limit below"
    before = saved.read_bytes()
    command = [sys.executable, "-c", SAVE_UNDER_A_LIMIT, str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "could not be written" in done.stdout and "untouched" in done.stdout, done
    assert len(done.stdout.splitlines()) == 1
    assert saved.read_bytes() == before and load_model(saved)
    assert sorted(path.name for path in saved.parent.iterdir()) == ["best.json", "best.safetensors"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000


def test_a_folder_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        save_model(tmp_path / "file" / "best.safetensors", model)
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write everywhere (root): the folder cannot be closed to it")
    with pytest.raises(CheckpointError, match="Permission denied"):
        save_model(tmp_path / "closed" / "best.safetensors", model)


def test_a_reader_never_sees_half_a_file(saved, model, monkeypatch):
    seen = []
    real = os.replace

    def look(source, target):
        seen.append((load_file(source) if str(source).endswith(".safetensors") else None, Path(target)))
        real(source, target)

    monkeypatch.setattr(os, "replace", look)
    save_model(saved, model)
    whole, target = seen[0]
    assert target == saved and whole.keys() == model.state_dict().keys()
    assert Path(f"{target}").parent == saved.parent


def test_files_have_the_mode_that_the_umask_says(model, tmp_path):
    before = os.umask(0o027)
    try:
        saved = save_model(tmp_path / "best.safetensors", model)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (saved, saved.with_suffix(".json"))] == [0o640, 0o640]


def test_what_a_killed_save_has_left_is_gone_after_the_next(model, tmp_path, monkeypatch):
    """Killed inside safetensors, which writes to a file of a name of its own first."""

    class Killed(BaseException):
        pass

    def save_file(tensors, path, metadata):
        Path(path).with_name(".tmpA1b2C3").write_bytes(bytes(999))
        raise Killed

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    monkeypatch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)  # a killed process does not tidy up
    with pytest.raises(Killed):
        save_model(tmp_path / "best.safetensors", model)
    assert list(tmp_path.rglob(".tmp*"))
    monkeypatch.undo()
    save_model(tmp_path / "best.safetensors", model)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["best.json", "best.safetensors"]


def test_a_file_system_that_cannot_flush_folders_will_do(model, tmp_path, monkeypatch):
    real = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert load_file(save_model(tmp_path / "best.safetensors", model))
