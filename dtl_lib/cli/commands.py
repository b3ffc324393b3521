"""The commands there are: each is a module with `SUMMARY`, `flags(parser)` and `main(args)`."""

from . import atlas, attention, bench, evaluate, plan, predict, probe, train, video, zoo

COMMANDS = {
    "plan": plan,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "attention": attention,
    "video": video,
    "probe": probe,
    "bench": bench,
    "atlas": atlas,
    "zoo": zoo,
}
