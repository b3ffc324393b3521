"""The zoo: small trained models that come with the library, each with a card about its origin and its accuracy.

`load_pretrained("zoo/NAME")` gives one; `dtl zoo` lists them; `python -m book.experiments.zoo` adds one.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path

from .config import ViTConfig
from .hashing import seal_holds
from .tokens import PATCHES, READ_BY_HEAD, Group, TokenPlan

FOLDER = Path(__file__).parent / "zoo"
PREFIX = "zoo/"
REMEDY = "install the library again"
LIMIT = 25_000_000  # bytes of all files together: they are part of every install
ROUNDING = 0.05  # the most that float16 may change a logit
SAMPLE = 300  # first test images whose right answers a card states, so that a test can count them again
NUMBER = (int, float)
CARD = {  # a card's fields and their types; a dotted name is inside another
    "zoo": str,  # its name
    "plan": str,  # in words
    "config": dict,
    "recipe": dict,
    "command": str,  # that trained it
    "seed": int,
    "data.name": str,  # what it was trained on
    "data.fingerprint": str,
    "test_data.name": str,
    "test_data.fingerprint": str,
    "run.data.name": str,  # with the rest of `run.data` the arguments of `data.load`
    "test.accuracy": NUMBER,  # of the weights as they are here, rounded to float16, on all test images
    "test.low": NUMBER,  # Wilson's 95 % interval
    "test.high": NUMBER,
    "test.n": int,
    "test.loss": NUMBER,
    "sample.n": int,  # how many of the first test images were classified …
    "sample.right": int,  # … and how many of them rightly
    "before_rounding.accuracy": NUMBER,  # of the float32 weights that were trained, on the same test images
    "before_rounding.logits": NUMBER,  # the largest change of a logit by rounding, on the sample
    "device": str,  # that trained it
    "minutes": NUMBER,  # wall time of the training
    "date": str,
    "library": str,
    "torch": str,
    "digest": str,
    "seal": str,
}


def names() -> list[str]:
    """Every model's name, as `load_pretrained` takes it."""
    return sorted(f"{PREFIX}{file.stem}" for file in FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """The file of a model's weights.

    Args:
        name: such as `zoo/shapes_depth12_cls3`.

    Raises:
        ValueError: where there is none of that name; the message lists similar ones.
    """
    stem = name.removeprefix(PREFIX).removesuffix(".safetensors")
    have = [known.removeprefix(PREFIX) for known in names()]
    if stem not in have:
        near = difflib.get_close_matches(stem, have, n=4, cutoff=0.5)
        listed = [PREFIX + other for other in near or have]
        hint = f"did you mean {' or '.join(listed)}?" if near else f"it has {', '.join(listed) or 'nothing yet'}"
        raise ValueError(f"the zoo has no {name!r}; {hint}")
    return FOLDER / f"{stem}.safetensors"


def read_card(name: str) -> dict:
    """What a model's card says, from the file beside its weights.

    Raises:
        ValueError: where there is no such model, or its card is missing, damaged, incomplete or another model's.
    """
    file = path(name)
    card_file = file.with_name(f"{file.stem}.json")
    try:
        card = json.loads(card_file.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"{card_file} is missing: a model of the zoo has its card beside it; {REMEDY}") from None
    except ValueError:
        card = None
    if not isinstance(card, dict) or not card.get("seal") or not seal_holds(card):
        raise ValueError(f"{card_file} is damaged: the card is not the one that was saved; {REMEDY}")
    check(card, file.stem)
    return card


def check(card: Mapping, name: str) -> None:
    """A ValueError that names the first field a card of the zoo lacks or contradicts."""
    for field, kind in CARD.items():
        value = card
        for part in field.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kind) or isinstance(value, bool) or value == "":
            raise ValueError(f"the card of {PREFIX}{name} does not say its {field}: add it again")
    if card["zoo"] != name:
        raise ValueError(f"{PREFIX}{name} holds the model {PREFIX}{card['zoo']}: {REMEDY}")
    if card["plan"] != (plan := describe(ViTConfig.from_dict(card["config"]).plan)):
        raise ValueError(f"the card of {PREFIX}{name} says {card['plan']!r}, and its configuration {plan!r}")


def describe(plan: TokenPlan) -> str:
    """A plan in one line: `class token at 3, 4 registers at 0`."""
    parts = [_describe_group(group) for group in plan.groups]
    if plan.group("cls") is None:
        parts.insert(0, f"no class token: the mean of the {PATCHES} is read")
    if not set(group.name for group in plan.groups) - set(READ_BY_HEAD):
        parts.append("no registers")
    if plan.class_blocks:
        parts.append(f"{plan.class_blocks} class-attention block{'s' * (plan.class_blocks > 1)}")
    return ", ".join(parts)


def _describe_group(group: Group) -> str:
    tokens = {"cls": "class token", "dist": "distillation token"}.get(group.name)
    tokens = tokens or f"{group.tokens} register{'s' * (group.tokens > 1)}"
    until = "" if group.leave is None else f" until {group.leave}"
    return f"{tokens} at {group.enter}{until}"
