"""Image files → 8-bit RGB. Every image that the library opens is opened here."""

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from PIL import EpsImagePlugin, Image, ImageOps, UnidentifiedImageError

from ..paths import kind
from .images import CorruptImage

# Pillow's names of what photos and data sets are stored in. Of its others some start a program (EPS: Ghostscript), some
# open anything inside them (IPTC), and many are no images (HDF5, MPEG). TGA comes last: it has no mark to know it by.
# Where a sample of a shard holds several, the first of these counts.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "DIB", "AVIF", "JPEG2000", "MPO", "PPM", "TGA")
EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N"}
UNKNOWN = {"I": "32-bit integers", "F": "floating-point numbers"}  # Pillow would clip them to 0 … 255
# tags of TIFF: bits a sample; photometric interpretation; kind of numbers
BITS, WHITE_IS_ZERO, SIGNED = 258, (262, 0), (339, (2,))
# what Pillow raises; RuntimeError: of AVIF's decoder
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error)
_PILLOW = r"PIL\."


@lru_cache
def endings() -> tuple[str, ...]:
    """The endings of files that may be images of one of `FORMATS`, in their order, in lower case, such as `.jpg`."""
    pictures = [(name, ending) for ending, name in Image.registered_extensions().items() if name in FORMATS]
    return tuple(ending for _, ending in sorted(pictures, key=lambda each: FORMATS.index(each[0])))


def start_nothing() -> None:
    """From here on Pillow starts no program in this process, also where another library's reader opens images.

    The one that it would start is Ghostscript, for what is EPS inside, whatever the file is called. Its other formats
    stay as they are, for whoever else uses Pillow here.
    """
    EpsImagePlugin.Ghostscript = _refuse  # what asks for the program's name differs between versions; this does not


def _refuse(*_, **__):
    raise UnidentifiedImageError("an EPS is drawn by Ghostscript, which is not started")


def decode(file, name, upright: bool = False, most: int | None = None) -> Image.Image:
    """The RGB image in a path, a binary file or a PIL image.

    Args:
        name: of the image, for errors.
        upright: turn it as its camera noted and lay it on white, as a reader expects of a photo; a data set's images
            stay as other libraries read them.
        most: pixels that are read, where fewer than Pillow's limit.

    Raises:
        CorruptImage: where there is no such file, or it is not an image, or it is cut short or too large, or nobody can
            tell which of its values is white.
    """
    _keep_warnings_back()
    with named(name):
        if isinstance(file, str | os.PathLike) and (found := kind(file)) not in ("a file", None):
            raise CorruptImage(name, f"is {found}; a .jpg, .png or .webp file is needed")
        with file if isinstance(file, Image.Image) else Image.open(file, formats=_formats()) as image:
            if most is not None and image.width * image.height > most:
                size = f"{image.width:,} × {image.height:,} pixels"
                raise CorruptImage(name, f"has {size}, and at most {most:,} are read: make it smaller")
            return rgb(image, name, upright, upright)


@contextmanager
def named(name) -> Iterator[None]:
    """Inside, whatever Pillow raises is a `CorruptImage` of this name."""
    try:
        yield
    except CorruptImage:
        raise
    except UnidentifiedImageError:
        raise CorruptImage(name, "is not an image that can be read; a .jpg, .png or .webp file is needed") from None
    except Image.DecompressionBombError:
        most = f"at most {2 * Image.MAX_IMAGE_PIXELS:,} pixels are read"
        raise CorruptImage(name, f"is too large: images of {most}; make it smaller") from None
    except _DAMAGE as error:
        if getattr(error, "errno", None):
            raise CorruptImage(name, f"cannot be opened ({error.strerror}); put it back") from None
        raise CorruptImage(name, f"is damaged or cut short ({error}); save or fetch it again") from None


def rgb(image: Image.Image, name, upright: bool = False, on_white: bool = True) -> Image.Image:
    """A PIL image of any kind as 8-bit RGB, from black at 0 to white at 255.

    torchvision and timm call Pillow's `convert("RGB")`, which clips 16-bit grey at 255: nearly all is white.

    Args:
        name: of the image, for errors.
        upright: turn it as its camera noted.
        on_white: lay it on white where it is transparent; otherwise its colours count, as in other libraries.

    Raises:
        CorruptImage: where its numbers have no range, such as floating-point ones, or its format is none of `FORMATS`:
            Pillow decodes when pixels are asked for, an EPS by Ghostscript.
    """
    if image.format not in (None, *FORMATS):
        raise CorruptImage(name, f"is of the format {image.format}; what is read is {', '.join(FORMATS)}")
    turned = ImageOps.exif_transpose(image) if upright else image
    if image.mode in SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_sixteen_bits(turned, image, on_white).convert("RGB")
    if image.mode in PREMULTIPLIED:
        turned = turned.convert(PREMULTIPLIED[image.mode])
    elif image.mode not in EIGHT_BIT or SIGNED in getattr(image, "tag_v2", {}).items():
        eight = image.mode in EIGHT_BIT
        what = "signed numbers" if eight else UNKNOWN.get(image.mode, f"pixels of Pillow's mode {image.mode}")
        raise CorruptImage(name, f"holds {what}, and which of them is white is not known: save it in 8 or 16 bits")
    if "transparency" in image.info:
        turned = turned.convert("RGBA")
    if on_white and "A" in turned.getbands():
        turned = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
    return turned.convert("RGB")


def _from_sixteen_bits(pixels: Image.Image, image: Image.Image, on_white: bool) -> Image.Image:
    """8-bit grey. What the file says about its numbers is with `image`."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS, (16,))[0]
    values = np.asarray(pixels).astype(np.int64)
    grey = (values * 255 * 2 + (1 << bits) - 1) // (2 * ((1 << bits) - 1))  # rounded
    grey = 255 - grey if WHITE_IS_ZERO in tags.items() else grey
    if on_white and isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


@lru_cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow can open."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _keep_warnings_back() -> None:
    """Pillow warns of large images, odd metadata and palettes, which concern nobody who has the pixels."""
    if not any(entry[0] == "ignore" and entry[3] and entry[3].pattern == _PILLOW for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW)
