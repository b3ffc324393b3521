"""Wrong answers that the checkers of chapter 19 have to refuse."""

import torch

from dtl_lib import Group, TokenNotThere, TokenPlan, ViT


def explored(
    mean=False, first=0, scale="none", start=None, block=None, sums=True, patches=False, catch=True, says=True,
    of=True, flat=False, each=False, everything=False,
):  # fmt: skip
    """An answer with one thing wrong."""

    def my_explore(tape, at, head=None, of_token="cls"):
        at = at if block is None else block
        try:
            row = tape.row(at, of_token if of else "cls")[0]
        except TokenNotThere as why:
            if not catch:
                raise
            return {"map": None, "others": {}, "says": str(why) if says else "nothing"}
        row = row.mean(dim=0) if head is None or mean else row[head - first]
        layout = tape.plan.layout(at)
        begin = layout["patches"].start if start is None else start
        values = row[begin : begin + 6]
        values = values / values.sum() if scale == "sum" else values / values.max() if scale == "maximum" else values
        others = {}
        for name, where in layout.items():
            if name != "patches" or patches:
                others[name] = float(row[where].sum() if sums else row[where].mean())
        if each:
            others = {"cls": others["cls"], "reg:0": 0.1, "reg:1": 0.1}
        seen = {"map": values if flat else values.unflatten(0, tape.grid), "others": others, "says": "as it is"}
        return seen if not everything else tuple(seen.values())

    return my_explore


def turned(tape, at, head=None, of="cls"):
    seen = explored()(tape, at, head, of)
    if seen["map"] is not None:
        seen["map"] = seen["map"].flatten().unflatten(0, tape.grid[::-1]).T
    return seen


def mean_for_head_0(tape, at, head=None, of="cls"):
    return explored()(tape, at, head or None, of)


def says_nothing(tape, at, head=None, of="cls"):
    seen = explored()(tape, at, head, of)
    return seen if seen["map"] is None else {**seen, "says": None}


def zeros_for_absent(tape, at, head=None, of="cls"):
    seen = explored()(tape, at, head, of)
    return seen if seen["map"] is not None else {**seen, "map": torch.zeros(tape.grid)}


def levels_of(top=255, own=None, rounded=True, guard=True, least=False, single=False):
    """Levels with one thing wrong; `own` ignores what is asked."""

    def levels(maps, shared):
        shared = shared if own is None else not own
        highest = max(float(one.max()) for one in maps)
        answer = []
        for one in maps:
            low = float(one.min()) if least else 0.0
            end = (highest if shared else float(one.max())) - low
            values = top * (one - low) / (end if not guard else end or 1.0)
            answer.append(values.round() if rounded else values)
        return answer[:1] if single else answer

    return levels


def floored(maps, shared):
    return [one.floor() for one in levels_of(rounded=False)(maps, shared)]


def lifted(maps, shared):
    return [one + 1 for one in levels_of()(maps, shared)]


STEPS = {"ArrowUp": (-1, 0), "ArrowDown": (1, 0), "ArrowLeft": (0, -1), "ArrowRight": (0, 1)}


def moves(wrap=False, clamp=True, swap=False, upside=False, square=False, as_list=False, strict=False, turned=False):
    def moved(patch, key, grid):
        if strict and key not in STEPS:
            raise KeyError(key)
        down, right = STEPS.get(key, (0, 0))
        down, right = (right, down) if swap else (-down, right) if upside else (down, right)
        there = patch[0] + down, patch[1] + right
        limits = grid[::-1] if turned else (min(grid),) * 2 if square else grid
        if wrap:
            there = there[0] % grid[0], there[1] % grid[1]
        elif clamp:
            there = tuple(min(limit - 1, max(0, at)) for at, limit in zip(there, limits))
        return list(there) if as_list else there

    return moved


def nothing_kept(look):
    return look


def only_the_last(look):
    last = {}

    def ask(picture):
        key = (tuple(picture.shape), tuple(picture.flatten().tolist()))
        if key not in last:
            last.clear()
            last[key] = look(picture)
        return last[key]

    return ask


