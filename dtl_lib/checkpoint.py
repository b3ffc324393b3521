"""Weights and what they are in one file: safetensors whose header carries a JSON card. Nothing is ever unpickled."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import __version__
from .checks import first_line
from .config import ViTConfig
from .hashing import checksum, seal, seal_holds
from .models import ViT

SUFFIX = ".safetensors"
BEST = f"best{SUFFIX}"  # what a training run keeps its best weights in
MODEL, STATE = "dtl_lib model", "dtl_lib training state"
PICKLES = (b"PK\x03\x04", b"\x80")  # torch.save's archive; a bare pickle of protocol 2 or later
ATTEMPTS = 5  # at reading a file that another process replaces at the same time
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message says why and what would be right."""


def save_model(
    path: str | Path, model: ViT, card: Mapping | None = None, weights: Mapping[str, Tensor] | None = None
) -> Path:
    """Weights and card in one safetensors file, and a copy of the card to read beside it.

    Args:
        path: ends in `.safetensors`; its folder is made where missing.
        model: the weights and their configuration.
        card: more to say: data, accuracy, n, command, date, … as plain values.
        weights: the model's, where it does not hold them whole itself.

    Returns:
        The path.

    Raises:
        CheckpointError: where it cannot be written; the file that was there before is then untouched.
    """
    path = Path(path)
    weights = model.state_dict() if weights is None else weights
    card = write(path, weights, {**(card or {}), "config": model.config.to_dict()}, MODEL)
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    replace(path.with_suffix(".json"), lambda file: file.write_text(text, encoding="utf-8"))
    return path


def load_model(path: str | Path) -> ViT:
    """The model in a checkpoint, ready to evaluate, with its card as `model.card`.

    Raises:
        CheckpointError: where the file is missing, cut short, a pickle, no model, or does not fit its own card.
    """
    state, card = read(path)
    if card["format"] != MODEL:
        raise CheckpointError(f"{path} is a {card['format']}, not a model: load the {BEST} beside it, or resume")
    return build(path, state, card)


