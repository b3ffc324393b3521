"""One process fails: one message says which and why, and none waits for it."""

import os
import platform
import re
import signal
from pathlib import Path

from PIL import Image

from dtl_lib import checkpoint
from tests.processes import failing, hosts, launch
from tests.processes.compared import TRAIN

FLAGS = (*TRAIN.split(), "--accumulate", "1", "--checkpoint-every", "1")
HOST = re.escape(platform.node())


def failed(processes: int, kind: str, *flags, restarts: int = 0) -> tuple[list[str], str]:
    """Lines that are ours, and all of standard error, of a run that ends long before its --timeout of 600 s."""
    line = (failing.__file__, kind, *FLAGS, *map(str, flags))
    status, out, error = launch.run(processes, *line, restarts=restarts)
    assert status == 1, out + error  # torchrun's, whatever its processes exit with
    return re.findall(r"^.*dtl: .*", error, re.MULTILINE), error


def tracebacks(error: str) -> list[str]:
    """The processes that have printed one; torchrun's own has no prefix."""
    return re.findall(r"\[rank(\d)\]: Traceback", error)


def step_of(folder: Path) -> int:
    return checkpoint.read(folder / "state.safetensors")[1]["progress"]["step"]


def test_wrong_data_on_one_process_is_one_line_that_names_it(tmp_path):
    lines, error = failed(3, "value", "--output-dir", tmp_path / "run")
    assert len(lines) == 1 and re.fullmatch(f"dtl: process 2 of 3 on {HOST}: the tea is cold", lines[0]), error
    assert not tracebacks(error)
    assert "traceback : process 2 of 3" in error  # in torchrun's report too
    assert step_of(tmp_path / "run") == failing.STEP - 1


def test_a_surprise_is_one_traceback(tmp_path):
    lines, error = failed(3, "key", "--output-dir", tmp_path / "run")
    assert not lines and tracebacks(error) == ["2"]
    assert error.count("[rank2]: KeyError: 'a surprise'") == 1


def test_a_full_disk_is_one_line_and_the_state_before_stays(tmp_path):
    lines, error = failed(2, "full", "--output-dir", tmp_path / "run")
    assert len(lines) == 1 and not tracebacks(error), error
    assert f"process 0 of 2 on {platform.node()}: {tmp_path}/run/state.safetensors could not be written" in lines[0]
    assert "No space left on device); the one before it is untouched" in lines[0]
    assert step_of(tmp_path / "run") == failing.STEP


def test_data_that_one_process_does_not_see(tmp_path):
    for number in range(60):
        place = tmp_path / "pictures/train" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (4 * number, 80, 160)).save(place / f"{number}.png")
    data = ("--data", "folder", "--data-path", tmp_path / "pictures", "--output-dir", tmp_path / "run")
    lines, error = failed(2, "missing", *data)
    assert len(lines) == 1 and not tracebacks(error), error
    assert lines[0].startswith(f"dtl: process 1 of 2 on {platform.node()}: {tmp_path}/pictures/nowhere is not a folder")


def test_what_all_processes_refuse_is_said_once():
    lines, error = failed(3, "none", "--outputdir", "x")
    assert lines == ["dtl: train has no flag --outputdir; did you mean --output-dir?"], error
    lines, error = failed(2, "none", "--data", "folder", "--data-path", "nowhere", "--output-dir", "x")
    assert len(lines) == 1 and lines[0].startswith("dtl: process 0 of 2 on ") and "nowhere is not a folder" in lines[0]
    lines, error = failed(2, "none", restarts=1)
    assert len(lines) == 1 and lines[0].endswith("has to find what it saved: give --output-dir DIR"), error


def test_a_process_that_stands_still_is_named_after_the_timeout(tmp_path):
    line = (failing.__file__, "stop", *FLAGS, "--timeout", "15", "--output-dir", tmp_path / "run")
    process = launch.torchrun(3, *line)
    launch.wait_for(lambda: (tmp_path / "run/state.safetensors").is_file(), "first save", process)
    stopped, others = launch.worker(process, 2), launch.worker(process, 0)
    launch.wait_for(lambda: not Path(f"/proc/{others}").exists(), "end of those that wait", process)
    os.kill(stopped, signal.SIGKILL)  # torchrun would ask it to end, and wait for 30 s
    _, _, error = launch.finished(process)
    lines = re.findall(r"^.*dtl: .*", error, re.MULTILINE)
    expected = f"dtl: process 2 of 3 on {platform.node()} does not answer any more: killed, stopped, or cut off"
    assert lines == [expected] and not tracebacks(error), error


def test_a_host_cut_off_is_named_by_the_rest_and_names_the_first(tmp_path):
    line = ["-m", "dtl_lib", "train", *FLAGS, "--max-steps", "50000", "--quiet", "--timeout", "15"]
    with hosts.two_hosts() as pair:
        rest, lost = (pair.torchrun(host, 1, *line, "--output-dir", tmp_path / "run") for host in (0, 1))
        launch.wait_for(lambda: (tmp_path / "run/state.before.safetensors").is_file(), "second save", rest)
        pair.cut_off(1)
        ends = [launch.finished(one) for one in (rest, lost)]
    said = [re.findall(r"^dtl: (.*)", error, re.MULTILINE) for _, _, error in ends]
    assert [status for status, _, _ in ends] == [1, 1] and not any(tracebacks(error) for _, _, error in ends)
    assert said[0] == ["process 1 of 2 on host-b does not answer any more: killed, stopped, or cut off"], ends[0]
    assert len(said[1]) == 1 and said[1][0].startswith("the host of process 0 (host-a) does not answer any more"), ends
    assert "host-a and host-b are cut off from each other" in said[1][0]
