"""Optimisers and the moving average: what they compute, and that a state of theirs goes on where it was."""

import copy
import os
import socket

import pytest
import torch
import torch.nn.functional as F

from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe
from dtl_lib.train.optim import EMA, load_optimizer_state, make_optimizer, optimizer_state

CONFIG = ViTConfig(16, 8, dim=12, depth=2, heads=2, classes=5, plan=TokenPlan.of(2, reg_pos=1, num_reg=2))
RECIPES = {name: Recipe(optimizer=name, lr=1e-2, weight_decay=0.1) for name in ("adamw", "lamb")}
each_optimiser = pytest.mark.parametrize("kind", RECIPES)


def tiny(seed=0):
    torch.manual_seed(seed)
    return ViT(CONFIG)


def named(model):
    return dict(model.named_parameters())


def step(model, optimizer, number, rows=slice(None)):
    torch.manual_seed(100 + number)
    images, labels = torch.randn(8, 3, 16, 16, dtype=next(model.parameters()).dtype), torch.arange(8) % 5
    F.cross_entropy(model(images[rows]), labels[rows]).backward()
    optimizer.step()
    optimizer.zero_grad()


@each_optimiser
def test_a_state_loaded_into_a_new_optimiser_changes_nothing(kind):
    whole, cut = tiny(), tiny()
    first, second = make_optimizer(whole, RECIPES[kind]), make_optimizer(cut, RECIPES[kind])
    for number in range(5):
        step(whole, first, number)
    for number in range(3):
        step(cut, second, number)
    saved = optimizer_state(second, named(cut))
    later = make_optimizer(cut, RECIPES[kind])
    load_optimizer_state(later, named(cut), {name: value.clone() for name, value in saved.items()})
    for number in range(3, 5):
        step(cut, later, number)
    assert all(torch.equal(value, named(cut)[name]) for name, value in whole.named_parameters())
    assert {key.partition("/")[0] for key in saved} == {"step", "exp_avg", "exp_avg_sq"}
    assert all(saved[f"step/{name}"] == 3 and f"exp_avg/{name}" in saved for name in named(cut))

    fresh, forgetful = tiny(), make_optimizer(cut, RECIPES[kind])  # without the state the steps are others
    fresh.load_state_dict(cut.state_dict())
    step(fresh, make_optimizer(fresh, RECIPES[kind]), 5)
    step(cut, later, 5)
    assert not torch.equal(fresh.norm.weight, cut.norm.weight)
    assert not optimizer_state(forgetful, named(cut))


@each_optimiser
def test_a_state_shares_no_memory_with_what_it_was_loaded_from(kind):
    model = tiny()
    first, second = (make_optimizer(model, RECIPES[kind]) for _ in range(2))
    step(model, first, 0)
    load_optimizer_state(second, named(model), optimizer_state(first, named(model)))
    before = {name: value.clone() for name, value in optimizer_state(second, named(model)).items()}
    step(model, first, 1)
    after = optimizer_state(second, named(model))
    assert all(torch.equal(after[name], value) for name, value in before.items())


@each_optimiser
def test_a_state_that_does_not_fit_is_refused(kind):
    model = tiny()
    optimizer = make_optimizer(model, RECIPES[kind])
    step(model, optimizer, 0)
    state = optimizer_state(optimizer, named(model))
    for wrong in (
        {"exp_avg/nowhere": torch.zeros(3)},
        {"exp_avg/norm.weight": torch.zeros(3)},
        {"step/norm.weight": torch.zeros(12)},
        {"exp_avg/norm.weight": torch.zeros(12, dtype=torch.int64)},
    ):
        key = next(iter(wrong))
        message = f"the optimizer's {key.partition('/')[0]} of {key.partition('/')[2]} does not fit the model"
        with pytest.raises(ValueError, match=message):
            load_optimizer_state(optimizer, named(model), state | wrong)


@each_optimiser
def test_only_matrices_are_decayed(kind):
    decayed, free = tiny(), tiny()
    for model, decay in ((decayed, 0.5), (free, 0.0)):
        step(model, make_optimizer(model, Recipe(optimizer=kind, lr=0.1, weight_decay=decay)), 0)
    differ = {name for name, value in named(decayed).items() if not torch.equal(value, named(free)[name])}
    assert differ == {name for name in named(free) if name.endswith("weight") and "norm" not in name}


