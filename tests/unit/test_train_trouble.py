"""What users and their machines do to `dtl train` and `dtl evaluate`: one line that names the place and the way on."""

import dataclasses
import errno
import io
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import resource_sharer
from multiprocessing.connection import Client
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dtl_lib import atomic, checkpoint, data
from dtl_lib.__main__ import main
from dtl_lib.data import loader as batches
from dtl_lib.train import Recipe, fit, resuming
from dtl_lib.train.distributed.processes import Processes
from dtl_lib.train.log import Log
from tests.processes import launch
from tests.unit.disturbed import RECIPE, small_sets, tiny

TRAIN = (
    "train --data folder --image-size 16 --patch-size 8 --dim 16 --depth 1 --heads 2 --device cpu --quiet --workers 0 "
    "--batch-size 8 --max-steps 2 --eval-every 1 --warmup-epochs 0"
).split()


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """52 pictures of two classes, in the folder `pictures` below the working directory."""
    monkeypatch.chdir(tmp_path)
    for number in range(52):
        place = tmp_path / "pictures" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (4 * number, 80, 160)).save(place / f"{number:02}.jpg")
    return tmp_path / "pictures"


def test_a_log_on_a_full_disk_is_named_with_the_way_on(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"log.jsonl could not be written .No space left on device.: make room, and "):
        Log(tmp_path, {}).write({"step": 1})


def test_a_log_of_other_bytes_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe\n')
    with pytest.raises(ValueError, match=r"log.jsonl is damaged .byte 12 is no UTF-8.: "):
        Log(tmp_path, {}, 5)


def test_words_that_a_terminal_cannot_show_are_escaped(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["plan"]) == 0
    sys.stdout.flush()
    assert rb"\u" in sys.stdout.buffer.getvalue() or rb"\x" in sys.stdout.buffer.getvalue()


