"""A seal on a card: a hash of all that it says, so that a card changed by hand or by a bad disk is noticed."""

import hashlib
import json
from collections.abc import Mapping


def seal(card: Mapping) -> str:
    """Twelve hexadecimal digits that change with anything the card says, apart from the seal it bears."""
    rest = json.loads(json.dumps({name: value for name, value in card.items() if name != "seal"}))
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:12]


def is_whole(card: Mapping) -> bool:
    """Whether a card is as it was sealed; one from before there were seals is taken as it is."""
    return card.get("seal") in (None, seal(card))
