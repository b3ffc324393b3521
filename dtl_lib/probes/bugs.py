"""Mistakes of public code on the way to an attention map or a rollout, as data."""

from dataclasses import dataclass
from typing import Any

HEADS, HEAD_DIM = 3, 10  # of the planted model
DIM = HEADS * HEAD_DIM


@dataclass(frozen=True)
class Steps:
    """What a function does on its way to a map; the values here are right."""

    stream: str = "of the block"  # "embeddings"
    block: str = "asked"  # "last", "reversed"
    gain: float = 1.0  # of the scores
    axis: int | None = -1  # of the softmax
    heads: str = "heads"  # "rows" (of the first one), "twice" (as many, half as wide)
    registers: bool = False  # taken for patches
    cls: bool = False  # taken for a patch
    grid: str = "rows"  # "columns", "turned" (that, transposed), "transposed", "square", "square at the end"
    scale: str = "none"  # "range", "maximum", "sum" (of each map)
    images: str = "own"  # "first", "one"
    calls: str = "own"  # "first"
    residual: bool = True
    scaled: str = "rows"  # "columns"
    product: str = "forward"  # "reversed"


@dataclass(frozen=True)
class Bug:
    """A mistake of public code.

    Attributes:
        name: how a report calls it.
        what: what goes wrong, in a sentence.
        thread: where it is reported or can be seen.
        steps: what a function with this bug does otherwise, as fields of `Steps`; any one of these.
        of: "map", "rollout", or "both", what it can happen to.
    """

    name: str
    what: str
    thread: str
    steps: tuple[dict[str, Any], ...]
    of: str = "both"


_GITHUB = "https://github.com/"
BUGS = {
    bug.name: bug
    for bug in (
        Bug(
            "raw embeddings",
            "Block L is applied to the embeddings, as if no block came before it.",
            "DynamicTokenLocViT, the script that draws a layer's maps",
            ({"stream": "embeddings"},),
        ),
        Bug(
            "last block",
            "The last block's map is returned, whichever is asked for.",
            "DINO's visualize_attention.py has no other: " + _GITHUB + "facebookresearch/dino",
            ({"block": "last"},),
            "map",
        ),
        Bug(
            "reversed blocks",
            "A list that a backward pass has filled is read as if a forward pass had: block 0 is the last.",
            _GITHUB + "jacobgil/vit-explain/issues/6",
            ({"block": "reversed"},),
            "map",
        ),
        Bug(
            "another input",
            "Queries and keys are made of something else than the block's normalised input, such as the MLP's input.",
            _GITHUB + "mashaan14/VisionTransformer-MNIST/issues/1",
            (
                {"gain": 4.0},
                {"gain": 4 / DIM},
            ),  # the second norm has a weight of 2; the stream is shorter than its norm
        ),
        Bug(
            "scale",
            "Scores are divided by the root of the full width, as if each head had all of it, or by nothing.",
            _GITHUB + "keras-team/keras-io/issues/1907",
            ({"gain": HEADS**-0.5}, {"gain": HEAD_DIM**0.5}),
        ),
        Bug(
            "softmax",
            "The softmax runs over the queries, or there is none: a token's attention does not sum to 1.",
            _GITHUB + "nerminnuraydogan/vision-transformer/issues/1",
            ({"axis": -2}, {"axis": None}),
        ),
        Bug(
            "number of heads",
            "The weights are loaded into a model with twice the heads, which fits them, and computes something else.",
            "DynamicTokenLocViT, which trains with 6 heads and draws with 12",
            ({"heads": "twice", "stream": "of the block"},),
            "map",
        ),
        Bug(
            "rows for heads",
            "The first rows of one head's matrix are shown as if they were the heads' maps.",
            "Probing ViTs, notebook of DINO's heads: " + _GITHUB + "sayakpaul/probing-vits",
            ({"heads": "rows"},),
            "map",
        ),
        Bug(
            "registers as patches",
            "Registers are not skipped, or are cut off at the other end: patches move on and the last are lost.",
            _GITHUB + "facebookresearch/dinov2/issues/90",
            ({"registers": True},),
        ),
        Bug(
            "patches begin a token early",
            "The class token, or the register before the patches, is counted among them: all move on by one.",
            _GITHUB + "lucidrains/vit-pytorch/issues/226",
            ({"cls": True},),
        ),
        Bug(
            "rows and columns",
            "The grid is filled with its height and width exchanged, which a square image hides.",
            _GITHUB + "facebookresearch/dino/issues/180",
            ({"grid": "columns"}, {"grid": "turned"}, {"grid": "transposed"}),
        ),
        Bug(
            "square grid",
            "The grid's side is the root of the number of patches, and what does not fit is dropped.",
            _GITHUB + "lucidrains/vit-pytorch/issues/219",
            ({"grid": "square"}, {"grid": "square at the end", "registers": False, "cls": False}),
        ),
        Bug(
            "own scale",
            "Each map is scaled by its own range, maximum or sum: a head that ignores the patches is as bright as any.",
            _GITHUB + "huggingface/transformers.js-examples (attention-visualization)",
            ({"scale": "range"}, {"scale": "maximum"}, {"scale": "sum"}),
        ),
        Bug(
            "first image",
            "A batch is given, and the first image's map is returned, for all of them or alone.",
            _GITHUB + "hila-chefer/Transformer-Explainability/issues/22",
            ({"images": "first"}, {"images": "one"}),
        ),
        Bug(
            "first call",
            "Hooks are never removed and lists never emptied: a second call returns the first one's maps.",
            _GITHUB + "jacobgil/vit-explain/blob/main/vit_rollout.py",
            ({"calls": "first"},),
        ),
        Bug(
            "fused attention",
            "The hook sits on a matrix that fused attention never makes: nothing is returned.",
            _GITHUB + "jacobgil/vit-explain/issues/23",
            (),
        ),
        Bug(
            "no skip connection",
            "Attention is multiplied without the identity that stands for the skip connection.",
            _GITHUB + "google-research/vision_transformer/issues/18",
            ({"residual": False},),
            "rollout",
        ),
        Bug(
            "columns scaled",
            "A sum over a row has lost its axis (keepdim), so that columns are divided by it.",
            _GITHUB + "jacobgil/vit-explain/issues/16",
            ({"scaled": "columns"},),
            "rollout",
        ),
        Bug(
            "reversed product",
            "Blocks are multiplied in the other order, as a list has them that a backward pass has filled.",
            _GITHUB + "jacobgil/vit-explain/issues/6",
            ({"product": "reversed"},),
            "rollout",
        ),
    )
}
