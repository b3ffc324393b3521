"""Checkers of chapter 19, The explorer."""

from functools import cache

import torch
from torch import Tensor

from ..config import ViTConfig
from ..models import ViT
from ..tape import Tape, record
from ..tokens import TokenPlan
from . import exercise, expect, expect_close, expect_fresh, expect_shape, refuse_mistakes

PARTS = "map", "others", "says"
GRID = 2, 3


@cache
def _tape() -> Tape:
    """Two registers from the start, a class token from block 1, 2 × 3 patches, one image."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(19)
        plan = TokenPlan.of(2, cls_pos=1, reg_pos=0, num_reg=2)
        model = ViT(ViTConfig((16, 24), 8, dim=24, depth=2, heads=3, plan=plan, classes=5)).eval()
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        with record(model) as tape:
            model(torch.randn(1, 3, 16, 24))
    return tape


@exercise
def check_my_explore(my_explore) -> None:
    """A head, the mean over heads, a register and a patch that ask, and a class token that is not there yet."""
    tape = _tape()
    seen = my_explore(tape, 1, 2, "cls")
    expect(isinstance(seen, dict) and set(seen) == {*PARTS}, "return a dictionary with map, others and says")
    row, layout = tape.row(1)[0], tape.plan.layout(1)
    start = layout["patches"].start
    expect_shape(seen["map"], GRID, "one map, (rows, columns): one image, one head")
    patches = row[:, start:]
    shares = patches / patches.sum(dim=-1, keepdim=True)
    grids = {
        "that is the mean over heads: head 2 is asked for": patches.mean(dim=0),
        "heads count from 0": patches[1],
        "the map is scaled to sum to 1: what lies off the patches is then no longer missing": shares[2],
        "the map is scaled to its own maximum: scaling colours is the front's work": patches[2] / patches[2].max(),
        "that is block 0: block 1 is asked for": tape.row(0, ("reg", 0))[0, 2, 2:],
        "the patches begin after all other tokens: layout says where": row[2, 1:7],
    }
    refuse_mistakes(seen["map"], {hint: values.unflatten(0, GRID) for hint, values in grids.items()})
    expect_close(seen["map"], patches[2].unflatten(0, GRID), "the token's shares of the patches, row by row")
    _check_others(seen["others"], row[2])
    mean = my_explore(tape, 1, None, "cls")
    expect_close(mean["map"], patches.mean(dim=0).unflatten(0, GRID), "head=None is the mean over heads")
    _check_others(mean["others"], row.mean(dim=0))
    asked = my_explore(tape, 1, 0, ("patch", 1, 2))
    right = tape.maps(1, ("patch", 1, 2))[0, 0]
    expect_close(asked["map"], right, "of is the token that asks: also a register, or a patch")
    _check_absent(my_explore, tape)


def _check_others(others, row: Tensor) -> None:
    """Class token and registers, and together with the map all of the attention."""
    expect(isinstance(others, dict), "others is a dictionary: the share of each group of tokens")
    expect("patches" not in others, "the patches are in the map: others are the groups beside them")
    expect(set(others) == {"cls", "reg"}, f"others has a share for cls and one for reg, not for {', '.join(others)}")
    right = {"cls": float(row[0]), "reg": float(row[1:3].sum())}
    for name, share in right.items():
        given = float(others[name])
        expect(abs(given - float(row[1:3].mean())) > 1e-6 or name == "cls", "a group's share is the sum of its tokens'")
        expect(abs(given - share) < 1e-5, f"{name} gets {share:.4f} of this row, not {given:.4f}")


def _check_absent(my_explore, tape: Tape) -> None:
    """Before it enters, the class token has no map, and a sentence says so."""
    try:
        seen = my_explore(tape, 0, None, "cls")
    except ValueError:
        expect(False, "before the class token enters there is nothing to see: catch TokenNotThere, and say it")
        return
    expect(
        seen["map"] is None and seen["others"] == {}, "where the token is not there, map is None and others is empty"
    )
    expect(
        "enters at block 1" in str(seen["says"]), "says is then the error's own text: it says where the token enters"
    )


@exercise
def check_levels(levels) -> None:
    """Three maps, one of them faint, one all 0; 8 bits each."""
    maps = [torch.tensor(each) for each in ([[0.5, 0.1], [0.0, 0.25]], [[0.02, 0.01], [0.0, 0.005]], [[0.0] * 2] * 2)]
    shared, own = levels([one.clone() for one in maps], True), levels([one.clone() for one in maps], False)
    for answer in (shared, own):
        expect(len(answer) == len(maps), "return one array a map, in their order")
        for one in answer:
            one = torch.as_tensor(one)
            expect(one.shape == (2, 2), "a level for each patch: the shape stays")
            expect(bool(one.double().isfinite().all()), "a map that is 0 everywhere has level 0 everywhere, not 0 / 0")
    shared, own = (torch.stack([torch.as_tensor(one).double() for one in answer]) for answer in (shared, own))
    every = torch.stack(maps).double()
    tops = every.amax(dim=(1, 2), keepdim=True).clamp_min(1e-9)
    right = [(255 * every / top).round() for top in (0.5, tops)]
    refuse_mistakes(
        shared,
        {
            "each map has its own scale: with shared=True the largest of all maps is 255": right[1],
            "levels are whole numbers from 0 to 255: round": 255 * every / 0.5,
            "levels end at 255: 256 is the ninth bit": (256 * every / 0.5).round(),
            "the levels are cut off, not rounded to the nearest": (255 * every / 0.5).floor(),
            "levels are whole numbers from 0 to 255: these end at 1": every / 0.5,
        },
    )
    expect_close(shared, right[0], "shared=True: 255 times each value over the largest of all maps, rounded")
    expect(not torch.equal(own, right[0]), "shared=False: each map ends at its own maximum")
    expect_close(own, right[1], "shared=False: 255 times each value over its own map's largest, rounded")


@exercise
def check_moved(moved) -> None:
    """Every key from every patch of a grid that is not square."""
    steps = {"ArrowUp": (-1, 0), "ArrowDown": (1, 0), "ArrowLeft": (0, -1), "ArrowRight": (0, 1)}
    rows, columns = grid = 3, 5
    for row in range(rows):
        for column in range(columns):
            expect(moved((row, column), "a", grid) == (row, column), "any other key leaves the patch as it is")
            for key, (down, right) in steps.items():
                there = row + down, column + right
                wanted = min(rows - 1, max(0, there[0])), min(columns - 1, max(0, there[1]))
                given = moved((row, column), key, grid)
                expect(isinstance(given, tuple) and len(given) == 2, "return a pair: the row, then the column")
                wrapped = there[0] % rows, there[1] % columns
                expect(
                    given == wanted or given != wrapped, f"{key} at the edge stays there: {given} is on the other side"
                )
                hint = f"{key} from {(row, column)} in {rows} × {columns} patches leads to {wanted}, not {given}"
                expect(given == wanted, hint)


@exercise
def check_kept(kept) -> None:
    """Two pictures in turn, a copy of one, and one that is changed in place."""
    calls: list[float] = []

    def look(picture: Tensor) -> float:
        calls.append(float(picture.sum()))
        return calls[-1]

    first, second = torch.ones(2, 2), torch.zeros(2, 2)
    ask = kept(look)
    expect(callable(ask), "return a function of a picture, which calls look when it must")
    answers = [ask(first), ask(second), ask(first)]
    expect(answers == [4.0, 0.0, 4.0], f"what look returns is returned, for each picture its own: not {answers}")
    expect(len(calls) > 1, "look was called once for two pictures")
    expect(len(calls) == 2, "look was called again for a picture that it had seen: keep more than the last one")
    ask(first.clone())
    expect(len(calls) == 2, "a copy has the same pixels, and so the same answer: know pictures by their contents")
    first[0, 0] = 5.0
    answer = ask(first)
    expect(answer == 8.0, "the picture was changed in place, and the old answer came back: its contents count")
    expect(ask(torch.zeros(4)) == 0.0 and len(calls) == 4, "the same numbers in another shape are another picture")
    expect(
        kept(look)(second) == 0.0 and len(calls) == 5, "each call of kept begins with nothing: another model's answers"
    )


@exercise
def check_helpers(helpers) -> None:
    """The plain model's plan with four registers in blocks 0 to 2, and nothing else changed."""
    model = helpers()
    expect(isinstance(model, ViT), "return a ViT: ViT.build takes a plan")
    expect_fresh(helpers)
    plan = model.plan
    registers = [group for group in plan.groups if group.name not in ("cls", "dist")]
    expect(len(registers) == 1 and registers[0].tokens == 4, "there is one group beside cls, of four tokens")
    expect(registers[0].enter == 0, "the registers enter at block 0")
    expect(registers[0].leave is not None, "the registers stay to the end: leave=3 drops them before block 3")
    expect(registers[0].leave == 3, f"the registers leave before block 3, not {registers[0].leave}")
    expect(plan.depth == 4 and plan.group("cls") is not None, "keep the depth of 4 and the class token")
    expect(
        plan.group("cls") == TokenPlan.of(4).group("cls"), "the class token enters at block 0, as in the plain model"
    )
    plain = ViT.build("vit_shapes_patch8_32").config
    expect(model.config.with_plan(plain.plan) == plain, "only the plan may differ from vit_shapes_patch8_32")
