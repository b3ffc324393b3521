"""A model that is asked what it needs of some tokens, on images that have a reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dtl_lib.models import ViT
from dtl_lib.probes import patch_state, replace_tokens, states_at
from dtl_lib.registers import RegisterNeuron

RESAMPLED, BATCH = 2000, 8


@dataclass(frozen=True)
class Subject:
    """A model, and the images on which it is asked.

    Attributes:
        name: in the records.
        model: with a class token.
        images: `(batch, channels, height, width)`.
        reference: other images, in whose place what is replaced gets its values.
        neurons: register neurons, where patches are long.
        masks: of the true objects, bool `(batch, height, width)`, where there are any.
    """

    name: str
    model: ViT
    images: Tensor
    reference: Tensor
    neurons: tuple[RegisterNeuron, ...] = ()
    masks: Tensor | None = None

    def batches(self) -> Iterator[tuple[int, Tensor]]:
        """Where each begins, and its images."""
        for start in range(0, len(self.images), BATCH):
            yield start, self.images[start : start + BATCH]


def resampled(n: int) -> Tensor:
    """Which images each resample of the bootstrap has, the same for everything that is compared."""
    return torch.randint(n, (RESAMPLED, n), generator=torch.Generator().manual_seed(0))


def interval(name: str, values: Tensor) -> dict[str, float]:
    """The mean over images with its 95 % interval, by the bootstrap's percentiles."""
    means = values.double()[resampled(len(values))].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return {name: float(values.double().mean()), f"{name}_low": low, f"{name}_high": high}


def rounded(values: Tensor, digits: int = 4) -> list:
    """For a record."""
    return [round(value, digits) for value in values.double().tolist()]


@dataclass(frozen=True, eq=False)
class Asked:
    """A model's tokens, asked with replacements.

    Attributes:
        subject: the model and its images.
        before: the intact images' probabilities.
    """

    subject: Subject
    before: Tensor

    @classmethod
    def of(cls, subject: Subject) -> "Asked":
        """With the probabilities of now."""
        with torch.no_grad():
            return cls(subject, torch.cat([subject.model(part).softmax(dim=-1) for _, part in subject.batches()]))

    @cache  # noqa: B019  # as long as the experiment
    def usual(self, block: int) -> Tensor:
        """What enters a block in the reference."""
        parts = self.subject.reference.split(BATCH)
        return torch.cat([states_at(self.subject.model, part, block) for part in parts])

    def replaced(self, which: Tensor | str, block: int, by: str) -> dict:
        """What is left of the class's probability, and of the class."""
        parts, own = [], self.before.argmax(dim=1)
        for start, images in self.subject.batches():
            mask = which if isinstance(which, str) else which[start : start + len(images)]
            parts.append(replace_tokens(self.subject.model, images, mask, block, by, self.usual(block), start))
        after = torch.cat(parts).softmax(dim=-1)
        change = (after - self.before).gather(1, own[:, None])[:, 0]
        same = (after.argmax(dim=1) == own).double()
        return {**interval("change", change), **interval("kept", same), "changes": rounded(change)}

    def swapped(self, token: Tensor | str, block: int) -> dict:
        """The classes' probabilities where a token is that of the next image of another class."""
        subject, own, n = self.subject, self.before.argmax(dim=1), len(self.before)
        others = [[j % n for j in range(i + 1, i + n) if own[j % n] != own[i]] or [(i + 1) % n] for i in range(n)]
        donor, parts = torch.tensor([numbers[0] for numbers in others]), []
        for start, images in subject.batches():
            there = token[start : start + len(images)] if isinstance(token, Tensor) else token
            source = subject.images[donor[start : start + len(images)]]
            parts.append(patch_state(subject.model, source, images, there, block))
        after = torch.cat(parts).softmax(dim=-1)
        theirs, mine = (after.gather(1, of[:, None])[:, 0] for of in (own[donor], own))
        found = after.argmax(dim=1)
        shares = {"follows": (found == own[donor]).double(), "stays": (found == own).double()}
        named = {"source": theirs, "target": mine} | shares
        return {key: value for name, values in named.items() for key, value in interval(name, values).items()}
