"""Checkers of chapter 04, Training."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..models import ViT, ViTConfig
from . import exercise, expect, expect_close, expect_fresh, expect_shape


@exercise
def check_my_rate(my_rate) -> None:
    """The climb, the peak, the fall, and an end that is not zero."""
    rates = [float(my_rate(0.5, 0.1, step, 13, 3)) for step in range(14)]
    expect(rates[0] != 0, "the first step is already above 0: lr · (step + 1) / (warmup + 1)")
    climb = [0.5 * (step + 1) / 4 for step in range(3)]
    third = [0.5 * (step + 1) / 3 for step in range(3)]
    expect(not _close(rates[:3], third), "the climb reaches lr at step `warmup`: divide by warmup + 1")
    expect(_close(rates[:3], climb), "while step < warmup the rate is lr · (step + 1) / (warmup + 1)")
    late = [0.1 + 0.4 * (1 + math.cos(math.pi * step / 13)) / 2 for step in range(3, 14)]
    expect(not _close(rates[3:], late), "the cosine begins after the warm-up: progress counts from step `warmup`")
    expect(abs(rates[3] - 0.5) < 1e-6, "at step `warmup` the rate is lr: there the cosine begins")
    zero = [0.5 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(11)]
    expect(not _close(rates[3:], zero), "the fall ends at min_lr, not at 0")
    straight = [0.5 - 0.4 * step / 10 for step in range(11)]
    expect(not _close(rates[3:], straight), "the fall is half a cosine, not a straight line")
    fall = [0.1 + 0.4 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(11)]
    expect(_close(rates[3:], fall), "min_lr + (lr − min_lr) · (1 + cos(π · progress)) / 2, with progress from 0 to 1")
    expect(abs(float(my_rate(0.5, 0.1, 0, 10, 0)) - 0.5) < 1e-6, "without a warm-up, step 0 has the full rate")


@exercise
def check_my_step(my_step) -> None:
    """Three steps, with gradients left over from before, against `plain_step`, which a test holds to the library's."""
    images, labels = torch.randn(3, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])
    images = images * torch.tensor([1.0, 5.0, 0.2]).view(3, 1, 1, 1, 1)
    rates, clip = (0.025, 0.05, 0.02), 0.05
    library, mine = _small(), _small()
    librarys, optimizer = _adamw(library), _adamw(mine)
    for value in mine.parameters():
        value.grad = torch.ones_like(value)
    mine.train()
    for step, (batch, rate) in enumerate(zip(images, rates)):
        expected = plain_step(library, librarys, batch, labels, rate, clip)
        loss = my_step(mine, optimizer, batch, labels, rate, clip)
        expect_shape(loss, (), "return the loss, one number")
        expect(not loss.requires_grad, "return loss.detach(): the loss itself keeps the whole graph in memory")
        expect(
            all(group["lr"] == rate for group in optimizer.param_groups),
            'set group["lr"] = rate in every group of the optimizer',
        )
        expect(mine.training, "a step leaves the model in training mode: without model.eval()")
        states = [optimizer.state[value].get("step", 0) for value in mine.parameters()]
        expect(all(int(count) == step + 1 for count in states), "call optimizer.step() once")
        if step == 0:
            _gradients(mine, _small(), batch, labels, clip)
        expect_close(loss.detach(), expected, "the loss is the mean cross-entropy of the batch, before the step", 1e-4)
        for (name, value), right in zip(mine.named_parameters(), library.parameters()):
            expect_close(
                value.detach(), right.detach(), f"{name} differs from the library's after {step + 1} steps", 1e-3
            )


