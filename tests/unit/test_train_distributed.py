"""What several processes agree on, as far as one can show it; `tests/processes` starts real ones."""

import pytest
import torch

from dtl_lib.checkpoint import write
from dtl_lib.commands.train import _of_this_launch
from dtl_lib.train import state
from dtl_lib.train.broken import Broken
from dtl_lib.train.distributed import Processes, joined, local_device
from dtl_lib.train.watch import Failed, Quiet
from tests.unit.disturbed import small_sets


@pytest.fixture
def environment(monkeypatch):
    for name in (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_GPUS_PER_TASK",
        "TORCHELASTIC_RUN_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def test_one_process_is_alone_and_its_errors_are_its_own(environment):
    with pytest.raises(ValueError, match="^as it is$") as error, joined(torch.device("cpu")) as processes:
        assert processes.first and processes.world == 1 and processes.gather(3) == [3]
        assert processes.agree(True) and not processes.agree(False)
        assert processes.share(lambda: "mine") == "mine"
        assert torch.equal(processes.sum(torch.ones(2)), torch.ones(2))
        with processes.first_on_each_host():
            raise ValueError("as it is")
    assert not isinstance(error.value, Failed | Quiet)


class OneOfTwo(Processes):
    """The other has found another broken picture."""

    world = 2

    def __init__(self, others: dict):
        self.others = others

    def gather(self, value):
        return [value, self.others]


def test_broken_pictures_are_too_many_when_those_of_all_processes_are():
    images, broken = small_sets().train, Broken(0.02)  # of 96: one
    broken.add(images, {3: "three.png"})
    OneOfTwo({3: "three.png"}).pool(broken, images)
    assert broken.names == ["three.png"]
    with pytest.raises(ValueError, match="2 of the 96 images of shapes level 1 train cannot be read"):
        OneOfTwo({7: "seven.png"}).pool(broken, images)
    Processes().pool(broken, images)


def test_each_process_has_a_gpu_of_its_own_or_says_how_many_there_are(environment, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device(None) is None and local_device("cuda") == "cuda"  # one process alone: any
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        environment(name, value)
    assert local_device(None) == local_device("cuda") == "cuda:1"
    assert local_device("cpu") == "cpu" and local_device("cuda:0") == "cuda:0"
    environment("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="no GPU for process 2 of this host: start 2, one for each GPU it has"):
        local_device(None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    environment("SLURM_GPUS_PER_TASK", "1")
    assert local_device(None) == "cuda:0"  # Slurm shows each task its own


def test_what_torchrun_starts_again_goes_on(environment, tmp_path):
    assert not _of_this_launch(tmp_path, 1)  # it had not saved anything
    card = {"config": {}, "recipe": {}, "data": {}, "progress": {}, "scaler": {}, "run": {"launch": "late"}}
    write(tmp_path / state.NAME, {"x": torch.zeros(1)}, card, "dtl_lib training state")
    assert _of_this_launch(tmp_path, 1)
    assert not _of_this_launch(tmp_path, 0)
    environment("TORCHELASTIC_RUN_ID", "other")
    assert not _of_this_launch(tmp_path, 0)
    environment("TORCHELASTIC_RUN_ID", "late")  # a host has joined: no process has failed
    assert _of_this_launch(tmp_path, 0)
