"""What a probe reads from one token, against planted truths and a ridge regression by hand."""

import numpy as np
import pytest
import timm
import torch

from dtl_lib import from_timm, probes, record
from dtl_lib.probes import knows
from dtl_lib.tokens import TokenNotThere
from tests.unit.fixed import noise
from tests.unit.loops import PLANS
from tests.unit.small import SMALL, build, images


def many(count: int = 120, each: int = 3, dim: int = 12, seed: int = 0):
    """Tokens of which each image has as many, and their images."""
    return noise(count * each, dim, seed=seed), torch.arange(count * each) // each


def test_what_the_features_hold_is_read():
    x, photos = many()
    classes = (x[:, 3] > 0).long() + (x[:, 5] > 0.5).long()
    told = torch.cat([torch.nn.functional.one_hot(classes, 3).double(), x], dim=1)
    score = probes.token_probe(told, classes, photos)
    assert score.value > 0.99 and score.chance < 0.6 and (score.tokens, score.images) == (360, 120)
    numbers = x @ noise(12, 4, seed=9) + 100.0
    score = probes.token_probe(x, numbers, photos)
    assert score.value > 0.999 and abs(score.chance) < 0.05
    torch.testing.assert_close(score.predictions, numbers, atol=0.5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_where_the_features_hold_nothing_the_interval_contains_chance(seed):
    x, photos = many(200, seed=seed)
    score = probes.token_probe(x, torch.randint(4, (600,), generator=torch.Generator().manual_seed(seed)), photos)
    assert score.low < 0.25 < score.high and abs(score.chance - 0.25) < 0.08
    score = probes.token_probe(x, noise(600, 2, seed=50 + seed), photos)
    assert score.low - 0.01 < 0 < score.high + 0.01 and abs(score.chance) < 0.02


def test_an_image_is_never_on_both_sides(monkeypatch):
    """Tokens that hold nothing but which image they are of, and labels by image: a naive split reads them."""
    marks, photos = noise(150, 60, seed=2), torch.arange(900) // 6
    x = marks[photos] + 0.05 * noise(900, 60, seed=3)
    for labels in (torch.arange(150) % 5, noise(150, seed=4)):
        honest = probes.token_probe(x, labels[photos], photos)
        naive = probes.token_probe(x, labels[photos], torch.arange(900))
        level = 0.2 if labels.ndim == 1 and not labels.is_floating_point() else 0
        assert honest.low - 0.02 < level < honest.high + 0.02
        assert abs(honest.chance - level) < 0.12
        assert naive.value > level + 0.3  # what the test would see of a probe that splits tokens
    seen = []
    whole = knows._fit

    def fit(x, y, groups, seed):
        seen.append(set(groups.tolist()))
        return whole(x, y, groups, seed)

    monkeypatch.setattr(knows, "_fit", fit)
    probes.token_probe(x, labels[photos], photos, shuffles=0)
    assert [len(one) for one in seen] == [120] * 5
    assert all(sum(photo not in one for one in seen) == 1 for photo in range(150))


def test_strength_is_chosen_by_image_too():
    """Three marks of an image for one number an image: only a strong ridge can be right about other images."""
    marks, photos = noise(60, 200, seed=2), torch.arange(600) // 10
    y = marks[:, 0] + 2 * noise(60, seed=8)
    probe = probes.fit_probe(marks[photos] + 0.02 * noise(600, 200, seed=3), y[photos], photos)
    assert probe[-1].alpha >= 100


def test_predictions_are_those_of_ridge_regression_by_hand():
    x, photos = many(40, 2, 6)
    x = x * torch.tensor([1, 1, 1, 1, 1, 500.0]) + 30  # a massive channel is standardised away
    y = (x[:, 5] / 500 + x[:, 0] + noise(80, seed=7)).numpy()
    score = probes.token_probe(x, y, photos, folds=4, shuffles=0)
    fold, found = probes.fold_of(photos, 4).numpy(), np.zeros(80)
    for number in range(4):
        out = fold == number
        probe = knows._fit(x.numpy()[~out], y[~out], photos[torch.from_numpy(~out)], number)
        mean, spread = x.numpy()[~out].mean(0), x.numpy()[~out].std(0)
        z, centre = (x.numpy() - mean) / spread, y[~out].mean()
        weights = np.linalg.solve(z[~out].T @ z[~out] + probe[-1].alpha * np.eye(6), z[~out].T @ (y[~out] - centre))
        found[out] = z[out] @ weights + centre
    np.testing.assert_allclose(score.predictions, found, rtol=1e-6)
    usual = np.array([y[fold != number].mean() for number in fold])
    r2 = 1 - np.square(y - found).sum() / np.square(y - usual).sum()
    assert score.value == pytest.approx(r2) and np.isnan(score.chance)


def test_intervals_are_of_images_and_not_of_tokens():
    """Ten copies of each token know no more than one."""
    x, photos = many(100, 1, 5)
    y = (x[:, 0] + noise(100, seed=6) > 0).long()
    once = probes.token_probe(x, y, photos, shuffles=0)
    copies = [one.repeat_interleave(10, dim=0) for one in (x, y, photos)]
    ten = probes.token_probe(*copies, shuffles=0)
    assert (ten.high - ten.low) == pytest.approx(once.high - once.low, rel=0.25)


def test_a_difference_draws_images_together():
    x, photos = many(150, 2, 8)
    y = (x[:, 0] + 0.5 * noise(300, seed=6) > 0).long()
    more, less = (probes.token_probe(x[:, part], y, photos, shuffles=0) for part in (slice(0, 8), slice(1, 8)))
    apart = more.less(less)
    assert apart.value == pytest.approx(more.value - less.value) and 0 < apart.low < apart.value < apart.high
    nothing = more.less(more)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    half = photos % 2 == 0  # other images on the two sides
    part = probes.token_probe(x[half], y[half], photos[half], shuffles=0)
    apart = more.less(part)
    assert apart.value == pytest.approx(more.value - part.value) and apart.low < 0 < apart.high


def test_shuffled_labels_stay_those_of_images():
    photos = torch.arange(12) // 3
    of_images = knows._shuffled(np.array([0, 1, 2, 3])[photos], photos, 1)
    assert (of_images.reshape(4, 3) == of_images.reshape(4, 3)[:, :1]).all() and set(of_images) == {0, 1, 2, 3}
    places = np.tile([0, 1, 2], 4)  # the same three in all images: by image, a shuffle would change nothing
    assert (knows._shuffled(places, photos, 1) != places).any()


@pytest.mark.parametrize("name", PLANS)
def test_one_token_takes_the_rows_of_its_kind(name):
    model, x = build(PLANS[name]), images(SMALL)
    with torch.no_grad(), record(model) as tape:
        model(x)
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    mask[0, 1, 2] = mask[1, 0, 1] = mask[1, 1, 0] = True  # 2 rows, 3 columns
    for block in range(model.plan.depth):
        layout = model.plan.layout(block)
        found, photos = probes.one_token(tape, block, where=mask)
        first = layout["patches"].start
        expected = torch.stack([tape.tokens(block)[image, first + at] for image, at in ((0, 5), (1, 1), (1, 3))])
        assert torch.equal(found, expected) and photos.tolist() == [0, 1, 1] and found.dtype == torch.float64
        for group, where in layout.items():
            found, photos = probes.one_token(tape, block, group)
            assert torch.equal(found, tape.tokens(block)[:, where].flatten(0, 1))
            assert photos.tolist() == sorted(photos.tolist()) and len(found) == len(photos)
    with pytest.raises(ValueError, match="a mask of patches"):
        probes.one_token(tape, 0, where=mask.transpose(1, 2))
    with pytest.raises(ValueError, match="a mask of patches"):
        probes.one_token(tape, 0, "cls" if "cls" in model.plan.layout(0) else "patches", mask.float())
    with pytest.raises(TokenNotThere, match="no 'spare'"):
        probes.one_token(tape, 0, "spare")


def test_a_model_of_timm_and_its_pixels():
    """Before block 0 a patch that is embedded in enough channels gives its pixels back."""
    torch.manual_seed(0)
    settings = {"img_size": (8, 16), "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = from_timm(timm.models.VisionTransformer(**settings)).eval()
    x = noise(60, 3, 8, 16, seed=1).float()
    with torch.no_grad(), record(model) as tape:
        model(x)
    features, photos = probes.one_token(tape, "input")
    pixels = probes.patch_pixels(x, 4)
    assert pixels.shape == (60, 2, 4, 48) and torch.equal(probes.pictures_of(pixels, 4), x)
    assert torch.equal(pixels[3, 1, 2].view(4, 4, 3), x[3, :, 4:8, 8:12].permute(1, 2, 0))
    score = probes.token_probe(features, pixels.flatten(0, 2), photos, shuffles=0)
    assert score.value > 0.95
    wrong = probes.token_probe(features, pixels.flip(2).flatten(0, 2), photos, shuffles=0)
    assert wrong.value < 0.1


def test_equal_counts_of_each_kind():
    masks = torch.rand(20, 5, 7, generator=torch.Generator().manual_seed(0)) < 0.4
    drawn = probes.draw_places(masks, 3)
    assert (drawn.flatten(1).sum(dim=1) == 3).all() and not (drawn & ~masks).any()
    assert not torch.equal(drawn, probes.draw_places(masks, 3, seed=1))
    often = sum(probes.draw_places(masks[:1], 1, seed=seed).double() for seed in range(300))
    assert (often[masks[:1]] > 0).all()
    with pytest.raises(ValueError, match="the fewest patches"):
        probes.draw_places(masks, 30)


def test_bad_input_is_refused():
    x, photos = many(20)
    y = torch.arange(60) % 2
    for given, hint in (
        ((x, y[:-1], photos), "one row a token"),
        ((x[None], y, photos), "one row a token"),
        ((x.where(x < 2, torch.nan), y, photos), "non-finite"),
        ((x, torch.zeros(60), photos), "all targets are the same"),
        ((x, y, photos // 4), "5 folds take 10 images or more, not 5"),
    ):
        with pytest.raises(ValueError, match=hint):
            probes.token_probe(*given)
    with pytest.raises(ValueError, match="folds is a whole number"):
        probes.token_probe(x, y, photos, folds=1)
    with pytest.raises(ValueError, match="multiples of 5"):
        probes.patch_pixels(torch.ones(1, 3, 32, 30), 5)
    with pytest.raises(ValueError, match="8 · 8 · channels"):
        probes.pictures_of(torch.ones(1, 4, 4, 10), 8)
    for masks, count, hint in (
        (torch.ones(1, 2, 2), 1, "masks are bool"),
        (torch.ones(1, 2, 2) > 0, 1.5, "from 1 to 4"),
    ):
        with pytest.raises(ValueError, match=hint):
            probes.draw_places(masks, count)
