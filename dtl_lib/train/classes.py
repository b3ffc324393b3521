"""Which of a model's classes each class of a data set is: by name, as each folder numbers its own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import one_line, shortened

SYNSET = re.compile(r"n\d{8}")
LISTED = 5  # names in a message


@dataclass(frozen=True)
class ClassMatch:
    """How a data set's classes are a model's.

    Attributes:
        numbers: the model's number of each of the data's classes, int64 (classes,), -1 for one without images that the
            model does not have; None where the numbers are the same.
        notes: what a reader has to know of it, a line each.
    """

    numbers: Tensor | None = None
    notes: tuple[str, ...] = ()


def class_names(model) -> tuple[str, ...] | None:
    """What a model's card calls its classes, by index; WordNet ids where it has as many as an ImageNet; None: unknown.

    Raises:
        ValueError: where the card names more or fewer than the model has, or what it has is no text.
    """
    card, classes = _card(model), model.config.classes
    if (names := card.get("classes")) is None:
        return _synsets(classes) if not card or _data_set(card) == "imagenet" else None
    if not _texts(names):
        raise ValueError("the names of the model's classes on its card are no list of text: was it changed by hand?")
    if len(names) != classes:
        raise ValueError(f"the model's card names {len(names)} classes and the model has {classes}: save it again")
    return tuple(names)


def match_classes(model, images, names: Sequence[str] | None = None) -> ClassMatch:
    """Find the classes of a data set among a model's.

    Args:
        model: a `ViT`.
        images: a part of a data set.
        names: of the model's classes; as `class_names` says where None.

    Raises:
        ValueError: for a class that the model does not have, and for names that are not one for each of its classes.
    """
    theirs, count = images.class_ids, model.config.classes
    if names is not None and not (_texts(names) and len(names) == count):
        raise ValueError(f"the model has {count} classes: give a list of as many names, not {shortened(names)}")
    known = names if names is not None else class_names(model)
    if known is not None and tuple(known) == theirs:
        return ClassMatch(notes=_missing(images, range(count), known))
    # a number is what a shard says, and means the model's, but for a model whose classes are called by numbers: folders
    # are sorted as text, so that its third of twelve is 10
    if _numbers(theirs) and len(theirs) <= count and not set(theirs) & set(known or ()):
        said = known is not None
        return ClassMatch(notes=(f"{images.name} has numbers for classes: taken as the model's",) if said else ())
    if known is None or (_numbers(known) and len(theirs) == count):
        return _by_number(model, images)
    inferred = names is None and "classes" not in _card(model)
    if inferred and images.identities is None and len(theirs) == count and not set(theirs) & set(known):
        return _by_number(model, images)
    return _by_name(images, tuple(known), theirs)


def check_teacher(teacher, images) -> None:
    """A ValueError where a teacher numbers its classes otherwise than the images do; None is no teacher."""
    names = class_names(teacher.model) if hasattr(getattr(teacher, "model", None), "plan") else None
    theirs = images.class_ids
    if names is None or names == theirs:
        return
    if set(names) & set(theirs) or not (_numbers(names) or _numbers(theirs)):
        if "classes" in _card(teacher.model) or images.identities is not None:
            raise ValueError(
                f"the teacher's classes are {_listed(names)} and those of {images.name} {_listed(theirs)}: "
                "choose a teacher of the same classes, in the same order"
            )


def shown_names(names: Sequence[str]) -> list[str]:
    """Names for readers, each in one line: timm's words for WordNet ids."""
    if not any(SYNSET.fullmatch(name) for name in names):
        return list(map(one_line, names))
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return [_words(info, name) for name in names]


def _words(info, name: str) -> str:
    try:
        return f"{info.label_name_to_description(name)} ({name})"
    except KeyError:
        return one_line(name)


def _card(model) -> dict:
    return getattr(model, "card", None) or {}


def _data_set(card) -> str | None:
    """The name of the data set that a model was trained on."""
    data = card.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    return name.rpartition(" ")[0] if isinstance(name, str) else None


def _synsets(classes: int) -> tuple[str, ...] | None:
    """The WordNet ids of the ImageNet that has so many classes, in the order of published weights."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    return subset and tuple(ImageNetInfo(subset).label_names())


def _texts(names) -> bool:
    return isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)


def _numbers(names: Sequence[str]) -> bool:
    return all(name == str(number) for number, name in enumerate(names))


def _by_number(model, images) -> ClassMatch:
    """Where names say nothing: as many classes are taken to be the same ones, in the same order."""
    count, theirs = model.config.classes, len(images.classes)
    if count < theirs:
        raise ValueError(f"the model has {count} classes and {images.name} {theirs}: build it with classes={theirs}")
    card = _card(model)
    same = _data_set(card) == images.name.rpartition(" ")[0] != "folder"
    if same or (not card and theirs == count and class_names(model) is None):
        return ClassMatch()
    if theirs < count:
        raise ValueError(
            f"{images.name} has {theirs} classes and the model {count}, whose names nothing says: which of them they "
            "are cannot be told; evaluate on a data set with all of them, or train again, for names on the card"
        )
    return ClassMatch(
        notes=(
            f"nothing says what the model's classes are called: those of {images.name} are taken for them by number",
        )
    )


def _by_name(images, known: tuple[str, ...], theirs: tuple[str, ...]) -> ClassMatch:
    places: dict[str, int] = {}
    for number, name in enumerate(known):
        if places.setdefault(name, number) != number and name in theirs:
            raise ValueError(f"the model has two classes called {name!r}, and {images.name} one: which cannot be told")
    numbers = torch.tensor([places.get(name, -1) for name in theirs])
    present = images.present()
    looked_at = range(len(theirs)) if present is None else present.tolist()
    if strange := [theirs[number] for number in looked_at if numbers[number] < 0]:
        raise ValueError(
            f"the model does not have the class{'es' * (len(strange) > 1)} {_listed(strange)} of {images.name}; it has "
            f"{_listed(shown_names(known[:LISTED]), len(known))}: leave others out, or name them as the model does"
        )
    return ClassMatch(numbers, _missing(images, numbers.tolist(), known))


def _missing(images, numbers: Sequence[int], known: Sequence[str]) -> tuple[str, ...]:
    """A line on the model's classes that have no images here."""
    present = images.present()
    here = set(numbers) if present is None else {numbers[number] for number in present.tolist()}
    missing = [name for number, name in enumerate(known) if number not in here]
    if not missing:
        return ()
    return (f"{images.name} lacks {len(missing):,} of the model's {len(known):,} classes: {_listed(missing)}",)


def _listed(names: Sequence[str], count: int | None = None) -> str:
    """The first few names, and how many more of `count` there are."""
    rest = (count or len(names)) - LISTED
    return ", ".join(map(one_line, names[:LISTED])) + (f" and {rest:,} more" if rest > 0 else "")
