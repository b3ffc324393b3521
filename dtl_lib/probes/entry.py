"""Where does a trained model need its class token, or its registers? They enter later, or leave early.

Nothing is trained. The tokens of one group enter before block k, in one of four ways; from there on the model runs as
it is. What enters is

- `learned`: the group's own parameters, as they enter where the plan says;
- `mean`: the group's state before block k in the untouched model, averaged over all *other* images: it holds nothing
  of this image;
- `shuffle`: that state of one other image, drawn at random;
- `itself`: that state of this image.

Two things are then different, and `before` keeps them apart. With `absent`, the blocks before k run without the group:
no other token attends to it there. With `present`, those blocks run as in the untouched model, and only the group's
state is replaced. `itself` with `present` takes the group out and puts it back: this is the control, and nothing may
change. `itself` with `absent` is no control: what is lost there is what the other tokens lack without the group. What
`mean` loses with `present` is what the group had gathered from the image by then.

`leave`: the group is there until block k, and not from there on. A head that reads the group reads its state before
block k, normalised as after the last block; any other head reads what the remaining blocks make without the group.

The class token moves together with the distillation token, as in any token plan.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..checks import as_whole
from ..hooks import evaluating
from ..models import ViT
from .entry_route import Route
from .entry_rows import ABSENT, LEAVE, PRESENT, EntryResult, EntryRow, Interval, Tally
from .entry_states import States, images_and_labels

__all__ = ["BEFORE", "WAYS", "EntryResult", "EntryRow", "Interval", "measure_entry"]

ENTERING = ("learned", "mean", "shuffle", "itself")
WAYS = (*ENTERING, LEAVE)
BEFORE = (ABSENT, PRESENT)
Cell = tuple[str, str, int]  # way, before, block


def measure_entry(
    model: ViT,
    batches: Iterable,
    blocks: Sequence[int] | None = None,
    ways: Sequence[str] = WAYS,
    before: Sequence[str] = BEFORE,
    group: str = "cls",
    seed: int = 0,
) -> EntryResult:
    """What is left of a trained model whose group of tokens enters before each of some blocks, or leaves there.

    The images are read twice: for the states of the group in the untouched model, and to measure. Memory does not grow
    with their number: of the states it keeps the sum, and those of at most 512 images, drawn at random, for `shuffle`.

        >>> from dtl_lib import data, load_pretrained, probes
        >>> model, test = load_pretrained("zoo/shapes_depth6_reg4"), data.load("shapes").test
        >>> batches = [test.batch(range(start, start + 50)) for start in (0, 50)]
        >>> result = probes.measure_entry(model, batches, blocks=[0, 2, 4])
        >>> result.row(0, "learned").largest_change  # it enters there anyway
        0.0
        >>> result.row(4, "itself", before="present").agreement.value  # the control
        1.0

    Args:
        model: a `ViT`; `from_timm` makes one of a timm model.
        batches: images `(batch, channels, height, width)`, normalised as the model expects, or pairs of images and
            labels `(batch,)`; the same in the same order each time they are iterated, such as a list or a DataLoader
            that does not shuffle.
        blocks: before which the group enters or leaves, among those that it is in; all of them where None. A group
            cannot leave before the first of them: `leave` has no row there.
        ways: some of `WAYS`.
        before: `absent`, `present` or both, for the ways of entering.
        group: its name in the model's plan. `cls` moves `dist` too.
        seed: of the images drawn for `shuffle`.

    Raises:
        ValueError: for what is no `ViT`, a group or a block that it does not have, batches that cannot be read twice,
            and a single image for `mean` or `shuffle`.
    """
    route = Route(model, group)
    cells = _cells(route, blocks, ways, before)
    if isinstance(batches, Iterator):
        raise ValueError("batches are read twice: give a list or a DataLoader, not a generator")
    with evaluating(model), torch.inference_mode():
        states = States(route, sorted({block for _, _, block in cells}), seed)
        for images, _ in images_and_labels(model, batches):
            states.keep(images)
        states.check({way for way, _, _ in cells} & {"mean", "shuffle"})
        return _measure(route, batches, states, cells)


def _cells(route: Route, blocks: Sequence[int] | None, ways: Sequence[str], before: Sequence[str]) -> list[Cell]:
    """Every row that was asked for and is there."""
    for name, given, known in (("ways", ways, WAYS), ("before", before, BEFORE)):
        if isinstance(given, str) or not given or not set(given) <= set(known):
            raise ValueError(f"{name} are some of {', '.join(known)}, not {given!r}")
    there = range(route.first, route.stop)
    wanted = dict.fromkeys(there if blocks is None else blocks)
    if wrong := [block for block in wanted if as_whole(block) is None or block not in there]:
        raise ValueError(f"{route.group} is in blocks {there[0]} … {there[-1]} of this model, not in {wrong[0]!r}")
    kinds = [(way, where) for where in BEFORE if where in before for way in ENTERING if way in ways]
    kinds += [(LEAVE, PRESENT)] if LEAVE in ways else []
    cells = [(*kind, int(block)) for kind in kinds for block in wanted if kind[0] != LEAVE or block > route.first]
    if not cells:
        raise ValueError(f"{route.group} enters at block {route.first}: give a later block for it to leave before")
    return cells


def _measure(route: Route, batches: Iterable, states: States, cells: list[Cell]) -> EntryResult:
    """The second pass."""
    tallies, untouched, size = {cell: Tally() for cell in cells}, Tally(), None
    classes = route.model.config.classes > 0
    for images, labels in images_and_labels(route.model, batches):
        size = size or tuple(images.shape[-2:])
        read, reference = _reads(route, images, states, cells)
        logits = route.logits(reference)
        untouched.add(reference, reference, logits, logits, labels, classes)
        for cell, values in read.items():
            tallies[cell].add(values, reference, route.logits(values), logits, labels, classes)
    states.check_all_seen()
    rows = []
    for (way, before, block), tally in tallies.items():
        replaced = before == PRESENT and way != LEAVE
        cost = 1.0 if replaced else route.relative_cost(size, block, way == LEAVE)
        rows.append(tally.row(block, way, before, cost))
    return EntryResult(route.group, untouched.n, untouched.accuracy(), states.between(), tuple(rows))


def _reads(route: Route, images: Tensor, states: States, cells: list[Cell]) -> tuple[dict[Cell, Tensor], Tensor]:
    """What the classifiers read in each cell, and in the untouched model: `(batch, heads, dim)`."""
    read, own, x = {}, [], images
    absent = route.sequences(images, absent=True) if any(before == ABSENT for _, before, _ in cells) else None
    states.draw(len(images))
    for block, x in enumerate(route.sequences(images)):
        bare = next(absent) if absent else None
        if block not in states.blocks:
            continue
        own.append(route.state(x, block))
        others = {ABSENT: bare, PRESENT: route.others(x, block)}
        for cell in cells:
            if cell[2] == block:
                read[cell] = _read(route, cell, others[cell[1]], own[-1], states)
    states.check_same(own)
    return {cell: read[cell] for cell in cells}, route.finish(x, route.last)


def _read(route: Route, cell: Cell, others: Tensor, own: Tensor, states: States) -> Tensor:
    """What the classifiers read in one cell, from the tokens beside the group and the group's own state."""
    way, _, block = cell
    if way == LEAVE:
        return route.model.norm(own) if route.read_by_head else route.finish(others, block, without=True)
    if way == "learned":
        enters = route.learned().expand_as(own)
    elif way == "mean":
        enters = states.mean_of_others(own, block)
    else:
        enters = own if way == "itself" else states.of_another(block)
    return route.finish(route.insert(others, enters, block), block)
