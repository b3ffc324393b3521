"""The commands there are: each is a module with `SUMMARY`, `flags(parser)` and `main(args)`."""

from . import atlas, bench, evaluate, plan, predict, train, zoo

COMMANDS = {
    "plan": plan,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "bench": bench,
    "atlas": atlas,
    "zoo": zoo,
}
