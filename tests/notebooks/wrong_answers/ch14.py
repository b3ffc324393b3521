"""Wrong answers that the checkers of chapter 14 have to refuse."""

import torch
import torch.nn.functional as F
from torch import nn

from dtl_lib import ViT


def the_last_valley(density):
    places = [i for i in range(1, len(density) - 1) if density[i] <= density[i - 1] and density[i] < density[i + 1]]
    places = [i for i in places if i > int(density.argmax())]
    return places[-1] if places else -1


def any_side(density):
    for i in range(1, len(density) - 1):
        if density[i] <= density[i - 1] and density[i] < density[i + 1]:
            return i
    return -1


def the_smallest(density):
    return int(density.argmin())


def the_next_top(density):
    top = int(density.argmax())
    for i in range(top + 1, len(density) - 1):
        if density[i] > density[i - 1]:
            return i
    return -1


def the_density(density):
    top = int(density.argmax())
    for i in range(top, len(density) - 1):
        if density[i + 1] > density[i]:
            return float(density[i])
    return -1


def the_end(density):
    found = the_last_valley(density)
    return len(density) - 1 if found < 0 else found


def the_start_of_the_floor(density):
    found = the_last_valley(density[: int(density.argmax()) + 6])
    while found > 0 and density[found - 1] == density[found]:
        found -= 1
    return found


def not_the_last_bin(density):
    top = int(density.argmax())
    return next((i for i in range(top, len(density) - 2) if density[i + 1] > density[i]), -1)


def direction(side="left", scaled=True, normed=True, rows=False):
    """A leading direction with one mistake."""

    def wrong(expand, contract, norm, scale):
        inner = expand * norm if normed else expand
        inner = norm.repeat(4)[:, None] * expand if rows else inner
        matrix = contract @ inner
        left, values, right = torch.linalg.svd(scale[:, None] * matrix if scaled else matrix)
        return values[0], left[:, 0] if side == "left" else right[0]

    return wrong


def long_vector(expand, contract, norm, scale):
    left, values, _ = torch.linalg.svd(scale[:, None] * (contract @ (expand * norm)))
    return values[0], values[0] * left[:, 0]


def second_gain(expand, contract, norm, scale):
    left, values, _ = torch.linalg.svd(scale[:, None] * (contract @ (expand * norm)))
    return values[1], left[:, 0]


def in_channel_order(energy, share):
    return sorted(right_channels(energy, share))


def right_channels(energy, share):
    held = energy.sort(descending=True)
    count = int((held.values.cumsum(0) < share * energy.sum()).sum()) + 1
    return held.indices[:count].tolist()


def one_too_few(energy, share):
    return right_channels(energy, share)[:-1]


def one_too_many(energy, share):
    return energy.argsort(descending=True)[: len(right_channels(energy, share)) + 1].tolist()


def more_than_the_share(energy, share):
    held = energy.sort(descending=True)
    return held.indices[: int((held.values.cumsum(0) <= share * energy.sum()).sum()) + 1].tolist()


def above_the_share(energy, share):
    return (energy > share).nonzero().flatten().tolist()


def not_a_share(energy, share):
    held = energy.sort(descending=True)
    return held.indices[: int((held.values.cumsum(0) < share).sum()) + 1].tolist()


def their_energy(energy, share):
    return energy[right_channels(energy, share)].tolist()


def told(itself=False, everyone=False, others=False, left_over=False, centred=True, cosine=True):
    """The share of rule 3 with one mistake."""

    def wrong(before, long):
        x = before - before.mean(dim=0) if centred else before
        x = F.normalize(x, dim=-1) if cosine else x
        likeness = x @ x.T
        if not itself:
            likeness = likeness - 1e6 * torch.eye(len(x))
        same = long[likeness.argmax(dim=-1)].double()
        same = same if everyone else same[~long if others else long]
        return 1 - same.mean() if left_over else same.mean()

    return wrong


def by_distance(before, long):
    near = torch.cdist(before, before).fill_diagonal_(torch.inf).argmin(dim=-1)
    return long[near][long].double().mean()


def itself_as_zero(before, long):
    unit = F.normalize(before - before.mean(dim=0), dim=-1)
    return long[(unit @ unit.T).fill_diagonal_(0)[long].argmax(dim=-1)].double().mean()


def adds(shares=True, even=False, by_token=False, turned=False, mixed=False, project=True):
    """What a token adds, with one mistake."""

    def wrong(values, received, weight):
        heads, tokens, width = values.shape
        share = received / received.sum(dim=0) if shares else received
        share = torch.full_like(received, 1 / heads) if even else share
        share = received / received.sum(dim=1, keepdim=True) if by_token else share
        x = values * share[..., None]
        x = (x.permute(1, 2, 0) if mixed else x.permute(1, 0, 2)).reshape(tokens, heads * width)
        if not project:
            return x
        return x @ weight if turned else x @ weight.T

    return wrong


class Core(nn.Module):
    def __init__(self, value=0.0, key=0.0):
        super().__init__()
        self.value, self.key = value, key

    def forward(self, q, k, v):
        k, v = F.pad(k, (0, 0, 1, 0), value=self.key), F.pad(v, (0, 0, 1, 0), value=self.value)
        return F.scaled_dot_product_attention(q, k, v)


class Detached(Core):
    def forward(self, q, k, v):
        return super().forward(q.detach(), k, v)


class Cut(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, torch.zeros_like(v))


def spare(core, blocks=4, name="vit_shapes_patch8_32", **other):
    def wrong():
        model = ViT.build(name, **other)
        for block in list(model.blocks)[:blocks]:
            block.attention.core = core()
        return model

    return wrong


def plain():
    return ViT.build("vit_shapes_patch8_32")


def a_core():
    return Core()


WRONG = {
    "check_my_valley": [the_last_valley, any_side, the_smallest, the_next_top, the_density, the_end]
    + [the_start_of_the_floor, not_the_last_bin],
    "check_my_direction": [
        direction(side="right"),
        direction(scaled=False),
        direction(normed=False),
        direction(rows=True),
        long_vector,
        second_gain,
    ],
    "check_massive": [in_channel_order, one_too_few, one_too_many, above_the_share, not_a_share, their_energy]
    + [more_than_the_share],
    "check_told": [
        told(itself=True),
        told(everyone=True),
        told(others=True),
        told(left_over=True),
        told(centred=False),
        told(cosine=False),
        by_distance,
        itself_as_zero,
    ],
    "check_adds": [
        adds(shares=False),
        adds(even=True),
        adds(by_token=True),
        adds(turned=True),
        adds(mixed=True),
        adds(project=False),
    ],
    "check_spare": [
        plain,
        spare(lambda: Core(value=1.0)),
        spare(lambda: Core(key=1.0)),
        spare(Cut),
        spare(Detached),
        spare(Core, blocks=2),
        spare(Core, mlp_ratio=2.0),
        a_core,
    ],
}
