"""Training: a `Recipe` says how, `fit` is the loop, `evaluate` measures."""

_HOME = {"Recipe": "recipe", "recipes": "recipe", "fit": "loop", "Fit": "loop", "evaluate": "evaluation",
         "Evaluation": "evaluation", "wilson": "evaluation", "token_norms": "evaluation"}  # fmt: skip
__all__ = list(_HOME)


def __getattr__(name: str):
    """`Recipe` without torch: the command line lists its fields before anything heavy is imported."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
