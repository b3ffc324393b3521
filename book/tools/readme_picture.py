"""Draws the README's picture from the stored result: `python -m book.tools.readme_picture`."""

import matplotlib.pyplot as plt
import numpy as np
from einops import rearrange
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image

from book.tools.project import ROOT
from dtl_lib import stored
from dtl_lib.data.photos import centre, photo
from dtl_lib.figures import styled

FILE = ROOT / "book" / "static" / "readme.png"
BLOCKS = (1, 3, 6, 7, 11)
SIDE = 448
DPI = 165


@styled
def draw(result: stored.Stored, picture: np.ndarray) -> Figure:
    """The photo, the class token's maps over it, and the norm of each patch token, in a few blocks."""
    figure, axes = plt.subplots(2, 1 + len(BLOCKS), figsize=(9.6, 4.0), layout="none")
    figure.subplots_adjust(left=0.012, right=0.988, top=0.83, bottom=0.06, wspace=0.05, hspace=0.2)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("the photo", fontsize=9)
    maps = result.class_maps.mean(dim=1)
    scale = LogNorm(5, 500)
    for (above, below), block in zip(axes[:, 1:].T, BLOCKS):
        _overlay(above, picture, maps[block].numpy())
        above.set_title(f"block {block}", fontsize=9)
        _below(above, f"up to {100 * maps[block].max():.1f} %")
        drawn = below.imshow(result.patch_norms[block], norm=scale, cmap="cividis")
        median, longest = result.patch_norms[block].median(), result.patch_norms[block].max()
        _below(below, f"median {median:.0f}, max {longest:.0f}")
    _legend(figure, axes[1, 0], drawn)
    title = "In block 7 of a ViT-Ti/16 four patch tokens grow, and the class token stares at them"
    figure.suptitle(title, fontsize=12, y=0.975)
    return figure


def _overlay(axis, picture: np.ndarray, shares: np.ndarray) -> None:
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    axis.imshow(grey, cmap="gray", vmin=0, vmax=300)
    part = shares / shares.max()
    colours = plt.get_cmap("viridis")(part)
    colours[..., 3] = 0.2 + 0.7 * np.sqrt(part)
    axis.imshow(colours, extent=(0, len(picture), len(picture), 0), interpolation="nearest")


def _below(axis, text: str) -> None:
    axis.text(0.5, -0.035, text, transform=axis.transAxes, ha="center", va="top", fontsize=7.5, color="#444")


def _legend(figure: Figure, axis, drawn) -> None:
    axis.text(0, 0.98, "Above: what the class\ntoken takes from each\npatch, mean of heads.", va="top", fontsize=8)
    axis.text(0, 0.55, "Right: the norm of\neach patch token\nafter the block.", va="top", fontsize=8)
    bar = figure.colorbar(drawn, cax=axis.inset_axes((0, 0.1, 0.9, 0.06)), orientation="horizontal", ticks=[5, 50, 500])
    bar.ax.set_xticklabels(["5", "50", "500"], fontsize=7)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)


def main() -> None:
    """Draw and write the picture."""
    pixels = rearrange(centre(photo("chelsea"), SIDE, 0.9, "bicubic"), "channel row column -> row column channel")
    figure = draw(stored.load("vit_tiny_chelsea"), pixels.numpy())
    figure.savefig(FILE, dpi=DPI)
    with Image.open(FILE) as image:
        colours = image.convert("RGB")
    palette = colours.quantize(256, Image.Quantize.MAXCOVERAGE)
    colours.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(FILE, optimize=True)
    print(f"{FILE.relative_to(ROOT)}: {FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
