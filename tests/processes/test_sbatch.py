"""The Slurm script of the book's page on clusters, run by stand-ins for srun and scontrol."""

import json
import os
import stat
import sys

import pytest
from PIL import Image

from dtl_lib.data.sources.folder import wordnet_classes
from tests.processes import launch

SCRIPT = launch.ROOT / "book/cluster/train.sbatch"
SMALL = (
    "--image-size 32 --dim 16 --depth 7 --heads 2 --patch-size 16 --batch-size 4 --epochs none --max-steps 4 "
    "--warmup-epochs 0 --repeats 1 --eval-every 2 --randaugment 0 --workers 0"
).split()
SRUN = """#!{python}
import os, subprocess, sys
given, flags = sys.argv[1:], {{}}
while given[0].startswith("--"):
    name, _, value = given.pop(0).partition("=")
    flags[name] = value
count = int(os.environ["SLURM_NTASKS_FOR_TEST"])
if flags.get("--cpus-per-task") != os.environ["SLURM_CPUS_PER_TASK"]:
    sys.exit("a task has one core: srun does not take over what sbatch was given")
if given[:2] != ["python", "-u"]:
    sys.exit("a log file would stay empty")
def task(rank):
    here = {{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_TASKS": str(count)}}
    return subprocess.Popen(given, env={{**os.environ, **here}})
sys.exit(max([one.wait() for one in [task(rank) for rank in range(count)]]))
"""
ENDING = """#!/bin/bash
# a step that ends as it is told, and may have saved something
while [ "$1" != --output-dir ]; do shift; done
echo "$2 ${{3:-}}" >>"{calls}"
mkdir -p "$2"
[ -z "${{SAVES:-}}" ] || {{ echo state >"$2/new" && mv "$2/new" "$2/state.safetensors"; }}
[ -z "${{TESTED:-}}" ] || echo '"test": {{}}' >"$2/best.json"
exit "$STATUS"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "requeued $2" >>"$REQUEUED"; else echo 127.0.0.1; fi
"""
SQUEUE = """#!/bin/bash
echo "${JOB_STATE:-RUNNING}"
"""
PYTHON = """#!/bin/bash
arguments=()
for word in "$@"; do [ "$word" = --compile ] || arguments+=("$word"); done  # it would take a minute
exec {python} "${{arguments[@]}}"
"""


@pytest.fixture
def cluster(tmp_path):
    """A function that runs the script, and says what came of it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    texts = {"srun": SRUN, "python": PYTHON}
    texts = {name: text.format(python=sys.executable) for name, text in texts.items()}
    for name, text in {**texts, "scontrol": SCONTROL, "squeue": SQUEUE}.items():
        write(tools / name, text)

    def run(*more, **variables):
        given = {
            "PATH": f"{tools}:{os.environ['PATH']}", "DATA": str(tmp_path / "imagenet"), "PYTHONUNBUFFERED": "",
            "SLURM_JOB_ID": str(launch.free_port() - 20000), "SLURM_JOB_NAME": "late", "SLURM_JOB_NODELIST": "one",
            "SLURM_CPUS_PER_TASK": "3", "SLURM_NTASKS_FOR_TEST": "2", "REQUEUED": str(tmp_path / "requeued"),
            **variables,
        }  # fmt: skip
        given["MASTER_PORT"] = str(launch.free_port())
        line = ["bash", "-c", 'cd "$0" && exec bash "$@"', tmp_path, SCRIPT, *more]
        status, out, error = launch.finished(launch.start(line, **given))
        requeued = tmp_path / "requeued"
        return status, out, error, requeued.exists() and not requeued.unlink()

    return run


@pytest.fixture
def ending(cluster, tmp_path):
    """The same, with steps that end at once; a function, and another for what the steps were given."""
    calls = tmp_path / "calls"
    write(tmp_path / "tools/srun", ENDING.format(calls=calls))

    def run(status: int, **variables):
        return cluster(STATUS=str(status), **{"RUN": "", "SLURM_JOB_ID": "7", **variables})[0::3]

    return run, lambda: calls.read_text().splitlines()


def write(path, text: str) -> None:
    path.write_text(text)
    path.chmod(stat.S_IRWXU)


@pytest.fixture
def imagenet(tmp_path):
    """A few pictures of two classes."""
    ids, _ = wordnet_classes()
    for part, count in (("train", 6), ("val", 2)):
        for name in ids[:2]:
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (40, 40), (20 * number, 90, 160)).save(folder / f"{number}.png")


def test_a_job_trains_on_all_its_tasks_and_ends(cluster, imagenet, tmp_path):
    run = {"RUN": str(tmp_path / "run")}
    status, out, error, requeued = cluster(*SMALL, **run)
    assert status == 0 and not requeued, error
    assert "2 processes" in out and out.count("test accuracy") == 1
    card = json.loads((tmp_path / "run/best.json").read_text())
    assert card["processes"] == 2 and [group["enter"] for group in card["config"]["plan"]["groups"]] == [6, 3]
    status, out, error, requeued = cluster(*SMALL, **run)  # it is done: nothing is trained, nothing queued
    assert status == 0 and not requeued, error


def test_wrong_input_is_one_line_and_not_queued_again(cluster, imagenet):
    status, _, error, requeued = cluster(*SMALL, "--heads", "3")
    assert status == 2 and not requeued and error.count("dtl: ") == 1, error


def test_a_failure_is_queued_again_where_something_was_saved_since_the_start(ending):
    run, _ = ending
    assert run(1) == (1, False)  # a host that fails
    assert run(1, SAVES="1") == (1, True)
    assert run(1) == (1, False)  # the state is that of the start before
    assert run(137, SAVES="1") == (137, True)
    assert run(2, SAVES="1") == (2, False)


def test_a_job_whose_time_is_up_is_queued_again_until_it_is_done(ending):
    run, calls = ending
    assert run(0, SAVES="1") == (0, True)
    assert run(0, SAVES="1", JOB_STATE="CANCELLED") == run(0, SAVES="1", JOB_STATE="COMPLETING") == (0, False)
    assert run(0, SAVES="1", TESTED="1") == (0, False)
    assert run(1, SAVES="1") == (1, False)  # done, whatever came after it
    assert [call.split()[1:] for call in calls()] == [[]] + 4 * [["--resume"]]


def test_each_job_has_a_folder_of_its_own_and_keeps_it(ending, tmp_path):
    run, calls = ending
    for job, name in (("7", "late"), ("8", "late"), ("7", "late"), ("9", "other")):
        run(0, SAVES="1", SLURM_JOB_ID=job, SLURM_JOB_NAME=name)
    run(0, SAVES="1", RUN=str(tmp_path / "mine"))
    runs = tmp_path / "runs"
    assert calls() == [f"{runs}/late-7 ", f"{runs}/late-8 ", f"{runs}/late-7 --resume", f"{runs}/other-9 ",
                       f"{tmp_path}/mine "]  # fmt: skip


def test_what_a_job_asks_for():
    asked = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"--mem=0", "--requeue", "--cpus-per-task=12", "--signal=TERM@180"} <= set(asked)
    to_change = [line for line in SCRIPT.read_text().splitlines() if "# <" in line]
    assert all(any(word in line for line in to_change) for word in ("account", "partition", "activate", "RUN", "DATA"))
