"""Writes what the landing page shows, from the stored result: `python -m book.tools.landing`."""

import base64
import io
import json
from pathlib import Path

from einops import rearrange
from PIL import Image
from torch import Tensor

from book.tools.project import ROOT
from dtl_lib.data.photos import PHOTOS, centre, photo
from dtl_lib.stored import registers
from dtl_lib.stored.files import quantise

FOLDER = ROOT / "book" / "static" / "landing"
SIDE = 448  # pixels of the photo on the page, two for each one the model sees
STATES = [0, 2]  # of the stored three: as trained, and with ten neurons moved to one spare token


def script(result: registers.StoredRegisters) -> str:
    """The data file, as JavaScript so that a page opened from disk may load it: maps as roots, uint8 in base64."""
    photos = {
        name: {
            "maps": _packed(result.class_maps[number, STATES]),
            "token": [round(share, 6) for share in result.token_share[number, STATES[1]].tolist()],
        }
        for number, name in enumerate(result.photos)
    }
    credits = [f"scikit-image's {PHOTOS[name].file}, {PHOTOS[name].source}, {PHOTOS[name].licence}" for name in photos]
    source = result.source | {"photos": "; ".join(credits)}
    data = {"photos": photos, "neurons": registers.MOVED, "source": source}
    return f"window.landingData = {json.dumps(data, separators=(',', ':'))};\n"


def picture(name: str) -> bytes:
    """The part of a photo that the model sees, at twice its resolution, as a JPEG file."""
    pixels = rearrange(centre(photo(name), SIDE, 0.9, "bicubic"), "channel row column -> row column channel")
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=85, optimize=True)
    return file.getvalue()


def write(folder: Path = FOLDER) -> None:
    """Write the data and the photos."""
    result = registers.load()
    (folder / "data.js").write_text(script(result), "utf8")
    for name in result.photos:
        (folder / f"{name}.jpg").write_bytes(picture(name))


def _packed(maps: Tensor) -> dict:
    codes, scale = quantise(maps)
    text = base64.b64encode(codes.numpy().tobytes()).decode()
    return {"codes": text, "scale": [float(f"{value:.5g}") for value in scale.flatten().tolist()]}


if __name__ == "__main__":
    write()
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
