"""Experiment records: what was run, on which device, with which values; one JSON line each in `<experiment>.jsonl`."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from . import __version__
from .checks import LARGEST, first_line, is_line, is_whole
from .hashing import of_values, plain, to_json
from .host import device_name
from .paths import require_writable

FOLDER = Path(__file__).parent / "ledger"
CPU = "CPU core"  # as `device_name` says it
LARGEST_NUMBER = 1e300  # a value's: a float, and its mean over runs too
MENTIONED = 12  # values that an error lists


@dataclass(frozen=True)
class Record:
    """One run of an experiment.

    Args:
        experiment: the file it belongs to: a word.
        what: what was measured, in one line.
        command: what to type to repeat it.
        date: ISO 8601, UTC.
        device: its name, from `device_name`.
        library, torch: versions.
        seed: of the run; None where nothing is random.
        n: how many images, pairs, … each value is over.
        values: name → number, or a list of numbers.
        config, recipe: `to_dict` of those used; the plan is in the configuration.
        id: a hash of the rest; computed where left out.

    Raises:
        ValueError: naming the first field that is wrong.
    """

    experiment: str
    what: str
    command: str
    date: str
    device: str
    library: str
    torch: str
    seed: int | None
    n: int
    values: Mapping[str, float | list[float]]
    config: Mapping | None = None
    recipe: Mapping | None = None
    id: str = ""

    def __post_init__(self):
        for name in ("what", "command", "date", "device", "library", "torch"):
            _require(name, is_line(getattr(self, name)), "a line of text, without control characters")
        _require("experiment", isinstance(self.experiment, str) and self.experiment.isidentifier(), "a word")
        _require("date", _is_date(self.date), "an ISO 8601 date such as 2026-01-31T12:00:00+00:00")
        _require("seed", self.seed is None or _is_count(self.seed), "a whole number, or null")
        _require("n", _is_count(self.n) and self.n > 0, "a whole number above 0")
        _require("values", isinstance(self.values, Mapping) and self.values, "a dictionary of numbers, and not empty")
        for name, value in self.values.items():
            valid = all(map(_is_number, value)) if isinstance(value, list) else _is_number(value)
            _require(f"values.{name}", valid, "a finite number, or a list of them")
        for name in ("config", "recipe"):
            value = getattr(self, name)
            _require(name, value is None or isinstance(value, Mapping), "a dictionary, or null")
        digest = of_values({name: value for name, value in asdict(self).items() if name != "id"})
        _require("id", self.id in ("", digest), f"{digest} for this record: it has been changed by hand")
        object.__setattr__(self, "id", digest)

    def to_dict(self) -> dict:
        """Plain values for JSON; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "Record":
        """A record from `to_dict`'s values; a field too many or too few is a ValueError that names it."""
        if not isinstance(values, Mapping):
            raise ValueError("a record has to be a dictionary")
        known = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.name not in ("config", "recipe", "id")}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"a record has no field {unknown[0]}; it has {', '.join(sorted(known))}")
        if missing := sorted(needed - set(values)):
            raise ValueError(f"the record lacks {missing[0]}")
        return cls(**values)

    def get(self, name: str):
        """A field, or a value inside values, config, its plan or recipe, by name: `seed`, `accuracy`, `recipe.lr`."""
        places = [self.to_dict(), self.values, self.recipe or {}, self.config or {}]
        head, _, rest = (name, "", "") if name in self.values else name.partition(".")
        for place in places:
            if head in place:
                value = place[head]
                for part in rest.split(".") if rest else ():
                    if not isinstance(value, Mapping) or part not in value:
                        raise ValueError(f"record {self.id} has no {name}")
                    value = value[part]
                return value
        raise ValueError(f"record {self.id} has no {name}; its values are {', '.join(self.values)}")


@dataclass(frozen=True)
class Aggregate:
    """Mean and spread of a value over records of one kind.

    Attributes:
        by: the values they have in common.
        mean: of the value.
        half: half of the 95 % interval of the mean, Student's t over runs; None for one run.
        deviation: standard deviation over runs; None for one run.
        n: runs.
    """

    by: dict
    mean: float
    half: float | None
    deviation: float | None
    n: int

    def __str__(self) -> str:
        spread = "" if self.half is None else f" ± {self.half:.3g} (95 %)"
        return f"{self.mean:.4g}{spread}, n = {self.n}"


def path(experiment: str, folder: str | Path | None = None) -> Path:
    """The file that holds an experiment's records; in the ledger's own folder where None."""
    _require("experiment", isinstance(experiment, str) and experiment.isidentifier(), "a word")
    return Path(folder or FOLDER) / f"{experiment}.jsonl"


def read(
    experiment: str, folder: str | Path | None = None, *, missing_ok: bool = False, on: str | None = None
) -> list[Record]:
    """Every record of an experiment, oldest first.

    Args:
        experiment: its name.
        folder: where its file is; the ledger's own where None.
        on: "cpu" or "gpu": only what was measured on one.
        missing_ok: whether an experiment without a file has no records, rather than being an error.

    Raises:
        ValueError: where there is no such experiment, or a line is not a record: which line, which field.
    """
    file = path(experiment, folder)
    if not file.is_file():
        if missing_ok:
            return []
        have = ", ".join(sorted(other.stem for other in file.parent.glob("*.jsonl"))) or "none yet"
        raise ValueError(f"the ledger has no experiment {experiment!r}; it has {have}")
    records = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            records.append(Record.from_dict(json.loads(line.decode("utf-8"))))
            _require("experiment", records[-1].experiment == experiment, f"{experiment!r}, as the file is called")
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise ValueError(f"{file}, line {number}: {first_line(error)}") from None
    return [record for record in records if on in (None, "cpu" if CPU in record.device else "gpu")]


