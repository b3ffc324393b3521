"""The maps of one photo as pages, and pages as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from ..figures import attention_page
from .looking import Look, TokenMaps

SHOWN = 0.995  # of a page's values lie on its scale; the rest would leave everything else dark
DPI = 200
FONTS = {"pdf.fonttype": 42}  # text that can be searched and copied


def attention_pages(
    look: Look, name: str = "", model: str = "", heads: Sequence[int] | None = None
) -> dict[str, Figure]:
    """A page for each token, by its name: the photo, the heads' maps over it, and their mean.

    Args:
        look: from `look`.
        name: what the photo is called.
        model: what the model is called, in a line or two.
        heads: those to draw; all, and their mean, where None.

    Raises:
        ValueError: for a head that is not there.
    """
    return {token.name: _page(look, token, name, model, heads) for token in look.tokens}


def _page(look: Look, token: TokenMaps, name: str, model: str, heads: Sequence[int] | None) -> Figure:
    maps, elsewhere, titles = pick_heads(token, heads)
    high = scale_of(maps)
    even = 1 / (maps[0].size + look.plan.tokens(look.block))
    beyond = f"; above it {(maps > high).mean():.1%} of the values" if (maps > high).any() else ""
    mixed = ["softmax, before the heads are mixed again"] if look.stage == "softmax" else []
    heading = [
        f"{token.title}, block {look.block} of 0 to {look.plan.blocks - 1}",
        *(line for line in (name, *model.splitlines()) if line),
        *mixed,
        f"colours from 0 to {high:.2g}{beyond}",
        f"spread evenly, each token would get {even:.2g}",
        "not drawn: the share of attention on tokens that are no patches",
    ]
    notes = [f"max {values.max():.2g}\nnot drawn {share:.1%}" for values, share in zip(maps, elsewhere)]
    return attention_page(look.photo, maps, titles, high, look.plan, look.block, heading, notes, mark=token.mark)


def pick_heads(token: TokenMaps, heads: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Maps `(panels, rows, columns)`, shares elsewhere and titles: the mean and every head, or the given heads alone.

    Raises:
        ValueError: for a head that is not there.
    """
    maps, elsewhere = token.maps, token.elsewhere
    if heads is None:
        titles = ["mean", *(f"head {head}" for head in range(len(maps)))]
        return np.stack([maps.mean(axis=0), *maps]), np.stack([elsewhere.mean(), *elsewhere]), titles
    check_heads(heads, len(maps))
    return maps[[*heads]], elsewhere[[*heads]], [f"head {head}" for head in heads]


def check_heads(heads: Sequence[int], count: int) -> None:
    """A ValueError where one of the heads is not there."""
    for head in heads:
        if not 0 <= head < count:
            raise ValueError(f"there is no head {head}: this block has heads 0 … {count - 1}")


def scale_of(maps: np.ndarray, shown: float = SHOWN) -> float:
    """Where a scale ends that all but the largest few of the values lie on, above 0."""
    return float(np.quantile(maps, shown)) or float(maps.max()) or 1.0


def save_pages(pages: Mapping[str, Figure], path: Path, title: str = "") -> None:
    """Write pages into one PDF; its bytes depend on nothing but them."""
    about = {"Title": title, "Creator": "dtl_lib", "CreationDate": None}
    with matplotlib.rc_context(FONTS), PdfPages(path, metadata=about) as pdf:
        for page in pages.values():
            pdf.savefig(page, dpi=DPI)
