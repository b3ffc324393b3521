"""Is somebody's attention map right? A model whose maps are known, and the mistakes that public code has made.

The model is planted: its weights are set so that in every block and head each kind of token attends to each other kind
by weights from a table. An image shows every kind of patch once, in an order of its own, and a block leaves the tokens
as they are but for a clock that says how many blocks they have been through. So the right map is read off the table;
and so is what a function returns that makes one of the mistakes in `BUGS`, or some of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..models import ViT, ViTConfig
from ..tokens import TokenPlan
from .bugs import BUGS, DIM, HEAD_DIM, HEADS, Bug, Steps

__all__ = ["BUGS", "Bug", "Report", "Planted", "plant", "examine", "examine_rollout"]

BLOCKS, REGISTERS, GRID, PATCH_SIZE = 3, 2, (2, 3), 4
PATCHES, PREFIX = GRID[0] * GRID[1], 1 + REGISTERS
KINDS = PREFIX + PATCHES  # of tokens: the class token, each register, each kind of patch
NORM = (4 / DIM + 1e-6) ** -0.5  # what the layer norm multiplies a token by: four of its channels are 1 or -1
TOLERANCE = 1e-3
MOST = 3  # bugs at once
FUSED, NOTHING = "fused attention", "it returned nothing"


@dataclass(frozen=True)
class Report:
    """What is known of a function.

    Attributes:
        right: whether every map is right.
        bugs: which of `BUGS` explain what it returned: one set, or several where they cannot be told apart; none where
            it is right, and none where it is wrong in another way.
        seen: what it returned, in a few words.
    """

    right: bool
    bugs: tuple[tuple[str, ...], ...]
    seen: str

    def __str__(self) -> str:
        if self.right:
            return "right: every map is the one that was planted"
        if not self.bugs:
            return f"wrong, by none of the bugs listed, nor by up to {MOST} of them at once: {self.seen}"
        lines = []
        for names in self.bugs:
            lines += [("or: " if lines else "wrong: ") + " and ".join(names)]
            lines += [f"  {BUGS[name].what} ({BUGS[name].thread})" for name in names]
        return "\n".join(lines)


@dataclass(frozen=True)
class Planted:
    """The model, what it is given, and the map of every block.

    Attributes:
        model: the `ViT`, or timm's `VisionTransformer`: 3 blocks, 3 heads, 2 registers, patches of 4 × 4 pixels.
        images: of two calls, two images each, 2 × 3 patches, `(call, batch, 3, 8, 12)`.
        kinds: of the tokens in each image, `(call, batch, tokens)`.
        scores: log of the table's weights, `(block, heads, query kind, key kind)`.
        shift: what a score has too many where the clock is wrong, `(query kind, key kind)`.
    """

    model: nn.Module
    images: Tensor
    kinds: Tensor
    scores: Tensor
    shift: Tensor

    def maps(self, call: int, block: int) -> Tensor:
        """The class token's, `(batch, heads, rows, columns)`."""
        return _answer(self, call, block, Steps())

    def rollout(self, call: int) -> Tensor:
        """The class token's, heads fused by their maximum, `(batch, rows, columns)`."""
        return _answer(self, call, None, Steps())


def plant(library: str = "dtl") -> Planted:
    """The planted model, the same in every call.

    Args:
        library: whose model: "dtl", a `ViT`, or "timm", a `VisionTransformer`.

    Raises:
        ValueError: for another library.
    """
    drawn = torch.Generator().manual_seed(14)
    scores = torch.randint(1, 30, (BLOCKS, HEADS, KINDS, KINDS), generator=drawn).float().log()
    late = torch.randint(1, 30, (2, KINDS), generator=drawn).float().log()
    kinds = torch.stack([torch.randperm(PATCHES, generator=drawn) for _ in range(4)]).unflatten(0, (2, 2))
    pixels = nn.functional.one_hot(kinds, 3 * PATCH_SIZE**2).float()
    form = "call batch (rows columns) (channels h w) -> call batch channels (rows h) (columns w)"
    images = rearrange(pixels, form, rows=GRID[0], channels=3, h=PATCH_SIZE)
    kinds = torch.cat([torch.arange(PREFIX).expand(2, 2, -1), PREFIX + kinds], dim=-1)
    model = _build(library).eval()
    with torch.no_grad():
        _set_weights(model, scores, *late)
    return Planted(model, images, kinds, scores, late[0][:, None] + late[1])


