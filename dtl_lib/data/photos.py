"""Photos that come with scikit-image's wheel, a reader's own photos, and the preprocessing a model expects."""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..checks import typed
from ..config import IMAGENET_MEAN, IMAGENET_STD, grey_values
from ..paths import require, user_path
from .decoding import decode, named, rgb
from .images import grey, size_of

ENOUGH = 2**24  # pixels that an image is resized to without a thought; of longer ones the ends are cut off before
LONGEST = 8  # times what is needed of the long side is then kept
LARGEST = 2**28  # pixels that any is resized to
PUBLIC_DOMAIN = "public domain"
# of ImageNet, as timm has them
PREPROCESSING = {"image_size": 224, "crop": 0.9, "interpolation": "bicubic", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}


@dataclass(frozen=True)
class Photo:
    """A bundled photo: its file in scikit-image's `data` folder, what it shows, where it is from, and its licence."""

    name: str
    file: str
    shows: str
    source: str
    licence: str


PHOTOS = {
    photo.name: photo
    for photo in (
        Photo("chelsea", "chelsea.png", "a cat's face", "Stefan van der Walt", "CC0"),
        Photo("coffee", "coffee.png", "a cup of coffee on a table", "Rachel Michetti, Pikolo Espresso Bar", "CC0"),
        Photo("astronaut", "astronaut.png", "Eileen Collins", "NASA, https://flic.kr/p/r9qvLn", PUBLIC_DOMAIN),
        Photo(
            "rocket",
            "rocket.jpg",
            "a Falcon 9 lifting off",
            "SpaceX, https://www.flickr.com/photos/spacexphotos/16511594820",
            PUBLIC_DOMAIN,
        ),
        Photo("camera", "camera.png", "a man with a camera (grey)", "Lav Varshney", "CC0"),
        Photo("clock", "clock_motion.png", "a blurred wall clock (grey)", "Stefan van der Walt", PUBLIC_DOMAIN),
        Photo(
            "coins",
            "coins.png",
            "Greek coins from Pompeii (grey)",
            "Brooklyn Museum, https://www.brooklynmuseum.org/opencollection/archives/image/51611",
            "no known copyright restrictions",
        ),
        Photo(
            "hubble",
            "hubble_deep_field.jpg",
            "galaxies in the Hubble eXtreme Deep Field",
            "NASA, http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/",
            PUBLIC_DOMAIN,
        ),
        Photo(
            "retina",
            "retina.jpg",
            "a human retina",
            "Mikael Häggström, https://commons.wikimedia.org/wiki/File:Fundus_photograph_of_normal_left_eye.jpg",
            "CC0",
        ),
        Photo("brick", "brick.png", "a brick wall (grey)", "https://cc0textures.com/view.php?tex=Bricks25", "CC0"),
        Photo(
            "grass",
            "grass.png",
            "grass (grey)",
            "linolafett, https://www.deviantart.com/linolafett/art/Grass-01-434853879",
            "CC0",
        ),
        Photo("gravel", "gravel.png", "gravel (grey)", "https://cc0textures.com/view.php?tex=Gravel04", "CC0"),
    )
}


def photo_names() -> tuple[str, ...]:
    """Names that `photo` knows; `PHOTOS` says what each shows, where it is from, and its licence."""
    return tuple(PHOTOS)


def photo(name: str) -> np.ndarray:
    """A photo out of scikit-image's wheel, uint8 (height, width, 3), with no download; grey ones repeat one channel.

    Raises:
        ValueError: for a name that is not bundled.
    """
    return open_image(photo_path(name))


def photo_path(name: str) -> Path:
    """The file of a bundled photo; a ValueError for a name that is not bundled."""
    if name not in PHOTOS:
        raise ValueError(f"there is no bundled photo {name!r}; there are {', '.join(PHOTOS)}")
    package = Path(find_spec("skimage").origin).parent
    return package / "data" / PHOTOS[name].file


def open_image(path) -> np.ndarray:
    """Any image file as uint8 (height, width, 3), turned upright as its camera noted; transparent parts become white.

    Raises:
        ValueError: where there is no such file, or it is not an image, or it is cut short.
    """
    path = user_path(path)
    require(path, "a file", "an image file such as a .jpg or .png is needed")
    return np.asarray(decode(path, path, upright=True))


def preprocessing(config=None, **given) -> dict:
    """Each of `PREPROCESSING`'s settings: as given, where None the config's, ImageNet's where it has none."""
    given = {name: value for name, value in given.items() if value is not None}
    return {name: getattr(config, name, default) for name, default in PREPROCESSING.items()} | given


