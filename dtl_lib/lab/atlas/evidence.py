"""Everything the ledger says about one question: what a class token that enters late brings, against an early one.

Each study has its own model, data, length and noise, so nothing is pooled: an estimate and its interval from each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ... import ledger
from ...ledger import Record
from . import followup
from .analysis import Estimate
from .contrasts import contrasts
from .grid import Cell, Grid, Job, grids
from .run import missing, read
from .strata import strata

POINTS = 100.0
TRAINED = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
TRAINED_BLOCK = 4
TRAINED_PLACES = f"block {TRAINED_BLOCK} − block 0"
TUNED_FOLDS = 3


@dataclass(frozen=True)
class Evidence:
    """One study's answer, in points of accuracy: late − early.

    Attributes:
        study: which, in a few words.
        compared: late and early, in words.
        value: above 0 where late is better.
        low, high: of its 95 % interval; None where the study has one seed, which gives none.
        over: what the interval is over: seeds, or images.
        command: what makes the records.
    """

    study: str
    compared: str
    value: float
    low: float | None
    high: float | None
    over: str
    command: str


def evidence(folder: str | Path | None = None) -> list[Evidence]:
    """Each study's answer, in the order of chapter 7; a study that lacks a run is left out until it has all of them.

    Args:
        folder: where the records are; the library's ledger where None.
    """
    found = []
    for study in (_atlas, _better_rate, _length, _large, _depth, _shapes, _minutes, _trained):
        found += study(folder)
    return found


def _atlas(folder) -> Iterator[Evidence]:
    grid = grids()["cpu"]
    yield from _surface("CIFAR-10, 1 epoch", grid, read(grid, folder))


def _better_rate(folder) -> Iterator[Evidence]:
    if better := followup.surface_at_better_rate(folder):
        yield from _surface("the same, better rate", followup.half_rate(), better)


def _length(folder) -> Iterator[Evidence]:
    for epochs in followup.EPOCHS:
        by_rate = {rate: read(grid, folder) for rate, grid in followup.lengths(epochs).items()}
        try:
            records = followup.at_better_rate(by_rate, followup.CHOOSING)
        except ValueError:  # not both rates of both places yet
            continue
        gaps = followup.late_minus_early(records)
        if len(gaps) == len(followup.SEEDS):
            name = f"block 0 or 4, {epochs} epoch{'s' * (epochs > 1)}"
            yield _over_seeds(name, "block 4 − block 0", followup.over_seeds(list(gaps.values())), records)


def _large(folder) -> Iterator[Evidence]:
    """The two halves of the trunk, each place at its better rate."""
    by_rate = {rate: read(grid, folder) for rate, grid in followup.large().items()}
    grid = next(iter(followup.large().values()))
    try:
        records = followup.at_better_rate(by_rate, followup.CHOOSING)
    except ValueError:  # not both rates of every place yet
        return
    if not missing(grid.cells(), grid.seeds, records):
        yield _halves("CIFAR-10, 12 blocks, 10 epochs", grid, records)


def _depth(folder) -> Iterator[Evidence]:
    grid = followup.deep()
    records = read(grid, folder)
    if not missing(grid.cells(), grid.seeds, records):
        yield _halves("shapes, 12 blocks", grid, records)


def _halves(study: str, grid: Grid, records: Mapping[Job, Record]) -> Evidence:
    """Blocks 6 and 9 against blocks 0 and 3, paired by seed."""
    weights = contrasts(grid)[0].weights
    gaps = [
        sum(POINTS * weight * records[cell, seed].get("accuracy") for cell, weight in weights.items())
        for seed in grid.seeds
    ]
    return _over_seeds(study, "blocks 6, 9 − blocks 0, 3", followup.over_seeds(gaps), records)


def _shapes(folder) -> Iterator[Evidence]:
    """One seed each, so no interval; without registers, and with four from block 0."""
    runs = {Cell.from_config(run.config): run for run in ledger.read("atlas_shapes", folder, missing_ok=True)}
    for registers, text in (((), ""), ((0, 4), ", 4 registers")):
        early, late = (runs.get(Cell(place, *registers)) for place in followup.PLACES)
        if early and late:
            value = POINTS * (late.get("accuracy") - early.get("accuracy"))
            yield Evidence(f"shapes, 6 blocks{text}", "block 4 − block 0", value, None, None, "1 seed", late.command)


def _minutes(folder) -> Iterator[Evidence]:
    from scipy.stats import ttest_ind

    runs = ledger.read("cifar10_same_minutes", folder, missing_ok=True)
    late, early = (
        [run for run in runs if run.what == f"{name}, 10 minutes"] for name in ("class token from 3", "ours")
    )
    if min(len(late), len(early)) < 2:
        return
    points = [[POINTS * run.get("accuracy") for run in side] for side in (late, early)]
    low, high = map(float, ttest_ind(*points, equal_var=False).confidence_interval())
    value = sum(points[0]) / len(late) - sum(points[1]) / len(early)
    over = f"{len(late)} seeds each (Welch)"
    yield Evidence("CIFAR-10, 10 minutes", "block 3 − block 0", value, low, high, over, late[0].command)


def _trained(folder) -> Iterator[Evidence]:
    """Nothing is trained, or little: a trained model's token enters later, against the same model with it at 0.

    That is the untouched model, and for the fine-tuned one its control, which had the same training.
    """
    moved = f"{TRAINED}: {{}}, absent before block {TRAINED_BLOCK}"
    edited = f"enters before block {TRAINED_BLOCK}, edited: blocks before {TRAINED_BLOCK}"
    for name, experiment, what in (
        ("trained ViT-Ti/16, as learned", "entry", moved.format("learned")),
        ("trained, its own state", "entry", moved.format("itself")),
        ("trained, constant kept", "entry_edit", edited),
    ):
        for run in [run for run in ledger.read(experiment, folder, missing_ok=True) if run.what == what]:
            value, low, high = (POINTS * run.get(f"difference{end}") for end in ("", "_low", "_high"))
            yield Evidence(name, TRAINED_PLACES, value, low, high, f"{run.n} photos", run.command)
    yield from _fine_tuned(folder)


def _fine_tuned(folder) -> Iterator[Evidence]:
    runs = ledger.read("entry_finetune", folder, missing_ok=True)
    late, early = (
        {run.seed: run for run in runs if run.what.partition(",")[0] == condition} for condition in ("late", "control")
    )
    if len(late) == len(early) == TUNED_FOLDS:
        pairs = [zip(late[fold].get("right_200"), early[fold].get("right_200"), strict=True) for fold in sorted(late)]
        gaps = [POINTS * (after - before) for pair in pairs for after, before in pair]
        estimate = followup.over_seeds(gaps)
        low, high = estimate.value - estimate.half, estimate.value + estimate.half
        over, command = f"{len(gaps)} photos", next(iter(late.values())).command
        yield Evidence("trained, fine-tuned", TRAINED_PLACES, estimate.value, low, high, over, command)


def _surface(name: str, grid: Grid, records: Mapping[Job, Record]) -> Iterator[Evidence]:
    if not records or missing(grid.cells(), grid.seeds, records):
        return
    layers = strata(records, "accuracy", POINTS, cells=grid.cells(), seeds=grid.seeds)
    paired = followup.begin_alike(records.values())
    estimate = (layers if paired else layers.unpaired()).estimate(contrasts(grid)[0].weights)
    yield _over_seeds(name, "blocks 4, 5 − blocks 0, 2", estimate, records)


def _over_seeds(study: str, compared: str, estimate: Estimate, records: Mapping[Job, Record]) -> Evidence:
    low, high = estimate.value - estimate.half, estimate.value + estimate.half
    seeds = len({seed for _, seed in records})
    over = f"{seeds} seeds" if followup.begin_alike(records.values()) else f"{seeds} seeds, unpaired"
    return Evidence(study, compared, estimate.value, low, high, over, next(iter(records.values())).command)
