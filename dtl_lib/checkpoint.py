"""Weights and what they are in one file: safetensors whose header carries a JSON card. Nothing is ever unpickled."""

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from . import __version__
from .atomic import replace
from .checks import first_line
from .config import ViTConfig
from .hashing import checksum, seal, seal_holds, to_json
from .models import ViT
from .paths import kind

SUFFIX = ".safetensors"
BEST, BEST_CARD = f"best{SUFFIX}", "best.json"  # what a training run keeps its best weights in, and their card
MODEL, STATE = "dtl_lib model", "dtl_lib training state"
PICKLES = (b"PK\x03\x04", b"\x80")  # torch.save's archive; a bare pickle of protocol 2 or later
READ_WHOLE = 2**28  # bytes
LONGEST_HEADER = 10**8  # bytes, as safetensors has it
ATTEMPTS = 5  # at reading a file that another process replaces at the same time
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message says why and what would be right."""


class AccessError(CheckpointError):
    """The system does not let a file be read; what is in it may be whole, so that nothing may be put in its place."""


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
    text = to_json(card, indent=2) + "\n"
    _replace(path.with_suffix(".json"), lambda file: file.write_text(text, encoding="utf-8"))
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
        config = ViTConfig.from_dict(card["config"])
        with torch.device("meta"):  # shapes are compared before anything large is made
            expected = ViT(config).state_dict()
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its card holds no configuration of a ViT ({error})") from None
    fits(path, state, expected)
    model = ViT(config)
    model.load_state_dict(state)
    model.card, model.trained = dict(card), True
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
        text = _card_text(path)
        read = _tensors(path) if text and tensors else {}
    except OSError as error:
        raise AccessError(f"{path} cannot be read ({first_line(error)}): nothing is put in its place") from None
    except (SafetensorError, RuntimeError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no safetensors file, or cut short or damaged ({first_line(error)}): fetch or save it again"
        ) from None
    try:
        card = json.loads(text or "null")
        if card["format"] not in (MODEL, STATE):
            raise KeyError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise CheckpointError(
            f"{path} has no card that says which model it is: it was not saved by dtl_lib; "
            "weights from timm load by their name, load_pretrained(name)"
        ) from None
    if not seal_holds(card):
        raise CheckpointError(f"{path} is damaged: its card is not the one that was saved; use an earlier copy")
    return read, card


def _card_text(path: Path) -> str | None:
    """The card in a file's header, whose places have to end where the file does; None where it has no card."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        end = os.fstat(file.fileno()).st_size
        if length > min(end - 8, LONGEST_HEADER):
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(length))
    about = header.pop("__metadata__", None) or {}
    if 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0) != end:
        raise ValueError("its length is not what its header says")
    return about.get("card")


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file. A small one is read in one go: whoever cuts it short meanwhile does no harm.

    A large one is mapped, as it need not fit into memory twice; the system ends a process that reads what has been cut
    off from under it.
    """
    if path.stat().st_size <= READ_WHOLE:
        return load(path.read_bytes())
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def write(path: Path, tensors: Mapping[str, Tensor], card: Mapping, kind: str, previous: Path | None = None) -> dict:
    """Tensors and card in one file, whole or not at all: written beside `path`, flushed, then renamed to it.

    Where `previous` is given, the file that was at `path` is kept under that name.

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
        text = to_json(card)
    except TypeError as error:
        raise CheckpointError(f"a card holds plain values (text, numbers, lists, dictionaries): {error}") from None
    _replace(path, lambda file: save_file(plain, file, metadata={"card": text}), previous)
    return card


def _replace(path: Path, fill: Callable[[Path], object], previous: Path | None = None) -> None:
    try:
        replace(path, fill, previous)
    except (OSError, SafetensorError) as error:
        kept = "; the one before it is untouched" if path.is_file() else ""
        raise CheckpointError(
            f"{path} could not be written ({first_line(error)}){kept}: choose a folder with room"
        ) from None


def _refuse(path: Path) -> None:
    """What can be told from a file's first bytes, without reading it as anything."""
    try:
        if (found := kind(path)) not in ("a file", None):
            raise CheckpointError(f"{path} is {found}: give a checkpoint file, such as {BEST}")
        with open(path, "rb") as file:
            start = file.read(9)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} does not exist: give a checkpoint file, such as {BEST}") from None
    except ValueError as error:  # a null character
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path!r} cannot be a file's name: give a checkpoint file, such as {BEST}") from None
    except OSError as error:
        raise AccessError(f"{path} cannot be read ({first_line(error)}): nothing is put in its place") from None
    if not start:
        raise CheckpointError(f"{path} is empty: the save was cut off or the disk was full; fetch or save it again")
    safe = start[8:] == b"{"  # eight bytes say how long the header is, and it is JSON
    if (start.startswith(PICKLES) and not safe) or path.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt"):
        raise CheckpointError(
            f"{path} is a pickle (torch.save), which can run code when it is read: give a {SUFFIX} file"
        )
