"""The experiment on what one token knows, on tokens that are made up."""

import pytest
import torch

from book.experiments import knows, knows_states
from dtl_lib import load_pretrained
from tests.unit.fixed import noise

BLOCKS = len(knows_states.BLOCKS)


def photos(views: int = 60, dim: int = 9) -> dict:
    draw = torch.Generator().manual_seed(0)
    ever = torch.rand(views, 8, generator=draw) < 0.6
    states = {name: noise(views, 8, BLOCKS, dim, seed=seed).float() for seed, name in enumerate(("border", "twin"))}
    pixels = noise(views, 8, 12, seed=3).float()
    return states | {
        "long": ever & (torch.rand(views, 8, generator=draw) < 0.9),
        "ever": ever,
        "inside": noise(views, 8, BLOCKS, dim, seed=4).float(),
        "class token": noise(views, BLOCKS, dim, seed=5).float(),
        "new token": noise(views, 6, dim, seed=6).float(),
        "pixels": pixels,
        "inner pixels": -pixels,
        "photo": torch.arange(views) // 2,
        "animal": torch.arange(views) // 2 % 2,
    }


def test_the_eight_places_and_those_inside():
    assert knows_states.eight(5, 9) == [(0, 1), (1, 0), (0, 7), (1, 8), (3, 0), (4, 1), (4, 7), (3, 8)]
    assert knows_states.further((0, 1), 20, 20) == (5, 6)
    assert knows_states.further((18, 19), 20, 20) == (13, 14)
    assert knows_states.further((13, 0), 14, 14) == (8, 5)


def test_as_many_long_as_not_at_every_place():
    states = photos()
    chosen = knows.matched(states)
    for (views, places), true in ((chosen["long"], states["long"]), (chosen["not long"], ~states["ever"])):
        assert true[views, places].all() and len(set(zip(views.tolist(), places.tolist()))) == len(views)
    counts = [torch.bincount(places, minlength=8) for _, places in chosen.values()]
    fewer = torch.minimum(states["long"].sum(dim=0), (~states["ever"]).sum(dim=0))
    assert torch.equal(counts[0], counts[1]) and torch.equal(counts[0], fewer)


def test_each_kind_has_its_tokens_and_its_answers():
    states = photos()
    views, places = knows.matched(states)["long"]
    rows = knows.photo_rows(states, "pixels")
    assert torch.equal(rows["twin"][0], states["twin"][views, places][:, [0, 1, 3, 5, 7, 9]])
    assert torch.equal(rows["inside"][1], -rows["long"][1])
    assert {len(tokens) for tokens, *_ in rows.values()} == {len(views)}
    rows = knows.photo_rows(states, "animal")
    assert set(rows) == {"long", "not long", "twin", "inside", "class token", "new token"}
    assert torch.equal(rows["class token"][1], states["animal"][views])
    assert torch.equal(rows["new token"][0], states["new token"][views][:, [0, 2, 4]])  # it enters before block 7


@pytest.mark.slow
def test_a_question_is_measured_once_and_planted_answers_are_found(tmp_path):
    states = photos()
    states["border"][:, :, -2, :8] = torch.eye(8)  # long ones know their place at the end
    calls = []
    rows = lambda: calls.append(1) or knows.photo_rows(states, "place")  # noqa: E731
    for _ in range(2):
        knows.measure("photos, place", rows, [("long", "twin"), ("long", "new token")], str(tmp_path))
    of = {one.what: one for one in knows.ledger.read("knows", tmp_path)}
    assert len(calls) == 1 and len(of) == 6
    assert of["photos, place: long"].get("value")[-1] > 0.6 > 0.4 > of["photos, place: twin"].get("value")[-1]
    apart = of["photos, place: long less twin"]
    assert apart.get("low")[-1] > 0 and len(apart.get("value")) == len(knows.ASKED)


@pytest.mark.parametrize(("sign", "words"), [(1, "on CIFAR-10: reproduced"), (-1, "the opposite"), (0, "null")])
def test_claims_by_the_rules(tmp_path, sign, words):
    def row(what: str, sign: int) -> None:
        values = {"value": [0, sign], "low": [0, sign - 0.5], "high": [0, sign + 0.5]}  # after the last block, block 11
        knows.ledger.add("knows", what, "x", "cpu", values, n=5, seed=0, folder=tmp_path)

    for what in ("photos, place: long", "CIFAR-10, class: outlier"):
        row(what, 0)
    for what in ("photos, place: long less not long", "photos, pixels: long less not long"):
        row(what, -1)
    row("photos, pixels: long less twin", 1)
    for other in ("twin", "inside"):
        row(f"CIFAR-10, class: outlier less {other}", sign)
    place, pixels, classes, table = knows.claims({one.what: one for one in knows.ledger.read("knows", tmp_path)})
    assert place.endswith("reproduced") and pixels.endswith("null at this scale") and words in classes
    assert "out of reach" in table


def test_tokens_of_our_own_models():
    states = knows_states.of_shapes("shapes_depth6_reg4", 30)
    assert set(states) == {"class token", "patch at random", "patch on the object", "class", "middle",
                           *(f"register {number}" for number in range(4))}  # fmt: skip
    model, images = load_pretrained("zoo/shapes_depth6_reg4"), knows_states.data.load("shapes").test.batch(range(30))[0]
    with torch.no_grad(), knows_states.record(model) as tape:
        model(images)
    torch.testing.assert_close(states["register 2"][:, 3], tape.tokens(2)[:, 3])
    assert states["class token"].shape == (30, 7, 64) and (states["middle"] < 32).all()


def test_states_are_made_once(tmp_path):
    file = tmp_path / "deep" / "states.pt"
    made = knows_states.kept(file, lambda: {"x": torch.ones(2)})
    assert torch.equal(knows_states.kept(file, lambda: 1 / 0)["x"], made["x"])
