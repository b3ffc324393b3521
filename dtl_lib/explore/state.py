"""What is looked at, as a value, and what is then seen, as arrays and one sentence: all that a front shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from ..checks import typed, whole
from ..figures.overlay import OPACITY, PIXELS, enlarged, overlay
from ..outputs.looking import parse_query
from ..tape import Token
from ..tokens import PATCHES, READ_BY_HEAD, TokenNotThere, TokenPlan
from .recording import NoClasses, Recording, Row, recording
from .saying import sentence

SHOWS = {  # what can be shown → the unit of its values
    "attention": "share of the attention",
    "rollout": "share of what reaches the token",
    "relevance": "relevance to the answer",
    "norms": "length of the token",
    "lens": "probability of the answer",
}
BY_HEAD, BY_QUERY = ("attention",), ("attention", "rollout", "relevance")  # what the head, the query change
NOT_THERE = TokenNotThere, NoClasses
SCALES = ("shared", "own")


@dataclass(frozen=True)
class State:
    """What is looked at.

    Attributes:
        block: 0 … blocks − 1.
        head: its number, or None for the mean over heads; only attention has heads.
        query: the token that asks, as `dtl attention --query` reads it: `cls`, `dist`, `reg:2`, `patch:4,7` (row,
            column), or `patches` for the mean over all patches. Norms and the lens are of every token.
        show: one of `SHOWS`. `attention` is of this block alone; `rollout` and `relevance` are of all blocks from the
            one that the token enters before up to this one; `norms` and `lens` are of the tokens after this block.
        scale: `shared`: one colour scale for all blocks and heads, and for all models side by side; `own`: each map
            from 0 to its own maximum.
        overlay: opacity of the colours over the photo, 0 to 1.

    Raises:
        ValueError: for anything else.
    """

    block: int = 0
    head: int | None = None
    query: str = "cls"
    show: str = "attention"
    scale: str = "shared"
    overlay: float = OPACITY

    def __post_init__(self):
        object.__setattr__(self, "block", whole("block", self.block, 0))
        if self.head is not None:
            object.__setattr__(self, "head", whole("head", self.head, 0))
        if self.token not in (*READ_BY_HEAD, PATCHES) and isinstance(self.token, str):
            raise ValueError(f"{self.query} is a group of tokens: one of them asks, such as {self.query}:0")
        for name, known in (("show", SHOWS), ("scale", SCALES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        if not 0 <= typed("overlay", self.overlay, float) <= 1:
            raise ValueError(f"overlay is the opacity of the colours, 0 to 1, not {self.overlay}")

    @property
    def token(self) -> Token:
        """The token that asks, as in `Tape.maps`."""
        return parse_query(self.query)


@dataclass(frozen=True)
class View:
    """What is seen.

    Attributes:
        map: the value of each patch, float32 (rows, columns); None where there is nothing to see, and the sentence says
            why.
        others: the values of the tokens beside the patches, by name: `{"cls": 0.3, "reg:0": 0.1}`. Of attention they
            and the map sum to 1. Of rollout they need not: what comes from a token that entered later is not in it.
        range: where the colours begin, which is 0, and where they end.
        unit: of the values, in words.
        sentence: what is seen, in one sentence, from these numbers.
        off: the share that lies off the patches, of attention and rollout; None for all else.
        grid: rows and columns of the patches.
        photo: what the model saw, uint8 (height, width, 3).
        answers: what the model says of the picture: its likeliest classes with their probabilities.
    """

    map: np.ndarray | None
    others: Mapping[str, float]
    range: tuple[float, float]
    unit: str
    sentence: str
    off: float | None
    grid: tuple[int, int]
    photo: np.ndarray = field(repr=False)
    answers: tuple[tuple[str, float], ...]


def explore(models, picture, state: State):
    """What a state shows of a model and a picture: every front of the explorer draws this, and computes nothing.

    The forward pass is recorded once for a model, its weights and a picture (and once more, with gradients, where
    relevance is asked for), and the last few recordings are kept: another state costs a few milliseconds.

        >>> from dtl_lib import data, load_pretrained
        >>> from dtl_lib.explore import State, explore
        >>> model = load_pretrained("zoo/shapes_depth6_reg4")
        >>> view = explore(model, data.photo("chelsea"), State(block=5))
        >>> view.map.shape, list(view.others)
        ((8, 8), ['cls', 'reg:0', 'reg:1', 'reg:2', 'reg:3'])
        >>> round(float(view.map.sum()) + sum(view.others.values()), 5)
        1.0

    Args:
        models: a `ViT`, in training or not, or several side by side, which then share a shared scale.
        picture: a photo, uint8 (height, width, 3), which is preprocessed as each model expects; or what already is,
            float32 (1, channels, height, width).
        state: what is looked at.

    Returns:
        A `View`; of several models a tuple of them.

    Raises:
        ValueError: for a block, a head or a patch that no model has, tokens that are non-finite, and pictures that no
            model takes. A token that is not there (a class token that enters later), and a number that one of several
            models lacks, is a view without a map.
    """
    if isinstance(models, nn.Module):
        return _views([models], picture, state)[0]
    if not models:
        raise ValueError("give at least one model")
    return tuple(_views(models, picture, state))


def queries(plan: TokenPlan) -> list[str]:
    """The tokens beside single patches that ask in any block, as `State.query` names them; the first is the usual one:
    the class token, or the mean over the patches where there is none."""
    names = [group.name for group in plan.groups if group.name in READ_BY_HEAD]
    registers = [group for group in plan.groups if group.name not in READ_BY_HEAD and group.enter < plan.depth]
    each = [f"{group.name}:{at}" for group in registers for at in range(group.tokens)]
    return [*names, *each, PATCHES] if names else [PATCHES, *each]


def paint(view: View, state: State) -> np.ndarray:
    """The photo in grey under the view's colours, uint8 (height, width, 3); the photo alone where there is no map."""
    photo = enlarged(view.photo, *PIXELS)
    return photo if view.map is None else overlay(photo, view.map, view.range[1], state.overlay)


