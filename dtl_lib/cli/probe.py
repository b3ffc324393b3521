"""`dtl probe`: a question asked of a trained model, on images.

A question is a row of `QUESTIONS`: what it asks, its flags, and functions of the model, of a tape, or of the average
over images. Reading images, progress and files are the same for all.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field

from .. import probes
from ..config import ViTConfig
from .parser import Parser, add_field, below_one, fraction, positive, whole
from .questions import drawn, found, outliers
from .questions.answers import FORMATS
from .questions.entry import BEFORE, WAYS
from .questions.kinds import OfEach, OfEntry, OfWeights, OverImages, Question, Together
from .shared_flags import add_data, add_machine, add_record, add_weights, query

SUMMARY = "Ask a trained ViT a question: where it looks, what its tokens say, what its weights hold."
CONTROL = 64  # images on which the untrained model is measured

FEATURES = ("features", "bias")
MAP = ("query", "fuse", "discard", "residual")
QUESTIONS: dict[str, Question] = {
    "entry": OfEntry(
        "what is left when a group of tokens enters later, or leaves early",
        ("unlabelled", "group", "blocks", "ways", "before", "seed", "record"),
    ),
    "rollout": OfEach(
        "what reaches a token through the attention of all blocks",
        MAP,
        drawn.through_all_blocks(drawn.rollout, drawn.ROLLOUT),
    ),
    "gradient-rollout": OfEach(
        "rollout of attention times its gradient: which patches speak for a class",
        (*MAP, "class"),
        drawn.through_all_blocks(drawn.gradient_rollout, "gradient rollout"),
        gradient=True,
    ),
    "relevance": OfEach(
        "which patches speak for a class (Chefer et al.)",
        ("query", "class"),
        drawn.through_all_blocks(drawn.relevance, drawn.RELEVANCE),
        gradient=True,
    ),
    "lens": OfEach("what the head says of each token after each block", ("class",), drawn.lens, table=True),
    "pca": OfEach("the directions along which patches differ most, as colours", FEATURES, found.pca),
    "lost": OfEach("one box around an object, found without labels (LOST)", FEATURES, found.lost),
    "distance": OverImages(
        "how far each head looks, in pixels",
        ("original",),
        lambda tape, args: {
            ("distance_original" if args.original else "distance", block): probes.mean_attention_distance(
                tape, block, not args.original
            )
            for block in range(tape.plan.depth)
        },
        "mean attention distance, pixels",
        control=CONTROL,
        stream=False,
    ),
    "flow": OverImages(
        "what attention class token, registers and patches give and receive",
        (),
        drawn.flow,
        "share of attention",
        draw=drawn.flow_figure,
        stream=False,
    ),
    "outliers": Together(
        "which patches are far longer than the others, from which block on, and what for", (), outliers.outliers
    ),
    "filters": OfWeights("the filters that make tokens of patches, as images", (), drawn.filters, table=True),
    "positions": OfWeights("how alike the positions are", (), drawn.positions, sized=True),
}


@dataclass(frozen=True)
class Flag:
    """A flag of some questions alone.

    Args:
        text: for the help.
        default: where it is not given.
        said: the default in words; as it is where None.
        options: argparse's.
    """

    text: str
    default: object = None
    said: str | None = None
    options: dict = field(default_factory=dict)


_WAYS = "; ".join(f"{way}: {text}" for way, text in WAYS.items())
FLAGS = {
    "group": Flag("which tokens: cls, reg, …", "cls", options={"metavar": "NAME"}),
    "blocks": Flag(
        "before which blocks", said="all that have the group", options={"type": whole, "nargs": "+", "metavar": "N"}
    ),
    "ways": Flag(_WAYS, [*WAYS], "all", {"choices": WAYS, "nargs": "+"}),
    "before": Flag(
        "absent, present: whether the blocks before run without the group, or with it as in the untouched model",
        [*BEFORE], "both", {"choices": BEFORE, "nargs": "+"},
    ),
    "seed": Flag("of the images drawn for shuffle", 0, options={"type": whole, "metavar": "N"}),
    "unlabelled": Flag(
        "use no classes: no accuracy; without --data, every image below --data-path", False, "",
        {"action": "store_const", "const": True},
    ),
    "query": Flag(
        "whose map: cls, dist, patches (their mean), reg:2 or patch:4,7 (row, column)",
        said="cls, or patches without one; where a class is asked about, what the head reads",
        options={"type": query, "metavar": "TOKEN"},
    ),
    "fuse": Flag("how heads become one", "mean", options={"choices": ("mean", "max", "min")}),
    "discard": Flag("share of the smallest weights of a row that are set to 0", 0.0,
                    options={"type": below_one, "metavar": "X"}),
    "residual": Flag("weight of the skip connection", 0.5, options={"type": fraction, "metavar": "X"}),
    "class": Flag("which class, by number or by name", said="the likeliest of each image",
                  options={"metavar": "CLASS", "dest": "class_"}),
    "features": Flag("which features of the last block: queries, keys, values or tokens",
                     said="token for pca, k for lost", options={"choices": found.KINDS}),
    "bias": Flag("as learned, without the projection's, or with the mean of the image's patches subtracted", "centre",
                 options={"choices": found.BIASES}),
    "original": Flag(
        "leave the rows as they are without the other tokens' columns, as published figures do", False, "",
        {"action": "store_const", "const": True},
    ),
}  # fmt: skip


def flags(parser: Parser) -> None:
    """Which question, of which model, on which images."""
    text = "; ".join(f"{name}: {question.asks}" for name, question in QUESTIONS.items())
    parser.add_argument("question", nargs="?", choices=QUESTIONS, metavar="QUESTION", help=text)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a name of timm's, a checkpoint of ours, or zoo/…")
    add_weights(parser, "MODEL")
    text = "images, and folders of images (default: those of the data set, or a bundled photo)"
    parser.add_argument("images", nargs="*", metavar="IMAGE|DIR", help=text)
    images = parser.add_argument_group("images")
    add_data(images, "data set (default: the one that the model was trained on; imagenet for a model of timm's)")
    parts = ("test", "held_out", "train")
    images.add_argument("--part", choices=parts, help="which part of the data set (default: test)")
    text = "how many images of a data set: 1,000 are averaged over, 1 is looked at by itself, entry takes all"
    images.add_argument("--samples", type=positive, metavar="N", help=text)
    add_field(images, "image_size", ViTConfig.__annotations__["image_size"], "height and width of an image in pixels")
    text = "images in a batch (default: 64, or fewer where the attention of a block would take over 256 MiB)"
    images.add_argument("--batch-size", type=positive, metavar="N", help=text)
    files = parser.add_argument_group("files")
    files.add_argument("--output-dir", default=".", metavar="DIR", help="where figures and numbers go (default: .)")
    files.add_argument("--format", choices=FORMATS, default="png", help="of figures (default: png)")
    files.add_argument("--force", action="store_true", help="replace files that are there")
    groups = {}
    for name, flag in FLAGS.items():
        asked = ", ".join(question for question, row in QUESTIONS.items() if name in row.flags)
        if asked not in groups:
            groups[asked] = parser.add_argument_group(f"dtl probe {asked}")
        said = str(flag.default) if flag.said is None else flag.said
        text = f"{flag.text} (default: {said})" if said else flag.text
        groups[asked].add_argument(f"--{name}", default=None, help=text, **flag.options)
    add_record(groups["entry"])
    add_machine(
        parser, max_corrupt=None, said="0.001 for entry; otherwise all, with exit status 2 at the end where one was"
    )


def main(args: Namespace) -> None:
    """Load the model, and ask."""
    from ..pretrained import load_pretrained
    from ..train.evaluation import check_weights

    if not args.question:
        raise ValueError("say what to ask, and which model: dtl probe entry MODEL --data-path DIR")
    question = QUESTIONS[args.question]
    if not args.model:
        images = {OfEntry: " --data-path DIR", OfWeights: ""}.get(type(question), " IMAGE|DIR")
        raise ValueError(f"say which model: dtl probe {args.question} MODEL{images}")
    _settle(args, question)
    model = load_pretrained(args.model, weights=args.weights).eval()
    check_weights(model)
    question.run(args, model)


def _settle(args: Namespace, question: Question) -> None:
    """Put the defaults in place of flags that were not given; a ValueError for one of another question."""
    for name, flag in FLAGS.items():
        place = flag.options.get("dest", name)
        given = getattr(args, place)
        if given is not None and name not in question.flags:
            *others, last = (other for other, row in QUESTIONS.items() if name in row.flags)
            of = f"{', '.join(others)} and {last}" if others else last
            raise ValueError(f"--{name} is a flag of dtl probe {of}: leave it out")
        setattr(args, place, flag.default if given is None else given)
    if args.record and "record" not in question.flags:
        raise ValueError("--record is a flag of dtl probe entry: leave it out")
    if args.question == "entry":
        args.batch_size, args.max_corrupt = (
            args.batch_size or 64,
            0.001 if args.max_corrupt is None else args.max_corrupt,
        )
