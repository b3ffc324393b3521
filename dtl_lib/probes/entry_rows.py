"""What is left of a model whose tokens enter later or leave early: rows, and how they are counted."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAVE = "leave"
ABSENT, PRESENT = "absent", "present"
Z = 1.959964  # 95 % of a normal distribution lie within ± this many standard deviations


@dataclass(frozen=True)
class Interval:
    """An estimate over images and its 95 % interval.

    Attributes:
        value: the estimate.
        low, high: the interval's ends.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class EntryRow:
    """What is left of a model whose group enters before a block, or leaves before it.

    Attributes:
        block: the block.
        way: one of `WAYS`.
        before: whether the group is `absent` from the blocks before, or `present`.
        accuracy: share of images classified correctly, Wilson's interval; None without labels or classes.
        difference: accuracy minus the untouched model's on the same images, paired: an adjusted Wald interval (Bonett
            and Price 2012, Adjusted Wald confidence interval for a difference of binomial proportions based on paired
            data); None without labels or classes.
        agreement: share of images with the untouched model's class, Wilson's interval; None without classes.
        similarity: cosine between what the classifier reads here and in the untouched model, mean over images with
            Student's interval.
        largest_change: the largest absolute difference of a logit from the untouched model's, over all images.
        cost: multiply–adds of a model that does this, over those of the untouched model. Where the state of an image
            enters, it has to be known: computing it is not counted.
    """

    block: int
    way: str
    before: str
    accuracy: Interval | None
    difference: Interval | None
    agreement: Interval | None
    similarity: Interval
    largest_change: float
    cost: float

    def values(self) -> dict[str, float]:
        """Plain numbers for a ledger: `accuracy`, `accuracy_low`, `accuracy_high`, …; what is None is left out."""
        numbers: dict[str, float] = {"block": self.block, "cost": self.cost, "largest_change": self.largest_change}
        for name in ("accuracy", "difference", "agreement", "similarity"):
            if (interval := getattr(self, name)) is not None:
                numbers |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return numbers


@dataclass(frozen=True)
class EntryResult:
    """The rows of a model, and what they are compared with.

    Attributes:
        group: which moved.
        n: images.
        accuracy: of the untouched model, Wilson's interval; None without labels or classes.
        between: mean cosine between what the classifier reads of an image and of another one, both in the untouched
            model: the similarity of what has nothing to do with the image; None with one image.
        rows: by way, what is before, and block.
    """

    group: str
    n: int
    accuracy: Interval | None
    between: float | None
    rows: tuple[EntryRow, ...]

    def row(self, block: int, way: str, before: str = ABSENT) -> EntryRow:
        """One row; a ValueError where it was not measured. What leaves is `present` before."""
        wanted = block, way, PRESENT if way == LEAVE else before
        for row in self.rows:
            if (row.block, row.way, row.before) == wanted:
                return row
        raise ValueError("there is no row with block={!r}, way={!r}, before={!r}".format(*wanted))


class Tally:
    """Counts over images of one row."""

    def __init__(self):
        self.n, self.labelled, self.classes = 0, False, False
        self.right = self.same = self.lost = self.gained = 0
        self.cosine = self.squares = self.change = 0.0

    def add(
        self, read: Tensor, reference: Tensor, logits: Tensor, expected: Tensor, labels: Tensor | None, classes: bool
    ) -> None:
        """Count a batch: what the classifiers read and its logits, and the same of the untouched model."""
        self.n, self.classes, self.labelled = self.n + len(read), classes, labels is not None
        change = float((logits - expected).abs().max())
        if not math.isfinite(change):
            raise ValueError("the logits are non-finite: the weights are damaged, or the images hold such values")
        self.change = max(self.change, change)
        cosine = torch.cosine_similarity(read.flatten(1).double(), reference.flatten(1).double(), dim=1)
        self.cosine += float(cosine.sum())
        self.squares += float(cosine.square().sum())
        predicted, usual = logits.argmax(dim=1), expected.argmax(dim=1)
        self.same += int((predicted == usual).sum())
        if labels is not None:
            right, was_right = predicted == labels, usual == labels
            self.right += int(right.sum())
            self.gained += int((right & ~was_right).sum())
            self.lost += int((~right & was_right).sum())

    def accuracy(self) -> Interval | None:
        """Share of the images that are classified correctly."""
        return wilson(self.right, self.n) if self.labelled else None

    def row(self, block: int, way: str, before: str, cost: float) -> EntryRow:
        """The row of what was counted."""
        return EntryRow(
            block, way, before, self.accuracy(),
            paired(self.gained, self.lost, self.n) if self.labelled else None,
            wilson(self.same, self.n) if self.classes else None,
            mean(self.cosine, self.squares, self.n), self.change, cost,
        )  # fmt: skip


def wilson(count: int, n: int) -> Interval:
    """A share with Wilson's 95 % interval."""
    from scipy.stats import binomtest

    found = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return Interval(count / n, float(found.low), float(found.high))


def paired(gained: int, lost: int, n: int) -> Interval:
    """The difference of two shares of the same images, of which `gained` and `lost` are in one of them alone.

    The interval is adjusted Wald's (Bonett and Price 2012): one more is counted of each, so that it has a width where
    nothing was gained or lost.
    """
    more, less = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z * math.sqrt((more + less - (more - less) ** 2) / (n + 2))
    return Interval((gained - lost) / n, max(-1.0, more - less - half), min(1.0, more - less + half))


def mean(total: float, squares: float, n: int) -> Interval:
    """A mean from the sums of values and of their squares, with Student's 95 % interval; none of a single value."""
    from scipy.stats import t

    value = total / n
    if n < 2:
        return Interval(value, -1.0, 1.0)
    variance = max(0.0, squares / n - value**2) * n / (n - 1)
    half = float(t.ppf(0.975, n - 1)) * math.sqrt(variance / n)
    return Interval(value, value - half, value + half)
