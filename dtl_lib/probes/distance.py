"""How far does a head look? The mean distance, in pixels, between a patch and the patches that it attends to."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..checks import check_tape, whole
from ..hooks import full_precision
from ..models import ViT
from ..tape import Tape
from ..tokens import PATCHES, TokenNotThere
from .running import CONTROL, Estimate, with_control


def mean_attention_distance(tape: Tape, block: int, renormalise: bool = True) -> Tensor:
    """Distance between the centre of a patch and those of the patches it attends to, weighted by attention, averaged
    over all patches that ask: `(batch, heads)`, in pixels (ViT, Dosovitskiy et al. 2021, appendix D.7 and figure 11).

    What a patch gives the class token or registers has no distance. Its column is left out, and the rest of the row
    is scaled to sum to 1: otherwise a head that attends to registers seems to look near. Distances are Euclidean, on
    the grid of the images recorded, which need not be square. With talking heads the softmax before the second mixing
    counts: what multiplies v there may be negative.

        >>> import torch
        >>> from dtl_lib import ViT, probes, record
        >>> model = ViT.build("vit_shapes_patch8_32").eval()
        >>> with torch.no_grad(), record(model) as tape:
        ...     logits = model(torch.zeros(1, 3, 32, 32))
        >>> probes.mean_attention_distance(tape, 0).shape
        torch.Size([1, 4])

    Args:
        tape: from `record`.
        block: 0 … depth − 1.
        renormalise: False leaves the rows as they are without those columns, as the published figures do.

    Raises:
        TokenNotThere: for a block of class attention, in which no patch asks.
    """
    check_tape(tape)
    layout = tape.plan.layout(block)
    if block >= tape.plan.depth:
        raise TokenNotThere(f"block {block} is class attention: no patch asks there (blocks 0 … {tape.plan.depth - 1})")
    patches = layout[PATCHES]
    rows = tape.attention(block, stage="softmax")[:, :, patches, patches]
    pixels = tape.patch_size * distances(tape.grid).to(rows)
    weights = torch.stack([pixels, torch.ones_like(pixels)], dim=1)
    # for each query a product (batch heads, key) × (key, 2): the matrix is read once and nothing of its size is made
    with full_precision(rows.device):
        far, whole = (rows.flatten(0, 1).transpose(0, 1) @ weights.transpose(1, 2)).unbind(dim=-1)
    each = far / whole if renormalise else far
    # a patch that gives other patches nothing, not one float32, has no distance: 0 / 0 is left out
    return (each.nanmean(dim=0) if renormalise else each.mean(dim=0)).unflatten(0, rows.shape[:2])


def distances(grid: tuple[int, int]) -> Tensor:
    """Distances between the centres of every two patches, in patches: float32 `(patches, patches)`.

    Args:
        grid: rows and columns.
    """
    down, across = ((torch.arange(length)[:, None] - torch.arange(length)).float().square() for length in grid)
    squares = down[:, None, :, None] + across[None, :, None, :]
    return rearrange(squares.sqrt(), "row column row2 column2 -> (row column) (row2 column2)")


@dataclass(frozen=True)
class DistanceResult:
    """Distances of every head of the trunk over many images, and of the same model before it was trained.

    Attributes:
        trained, untrained: `(blocks, heads)`, in pixels.
    """

    trained: Estimate
    untrained: Estimate


def measure_distance(
    model: ViT, batches: Iterable, renormalise: bool = True, control: int = CONTROL, seed: int = 0
) -> DistanceResult:
    """`mean_attention_distance` of every block, averaged over any number of images, one block's matrix at a time.

    An interval is Student's, at 95 %, over images: it is for the mean over all images of that kind.

        >>> from dtl_lib import data, load_pretrained, probes
        >>> model, test = load_pretrained("zoo/shapes_depth6"), data.load("shapes").test
        >>> result = probes.measure_distance(model, [test.batch(range(50))])
        >>> result.trained.n, tuple(result.trained.mean.shape)
        (50, (6, 4))

    Args:
        model: a `ViT`.
        batches: as in `over_images`; read once.
        renormalise: as in `mean_attention_distance`.
        control: how many of the first images the untrained model is measured on as well, 1 or more.
        seed: of its weights.

    Raises:
        ValueError: where there are no images, or a value is non-finite.
    """
    control = whole("control", control)

    def measure(tape: Tape) -> dict[str, Tensor]:
        blocks = range(tape.plan.depth)
        return {"distance": torch.stack([mean_attention_distance(tape, b, renormalise) for b in blocks], dim=1)}

    trained, fresh = with_control(model, batches, measure, control, seed, stream=False)
    return DistanceResult(trained["distance"], fresh["distance"])