@exercise
def check_accumulate(accumulate) -> None:
    """Ten images in three parts, which cannot be equal."""
    model = _small()
    images = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(10) % 3
    sizes = []
    freed: list[bool] = []  # before each part, whether gradients of the one before are there
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    model.register_forward_pre_hook(lambda module, _: freed.append(_flat(module) is not None))
    answer = getattr(accumulate, "__wrapped__", accumulate)  # it leaves gradients, and returns nothing
    answer(model, images, labels, 3)
    found = _flat(model)
    expect(found is not None, "no gradients: call backward() on the loss of every part")
    kept = all(map(torch.equal, model.parameters(), _small().parameters()))
    expect(kept, "the weights have changed: accumulate only leaves gradients, and takes no step")
    expect(max(sizes) <= 4, f"at most 4 of 10 images at a time for three parts; the model saw {max(sizes)} at once")
    losses = [F.cross_entropy(_small()(x), y) for x, y in zip(images.split(4), labels.split(4))]
    expect(
        sum(sizes) == 10,
        f"every image goes through the model once; yours were {sum(sizes)} of 10 ({len(losses)} parts)",
    )
    for wrong, hint in (
        ([1, 1, 1], "this is the gradient of a sum of means: each part counts by its share of the batch"),
        ([1 / 3, 1 / 3, 1 / 3], "the last part is smaller: it counts by its share of the batch, not as a third"),
        ([4, 4, 2], "this is the gradient of the sum over the images; the mean is asked for"),
        ([0, 0, 0.2], "only the last part is left: gradients add up by themselves, do not set them to zero in between"),
        ([0, 0, 1], "only the last part is left: gradients add up by themselves, do not set them to zero in between"),
    ):
        expect(not torch.allclose(found, _weighted(images, labels, wrong), rtol=1e-3, atol=1e-6), hint)
    right = _weighted(images, labels, [0.4, 0.4, 0.2])
    expect(torch.allclose(found, right, rtol=1e-3, atol=1e-6), "not the gradient of the mean loss over the whole batch")
    expect(
        freed[1:] == [True] * (len(freed) - 1), "call backward() on each part before the next goes through the model"
    )
    sizes.clear()
    answer(model, images, labels, 5)
    expect(max(sizes) <= 2, f"at most 2 of 10 images at a time for five parts; the model saw {max(sizes)} at once")


@exercise
def check_decays(decays) -> None:
    """Names and shapes of a ViT with registers and LayerScale."""
    yes = {"blocks.0.attention.qkv.weight": (192, 64), "classifiers.cls.weight": (10, 64)}
    yes |= {"patch_embed.project.weight": (64, 3, 8, 8), "blocks.3.mlp.expand.weight": (256, 64)}
    no = {"blocks.0.attention.qkv.bias": (192,), "norm.weight": (64,), "blocks.1.scale1.factor": (64,)}
    no |= {"tokens.cls": (1, 64), "tokens.reg": (4, 64), "positions": (4, 4, 64)}
    for name, shape in yes.items():
        expect(decays(name, shape) in (True, False), "return True or False")
        expect(bool(decays(name, shape)), f"{name} {shape} multiplies what it reads: it decays (return True)")
    for name, shape in no.items():
        expect(not decays(name, shape), f"{name} {shape} is not decayed (return False)")


@exercise
def check_mixup(mixup) -> None:
    """Three images that can be told apart."""
    images = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1).repeat(1, 3, 2, 2)
    answer = mixup(images, torch.tensor([0, 2, 1]), 0.75, 4)
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "return two things: images and label shares")
    mixed, shares = answer
    expect_shape(mixed, (3, 3, 2, 2), "the images keep their shape")
    expect_shape(shares, (3, 4), "a row of shares over all classes for each image")
    swapped = torch.tensor([0.25 * 1 + 0.75 * 10, 0.25 * 10 + 0.75 * 100, 0.25 * 100 + 0.75 * 1])
    expect(not torch.allclose(mixed[:, 0, 0, 0], swapped), "`share` is what an image keeps of itself: yours is swapped")
    before = torch.tensor([0.75 * 1 + 0.25 * 100, 0.75 * 10 + 0.25 * 1, 0.75 * 100 + 0.25 * 10])
    expect(not torch.allclose(mixed[:, 0, 0, 0], before), "the neighbour is the next image; this is the one before")
    expected = torch.tensor([0.75 * 1 + 0.25 * 10, 0.75 * 10 + 0.25 * 100, 0.75 * 100 + 0.25 * 1])
    expect_close(
        mixed[:, 0, 0, 0], expected, "`share` of the image itself, the rest of the next; the last takes the first"
    )
    labels = torch.tensor([[0.75, 0, 0.25, 0], [0, 0.25, 0.75, 0], [0.25, 0.75, 0, 0]])
    expect_close(shares, labels, "the labels mix with the same shares and the same neighbours as the images")


@exercise
def check_averaged(averaged) -> None:
    """Three values, by hand; the list stays as it was."""
    values = [torch.tensor([0.0, 8.0]), torch.tensor([10.0, 8.0]), torch.tensor([20.0, 0.0])]
    average = averaged(values, 0.9)
    expect_shape(average, (2,), "the average of tensors is a tensor of their shape")
    swapped = torch.tensor([18.9, 0.8])
    expect(not torch.allclose(average, swapped), "decay is what the old average keeps: yours keeps 1 − decay")
    expect_close(
        average, torch.tensor([2.9, 7.2]), "average ← decay · average + (1 − decay) · value, from the first on"
    )
    expect(torch.equal(values[0], torch.tensor([0.0, 8.0])), "you changed the first value itself: start from a copy")


