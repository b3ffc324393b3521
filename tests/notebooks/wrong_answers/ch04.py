"""Wrong answers that the checkers of chapter 04 have to refuse."""

import torch
import torch.nn.functional as F


def sum_instead_of_mean(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


def negative(logits, labels):
    return -F.cross_entropy(logits, labels)


def over_the_batch(logits, labels):
    return -logits.log_softmax(dim=0).gather(1, labels[:, None]).mean()


def overflows(logits, labels):
    shares = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    return -shares.gather(1, labels[:, None]).log().mean()


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


WRONG = {
    "check_cross_entropy": [sum_instead_of_mean, negative, over_the_batch, overflows],
    "check_decays": [by_shape_alone, by_name_alone, everything],
    "check_mixup": [labels_of_the_other, previous_neighbour, labels_not_mixed, shares_swapped],
    "check_averaged": [decay_swapped, from_zero, plain_mean, in_place],
}
