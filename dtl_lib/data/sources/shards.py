"""WebDataset shards with random access: tar files of images and their classes, read through an index."""

import io
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...host import data_folder
from ...paths import kind, require, user_path
from ..decoding import endings
from ..images import CorruptImage, Sets
from ..labelled import labelled_sets
from ..splits import assigned, like_parts, part_of
from ..tar import members
from .folder import ignored, listed

log = logging.getLogger("dtl_lib")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LARGEST_CLASS = 10**6
LONGEST_CLASS, LONGEST_JSON = 64, 2**24  # bytes


class Shards:
    """The samples of some shards; called with a number, it is a source for `ImageFiles`.

    Members that share a name up to the first dot are one sample: an image, and its class as a number in `.cls` or
    under "label" in `.json`. Only headers and classes are read here; an image is read when it is asked for, from a
    shard opened anew: what vanishes in the meantime is a `CorruptImage`.

    Args:
        paths: of the shards, in order.

    Raises:
        ValueError: for a shard that cannot be read, is cut short, has a sample without image or class, or has two
            members of one name.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths, keys, places, targets = tuple(map(str, paths)), [], [], []
        for shard, path in enumerate(self.paths):
            for key, (offset, size), target in _samples(path):
                keys.append(key.encode())
                places.append((shard, offset, size))
                targets.append(target)
        # arrays: a million small objects would be copied into every worker, page by page
        self.keys, self.targets = np.array(keys, dtype=bytes), np.array(targets, dtype=np.int64)
        self.places = np.array(places, dtype=np.int64).reshape(-1, 3)

    def __len__(self):
        return len(self.targets)

    def __call__(self, number: int):
        shard, offset, size = self.places[number].tolist()
        name = f"{self.paths[shard]}:{self.keys[number].decode()}"
        try:
            with open(self.paths[shard], "rb", buffering=0) as file:
                return io.BytesIO(os.pread(file.fileno(), size, offset)), name, int(self.targets[number])
        except OSError as error:
            raise CorruptImage(name, f"cannot be opened ({error.strerror}); put the shard back") from None

    def listing(self, numbers: Sequence[int]) -> bytes:
        """The shards' names, and keys, places and classes of the samples."""
        names = "\n".join(map(os.path.basename, self.paths)).encode()
        return names + b"".join(part[numbers].tobytes() for part in (self.keys, self.places, self.targets))

    def sizes(self, numbers: Sequence[int]) -> list[int]:
        """The images' lengths in bytes."""
        return self.places[numbers, 2].tolist()

    def locations(self) -> set[tuple[int, int]]:
        """The shards."""
        return {(status.st_dev, status.st_ino) for status in map(os.stat, filter(os.path.exists, self.paths))}


def load(path=None, image_size=None, samples: int | None = None, config=None) -> Sets:
    """WebDataset shards: `train/*.tar`, `val/*.tar` and `test/*.tar`, or tar files with these words in their names.

    The parts are called, used and made up for as those of a folder. Without any of the words all shards train. Classes
    are the lines of `classes.txt` where it lies there, else numbers. Samples are read one by one, in any order, so
    shards belong on a disk with fast random access; nothing is written beside them.

    Args:
        path: the folder; `wds` under `DTL_DATA` where None.
        image_size, samples, config: as for a folder.

    Raises:
        ValueError: where there is no folder or no shard, a number is missing among the shards', one is damaged, or
            there is only one class to train on.
    """
    root = user_path(path) if path is not None else data_folder() / "wds"
    shards = assigned(_parts(root))
    for paths in shards.values():
        _check_numbers(paths)
    sources = {part: Shards(paths) for part, paths in shards.items()}
    classes = _classes(root, sources)
    if "train" in sources and not (sources["train"].targets != sources["train"].targets[0]).any():
        only = classes[sources["train"].targets[0]]
        raise ValueError(f"the train shards of {root} hold one class, {only}, and there is nothing to tell it from")
    folders = {part: f"{paths[0]} … ({len(paths)} shards)" for part, paths in shards.items()}
    return labelled_sets("wds", classes, sources, folders, samples, config, image_size)


def _samples(path: str) -> Iterator[tuple[str, tuple[int, int], int]]:
    """Key, place of the image and class of each sample of a shard, in its order."""
    parts_by_key: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        for name, offset, size in members(path):
            folder, _, file = name.rpartition("/")
            if ignored(file) or any(ignored(part) for part in folder.split("/") if part not in (".", "..")):
                continue
            stem, _, ending = file.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            parts = parts_by_key.setdefault(key, {})
            if parts.setdefault(ending.lower(), (offset, size)) != (offset, size):
                raise ValueError(f"{path} holds {name} twice: which of the two counts? Pack it again with one of them")
        with open(path, "rb") as shard:
            for key, parts in parts_by_key.items():
                picture = next((parts[ending[1:]] for ending in endings() if ending[1:] in parts), None)
                if picture is None:
                    raise ValueError(f"{path}: {key} has no image ({listed(endings())})")
                yield key, picture, _target(shard, parts, f"{path}: {key}")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); put the shard back") from None