def test_evaluation_leaves_out_what_training_leaves_out(pictures, tmp_path, capsys):
    assert main([*TRAIN, "--data-path", "pictures", "--output-dir", "run"]) == 0
    n = checkpoint.read_card(tmp_path / "run/best.safetensors")["test"]["n"]
    sets = data.load("folder", pictures)
    for images, sample in ((sets.train, 3), (sets.train, 30), (sets.test, 2)):
        Path(images.source.files[int(images.members[sample])]).write_bytes(b"no picture")
    capsys.readouterr()
    line = ["evaluate", "--model-path", "run/best.safetensors", "--device", "cpu", "--quiet", "--workers", "0"]
    assert main([*line, "--part", "train", "--broken", "0"]) == 2
    assert "2 of the 43 images of folder train cannot be read" in capsys.readouterr().err
    assert main([*line, "--part", "train", "--broken", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "(n = 41)" in out and f"2 images could not be read: {pictures}/" in out
    assert main(["train", "--resume", "run", "--eval", "--device", "cpu", "--quiet", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert f"(n = {n - 1})" in out and f"1 image could not be read: {pictures}/" in out


def test_a_run_goes_on_from_another_folder(pictures, tmp_path, monkeypatch):
    assert main([*TRAIN, "--data-path", "pictures", "--output-dir", "run"]) == 0
    monkeypatch.chdir("/")
    assert main(["train", "--resume", str(tmp_path / "run"), "--quiet", "--device", "cpu", "--workers", "0"]) == 0
    assert json.loads(Path(tmp_path / "run/best.json").read_text())["run"]["data"]["path"] == str(pictures)


def test_workers_whose_images_find_no_room_are_not_started(pictures, monkeypatch):
    images = data.load("folder", pictures, image_size=16).train
    steps = 2 * (2 * 4 + 1) * 8 * 3 * 16 * 16 * 4  # bytes: two loaders of two workers, four pieces each and one more

    def iterate(free: int):
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free, f_frsize=1))
        return list(batches.training_batches(images, Recipe(batch_size=8), 0, 1, 2))

    assert len(iterate(steps)) == 1
    with pytest.raises(ValueError, match=r"/dev/shm has 0.4 MiB free and 2 workers may need 0.4 of it: .*--workers"):
        iterate(steps - 1)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_line(pictures, tmp_path):
    flags = [*TRAIN, "--data-path", pictures, "--output-dir", tmp_path / "run", "--workers", "2"]
    line = [sys.executable, "-m", "dtl_lib", *flags, "--max-steps", "20000", "--checkpoint-every", "1"]
    process = launch.start([*line, "--eval-every", "20000"])
    launch.wait_for((tmp_path / "run/state.before.safetensors").is_file, "second save", process)
    os.kill(launch.descendants(process.pid)[0], signal.SIGKILL)
    status, _, error = launch.finished(process)
    assert status == 1 and error.startswith("dtl: a process that reads images") and error.count("\n") == 1, error
    assert "lower --workers" in error


def test_the_signal_of_a_dead_worker_is_waited_for_where_its_connection_ends_first():
    """torch's handler raises wherever the process is by then, in the midst of saying what went wrong."""

    def handler(*_):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    def broken():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        raise ConnectionResetError
        yield

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(RuntimeError, match="is gone"):
            list(batches._receive(broken()))
        time.sleep(0.3)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_asking_workers_for_pictures_starts_no_thread_that_their_death_would_upset(pictures, monkeypatch):
    monkeypatch.setattr(resource_sharer, "_resource_sharer", here := resource_sharer._ResourceSharer())
    images = data.load("folder", pictures, image_size=16).train
    assert len(list(batches.training_batches(images, Recipe(batch_size=8), 0, 2, 2))) == 2
    assert here._thread is None


@pytest.mark.parametrize("ready, printed", [(batches._start_worker, False), (lambda worker: None, True)])
def test_a_worker_whose_parent_is_gone_prints_no_traceback(capfd, ready, printed):
    """The parent ends in the middle of a hand-over: it closes the connection that a thread of the worker serves."""

    def work(place, ended):
        ready(0)
        place.send(resource_sharer.DupFd(0)._id[0])
        ended.wait(60)

    context = multiprocessing.get_context("fork")
    (here, there), ended = context.Pipe(), context.Event()
    worker = context.Process(target=work, args=(there, ended))
    worker.start()
    address = here.recv()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.recv(4)  # the rest is left unread: the connection is reset
    Client(address, authkey=context.current_process().authkey).close()  # answered once the one before is done with
    ended.set()
    worker.join(60)
    assert worker.exitcode == 0
    assert ("Traceback" in capfd.readouterr().err) == printed


def test_a_broken_picture_among_those_whose_norms_are_logged_is_counted(pictures, capsys):
    held_out = data.load("folder", pictures).held_out
    Path(held_out.source.files[int(held_out.members[1])]).write_bytes(b"no picture")
    assert main([*TRAIN, "--data-path", "pictures", "--output-dir", "run"]) == 0
    assert "1 image could not be read" in capsys.readouterr().out


def test_the_best_weights_of_another_run_are_not_taken_for_this_one_s(pictures, tmp_path, capsys, caplog):
    line = [*TRAIN, "--data-path", "pictures", "--output-dir", "run"]
    assert main(line) == 0
    whole = (tmp_path / "run/state.safetensors").read_bytes()
    for state in tmp_path.glob("run/state*"):
        state.unlink()
    capsys.readouterr()
    assert main([*line, "--seed", "7"]) == 2
    assert "run holds best.json, best.safetensors, log.jsonl of another run" in capsys.readouterr().err
    assert main([*line[:-1], "other", "--seed", "7"]) == 0
    (tmp_path / "run/state.safetensors").write_bytes(whole)
    for name in ("best.safetensors", "best.json"):
        (tmp_path / "other" / name).replace(tmp_path / "run" / name)
    assert main(["train", "--resume", "run", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "best.safetensors is of another recipe (seed was 7 and is now" in said and "move it away" in said
    assert checkpoint.read_card(tmp_path / "run/best.safetensors")["seed"] == 7, "it is the only copy of that run's"
    (tmp_path / "run/best.safetensors").rename(tmp_path / "theirs.safetensors")
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    assert checkpoint.read_card(tmp_path / "run/best.safetensors")["seed"] != 7


def test_two_runs_in_one_folder_at_a_time_are_refused(pictures, tmp_path, capsys):
    line = [*map(str, TRAIN), "--data-path", "pictures", "--output-dir", "run"]
    assert main(line) == 0
    hold = "import sys; from pathlib import Path; from dtl_lib.train import resuming\n"
    hold += "from dtl_lib.train.distributed.processes import Processes\n"
    folder = str(tmp_path / "run")
    hold += f"with resuming.exclusive(Path({folder!r}), Processes()): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        capsys.readouterr()
        assert main(["train", "--resume", "run", "--quiet"]) == 2
        assert capsys.readouterr().err.startswith("dtl: another process is training in run: let it end")
    finally:
        other.kill()
        other.communicate()
    assert main(["train", "--resume", "run", "--quiet"]) == 0


def test_fit_refuses_a_folder_in_which_another_is_training(tmp_path):
    """Also within a process, whose locks the kernel gives it twice; afterwards nothing is in the way."""
    sets, recipe, refused = small_sets(), dataclasses.replace(RECIPE, max_steps=2), []

    def again(step, loss, model):
        for folder in (tmp_path / "run", tmp_path / "link"):
            with pytest.raises(ValueError, match="another process is training in .*: let it end, or choose another"):
                fit(tiny(1), sets, recipe, folder, progress=False, resume=True)
            refused.append(
                subprocess.run([sys.executable, "-c", TAKE, folder / ".lock"], stdout=subprocess.PIPE).stdout
            )

    (tmp_path / "link").symlink_to(tmp_path / "run")
    fit(tiny(), sets, recipe, tmp_path / "run", progress=False, on_step=again)
    assert refused == [b"busy\n"] * 4, "the refusals have not given the lock away"
    assert not (tmp_path / "run/.lock").exists()
    fit(tiny(1), sets, recipe, tmp_path / "run", progress=False, resume=True)
    fit(tiny(), sets, recipe, progress=False)


TAKE = """import sys, pathlib
from dtl_lib import atomic
try:
    with atomic.lock(pathlib.Path(sys.argv[1]), "busy"): print("taken")
except ValueError as error: print(error)
"""


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(atomic.fcntl, "lockf", lockf)
    with resuming.exclusive(tmp_path / "run", Processes()):
        pass
