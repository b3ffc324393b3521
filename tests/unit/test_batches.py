"""Batches over several processes: the same ones for any number, every sample once, copies that differ."""

import pytest
import torch

from dtl_lib import host
from dtl_lib.data import InMemory
from dtl_lib.data import loader as batches
from dtl_lib.data.augment.mixing import mixer
from dtl_lib.data.files import ImageFiles
from dtl_lib.data.keyed import keyed_generators
from dtl_lib.data.shapes.generator import Shapes
from dtl_lib.train import Recipe
from dtl_lib.train.distributed.processes import Processes

WORLDS = (1, 2, 4)
BUSY = {"crop": 2, "flip": True, "erase": 0.5}


def numbered(count: int, side: int = 8) -> InMemory:
    """Noise whose label is the sample's number."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    names = [str(number) for number in range(count)]
    return InMemory("noise train", names, (0.5,) * 3, (0.25,) * 3, pixels, torch.arange(count))


def parts(images, recipe, world_size: int, steps: int, first: int = 0):
    """For each step, what each process gets."""
    loaders = [
        batches.training_batches(images, recipe, first, steps, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    return list(zip(*loaders, strict=True))


def whole(images, recipe, world_size: int, steps: int, first: int = 0):
    """The global batches, put together from the processes' parts."""
    return [
        tuple(torch.cat(column) for column in zip(*step)) for step in parts(images, recipe, world_size, steps, first)
    ]


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize(
    "policy", [{}, BUSY, {"flip": True, "randaugment": 9}, {"repeats": 3, "trivial": True, **BUSY}]
)
def test_any_number_of_processes_makes_the_same_batches(world_size, policy):
    images, recipe = numbered(50), Recipe(batch_size=8, seed=3, **policy)
    alone = list(batches.training_batches(images, recipe, 4, 14, workers=0))
    together = whole(images, recipe, world_size, 14, first=4)
    assert len(together) == 10
    for (x, y), (other_x, other_y) in zip(alone, together, strict=True):
        assert torch.equal(y, other_y) and torch.equal(x, other_x)


