"""The kinds of questions that `dtl probe` knows: of the weights, of each image, and averaged over images."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...host import find_device
from ..evaluate import unreadable
from ..terminal import counted
from .answers import SAID, Answer, Files, model_name
from .chosen import Chosen, choose, pixels, read
from .classes import class_number, names_of_classes
from .reading import at_once, corrupt_images, raise_unreadable

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from torch import Tensor

    from ...data.corrupt import CorruptImages
    from ...models import ViT
    from ...probes import Estimate
    from ...tape import Tape

SAMPLES = 1_000  # images of a data set that are averaged over


@dataclass(frozen=True)
class Question:
    """A row of the table of questions.

    Args:
        asks: what is asked, a line for the help.
        flags: the names of its own flags.
    """

    asks: str
    flags: tuple[str, ...] = ()

    def run(self, args: Namespace, model: ViT) -> None:
        """Answer it."""
        raise NotImplementedError


@dataclass(frozen=True)
class OfEntry(Question):
    """`dtl probe entry`, which prints and records."""

    def run(self, args: Namespace, model: ViT) -> None:
        from . import entry

        entry.run(args, model)


@dataclass(frozen=True)
class OfWeights(Question):
    """A question of the weights alone.

    Args:
        answer: a function of the model and the arguments.
        table: whether the answer has one.
        sized: whether it depends on the size of an image.
    """

    answer: Callable[[ViT, Namespace], Answer] = None  # pyright: ignore[reportAssignmentType]
    table: bool = False
    sized: bool = False

    def run(self, args: Namespace, model: ViT) -> None:
        if args.images or args.data or args.data_path:
            raise ValueError(f"{args.question} reads the weights alone: name no images")
        for flag in ("part", "samples", "batch_size", "level", *([] if self.sized else ["image_size"])):
            if getattr(args, flag, None) is not None:
                raise ValueError(f"{args.question} looks at no images: leave --{flag.replace('_', '-')} out")
        files = Files(args, [name := model_name(args.weights or args.model)], self.table)
        answer = self.answer(model, args)
        files.save(name, answer)
        print("\n".join([*answer.lines, *files.lines()]))


@dataclass(frozen=True)
class OfEach(Question):
    """A question of each image, answered image by image.

    Args:
        answers: a function of what a forward pass has left: an answer for each image of the batch.
        table: whether an answer has one.
        gradient: whether it needs the gradient of a class's logit.
    """

    answers: Callable[[Pass], Iterable[Answer]] = None  # pyright: ignore[reportAssignmentType]
    table: bool = False
    gradient: bool = False

    def run(self, args: Namespace, model: ViT) -> None:
        images = choose(args, model, samples=1)
        files = Files(args, images.names, self.table)
        model = model.to(find_device(args.device))
        names = names_of_classes(model, images)
        number = class_number(args.class_, model.config.classes, names) if args.class_ else None
        corrupt, lines = corrupt_images(args), []
        batches, saved = _batches(images, args, model, corrupt, 4 if self.gradient else 1), []
        with counted(saved, len(images.names), files.folder):
            for x, numbers in batches:
                answers = self.answers(_pass(model, x, args, number, names, self.gradient))
                for index, answer in zip(numbers.tolist(), answers):
                    files.save(images.names[index], answer)
                    saved.append(index)
                    if answer.lines and len(lines) < SAID:
                        lines.append("\n".join([f"{images.names[index]}: {answer.lines[0]}", *answer.lines[1:]]))
        print("\n".join([*lines, *_notes(images, args, corrupt), *files.lines()]))
        raise_unreadable(args, corrupt)


@dataclass(frozen=True)
class OverImages(Question):
    """A question whose answer is an average over images, with a 95 % interval.

    Args:
        measure: a function of a tape and the arguments: values `(batch,)` or `(batch, heads)` by (name, block).
        what: what the values are, with their unit.
        control: on how many images the untrained model is asked as well; 0: not at all.
        draw: a function of the averages by name, (blocks, heads), that gives a figure; of each head where None.
        stream: whether the residual stream is looked at, and not attention alone.
    """

    measure: Callable[[Tape, Namespace], Mapping[tuple[str, int], Tensor]] = None  # pyright: ignore[reportAssignmentType]
    what: str = ""
    control: int = 0
    draw: Callable[[Mapping[str, np.ndarray]], Figure] | None = None
    stream: bool = True

    def run(self, args: Namespace, model: ViT) -> None:
        from ... import probes

        images = choose(args, model, samples=SAMPLES)
        files = Files(args, [name := model_name(args.weights or args.model)], table=True)
        model = model.to(find_device(args.device))
        batches = _batches(images, args, model, corrupt := corrupt_images(args))
        measure = lambda tape: self.measure(tape, args)  # noqa: E731
        found, untrained = probes.with_control(model, batches, measure, self.control, stream=self.stream)
        what = f"{self.what},\nrows not renormalised" if args.original else self.what
        answer = self._answer(found, untrained, what)
        files.save(name, answer)
        print("\n".join([*answer.lines, *_notes(images, args, corrupt), *files.lines()]))
        raise_unreadable(args, corrupt)

    def _answer(self, found: Mapping, untrained: Mapping, what: str) -> Answer:
        from ... import figures

        parts = {part: _by_block(found, part) for part in ("mean", "low", "high")}
        control, n = _by_block(untrained, "mean"), next(iter(found.values())).n
        arrays = {"n": n}
        for part, by_name in parts.items():
            arrays |= {name + ("" if part == "mean" else f"_{part}"): values for name, values in by_name.items()}
        arrays |= {f"{name}_untrained": values for name, values in control.items()}
        if self.draw is not None:
            figure = self.draw(parts["mean"])
        else:
            name = next(iter(parts["mean"]))
            mean, low, high = (by_name[name] for by_name in parts.values())
            figure = figures.show_heads(mean, what, low, high, control.get(name))
        lines = [*_lines(parts["mean"], control, what.replace("\n", " "), n)]
        return Answer(figure, arrays, *self._table(found, untrained), lines)

    @staticmethod
    def _table(found: Mapping, untrained: Mapping) -> tuple[Sequence[str], list[list]]:
        header = ["value", "block", "head", "mean", "low", "high"] + ["untrained"] * bool(untrained)
        rows = []
        for (name, block), estimate in found.items():
            parts = [estimate.mean, estimate.low, estimate.high]
            parts += [untrained[name, block].mean] if untrained else []
            for head, values in enumerate(zip(*(part.reshape(-1).tolist() for part in parts))):
                rows.append([name, block, head if estimate.mean.ndim else "", *(f"{value:.6g}" for value in values)])
        return header, rows


@dataclass(frozen=True)
class Together(Question):
    """A question that all images answer together.

    Args:
        answer: a function of the model and of the batches of images.
    """

    answer: Callable[[ViT, Iterable], Answer] = None  # pyright: ignore[reportAssignmentType]

    def run(self, args: Namespace, model: ViT) -> None:
        images = choose(args, model, samples=SAMPLES)
        files = Files(args, [name := model_name(args.weights or args.model)], table=True)
        args.batch_size = args.batch_size or at_once(model, images.images.image_size, tape=True)
        batches = _batches(images, args, model, corrupt := corrupt_images(args))
        answer = self.answer(model.to(find_device(args.device)), batches)
        files.save(name, answer)
        print("\n".join([*answer.lines, *_notes(images, args, corrupt), *files.lines()]))
        raise_unreadable(args, corrupt)


@dataclass(frozen=True)
class Pass:
    """What a forward pass of one batch has left, for the questions that are asked of each image.

    Attributes:
        model, args: which model, and what was asked.
        tape: from `record`, with gradients where the question needs them.
        classes: the number of the class that is asked about, for each image; empty for a model without classes.
        names: of the model's classes; None where nothing says them.
        photos: the images that the model saw, uint8 (batch, height, width, 3).
    """

    model: ViT
    args: Namespace
    tape: Tape
    classes: list[int]
    names: list[str] | None
    photos: np.ndarray


def _pass(model: ViT, x: Tensor, args: Namespace, number: int | None, names: list[str] | None, gradient: bool) -> Pass:
    import torch

    from ...tape import record

    photos, x = pixels(x, model), x.to(next(model.parameters()).device)
    if gradient and not model.config.classes:
        raise ValueError(f"{args.question} explains a class, and this model has none: rollout needs no class")
    x.requires_grad_(gradient)
    with torch.set_grad_enabled(gradient), record(model, grad=gradient) as tape:
        logits = model(x)
        if not logits.isfinite().all():
            raise ValueError("what the model says is non-finite: its weights are damaged, or too large")
        classes = [number] * len(x) if number is not None else logits.argmax(dim=1).tolist()
        if gradient:  # down to the images alone: no gradient of a weight is needed
            torch.autograd.grad(logits[range(len(x)), classes].sum(), x)
    return Pass(model, args, tape, classes if model.config.classes else [], names, photos)


def _batches(
    images: Chosen, args: Namespace, model: ViT, corrupt: CorruptImages, weight: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their numbers; as many at once as the attention of one block, `weight` times, fits into memory."""
    size = args.batch_size or at_once(model, images.images.image_size, weight)
    return read(images, args, size, corrupt)


