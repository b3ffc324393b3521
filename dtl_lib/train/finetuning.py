"""What fine-tuning is given beside a learning rate: which parameters learn, and how fast each layer does."""

import fnmatch

from torch import nn

from .recipe import Recipe


def layer_scales(model, decay: float) -> dict[str, float]:
    """Layer-wise learning-rate decay: by name, what multiplies a parameter's learning rate (BEiT, Bao et al. 2022,
    appendix; Clark et al. 2020, ELECTRA, §3.1).

    Block b of B has decay^(B − b), patches and positions decay^(B + 1), the last norm and the classifiers 1. A token
    that enters before block b stands as deep as what that block is given, and has decay^(B + 1 − b). BEiT and MAE count
    alike, where every token enters before block 0; timm gives the last norm what the last block has.

    Args:
        model: a `ViT`.
        decay: from above 0 to 1.
    """
    depth, scales = model.plan.blocks, {}
    for name, _ in model.named_parameters():
        part, _, rest = name.partition(".")
        if part == "blocks":
            layer = int(rest.partition(".")[0]) + 1
        elif part == "tokens":
            layer = model.plan.group(rest).enter
        else:
            layer = 0 if part in ("patch_embed", "positions") else depth + 1
        scales[name] = decay ** (depth + 1 - layer)
    return scales


def freeze(model: nn.Module, recipe: Recipe) -> None:
    """Let the parameters that the recipe names not learn.

    Raises:
        ValueError: for a pattern that no parameter's name fits.
    """
    names = dict(model.named_parameters())
    for pattern in recipe.freeze.split(",") if recipe.freeze else ():
        if pattern.strip() == "backbone":
            fit = [name for name in names if not name.startswith("classifiers.")]
        else:
            fit = fnmatch.filter(names, pattern.strip())
        if not fit:
            parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise ValueError(
                f"no parameter is called {pattern.strip()!r}: names begin with {parts} (blocks.0.* is a block)"
            )
        for name in fit:
            names[name].requires_grad_(False)
