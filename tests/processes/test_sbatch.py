"""The Slurm script of the book's page on clusters, run by stand-ins for srun and scontrol."""

import json
import os
import stat
import sys

import pytest
from PIL import Image

from dtl_lib.data.imagenet import wordnet_classes
from tests.processes import launch

SCRIPT = launch.ROOT / "book/cluster/train.sbatch"
SMALL = (
    "--image-size 32 --dim 16 --depth 7 --heads 2 --patch-size 16 --batch-size 4 --epochs none --max-steps 4 "
    "--warmup-epochs 0 --repeats 1 --eval-every 2 --randaugment 0 --workers 0"
).split()
SRUN = """#!{python}
import os, subprocess, sys
given = sys.argv[1:]
while given[0].startswith("--"):
    given.pop(0)
count = int(os.environ["SLURM_NTASKS_FOR_TEST"])
def task(rank):
    here = {{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_TASKS": str(count)}}
    return subprocess.Popen(given, env={{**os.environ, **here}})
sys.exit(max([one.wait() for one in [task(rank) for rank in range(count)]]))
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "requeued $2" >>"$REQUEUED"; else echo 127.0.0.1; fi
"""
PYTHON = """#!/bin/bash
arguments=()
for word in "$@"; do [ "$word" = --compile ] || arguments+=("$word"); done  # it would take a minute
exec {python} "${{arguments[@]}}"
"""


@pytest.fixture
def cluster(tmp_path):
    """A function that runs the script, and says what came of it."""
    ids, _ = wordnet_classes()
    for part, count in (("train", 6), ("val", 2)):
        for name in ids[:2]:
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (40, 40), (20 * number, 90, 160)).save(folder / f"{number}.png")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", PYTHON)):
        (tools / name).write_text(text.format(python=sys.executable) if name != "scontrol" else text)
        (tools / name).chmod(stat.S_IRWXU)

    def run(*more, **variables):
        given = {
            "PATH": f"{tools}:{os.environ['PATH']}", "DATA": str(tmp_path / "imagenet"), "RUN": str(tmp_path / "run"),
            "SLURM_JOB_ID": str(launch.free_port() - 20000), "SLURM_JOB_NAME": "late", "SLURM_JOB_NODELIST": "one",
            "SLURM_NTASKS_FOR_TEST": "2", "REQUEUED": str(tmp_path / "requeued"), **variables,
        }  # fmt: skip
        given["MASTER_PORT"] = str(launch.free_port())
        status, out, error = launch.finished(launch.start(["bash", SCRIPT, *SMALL, *more], **given))
        return status, out, error, (tmp_path / "requeued").exists()

    return run


def test_a_job_trains_on_all_its_tasks_and_ends(cluster, tmp_path):
    status, out, error, requeued = cluster()
    assert status == 0 and not requeued, error
    assert "2 processes" in out and out.count("test accuracy") == 1
    card = json.loads((tmp_path / "run/best.json").read_text())
    assert card["processes"] == 2 and [group["enter"] for group in card["config"]["plan"]["groups"]] == [6, 3]
    status, out, error, requeued = cluster()  # it is done: nothing is trained, nothing queued
    assert status == 0 and not requeued, error


def test_wrong_input_is_not_queued_again_and_a_failure_is(cluster, tmp_path):
    status, _, error, requeued = cluster("--heads", "3")
    assert status == 2 and not requeued and error.count("dtl: ") == 1, error
    (tmp_path / "tools/srun").write_text("#!/bin/bash\nexit 1\n")  # a host that fails
    assert cluster()[0::3] == (1, True)
    (tmp_path / "requeued").unlink()
    assert cluster(SLURM_RESTART_COUNT="20")[0::3] == (1, False)
