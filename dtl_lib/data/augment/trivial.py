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
        strengths: −30 … 30, int64 (batch,), on the CPU; an operation without direction ignores the sign.
    """
    out = pixels.clone()
    for names, operation in _GROUPS.items():
        kinds = torch.tensor([OPERATIONS.index(name) for name in names])
        rows = torch.isin(operations, kinds).nonzero().squeeze(1)
        if len(rows):
            where = rows.to(pixels.device, non_blocking=True)
            out[where] = operation(pixels[where], operations[rows], strengths[rows])
    return out


def _moved(pixels: torch.Tensor, operations: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """Shears about the upper left corner, shifts by whole pixels, and turns about the centre."""
    height, width = pixels.shape[-2:]
    share = strengths.double() / LARGEST
    shear_x, shear_y, left, up, rotation = (share * (operations == OPERATIONS.index(name)) for name in MOVES)
    cos, sin = torch.deg2rad(DEGREES * rotation).cos(), torch.deg2rad(DEGREES * rotation).sin()
    # where a pixel x, y from the centre comes from: factors of x and of y, and pixels
    lines = [
        (cos, SHEAR * shear_x - sin, SHEAR * shear_x * height / 2 - (PIXELS * left).trunc()),
        (SHEAR * shear_y + sin, cos, SHEAR * shear_y * width / 2 - (PIXELS * up).trunc()),
    ]
    x, y = (torch.arange(n, device=pixels.device) + (1 - n) / 2 for n in (width, height))
    grid = []
    for line, length in zip(lines, (width, height)):
        x_factor, y_factor, offset = (_per_image(pixels, factor.float())[..., 0] for factor in line)
        # no matrix product: its rounding may depend on the batch
        grid.append((x_factor * x + y_factor * y[:, None] + offset) * (2 / length))
    moved = F.grid_sample(pixels.float(), torch.stack(grid, -1), padding_mode="reflection", align_corners=False)
    return moved.round_().to(torch.uint8)


def _blended(pixels: torch.Tensor, operations: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """Towards a plainer copy of the image, or away from it: black, grey, of its mean, or blurred."""
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    _, color, contrast, sharpness = (_per_image(pixels, operations == OPERATIONS.index(name)) for name in BLENDS)
    grey = rgb_to_grayscale(pixels)
    mean = grey.sum((1, 2, 3), keepdim=True) / grey[0].numel()  # of whole numbers: exact in whatever batch
    plain = torch.where(color, grey, torch.where(contrast, mean, 0.0))
    plain = torch.where(sharpness, _blurred(pixels), plain)
    factor = _per_image(pixels, (1 + ENHANCE * strengths.double() / LARGEST).float())
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
    return pixels & _per_image(pixels, (256 - 2**lost).to(torch.uint8))


def _solarized(pixels: torch.Tensor, _, strengths: torch.Tensor) -> torch.Tensor:
    return torch.where(pixels >= _per_image(pixels, 255 - 255 / LARGEST * strengths.abs()), ~pixels, pixels)


def _autocontrasted(pixels: torch.Tensor, *_) -> torch.Tensor:
    from torchvision.transforms.v2.functional import autocontrast

    return autocontrast(pixels)


def _equalized(pixels: torch.Tensor, *_) -> torch.Tensor:
    from torchvision.transforms.v2.functional import equalize

    return equalize(pixels)


def _per_image(pixels: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One value for each image, on the images' device, to be broadcast over its pixels."""
    return values.view(-1, 1, 1, 1).to(pixels.device, non_blocking=True)


_GROUPS = {
    MOVES: _moved,
    BLENDS: _blended,
    ("posterize",): _posterized,
    ("solarize",): _solarized,
    ("autocontrast",): _autocontrasted,
    ("equalize",): _equalized,
}
