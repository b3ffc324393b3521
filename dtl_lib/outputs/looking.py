"""What tokens attend to in one block, of one photo: maps, what they leave out, and what the model saw."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..checks import shortened
from ..data.photos import prepare, undo
from ..models import ViT
from ..tape import Tape, Token, record
from ..tokens import PATCH, PATCHES, READ_BY_HEAD, TokenPlan

ROWS = 2**26  # bytes, at most, of the rows of attention that are averaged at a time
TITLES = {"cls": "class token", "dist": "distillation token", PATCHES: "mean over the patches"}


@dataclass(frozen=True)
class TokenMaps:
    """One token's attention over the patches, head by head.

    Attributes:
        of: the token, as in `Tape.maps`, or `"patches"`: the mean over all patches that attend.
        maps: float32 (heads, rows, columns), as `Tape.maps` has them.
        elsewhere: the share of the attention that other tokens get, (heads,).
    """

    of: Token
    maps: np.ndarray
    elsewhere: np.ndarray

    @property
    def name(self) -> str:
        """In the name of a file or array, such as `cls`, `reg_2` or `patch_4_7`."""
        return "_".join(map(str, (self.of,) if isinstance(self.of, str) else self.of))

    @property
    def title(self) -> str:
        """In words."""
        return called(self.of)

    @property
    def mark(self) -> tuple[int, int] | None:
        """The patch that attends, where it is one."""
        return self.of[1:] if isinstance(self.of, tuple) and len(self.of) == 3 else None


@dataclass(frozen=True)
class Look:
    """What a model's tokens attend to in one block.

    Attributes:
        photo: what the model saw, uint8 (height, width, 3): resized, cut and without its normalisation.
        plan, block: of the model; where the attention is from.
        tokens: one for each token asked about.
        stage: `"softmax"` where the heads are mixed afterwards, which would make weights negative.
    """

    photo: np.ndarray
    plan: TokenPlan
    block: int
    tokens: tuple[TokenMaps, ...]
    stage: str = "attention"

    def arrays(self) -> dict[str, np.ndarray]:
        """For `numpy.savez`: the block, the photo, each token's maps by name, and beside them its `…_elsewhere`."""
        maps = {token.name: token.maps for token in self.tokens}
        elsewhere = {f"{token.name}_elsewhere": token.elsewhere for token in self.tokens}
        return {"block": np.array(self.block), "photo": self.photo} | maps | elsewhere


def look(model: ViT, picture, block: int = 2, of: Sequence[Token] = ()) -> Look:
    """What tokens attend to in one block, of one picture.

    Args:
        model: to look into.
        picture: a photo, uint8 (height, width, 3), which is preprocessed as the model expects; or what already is,
            float32 (1, channels, height, width).
        block: 0 … blocks − 1.
        of: tokens as in `Tape.maps`, or `"patches"` for the mean over all patches that attend. Where none is given:
            the class token, a distillation token and each register that attends in the block; without a class token
            `"patches"` in its place.

    Raises:
        TokenNotThere: where a token is not in that block, or attends to nothing there.
        ValueError: for a block that is not there, or attention that is non-finite.

    Example:
        >>> from dtl_lib import data, load_pretrained, outputs
        >>> model = load_pretrained("zoo/shapes_depth6_reg4")
        >>> seen = outputs.look(model, data.photo("chelsea"), block=5)
        >>> [token.name for token in seen.tokens]
        ['cls', 'reg_0', 'reg_1', 'reg_2', 'reg_3']
        >>> seen.tokens[0].maps.shape  # heads, rows, columns
        (4, 8, 8)
    """
    config = model.config
    block = model.plan.check_block(block)
    of = of or default_tokens(model.plan, block)
    x = picture if isinstance(picture, Tensor) else prepare(picture, config=config)
    x = x.to(next(model.parameters()).device)
    maps = read_maps(model, x, block, of)
    shown = undo(x[0], config.mean, config.std)
    photo = np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown
    tokens = [TokenMaps(each, *(part[0].cpu().numpy() for part in maps[each])) for each in maps]
    return Look(photo, model.plan, block, tuple(tokens), stage_of(model, block))


def called(of: Token) -> str:
    """A token in words."""
    if isinstance(of, str):
        return TITLES.get(of, of)
    name, *index = of
    return f"{name} {index[0]}" if len(index) == 1 else f"patch ({index[0]}, {index[1]})"


