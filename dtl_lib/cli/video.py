"""`dtl video`: what a token attends to, over every frame of a video."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace

from .attention import add_force, add_looked_into, looked_into
from .parser import Parser, number, positive, whole
from .questions.answers import model_called
from .shared_flags import query

SUMMARY = "Write a video of what a token attends to, over another video or a folder of frames."


def flags(parser: Parser) -> None:
    """Which frames, which model, which token, and what is written."""
    text = "a video of this machine, or a folder of frames, which are taken in the order of the numbers in their names"
    parser.add_argument("source", nargs="?", metavar="VIDEO|DIR", help=text)
    add_looked_into(parser)
    parser.add_argument(
        "--query", type=query, metavar="TOKEN",
        help="which token attends: cls, dist, reg:2, patch:4,7 (row, column), or patches (their mean) (default: cls, "
        "or patches where it is not there)",
    )  # fmt: skip
    parser.add_argument(
        "--head", type=head, default="mean", metavar="mean|all|N", help="the heads' mean, all in a grid, or one of them"
    )
    text = "frames in a batch (default: 8)"
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help=text)
    output = parser.add_argument_group("output")
    output.add_argument("--output", metavar="FILE.mp4", help="the video to write, without sound")
    text = "the frame beside its maps, or the maps over it alone (default: side-by-side)"
    output.add_argument("--layout", choices=("side-by-side", "overlay"), default="side-by-side", help=text)
    text = "attention at which the colours end (default: 99.5 %% of a sample of frames lies below)"
    output.add_argument("--scale", type=number, metavar="X", help=text)
    text = "frames a second of a folder (default: 24); a video keeps its own times"
    output.add_argument("--fps", type=number, metavar="X", help=text)
    add_force(output)


def head(text: str) -> int | str:
    """`mean`, `all` or a number."""
    try:
        return text if text in ("mean", "all") else whole(text)
    except ArgumentTypeError:
        raise ArgumentTypeError(f"give mean, all or the number of a head, not {text!r}") from None


def main(args: Namespace) -> None:
    """Write the video; at the end, raise a ValueError that says what could not be read."""
    from ..outputs import attention_video
    from ..progress import progress_bar

    if not args.source or not args.output:
        raise ValueError("say what to read and what to write: dtl video clip.mp4 --output maps.mp4 --model-path FILE")
    model, block = looked_into(args)

    def progress(count: int | None):
        bar = progress_bar(count, "frame", shown=not args.quiet, leave=False)
        return lambda done: bar.update(len(done))

    written = attention_video(
        model, args.source, args.output, block, args.query, args.head, args.layout, args.scale,
        getattr(args, "image_size", None), args.fps, args.batch_size, args.force, progress,
        model_called(args),
    )  # fmt: skip
    rows, columns = written.grid
    frames = f"{written.frames:,} frame{'s' * (written.frames > 1)}"
    print(f"{args.output}: {frames}, {rows}×{columns} patches, colours from 0 to {written.high:.3g}")
    if written.problems:
        first, *others = written.problems
        more = f" (and {len(others)} more)" if others else ""
        raise ValueError(f"{first}{more}; {args.output} holds what could be read")
