"""WebDataset shards with random access: tar files of images and their classes, read through an index."""

import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...host import data_folder
from ...paths import user_path
from ..files import LabelledFiles
from ..images import CorruptImage, Sets
from ..splits import PART_NAMES, cut

BLOCK = 512
END = bytes(BLOCK)
PICTURES = ("jpg", "jpeg", "png", "webp")
REGULAR = (b"0", b"\0", b"7")


class Shards:
    """The samples of some shards; called with a number, it is a source for `ImageFiles`.

    Members that share a name up to the first dot are one sample: a picture, and its class as a number in `.cls` or
    under "label" in `.json`. Only headers and classes are read here; a picture is read when it is asked for, from a
    shard opened anew: what vanishes in the meantime is a `CorruptImage`.

    Args:
        paths: of the shards, in order.

    Raises:
        ValueError: for a shard that cannot be read, is cut short, or has a sample without picture or class.
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


def load(path=None, image_size=None, samples: int | None = None, config=None) -> Sets:
    """WebDataset shards: `train/*.tar` and `val/*.tar`, or tar files with these words in their names.

    Without either word all shards train. What is held out, and what is missing, is cut from the training samples as for
    a folder. Classes are the lines of `classes.txt` where it lies there, else numbers. Samples are read one by one, in
    any order, so shards belong on a disk with fast random access; nothing is written beside them.

    Args:
        path: the folder; `wds` under `DTL_DATA` where None.
        image_size, samples, config: as for a folder.

    Raises:
        ValueError: where there is no folder or no shard, a number is missing among the shards', or one is damaged.
    """
    root = user_path(path) if path is not None else data_folder() / "wds"
    shards = _parts(root)
    for paths in shards.values():
        _check_numbers(paths)
    sources = {part: Shards(paths) for part, paths in shards.items()}
    classes = _classes(root, sources)
    sets = {}
    for part, (source, members) in cut(sources, dict.fromkeys(sources, root), samples).items():
        sets[part] = LabelledFiles(f"wds {part}", classes, source, members, config, image_size)
    return Sets(**sets)


def members(path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the regular files in a tar, from its headers alone.

    Not by `tarfile`, which makes an object of every member: to index a shard of 10,000 samples took 1.53 s with it and
    0.15 s with this, for a shard as webdataset writes it (pax), and 0.87 s against 0.24 s as GNU tar does.

    Knows ustar, GNU's long names and pax's (POSIX.1-2001, pax, "ustar Interchange Format").

    Raises:
        ValueError: where it is not a tar file or is cut short.
    """
    with open(path, "rb", buffering=4096) as file:
        end, place, extended = os.fstat(file.fileno()).st_size, 0, {}
        while place < end:
            file.seek(place)
            header = file.read(BLOCK)
            if header == END:
                return
            if len(header) < BLOCK:
                break
            kind, size, start = header[156:157], _size(header, path), place + BLOCK
            size = int(extended.get("size", size)) if kind in REGULAR else size
            if kind == b"x":
                extended |= _pax_records(file.read(size), path)
            elif kind == b"L":
                extended["path"] = file.read(size).rstrip(b"\0").decode(errors="replace")
            elif kind != b"K":
                if kind in REGULAR:
                    yield extended.get("path") or _name(header), start, size
                extended = {}
            place = start + -(-size // BLOCK) * BLOCK
    raise ValueError(f"{path} is cut short: it has no end mark after {end:,} bytes; get it again")


def _size(header: bytes, path) -> int:
    field = header[124:136]
    try:
        if header[257:262] != b"ustar":
            raise ValueError
        if field[:1] >= b"\x80":  # beyond 8 GiB
            return int.from_bytes(field[1:], "big")
        return int(field.rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        raise ValueError(f"{path} is not a tar file, or damaged; get it again") from None


def _name(header: bytes) -> str:
    name, folder = (part.partition(b"\0")[0].decode(errors="replace") for part in (header[:100], header[345:500]))
    return f"{folder}/{name}" if folder and header[257:263] == b"ustar\0" else name


def _pax_records(content: bytes, path) -> dict[str, str]:
    """A pax header's values: lines of length, key=value."""
    values = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not int(length):
            raise ValueError(f"{path} is not a tar file, or damaged; get it again")
        key, _, value = content[: int(length)].partition(b" ")[2].rstrip(b"\n").partition(b"=")
        values[key.decode(errors="replace")] = value.decode(errors="replace")
        content = content[int(length) :]
    return values


def _samples(path: str) -> Iterator[tuple[str, tuple[int, int], int]]:
    """Key, place of the picture and class of each sample of a shard, in its order."""
    parts_by_key: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        for name, offset, size in members(path):
            folder, _, file = name.rpartition("/")
            stem, _, ending = file.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            parts_by_key.setdefault(key, {})[ending.lower()] = offset, size
        with open(path, "rb") as shard:
            for key, parts in parts_by_key.items():
                picture = next((parts[ending] for ending in PICTURES if ending in parts), None)
                if picture is None:
                    raise ValueError(f"{path}: {key} has no picture ({', '.join('.' + name for name in PICTURES)})")
                yield key, picture, _target(shard, parts, f"{path}: {key}")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); put the shard back") from None


def _target(shard, parts: dict[str, tuple[int, int]], name: str) -> int:
    for ending, parse in (("cls", int), ("json", lambda content: int(json.loads(content)["label"]))):
        if ending in parts:
            offset, size = parts[ending]
            shard.seek(offset)
            content = shard.read(size)
            try:
                target = parse(content)
            except (ValueError, KeyError, TypeError):
                target = -1
            if target < 0:
                raise ValueError(f"{name}.{ending} has no class: a number from 0 is needed, not {content[:40]!r}")
            return target
    raise ValueError(f'{name} has no class: a number in .cls, or under "label" in .json, is needed')


def _parts(root: Path) -> dict[str, list[Path]]:
    """The shards to train on and to test on."""
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; one with train/*.tar and val/*.tar was expected")
    loose, shards = sorted(root.glob("*.tar")), {}
    for part, names in PART_NAMES.items():
        for name in names:
            named = [path for path in loose if name in re.split("[^a-z]+", path.stem.lower())]
            if paths := sorted((root / name).glob("*.tar")) or named:
                shards[part] = paths
                break
    if not shards and not loose:
        raise ValueError(
            f"{root} holds no shards: train/*.tar and val/*.tar were expected there, or *train*.tar, *val*.tar"
        )
    return shards or {"train": loose}


def _check_numbers(paths: Sequence[Path]) -> None:
    """A ValueError for a gap in the shards' numbers."""
    series: dict[tuple, list[int]] = {}
    for path in paths:
        if number := re.match(r"(.*?)(\d+)(\D*)$", path.name):
            before, digits, after = number.groups()
            series.setdefault((before, len(digits), after), []).append(int(digits))
    for (before, width, after), numbers in series.items():
        if missing := sorted(set(range(min(numbers), max(numbers))) - set(numbers)):
            name = f"{before}{missing[0]:0{width}}{after}"
            raise ValueError(
                f"{paths[0].parent / name} is missing among shards {min(numbers)} to {max(numbers)} "
                f"({len(missing)} in all): put it there, or number the shards without a gap"
            )


def _classes(root: Path, sources: dict[str, Shards]) -> tuple[str, ...]:
    """The names in `classes.txt`, or numbers up to the largest class there is."""
    for part, source in sources.items():
        if not len(source):
            raise ValueError(f"the {part} shards of {root} hold no samples")
    count = 1 + max(int(source.targets.max()) for source in sources.values())
    file = root / "classes.txt"
    if not file.is_file():
        return tuple(map(str, range(count)))
    names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    if len(names) < count:
        raise ValueError(f"{file} names {len(names)} classes and the shards have {count}: a line for each is needed")
    return names