def by_key(key, store=None):
    def kept(look):
        seen = {} if store is None else store

        def ask(picture):
            name = key(picture)
            if name not in seen:
                seen[name] = look(picture)
            return seen[name]

        return ask

    return kept


by_identity = by_key(id)
one_for_all = by_key(lambda picture: 0)
by_shape = by_key(lambda picture: tuple(picture.shape))
by_numbers = by_key(lambda picture: tuple(picture.flatten().tolist()))
by_sum = by_key(lambda picture: (tuple(picture.shape), float(picture.sum())))
by_moments = by_key(lambda picture: (tuple(picture.shape), float(picture.mean()), float(picture.std())))
by_first_pixel = by_key(lambda picture: (tuple(picture.shape), float(picture.flatten()[0])))
by_print = by_key(str)


def by_nearness(look):
    seen = []

    def ask(picture):
        for known, answer in seen:
            if known.shape == picture.shape and torch.allclose(known, picture, atol=0.01):
                return answer
        seen.append((picture.clone(), look(picture)))
        return seen[-1][1]

    return ask


def true_answers_only(look):
    seen = {}

    def ask(picture):
        name = tuple(picture.shape), tuple(picture.flatten().tolist())
        seen[name] = seen.get(name) or look(picture)
        return seen[name]

    return ask


def the_last_two(look):
    seen = {}

    def ask(picture):
        name = tuple(picture.shape), tuple(picture.flatten().tolist())
        if name not in seen:
            seen[name] = look(picture)
            if len(seen) > 2:
                seen.pop(next(iter(seen)))
        return seen[name]

    return ask


one_store = by_key(lambda picture: (tuple(picture.shape), tuple(picture.flatten().tolist())), {})


def with_plan(plan, name="vit_shapes_patch8_32", **options):
    return lambda: ViT.build(name, plan=plan, **options)


def groups(tokens=4, enter=0, leave=3, cls=0):
    return TokenPlan(4, (Group("cls", 1, cls), Group("help", tokens, enter, leave)))


ONCE = ViT.build("vit_shapes_patch8_32", plan=groups())

WRONG = {
    "check_my_explore": [
        explored(mean=True),
        explored(first=1),
        explored(scale="sum"),
        explored(scale="maximum"),
        explored(start=1),
        explored(start=0),
        explored(block=0),
        explored(sums=False),
        explored(patches=True),
        explored(catch=False),
        explored(says=False),
        explored(of=False),
        explored(flat=True),
        explored(each=True),
        explored(everything=True),
        turned,
        zeros_for_absent,
        mean_for_head_0,
        says_nothing,
    ],
    "check_levels": [
        levels_of(own=True),
        levels_of(own=False),
        levels_of(top=256),
        levels_of(top=1, rounded=False),
        levels_of(rounded=False),
        levels_of(guard=False),
        levels_of(single=True),
        levels_of(least=True),
        floored,
        lifted,
    ],
    "check_moved": [
        moves(wrap=True),
        moves(clamp=False),
        moves(swap=True),
        moves(upside=True),
        moves(square=True),
        moves(as_list=True),
        moves(strict=True),
        moves(turned=True),
    ],
    "check_kept": [
        nothing_kept,
        only_the_last,
        the_last_two,
        true_answers_only,
        by_identity,
        one_for_all,
        by_shape,
        by_numbers,
        by_sum,
        by_moments,
        by_first_pixel,
        by_print,
        by_nearness,
        one_store,
    ],
    "check_helpers": [
        with_plan(groups(tokens=3)),
        with_plan(groups(enter=1)),
        with_plan(groups(leave=None)),
        with_plan(groups(leave=2)),
        with_plan(groups(cls=2)),
        with_plan(TokenPlan.of(4)),
        with_plan(TokenPlan(4, (Group("cls", 1), Group("a", 2, 0, 3), Group("b", 2, 0, 3)))),
        with_plan(groups(), dim=32),
        lambda: ONCE,
    ],
}
