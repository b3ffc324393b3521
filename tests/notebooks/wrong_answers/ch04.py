"""Wrong answers that the checkers of chapter 04 have to refuse."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dtl_lib import ViT


def from_zero_rate(lr, min_lr, step, total, warmup):
    return lr * step / warmup if step < warmup else _rate(lr, min_lr, step, total, warmup)


def peak_too_early(lr, min_lr, step, total, warmup):
    return lr * (step + 1) / warmup if step < warmup else _rate(lr, min_lr, step, total, warmup)


def cosine_from_step_zero(lr, min_lr, step, total, warmup):
    if step < warmup:
        return _rate(lr, min_lr, step, total, warmup)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * step / total)) / 2


def falls_to_zero(lr, min_lr, step, total, warmup):
    return _rate(lr, 0, step, total, warmup)


def straight_line(lr, min_lr, step, total, warmup):
    if step < warmup:
        return _rate(lr, min_lr, step, total, warmup)
    return lr - (lr - min_lr) * (step - warmup) / (total - warmup)


def no_warm_up(lr, min_lr, step, total, warmup):
    return _rate(lr, min_lr, step, total, 0)


def whole_cosine(lr, min_lr, step, total, warmup):
    if step < warmup:
        return _rate(lr, min_lr, step, total, warmup)
    return min_lr + (lr - min_lr) * math.cos(math.pi * (step - warmup) / (total - warmup))


def _rate(lr, min_lr, step, total, warmup):
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def _step(model, optimizer, images, labels, rate, clip, leave_out=""):
    for group in optimizer.param_groups[: 1 if leave_out == "groups" else None]:
        if leave_out != "rate":
            group["lr"] = rate
    if leave_out == "training mode":
        model.eval()
    loss = F.cross_entropy(model(images), labels, reduction="sum" if leave_out == "mean" else "mean")
    if leave_out != "zero_grad":
        optimizer.zero_grad()
    if leave_out == "early clip":
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    loss.backward()
    if leave_out == "by value":
        nn.utils.clip_grad_value_(model.parameters(), clip)
    elif leave_out not in ("clip", "early clip"):
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    if leave_out != "step":
        optimizer.step()
    if leave_out == "once":
        optimizer.step()
    return loss if leave_out == "detach" else loss.detach()


def _without(part):
    def my_step(model, optimizer, images, labels, rate, clip):
        return _step(model, optimizer, images, labels, rate, clip, part)

    my_step.__name__ = f"step_without_{part.replace(' ', '_')}"
    return my_step


LEFT_OUT = (
    "groups",
    "rate",
    "mean",
    "zero_grad",
    "early clip",
    "by value",
    "clip",
    "step",
    "once",
    "detach",
    "training mode",
)


def _accumulate(model, images, labels, parts, weight, zero=False, whole=False):
    size = len(images) if whole else math.ceil(len(images) / parts)
    for x, y in zip(images.split(size), labels.split(size)):
        if zero:
            model.zero_grad()
        (weight(len(x) / len(images), parts) * F.cross_entropy(model(x), y)).backward()


def every_part_counts_one(model, images, labels, parts):
    _accumulate(model, images, labels, parts, lambda share, parts: 1)


def every_part_counts_alike(model, images, labels, parts):
    _accumulate(model, images, labels, parts, lambda share, parts: 1 / parts)


def sum_over_images(model, images, labels, parts):
    _accumulate(model, images, labels, parts, lambda share, parts: share * len(images))


def only_the_last_part(model, images, labels, parts):
    _accumulate(model, images, labels, parts, lambda share, parts: share, zero=True)


def all_at_once(model, images, labels, parts):
    _accumulate(model, images, labels, parts, lambda share, parts: share, whole=True)


def the_rest_dropped(model, images, labels, parts):
    size = len(images) // parts
    _accumulate(model, images[: size * parts], labels[: size * parts], parts, lambda share, parts: share)


def parts_for_size(model, images, labels, parts):
    for x, y in zip(images.split(parts), labels.split(parts)):
        (len(x) / len(images) * F.cross_entropy(model(x), y)).backward()


def a_step_as_well(model, images, labels, parts):
    _accumulate(model, images, labels, parts, lambda share, parts: share)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def backward_at_the_end(model, images, labels, parts):
    logits = [model(x) for x in images.split(math.ceil(len(images) / parts))]
    F.cross_entropy(torch.cat(logits), labels).backward()


def never_backward(model, images, labels, parts):
    return F.cross_entropy(model(images[:4]), labels[:4])


def by_shape_alone(name, shape):
    return len(shape) > 1


def by_name_alone(name, shape):
    return name.endswith("weight")


def everything(name, shape):
    return True


def labels_of_the_other(images, labels, share, classes):
    targets = F.one_hot(labels, classes).to(images.dtype)
    mixed = share * images + (1 - share) * images.roll(-1, dims=0)
    return mixed, share * targets + (1 - share) * targets.roll(1, dims=0)


def previous_neighbour(images, labels, share, classes):
    targets = F.one_hot(labels, classes).to(images.dtype)
    mixed = share * images + (1 - share) * images.roll(1, dims=0)
    return mixed, share * targets + (1 - share) * targets.roll(1, dims=0)


def labels_not_mixed(images, labels, share, classes):
    return share * images + (1 - share) * images.roll(-1, dims=0), F.one_hot(labels, classes).to(images.dtype)


def shares_swapped(images, labels, share, classes):
    targets = F.one_hot(labels, classes).to(images.dtype)
    mixed = (1 - share) * images + share * images.roll(-1, dims=0)
    return mixed, (1 - share) * targets + share * targets.roll(-1, dims=0)


def mixed_in_place(images, labels, share, classes):
    targets = F.one_hot(labels, classes).to(images.dtype)
    images.copy_(share * images + (1 - share) * images.roll(-1, dims=0))
    return images, share * targets + (1 - share) * targets.roll(-1, dims=0)


def decay_swapped(values, decay):
    average = values[0].clone()
    for value in values[1:]:
        average = (1 - decay) * average + decay * value
    return average


def from_zero(values, decay):
    average = torch.zeros_like(values[0])
    for value in values:
        average = decay * average + (1 - decay) * value
    return average


def plain_mean(values, decay):
    return torch.stack(values).mean(dim=0)


def in_place(values, decay):
    average = values[0]
    for value in values[1:]:
        average.lerp_(value, 1 - decay)
    return average


def _model(chosen, factor=10):
    model = ViT.build("vit_shapes_patch8_32")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if chosen(name, value):
                value.mul_(factor)
    return model


def nothing_larger():
    return _model(lambda name, value: False)


def everything_larger():
    return _model(lambda name, value: True)


def positions_too():
    return _model(lambda name, value: value.ndim > 1)


def blocks_alone():
    return _model(lambda name, value: "blocks" in name and value.ndim == 2)


def hundred_times():
    return _model(lambda name, value: name.startswith(("blocks", "classifiers")) and value.ndim == 2, 100)


def _ten_times():
    return _model(lambda name, value: name.startswith(("blocks", "classifiers")) and value.ndim == 2)


def biases_too():
    model = _ten_times()
    model.blocks[0].mlp.expand.bias.data.add_(1)
    return model


def frozen_weights():
    model = _ten_times()
    model.blocks[0].mlp.expand.weight.requires_grad_(False)
    return model


_once = _ten_times()


def the_same_twice():
    return _once


def another_model():
    return ViT.build("vit_tiny_patch16_224")


WRONG = {
    "check_my_rate": [
        from_zero_rate, peak_too_early, cosine_from_step_zero, falls_to_zero, straight_line, no_warm_up, whole_cosine,
    ],
    "check_my_step": [_without(part) for part in LEFT_OUT],
    "check_accumulate": [
        every_part_counts_one, every_part_counts_alike, sum_over_images, only_the_last_part, all_at_once,
        the_rest_dropped, never_backward, parts_for_size, a_step_as_well, backward_at_the_end,
    ],
    "check_decays": [by_shape_alone, by_name_alone, everything],
    "check_mixup": [labels_of_the_other, previous_neighbour, labels_not_mixed, shares_swapped, mixed_in_place],
    "check_averaged": [decay_swapped, from_zero, plain_mean, in_place],
    "check_larger_weights": [
        nothing_larger, everything_larger, positions_too, blocks_alone, hundred_times, another_model,
        biases_too, frozen_weights, the_same_twice,
    ],
}  # fmt: skip