def build(path: str | Path, state: Mapping[str, Tensor], card: Mapping) -> ViT:
    """A `ViT` of the card's configuration with these weights; a CheckpointError where the two do not fit."""
    try:
        model = ViT(ViTConfig.from_dict(card["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its card holds no configuration of a ViT ({error})") from None
    fits(path, state, model.state_dict())
    model.load_state_dict(state)
    model.card = dict(card)
    return model.eval()


def fits(path: str | Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """A CheckpointError that names the first tensor in which a file and a model differ."""
    for name in sorted(set(state) | set(expected)):
        if name not in expected:
            raise CheckpointError(
                f"{path} holds {name}, which its configuration does not have: the two do not belong together"
            )
        if name not in state:
            raise CheckpointError(f"{path} lacks {name}, which its configuration needs: the two do not belong together")
        have, want = state[name], expected[name]
        if have.shape != want.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(have.shape)} and its configuration needs {tuple(want.shape)}"
            )
        if have.dtype not in FLOATS:
            raise CheckpointError(
                f"{path}: {name} is {have.dtype}, and weights are floating point, such as torch.float32"
            )


def read(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors by name, and the card, of a file that `save_model` or a training run has written.

    Raises:
        CheckpointError: where the file is missing, empty, cut short, damaged, a pickle, or has no card.
    """
    path = Path(path)
    _refuse(path)
    for _ in range(ATTEMPTS):  # safetensors opens a file more than once, and a running training may replace it between
        identity = _identity(path)
        try:
            tensors, card = _read(path)
        except CheckpointError:
            if identity == _identity(path):
                raise
            continue
        if card.get("digest", digest := checksum(tensors)) == digest:
            return tensors, card
        if identity == _identity(path):
            break
    raise CheckpointError(f"{path} is damaged: its tensors are not those that were saved; use an earlier copy")


def read_card(path: str | Path) -> dict:
    """The card of such a file alone, which is quick also where the tensors are many; they are not looked at.

    Raises:
        CheckpointError: as `read`, where that shows at the file's start or in its length.
    """
    _refuse(Path(path))
    return _read(Path(path), tensors=False)[1]


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("card")
            read = {name: file.get_tensor(name) for name in file.keys()} if text and tensors else {}
    except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: shorter than its header says
        raise CheckpointError(
            f"{path} is no safetensors file, or cut short or damaged ({first_line(error)}): fetch or save it again"
        ) from None
    try:
        card = json.loads(text or "null")
        if card["format"] not in (MODEL, STATE):
            raise KeyError
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(
            f"{path} has no card that says which model it is: it was not saved by dtl_lib; "
            "weights from timm load by their name, load_pretrained(name)"
        ) from None
    if not seal_holds(card):
        raise CheckpointError(f"{path} is damaged: its card is not the one that was saved; use an earlier copy")
    return read, card


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def write(path: Path, tensors: Mapping[str, Tensor], card: Mapping, kind: str, before: Path | None = None) -> dict:
    """Tensors and card in one file, whole or not at all: written beside `path`, flushed, then renamed to it.

    Where `before` is given, the file that was at `path` is kept under that name.

    Returns:
        The card, with format, date, versions, digest and seal added.
    """
    if path.suffix != SUFFIX:
        raise CheckpointError(f"call it {path.with_suffix(SUFFIX).name}, not {path.name}: checkpoints are safetensors")
    stamp = {"format": kind, "library": __version__, "torch": torch.__version__}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    card = {"date": date, **card, **stamp, "digest": checksum(plain)}
    try:
        card["seal"] = seal(card)
        text = json.dumps(card, ensure_ascii=False)
    except TypeError as error:
        raise CheckpointError(f"a card holds plain values (text, numbers, lists, dictionaries): {error}") from None
    replace(path, lambda file: save_file(plain, file, metadata={"card": text}), before)
    return card


def replace(path: Path, fill, before: Path | None = None) -> None:
    """`fill` a temporary file beside `path` and rename it; on failure nothing is left and nothing lost."""
    # a folder: safetensors writes to a file of another name first, and what a killed one leaves, the next save finds
    part = path.with_name(f".{path.name}.part")
    temporary = part / path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        part.mkdir()
        (part / "mode").touch()
        fill(temporary)
        temporary.chmod((part / "mode").stat().st_mode)  # what the umask says; safetensors gives 600
        _flush(temporary)
        if before and path.is_file():
            _keep(path, before)
        os.replace(temporary, path)
        _flush(path.parent)
    except (OSError, SafetensorError) as error:
        kept = "; the one before it is untouched" if path.is_file() else ""
        raise CheckpointError(
            f"{path} could not be written ({first_line(error)}){kept}: choose a folder with room"
        ) from None
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()  # a file, as an earlier version of this library left it
    shutil.rmtree(part, ignore_errors=True)


def _keep(path: Path, before: Path) -> None:
    """A second name for the file at `path`, which stays there: at no moment is there none."""
    spare = before.with_name(f".{before.name}.part")
    with contextlib.suppress(OSError):
        spare.unlink()
    try:
        os.link(path, spare)
        os.replace(spare, before)
    except OSError:  # a file system without links
        os.replace(path, before)


def _flush(path: Path) -> None:
    if os.name != "posix" and path.is_dir():
        return  # a folder cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # not every file system can
            raise
    finally:
        os.close(handle)


def _refuse(path: Path) -> None:
    """What can be told from a file's first bytes, without reading it as anything."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}: give a checkpoint file, such as {BEST}")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)})") from None
    if not start:
        raise CheckpointError(f"{path} is empty: the save was cut off or the disk was full; fetch or save it again")
    safe = start[8:] == b"{"  # eight bytes say how long the header is, and it is JSON
    if (start.startswith(PICKLES) and not safe) or path.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt"):
        raise CheckpointError(
            f"{path} is a pickle (torch.save), which can run code when it is read: give a {SUFFIX} file"
        )