def default_tokens(plan: TokenPlan, block: int) -> list[Token]:
    """The tokens worth a page in a block; `"patches"` where the class token is not there."""
    layout = plan.layout(block)
    readers: list[Token] = [name for name in READ_BY_HEAD if name in layout] or [PATCHES]
    return readers if block >= plan.depth else [*readers, *(name for name in layout if name not in (*TITLES,))]


@torch.inference_mode()
def read_maps(model: ViT, x: Tensor, block: int, of: Sequence[Token]) -> dict[Token, tuple[Tensor, Tensor]]:
    """Maps `(batch, heads, rows, columns)` and the share elsewhere `(batch, heads)` of each token, in one forward pass.

    The pass ends after the block.

    Args:
        model, block: as in `look`.
        x: (batch, channels, height, width).
        of: as in `look`; a group of registers by its name means each of them.

    Raises:
        TokenNotThere: as in `look`.
        ValueError: as in `look`.
    """
    every = not set(of) <= set(READ_BY_HEAD)
    stage, found = stage_of(model, block), {}
    with record(model, all_queries=every, stream=False) as tape, _ending_after(model, block):
        model(x)
    for each in of:
        found |= split_rows(tape, block, each, stage)
    if not all(row.isfinite().all() for row in found.values()):
        raise ValueError(f"the attention of block {block} is non-finite: the weights are damaged, or the image is")
    patches, (rows, _) = tape.plan.layout(block)[PATCHES], tape.grid
    return {
        each: (
            rearrange(row[..., patches], "b heads (rows columns) -> b heads rows columns", rows=rows),
            row[..., : patches.start].sum(dim=-1),
        )
        for each, row in found.items()
    }


class _Enough(Exception):
    """The block that was asked about has run."""


@contextmanager
def _ending_after(model: ViT, block: int) -> Iterator[None]:
    """Inside, a forward pass ends after a block: what comes later changes nothing there."""

    def end(*_) -> None:
        raise _Enough

    with ExitStack() as stack:
        if block + 1 < model.plan.blocks:
            stack.callback(model.blocks[block + 1].register_forward_pre_hook(end).remove)
        with suppress(_Enough):
            yield


def split_rows(tape: Tape, block: int, of: Token, stage: str) -> dict[Token, Tensor]:
    """Rows of attention, `(batch, heads, key)` each; of a group of registers one for each."""
    if of == PATCHES:
        tape.row(block, (PATCH, 0, 0), stage)  # says why where patches do not attend
        return {of: _mean_row(tape, block, stage)}
    row = tape.row(block, of, stage)
    if row.ndim == 3:
        return {tuple(of) if isinstance(of, list) else of: row}
    return {(str(of), number): one for number, one in enumerate(row.unbind(dim=2))}


def _mean_row(tape: Tape, block: int, stage: str) -> Tensor:
    """The mean of all patches' rows, `(batch, heads, key)`; of a large image a part of the rows is made at a time."""
    batch, heads, keys, _ = tape.keys(block).shape
    count, total = tape.grid[0] * tape.grid[1], 0.0
    step = max(1, ROWS // (4 * batch * heads * keys))
    for start in range(keys - count, keys, step):
        total += tape.attention(block, stage, slice(start, min(start + step, keys))).sum(dim=2)
    return torch.as_tensor(total) / count


def stage_of(model: ViT, block: int) -> str:
    """Which attention is shown: with talking heads the softmax, before the heads are mixed again and turn negative."""
    return "softmax" if model.config.talking_heads and block < model.config.depth else "attention"


def parse_query(text: str) -> Token:
    """`cls`, `dist`, `patches`, `reg` or `reg:2`, and `patch:4,7` as a token of `look`.

    Raises:
        ValueError: for what is none of these.
    """
    name, colon, numbers = text.partition(":")
    index = [int(number) for number in numbers.split(",")] if re.fullmatch(r"\d{1,6}(, ?\d{1,6})?", numbers) else []
    if not name.isidentifier() or bool(colon) != bool(index) or (len(index) == 2) != (name == PATCH):
        raise ValueError(
            f"a query is cls, dist, patches (their mean), reg, reg:2 or patch:4,7 (row, column), not {shortened(text)}"
        )
    return (name, *index) if index else name  # pyright: ignore[reportReturnType]


def query_text(token: Token) -> str:
    """What `parse_query` reads as the token."""
    return token if isinstance(token, str) else f"{token[0]}:{','.join(map(str, token[1:]))}"
