"""Part 1: whether a GPU computes what a CPU does. `tests/gpu` in a process of its own, and its outcome as a record."""

import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path

from dtl_lib import ledger
from dtl_lib.host import device_name

from .schedule import Task

EXPERIMENT, TESTS = "gpu_tests", "tests/gpu/test_gpu.py"
ROOT = Path(__file__).parents[3]
SECONDS = 120.0
QUICK = ("-k", "logits or evaluation")  # for the toy, which has no GPU to give back: it may take TOY_SECONDS
TOY_SECONDS = 600.0
OUTCOMES = ("passed", "failed", "skipped", "error")


def tasks(is_toy: bool, options: Namespace) -> list[Task]:
    """The one task; it is done when the last record of this device has no failure."""
    what = f"{TESTS}{', on any device' * is_toy}"

    def done() -> bool:
        device, runs = device_name(options.device), ledger.read(EXPERIMENT, options.folder, missing_ok=True)
        mine = [run for run in runs if (run.what, run.device) == (what, device)]
        return bool(mine) and not any(mine[-1].get(wrong) for wrong in ("failed", "error", "timed_out"))

    return [Task(1, "does it compute what a CPU does", lambda: SECONDS, done, lambda: check(what, options, is_toy))]


def check(what: str, options: Namespace, anywhere: bool) -> None:
    """Run the tests and record how many passed, failed and were skipped; RuntimeError where not all passed."""
    begun = time.monotonic()
    output, timed_out = run_tests(*((options.device, QUICK, TOY_SECONDS) if anywhere else ("cuda",)))
    names = re.findall(r"::(\S+).* (PASSED|FAILED|SKIPPED|ERROR)", output)
    counts = Counter(outcome.lower() for _, outcome in names)
    if not counts:
        raise RuntimeError(f"no test has run: {(output.strip().splitlines() or ['nothing was printed'])[-1]}")
    values = {outcome: counts[outcome] for outcome in OUTCOMES}
    values |= {"timed_out": int(timed_out), "seconds": time.monotonic() - begun}
    about = {"n": sum(counts.values()), "seed": None, "folder": options.folder}
    ledger.add(EXPERIMENT, what, options.command, options.device, values, **about)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()), flush=True)
    if timed_out or counts["failed"] or counts["error"]:
        wrong = [name for name, outcome in names if outcome in ("FAILED", "ERROR")]
        print(output, file=sys.stderr, flush=True)
        raise RuntimeError(f"{'not ended in time' if timed_out else 'failed'}: {', '.join(wrong) or 'the last one'}")


def run_tests(device: str, quick: tuple[str, ...] = (), seconds: float = SECONDS) -> tuple[str, bool]:
    """What pytest prints, a line a test, and whether it was ended after so many seconds."""
    command = [sys.executable, "-m", "pytest", TESTS, "-v", "-p", "no:cacheprovider", "--tb=short", "--color=no"]
    command += ["--show-capture=no", *quick]
    environment = os.environ | {"DTL_TEST_DEVICE": device, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        return process.communicate(timeout=seconds)[0], False
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0], True
    finally:
        process.kill()
