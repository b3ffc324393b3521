"""Writes what the landing page shows, from the stored result: `python -m book.tools.landing`."""

import base64
import io
import json
from pathlib import Path

from einops import rearrange
from PIL import Image
from torch import Tensor

from book.tools.project import ROOT
from dtl_lib import stored
from dtl_lib.data.photos import centre, photo

FOLDER = ROOT / "book" / "static" / "landing"
SIDE = 448  # pixels of the photo on the page, two for each one the model sees


def script(result: stored.Stored) -> str:
    """The data file, as JavaScript so that a page opened from disk may load it: maps as roots, uint8 in base64."""
    data = {
        "classMaps": _packed(result.class_maps),
        "patchMaps": _packed(result.patch_maps),
        "norms": [[round(norm, 1) for norm in block] for block in result.patch_norms.flatten(1).tolist()],
        "likeliest": [[name, round(probability, 2)] for name, probability in result.top5],
        "source": result.source,
    }
    return f"window.landingData = {json.dumps(data, separators=(',', ':'))};\n"


def picture() -> bytes:
    """The part of the photo that the model sees, at twice its resolution, as a JPEG file."""
    pixels = rearrange(centre(photo("chelsea"), SIDE, 0.9, "bicubic"), "channel row column -> row column channel")
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=85, optimize=True)
    return file.getvalue()


def write(folder: Path = FOLDER) -> None:
    """Write both files."""
    (folder / "data.js").write_text(script(stored.load("vit_tiny_chelsea")), "utf8")
    (folder / "cat.jpg").write_bytes(picture())


def _packed(maps: Tensor) -> dict:
    codes, scale = stored.quantise(maps)
    text = base64.b64encode(codes.numpy().tobytes()).decode()
    return {"codes": text, "scale": [float(f"{value:.5g}") for value in scale.flatten().tolist()]}


if __name__ == "__main__":
    write()
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
