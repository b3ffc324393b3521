"""The tables of README.md, from the notebooks and the ledger: `python -m book.tools.readme` writes them."""

import re
import sys
from collections.abc import Iterator

from book.tools.project import Project, read
from dtl_lib import ledger
from dtl_lib.lab import atlas
from dtl_lib.lab.atlas import followup

# experiment, how its records' `what` begins, how README.md describes it
TRAINED = (
    ("training_plateau", "level 1, patches of 8", "test accuracy of a ViT of 0.2 M parameters on `shapes`, level 1"),
    ("cifar10_minutes", "training on cifar10", "test accuracy of the same, patches of 4, on CIFAR-10, two epochs"),
    (
        "cifar10_same_minutes",
        "ours, 10",
        "width 96, 6 blocks, patches of 4, CIFAR-10: ten minutes of two cores",
    ),
    (
        "cifar10_same_minutes",
        "timm, 10",
        "the same minutes of timm's model, torchvision's transforms, two workers",
    ),
    ("cifar10_same_minutes", "ours, 30", "the first for thirty minutes"),
    ("cifar10_same_minutes", "timm, 30", "the second for thirty minutes"),
    ("cifar10_same_minutes", "class token from 3, 10", "the first, ten minutes, class token from block 3 of 6"),
    ("cifar10_same_minutes", "4 registers, 10", "the first, ten minutes, four registers"),
)
OURS, LOOKING = "ours against timm: ", "looking inside: vit_tiny"
MEASURED = (
    (f"{OURS}vit_tiny_patch16_224: forward", "speed", "timm's time over ours, ViT-Ti/16 at 224, forward, same logits"),
    (f"{OURS}vit_tiny_patch16_224: step", "speed", "the same, training step"),
    (f"{OURS}vit_cifar, width 192, depth 6: forward", "speed", "the same, width 192, depth 6, 65 tokens, forward"),
    (f"{OURS}vit_cifar, width 192, depth 6: step", "speed", "the same, training step"),
    (LOOKING, "recording", "time of a recorded forward over a plain one, ViT-Ti/16 at 224"),
    (LOOKING, "every_row_of_every_block", "the same, reading every attention map of every block"),
    (LOOKING, "recording_all_rows_False", "recorded with `all_queries=False`, over a plain one"),
    (LOOKING, "the_same_and_the_class_token", "the same, reading the class token's maps of every block"),
)

# the same of a GPU, where one has been measured
ON_GPU = (
    ("cifar10_gpu", "vit_cifar_small_patch4_32 by cifar10_fast", "accuracy", "CIFAR-10, `cifar10_fast`: test accuracy"),
    ("cifar10_gpu", "vit_cifar_small_patch4_32 by cifar10_fast", "seconds_to_90", "the same: seconds to 90 % held out"),
    ("cifar10_gpu", "vit_cifar_patch2_32 by cifar10_full", "accuracy", "CIFAR-10, `cifar10_full`: test accuracy"),
    ("step_speed", "vit_cifar_patch4_32, bf16, compiled: ", "speed", "plain step's time over one in bf16, compiled"),
    ("gpu_steps", "ours against timm: deit_small_patch16_224", "speed", "timm's time over ours, DeiT-S"),
    ("gpu_steps", LOOKING, "class_token_of_every_block", "reading the class token's maps of every block, ViT-Ti/16"),
)  # fmt: skip
GPU_COMMAND = "python -m book.experiments.gpu --minutes 9 --data-path DIR"

# a contrast of the atlas, how README.md describes it
COMPARED = {
    "class token late − early": "six blocks, CIFAR-10 seen once: class token from block 4 or 5, against 0 or 2",
    "registers − none": "the same: four registers, against none",
}


def chapters(project: Project) -> str:
    """A row a chapter: number, title, question, Colab."""
    rows = ["| | chapter | its question | |", "|---|---|---|---|"]
    for path in project.notebooks:
        first = read(path).cells[0].source
        title = first.splitlines()[0].partition(". ")[2]
        question = re.search(r"\*\*The question\.\*\* (.*)", first)[1]
        question = re.sub(r"\s*<!--.*?-->", "", question)
        colab = f"[Colab]({project.colab(path)})"
        rows.append(f"| {path.name[:2]} | [{title}](notebooks/{path.name}) | {question} | {colab} |")
    return "\n".join(rows)


def results() -> str:
    """A row a result: what, value with its interval, n, device, record."""
    return "\n".join(["| measured | value | n | device | command |", "|---|---|---|---|---|", *_rows()])


