"""What each question of `dtl probe` takes from its probe, and how the answer is drawn."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from ... import probes
from ...checks import check_finite
from ...tokens import PATCHES
from .answers import Answer
from .kinds import Pass

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ...models import ViT
    from ...tape import Tape, Token

FILTERS, COMPONENTS = 64, 28  # drawn: of the filters the first, of the components as many as ViT's figure 7 shows
SHOWN = 0.99  # of a map's values lie on its scale: one or two that stand out leave nothing else to see
ROLLOUT, RELEVANCE = "rollout", "relevance"
TOP = 5  # classes of a token that are kept
LETTERS = 17  # of a class's name and number under a map


def through_all_blocks(ask: Callable[[Pass, Token], Tensor], what: str) -> Callable[[Pass], Iterator[Answer]]:
    """The answers of a probe that gives a map of each image, `(batch, rows, columns)`."""

    def answers(of: Pass) -> Iterator[Answer]:
        from ... import figures
        from ...outputs.looking import called, query_text
        from ...outputs.pages import scale_of

        default = "cls" if of.model.plan.group("cls") else PATCHES
        where = of.args.query or (default if what == ROLLOUT else of.model.config.head_names[0])
        maps = ask(of, where)
        if maps.ndim != 3:
            raise ValueError(f"--query {where}: name one of its tokens, such as {where}:0")
        check_finite(maps)
        mark = where[1:] if isinstance(where, tuple) and len(where) == 3 else None
        for number, one in enumerate(maps.cpu().numpy()):
            about = _about(of, number) if of.classes and what != ROLLOUT else ""
            high, photo = scale_of(one, SHOWN), of.photos[number]
            settings = _settings(of, where, number, what)
            notes = [*_how(of, settings)] + [f"all patches {one.sum():.0%}"] * (what == ROLLOUT)
            if not one.any():
                notes.append("0 everywhere")
            if above := int((one > high).sum()):
                notes.append(f"{above} off the scale, to {one.max():.2g}")
            figure = figures.show_maps(
                [one], [f"of {called(where)}"], photo, mark, what, columns=2, size=2.4,
                notes=["\n".join(notes)], over=True, high=high,
            )  # fmt: skip
            arrays = {"map": one, "photo": photo, "query": query_text(where)} | settings
            yield Answer(figure, arrays, lines=[about] * bool(about))

    return answers


def _settings(of: Pass, where: Token, number: int, what: str) -> dict:
    """What a map depends on beside the token: its blocks, how heads and blocks became one, and the class."""
    from ...probes.rollouts import life

    made = dict(zip(("first", "last"), life(of.tape, where)))
    if what != RELEVANCE:
        made |= {name: getattr(of.args, name) for name in ("fuse", "discard", "residual")}
    return made if what == ROLLOUT else made | {"class": of.classes[number]}


def _how(of: Pass, settings: dict) -> Iterator[str]:
    """The same, as lines under a picture."""
    if "class" in settings:
        yield f"for {_short(of, settings['class'])}"
    if settings["first"] > 0 or settings["last"] < of.model.plan.depth - 1:
        yield f"blocks {settings['first']} to {settings['last']}"
    if "fuse" in settings:
        yield f"{settings['fuse']} of heads"
        yield f"residual {settings['residual']:g}"
        if settings["discard"]:
            yield f"{100 * settings['discard']:.6g}% discarded"


def rollout(of: Pass, where: Token) -> Tensor:
    args = of.args
    return probes.rollout(of.tape, where, args.fuse, args.discard, args.residual)


def gradient_rollout(of: Pass, where: Token) -> Tensor:
    args = of.args
    return probes.gradient_rollout(of.tape, where, args.fuse, args.discard, args.residual)


def relevance(of: Pass, where: Token) -> Tensor:
    return probes.relevance(of.tape, where)


def lens(of: Pass) -> Iterator[Answer]:
    """What the head says of every token after every block."""
    import numpy as np

    blocks = range(of.model.plan.blocks)
    if not of.classes:
        raise ValueError("this model has no classes, so that its head says nothing of a token: load one that has")
    for number, wanted in enumerate(of.classes):
        maps, rows, said, arrays = [], [], [], {"class": wanted, "photo": of.photos[number]}
        for block in blocks:
            logits = probes.logit_lens(of.model, of.tape, block)[number]
            probabilities, layout = logits.softmax(dim=-1), of.tape.plan.layout(block)
            best = probabilities.topk(min(TOP, probabilities.shape[-1]))
            arrays |= {f"classes_{block}": best.indices.numpy(force=True).astype("int32")}
            arrays |= {f"probabilities_{block}": best.values.numpy(force=True)}
            maps.append(probabilities[layout[PATCHES], wanted].unflatten(0, of.tape.grid).numpy(force=True))
            rows += _lens_rows(of, block, best, probabilities[:, wanted])
            said.append((block, *_said(of, layout, logits, wanted)))
        arrays["map"] = np.stack(maps)
        header = ("block", "token", "row", "column", "class", "name", "probability", f"probability of {wanted}")
        yield Answer(_lens_figure(of, number, maps), arrays, header, rows, [*_lens_lines(of, number, said)])


def _lens_rows(of: Pass, block: int, best, wanted: Tensor) -> Iterator[list]:
    """A row of the table for each token of a block."""
    layout, columns = of.tape.plan.layout(block), of.tape.grid[1]
    for name, where in layout.items():
        for index, place in enumerate(range(len(wanted))[where]):
            number, p = int(best.indices[place, 0]), float(best.values[place, 0])
            at = [*divmod(index, columns)] if name == PATCHES else ["", ""]
            called = name if name in (PATCHES, *of.model.config.head_names) else f"{name} {index}"
            said = of.names[number] if of.names else number
            yield [block, called, *at, number, said, f"{p:.4g}", f"{float(wanted[place]):.4g}"]


def _lens_figure(of: Pass, number: int, maps: list):
    from ... import figures

    trunk = maps[: of.model.plan.depth]  # class attention leaves the patches as they are
    titles = [f"block {block}" for block in range(len(trunk))]
    label = f"probability of {_short(of, of.classes[number])}"
    return figures.show_maps(trunk, titles, of.photos[number], label=label, columns=4, size=1.25, over=True)


def _said(of: Pass, layout: dict[str, slice], logits: Tensor, wanted: int) -> tuple[str, str, float, float]:
    """What the token that the head reads says, or the patches' mean where it reads them, or is not there yet."""
    name = next((name for name in of.model.config.head_names if name in layout), PATCHES)
    probabilities = logits[layout[name]].mean(dim=0).softmax(dim=0)
    best = int(probabilities.argmax())
    reader = "mean of patches" if name == PATCHES else name
    return reader, _name(of, best), float(probabilities[best]), float(probabilities[wanted])


