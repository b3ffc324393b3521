"""Wrong answers that the checkers of chapter 10 have to refuse."""

import torch
import torch.nn.functional as F
from torch import nn

from dtl_lib import TokenPlan, ViT


def loss(
    square=2, swapped=False, entropy=True, ours_by=1, theirs_by=1, over="batch", hard="class", dim=1, invert=False
):
    """A distillation loss with one mistake."""

    def wrong(logits, teacher_logits, hard_target, temperature):
        if hard_target:
            if hard == "shares":
                return F.cross_entropy(logits, teacher_logits.softmax(dim=1))
            by = temperature if hard == "temperature" else 1
            return F.cross_entropy(
                logits / by, teacher_logits.argmax(dim=1), reduction="sum" if hard == "sum" else "mean"
            )
        by = 1 / temperature if invert else temperature
        ours = F.log_softmax(logits / by**ours_by, dim=dim)
        theirs = F.log_softmax(teacher_logits / by**theirs_by, dim=dim)
        if swapped:
            ours, theirs = theirs, ours
        each = theirs.exp() * (theirs * entropy - ours)
        whole = {"batch": each.sum() / len(logits), "all": each.mean(), "sum": each.sum()}[over]
        return whole * temperature**square

    return wrong


def detached(logits, teacher_logits, hard, temperature):
    return loss()(logits.detach(), teacher_logits, hard, temperature)


def hard_detached(logits, teacher_logits, hard, temperature):
    return loss()(logits.detach() if hard else logits, teacher_logits, hard, temperature)


def per_image(logits, teacher_logits, hard, temperature):
    return F.cross_entropy(logits, teacher_logits.argmax(dim=1), reduction="none")


def lessons(first=0, last=-1, weigh=None, soft=False, mean=False, alone="mean", one_head=True, learns=True):
    """Who learns from whom, with one mistake."""

    def wrong(heads, labels, teacher_logits, weight):
        if teacher_logits is None:
            if alone == "first":
                return F.cross_entropy(heads[0], labels)
            if alone == "losses":
                return torch.stack([F.cross_entropy(head, labels) for head in heads]).mean()
            if alone == "two":
                return F.cross_entropy((heads[0] + heads[1]) / 2, labels)
            factor = 1 - weight if alone == "weighed" else 1
            return factor * F.cross_entropy(torch.stack(heads).mean(dim=0), labels)
        if mean:
            heads = (torch.stack(heads).mean(dim=0),)
        if len(heads) == 1 and not one_head:
            return (1 - weight) * F.cross_entropy(heads[0], labels)
        target = teacher_logits.softmax(dim=1) if soft else teacher_logits.argmax(dim=1)
        own, taught = F.cross_entropy(heads[first], labels), F.cross_entropy(heads[last], target)
        taught = taught if learns else taught.detach()
        parts = weigh(weight) if weigh else (1 - weight, weight)
        return parts[0] * own + parts[1] * taught

    return wrong


def gradient(sign=1, power=1, mean=True, plain=False):
    """The gradient of soft distillation with one mistake."""

    def wrong(student, teacher, temperature):
        by = 1 if plain else temperature
        difference = (student / by).softmax(dim=1) - (teacher / by).softmax(dim=1)
        return sign * temperature**power * difference / (len(student) if mean else 1)

    return wrong


def not_centred(cls, dist):
    return F.cosine_similarity(cls, dist).mean()


def centred_along_channels(cls, dist):
    return F.cosine_similarity(cls - cls.mean(1, keepdim=True), dist - dist.mean(1, keepdim=True)).mean()


def one_mean(cls, dist):
    mean = torch.cat([cls, dist]).mean(dim=0)
    return F.cosine_similarity(cls - mean, dist - mean).mean()


def one_cosine(cls, dist):
    a, b = cls - cls.mean(dim=0), dist - dist.mean(dim=0)
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0)


def along_images(cls, dist):
    return F.cosine_similarity(cls - cls.mean(dim=0), dist - dist.mean(dim=0), dim=0).mean()


def scalar_product(cls, dist):
    return ((cls - cls.mean(dim=0)) * (dist - dist.mean(dim=0))).sum(dim=1).mean()


def one_per_image(cls, dist):
    return F.cosine_similarity(cls - cls.mean(dim=0), dist - dist.mean(dim=0))


def fold(weight=0.5, bias=0.5, turned=False, which=None, with_bias=True):
    """Two heads in one, with one mistake."""

    def wrong(cls_head, dist_head):
        heads = (dist_head, cls_head) if turned else (cls_head, dist_head)
        one = nn.Linear(2 * cls_head.in_features, cls_head.out_features, bias=with_bias)
        with torch.no_grad():
            one.weight.copy_(weight * torch.cat([head.weight for head in heads], dim=1))
            if with_bias:
                one.bias.copy_(cls_head.bias if which else bias * (cls_head.bias + dist_head.bias))
        return one

    return wrong


def heads_doubled(cls_head, dist_head):
    with torch.no_grad():
        for part in (*cls_head.parameters(), *dist_head.parameters()):
            part.mul_(2)
    return fold()(cls_head, dist_head)


def no_bias_value(cls_head, dist_head):
    one = fold()(cls_head, dist_head)
    nn.init.zeros_(one.bias)
    return one


def stacked(cls_head, dist_head):
    return nn.Linear(cls_head.in_features, 2 * cls_head.out_features)


KEPT = ViT.build("vit_shapes_patch8_32", TokenPlan.of(4, dist=True))

WRONG = {
    "check_my_distillation_loss": [
        loss(square=0),
        loss(square=1),
        loss(swapped=True),
        loss(entropy=False),
        loss(ours_by=0),
        loss(theirs_by=0),
        loss(over="all"),
        loss(over="sum"),
        loss(dim=0),
        loss(invert=True),
        loss(hard="shares"),
        loss(hard="temperature"),
        loss(hard="sum"),
        detached,
        hard_detached,
        per_image,
    ],
    "check_my_lessons": [
        lessons(first=-1, last=0),
        lessons(weigh=lambda weight: (weight, 1 - weight)),
        lessons(mean=True),
        lessons(last=0),
        lessons(first=-1),
        lessons(weigh=lambda weight: (1, weight)),
        lessons(soft=True),
        lessons(one_head=False),
        lessons(alone="first"),
        lessons(alone="two"),
        lessons(learns=False),
        lessons(alone="weighed"),
        lessons(alone="losses"),
    ],
    "check_soft_gradient": [
        gradient(sign=-1),
        gradient(mean=False),
        gradient(power=0),
        gradient(power=2),
        gradient(plain=True),
    ],
    "check_centred_cosine": [
        not_centred,
        centred_along_channels,
        one_mean,
        one_cosine,
        along_images,
        scalar_product,
        one_per_image,
    ],
    "check_folded": [
        fold(weight=1, bias=1),
        fold(bias=1),
        fold(weight=1),
        fold(turned=True),
        fold(which="cls"),
        no_bias_value,
        heads_doubled,
        fold(with_bias=False),
        stacked,
    ],
    "check_two_tokens": [
        lambda: ViT.build("vit_shapes_patch8_32"),
        lambda: ViT.build("vit_shapes_patch8_32", TokenPlan.of(4, 2, dist=True)),
        lambda: ViT.build("vit_shapes_patch8_32", TokenPlan.of(4, 0, 0, 2, dist=True)),
        lambda: ViT.build("vit_shapes_patch8_32", TokenPlan.of(4, dist=True), dim=96),
        lambda: KEPT,
        lambda: nn.Linear(3, 10),
    ],
}
