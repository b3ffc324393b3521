"""Images, and images cut into patches."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .style import MARK, array, panels, styled

MARGIN = 0.12  # of a patch: about the width of the frame's line in the smallest maps


@styled
def show_images(
    images: Sequence, titles: Sequence[str] | None = None, columns: int = 3, size: float = 1.6, marked: Sequence = ()
) -> Figure:
    """Images side by side.

    Args:
        images: uint8 (height, width, 3) arrays, or (height, width) for grey.
        titles: one for each image.
        columns: how many images stand in a row, at most.
        size: width of an image in inches.
        marked: which patches of each image to frame, bool (rows, columns); left out, or shorter, for no frames.
    """
    figure, axes = panels(len(images), columns, size)
    for axis, image, title in zip(axes, images, titles or [""] * len(images)):
        axis.imshow(image, cmap="gray" if image.ndim == 2 else None)
        axis.set_title(title)
    for axis, image, mask in zip(axes, images, marked):
        for place in zip(*array(mask).nonzero()):
            outline(axis, place, image.shape[0] / len(mask))
    return figure


@styled
def show_patches(image, patch_size: int, mark: tuple[int, int] | None = None, size: float = 2.5) -> Figure:
    """An image with the grid that cuts it, one patch marked, and that patch alone beside it.

    Args:
        image: uint8 (height, width, 3).
        patch_size: pixels.
        mark: (row, column) of the patch to mark.
    """
    height, width = image.shape[:2]
    figure, axes = panels(1 if mark is None else 2, size=size, height=size)
    grid = axes[0]
    grid.imshow(image)
    for line in range(0, height + 1, patch_size):
        grid.axhline(line - 0.5, color="white", linewidth=0.7)
    for line in range(0, width + 1, patch_size):
        grid.axvline(line - 0.5, color="white", linewidth=0.7)
    grid.set_title(f"{height // patch_size} × {width // patch_size} patches of {patch_size}² pixels")
    if mark is not None:
        outline(grid, mark, patch_size)
        row, column = (index * patch_size for index in mark)
        axes[1].imshow(image[row : row + patch_size, column : column + patch_size])
        axes[1].set_title(f"patch {mark}")
        axes[1].add_patch(Rectangle((-0.5, -0.5), patch_size, patch_size, fill=False, edgecolor=MARK, linewidth=4))
    return figure


def outline(axis, mark: tuple[int, int], patch_size: float = 1, colour: str = MARK) -> None:
    """Frame the patch in (row, column) on an axis whose unit is a pixel, or a patch where `patch_size` is 1.

    The frame stands just outside, so that the patch itself stays in sight and its neighbours do, too.
    """
    row, column = mark
    side = (1 + 2 * MARGIN) * patch_size
    corner = ((column - MARGIN) * patch_size - 0.5, (row - MARGIN) * patch_size - 0.5)
    axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=1.2))


def write_below(axis, note: str) -> None:
    """A line of text under a panel."""
    if note:
        axis.text(0.5, -0.04, note, transform=axis.transAxes, ha="center", va="top")
