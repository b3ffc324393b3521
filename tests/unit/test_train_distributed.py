"""What several processes agree on, as far as one can show it; `tests/processes` starts real ones."""

import argparse
import os

import pytest
import torch

import dtl_lib.train.distributed.environment as environment_module
from dtl_lib.checkpoint import write
from dtl_lib.cli.run_folder import resume_point, saved_by_this_launch
from dtl_lib.data.corrupt import CorruptImages
from dtl_lib.train import state
from dtl_lib.train.distributed import processes as distributed
from dtl_lib.train.distributed.environment import local_device
from dtl_lib.train.distributed.errors import PeerLost, RankError, SilentExit
from dtl_lib.train.distributed.processes import Processes, joined
from tests.unit.disturbed import small_sets


@pytest.fixture
def environment(monkeypatch):
    for name in (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_PROCID",
        "TORCHELASTIC_RUN_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def test_one_process_is_alone_and_its_errors_are_its_own(environment):
    with pytest.raises(ValueError, match="^as it is$") as error, joined(torch.device("cpu")) as processes:
        assert processes.is_main and processes.world_size == 1 and processes.gather(3) == [3]
        assert processes.any_rank(True) and not processes.any_rank(False)
        assert processes.broadcast_object(lambda: "mine") == "mine"
        assert torch.equal(processes.sum(torch.ones(2)), torch.ones(2))
        with processes.first_on_each_host():
            raise ValueError("as it is")
    assert not isinstance(error.value, RankError | SilentExit)


class OneOfTwo(Processes):
    """The other process has found another corrupt image."""

    world_size = 2

    def __init__(self, others: dict):
        self.others = others

    def gather(self, value):
        return [value, self.others]


def test_corrupt_images_are_counted_over_all_processes():
    images, corrupt = small_sets().train, CorruptImages(0.02)  # of 96: one
    corrupt.record(images, {3: "three.png"})
    OneOfTwo({3: "three.png"}).merge_corrupt(corrupt, images)
    assert corrupt.names == ["three.png"]
    with pytest.raises(ValueError, match="2 of the 96 images of shapes level 1 train cannot be read"):
        OneOfTwo({7: "seven.png"}).merge_corrupt(corrupt, images)
    Processes().merge_corrupt(corrupt, images)


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
    environment("SLURM_PROCID", "5")
    assert local_device(None) == "cuda:0"  # Slurm shows each task its own


def test_a_task_that_sees_one_gpu_has_it_alone_but_not_the_processes_that_torchrun_starts_in_it(
    environment, monkeypatch
):
    """Slurm may show a task its own by `--gpus-per-task`, by `--gpu-bind`, or by a rule of the site's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2", "SLURM_PROCID": "2"}.items():
        environment(name, value)
    assert local_device(None) == "cuda:0"
    environment("TORCHELASTIC_RUN_ID", "one")
    with pytest.raises(ValueError, match="no GPU for process 2 of this host: start 1"):
        local_device(None)


@pytest.mark.parametrize(("kind", "given", "then"), [("cuda", None, "0"), ("cuda", "1", "1"), ("cpu", None, None)])
def test_nccl_leaves_it_to_the_library_to_say_who_is_lost(environment, monkeypatch, kind, given, then):
    name, found = "TORCH_NCCL_ASYNC_ERROR_HANDLING", []
    for each in (name, "GLOO_SOCKET_IFNAME"):
        environment(each, given or "")  # so that what is set below is taken back
    if given is None:
        monkeypatch.delenv(name)

    def connect(*args, **how):
        found.append(os.environ.get(name))
        raise RuntimeError("nobody there")

    monkeypatch.setattr(
        distributed.dist, "rendezvous", lambda *args, **how: iter([(distributed.dist.HashStore(), 0, 2)])
    )
    monkeypatch.setattr(distributed.dist, "init_process_group", connect)
    for each, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        environment(each, value)
    with pytest.raises(PeerLost), joined(torch.device(kind), 1.0):
        pass
    assert found == [then]


def test_what_torchrun_starts_again_goes_on(environment, tmp_path):
    assert not saved_by_this_launch(tmp_path, 1)  # it had not saved anything
    parts = {name: {} for name in ("config", "recipe", "data", "scaler")}
    card = {**parts, "progress": {"step": 0, "best": {}, "seconds": 0.0}, "run": {"launch": "late"}}
    write(tmp_path / state.NAME, {"x": torch.zeros(1)}, card, "dtl_lib training state")
    assert saved_by_this_launch(tmp_path, 1)
    assert not saved_by_this_launch(tmp_path, 0)
    environment("TORCHELASTIC_RUN_ID", "other")
    assert not saved_by_this_launch(tmp_path, 0)
    environment("TORCHELASTIC_RUN_ID", "late")  # a host has joined: no process has failed
    assert saved_by_this_launch(tmp_path, 0)


@pytest.mark.parametrize("name", ["TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RESTART_COUNT"])
@pytest.mark.parametrize("value", ["x", "-1", "1.5"])
def test_torchrun_s_counts_are_whole_numbers(environment, name, value):
    environment(name, value)
    with pytest.raises(ValueError, match=f"{name} is '{value}' in the environment"):
        resume_point(argparse.Namespace(resume=None, output_dir=None), Processes())


@pytest.mark.parametrize("address", ["nosuchhost.invalid", "127.0.0.1:29500", "[::1]", "a b", "http://x", "x" * 300])
def test_an_address_of_no_host_is_one_line_before_torch_is_asked(environment, monkeypatch, capfd, address):
    monkeypatch.setattr("torch.distributed.rendezvous", lambda *_, **__: pytest.fail("torch was asked"))
    for rank in "01":
        place = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": "29500"}
        for each, value in place.items():
            environment(each, value)
        right = "without brackets or a port .MASTER_PORT has that"
        with pytest.raises(ValueError, match=f"MASTER_ADDR is .*which is no host .*{right}"):
            joined(torch.device("cpu"), 0.1).__enter__()
    assert capfd.readouterr().err == ""


def test_a_name_that_is_known_late_is_waited_for(monkeypatch):
    """Not by the first process, whose own it is."""
    asked = []

    def late(*address):
        asked.append(address)
        if len(asked) < 3:
            raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(environment_module.socket, "getaddrinfo", late)
    monkeypatch.setattr(environment_module.time, "sleep", lambda seconds: None)
    environment_module.check_address("node-0.job", rank=1, timeout=600)
    assert len(asked) == 3
    asked.clear()
    with pytest.raises(ValueError, match="no host that can be found .Name or service not known"):
        environment_module.check_address("node-0.job", rank=0, timeout=600)


@pytest.mark.parametrize("port", ["0", "70000", "-1", "x", "9" * 5000])
def test_a_port_that_is_none_is_named(environment, port):
    for each, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        environment(each, value)
    with pytest.raises(ValueError, match="MASTER_PORT is '.* a whole number from 1 to 65535"):
        joined(torch.device("cpu"), 1.0).__enter__()


@pytest.mark.parametrize("name", ["MASTER_ADDR", "MASTER_PORT"])
def test_where_the_processes_meet_is_said(environment, name):
    for each, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        environment(each, "" if each == name else value)
    with pytest.raises(ValueError, match="MASTER_ADDR or MASTER_PORT is not"), joined(torch.device("cpu"), 1.0):
        pass