def test_lamb_moves_a_matrix_by_the_share_lr_of_its_length():
    model, lr = tiny().double(), 0.01
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    step(model, make_optimizer(model, Recipe(optimizer="lamb", lr=lr, weight_decay=0.1)), 0)
    for name, value in model.named_parameters():
        moved = (value.detach() - before[name]).norm()
        if name in model.no_weight_decay():  # Adam's first step: lr at every place
            assert moved <= lr * value.numel() ** 0.5 * (1 + 1e-9)
        else:
            torch.testing.assert_close(moved, lr * before[name].norm())


def test_lamb_does_not_limit_the_gradient_a_second_time():
    small, large = tiny().double(), tiny().double()
    for model, size in ((small, 1e-3), (large, 1e3)):
        optimizer = make_optimizer(model, RECIPES["lamb"])
        for factor in (1.0, 5.0):
            for value in model.parameters():
                value.grad = torch.full_like(value, size * factor)
            optimizer.step()
    torch.testing.assert_close(small.norm.weight, large.norm.weight, rtol=0, atol=1e-4)


def test_the_average_is_the_old_formula_to_the_last_bit():
    model = tiny()
    optimizer, ema, copied = make_optimizer(model, RECIPES["adamw"]), EMA(model, 0.9), copy.deepcopy(model)
    for number in (0, 1, 2, 500):
        step(model, optimizer, number)
        ema.update(number)
        decay = min(0.9, (1 + number) / (10 + number))
        with torch.no_grad():
            for mean, value in zip(copied.parameters(), model.parameters()):
                mean.lerp_(value, 1 - decay)
    assert list(ema.values) == list(named(model)) == list(ema.state_dict())
    assert all(torch.equal(ema.values[name], value) for name, value in copied.named_parameters())
    assert not torch.equal(ema.values["norm.weight"], model.norm.weight)


def test_inside_in_place_the_model_is_the_average_and_afterwards_itself_again():
    model, images = tiny(), torch.randn(2, 3, 16, 16)
    optimizer, ema = make_optimizer(model, RECIPES["adamw"]), EMA(model, 0.9)
    for number in range(3):
        step(model, optimizer, number)
        ema.update(number)
    own, mean, places = copy.deepcopy(model), copy.deepcopy(model), [value.data_ptr() for value in model.parameters()]
    mean.load_state_dict(ema.state_dict())

    with pytest.raises(ZeroDivisionError), ema.in_place(model) as inside:
        assert inside is model
        assert torch.equal(model(images), mean(images)) and not torch.equal(mean(images), own(images))
        raise ZeroDivisionError
    assert torch.equal(model(images), own(images))
    assert all(torch.equal(ema.values[name], value) for name, value in mean.named_parameters())
    assert places == [value.data_ptr() for value in model.parameters()]  # graphs and shards know these addresses
    assert all(value.requires_grad for value in model.parameters())


def run_in_one_process_of(world_size, rank, kind):
    """What comes of three steps, a moving average, a state saved and loaded, and two more steps."""
    sharded = world_size > 1
    model, images = tiny().double(), torch.ones(2, 3, 16, 16, dtype=torch.float64)
    if sharded:
        from torch.distributed.fsdp import fully_shard

        for part in (*model.blocks, model):
            fully_shard(part)
    rows = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    optimizer, ema = make_optimizer(model, RECIPES[kind]), EMA(model, 0.9)
    for number in range(3):
        step(model, optimizer, number, rows)
        ema.update(number)
    with torch.no_grad():
        with ema.in_place(model):
            inside = model(images)
        outside = model(images)
    model.state_dict()  # which puts the shards back
    state = optimizer_state(optimizer, named(model))
    optimizer = make_optimizer(model, RECIPES[kind])
    load_optimizer_state(optimizer, named(model), state)
    for number in range(3, 5):
        step(model, optimizer, number, rows)
    found = {**named(model), **{f"average/{name}": value for name, value in ema.values.items()}}
    found = {name: (value.full_tensor() if sharded else value).detach() for name, value in found.items()}
    return {**found, "inside": inside, "outside": outside}


def run_in_process(rank, world_size, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    found = {kind: run_in_one_process_of(world_size, rank, kind) for kind in RECIPES}
    if rank == 0:
        torch.save(found, folder / "shared.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_with_the_model_cut_over_two_processes_nothing_changes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_in_process, (2, port, tmp_path), 2)
    both = torch.load(tmp_path / "shared.pt", weights_only=True)
    for kind, shared in both.items():
        alone = run_in_one_process_of(1, 0, kind)
        assert not torch.allclose(alone["inside"], alone["outside"], rtol=1e-3, atol=0)
        for name, value in alone.items():
            torch.testing.assert_close(shared[name], value.detach(), rtol=1e-9, atol=1e-11, msg=f"{kind}: {name}")
