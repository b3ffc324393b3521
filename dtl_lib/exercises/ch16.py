"""Checkers of chapter 16, Objects without labels."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import label
from torch import Tensor

from ..config import ViTConfig
from ..models import ViT
from ..probes.discovery import box_iou, boxes_of, corloc, lost
from ..probes.qkv import features
from ..tape import record
from . import exercise, expect, expect_close, expect_shape, refuse_mistakes


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _either(answer: Tensor, like: Tensor) -> Tensor:
    """The answer with the sign that is nearer: the exercise leaves it open."""
    return -answer if (answer * like).sum() < 0 else answer


@exercise
def check_my_scores(my_scores) -> None:
    """Tokens whose mean is long, on fewer and on more tokens than channels."""
    for tokens, dim, seed in ((12, 7, 0), (5, 9, 1)):
        x = _random(tokens, dim, seed=seed) * torch.linspace(3, 0.3, dim) + 4 * _random(dim, seed=9)
        answer = my_scores(x)
        expect_shape(answer, (tokens,), "one score for each token: (tokens,)")
        scores, lengths, directions = _components(x - x.mean(0))
        raw = _components(x)
        by_token = _components(x - x.mean(1, keepdim=True))
        mistakes = {
            "the mean over the tokens is not subtracted: the first component then points at the mean": raw[0][:, 0],
            "that takes each token's own mean: subtract the mean token, of all": by_token[0][:, 0],
            "mean subtracted for the direction, and not for the scores": x @ directions[0],
            "that has unit length: a score is the token's product with the direction": scores[:, 0] / lengths[0],
            "that is the component along which the tokens differ least": scores[:, len(lengths) - 1],
            "that is the second component": scores[:, 1],
            "a score has a sign: both ends of the component count": scores[:, 0].abs(),
        }
        refuse_mistakes(answer, {hint: _either(wrong, answer) for hint, wrong in mistakes.items()})
        expect_close(_either(answer, scores[:, 0]), scores[:, 0], "not the scores on the first component", 1e-4)


def _components(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, lengths, directions = torch.linalg.svd(x, full_matrices=False)
    return x @ directions.T, lengths, directions


STEPS = {  # LOST with one mistake each
    "the seed has the fewest similar patches, not the most: an object is smaller than its background": {"most": True},
    "the patches that join are not looked at: the object is what all of them together are similar to": {"alone": True},
    "every patch that is similar to the seed joins: only the k with the smallest degree may": {"everyone": True},
    "the k patches of smallest degree join whether they are similar to the seed or not": {"unlike": True},
    "the object is what is connected with the seed: parts elsewhere are left out": {"all_parts": True},
    "the largest part is not always the seed's": {"largest": True},
    "patches that touch at a corner are not connected: by sides only, as scipy's label has it": {"corners": True},
    "bottom and right are the first row and column outside the box: add 1": {"inside": True},
    "rows come first: top, left, bottom, right": {"swapped": True},
    "products, not cosines: long features count for more where they are added up": {"unit": True},
    "the mean is subtracted first: LOST takes the features as they are": {"centred": True},
    "patches are similar where the product is 0 or more: 0 counts": {"above": True},
    "what joins is similar to the seed where the product is 0 or more: 0 counts": {"joins_above": True},
}


def _lost(x: Tensor, k: int, **wrong: bool) -> list[int]:
    """The box of one image, `(rows, columns, dim)`."""
    f = x.flatten(0, 1).double()
    if wrong.get("centred"):
        f = f - f.mean(0)
    products = F.normalize(f, dim=1) @ F.normalize(f, dim=1).T if wrong.get("unit") else f @ f.T
    degree = (products > 0).sum(1) if wrong.get("above") else (products >= 0).sum(1)
    order = degree.argsort(stable=True, descending=bool(wrong.get("most")))
    seed = order[0]
    joins = order if wrong.get("everyone") else order[:k]
    least = 1e-9 if wrong.get("joins_above") else 0.0
    joins = joins if wrong.get("unlike") else joins[products[seed, joins] >= least]
    joins = seed[None] if wrong.get("alone") else joins
    mask = (products[joins].sum(0) >= 0).reshape(x.shape[:2]).numpy().copy()
    row, column = divmod(int(seed), x.shape[1])
    mask[row, column] = True
    parts, _ = label(mask, np.ones((3, 3)) if wrong.get("corners") else None)
    part = parts[row, column]
    if wrong.get("largest"):
        part = np.bincount(parts[parts > 0]).argmax()
    mask = mask if wrong.get("all_parts") else parts == part
    top, left, bottom, right = boxes_of(torch.from_numpy(mask)[None])[0].tolist()
    if wrong.get("inside"):
        return [top, left, bottom - 1, right - 1]
    return [left, top, right, bottom] if wrong.get("swapped") else [top, left, bottom, right]


@exercise
def check_my_lost(my_lost) -> None:
    """Many small images on which each mistake gives other boxes, on a grid that is not square."""
    images = [_blobs(seed) for seed in range(60)] + [(4 * _blobs(seed)).round() / 4 for seed in ZEROS]
    ks = [6 if number % 2 else 4 for number in (*range(60), *ZEROS)]
    found = []
    for x, k in zip(images, ks):
        box = my_lost(x.clone(), k)
        expect(box is not None and len(box) == 4, "return four numbers: top, left, bottom, right")
        found.append([int(side) for side in box])
    answer = torch.tensor(found).double()
    right = torch.tensor([_lost(*one) for one in zip(images, ks)]).double()
    wrong = {
        hint: torch.tensor([_lost(*one, **how) for one in zip(images, ks)]).double() for hint, how in STEPS.items()
    }
    refuse_mistakes(answer, wrong)
    different = (answer != right).any(dim=1)
    number = int(different.int().argmax())
    hint = f"of image {number} LOST's box is {right[number].int().tolist()}, not {found[number]}"
    expect(not bool(different.any()), f"{hint}; other boxes in {int(different.sum())} of {len(images)} images")


ZEROS = (61, 88, 89, 98, 159)  # seeds of images where, rounded, a product that is 0 decides; no sum of them is


def _blobs(seed: int) -> Tensor:
    """Features that neighbours share, `(5, 8, 3)`, with a mean."""
    rough = _random(1, 3, 5, 8, seed=seed)
    return F.avg_pool2d(rough, 3, 1, 1, count_include_pad=False)[0].permute(1, 2, 0) + 0.1


@exercise
def check_longer_tail(longer_tail) -> None:
    """Maps with a long tail on either side, away from a mean of 0, and their mirror images."""
    maps = _random(6, 4, 5).exp() * torch.tensor([1.0, -1, 1, -1, -1, 1])[:, None, None]
    maps[1] = torch.tensor(3 * [3.0] + [-4.0] + 16 * [-0.3125]).reshape(4, 5)  # the largest score is negative
    maps[2] = torch.tensor([4.0] + 10 * [0.1] + 9 * [-5 / 9]).reshape(4, 5)  # most scores are positive
    maps = maps - maps.mean(dim=(1, 2), keepdim=True)
    for given in (maps, -maps, maps.flip(0)):
        answer = longer_tail(given.clone())
        expect_shape(answer, (6, 4, 5), "a map for each map: (batch, rows, columns)")
        tail = given.pow(3).mean(dim=(1, 2))
        border, flat = _border_mean(given), given.flatten(1)
        largest = flat.gather(1, flat.abs().argmax(dim=1, keepdim=True))[:, 0]
        most = (flat < 0).sum(dim=1) - (flat > 0).sum(dim=1)
        mistakes = {
            "that is the rule of the largest score: cubes ask all scores": given * largest.sign()[:, None, None],
            "that counts which side has fewer scores: cubes ask how far out they are": given
            * most.sign()[:, None, None],
            "the median does not know how long a tail is: take the mean of the cubes": -given
            * flat.median(dim=1).values.sign()[:, None, None],
            "a map without its sign has lost half of what it says: turn it over or leave it": given.abs(),
            "here the longer tail ends up on the negative side": -given * tail.sign()[:, None, None],
            "one sign for all maps of the batch: each map has its own": given * tail.mean().sign(),
            "that is the rule of the border": -given * border.sign()[:, None, None],
        }
        refuse_mistakes(answer, mistakes)
        expect_close(answer, given * tail.sign()[:, None, None], "the mean of the cubes of each map should be positive")


def _border_mean(maps: Tensor) -> Tensor:
    border = torch.ones(maps.shape[1:], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    return maps[:, border].mean(dim=1)


@exercise
def check_elsewhere(elsewhere) -> None:
    """Boxes that fit their own images better than others', and some that fit others better."""
    generator = torch.Generator().manual_seed(2)
    first = torch.randint(0, 5, (7, 2), generator=generator)
    true = torch.cat([first, first + torch.randint(3, 7, (7, 2), generator=generator)], dim=1)
    boxes = true.clone()
    boxes[:, 2:] += torch.randint(0, 2, (7, 2), generator=generator)
    answer = torch.as_tensor(elsewhere(boxes.clone(), true.clone())).double()
    expect(answer.ndim == 0, "one number, the share of pairs")
    right = torch.stack([corloc(boxes.roll(by, 0), true) for by in range(1, 7)]).double()
    everything = torch.stack([corloc(boxes.roll(by, 0), true) for by in range(7)]).double()
    overlaps = torch.stack([box_iou(boxes.roll(by, 0), true) for by in range(1, 7)])
    mistakes = {
        "that is CorLoc: each box on its own image": corloc(boxes, true).double().mean(),
        "each box meets its own image, too: leave that out": everything.mean(),
        "that is one other image for each box: take all of them": right[0].mean(),
        "that is the mean overlap: count the boxes that are right": overlaps.mean(),
        "that is a number of pairs: return their share": right.sum(),
    }
    refuse_mistakes(answer, mistakes)
    expect_close(answer, right.mean(), "not the share of boxes that would be right on another image", 1e-6)


