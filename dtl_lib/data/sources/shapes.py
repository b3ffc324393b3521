"""Generated shapes: a data set that needs no files."""

from ..images import Sets
from ..shapes import generator
from ..splits import check_samples


def load(image_size=None, level: int = 1, seed: int = 0, samples: int | None = None) -> Sets:
    """Three parts of one series of shapes, from index ranges that never meet.

    Args:
        image_size: pixels, an int or (height, width); 32 where None.
        level, seed: as in `Shapes`.
        samples: training images, 50,000 where None; 2,000 are held out and 10,000 are for the test.

    Raises:
        ValueError: as `Shapes`, and for more samples than a range holds.
    """
    check_samples(samples)
    lengths = generator.LENGTHS | ({} if samples is None else {"train": samples})
    if lengths["train"] > (most := generator.PARTS["held_out"]):
        raise ValueError(f"samples is {samples}; a series holds {most:,} training images")
    size = 32 if image_size is None else image_size

    def part(title: str, start: int) -> generator.Shapes:
        return generator.Shapes(size, level, seed, start, lengths[title], f"shapes level {level} {title}")

    return Sets(**{title: part(title, start) for title, start in generator.PARTS.items()})
