"""Which images a card says a model was trained on. A card may be a stranger's: it never decides what is run or fetched.

Other libraries' readers fetch from the network, and some openers run what a path says. So a card may name one of our
own sources, and a folder of this machine that is there; everything else has to come from the user.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from ..checks import check_types, shortened
from ..paths import require
from .sources import SOURCES


@dataclass(frozen=True)
class Saved:
    """The arguments of `data.load` on a card, under `run.data`."""

    name: str
    path: str | None = None
    level: int = 1
    samples: int | None = None

    def __post_init__(self):
        check_types(self)


def saved_images(card: Mapping, name: str | None = None, path: str | None = None) -> dict:
    """The arguments of `data.load` on a card; none where the user asks for another data set, or the card names none.

    Args:
        card: of a checkpoint or a training state.
        name, path: what the user has given, which counts more.

    Raises:
        ValueError: where the card says what it may not: values of other types, a data set that is not one of ours and
            not named by the user, or a folder that is not there.
    """
    run = card.get("run") or {}
    data = run.get("data") if isinstance(run, Mapping) else run
    if data is None or (name and (not isinstance(data, Mapping) or data.get("name") != name)):
        return {}
    known = [field.name for field in fields(Saved)]
    try:
        if not isinstance(data, Mapping) or "name" not in data or not set(data) <= set(known):
            raise ValueError(f"a dictionary of {', '.join(known)} was expected, not {shortened(data)}")
        saved = Saved(**data)
    except ValueError as error:
        raise ValueError(f"its card does not say which images (run.data: {error}): give --data NAME") from None
    if saved.name not in SOURCES:
        if not name:
            raise ValueError(
                f"its card names the data set {saved.name!r}, which another library would read or fetch: if that is "
                f"what you want, give --data {saved.name} yourself"
            )
        if saved.path is not None and path is None:
            raise ValueError(f"its card says that {name} is in {saved.path}: if so, give --data-path yourself")
    elif saved.path is not None and path is None:
        require(saved.path, "a folder", "its card says that the images are there: give --data-path DIR")
    return asdict(saved)