def measured(experiment: str, device="cpu", folder: str | Path | None = None) -> set[str]:
    """The `what` of every record that an experiment has of a device; empty where there are none."""
    name = device_name(device)
    return {record.what for record in read(experiment, folder, missing_ok=True) if record.device == name}


def find(experiment: str, folder: str | Path | None = None, **where) -> list[Record]:
    """The records of an experiment that have these values, oldest first.

    Args:
        experiment: its name.
        folder: where its file is; the ledger's own where None.
        where: by names that `Record.get` knows: `what="mixup"`, `seed=0`, `**{"recipe.lr": 1e-3}`.

    Raises:
        ValueError: where there is none; the message lists the values that there are.
    """
    records = read(experiment, folder)
    for name, value in where.items():
        have = list(dict.fromkeys(json.dumps(record.get(name), ensure_ascii=False) for record in records))
        records = [record for record in records if record.get(name) == value]
        if not records:
            more = f" and {len(have) - MENTIONED} more" if len(have) > MENTIONED else ""
            raise ValueError(
                f"{experiment} has no record with {name}={value!r}; it has {', '.join(have[:MENTIONED])}{more}"
            )
    return records


def value(experiment: str, what: str, name: str, folder: str | Path | None = None, **where) -> Aggregate:
    """A recorded number, over all runs of a kind: `print(ledger.value("training_plateau", "level 3", "accuracy"))`.

    Args:
        experiment: its name.
        what: what was measured, as in the records.
        name: of the value.
        folder, where: which of its runs, as in `find`.

    Raises:
        ValueError: where there is no such record, or it has no such number; the message lists what there is.
    """
    (over_runs,) = aggregate(find(experiment, folder, what=what, **where), "what", name)
    return over_runs


def check_writable(experiment: str, folder: str | Path | None = None) -> None:
    """A ValueError where an experiment's records could not be written, which is better known before the work."""
    require_writable(path(experiment, folder), "records")


def append(record: Record | Mapping, folder: str | Path | None = None) -> Path:
    """Append one record to its experiment's file, whole or not at all; a ValueError where it is invalid or there."""
    record = record if isinstance(record, Record) else Record.from_dict(record)
    file = path(record.experiment, folder)
    if file.is_file() and any(record.id == other.id for other in read(record.experiment, folder)):
        raise ValueError(f"id: record {record.id} is in {file} already")
    file.parent.mkdir(parents=True, exist_ok=True)
    size = file.stat().st_size if file.exists() else 0
    try:
        with open(file, "a", encoding="utf-8") as opened:
            opened.write(to_json(record.to_dict()) + "\n")
    except OSError as error:  # no space left, for one
        with suppress(OSError):
            os.truncate(file, size)
        raise OSError(error.errno, error.strerror, str(file)) from None
    return file


def add(
    experiment: str, what: str, command: str, device, values: Mapping, *, n: int, seed: int | None,
    config: Mapping | None = None, recipe: Mapping | None = None, folder: str | Path | None = None,
) -> Record:  # fmt: skip
    """Append a record of what this process has just measured, date, versions and device filled in, and return it."""
    import torch

    date = datetime.now(UTC).isoformat(timespec="seconds")
    versions = {"library": __version__, "torch": torch.__version__}
    about = {"n": n, "seed": seed, "config": plain(config), "recipe": plain(recipe), **versions}
    record = Record(experiment, what, command, date, device_name(device), values=dict(values), **about)
    append(record, folder)
    return record


def aggregate(records: Iterable[Record], by: str | Sequence[str], value: str) -> list[Aggregate]:
    """Mean and 95 % interval (Student's t) of a value, for each combination of `by`, in the order they first appear.

    Args:
        records: of one experiment, one a run.
        by: names that `Record.get` knows, such as "what" or ("recipe.mixup", "recipe.ema").
        value: a name that it knows, such as "accuracy".
    """
    names = (by,) if isinstance(by, str) else tuple(by)
    groups: dict[str, tuple[dict, list[float]]] = {}
    for record in records:
        key = {name: record.get(name) for name in names}
        number = record.get(value)
        if not _is_number(number):
            raise ValueError(f"{value} of record {record.id} is not a number: {number!r}")
        groups.setdefault(json.dumps(key, sort_keys=True), (key, []))[1].append(float(number))
    return [_aggregate(key, numbers) for key, numbers in groups.values()]


def _aggregate(key: dict, numbers: list[float]) -> Aggregate:
    n, mean = len(numbers), math.fsum(numbers) / len(numbers)
    if n == 1:
        return Aggregate(key, mean, None, None, 1)
    from scipy.special import stdtrit  # Student's t, without the second that scipy.stats takes to load

    deviation = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / (n - 1))
    return Aggregate(key, mean, float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n), deviation, n)


def _require(name: str, valid, expected: str) -> None:
    if not valid:
        raise ValueError(f"{name} has to be {expected}")


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def _is_count(value) -> bool:
    return is_whole(value) and abs(value) <= LARGEST


def _is_date(text) -> bool:
    try:
        return bool(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return False
