"""The commands there are: each is a module with `SUMMARY`, `flags(parser)` and `main(args)`."""

from . import atlas, bench, evaluate, plan, predict, probe, train, zoo

COMMANDS = {
    "plan": plan,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "probe": probe,
    "bench": bench,
    "atlas": atlas,
    "zoo": zoo,
}
