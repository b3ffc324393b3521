"""Batches for a GPU, one that is pretended: who makes them, how many at once, and what crosses from the CPU."""

import pytest
import torch

from dtl_lib import train
from dtl_lib.__main__ import main
from dtl_lib.cli import evaluate as command
from dtl_lib.data import InMemory
from dtl_lib.data import loader as batches
from dtl_lib.data.images import Sets
from dtl_lib.data.shapes.generator import Shapes
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.train import Recipe
from dtl_lib.train.evaluation import Evaluation
from tests.unit.pretended import pretended_gpu
from tests.unit.test_batches import numbered

RECIPE = Recipe(batch_size=128, crop=2, flip=True, trivial=True, erase=0.5, seed=3)


class InThisProcess:
    """What a DataLoader's workers would make, made here."""

    def __init__(self, dataset, sampler, **how):
        self.dataset, self.sampler = dataset, sampler

    def __iter__(self):
        return (self.dataset[request] for request in self.sampler)


def test_no_worker_process_is_started_for_images_on_the_gpu(monkeypatch):
    """A process that is forked cannot use the GPU of its parent."""

    def refuse(*args, **how):
        raise AssertionError("a loader with workers")

    monkeypatch.setattr(torch.utils.data, "DataLoader", refuse)
    with pretended_gpu():
        images = numbered(256).to("cuda")
        assert len(list(batches.training_batches(images, RECIPE, 0, 2, workers=2))) == 2
        assert len(list(batches.evaluation_batches(images, 128, workers=2))) == 2
        with pytest.raises(AssertionError, match="a loader with workers"):
            list(batches.evaluation_batches(numbered(256), 128, workers=2))


@pytest.mark.parametrize("size", [130, 64])  # in three pieces, in one
def test_pieces_are_put_together_where_they_are_used(size, monkeypatch):
    """Joined on the CPU they would leave the pinned memory that a copy in the background asks for."""
    monkeypatch.setattr(torch.utils.data, "DataLoader", InThisProcess)
    recipe = Recipe(batch_size=size, crop=2, seed=3)
    expected = list(batches.training_batches(numbered(260), recipe, 0, 2, workers=0))
    joined, was = [], batches._join

    def join(parts):
        joined.extend(tensor.is_cuda for part in parts for tensor in part)
        return was(parts)

    monkeypatch.setattr(batches, "_join", join)
    with pretended_gpu() as gpu:
        loaded = list(batches.training_batches(numbered(260), recipe, 0, 2, workers=2, device=gpu))
        loaded += batches.evaluation_batches(numbered(260), size, workers=2, device=gpu)
        assert all(joined) and len(joined) > 4
        for (x, y), (their_x, their_y) in zip(expected, loaded):
            assert torch.equal(their_x.held, x) and torch.equal(their_y.held, y)


def test_dtl_evaluate_brings_images_in_memory_to_the_gpu_once(monkeypatch):
    """As training does; images in files come batch by batch."""
    seen, result = [], Evaluation(1.0, 1.0, 1.0, 256, 0.0, 1.0)
    model = ViT(ViTConfig(8, 4, dim=12, depth=1, heads=1, classes=256))
    monkeypatch.setattr(command, "trained_model", lambda args: model)
    monkeypatch.setattr(command, "_sets", lambda *_: Sets(None, None, numbered(256)))
    monkeypatch.setattr(train, "evaluate", lambda model, images, *rest, **how: seen.append(images) or result)
    with pretended_gpu() as gpu:
        assert main(["evaluate", "--model-path", "any", "--quiet"]) == 0
        assert seen[0].device == gpu and next(model.parameters()).is_cuda
    model = ViT(ViTConfig(8, 4, dim=12, depth=1, heads=1, classes=10))
    monkeypatch.setattr(command, "_sets", lambda *_: Sets(None, None, Shapes(size=8, length=4)))
    assert main(["evaluate", "--model-path", "any", "--quiet", "--device", "cpu"]) == 0


def test_more_is_made_at_once_on_a_gpu(monkeypatch):
    """There a batch's many small operations cost their launches, whatever its size."""
    calls, was = [], InMemory.batch
    monkeypatch.setattr(
        InMemory,
        "batch",
        lambda self, samples, *rest, **how: calls.append(len(samples)) or was(self, samples, *rest, **how),
    )
    expected = list(batches.training_batches(numbered(1024), RECIPE, 0, 10, workers=0))
    assert calls == [256] * 4 + [256]
    calls.clear()
    with pretended_gpu():
        loaded = list(batches.training_batches(numbered(1024).to("cuda"), RECIPE, 0, 10))
        assert calls == [1024, 256], "an epoch, and what is left of the next: its key differs"
        for (x, y), (their_x, their_y) in zip(expected, loaded, strict=True):
            assert torch.equal(their_x.held, x) and torch.equal(their_y.held, y)
        calls.clear()
        monkeypatch.setattr(batches, "PIXELS_ON_A_GPU", 600 * 8 * 8)
        list(batches.training_batches(numbered(1024).to("cuda"), RECIPE, 0, 8))
        assert calls == [512, 512], "fewer large ones: they need their memory"