def examine(function: Callable[[Any, Tensor, int], Any], library: str = "dtl") -> Report:
    """Which of `BUGS` a function has that returns the class token's maps.

        >>> import torch
        >>> from dtl_lib import record
        >>> from dtl_lib.probes import trial
        >>> def maps(model, images, block):
        ...     with torch.no_grad(), record(model) as tape:
        ...         model(images)
        ...     return tape.maps(block).mT  # columns before rows
        >>> trial.examine(maps).bugs
        (('rows and columns',),)

    Args:
        function: takes a model, images `(batch, 3, height, width)` and a block from 0, and returns `(batch, heads,
            rows, columns)`, a tensor or an array. It is called for three blocks of two batches, in turn.
        library: whose model it is written for, as in `plant`.
    """
    return _examine(function, plant(library), [*range(BLOCKS)], "map")


def examine_rollout(function: Callable[[Any, Tensor], Any], library: str = "dtl") -> Report:
    """Which of `BUGS` a function has that returns the class token's rollout.

    Args:
        function: takes a model and images, and returns `(batch, rows, columns)`: heads fused by their maximum, half
            of it and half of the identity, rows scaled to sum to 1, nothing discarded, all blocks multiplied.
        library: as in `examine`.
    """
    return _examine(lambda model, images, _: function(model, images), plant(library), [None], "rollout")


def _examine(function: Callable, planted: Planted, blocks: list, of: str) -> Report:
    found, seen = _ask(function, planted, blocks)
    hidden: tuple[str, ...] = ()
    if not _explained(planted, found, of, most=0) and _unfuse(planted.model):
        again, then = _ask(function, planted, blocks)
        if again and (not found or any(not again[where].equal(answer) for where, answer in found.items())):
            hidden, found, seen = (FUSED,), again, f"{seen}; without fused attention {then}"
    sets = [(FUSED,)] if seen == NOTHING else [hidden + names for names in _explained(planted, found, of, MOST)]
    return Report(sets == [()], tuple(names for names in dict.fromkeys(sets) if names), seen)


def _explained(planted: Planted, found: dict[tuple, Tensor], of: str, most: int) -> list[tuple[str, ...]]:
    """The sets of fewest bugs that return what was found; one empty set where it is right."""
    for number in range(1 + most if found else 0):
        sets = [
            names
            for names, steps in _mistakes(number, of)
            if all(_same(answer, _answer(planted, *where, steps)) for where, answer in found.items())
        ]
        if sets:
            return sets
    return []


def _ask(function: Callable, planted: Planted, blocks: list) -> tuple[dict[tuple, Tensor], str]:
    """What the function returns by call and block, nothing if it once fails to, and what that looks like."""
    found = {}
    for call, block in product(range(2), blocks):
        try:
            answer = function(planted.model, planted.images[call].clone(), block)
            if answer is None or len(answer) == 0:
                return {}, NOTHING
            found[call, block] = torch.as_tensor(answer).detach().cpu().float()
        except Exception as error:  # whatever a stranger's function raises is what it did
            return {}, f"it raised {type(error).__name__}: {error}"
    last = found[1, blocks[-1]]
    return found, f"shape {tuple(last.shape)}, values from {last.min():.3g} to {last.max():.3g}"


def _unfuse(model: nn.Module) -> bool:
    """Have timm's attention make its matrix; whether there was any to tell so."""
    parts = [part for part in model.modules() if getattr(part, "fused_attn", False)]
    for part in parts:
        part.fused_attn = False  # pyright: ignore[reportAttributeAccessIssue]
    return bool(parts)


def _mistakes(number: int, of: str) -> Iterator[tuple[tuple[str, ...], Steps]]:
    """The steps of functions that have that many bugs, and the bugs' names."""
    for bugs in combinations([bug for bug in BUGS.values() if bug.of in (of, "both")], number):
        for steps in product(*(bug.steps for bug in bugs)):
            together = {name: value for changed in steps for name, value in changed.items()}
            if len(together) == sum(map(len, steps)):  # no two of them in one place
                yield tuple(bug.name for bug in bugs), Steps(**together)


def _answer(planted: Planted, call: int, block: int | None, steps: Steps) -> Tensor:
    """What a function returns that takes these steps: the maps of a block, or the rollout where that is None."""
    if block is not None:
        attention = _attention(planted, call, block, steps)
        row = attention[:, 0, :HEADS] if steps.heads == "rows" else attention[:, :, 0]
    else:
        row = _rollout([_attention(planted, call, at, steps).amax(dim=1) for at in range(BLOCKS)], steps)[:, 0]
    start = PREFIX - REGISTERS * steps.registers - steps.cls
    rows, columns = GRID
    patches = row[..., start : start + PATCHES]
    if steps.grid.startswith("square"):
        side = int(PATCHES**0.5)
        maps = (patches[..., : side**2] if steps.grid == "square" else row[..., -(side**2) :]).unflatten(
            -1, (side, side)
        )
    else:
        maps = patches.unflatten(-1, (columns, rows) if steps.grid in ("columns", "turned") else (rows, columns))
    maps = maps.mT if steps.grid in ("turned", "transposed") else maps
    least, most, total = (f(maps, dim=(-2, -1), keepdim=True) for f in (torch.amin, torch.amax, torch.sum))
    if steps.scale != "none":
        maps = {"range": (maps - least) / (most - least), "maximum": maps / most, "sum": maps / total}[steps.scale]
    first = maps[:1].expand(len(maps) if steps.images == "first" else 1, *maps.shape[1:])
    return maps if steps.images == "own" else first