def _rows() -> Iterator[str]:
    for experiment, begins, words in TRAINED:
        runs = _records(experiment, begins)
        (over_runs,) = ledger.aggregate(runs, "experiment", "accuracy")
        if over_runs.n > 2:
            value = f"{100 * over_runs.mean:.1f} % ± {100 * over_runs.half:.1f}"
        else:  # too few for an interval
            value = " and ".join(f"{100 * run.get('accuracy'):.1f} %" for run in runs)
        yield _row(words, value, f"{over_runs.n} seed{'s' * (over_runs.n > 1)}", runs[-1])
    yield from _compared()
    for begins, value, words in MEASURED:
        run = _records("speed", begins)[-1]
        middle, low, high = run.get(value)
        yield _row(words, f"{middle:.2f} [{low:.2f}, {high:.2f}]", f"{run.n} rounds", run)
    for run in _records("speed_of_data", "CIFAR-10 training batches of 512 against torchvision"):
        middle, low, high = (run.get(f"ratio{part}") for part in ("", "_low_quartile", "_high_quartile"))
        words = f"images a second, CIFAR-10 batches against torchvision's {run.what[-2:]} transforms and two workers"
        yield _row(words, f"{middle:.0f}× [{low:.0f}, {high:.0f}]", f"{run.n} pairs", run)
    yield from _on_gpu()


def _on_gpu() -> Iterator[str]:
    """A row a kind of record of a GPU; one that says that there was none."""
    rows = []
    for experiment, begins, value, words in ON_GPU:
        runs = [run for run in ledger.read(experiment, missing_ok=True, on="gpu") if run.what.startswith(begins)]
        kinds: dict[tuple[str, str], list[ledger.Record]] = {}
        for run in runs:
            kinds.setdefault((run.device, run.what), []).append(run)
        rows += [_gpu_row(value, words, kind) for kind in kinds.values()]
    yield from rows or [f"| everything on a GPU | no GPU was at hand | | | `{GPU_COMMAND}` |"]


def _gpu_row(value: str, words: str, runs: list[ledger.Record]) -> str:
    *_, run = runs
    if not all(value in one.values for one in runs):  # a mark that some run has not reached
        best = max(one.get("held_out") for one in runs)
        return _row(words, f"not reached by all: {100 * best:.1f} % at best", f"{len(runs)} seeds", run)
    if isinstance(run.get(value), list):
        middle, low, high = run.get(value)
        how = run.what.rpartition(": ")[2].removeprefix("training step, ")
        return _row(f"{words}, {how}", f"{middle:.2f} [{low:.2f}, {high:.2f}]", f"{run.n} rounds", run)
    (found,) = ledger.aggregate(runs, "experiment", value)
    scale, unit = (100, " %") if value == "accuracy" else (1, " s")
    half = "" if found.half is None else f" ± {scale * found.half:.1f}"
    shortened = run.what.partition(", ")[2]
    words += f" ({shortened})" if shortened else ""
    return _row(words, f"{scale * found.mean:.1f}{unit}{half}", f"{found.n} seed{'s' * (found.n > 1)}", run)


def _compared() -> Iterator[str]:
    grid = atlas.grids()["cpu"]
    records = atlas.read(grid)
    last = list(records.values())[-1]
    findings = atlas.find(grid, records, scale=100)
    for test, by_strata in zip(findings.tested, findings.post_hoc):
        if test.name in COMPARED:
            registered, half = test.estimate.half, by_strata.estimate.half
            value = (
                f"{test.estimate.value:+.1f} ± {half:.1f} points by strata, post hoc (registered: ± {registered:.1f})"
            )
            yield _row(COMPARED[test.name], value, f"{len(grid.cells()) * len(grid.seeds)} runs", last)
    for epochs in (1, 3):
        if not any(atlas.read(grid) for grid in followup.lengths(epochs).values()):
            continue
        runs = followup.length_records(epochs)
        gap = followup.over_seeds(list(followup.late_minus_early(runs).values()))
        words = f"the same without registers, {epochs} epoch{'s' * (epochs > 1)}: from block 4, against 0"
        yield _row(words, f"{gap.value:+.1f} ± {gap.half:.1f} points", f"{len(runs)} runs", list(runs.values())[-1])


def _row(words: str, value: str, n: str, run: ledger.Record) -> str:
    return f"| {words} | {value} | {n} | {run.device} | `{run.command}` |"


def _records(experiment: str, begins: str) -> list[ledger.Record]:
    runs = [run for run in ledger.read(experiment, on="cpu") if run.what.startswith(begins)]
    if not runs:
        raise ValueError(f"the ledger's {experiment} has no record of {begins!r}, which README.md shows")
    return runs


def written(project: Project, text: str) -> str:
    """README's text with fresh tables between its markers."""
    for name, table in (("chapters", chapters(project)), ("results", results())):
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if start not in text or end not in text:
            raise ValueError(f"README.md lacks {start} … {end}")
        text = text[: text.index(start) + len(start)] + f"\n{table}\n" + text[text.index(end) :]
    return text


def main() -> None:
    """Rewrite README.md where that changes it."""
    project = Project()
    path = project.root / "README.md"
    before = path.read_text("utf8")
    after = written(project, before)
    if after != before:
        path.write_text(after, "utf8")
        print("README.md: rewritten")


if __name__ == "__main__":
    sys.exit(main())
