"""What only a GPU can show: its precisions, its kernels, its compiler, and data that lies on it.

Without CUDA each test says that it needs one. `DTL_TEST_DEVICE=cpu` runs them on a CPU, to see that they are sound
themselves; `python -m book.experiments.gpu` runs them on a GPU and records what came out.
"""

import os
from dataclasses import replace

import pytest
import torch

from book.experiments.stacked import fit_all
from dtl_lib import data
from dtl_lib.config import ViTConfig
from dtl_lib.data.images import InMemory, Sets
from dtl_lib.lab import bench
from dtl_lib.models import ViT
from dtl_lib.probes import audit
from dtl_lib.tape import record
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe, evaluate, fit
from dtl_lib.train.device import autocast
from dtl_lib.train.loss import Objective
from tests.unit.planted import planted, random_mask

DEVICE = os.environ.get("DTL_TEST_DEVICE", "cuda")
CONFIG = ViTConfig(32, 4, dim=48, depth=3, heads=3, classes=10, plan=TokenPlan.of(3, 1, 0, 4))
RECIPE = Recipe(max_steps=6, batch_size=16, lr=1e-3, crop=4, flip=True, erase=0.2, trivial=True, log_every=1, amp="off")
NEAR = {"off": 1e-4, "bf16": 3e-2, "fp16": 5e-3}  # of the largest logit: float32 rounds at 1e-7, bf16 at 4e-3
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device here"
)


