"""Memory at its peak, measured: against tensors counted by hand, and against what autograd has to keep."""

from dataclasses import replace

import pytest
import torch

from dtl_lib.config import ViTConfig
from dtl_lib.lab import bench
from dtl_lib.tokens import TokenPlan
from tests.unit.pretended import pretended_gpu

SMALL = ViTConfig(16, 4, dim=48, depth=4, heads=4, classes=10)
MIB = 2**20


def peak(*sizes: int) -> int:
    """Of tensors of so many bytes: each is kept, and below 0 the last one is let go."""

    def run():
        held = []
        for size in sizes:
            held.append(torch.empty(size, dtype=torch.uint8)) if size > 0 else held.pop()

    return bench.peak_bytes(run, "cpu")


def test_what_is_alive_at_one_time_counts():
    assert peak(MIB) == MIB and peak(MIB, 2 * MIB) == 3 * MIB
    assert peak(MIB, 2 * MIB, -1, MIB) == 3 * MIB
    assert peak(2 * MIB, -1, MIB, -1, MIB) == 2 * MIB
    assert peak(MIB, -1, 3 * MIB, -1, 2 * MIB) == 3 * MIB
    assert bench.peak_bytes(lambda: None, "cpu") == 0


def test_what_an_operation_makes_and_drops_within_counts():
    a = torch.ones(256, 256)
    assert bench.peak_bytes(lambda: (a + 1) + 1, "cpu") == pytest.approx(2 * a.nbytes, abs=1024)
    assert bench.peak_bytes(lambda: a.add_(1), "cpu") < 1024


def test_what_was_there_before_does_not_count():
    held = [torch.empty(4 * MIB, dtype=torch.uint8)]
    assert bench.peak_bytes(held.clear, "cpu") == 0


def test_it_is_the_same_again():
    assert step(SMALL) == step(SMALL)


def test_a_step_holds_activations_weights_and_averages():
    """More than what has to be there when the backward pass begins, less than everything at one time."""
    cost, batch = SMALL.cost(), 32
    kept = batch * cost.activation_bytes + 12 * cost.parameters
    assert kept < step(SMALL, batch) < 1.1 * kept + 4 * cost.parameters


@pytest.mark.parametrize("batch", [8, 32])
def test_an_image_more_costs_its_activations(batch):
    assert (step(SMALL, 2 * batch) - step(SMALL, batch)) / batch == pytest.approx(
        SMALL.cost().activation_bytes, rel=0.1
    )


def test_registers_cost_more_the_earlier_they_enter():
    plans = [TokenPlan.of(4), *(TokenPlan.of(4, 0, at, 8) for at in (3, 1, 0))]
    found = [step(replace(SMALL, plan=plan), 32) for plan in plans]
    assert found == sorted(set(found))
    expected = [replace(SMALL, plan=plan).cost().activation_bytes for plan in plans]
    assert (found[3] - found[1]) / 32 == pytest.approx(expected[3] - expected[1], rel=0.1)


def test_a_forward_pass_keeps_nothing():
    forward = bench.step_memory(SMALL, 32, training=False, device="cpu")
    assert 4 * SMALL.cost().parameters < forward < step(SMALL, 32) / 4


def test_on_a_gpu_its_allocator_is_asked(monkeypatch):
    with pretended_gpu():
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: 100)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 350)
        assert bench.peak_bytes(lambda: None) == 250


def step(config: ViTConfig, batch: int = 8) -> int:
    return bench.step_memory(config, batch, device="cpu")
