"""The zoo: small trained models that come with the library, each with a card that says where it is from.

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
AGAIN = "install the library again"
LIMIT = 25_000_000  # bytes of all files together: they are part of every install
ROUNDING = 0.05  # what float16 may move a logit by
SAMPLE = 300  # first test images that a card states the right answers of, so that a test can count them again
NUMBER = (int, float)
CARD = {  # what a card holds, and of which type; a dotted name is inside another
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
    "sample.n": int,  # the first so many test images …
    "sample.right": int,  # … of which so many are classified right
    "before_rounding.accuracy": NUMBER,  # of the float32 weights that were trained, on the same test images
    "before_rounding.logits": NUMBER,  # the farthest that rounding moves a logit on the sample
    "device": str,  # that trained it
    "minutes": NUMBER,  # wall time of the training
    "date": str,
    "library": str,
    "torch": str,
    "digest": str,
    "seal": str,
}


def names() -> list[str]:
    """Every model there is, as `load_pretrained` takes it."""
    return sorted(f"{PREFIX}{file.stem}" for file in FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """The file of a model's weights.

    Args:
        name: such as `zoo/shapes_depth12_cls3`.

    Raises:
        ValueError: where there is none of that name, with those near it.
    """
    stem = name.removeprefix(PREFIX).removesuffix(".safetensors")
    have = [known.removeprefix(PREFIX) for known in names()]
    if stem not in have:
        near = difflib.get_close_matches(stem, have, n=4, cutoff=0.5)
        known = ", ".join(PREFIX + other for other in near or have) or "nothing yet"
        raise ValueError(f"the zoo has no {name!r}; {'near it:' if near else 'it has'} {known}")
    return FOLDER / f"{stem}.safetensors"


def read_card(name: str) -> dict:
    """What a model's card says, from the file beside its weights.

    Raises:
        ValueError: where there is no such model, or its card is missing, damaged, incomplete or another model's.
    """
    file = path(name)
    beside = file.with_name(f"{file.stem}.json")
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"{beside} is missing: a model of the zoo has its card beside it; {AGAIN}") from None
    except ValueError:
        card = None
    if not isinstance(card, Mapping) or not card.get("seal") or not seal_holds(card):
        raise ValueError(f"{beside} is damaged: the card is not the one that was saved; {AGAIN}")
    check(card, file.stem)
    return card


def check(card: Mapping, name: str) -> None:
    """A ValueError that names the first thing a card of the zoo should say and does not."""
    for field, kind in CARD.items():
        value = card
        for part in field.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kind) or isinstance(value, bool) or value == "":
            raise ValueError(f"the card of {PREFIX}{name} does not say its {field}: add it again")
    if card["zoo"] != name:
        raise ValueError(f"{PREFIX}{name} holds the model {PREFIX}{card['zoo']}: {AGAIN}")
    if card["plan"] != (told := words(ViTConfig.from_dict(card["config"]).plan)):
        raise ValueError(f"the card of {PREFIX}{name} says {card['plan']!r}, and its configuration {told!r}")


def words(plan: TokenPlan) -> str:
    """A plan in one line: `class token at 3, 4 registers at 0`."""
    told = [_told(group) for group in plan.groups]
    if plan.group("cls") is None:
        told.insert(0, f"no class token: the mean of the {PATCHES} is read")
    if not set(group.name for group in plan.groups) - set(READ_BY_HEAD):
        told.append("no registers")
    if plan.class_blocks:
        told.append(f"{plan.class_blocks} class-attention block{'s' * (plan.class_blocks > 1)}")
    return ", ".join(told)


def _told(group: Group) -> str:
    what = {"cls": "class token", "dist": "distillation token"}.get(group.name)
    what = what or f"{group.tokens} register{'s' * (group.tokens > 1)}"
    until = "" if group.leave is None else f" until {group.leave}"
    return f"{what} at {group.enter}{until}"