def _attention(planted: Planted, call: int, block: int, steps: Steps) -> Tensor:
    """`(batch, heads, query, key)` as a function has it that takes these steps."""
    block = {"asked": block, "last": BLOCKS - 1, "reversed": BLOCKS - 1 - block}[steps.block]
    scores = planted.scores[block] + (planted.shift if steps.stream == "embeddings" and block else 0)
    if steps.heads == "twice":  # half of a key's channels each, and the other half is 0 for this head
        halves = torch.arange(KINDS) // (HEAD_DIM // 2) == torch.arange(2)[:, None, None]
        scores = 2**0.5 * (scores[:, None] * halves).flatten(0, 1)
    kinds = planted.kinds[0 if steps.calls == "first" else call]
    scores = steps.gain * torch.stack([scores[:, image][:, :, image] for image in kinds])
    return scores if steps.axis is None else scores.softmax(dim=steps.axis)


def _rollout(attention: list[Tensor], steps: Steps) -> Tensor:
    result = torch.eye(KINDS)
    for matrix in attention:
        matrix = (matrix + torch.eye(KINDS)) / 2 if steps.residual else matrix
        total = matrix.sum(dim=-1, keepdim=True)
        matrix = matrix / (total if steps.scaled == "rows" else total.mT)
        result = matrix @ result if steps.product == "forward" else result @ matrix
    return result


def _same(answer: Tensor, right: Tensor) -> bool:
    return answer.shape == right.shape and torch.allclose(answer, right, rtol=TOLERANCE, atol=TOLERANCE / 10)


def _build(library: str) -> nn.Module:
    size = GRID[0] * PATCH_SIZE, GRID[1] * PATCH_SIZE
    if library == "dtl":
        plan = TokenPlan.of(BLOCKS, reg_pos=0, num_reg=REGISTERS)
        model = ViT(ViTConfig(size, PATCH_SIZE, dim=DIM, depth=BLOCKS, heads=HEADS, mlp_ratio=1, plan=plan, classes=2))
        model.all_queries = True  # strangers' hooks on the last block see every token
        return model
    if library != "timm":
        raise ValueError(f'library is "dtl" or "timm", not {library!r}')
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        size, PATCH_SIZE, num_classes=2, embed_dim=DIM, depth=BLOCKS, num_heads=HEADS, mlp_ratio=1, reg_tokens=REGISTERS
    )


def _set_weights(model: Any, scores: Tensor, query_late: Tensor, key_late: Tensor) -> None:
    """A token's kind is in a pair of channels, 1 and -1; so is the clock, which every block moves on by its MLP.

    A key is one-hot, and a query a column of scores; with the clock wrong both have a part that depends on their kind.
    """
    pairs = torch.kron(torch.eye(DIM // 2), torch.tensor([[1.0, -1.0]]))
    code, clock = pairs[:KINDS], pairs[KINDS : KINDS + BLOCKS + 1]
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.zero_()
    embed = model.patch_embed.project if isinstance(model, ViT) else model.patch_embed.proj
    embed.bias.copy_(clock[0])
    embed.weight.flatten(1)[:, :PATCHES] = code[PREFIX:].T
    prefix = code[:PREFIX] + clock[0]
    if isinstance(model, ViT):
        model.tokens["cls"].copy_(prefix[:1])
        model.tokens["reg"].copy_(prefix[1:])
    else:
        model.cls_token.copy_(prefix[None, :1])
        model.reg_token.copy_(prefix[None, 1:])
    for number, block in enumerate(model.blocks):
        query, key, _ = (block.attention if isinstance(model, ViT) else block.attn).qkv.weight.chunk(3)
        wrong = clock[[at for at in range(BLOCKS + 1) if at != number]].sum(dim=0)
        for head in range(HEADS):
            asked, had = (part[head * HEAD_DIM : (head + 1) * HEAD_DIM] for part in (query, key))
            asked[:KINDS] = scores[number, head].T @ code + key_late[:, None] * wrong
            asked[KINDS] = query_late @ code
            had[:KINDS], had[KINDS] = code, wrong
        query.clamp_min_(0).mul_(HEAD_DIM**0.5 / NORM)  # of each pair the first channel alone is read
        key.clamp_min_(0).div_(NORM)
        block.norm2.weight.fill_(2)
        (block.mlp.contract if isinstance(model, ViT) else block.mlp.fc2).bias.copy_(clock[number + 1] - clock[number])
