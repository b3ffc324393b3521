"""Checkers of chapter 04, Training."""

import torch
import torch.nn.functional as F

from . import exercise, expect, expect_close, expect_shape


@exercise
def check_cross_entropy(cross_entropy) -> None:
    """A batch of three, and logits that overflow a naive softmax."""
    logits = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.1, 0.2, 0.3, 0.4], [-1.0, 3.0, 0.0, 0.0]])
    labels = torch.tensor([0, 3, 2])
    loss = cross_entropy(logits, labels)
    expect_shape(torch.as_tensor(loss), (), "one number: the mean over the batch")
    expected = F.cross_entropy(logits, labels)
    expect(not torch.isclose(loss, -expected), "the loss is minus the logarithm of a share: a positive number")
    expect(not torch.isclose(loss, 3 * expected), "the mean over the batch, not the sum")
    expect_close(loss, expected, "minus the log of the right class's share, the softmax over the classes")
    large = cross_entropy(torch.tensor([[1000.0, 0.0]]), torch.tensor([1]))
    expect_close(large, torch.tensor(1000.0), "logits of 1000 overflow: use log_softmax, not the log of a softmax")


@exercise
def check_decays(decays) -> None:
    """Names and shapes of a ViT with registers and LayerScale."""
    yes = {"blocks.0.attention.qkv.weight": (192, 64), "classifiers.cls.weight": (10, 64)}
    yes |= {"patch_embed.project.weight": (64, 3, 8, 8), "blocks.3.mlp.expand.weight": (256, 64)}
    no = {"blocks.0.attention.qkv.bias": (192,), "norm.weight": (64,), "blocks.1.scale1.factor": (64,)}
    no |= {"tokens.cls": (1, 64), "tokens.reg": (4, 64), "positions": (4, 4, 64)}
    for name, shape in yes.items():
        expect(decays(name, shape) is True, f"{name} {shape} is a matrix: it decays (return True)")
    for name, shape in no.items():
        expect(decays(name, shape) is False, f"{name} {shape} is not decayed (return False)")


@exercise
def check_mixup(mixup) -> None:
    """Three images that can be told apart."""
    images = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    answer = mixup(images, torch.tensor([0, 2, 1]), 0.75, 4)
    expect(isinstance(answer, tuple) and len(answer) == 2, "return two things: images and label shares")
    mixed, shares = answer
    expect_shape(mixed, (3, 3, 2, 2), "the images keep their shape")
    expect_shape(shares, (3, 4), "a row of shares over all classes for each image")
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