@pytest.fixture(autouse=True)
def full_float32():
    """cuDNN makes the patches' convolution in TF32 unless it is told not to; what is compared here is float32."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


def sets(images: int = 64) -> Sets:
    """Noise with classes."""
    draw = torch.Generator().manual_seed(0)

    def part(name: str) -> InMemory:
        pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=draw)
        labels = torch.randint(10, (images,), generator=draw)
        return InMemory(f"noise {name}", tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, pixels, labels)

    return Sets(part("train"), part("held_out"), part("test"))


def model(config: ViTConfig = CONFIG) -> ViT:
    """The same weights each time, with attention that is far from even."""
    torch.manual_seed(0)
    made = ViT(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def pictures(count: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    one, other = one.detach().float().cpu(), other.detach().float().cpu()
    assert one.isfinite().all()
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_logits_are_those_of_float32_on_the_cpu(amp):
    reference, there = model().eval()(pictures()), model().eval().to(DEVICE)
    with torch.no_grad(), autocast(torch.device(DEVICE), amp):
        logits = there(pictures().to(DEVICE))
    assert apart(logits, reference) < NEAR[amp]
    assert amp == "off" or apart(logits, reference) > 1e-6, "it was not in half precision"


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_training_in_half_precision(amp):
    """fp16 goes through the scaler; both stay finite and near float32."""
    ends = {}
    for kind in ("off", amp):
        trained = model()
        ends[kind] = fit(trained, sets(), replace(RECIPE, amp=kind), device=DEVICE, progress=False)
        assert all(value.isfinite().all() for value in trained.parameters())
    losses = [[row["loss"] for row in ends[kind].history if "loss" in row] for kind in ("off", amp)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)
    assert not ends[amp].skipped


def test_an_overflow_is_skipped_by_the_scaler_and_nothing_becomes_infinite():
    """At a scale of 2³⁰ the first gradients overflow in fp16: the weights stay, the scale is halved."""
    device, small = torch.device(DEVICE), model().to(DEVICE)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**30)
    optimizer, before = torch.optim.SGD(small.parameters(), 0.1), small.classifiers["cls"].weight.clone()
    with autocast(device, "fp16"):
        loss = Objective(small, RECIPE)(pictures().to(DEVICE), torch.arange(16, device=DEVICE) % 10)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    overflown = not all(p.grad.isfinite().all() for p in small.parameters())
    assert overflown and torch.equal(small.classifiers["cls"].weight, before) and scaler.get_scale() == 2.0**29


def test_batches_made_on_the_device_are_those_of_the_cpu():
    augment = data.Augment(crop=4, flip=True, trivial=True, erase=0.5)
    samples = torch.arange(64)
    x, y = sets().train.to(DEVICE).batch(samples, augment, (0, 3))
    reference, labels = sets().train.batch(samples, augment, (0, 3))  # `to` moves the images themselves
    assert x.device.type == y.device.type == torch.device(DEVICE).type
    assert torch.equal(y.cpu(), labels.cpu())
    assert float(((x.cpu() - reference).abs() > 1e-4).float().mean()) < 5e-3, "a rounding here and there is one level"


def test_evaluation_is_that_of_the_cpu():
    there = evaluate(model().to(DEVICE), sets().test, amp="off")
    assert there.loss == pytest.approx(evaluate(model(), sets().test, amp="off").loss, rel=1e-4)


def test_a_resumed_run_is_the_undisturbed_one(tmp_path):
    recipe = replace(RECIPE, ema=0.9, eval_every=6)

    def stop(step, loss, model):
        if step == 3:
            raise KeyboardInterrupt

    where = {"device": DEVICE, "progress": False}
    whole, resumed = model(), model()
    expected = fit(whole, sets(), recipe, tmp_path / "whole", **where)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), sets(), recipe, tmp_path / "cut", checkpoint_every=1, on_step=stop, **where)
    found = fit(resumed, sets(), recipe, tmp_path / "cut", resume=True, **where)
    losses = [[row["loss"] for row in run.history if "loss" in row][-2:] for run in (found, expected)]
    # kernels that add in any order leave the last digits open, and Adam makes full steps of gradients near 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    x = pictures().to(DEVICE)
    with torch.no_grad():
        assert apart(resumed.eval()(x), whole.eval()(x)) < 1e-2


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_recorded_attention_makes_the_output(amp):
    """What the tape computes from q and k, times v, is what the fused kernel gave."""
    there, kept = model().eval().to(DEVICE), {}

    def keep(index):
        return lambda module, args, output: kept.__setitem__(index, (args[2], output))

    handles = [b.attention.core.register_forward_hook(keep(i)) for i, b in enumerate(there.blocks)]
    with torch.no_grad(), autocast(torch.device(DEVICE), amp), record(there) as tape:
        there(pictures().to(DEVICE))
        attention = [tape.attention(block) for block in range(3)]
    for handle in handles:
        handle.remove()
    for block, (v, output) in kept.items():
        assert attention[block].dtype == torch.float32
        assert apart(attention[block] @ v.float(), output) < (1e-4 if amp == "off" else 2e-2)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_class_token_maps_are_those_of_the_cpu(amp):
    with torch.no_grad(), record(here := model().eval()) as reference:
        here(pictures())
    there = model().eval().to(DEVICE)
    with torch.no_grad(), autocast(torch.device(DEVICE), amp), record(there) as tape:
        there(pictures().to(DEVICE))
    for block in (1, 2):
        assert apart(tape.maps(block), reference.maps(block)) < (1e-3 if amp == "off" else 6e-2)


def test_the_training_step_compiles_into_one_graph():
    """With a graph for the forward pass that nothing breaks, and the loss of the step that is not compiled."""
    torch.compiler.reset()
    objective, labels = Objective(model().to(DEVICE), RECIPE), torch.arange(16, device=DEVICE) % 10
    backend = "inductor" if DEVICE == "cuda" else "eager"
    compiled = torch.compile(objective, fullgraph=True, backend=backend)
    loss = compiled(pictures().to(DEVICE), labels)
    loss.backward()
    gradient = objective.model.blocks[0].mlp.expand.weight.grad.clone()
    objective.zero_grad()
    plain = objective(pictures().to(DEVICE), labels)
    plain.backward()
    assert apart(loss, plain) < 1e-4
    assert apart(gradient, objective.model.blocks[0].mlp.expand.weight.grad) < 1e-3


@pytest.mark.skipif(DEVICE != "cuda", reason="a CPU has no clock of its own and no allocator that counts")
def test_time_and_memory_are_the_devices_own():
    timing = bench.step_time(CONFIG, 64, steps=5, amp="bf16", device=DEVICE)
    assert 0 < timing.median < 1 and timing.memory.startswith("measured")
    few, many = (bench.step_memory(CONFIG, batch, amp="off", device=DEVICE) for batch in (64, 128))
    assert many > few > 16 * CONFIG.cost().parameters


def test_an_audit_is_that_of_the_cpu():
    torch.manual_seed(0)
    model, mask = ViT(CONFIG).eval(), random_mask(12, (8, 8), 0.04)
    x = torch.randn(12, 3, 32, 32)
    with planted(model, mask, 0):
        expected = audit(model, [x])
    with planted(model.to(DEVICE), mask.to(DEVICE), 0):
        found = audit(model, [x])
    assert found.start == expected.start == 0
    for block, other in zip(found.blocks, expected.blocks):
        assert block.outliers.n == other.outliers.n and (block.outliers.places == other.outliers.places).all()
        assert block.received == pytest.approx(other.received, rel=1e-3) and block.rank == pytest.approx(
            other.rank, rel=1e-2
        )


def test_runs_trained_as_one_are_those_trained_one_by_one():
    recipes = [replace(RECIPE, seed=seed) for seed in (0, 1, 2)]
    together, alone = [model().to(DEVICE) for _ in recipes], [model() for _ in recipes]
    results = fit_all(together, sets(), recipes, DEVICE)
    for one, other, result, recipe in zip(together, alone, results, recipes):
        expected = fit(other, sets(), recipe, device=DEVICE, progress=False)
        losses = [[row["loss"] for row in found.history] for found in (result, expected)]
        assert apart(*map(torch.tensor, losses)) < NEAR["off"]
        assert apart(one.blocks[0].mlp.expand.weight, other.blocks[0].mlp.expand.weight) < 1e-3
    assert apart(together[0].positions, together[1].positions) > 1e-3, "seeds differ in their images"
