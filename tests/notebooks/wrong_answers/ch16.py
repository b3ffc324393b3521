"""Wrong answers that the checkers of chapter 16 have to refuse."""

import torch

from dtl_lib import probes, record
from dtl_lib.exercises.ch16 import STEPS, _lost


def scores(centre=0, of=0, unit=False, absolute=False, direction_only=False):
    """First scores with one mistake; `centre` None: not at all."""

    def wrong(x):
        moved = x if centre is None else x - x.mean(centre, keepdim=True)
        _, lengths, directions = torch.linalg.svd(moved, full_matrices=False)
        found = (x if direction_only else moved) @ directions[of]
        found = found / lengths[of] if unit else found
        return found.abs() if absolute else found

    return wrong


def last_component(x):
    moved = x - x.mean(0)
    _, lengths, directions = torch.linalg.svd(moved, full_matrices=False)
    return moved @ directions[len(lengths) - 1]


def lost_with(how):
    return lambda x, k: _lost(x, k, **how)


def without_a_sign(maps):
    return maps.abs()


def by_tail(maps, sign=1.0, one=False):
    tail = maps.pow(3).mean(dim=(1, 2))
    tail = tail.mean().expand(len(maps)) if one else tail
    return sign * maps * tail.sign()[:, None, None]


def by_border(maps):
    border = torch.ones(maps.shape[1:], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    return -maps * maps[:, border].mean(dim=1).sign()[:, None, None]


def by_largest(maps):
    flat = maps.flatten(1)
    return maps * flat.gather(1, flat.abs().argmax(dim=1, keepdim=True)).sign()[..., None]


def by_count(maps):
    return -maps * maps.sign().sum(dim=(1, 2), keepdim=True).sign()


def by_median(maps):
    return -maps * maps.flatten(1).median(dim=1).values.sign()[:, None, None]


def fifth_power(maps):
    return maps * maps.pow(5).mean(dim=(1, 2), keepdim=True).sign()


def own_images(boxes, true):
    return probes.corloc(boxes, true).double().mean()


def shifted(boxes, true, shifts, score=probes.corloc, total=False):
    found = torch.stack([score(boxes.roll(by, 0), true).double() for by in shifts])
    return found.sum() if total else found.mean()


def nothing(keys):
    return torch.zeros(keys.shape[1])


def too_short(keys):
    return torch.ones(keys.shape[1])


def a_constant(keys):
    return torch.cat([torch.full((1,), 1e4), torch.zeros(keys.shape[1] - 1)])


def by_mean_length(keys):
    return 4 * keys.norm(dim=1).mean() * torch.eye(keys.shape[1])[0]


def by_largest_entry(keys):
    return 4 * keys.max() * torch.eye(keys.shape[1])[0]


def the_mean(keys):
    return -keys.mean(dim=0)


def a_matrix(keys):
    return 100 * keys.abs().max() * torch.ones_like(keys)


def blocks(of="token", bias="centre", patch=None, last=False, overlap=False):
    def wrong(model, images, true):
        with torch.no_grad(), record(model) as tape:
            model(images)
        found = []
        for block in range(model.plan.depth):
            block = model.plan.depth - 1 if last else block
            patches = probes.features(model, tape, block, of, bias)["patches"]
            boxes = (patch or tape.patch_size) * probes.lost(patches).boxes
            score = probes.box_iou if overlap else probes.corloc
            found.append(score(boxes, true).double().mean())
        return found

    return wrong


WRONG = {
    "check_my_scores": [
        scores(centre=None),
        scores(centre=1),
        scores(of=1),
        scores(unit=True),
        scores(absolute=True),
        scores(direction_only=True),
        last_component,
    ],
    "check_my_lost": [*(lost_with(how) for how in STEPS.values()), lambda x, k: _lost(x, 6)],
    "check_longer_tail": [
        without_a_sign,
        lambda maps: by_tail(maps, sign=-1.0),
        lambda maps: by_tail(maps, one=True),
        by_border,
        by_largest,
        by_count,
        by_median,
        fifth_power,
    ],
    "check_elsewhere": [
        own_images,
        lambda boxes, true: shifted(boxes, true, range(7)),
        lambda boxes, true: shifted(boxes, true, (1,)),
        lambda boxes, true: shifted(boxes, true, range(1, 7), probes.box_iou),
        lambda boxes, true: shifted(boxes, true, range(1, 7), total=True),
    ],
    "check_blinding": [nothing, too_short, a_constant, by_mean_length, by_largest_entry, the_mean, a_matrix],
    "check_by_block": [
        blocks(patch=1),
        blocks(patch=4),
        blocks(bias="keep"),
        blocks(of="k", bias="keep"),
        blocks(last=True),
        blocks(overlap=True),
    ],
}
