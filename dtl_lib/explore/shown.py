"""What the page of the explorer shows: models as their cards describe them, and pictures."""

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from .. import data, zoo
from ..data.shapes import Shapes
from ..models import ViT
from ..pretrained import load_pretrained
from .page import Picture, Shown

TRAINED_ON = {  # how the name of a data set begins → what its images are, and their kind
    "shapes": ("rendered shapes of ten kinds", "shapes"),
    "cifar10 ": ("CIFAR-10, photos of 32×32 pixels in ten classes", "photo"),
    "cifar100": ("CIFAR-100, photos of 32×32 pixels in a hundred classes", "photo"),
    "imagenet": ("ImageNet’s photos", "photo"),
}


def described(name: str, model: ViT) -> Shown:
    """A model with what its card says: its plan, its training images, and how many test images it gets right."""
    card = getattr(model, "card", {})
    trained_on, test = _part(card, "data").get("name"), _part(card, "test").get("accuracy")
    what, kind = next(
        (said for begin, said in TRAINED_ON.items() if isinstance(trained_on, str) and trained_on.startswith(begin)),
        ("images that its card does not name" if card else "ImageNet’s photos", "photo"),
    )
    plan = zoo.describe(model.plan)
    right = f"; it gets {test:.0%} of the test images right" if isinstance(test, float) and 0 <= test <= 1 else ""
    return Shown(name, model, f"{plan[0].upper()}{plan[1:]}. Trained on {what}{right}.", kind)


def from_zoo(names: Mapping[str, str]) -> list[Shown]:
    """Models of the zoo.

    Args:
        names: in the zoo → on the page.
    """
    return [described(title, load_pretrained(f"{zoo.PREFIX}{name}").eval()) for name, title in names.items()]


def photos(names: Sequence[str]) -> list[Picture]:
    """Bundled photos."""
    return [Picture(data.PHOTOS[name].shows, data.photo(name), "photo") for name in names]


def shapes(numbers: Sequence[int]) -> list[Picture]:
    """Test images of `shapes`, each of the size and with the mean of the model that sees it."""
    _, classes = data.load("shapes").test.batch(list(numbers))
    names = [Shapes.classes[number] for number in classes.tolist()]
    return [
        Picture(f"{'an' if name[0] in 'aeho' else 'a'} {name}", partial(_shape, number), "shapes")
        for name, number in zip(names, numbers)
    ]


def _shape(number: int, model: ViT) -> Tensor:
    config = model.config
    return data.load("shapes", image_size=config.image_size, config=config).test.batch([number])[0]


def _part(card: Mapping, name: str) -> Mapping:
    value = card.get(name)
    return value if isinstance(value, Mapping) else {}