def _views(models: Sequence, picture, state: State) -> list[View]:
    recorded = [recording(model, picture) for model in models]
    rows = [_row(each, state) for each in recorded]
    errors = [row for row in rows if isinstance(row, ValueError)]
    if len(errors) == len(rows) and not any(isinstance(error, NOT_THERE) for error in errors):
        raise errors[0]
    seen = [each for each, row in zip(recorded, rows) if not isinstance(row, ValueError)]
    high = max((each.largest(state.show, state.token) for each in seen), default=0.0)
    return [_view(each, row, state, high, len(models)) for each, row in zip(recorded, rows)]


def _row(recorded: Recording, state: State) -> Row | ValueError:
    try:
        return recorded.row(state.show, state.block, state.head, state.token)
    except ValueError as error:
        return error


def _view(recorded: Recording, row: Row | ValueError, state: State, high: float, models: int) -> View:
    about = {"unit": SHOWS[state.show], "grid": recorded.grid, "photo": recorded.photo, "answers": recorded.answers}
    if isinstance(row, ValueError):
        text = str(row)
        return View(None, {}, (0.0, 0.0), sentence=text[0].upper() + text[1:] + ".", off=None, **about)
    values, layout = row
    values = values.float().cpu().numpy()
    patches = values[layout[PATCHES]].reshape(recorded.grid)
    others = {
        name if name in READ_BY_HEAD else f"{name}:{at}": float(value)
        for name, where in layout.items()
        if name != PATCHES
        for at, value in enumerate(values[where])
    }
    high = high if state.scale == "shared" else float(patches.max()) or 1.0
    off = max(0.0, 1 - float(patches.sum(dtype=np.float64))) if state.show in ("attention", "rollout") else None
    says = sentence(recorded, state, patches, others, high, off, models)
    return View(patches, others, (0.0, high), sentence=says, off=off, **about)
