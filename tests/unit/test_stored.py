"""The stored result of the real ViT-Ti on the photo of a cat: what it says, and that it is what the weights say."""

import importlib.util
import json
import os
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from dtl_lib.stored import attention
from dtl_lib.stored.files import LEDGER, LEVELS, opened

NAME = "vit_tiny_chelsea"
STORED = sorted(LEDGER.rglob("*.safetensors"))
CORNERS = ([0, 0, -1, -1], [0, -1, 0, -1])
WEIGHTS = Path(os.environ.get("DTL_DATA", "")) / "weights" / f"{attention.ORIGINS[NAME].weights}.safetensors"


@pytest.fixture(scope="module")
def result():
    return attention.load(NAME)


def test_shapes_types_and_size(result):
    shapes = {f.name: tuple(v.shape) for f in fields(result) if torch.is_tensor(v := getattr(result, f.name))}
    assert shapes == {
        "class_maps": (12, 3, 14, 14),
        "patch_maps": (12, 196, 14, 14),
        "eye_maps": (12, 3, 14, 14),
        "patch_norms": (12, 14, 14),
        "class_norms": (12,),
        "position_similarity": (14, 14, 14, 14),
        "probabilities": (5,),
    }
    assert all(getattr(result, name).dtype == torch.float32 for name in shapes)
    assert (attention.FOLDER / f"{NAME}.safetensors").stat().st_size <= 700_000


def test_maps_are_shares(result):
    for maps in (getattr(result, name) for name in attention.MAPS):
        assert (maps >= 0).all()
        half = maps.amax(dim=(-2, -1)).sqrt() / LEVELS / 2
        rounding = 2 * half * maps.sqrt().sum(dim=(-2, -1))  # of every entry, all in one direction
        assert (maps.sum(dim=(-2, -1)) <= 1 + rounding).all()


def test_cat_is_found_and_named(result):
    assert result.top5[0] == ("Egyptian cat", pytest.approx(0.81, abs=0.01))
    assert "cat" in result.names[1] and "cat" in result.names[2]


def test_class_token_finds_the_eye_in_block_3_and_stares_at_the_corners_from_block_7(result):
    maps = result.class_maps.mean(dim=1)
    assert divmod(int(maps[3].argmax()), 14) == attention.EYE
    corners = maps[:, *CORNERS].sum(dim=1)
    assert (corners[:7] < 0.06).all()
    assert (corners[7:] > 0.19).all()
    assert corners[10] > 0.6


def test_corner_patches_are_outliers_from_block_7_and_no_other_patch_is(result):
    ratio = result.patch_norms / result.patch_norms.flatten(1).median(dim=1).values[:, None, None]
    rest = torch.ones(14, 14, dtype=torch.bool)
    rest[CORNERS] = False
    assert (ratio[:6] < 2).all()
    assert (ratio[7:][:, *CORNERS] > 12).all()
    assert (ratio[7:][:, rest] < 2).all()
    assert (ratio[7][CORNERS] > 20).all() and ratio[7].max() > 30


def test_eye_maps_are_the_patch_maps_of_the_eye(result):
    row, column = attention.EYE
    torch.testing.assert_close(
        result.eye_maps.mean(dim=1), result.patch_maps[:, row * 14 + column], rtol=0.03, atol=1e-3
    )


def test_positions_are_most_like_themselves(result):
    similarity = result.position_similarity.flatten(2).flatten(0, 1)
    assert (similarity.argmax(dim=1) == torch.arange(196)).all()


def test_source_says_where_it_is_from(result):
    assert result.source["weights"].startswith("vit_tiny_patch16_224.")
    assert result.source["weights_licence"] == "apache-2.0"
    assert result.source["photo_licence"] == "CC0"
    assert result.source["command"] == f"python -m dtl_lib.stored.attention make {NAME}"