def _target(shard, parts: dict[str, tuple[int, int]], name: str) -> int:
    for ending, longest, parse in (("cls", LONGEST_CLASS, _from_text), ("json", LONGEST_JSON, _from_json)):
        if ending in parts:
            offset, size = parts[ending]
            shard.seek(offset)
            content = shard.read(min(size, longest + 1))
            target = parse(content) if size <= longest else None
            if target is None or not 0 <= target <= LARGEST_CLASS:
                raise ValueError(
                    f"{name}.{ending} has no class: a number from 0 to {LARGEST_CLASS:,} is needed, "
                    f"not {content[:40]!r}"
                )
            return target
    raise ValueError(f'{name} has no class: a number in .cls, or under "label" in .json, is needed')


def _from_text(content: bytes) -> int | None:
    return int(content) if re.fullmatch(rb"\s*-?[0-9]{1,20}\s*", content) else None


def _from_json(content: bytes) -> int | None:
    try:
        label = json.loads(content)["label"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if isinstance(label, str):
        return _from_text(label.encode(errors="replace"))
    if isinstance(label, bool) or not (isinstance(label, int) or (isinstance(label, float) and label.is_integer())):
        return None
    return int(label)


def _parts(root: Path) -> dict[str, list[Path]]:
    """The shards of each part that is there."""
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; one with train/*.tar and val/*.tar was expected")
    loose, shards = _tars(root), {}
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and not ignored(entry.name)):
        if (part := part_of(folder.name)) and (paths := _tars(folder)):
            if part in shards:
                raise ValueError(
                    f"{root} holds {shards[part][0].parent.name} and {folder.name}, which are names of one part: give "
                    "one of them another name, or move it away"
                )
            shards[part] = paths
    named = {path: list(dict.fromkeys(filter(None, map(part_of, _words(path.stem))))) for path in loose}
    for path, parts in named.items():
        if len(parts) > 1:
            raise ValueError(f"{path} is named after two parts, {' and '.join(parts)}: give it a name with one of them")
    inside = set(shards)
    for path, parts in named.items():
        if parts and parts[0] not in inside:
            shards.setdefault(parts[0], []).append(path)
    used = {path for paths in shards.values() for path in paths}
    if shards and (rest := [path.name for path in loose if path not in used]):
        names = sorted(str(path.relative_to(root)) for path in used)
        log.warning("%s: %s not used; what is used: %s", root, listed(rest), listed(names))
    if not shards and len(alike := like_parts(path.name for path in loose)) > 1:
        raise ValueError(
            f"{root} holds {' and '.join(alike)}: if those are parts, put them in folders train, val and test, or have "
            "these words in their names between other signs, as in *-train-*.tar; if not, call them something else"
        )
    if not shards and not loose:
        raise ValueError(
            f"{root} holds no shards: train/*.tar and val/*.tar were expected there, or *train*.tar, *val*.tar"
        )
    return shards or {"train": loose}


def _tars(folder: Path) -> list[Path]:
    """The shards in a folder, sorted; a ValueError where compressed ones would be left out."""
    names = sorted(name for name in os.listdir(folder) if not ignored(name))
    if compressed := [name for name in names if name.lower().endswith(COMPRESSED)]:
        raise ValueError(
            f"{folder / compressed[0]} is compressed, which allows no random access ({len(compressed)} such files): "
            "decompress them to .tar files, or move them away"
        )
    return [folder / name for name in names if name.lower().endswith(".tar")]


def _words(name: str) -> list[str]:
    return re.split("[^a-z]+", name.lower())


def _check_numbers(paths: Sequence[Path]) -> None:
    """A ValueError for a gap in the shards' numbers."""
    series: dict[tuple, list[int]] = {}
    for path in paths:
        if number := re.match(r"(.*?)(\d+)(\D*)$", path.name):
            before, digits, after = number.groups()
            series.setdefault((before, len(digits), after), []).append(int(digits))
    for (before, width, after), numbers in series.items():
        numbers = sorted(set(numbers))
        if missing := numbers[-1] - numbers[0] + 1 - len(numbers):
            first = next(number + 1 for number, after_it in zip(numbers, numbers[1:]) if after_it > number + 1)
            raise ValueError(
                f"{paths[0].parent / f'{before}{first:0{width}}{after}'} is missing among shards {numbers[0]} to "
                f"{numbers[-1]} ({missing} in all): put it there, or number the shards without a gap"
            )


def _classes(root: Path, sources: dict[str, Shards]) -> tuple[str, ...]:
    """The names in `classes.txt`, or numbers up to the largest class there is."""
    for part, source in sources.items():
        if not len(source):
            raise ValueError(f"the {part} shards of {root} hold no samples")
    count = 1 + max(int(source.targets.max()) for source in sources.values())
    file = root / "classes.txt"
    if kind(file) is None:
        return tuple(map(str, range(count)))
    require(file, "a file", "a line for each class is needed there, or no such file")
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().split("\n"))
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not in UTF-8: save it again, as UTF-8 text") from None
    if "" in names:
        raise ValueError(
            f"line {names.index('') + 1} of {file} is empty: the name of class {names.index('')} is needed"
        )
    if len(names) < count:
        raise ValueError(f"{file} names {len(names)} classes and the shards have {count}: a line for each is needed")
    return names
