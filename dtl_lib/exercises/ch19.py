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
SIDE, MIDDLE = 40, 20  # of a picture: printed, its middle would be left out
AGAIN = "look was called again for a picture that it had seen"


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
    expect(isinstance(seen["says"], str) and seen["says"], "says is a sentence of yours, as text")
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
    hint = "head 0 is a head, the first: the mean is for head=None alone"
    refuse_mistakes(my_explore(tape, 1, 0, "cls")["map"], {hint: patches.mean(dim=0).unflatten(0, GRID)})
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
    maps = [torch.tensor(each) for each in ([[0.5, 0.1], [0.06, 0.26]], [[0.02, 0.013], [0.0, 0.005]], [[0.0] * 2] * 2)]
    shared, own = levels([one.clone() for one in maps], True), levels([one.clone() for one in maps], False)
    for answer in (shared, own):
        expect(len(answer) == len(maps), "return one array a map, in their order")
        for one in answer:
            one = torch.as_tensor(one)
            expect(one.shape == (2, 2), "a level for each patch: the shape stays")
            expect(bool(one.double().isfinite().all()), "a map that is 0 everywhere has level 0 everywhere, not 0 / 0")
    shared, own = (torch.stack([torch.as_tensor(one).double() for one in answer]) for answer in (shared, own))
    every = torch.stack(maps).double()
    tops, least = every.amax(dim=(1, 2), keepdim=True).clamp_min(1e-9), every.amin(dim=(1, 2), keepdim=True)
    right = [(255 * every / top).round() for top in (0.5, tops)]
    refuse_mistakes(
        shared,
        {
            "each map has its own scale: with shared=True the largest of all maps is 255": right[1],
            "levels are whole numbers from 0 to 255: round": 255 * every / 0.5,
            "levels end at 255: 256 is the ninth bit": (256 * every / 0.5).round(),
            "the levels are cut off, not rounded to the nearest": (255 * every / 0.5).floor(),
            "levels are whole numbers from 0 to 255: these end at 1": every / 0.5,
            "level 0 is the value 0, not the smallest of a map": (255 * (every - least) / (0.5 - least)).round(),
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

    def given(patch: tuple[int, int], key: str) -> tuple[int, int]:
        answer = moved(patch, key, grid)
        expect(isinstance(answer, tuple) and len(answer) == 2, "return a pair, a tuple: the row, then the column")
        return answer

    for row in range(rows):
        for column in range(columns):
            expect(given((row, column), "a") == (row, column), "any other key leaves the patch as it is")
            for key, (down, right) in steps.items():
                there = row + down, column + right
                wanted = min(rows - 1, max(0, there[0])), min(columns - 1, max(0, there[1]))
                answer, wrapped = given((row, column), key), (there[0] % rows, there[1] % columns)
                beyond = answer == wrapped != wanted
                expect(not beyond, f"{key} at the edge stays there: {answer} is on the other side")
                hint = f"{key} from {(row, column)} in {rows} × {columns} patches leads to {wanted}, not {answer}"
                expect(answer == wanted, hint)


@exercise
def check_kept(kept) -> None:
    """Two pictures in turn, copies, and pictures that have much in common with one that was seen."""
    calls: list[Tensor] = []

    def look(picture: Tensor) -> int:
        calls.append(picture.clone())
        return 2 - len(calls)  # the answer about the second picture is 0

    def new(picture: Tensor, hint: str) -> None:
        right = 1 - len(calls)
        expect(ask(picture) == right and calls[-1].shape == picture.shape, hint)

    first, second = torch.ones(SIDE, SIDE), torch.zeros(SIDE, SIDE)
    ask = kept(look)
    expect(callable(ask), "return a function of a picture, which calls look when it must")
    answers = [ask(first), ask(second)]
    expect(len(calls) > 1, "look was called once for two pictures")
    expect(answers == [1, 0], f"what look returns is returned, for each picture its own: not {answers}")
    known = [(first.clone(), 1), (second.clone(), 0)]
    expect(ask(first) == 1 and len(calls) == 2, f"{AGAIN}: keep more than the last one")
    expect(ask(second) == 0 and len(calls) == 2, f"{AGAIN}, and answered with 0: look for the picture, not the answer")
    expect(ask(first.clone()) == 1 and len(calls) == 2, "a copy has the same pixels, and so the same answer")
    first[MIDDLE, MIDDLE] = 5.0
    new(first, "the picture was changed in place, in its middle, and the old answer came back: its contents count")
    first[MIDDLE, MIDDLE : MIDDLE + 2] = torch.tensor([1.0, 5.0])
    new(first, "the same values at other places are another picture: a sum, a mean or a deviation does not tell")
    second[MIDDLE, MIDDLE] = 1e-3
    new(second, "a picture that differs by a thousandth at one pixel is another picture")
    new(torch.zeros(SIDE * SIDE), "the same numbers in another shape are another picture")
    for picture, answer in known:
        before = len(calls)
        expect(ask(picture) == answer and len(calls) == before, f"{AGAIN}, some pictures ago: it remembers all")
    before = len(calls)
    fresh = kept(look)(known[0][0])
    expect(fresh == 1 - before, "each call of kept begins with nothing: it may be another model's")


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