@pytest.mark.parametrize("file", STORED, ids=lambda file: str(file.relative_to(LEDGER)))
def test_the_command_that_a_file_names_is_there(file):
    with opened(file, "none") as content:
        card = json.loads(next(iter(content.metadata().values())))
    module = re.match(r"python -m ([\w.]+)", card.get("source", card)["command"]).group(1)
    assert importlib.util.find_spec(module)


def test_saving_keeps_every_map_within_half_a_step(tmp_path):
    seeded = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 14, 14, generator=seeded) * torch.tensor([1e-4, 1.0]).view(2, 1, 1, 1)
    exact = replace(attention.load(NAME), class_maps=maps, patch_maps=maps.clone())
    again = _round_trip(exact, tmp_path)
    assert _off(again.class_maps, maps) <= 0.501
    assert again.names == exact.names and again.source == exact.source


def test_stored_is_what_the_weights_say(result):
    if not WEIGHTS.is_file():
        pytest.skip(f"DTL_DATA holds no weights/{WEIGHTS.name}")
    exact = attention.compute(NAME)
    for name in attention.MAPS:
        assert _off(getattr(result, name), getattr(exact, name)) <= 0.6  # half a step, and another machine's float32
    for name in attention.HALVES:
        torch.testing.assert_close(getattr(result, name), getattr(exact, name), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(result.probabilities, exact.probabilities, rtol=1e-3, atol=1e-5)
    assert result.names == exact.names
    assert result.source == exact.source


def test_unknown_and_damaged_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'dog'.*there is vit_tiny_chelsea"):
        attention.load("dog")
    with pytest.raises(ValueError, match="nothing is stored as 'dog'"):
        attention.compute("dog")
    whole = (attention.FOLDER / f"{NAME}.safetensors").read_bytes()
    for cut in (0, 100, len(whole) - 1):
        (tmp_path / "cat.safetensors").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="damaged"):
            attention.load("cat", tmp_path)


def test_command_line_refuses_in_one_line(capsys):
    assert attention.main(["make", "dog"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert attention.main([]) == 2


def _round_trip(result, folder):
    attention.save(result, NAME, folder)
    return attention.load(NAME, folder)


def _off(stored_maps, maps):
    """The largest difference, in quantisation steps of its own map's root."""
    step = maps.amax(dim=(-2, -1), keepdim=True).sqrt() / LEVELS
    return float(((stored_maps.sqrt() - maps.sqrt()).abs() / step).max())


@pytest.mark.parametrize("name", attention.ASKED)
def test_routes_are_what_the_weights_say_and_tell_two_classes_apart(name):
    routes, asked = attention.load_routes(name), attention.ASKED[name]
    grid = (14, 14 * len(asked.photos))
    assert routes.last_block.shape == routes.rollout.shape == grid
    assert routes.relevance.shape == routes.gradient_rollout.shape == (len(asked.classes), *grid)
    assert (attention.FOLDER / "routes" / f"{name}.safetensors").stat().st_size <= 8_000
    if len(asked.photos) == 2:  # asked for the cat, more of it lies on the cat
        cat, coffee = routes.relevance[..., :14].sum(dim=(1, 2)) / routes.relevance.sum(dim=(1, 2))
        assert cat - coffee > 0.15
    if not WEIGHTS.is_file():
        pytest.skip(f"DTL_DATA holds no weights/{WEIGHTS.name}")
    exact = attention.compute_routes(name)
    for maps in attention.ROUTES:
        assert _off(getattr(routes, maps), getattr(exact, maps)) <= 0.6
    torch.testing.assert_close(routes.probabilities, exact.probabilities, rtol=1e-3, atol=1e-5)
    assert (routes.names, routes.source) == (exact.names, exact.source)


def test_routes_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'dog'.*there is vit_tiny_cat_and_coffee, vit_tiny_coffee"):
        attention.load_routes("dog")
    with pytest.raises(ValueError, match="nothing is stored as 'dog'"):
        attention.compute_routes("dog")