def _lens_lines(of: Pass, number: int, said: list) -> Iterator[str]:
    """What is read after each block."""
    from ...figures import table

    yield _about(of, number)
    rows = [[block, reader, name, f"{best:.1%}", f"{wanted:.1%}"] for block, reader, name, best, wanted in said]
    yield repr(table(rows, ["block", "token", "says", "", _short(of, of.classes[number])]))


def _about(of: Pass, number: int) -> str:
    chosen = of.classes[number]
    how = "" if getattr(of.args, "class_", None) else ", the likeliest"
    return f"class {chosen}{f', {of.names[chosen]}' if of.names else ''}{how}"


def _name(of: Pass, number: int) -> str:
    return of.names[number].split(",")[0].split(" (")[0] if of.names else f"class {number}"


def _short(of: Pass, number: int) -> str:
    """A class as figures name it; its number too, for two classes may have one name."""
    name, end = _name(of, number), f" ({number})" if of.names else ""
    room = LETTERS - len(end)
    return (name if len(name) <= room else f"{name[: room - 1]}…") + end


def filters(model: ViT, args: Namespace) -> Answer:
    """Filters and their principal components."""
    from ... import figures

    raw, components = probes.embedding_filters(model), probes.principal_filters(model)
    shares = components.shares.tolist()
    groups = {
        f"{min(FILTERS, len(raw))} of {len(raw)} filters": probes.as_pictures(raw[:FILTERS]),
        f"first {min(COMPONENTS, len(shares))} principal components, {sum(shares[:COMPONENTS]):.0%} of the variance":
            probes.as_pictures(components.filters[:COMPONENTS]),
    }  # fmt: skip
    arrays = {"filters": raw, "components": components.filters, "shares": components.shares}
    rows = [[number, f"{share:.6g}", f"{sum(shares[: number + 1]):.6g}"] for number, share in enumerate(shares)]
    half = next(number for number in range(len(shares)) if sum(shares[: number + 1]) >= 0.5) + 1
    lines = [f"{len(raw)} filters; {half} principal components explain half of their variance"]
    figure = figures.show_filters(groups, columns=10)
    header = ("component", "share", "cumulative")
    return Answer(figure, {name: value.numpy() for name, value in arrays.items()}, header, rows, lines)


def positions(model: ViT, args: Namespace) -> Answer:
    """Similarity of positions."""
    from ... import figures
    from ...data.images import size_of

    added, rotary = model.config.positions != "none", model.config.rotary
    kinds = {"similarity": probes.position_similarity} if added else {}
    kinds |= {"rotary": probes.rotary_similarity} if rotary else {}
    grid = model.config.grid_of(*size_of(getattr(args, "image_size", model.config.image_size)))
    found = {name: ask(model, grid=grid) for name, ask in kinds.items()}
    if not found:
        raise ValueError("this model has no positions")
    check_finite(*found.values())
    said = " and ".join([model.config.positions] * added + [f"rotary ({rotary}; the first block's)"] * bool(rotary))
    shown = next(iter(found.values()))  # those that are added, where there are both
    arrays = {name: values.numpy() for name, values in found.items()}
    return Answer(figures.show_positions(shown), arrays, lines=[f"{said} positions, {grid[0]} × {grid[1]}"])


def flow(tape: Tape, args: Namespace) -> dict[tuple[str, int], Tensor]:
    found = {}
    for one in probes.flow(tape):
        found |= {(f"{of} to {on}", one.block): share for (of, on), share in one.given.items()}
        found |= {(f"all to {on}", one.block): share for on, share in one.received.items()}
    return found


def flow_figure(means: Mapping[str, np.ndarray]):
    """A panel for each group that gives, and one for all tokens."""
    from ... import figures

    panels: dict[str, dict[str, np.ndarray]] = {}
    for name in sorted(means, key=_rank):
        of, on = name.split(" to ")
        title = "all tokens give to" if of == "all" else f"{of} give{'s' * (of in ('cls', 'dist'))} to"
        panels.setdefault(title, {})[on] = means[name].mean(axis=1)
    return figures.show_flow(panels)


def _rank(name: str) -> list[int]:
    """Class token first, then registers, patches, and all tokens, whenever they enter."""
    order = ("cls", "dist", "", PATCHES, "all")
    return [order.index(part if part in order else "") for part in name.split(" to ")]