def _notes(images: Chosen, args: Namespace, corrupt: CorruptImages) -> Iterator[str]:
    if images.note:
        yield images.note
    if corrupt.names and args.max_corrupt is not None:
        yield unreadable(corrupt.names)


def _by_block(found: Mapping[tuple[str, int], Estimate], part: str) -> dict[str, np.ndarray]:
    """By name, (blocks, heads); NaN in the blocks that have no such value."""
    import numpy as np

    blocks = 1 + max((block for _, block in found), default=0)
    arrays: dict[str, np.ndarray] = {}
    for (name, block), estimate in found.items():
        values = getattr(estimate, part).reshape(-1).numpy()
        arrays.setdefault(name, np.full((blocks, len(values)), math.nan))[block] = values
    return arrays


def _lines(means: Mapping, control: Mapping, what: str, n: int) -> Iterator[str]:
    """A table for the terminal: of each block the mean over heads."""
    from ...figures import table

    columns = {name: values.mean(axis=1) for name, values in means.items()}
    columns |= {f"{name}, untrained": values.mean(axis=1) for name, values in control.items()}
    rows = [
        [block, *("" if math.isnan(value) else f"{value:.3g}" for value in values)]
        for block, values in enumerate(zip(*columns.values()))
    ]
    yield f"{what}; mean over heads and {n:,} image{'s' * (n > 1)}"
    yield repr(table(rows, ["block", *columns]))
