"""The files of stored results: opened, or refused in one line; written, with where they are from; and made anew."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__

LEDGER = Path(__file__).parents[1] / "ledger"
LEVELS = 255  # of a map's root, above 0


@contextmanager
def opened(file: Path, command: str) -> Iterator:
    """Inside, the open file, as `safetensors.safe_open` gives it.

    Args:
        file: where the result is stored.
        command: what writes it again.

    Raises:
        ValueError: where it is not there, or something that is read inside is missing or damaged.
    """
    if not file.is_file():
        have = ", ".join(sorted(path.stem for path in file.parent.glob("*.safetensors"))) or "nothing"
        raise ValueError(f"no result {file.stem!r} is stored in {file.parent}; there is {have}")
    try:
        with safe_open(file, "pt") as content:
            yield content
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is damaged ({error}): `{command}` writes it again") from None


def read_file(file: Path, command: str, maps: tuple[str, ...], halves: tuple[str, ...] = ()) -> dict:
    """The values of a stored result's file, by field; a ValueError where it is not there, or damaged."""
    with opened(file, command) as content:
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        card = json.loads(content.metadata()["card"])
        read = {key: (tensors[key] * tensors[f"{key}_scale"]).square() for key in maps}
        read |= {key: tensors[key].float() for key in (*halves, "probabilities")}
        return read | {"names": tuple(card["names"]), "source": card["source"]}


def write_file(result, file: Path, maps: tuple[str, ...], halves: tuple[str, ...] = ()) -> Path:
    """Write a stored result's fields; returns the file."""
    tensors = {key: getattr(result, key).half() for key in halves}
    tensors["probabilities"] = result.probabilities
    for key in maps:
        tensors[key], tensors[f"{key}_scale"] = quantise(getattr(result, key))
    card = json.dumps({"names": result.names, "source": result.source})
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata={"card": card})
    return file


def quantise(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of maps `(…, rows, columns)` as uint8, and the scale of each: a map is `(codes * scale)²`."""
    scale = maps.amax(dim=(-2, -1), keepdim=True).sqrt() / LEVELS
    return (maps.sqrt() / scale).round().to(torch.uint8), scale


def source_of(command: str, weights: str, licence: str, *photos: str) -> dict[str, str]:
    """What a stored result says of where it is from."""
    from ..data.photos import PHOTOS

    shown = [PHOTOS[photo] for photo in photos]
    return {
        "weights": weights,
        "weights_licence": licence,
        "photo": " and ".join(f"scikit-image's {photo.file}, {photo.source}" for photo in shown),
        "photo_licence": " and ".join(dict.fromkeys(photo.licence for photo in shown)),
        "library": f"dtl_lib {__version__}",
        "command": command,
    }


def make_files(module: str, jobs: Mapping[str, Callable[[], Path]], arguments: list[str]) -> int:
    """`make [NAME …]` of a module of stored results: runs these jobs, all where no name is given; the exit status."""
    wrong = [name for name in arguments[1:] if name not in jobs]
    if not arguments or arguments[0] != "make":
        print(f"usage: python -m {module} make [{' '.join(jobs)}]", file=sys.stderr)
        return 2
    if wrong:
        print(f"there is no stored result {wrong[0]!r}: {', '.join(jobs)}", file=sys.stderr)
        return 2
    try:
        for name in arguments[1:] or jobs:
            file = jobs[name]()
            print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
