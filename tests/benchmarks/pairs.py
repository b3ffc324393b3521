"""What the speed comparisons share beside `dtl_lib.lab.bench.pairs`: options, a report, records."""

import argparse
import os
import shlex
import statistics
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import torch

from dtl_lib.host import device_name
from dtl_lib.lab.bench import Ratio


def parser(description: str, rounds: int = 24) -> argparse.ArgumentParser:
    """The options that all speed comparisons share."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--rounds", type=int, default=rounds, help="alternating rounds; a claim takes 20 or more")
    options.add_argument("--device", default="cpu")
    options.add_argument("--only", default="", help="run only cases whose name holds this")
    options.add_argument("--record", action="store_true", help="append the results to the ledger")
    return options


def report(case: str, seconds: Mapping[str, np.ndarray], ratios: Mapping[str, tuple[Ratio, str]]) -> None:
    """Print medians, and each ratio beside what is expected of it."""
    print(f"\n{case}")
    for name, values in seconds.items():
        print(f"  {name:<34} {1e3 * statistics.median(values):9.2f} ms")
    for name, (value, expected) in ratios.items():
        print(f"  {name:<34} {value!s:<24} {expected}")


def values(seconds: Mapping[str, np.ndarray], ratios: Mapping[str, Ratio], **more: float) -> dict:
    """What a ledger record keeps: medians in ms, and value, low and high of each ratio."""
    medians = {f"{_word(name)}_ms": round(1e3 * statistics.median(times), 4) for name, times in seconds.items()}
    quartiles = {_word(name): [round(part, 4) for part in (r.value, r.low, r.high)] for name, r in ratios.items()}
    return {**medians, **quartiles, "threads": torch.get_num_threads(), **more}


def record(module: str, options: argparse.Namespace, what: str, values: Mapping, config=None) -> None:
    """Append one record of the experiment `speed` to the ledger."""
    from dtl_lib import __version__, ledger

    command = ["python", "-m", f"tests.benchmarks.{module}", "--rounds", str(options.rounds), "--record"]
    command += ["--device", options.device] if options.device != "cpu" else []
    threads = os.environ.get("OMP_NUM_THREADS")
    ledger.append(
        ledger.Record(
            experiment="speed",
            what=what,
            command=(f"OMP_NUM_THREADS={threads} " if threads else "") + shlex.join(command),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            device=device_name(options.device),
            library=__version__,
            torch=torch.__version__,
            seed=None,
            n=options.rounds,
            values=dict(values),
            config=None if config is None else config.to_dict(),
        )
    )


def _word(name: str) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name).split())
