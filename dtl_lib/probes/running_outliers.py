"""Which patches are far longer than the others, over any number of images, in memory that does not grow?"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_tape
from ..tape import Tape
from .lengths import RunningLengths
from .outliers import TIMES, TOLD, likest_is_long, patch_tokens


class AfterBlock:
    """The patches after one block, of all images so far: `find_outliers`' three rules, asked of their lengths together.

    Attributes:
        lengths: of all patches.
        cut, ratio: as of a `Mode`, by all images so far; None where there are no outliers.
        left_out: the ratio of long patches that are no outliers by the third rule; None without such.
        n: outliers found, each batch by what was known by then.
        images: how many have one.
        places: in how many images a patch is one, `(patches,)`.
    """

    def __init__(self):
        self.lengths = RunningLengths()
        self.cut: float | None = None
        self.ratio: float | None = None
        self.left_out: float | None = None
        self.n = 0
        self.images = 0
        self.places: Tensor | float = 0.0
        self._told = self._asked = 0
        self._directions: Tensor | float = 0.0
        self._energy: Tensor | float = 0.0

    def add(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Count a batch; its outliers, bool, `(batch, patches)`.

        Args:
            tokens: after the block, `(batch, patches, dim)`.
            before: the same before block 0.
        """
        lengths = tokens.norm(dim=-1)
        self.lengths.add(lengths)
        self.cut, self.ratio, self.left_out = self.lengths.second_mode(), None, None
        if self.cut is None:
            return torch.zeros_like(lengths, dtype=torch.bool)
        long, ratio = lengths > self.cut, self.lengths.ratio(self.cut)
        if ratio <= TIMES:
            self.cut = None
            return torch.zeros_like(long)
        same = likest_is_long(before, long)
        self._told, self._asked = self._told + int(same.sum()), self._asked + len(same)
        if self._told >= TOLD * self._asked:
            self.cut, self.left_out = None, ratio if self._asked else None
            return torch.zeros_like(long)
        self.ratio = ratio
        self._count(tokens[long], long)
        return long

    def _count(self, found: Tensor, long: Tensor) -> None:
        self.n, self.images = self.n + len(found), self.images + int(long.any(dim=1).sum())
        self.places = self.places + long.double().sum(dim=0).cpu()
        self._directions = self._directions + F.normalize(found, dim=-1).double().sum(dim=0).cpu()
        self._energy = self._energy + found.double().square().sum(dim=0).cpu()

    @property
    def there(self) -> bool:
        """Whether there are outliers, by all images so far."""
        return self.ratio is not None and self.n > 0

    @property
    def alike(self) -> float:
        """As of a `Mode`."""
        return float((torch.as_tensor(self._directions) / self.n).square().sum())

    @property
    def energy(self) -> Tensor:
        """As of a `Mode`, `(dim,)`."""
        energy = torch.as_tensor(self._energy)
        return energy / energy.sum()


class RunningOutliers:
    """`find_outliers` over batches: each is judged by the lengths of all images up to it, so a rare outlier is found
    as soon as it has been seen twice, and what chance made long in one batch is forgotten.

    Given one batch it finds what `find_outliers` does.

        >>> from dtl_lib import data, load_pretrained, probes, record
        >>> model, test = load_pretrained("zoo/shapes_depth6"), data.load("shapes").test
        >>> running = probes.RunningOutliers(model.plan.depth)
        >>> for start in (0, 20):
        ...     with record(model) as tape:
        ...         logits = model(test.batch(range(start, start + 20))[0])
        ...     masks = running.add(tape)
        >>> running.start, running.after[3].lengths.n
        (None, 2560)

    Args:
        depth: blocks of the trunk.

    Attributes:
        after: what is known of the patches after each block.
    """

    def __init__(self, depth: int):
        self.after = tuple(AfterBlock() for _ in range(depth))

    def add(self, tape: Tape) -> list[Tensor]:
        """Count a batch; its outliers after each block, bool, `(batch, patches)`; a ValueError for non-finite tokens.

        Args:
            tape: from `record(model)`; images have one size in all batches.
        """
        check_tape(tape)
        before = patch_tokens(tape, "input")
        return [after.add(patch_tokens(tape, block), before) for block, after in enumerate(self.after)]

    @property
    def start(self) -> int | None:
        """The first block after which there are outliers; None where there are none."""
        return next((block for block, after in enumerate(self.after) if after.there), None)
