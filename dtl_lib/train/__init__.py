"""Training: a `Recipe` says how, `fit` is the loop, `evaluate` measures."""

_MODULES = {
    "evaluation": ("Evaluation", "evaluate", "token_norms", "wilson"),
    "loop": ("fit",),
    "recipe": ("Recipe", "recipes"),
    "result": ("FitResult",),
    "stop": ("Stopped",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = list(_HOME)


def __getattr__(name: str):
    """`Recipe` without torch: the command line lists its fields before anything heavy is imported."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
