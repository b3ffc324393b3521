"""What patches receive from the class token in one block: by hand, in planted cases, and what is not measured again."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from book.experiments import entry, entry_why
from dtl_lib import ledger
from dtl_lib.config import ViTConfig
from dtl_lib.data.sources.folder import wordnet_classes
from dtl_lib.models import ViT
from dtl_lib.probes import measure_entry
from tests.unit.fixed import noise
from tests.unit.small import SMALL, build, images

LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def study(model, blocks=(0, 1), long_after=1):
    x = images(model.config, 7)
    return entry_why.Study(model, [(x[:4], LABELS[:4]), (x[4:], LABELS[4:])], blocks, long_after)


def change(of, way, blocks=(0,), heads=None):
    return of.changed(way, blocks, heads)[0]["largest_change"]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_untouched_is_the_model_and_absent_is_what_the_probe_calls_so():
    model = build(SMALL)
    of = study(model)
    assert change(of, "untouched") < 1e-12 and change(of, "untouched", (0, 1)) < 1e-12
    logits = torch.cat([model.classify("cls", read[:, 0]) for read in of.reads])
    assert torch.allclose(logits, model(images(SMALL, 7)), atol=1e-12)
    for last in (0, 1):
        row = measure_entry(model, of.batches, [last + 1], ["itself"], ["absent"]).row(last + 1, "itself")
        values, _ = of.changed("absent", tuple(range(last + 1)))
        if last == 0:  # later the class token has seen what these patches are
            assert values["largest_change"] == pytest.approx(row.largest_change, rel=1e-9)
            assert values["accuracy"] == row.accuracy.value and values["similarity"] == row.similarity.value
        assert values["largest_change"] > 1e-4


def test_each_way_by_hand_for_one_patch_of_one_head():
    q, k, v = (noise(3, 2, 5, 4, seed=seed) for seed in (1, 2, 3))
    usual = entry_why.Usual(slice(0, 1), slice(1, 5))
    untouched = usual(q, k, v)
    assert torch.allclose(untouched, torch.nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-12)
    weights = (q[1, 0] @ k[1, 0].T / 2).softmax(dim=-1)
    among = weights[2:3, 1:] @ v[1, 0, 1:] / (1 - weights[2, 0])
    share, value = weights[2, 0], v[1, 0, :1]
    everywhere = (q @ k.transpose(-2, -1) / 2).softmax(dim=-1)
    others = everywhere[[0, 2], 0, 1:, 0].mean()
    lack = torch.stack([
        (everywhere[i, 0, 1:] @ v[i, 0] - everywhere[i, 0, 1:, 1:] @ v[i, 0, 1:]
         / (1 - everywhere[i, 0, 1:, :1])).mean(dim=0) for i in (0, 2)
    ]).mean(dim=0)  # fmt: skip
    expected = {
        "absent": among, "key alone": (1 - share) * among, "value alone": among + share * value,
        "constant share": (1 - others) * among + others * value, "offset": among + lack,
    }  # fmt: skip
    for way in entry_why.WAYS:
        core = entry_why.Changed(way, slice(0, 1), slice(1, 5), usual, heads=(0,))
        out = torch.cat([core(q[:1], k[:1], v[:1]), core(q[1:], k[1:], v[1:])])
        assert torch.allclose(out[1, 0, 2], expected[way][0], atol=1e-12), way
        assert torch.allclose(out[:, :, 0], untouched[:, :, 0], atol=1e-12), "the class token's own row"
        assert torch.allclose(out[:, 1], untouched[:, 1], atol=1e-12), "the other head"


def no_value(q, k, v):
    v[:, :, 0] = 0


def no_share(q, k, v):
    q.abs_()
    k[:, :, 0] = -1e3


def equal_share(q, k, v):
    q.zero_()


def bias(q, k, v):
    """An even map over patches of equal values: all that the token does is to move them all alike."""
    q.zero_()
    v[:, :, 1:] = v[:1, :, 1:2]


@pytest.mark.parametrize(
    ("plant", "harmless"),
    [
        (no_value, {"key alone"}),
        (no_share, set(entry_why.WAYS)),
        (equal_share, {"constant share"}),
        (bias, {"offset", "constant share"}),
    ],
)
def test_planted(plant, harmless):
    q, k, v = (noise(3, 2, 5, 4, seed=seed) for seed in (1, 2, 3))
    plant(q, k, v)
    if plant in (no_share, bias):
        v[:, :, 0] = v[:1, :, 0]
    usual = entry_why.Usual(slice(0, 1), slice(1, 5))
    untouched = usual(q, k, v)
    changes = {way: entry_why.Changed(way, slice(0, 1), slice(1, 5), usual)(q, k, v) for way in entry_why.WAYS}
    found = {way: float((out - untouched).abs().max()) for way, out in changes.items()}
    assert {way for way in found if found[way] < 1e-12} == harmless, found
    assert min([found[way] for way in found if way not in harmless], default=1) > 1e-2


def test_long_patches_are_counted_compared_and_put_back():
    model = build(SMALL)
    of = study(model)
    lengths = of.lengths.clone()
    of.long = torch.zeros_like(of.long)
    of.medians = torch.ones(7, 1).double()
    of.long[:, 0] = True
    of.long[0, 1] = True
    lengths[:] = 1
    lengths[:, 0], lengths[0, 2] = 10, 20
    values = of.of_long(lengths)
    assert values["long"] == pytest.approx(8 / 7) and values["more_long"] == 0 and values["with_long"] == 1
    assert values["overlap"] == pytest.approx((6 + 1 / 3) / 7)
    assert values["length"] == pytest.approx((6 * 10 + 15) / 7)
    others, long, cls = (of.tokens(name)(0) for name in ("as many others", "long patches", "class token"))
    assert others.sum() == long.sum() == 2 and not (others & long).any() and cls.tolist() == [True] + 6 * [False]
    stream, after = of.streams[2], of.changed("absent", (0,))[1]
    assert of.put_back(stream, after, lambda _: torch.zeros(7, dtype=torch.bool))["largest_change"] < 1e-12
    assert of.put_back(after, stream, lambda _: torch.ones(7, dtype=torch.bool))["largest_change"] < 1e-12
    assert of.put_back(stream, after, of.tokens("long patches"))["largest_change"] > 1e-6


def test_one_record_a_job_and_none_is_measured_again(tmp_path, monkeypatch):
    config = ViTConfig(32, 16, dim=12, depth=3, heads=3, classes=1000)
    for name in wordnet_classes()[0][:4]:
        path = tmp_path / "photos" / "val" / name / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (int(name[-2:]), 90, 30)).save(path)

    def small(name):
        torch.manual_seed(0)
        return ViT(config if name == entry.VIT else replace(config, classes=0)).eval()

    monkeypatch.setattr(entry_why, "load", small)
    monkeypatch.setattr(entry, "SIZE", 32)
    monkeypatch.setattr(entry_why, "BLOCKS", {entry.VIT: (0, 1), entry.SALIENCY: (0,)})
    monkeypatch.setattr(entry_why, "LONG_AFTER", 1)
    monkeypatch.setattr(entry_why.Study.__init__, "__defaults__", (1,))
    monkeypatch.setattr(
        entry_why, "jobs",
        lambda of, blocks, jobs=entry_why.jobs: {k: f for k, f in jobs(of, blocks).items() if "0 to 3" not in k},
    )  # fmt: skip
    arguments = ["--photos", str(tmp_path / "photos"), "--folder", str(tmp_path / "records")]
    entry_why.main(arguments)
    records = ledger.read("entry_why", tmp_path / "records")
    assert len(records) == len({record.what for record in records}) == (2 + 2 * 5 + 3 + 4) + (2 + 5)
    of = {record.what.partition(": ")[2]: record for record in records if entry.VIT in record.what}
    assert of["untouched, by the changed code"].values["largest_change"] < 1e-5
    attention = of["attention on the class token"].values
    assert len(attention["share_2"]) == 3 and attention["share_0"][0] == pytest.approx(1 / 5, abs=0.05)
    entry_why.main(arguments)
    assert ledger.read("entry_why", tmp_path / "records") == records
