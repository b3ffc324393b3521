"""Pages that are tables: what each configuration and each recipe holds, from the code, and how to cite this commit."""

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import yaml

from book.tools.project import Project
from dtl_lib.config import ViTConfig, configurations
from dtl_lib.train.recipe import Recipe, recipes

RECIPES = {
    "One for each data set": ("shapes", "cifar10", "cifar100", "imagenet"),
    "CIFAR-10 on a GPU": ("cifar10_fast", "cifar10_full"),
    "From papers": ("deit", "cait", "deit3"),
}
ENTRY = """```bibtex
@software{{dynamic_token_location,
  author  = {{{author}}},
  title   = {{{{{title}}}}},
  year    = {{{year}}},
  version = {{{version}}},
  url     = {{{url}}},
  note    = {{commit {commit}}}
}}
```"""


def models() -> str:
    """Every named configuration: size, tokens, parameters and multiply–adds."""
    head = (
        "model", "width", "blocks", "heads", "parameters, M", "multiply–adds, G", "image", "patch", "other tokens",
    )  # fmt: skip
    return table(head, (_model(name, config) for name, config in sorted(configurations().items())))


def _model(name: str, config: ViTConfig) -> Sequence:
    cost, blocks = config.cost(), f"{config.depth}"
    blocks += f" + {config.plan.class_blocks}" if config.plan.class_blocks else ""
    numbers = f"{cost.parameters / 1e6:.2f}", f"{cost.total / 1e9:.3g}"
    size = config.size[0], config.patch_size
    return f"`{name}`", config.dim, blocks, config.heads, *numbers, *size, _tokens(config)


def _tokens(config: ViTConfig) -> str:
    groups = (f"{group.tokens} × {group.name}" if group.tokens > 1 else group.name for group in config.plan.groups)
    return ", ".join(groups) or "none"


def recipe_tables() -> str:
    """What each recipe sets, in tables of recipes that are compared; and the defaults."""
    known, default = recipes(), Recipe(max_steps=1)
    parts = []
    for title, names in _groups(known).items():
        chosen = [known[name] for name in names]
        shown = [
            field.name
            for field in fields(Recipe)
            if any(getattr(recipe, field.name) != getattr(default, field.name) for recipe in chosen)
            and any(getattr(recipe, field.name) is not None for recipe in chosen)
        ]
        rows = ([f"`{name}`", *(value(getattr(recipe, name)) for recipe in chosen)] for name in shown)
        parts.append(f"### {title}\n\n" + table(["field", *(f"`{name}`" for name in names)], rows))
    defaults = ([f"`{field.name}`", value(field.default), field.metadata["help"]] for field in fields(Recipe))
    default_table = table(("field", "default", "what it is"), defaults)
    return "\n\n".join(
        [*parts, f"### Defaults\n\nA field that a recipe does not set has its default.\n\n{default_table}"]
    )


def _groups(known: Iterable[str]) -> dict[str, tuple[str, ...]]:
    others = tuple(name for name in known if not any(name in names for names in RECIPES.values()))
    return {**RECIPES, **({"Others": others} if others else {})}


def value(given) -> str:
    """A field's value as it is written on the command line."""
    match given:
        case None:
            return "none"
        case bool():
            return "on" if given else "off"
        case float():
            return f"{given:g}"
        case tuple():
            return " ".join(map(value, given))
    return str(given)


def table(head: Sequence, rows: Iterable[Sequence]) -> str:
    """A Markdown table; cells are Markdown of one line."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def citation(project: Project) -> str:
    """A BibTeX entry for the book at the commit that is checked out."""
    cff = yaml.safe_load((project.root / "CITATION.cff").read_text("utf8"))
    return ENTRY.format(
        author=" and ".join(f"{{{author['name']}}}" for author in cff["authors"]),
        title=cff["title"],
        year=cff["date-released"].year,
        version=cff["version"],
        url=project.address,
        commit=commit(project.root),
    )


def commit(root: Path) -> str:
    """The commit that is checked out; "unknown" in a copy without git."""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
