"""Wrong answers that the checkers of chapter 15 have to refuse."""

import torch

ENDS = torch.tensor([0.025, 0.975], dtype=torch.float64)


def by_token(images, folds):
    return torch.arange(len(images)) % folds


def by_number(images, folds):
    return images % folds


def divided(images, folds):
    return images // 12 % folds


def by_range(images, folds):
    return (images - images.min()) * folds // (images.max() - images.min() + 1)


def in_blocks(images, folds):
    return torch.arange(len(images)) * folds // len(images)


def one_fold(images, folds):
    return torch.zeros_like(images)


def which_image(images, folds):
    return images.unique(return_inverse=True)[1]


def as_floats(images, folds):
    return (which_image(images, folds) % folds).float()


def one_an_image(images, folds):
    return torch.arange(len(images.unique())) % folds


def probe(own=False, usual=True, scaled=True, centred=True, times=1.0, by_mean=False, itself=False):
    """Ridge regression with one mistake."""

    def wrong(x, y, new, alpha):
        mean, spread, middle = x.mean(0), x.std(0, correction=0), y.mean(0)
        spread = spread if scaled else torch.ones_like(spread)
        if not centred:
            mean, middle = 0 * mean, 0 * middle
        z = (x - mean) / spread
        strength = alpha * times * (len(x) if by_mean else 1)
        weights = torch.linalg.solve(z.T @ z + strength * torch.eye(len(spread)), z.T @ (y - middle))
        if own:
            mean, spread = new.mean(0), new.std(0, correction=0)
        found = ((x if itself else new) - mean) / spread @ weights
        return (found + middle if usual else found)[: len(new)]

    return wrong


def turned(x, y, new, alpha):
    return probe()(x, y, new, alpha).T


def shuffle_tokens(labels, images, order):
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def not_shuffled(labels, images, order):
    return labels


def per_image(labels, images, order):
    found = torch.zeros(len(order), dtype=labels.dtype)
    found[images] = labels
    return found


def the_other_way(labels, images, order):
    return per_image(labels, images, order)[order.argsort()][images]


def image_numbers(labels, images, order):
    return order[images]


def only_images(labels, images, order):
    return per_image(labels, images, order)[order]


def share(low=0.025, weighted=True, fixed=False, swapped=False, tokens=False, middle=False):
    """A bootstrap interval with one mistake."""

    def wrong(right, images, counts):
        counts, size = counts.double(), counts.shape[1]
        hits = torch.bincount(images, right.double(), size)
        of = torch.bincount(images, minlength=size).double()
        shares = counts @ hits / (counts @ of)
        if not weighted:
            shares = counts @ (hits / of) / size
        if fixed:
            shares = counts @ hits / len(images)
        if tokens:
            draw = torch.Generator().manual_seed(0)
            drawn = torch.randint(len(right), (len(counts), len(right)), generator=draw)
            shares = right.double()[drawn].mean(dim=1)
        ends = shares.quantile(low), shares.quantile(1 - low)
        if middle:
            return shares.mean()
        return ends[::-1] if swapped else ends

    return wrong


def in_order(right, images, counts):
    of = torch.bincount(images)
    hits = torch.stack([part.sum() for part in right.double().split(of.tolist())])
    return tuple((counts.double() @ hits / (counts.double() @ of.double())).quantile(ENDS))


def one_token_each(right, images, counts):
    of, some = torch.bincount(images).double(), torch.zeros(counts.shape[1]).double()
    some[images] = right.double()
    return tuple((counts.double() @ (of * some) / (counts.double() @ of)).quantile(ENDS))


def drawn_or_not(right, images, counts):
    return share()(right, images, counts.clamp(max=1))


def by_deviation(right, images, counts):
    counts, of = counts.double(), torch.bincount(images).double()
    shares = counts @ torch.bincount(images, right.double()) / (counts @ of)
    return shares.mean() - 1.96 * shares.std(), shares.mean() + 1.96 * shares.std()


def keep_all(long, never):
    return long, never


def in_all(long, never):
    fewer = min(int(long.sum()), int(never.sum()))
    return tuple(side & (side.flatten().cumsum(0).view_as(side) <= fewer) for side in (long, never))


def the_latest(long, never):
    fewer = torch.minimum(long.sum(0), never.sum(0))
    return tuple(side & (side.flip(0).cumsum(0).flip(0) <= fewer) for side in (long, never))


def one_too_many(long, never):
    fewer = torch.minimum(long.sum(0), never.sum(0)) + 1
    return tuple(side & (side.cumsum(0) <= fewer) for side in (long, never))


def the_first_rows(long, never):
    fewer = torch.minimum(long.sum(0), never.sum(0))
    rows = torch.arange(len(long))[:, None] < fewer
    return rows, rows


def as_numbers(long, never):
    return tuple(side.int() for side in right_masks(long, never))


def only_long(long, never):
    return right_masks(long, never)[0]


def right_masks(long, never):
    fewer = torch.minimum(long.sum(0), never.sum(0))
    return tuple(side & (side.cumsum(0) <= fewer) for side in (long, never))


def rounding(dim=1, how="round", steps=127, back=True, signed=False):
    """8 bits with one mistake."""

    def wrong(tokens):
        size = tokens if signed else tokens.abs()
        largest = size.max() if dim is None else size.amax(dim=dim, keepdim=True)
        step = largest / steps
        found = getattr(torch, how)(tokens / step)
        return found * step if back else found

    return wrong


def unrounded(tokens):
    return tokens


WRONG = {
    "check_my_folds": [
        by_token,
        by_number,
        divided,
        by_range,
        in_blocks,
        one_fold,
        which_image,
        as_floats,
        one_an_image,
    ],
    "check_my_probe": [
        probe(own=True),
        probe(usual=False),
        probe(scaled=False),
        probe(centred=False),
        probe(times=0.0),
        probe(times=1.1),
        probe(by_mean=True),
        probe(itself=True),
        turned,
    ],
    "check_shuffled": [shuffle_tokens, not_shuffled, the_other_way, image_numbers, only_images],
    "check_interval": [
        share(low=0.05),
        share(weighted=False),
        share(fixed=True),
        share(swapped=True),
        share(tokens=True),
        share(middle=True),
        in_order,
        one_token_each,
        drawn_or_not,
        by_deviation,
    ],
    "check_matched": [keep_all, in_all, the_latest, one_too_many, the_first_rows, as_numbers, only_long],
    "check_rounded": [
        unrounded,
        rounding(dim=None),
        rounding(dim=0),
        rounding(how="floor"),
        rounding(how="trunc"),
        rounding(steps=255),
        rounding(back=False),
        rounding(signed=True),
    ],
}
