"""Checkers of chapter 10, Distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import ViT
from ..tokens import TokenPlan
from . import exercise, expect, expect_close, expect_fresh, expect_learns, expect_shape, refuse_mistakes


def _random(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _soft(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """The divergence of the shares at the temperature, times its square, the mean over the images."""
    shares = (theirs / temperature).softmax(dim=1)
    each = shares * (shares.log() - F.log_softmax(ours / temperature, dim=1))
    return each.sum(dim=1).mean() * temperature**2


def _one(value, hint: str) -> Tensor:
    expect(isinstance(value, Tensor), f"expected a tensor, not {type(value).__name__}: {hint}")
    expect(value.ndim == 0, f"expected one number, not {tuple(value.shape)}: {hint}")
    return value


@exercise
def check_my_distillation_loss(my_distillation_loss) -> None:
    """Three images, five classes, temperatures below and above 1."""
    ours, theirs = _random(3, 5).requires_grad_(), _random(3, 5, seed=1)
    hint = "the mean over the images"
    hard = F.cross_entropy(ours, theirs.argmax(dim=1))
    value = _one(my_distillation_loss(ours, theirs, True, 2.5), hint)
    refuse_mistakes(
        value.detach(),
        {
            "a hard target is the class of the teacher's largest logit, not its shares": F.cross_entropy(
                ours, theirs.softmax(dim=1)
            ).detach(),
            "the temperature belongs to soft targets: a class has none": F.cross_entropy(
                ours / 2.5, theirs.argmax(dim=1)
            ).detach(),
            "that is the sum over the images: take their mean": 3 * hard.detach(),
        },
    )
    expect_close(value, hard, "with hard=True: cross-entropy with the class that the teacher names")
    expect_learns(value, {"logits": ours})
    for temperature in (2.5, 0.7):
        value = _one(my_distillation_loss(ours, theirs, False, temperature), hint)
        right = _soft(ours, theirs, temperature)
        refuse_mistakes(value.detach(), _soft_mistakes(ours.detach(), theirs, temperature))
        expect_close(value, right, "with hard=False: the KL divergence of the shares, times temperature²")
    expect_learns(value, {"logits": ours})
    expect(not theirs.requires_grad, "the teacher's logits are no parameter")


def _soft_mistakes(ours: Tensor, theirs: Tensor, temperature: float) -> dict[str, Tensor]:
    def divergence(a: Tensor, b: Tensor) -> Tensor:  # of the shares b from a, per image and class
        return b.exp() * (b - a)

    def shares(logits: Tensor, by: float = temperature) -> Tensor:
        return F.log_softmax(logits / by, dim=1)

    square = temperature**2
    right = divergence(shares(ours), shares(theirs))
    return {
        "the factor temperature² is missing: without it the gradient shrinks": right.sum() / 3,
        "the factor is the square of the temperature": right.sum() / 3 * temperature,
        "the two are swapped: the teacher's shares are the target": (
            divergence(shares(theirs), shares(ours)).sum() / 3 * square
        ),
        "that is cross-entropy: without the teacher's own entropy, which makes it zero where both agree": (
            -(shares(theirs).exp() * shares(ours)).sum() / 3 * square
        ),
        "that is the mean over the classes, too: they are summed": right.mean() * square,
        "that is the sum over the images: take their mean": right.sum() * square,
        "the student's logits are divided by the temperature, too": (
            divergence(shares(ours, 1), shares(theirs)).sum() / 3 * square
        ),
        "the teacher's logits are divided by the temperature, too": (
            divergence(shares(ours), shares(theirs, 1)).sum() / 3 * square
        ),
        "logits are divided by the temperature, not multiplied": (
            divergence(shares(ours, 1 / temperature), shares(theirs, 1 / temperature)).sum() / 3 * square
        ),
        "softmax goes over the classes, dim=1, not over the batch": (
            divergence(F.log_softmax(ours / temperature, 0), F.log_softmax(theirs / temperature, 0)).sum() / 3 * square
        ),
    }


@exercise
def check_my_lessons(my_lessons) -> None:
    """Two heads with a teacher, one head with a teacher, two heads without one."""
    cls, dist, theirs = _random(4, 5, seed=2), _random(4, 5, seed=3), _random(4, 5, seed=4)
    heads = {"the first head": cls.requires_grad_(), "the last head": dist.requires_grad_()}
    labels, weight = torch.tensor([0, 3, 1, 4]), 0.3
    hint = "one loss for the batch"

    def label(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    def teacher(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, theirs.argmax(dim=1))

    mean = (cls + dist) / 2
    value = _one(my_lessons((cls, dist), labels, theirs, weight), hint)
    mistakes = {
        "the heads are swapped: the first learns from the labels, the last from the teacher": (
            (1 - weight) * label(dist) + weight * teacher(cls)
        ),
        "weight is the teacher's part": weight * label(cls) + (1 - weight) * teacher(dist),
        "that is the mean of the heads, taught both: each head has a teacher of its own": (
            (1 - weight) * label(mean) + weight * teacher(mean)
        ),
        "the first head learns both here: the last is the teacher's": (
            (1 - weight) * label(cls) + weight * teacher(cls)
        ),
        "the last head learns both here: the first is the labels'": (
            (1 - weight) * label(dist) + weight * teacher(dist)
        ),
        "the parts add up to more than 1: the labels' is 1 − weight": label(cls) + weight * teacher(dist),
        "the teacher's class counts here, not its shares": (
            (1 - weight) * label(cls) + weight * F.cross_entropy(dist, theirs.softmax(dim=1))
        ),
    }
    refuse_mistakes(value, mistakes)
    expect_close(value, (1 - weight) * label(cls) + weight * teacher(dist), "not (1 − weight) · first + weight · last")
    expect_learns(value, heads)
    value = _one(my_lessons((cls,), labels, theirs, weight), hint)
    refuse_mistakes(value, {"with one head the teacher's part is missing": (1 - weight) * label(cls)})
    expect_close(value, (1 - weight) * label(cls) + weight * teacher(cls), "one head learns both: it is first and last")
    value = _one(my_lessons((cls, dist), labels, None, weight), hint)
    refuse_mistakes(
        value,
        {
            "without a teacher the second head has to learn, too: take the mean of the heads": label(cls),
            "without a teacher the labels' part is all of it": (1 - weight) * label(mean),
            "the mean of the logits is what predicts: take it before the loss": (label(cls) + label(dist)) / 2,
        },
    )
    expect_close(value, label(mean), "without a teacher the mean of the heads learns from the labels")
    expect_learns(value, heads)
    value = _one(my_lessons((cls,), labels, None, weight), hint)
    expect_close(value, label(cls), "with one head and no teacher, that head is the mean: it learns from the labels")


@exercise
def check_soft_gradient(soft_gradient) -> None:
    """Against autograd, at three temperatures."""
    for temperature in (1.0, 3.0, 0.5):
        ours, theirs = _random(4, 6, seed=5).requires_grad_(), _random(4, 6, seed=6)
        (right,) = torch.autograd.grad(_soft(ours, theirs, temperature), ours)
        answer = soft_gradient(ours.detach(), theirs, temperature)
        expect_shape(answer, (4, 6), "a number for each logit of the student")
        mistakes = {
            "the sign is turned: a share that is too large has a positive gradient": -right,
            "the loss is a mean over the images: divide by their number": 4 * right,
        }
        if temperature != 1:
            mistakes |= {
                "one temperature of the two in temperature² is cancelled by the chain rule: one is left": (
                    right / temperature
                ),
                "the chain rule takes one temperature away: log-shares are of logits / temperature": (
                    right * temperature
                ),
                "the shares are those at the temperature": temperature * (ours.softmax(1) - theirs.softmax(1)) / 4,
            }
        refuse_mistakes(answer, {hint: wrong.detach() for hint, wrong in mistakes.items()})
        expect_close(answer, right, f"not autograd's gradient at temperature {temperature:g}")


@exercise
def check_centred_cosine(centred_cosine) -> None:
    """Tokens with a large common part, which makes any two alike."""
    shared = 5 * _random(1, 7, seed=7)
    cls, dist = shared + _random(6, 7, seed=8), 0.5 * shared + _random(6, 7, seed=9)
    answer = _one(torch.as_tensor(centred_cosine(cls, dist)), "the mean over the images")

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(a, b).mean()

    a, b = cls - cls.mean(0), dist - dist.mean(0)
    both = torch.cat([cls, dist]).mean(0)
    mistakes = {
        "nothing is centred: take each token's mean over the images out first": cosine(cls, dist),
        "the mean is over the images, dim=0, not over the channels": cosine(
            cls - cls.mean(1, keepdim=True), dist - dist.mean(1, keepdim=True)
        ),
        "each kind of token has a mean of its own: this takes one mean of both": cosine(cls - both, dist - both),
        "that is one cosine of everything: take one for each image, then their mean": F.cosine_similarity(
            a.flatten(), b.flatten(), dim=0
        ),
        "the cosine goes along the channels, dim=1": F.cosine_similarity(a, b, dim=0).mean(),
        "that is the scalar product: divide by both lengths": (a * b).sum(1).mean(),
    }
    refuse_mistakes(answer, mistakes)
    expect_close(answer, cosine(a, b), "not the mean cosine of the centred tokens")


@exercise
def check_folded(folded) -> None:
    """Two heads with random weights and biases, on two random tokens."""
    torch.manual_seed(10)
    cls_head, dist_head = nn.Linear(6, 5), nn.Linear(6, 5)
    cls, dist = _random(3, 6, seed=11), _random(3, 6, seed=12)
    given = [part.detach().clone() for head in (cls_head, dist_head) for part in head.parameters()]
    one = folded(cls_head, dist_head)
    kept = [*cls_head.parameters(), *dist_head.parameters()]
    expect(all(map(torch.equal, kept, given)), "the two heads themselves have changed: leave them as they are")
    expect(isinstance(one, nn.Linear), f"return an nn.Linear, not {type(one).__name__}")
    shape = (one.in_features, one.out_features)
    expect(shape == (12, 5), f"it maps both tokens, 12 numbers, to 5 logits; yours maps {shape[0]} to {shape[1]}")
    expect(one.bias is not None, "the heads have biases: one is needed here, too")
    with torch.no_grad():
        answer, right = one(torch.cat([cls, dist], dim=1)), (cls_head(cls) + dist_head(dist)) / 2
        bias = (cls_head.bias + dist_head.bias) / 2
        mistakes = {
            "the two are summed: the mean is half of that": 2 * right,
            "the biases are summed: their mean is needed": right + bias,
            "the weights are summed: their mean is needed": 2 * right - bias,
            "the class token comes first": (cls_head(dist) + dist_head(cls)) / 2,
            "the class token's bias is used for both": right - bias + cls_head.bias,
            "the bias is missing": right - bias,
        }
        refuse_mistakes(answer, mistakes)
        expect_close(answer, right, "not the mean of the two heads")


@exercise
def check_two_tokens(two_tokens) -> None:
    """A second token with a head of its own, and nothing else."""
    model = two_tokens()
    expect(isinstance(model, ViT), f"return a ViT, not {type(model).__name__}")
    plain = ViT.build("vit_shapes_patch8_32").config
    tokens = {group.name: group for group in model.plan.groups}
    expect("dist" in tokens, "there is no distillation token: dist=True in TokenPlan.of")
    expect(set(tokens) == {"cls", "dist"}, f"only cls and dist are wanted, not {', '.join(tokens)}")
    expect(tokens["dist"].enter == 0, f"both tokens enter before block 0, not {tokens['dist'].enter}")
    wanted = plain.with_plan(TokenPlan.of(plain.depth, dist=True))
    expect(model.config == wanted, "everything else stays as in vit_shapes_patch8_32")
    expect_fresh(two_tokens)