@exercise
def check_blinding(blinding) -> None:
    """Keys of several lengths whose mean is 0; in three sets of four, one key is far longer than the others."""
    for seed, scale, dim in ((0, 1.0, 8), (1, 300.0, 5), (2, 1e-3, 3), (3, 1e12, 4)):
        keys = scale * _random(20, dim, seed=seed)
        keys[7] *= 1 if seed == 1 else -20 * keys[7].sign()
        keys = keys - keys.mean(dim=0)
        answer = blinding(keys.clone())
        expect_shape(answer, (dim,), "one vector for all keys: (dim,)")
        expect(bool(answer.isfinite().all()), "the vector has non-finite values")
        moved = (keys + answer).double()
        box = lost(moved.reshape(1, 4, 5, dim)).boxes[0].tolist()
        small = bool((answer == 0).all())
        expect(not small, "with 0 nothing changes: make the vector longer than the keys are")
        positive = bool((moved @ moved.T >= 0).all())
        expect(positive, f"with keys {scale:g} long some products are still negative, and LOST's box is {box}")


@exercise
def check_by_block(by_block) -> None:
    """A small model on a grid that is not square, with true boxes of its own making."""
    torch.manual_seed(0)
    model = ViT(ViTConfig((24, 36), 6, dim=12, depth=3, heads=2, classes=3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    images = _random(40, 3, 24, 36, seed=4)
    boxes = {name: _of_blocks(model, images, name) for name in (("token", "centre"), ("token", "keep"), ("k", "keep"))}
    wanted_boxes = boxes["token", "centre"]
    true = torch.stack([wanted_boxes[number % 3][number] for number in range(40)])
    answer = by_block(model, images, true)
    expect(answer is not None and len(answer) == 3, "one number for each block")
    answer = torch.as_tensor([float(value) for value in answer]).double()
    score = lambda found: torch.stack([corloc(one, true).double().mean() for one in found])  # noqa: E731
    wanted = score(wanted_boxes)
    mistakes = {
        "boxes are in patches and the true ones in pixels: multiply by the patch size": score(
            [box // 6 for box in wanted_boxes]
        ),
        'the mean is not subtracted: features(…, "token", "centre")': score(boxes["token", "keep"]),
        "those are keys: ask for tokens": score(boxes["k", "keep"]),
        "patches are not 4 pixels wide in every model: tape.patch_size": score([box // 6 * 4 for box in wanted_boxes]),
        "that is the last block for all: ask for each": wanted[-1].expand(3),
        "that is the mean overlap, not CorLoc": torch.stack([box_iou(one, true).mean() for one in wanted_boxes]),
    }
    refuse_mistakes(answer, mistakes)
    expect_close(answer, wanted, "not CorLoc of each block's tokens, with the mean subtracted", 1e-6)


def _of_blocks(model: ViT, images: Tensor, cell: tuple[str, str]) -> list[Tensor]:
    with torch.no_grad(), record(model) as tape:
        model(images)
    return [tape.patch_size * lost(features(model, tape, block, *cell)["patches"]).boxes for block in range(3)]
