"""TrivialAugment (Müller and Hutter 2021): one random operation of random strength an image, for a whole batch at once.

The operations and their ranges are the wide ones of the paper's §3, as torchvision has them. Two things are our own:
what moves is interpolated bilinearly, and what comes in from outside is the image's mirror, not black.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .. import keyed

MOVES = "shear_x", "shear_y", "translate_x", "translate_y", "rotate"
BLENDS = "brightness", "color", "contrast", "sharpness"
OPERATIONS = ("identity", *MOVES, *BLENDS, "posterize", "solarize", "autocontrast", "equalize")
LARGEST = 30  # strengths are 0 … 30
SHEAR, PIXELS, DEGREES, ENHANCE, BITS = 0.99, 32, 135.0, 0.99, 6  # at the largest


def trivial(pixels: torch.Tensor, key: Sequence[int], indices) -> torch.Tensor:
    """A keyed operation on each image.

    Args:
        pixels: uint8 (batch, 3, height, width).
        key, indices: as in `keyed.uniform`. What happens is decided on the CPU: indices that lie there, too, let a GPU
            work on without being waited for.
    """
    draws = keyed.uniform((3,), key, torch.as_tensor(indices).cpu(), "trivial")
    operations = (draws[:, 0] * len(OPERATIONS)).long()
    strengths = (draws[:, 1] * (LARGEST + 1)).long() * torch.where(draws[:, 2] < 0.5, -1, 1)
    return applied(pixels, operations, strengths)


def applied(pixels: torch.Tensor, operations: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """Each image after its operation.

    Args:
        pixels: uint8 (batch, 3, height, width).
        operations: places in OPERATIONS, int64 (batch,), on the CPU.
        strengths: −30 … 30, int64 (batch,), on the CPU; for an operation without direction the sign says nothing.
    """
    out = pixels.clone()
    for names, make in _GROUPS.items():
        kinds = torch.tensor([OPERATIONS.index(name) for name in names])
        rows = torch.isin(operations, kinds).nonzero().squeeze(1)
        if len(rows):
            where = rows.to(pixels.device, non_blocking=True)
            out[where] = make(pixels[where], operations[rows], strengths[rows])
    return out


def _moved(pixels: torch.Tensor, operations: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """Shears about the upper left corner, shifts by whole pixels, and turns about the centre."""
    height, width = pixels.shape[-2:]
    share = strengths.double() / LARGEST
    shear_x, shear_y, left, up, turned = (share * (operations == OPERATIONS.index(name)) for name in MOVES)
    cos, sin = torch.deg2rad(DEGREES * turned).cos(), torch.deg2rad(DEGREES * turned).sin()
    # where a pixel x, y from the centre comes from: factors of x and of y, and pixels
    lines = [
        (cos, SHEAR * shear_x - sin, SHEAR * shear_x * height / 2 - (PIXELS * left).trunc()),
        (SHEAR * shear_y + sin, cos, SHEAR * shear_y * width / 2 - (PIXELS * up).trunc()),
    ]
    x, y = (torch.arange(n, device=pixels.device) + (1 - n) / 2 for n in (width, height))
    grid = []
    for line, length in zip(lines, (width, height)):
        of_x, of_y, by = (_of(pixels, factor.float())[..., 0] for factor in line)
        grid.append((of_x * x + of_y * y[:, None] + by) * (2 / length))  # a matrix product may depend on the batch
    moved = F.grid_sample(pixels.float(), torch.stack(grid, -1), padding_mode="reflection", align_corners=False)
    return moved.round_().to(torch.uint8)


def _blended(pixels: torch.Tensor, operations: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """Away from a plainer copy, or towards it: a black one, the grey one, one of its mean, a blurred one."""
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    _, color, contrast, sharpness = (_of(pixels, operations == OPERATIONS.index(name)) for name in BLENDS)
    grey = rgb_to_grayscale(pixels)
    mean = grey.sum((1, 2, 3), keepdim=True) / grey[0].numel()  # of whole numbers: exact in whatever batch
    plain = torch.where(color, grey, torch.where(contrast, mean, 0.0))
    plain = torch.where(sharpness, _blurred(pixels), plain)
    factor = _of(pixels, (1 + ENHANCE * strengths.double() / LARGEST).float())
    return (plain + factor * (pixels - plain)).clamp_(0, 255).to(torch.uint8)


def _blurred(pixels: torch.Tensor) -> torch.Tensor:
    """Means of 3 × 3 pixels in which the centre counts five times, in whole numbers; the border stays."""
    whole = pixels.to(torch.int16)
    rows = whole[..., :-2, :] + whole[..., 1:-1, :] + whole[..., 2:, :]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * whole[..., 1:-1, 1:-1]
    out = pixels.float()
    out[..., 1:-1, 1:-1] = (sums / 13).round_()
    return out


def _posterized(pixels: torch.Tensor, _, strengths: torch.Tensor) -> torch.Tensor:
    lost = (BITS * strengths.abs() / LARGEST).round().long()
    return pixels & _of(pixels, (256 - 2**lost).to(torch.uint8))


def _solarized(pixels: torch.Tensor, _, strengths: torch.Tensor) -> torch.Tensor:
    return torch.where(pixels >= _of(pixels, 255 - 255 / LARGEST * strengths.abs()), ~pixels, pixels)


def _autocontrasted(pixels: torch.Tensor, *_) -> torch.Tensor:
    from torchvision.transforms.v2.functional import autocontrast

    return autocontrast(pixels)


def _equalized(pixels: torch.Tensor, *_) -> torch.Tensor:
    from torchvision.transforms.v2.functional import equalize

    return equalize(pixels)


def _of(pixels: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A value for each image, where the images are."""
    return values.view(-1, 1, 1, 1).to(pixels.device, non_blocking=True)


_GROUPS = {
    MOVES: _moved,
    BLENDS: _blended,
    ("posterize",): _posterized,
    ("solarize",): _solarized,
    ("autocontrast",): _autocontrasted,
    ("equalize",): _equalized,
}