@exercise
def check_larger_weights(larger_weights) -> None:
    """Only the weights of linear maps, and only their size."""
    torch.manual_seed(0)
    model = larger_weights()
    expect(isinstance(model, nn.Module), f"return a model, not {type(model).__name__}")
    expect_fresh(larger_weights)
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    expect(not frozen, f"{', '.join(frozen[:1])} no longer learns: change the numbers, keep the parameters")
    torch.manual_seed(0)  # of the same draws: the spread of 64 random numbers is not the same twice
    plain = dict(ViT.build("vit_shapes_patch8_32").named_parameters())
    values = {name: value.detach() for name, value in model.named_parameters()}
    expect(set(values) == set(plain), "the model is vit_shapes_patch8_32, with other numbers in it and nothing else")
    linear = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    for name in sorted(linear):
        spread = float(values[name].std())
        expect(abs(spread / 0.2 - 1) < 0.2, f"{name} has a standard deviation of {spread:.3f}, and should have 0.2")
    for name in sorted(set(plain) - linear):
        hint = f"{name} is no weight of a linear map: leave it as it was"
        (spread, mean), (right, middle) = (
            (float(value.detach().std(correction=0)), float(value.detach().mean()))
            for value in (values[name], plain[name])
        )
        expect(abs(spread - right) <= 0.3 * right and abs(mean - middle) <= max(0.02, right), hint)


def plain_step(model, optimizer, images, labels, rate: float, clip: float) -> torch.Tensor:
    """A step as the chapter has it; returns the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.detach()


def _adamw(model: ViT) -> torch.optim.Optimizer:
    free = model.no_weight_decay()
    groups = {True: [], False: []}
    for name, value in model.named_parameters():
        groups[name in free].append(value)
    decayed = {"params": groups[False], "weight_decay": 0.5}
    return torch.optim.AdamW([decayed, {"params": groups[True], "weight_decay": 0.0}], betas=(0.9, 0.99))


def _close(rates: list[float], expected: list[float]) -> bool:
    return all(abs(rate - right) < 1e-6 for rate, right in zip(rates, expected, strict=True))


def _small() -> ViT:
    """The same small model each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViT(ViTConfig(image_size=8, patch_size=4, dim=8, depth=1, heads=2, classes=3))
        for value in model.parameters():
            value.data += 0.2 * torch.randn_like(value)
        return model


def _flat(model: nn.Module) -> torch.Tensor | None:
    grads = [value.grad for value in model.parameters()]
    return None if any(grad is None for grad in grads) else torch.cat([grad.flatten() for grad in grads])


def _weighted(images: torch.Tensor, labels: torch.Tensor, weights: list[float]) -> torch.Tensor:
    """The gradient of the parts' mean losses, weighted."""
    model = _small()
    for x, y, weight in zip(images.split(4), labels.split(4), weights):
        (weight * F.cross_entropy(model(x), y)).backward()
    return _flat(model)


def _gradients(mine: ViT, before: ViT, images: torch.Tensor, labels: torch.Tensor, clip: float) -> None:
    """Refuse what the first step has left as gradients, where it left any, with what went wrong."""
    found = _flat(mine)
    if found is None or not found.any():  # set to zero at the end
        return
    F.cross_entropy(before(images), labels).backward()
    right = _flat(before)
    norm = right.norm()
    expect(not torch.allclose(found, right, rtol=1e-3, atol=1e-6), "the gradients are not clipped: after backward()")
    added = right + 1
    both = (added, added * clip / added.norm())
    stale = any(torch.allclose(found, wrong, rtol=1e-3, atol=1e-6) for wrong in both)
    expect(not stale, "gradients of the step before are still there: optimizer.zero_grad() before backward()")
    capped = right.clamp(-clip, clip)
    expect(
        not torch.allclose(found, capped, rtol=1e-3, atol=1e-6), "clip the norm of the whole gradient, not each number"
    )
    expect(
        torch.allclose(found, right * clip / norm, rtol=1e-2, atol=1e-6),
        "the gradient is not that of the mean loss, clipped",
    )