def prepare(picture, size=None, crop=None, mean=None, std=None, interpolation=None, config=None) -> torch.Tensor:
    """An image preprocessed for a model: timm's evaluation transform (shorter side to size/crop, centre, normalised).

    Args:
        picture: uint8 (height, width, 3) array, or a PIL image.
        size: pixels, an int or (height, width).
        crop: share of the resized image that the centre keeps.
        mean, std: a channel.
        interpolation: bilinear, bicubic, lanczos or nearest.
        config: anything with attributes image_size, crop, mean, std, interpolation; used for what is not given.
            Without one: 224, 0.9, ImageNet's mean and deviation, bicubic.

    Returns:
        float32 (1, 3, height, width); one channel, grey, where the config has one.

    Raises:
        ValueError: for an array of another shape or type, or an unknown interpolation.
    """
    settings = preprocessing(config, image_size=size, crop=crop, mean=mean, std=std, interpolation=interpolation)
    pixels = centre(picture, settings["image_size"], settings["crop"], settings["interpolation"])
    if (channels := getattr(config, "channels", 3)) == 1:
        pixels = grey(pixels)
        settings |= {name: grey_values(settings[name]) for name in ("mean", "std")}
    if channels not in (1, 3):
        raise ValueError(f"an image is prepared with 3 channels, or with 1, grey; the model takes {channels}")
    mean, std = (_columns(name, settings[name], channels, pixels.device) for name in ("mean", "std"))
    return ((pixels.float() / 255 - mean) / std)[None]


def centre(picture, size, crop: float, interpolation: str) -> torch.Tensor:
    """The resized and cut image before normalisation, uint8 (3, height, width); arguments as in `prepare`."""
    from timm.data import create_transform
    from torchvision.transforms.v2.functional import pil_to_tensor

    resampling(interpolation)
    crop = typed("crop", crop, float)
    if not 0 < crop <= 1:
        raise ValueError(f"crop is {crop}; it is a share, above 0 and at most 1")
    size = size_of(size)
    image = _middle(_as_image(picture), size, crop)
    *geometry, _, _ = create_transform((3, *size), interpolation=interpolation, crop_pct=crop).transforms
    for step in geometry:
        image = step(image)
    return pil_to_tensor(image)


def undo(x: torch.Tensor, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> np.ndarray:
    """Normalised images back to pixels: (…, 3, height, width) to uint8 (…, height, width, 3); grey stays 1 channel."""
    named_values = {"mean": mean, "std": std}
    if x.shape[-3] == 1:
        named_values = {name: grey_values(values) for name, values in named_values.items()}
    mean, std = (_columns(name, values, x.shape[-3], x.device) for name, values in named_values.items())
    pixels = ((x.detach().float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.movedim(-3, -1).cpu().numpy()


def _columns(name: str, values, channels: int, device) -> torch.Tensor:
    """One number a channel, or one of every channel, `(channels or 1, 1, 1)`."""
    values = torch.as_tensor(values, dtype=torch.float32, device=device).reshape(-1, 1, 1)
    if len(values) not in (1, channels):
        raise ValueError(f"{name} has {len(values)} numbers, and the images {channels} channels: give one a channel")
    return values


def resampling(interpolation: str) -> Image.Resampling:
    """Pillow's filter of that name; raises ValueError where there is none."""
    names = ("bilinear", "bicubic", "lanczos", "nearest")
    if interpolation not in names:
        raise ValueError(f"interpolation is {interpolation!r}; it is one of {', '.join(names)}")
    return Image.Resampling[interpolation.upper()]


def _as_image(picture) -> Image.Image:
    if isinstance(picture, str | PathLike):
        raise ValueError(f"open the image first: open_image({str(picture)!r})")
    if not isinstance(picture, Image.Image):
        try:
            picture = np.asarray(picture)
        except (TypeError, ValueError, RuntimeError):  # a ragged list; a tensor on a GPU, or with a gradient
            raise ValueError(f"an image is uint8 (height, width, 3), not such a {type(picture).__name__}") from None
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f"an image is uint8 (height, width, 3); this is {picture.dtype} {picture.shape}")
        return Image.fromarray(picture)
    if 0 in picture.size:
        raise ValueError(f"an image has pixels; this is {picture.height}×{picture.width}")
    with named("the image"):
        return rgb(picture, "the image")


def _middle(image: Image.Image, size: tuple[int, int], crop: float) -> Image.Image:
    """An image without the far ends of a very long side, which would be resized only to be cut off.

    torchvision and timm resize them: 50,000 × 1 pixels take 13.5 GB there.
    """
    lengths, wanted = (image.height, image.width), [length / crop for length in size]
    scale = max(want / length for want, length in zip(wanted, lengths))
    if math.prod(length * scale for length in lengths) <= ENOUGH:
        return image
    kept = [min(length, math.ceil(LONGEST * want / scale)) for want, length in zip(wanted, lengths)]
    kept = [keep + (length - keep) % 2 for keep, length in zip(kept, lengths)]  # the middle stays where it was
    if math.prod(keep * scale for keep in kept) > LARGEST:
        raise ValueError(
            f"an image of {lengths[0]}×{lengths[1]} pixels would be resized to more than {LARGEST:,} for image_size "
            f"{size[0]}×{size[1]} and crop {crop:g}: choose a smaller image_size or a larger crop"
        )
    top, left = ((length - keep) // 2 for length, keep in zip(lengths, kept))
    return image.crop((left, top, left + kept[1], top + kept[0]))
