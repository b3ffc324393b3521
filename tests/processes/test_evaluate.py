"""Several processes measure together what one measures alone: every image once, one answer, said once."""

import re
import sys

import torch

from dtl_lib.checkpoint import save_model
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from tests.processes import launch


def test_three_processes_say_once_what_one_says(tmp_path):
    torch.manual_seed(0)
    path = save_model(tmp_path / "x.safetensors", ViT(ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=10)))
    command = f"-m dtl_lib evaluate --model-path {path} --data shapes --part held_out --batch-size 333 --device cpu"
    alone = launch.finished(launch.start([sys.executable, *command.split()]))
    three = launch.run(3, *command.split())  # which do not divide 2,000
    assert alone[0] == three[0] == 0, alone[2] + three[2]
    found = [re.findall(r"^shapes.*n = 2,000.*$", out, re.MULTILINE) for _, out, _ in (alone, three)]
    assert len(found[1]) == 1 and found[0] == found[1]
    assert "on 3 processes, " in three[1] and "processes" not in alone[1]
