"""Cut over the processes, a model takes its share of memory on each: in steps, in saves, and when it is measured."""

import json

import pytest
import torch

from dtl_lib import checkpoint
from dtl_lib.checkpoint import load_model
from dtl_lib.train import evaluate, token_norms
from tests.processes import launch, memory

SIZES = [4 * value.numel() for value in memory.fresh().parameters()]
WEIGHTS, LARGEST = sum(SIZES), max(SIZES)  # bytes
BLOCK = sum(4 * value.numel() for value in memory.fresh().blocks[0].parameters())
HELD = 4  # times the weights: with their average, and the two of AdamW; gradients are gone between steps
SMALL = 50_000  # bytes: pictures, padding, numbers
# How many blocks are whole at a time is PyTorch's choice, which it changes: the one computed, the next, the one before.
FEW_BLOCKS = WEIGHTS / 2  # six of the twelve


@pytest.fixture(scope="module", params=[2, 4])
def found(request, tmp_path_factory):
    """The folder of a run in that many processes, and what each has measured."""
    folder, count = tmp_path_factory.mktemp("memory"), request.param
    status, out, error = launch.run(count, memory.__file__, folder)
    assert status == 0, out + error
    place = folder / str(count)
    return place, [json.loads((place / f"{rank}.json").read_text()) for rank in range(count)]


def test_between_steps_a_process_holds_its_part_alone(found):
    _, processes = found
    for one in processes:
        for held in (one["held"], one["held after"]):  # before and after saves and an evaluation
            assert abs(held - HELD * WEIGHTS / len(processes)) < SMALL


def test_a_save_takes_one_parameter_at_a_time(found):
    _, (_, *others) = found  # the first process collects in the CPU's memory, which is where all of this runs here
    for one in others:
        assert LARGEST <= one["save"] < 2 * LARGEST + SMALL  # gloo's thread may not yet have let go of the one before


def test_no_step_and_no_evaluation_takes_the_whole_model(found):
    _, (_, *others) = found
    for one in others:
        assert all(BLOCK < one[when] < FEW_BLOCKS for when in ("evaluate", "end"))
        gradients = WEIGHTS / (1 + len(others))  # its part of them
        assert BLOCK < one["step"] - gradients < FEW_BLOCKS


def test_resuming_takes_one_parameter_at_a_time(found):
    _, (_, *others) = found
    loaded = (HELD + 2) * WEIGHTS / (1 + len(others))  # AdamW's averages are there twice for a moment
    assert all(one["resume"] < loaded + 2 * LARGEST + SMALL for one in others)


def test_the_weights_at_the_start_are_those_of_one_process(found):
    assert all(one["same"] for one in found[1])


def test_a_stop_that_one_process_is_asked_for_ends_the_evaluation_of_all(found):
    assert all(one["abandoned"] for one in found[1])


def test_what_is_measured_in_parts_is_what_is_measured_whole(found):
    best = checkpoint.read_card(found[0] / "state.safetensors")["progress"]["best"]
    model, sets = load_model(found[0] / "best.safetensors"), memory.Sets()
    alone = evaluate(model, sets.held_out)
    assert best["n"] == alone.n == 3 and best["accuracy"] == alone.accuracy
    assert best["held_out_loss"] == pytest.approx(alone.loss, rel=1e-5)
    norms = token_norms(model, sets.held_out.batch(torch.arange(3))[0])
    assert best["norms"] == pytest.approx(norms, rel=1e-5)
