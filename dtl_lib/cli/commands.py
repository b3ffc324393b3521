"""The commands there are: each is a module with `SUMMARY`, `flags(parser)` and `main(args)`."""

from . import (
    atlas,
    attention,
    audit,
    bench,
    evaluate,
    explore,
    export,
    plan,
    predict,
    probe,
    registers,
    train,
    video,
    zoo,
)

COMMANDS = {
    "plan": plan,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "attention": attention,
    "video": video,
    "explore": explore,
    "export": export,
    "probe": probe,
    "audit": audit,
    "registers": registers,
    "bench": bench,
    "atlas": atlas,
    "zoo": zoo,
}