@pytest.mark.parametrize("world_size", WORLDS)
def test_an_epoch_holds_every_sample_once_over_the_processes(world_size):
    images, recipe = numbered(50), Recipe(batch_size=8, seed=3)
    steps = parts(images, recipe, world_size, 12)
    assert all(len(y) == 8 // world_size for step in steps for _, y in step)
    epochs = [torch.cat([y for step in steps[start : start + 6] for _, y in step]) for start in (0, 6)]
    for epoch in epochs:
        assert len(epoch) == 48 and len(epoch.unique()) == 48  # two are left over
    assert not torch.equal(*epochs)


@pytest.mark.parametrize(("world_size", "right"), [(3, "take 6 or 9"), (12, "take 12$"), (5, "take 5 or 10")])
def test_processes_that_do_not_divide_the_batch_are_refused(world_size, right):
    with pytest.raises(ValueError, match=f"batch_size=8 cannot be shared by {world_size} processes: {right}"):
        batches.training_batches(numbered(50), Recipe(batch_size=8), 0, 1, rank=0, world_size=world_size)


@pytest.mark.parametrize("kind", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
@pytest.mark.parametrize("more", [{}, {"repeats": 3}])
@pytest.mark.parametrize("world_size", WORLDS)
def test_mixing_in_parts_is_mixing_the_whole_batch(kind, more, world_size):
    images, recipe = numbered(50), Recipe(batch_size=8, seed=1, flip=True, **kind, **more)
    mix, device = mixer(recipe.mixup, recipe.cutmix, 50), torch.device("cpu")
    alone, changed = list(batches.training_batches(images, recipe, 0, 8)), 0
    for step, mine in enumerate(parts(images, recipe, world_size, 8)):
        with keyed_generators(device, recipe.seed, step):
            expected = mix(*alone[step])
        mixed = []
        for x, y in mine:
            assert len(y) == 8 // world_size + (world_size > 1)
            with keyed_generators(device, recipe.seed, step):
                mixed.append(mix(x, y, neighbour=world_size > 1))
        x, y = (torch.cat(column) for column in zip(*mixed))
        assert torch.equal(x, expected[0]) and torch.equal(y, expected[1])
        changed += not torch.equal(x, alone[step][0])
    assert changed >= 5  # a CutMix box may be empty


def test_only_mixing_over_several_processes_brings_the_neighbour():
    images = numbered(50)
    (x, y), *_ = batches.training_batches(images, Recipe(batch_size=8), 0, 1)
    mixed = Recipe(batch_size=8, cutmix=1.0)
    (_, first), (_, second) = parts(images, mixed, 2, 1)[0]
    assert first.tolist() == [y[7].item(), *y[:4].tolist()] and second.tolist() == y[3:].tolist()
    assert (
        len(parts(images, mixed, 1, 1)[0][0][1]) == 8 and len(parts(images, Recipe(batch_size=8), 2, 1)[0][0][1]) == 4
    )


def test_repeated_augmentation_holds_copies_that_differ():
    images, recipe = numbered(60), Recipe(batch_size=8, repeats=3, seed=2, **BUSY)
    epoch = list(batches.training_batches(images, recipe, 0, 7))
    assert len(epoch) == 7 == recipe.steps_per_epoch(60)
    seen = []
    for x, y in epoch:
        distinct = y[:3].tolist()
        assert y.tolist() == [*distinct, *distinct, *distinct[:2]] and len(set(distinct)) == 3
        for first, second in ((0, 3), (0, 6), (3, 6), (1, 4), (2, 5)):
            assert not torch.equal(x[first], x[second])
        seen += distinct
    assert len(set(seen)) == 21  # about a third of the images, each in one batch
    for copy, rows in enumerate((slice(0, 3), slice(3, 6), slice(6, 8))):
        x, y = epoch[0]
        assert torch.equal(x[rows], images.batch(y[rows], recipe.augment(), (2, 0, copy))[0])


def test_one_copy_is_what_it_was():
    images, recipe = numbered(60), Recipe(batch_size=8, seed=2, **BUSY)
    x, y = list(batches.training_batches(images, recipe, 0, 9))[8]
    expected = batches.keyed.permutation(60, (2, 1))[8:16]
    assert torch.equal(y, expected) and torch.equal(x, images.batch(expected, recipe.augment(), (2, 1))[0])


@pytest.mark.parametrize(("count", "world_size"), [(10, 1), (10, 4), (3, 4), (23, 2)])
@pytest.mark.parametrize("workers", [None, 1])
def test_evaluation_sees_every_image_once_over_the_processes(count, world_size, workers):
    images = numbered(count)
    got = [
        [y for _, y in batches.evaluation_batches(images, 2, workers, rank=rank, world_size=world_size)]
        for rank in range(world_size)
    ]
    for rank, mine in enumerate(got):
        assert all(1 <= len(y) <= 2 for y in mine)
        assert sum((y.tolist() for y in mine), []) == list(range(rank, count, world_size))


def test_generated_images_are_shared_too():
    images, recipe = Shapes(size=16, length=40), Recipe(batch_size=8, flip=True)
    for (x, y), (other_x, other_y) in zip(batches.training_batches(images, recipe, 0, 6), whole(images, recipe, 4, 6)):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)


@pytest.mark.parametrize("known", [True, False])
def test_a_process_alone_has_the_cores_it_may_use(monkeypatch, known):
    monkeypatch.setattr(host.os, "cpu_count", lambda: 24)
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    if not known:
        monkeypatch.delattr(host.os, "sched_getaffinity")
    assert len(host.usable_cores()) == Processes().cores == (3 if known else 24)
    assert batches._default_workers(None) == (3 if known else batches.MAX_WORKERS)
    assert batches._default_workers(2) == 2


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 4),
        ({"cpu.max": "nonsense"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 4),
    ],
)
def test_a_container_has_the_cores_that_its_quota_pays_for(monkeypatch, tmp_path, files, cores):
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _: {2, 3, 5, 7}, raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = host.usable_cores(tmp_path)
    assert sorted(found) == [2, 3, 5, 7][:cores]
    assert host.share_of_cores(found, [found, found]) == max(1, cores // 2), "two processes of it share them"


def test_processes_share_the_cores_that_they_may_all_use_and_have_the_others_to_themselves():
    every, bound = frozenset(range(96)), [frozenset(range(12 * task, 12 * task + 12)) for task in range(8)]
    assert host.share_of_cores(every, [every] * 8) == 12  # torchrun's
    assert all(host.share_of_cores(mine, bound) == 12 for mine in bound)  # srun's
    sockets = [frozenset(range(48)), frozenset(range(48, 96))] * 4
    assert host.share_of_cores(sockets[1], sockets) == 12  # bound to a socket each, four to one
    assert host.share_of_cores(every, [every, *bound[:2]]) == 72 + 12
    assert (
        host.share_of_cores(frozenset({1}), [frozenset({1})] * 5) == 1 and host.share_of_cores(every, [every] * 24) == 4
    )


def test_workers_are_as_many_as_the_cores_given(monkeypatch):
    asked = []
    monkeypatch.setattr(
        batches, "_load", lambda images, steps, size, workers, *more, **how: asked.append(workers) or ()
    )
    images, recipe = numbered(16), Recipe(batch_size=8)
    files = ImageFiles.__new__(ImageFiles)
    files.__dict__.update(vars(images))
    monkeypatch.setattr(ImageFiles, "__len__", lambda self: 16)
    for part in (images, files):
        for slow in (recipe, Recipe(batch_size=8, randaugment=9)):
            batches.training_batches(part, slow, 0, 1, cores=5)
        list(batches.evaluation_batches(part, 8, cores=5))
    list(batches.evaluation_batches(files, 8, 3, cores=5))
    assert asked == [0, 5, 0, 5, 5, 5, 3]
