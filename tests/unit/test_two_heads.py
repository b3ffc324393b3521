"""What two heads are asked, and what is measured of them."""

import pytest
import torch

from book.experiments import two_heads
from book.experiments.two_heads import ASKED, CONFIG, EACH, MEAN, OTHER, looked_into, measure, merged, study
from dtl_lib import data, record
from dtl_lib.models import ViT


def test_every_question_is_asked_of_the_same_first_weights():
    runs = study("toy").runs
    assert [run.what for run in runs] == list(ASKED) and len(study("cpu").runs) == 15
    found = {run.what: measure(run, "cpu") for run in runs}
    assert all(value["n"] == two_heads.IMAGES and len(value["cosine"]) == 5 for value in found.values())
    cosines = [tuple(found[asked]["cosine"]) for asked in (MEAN, EACH, OTHER)]
    assert len(set(cosines)) == 3 and max(cosines[0][0], cosines[1][0]) - min(cosines[0][0], cosines[1][0]) < 0.05


def test_pairs_are_merged():
    assert merged(torch.arange(6)).tolist() == [0, 0, 2, 2, 4, 4]


def test_heads_and_tokens_one_by_one():
    torch.manual_seed(0)
    model, (images, labels) = ViT(CONFIG).eval(), data.load("shapes").test.batch(torch.arange(40))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = looked_into(model, images, labels)
    with record(model) as tape, torch.no_grad():
        cls, dist = model.heads(images)
    for name, head in {"cls": cls, "dist": dist, "mean": cls + dist}.items():
        assert found[f"accuracy_{name}"] == pytest.approx(sum(map(bool, head.argmax(1) == labels)) / 40)
    pairs = [tape.tokens(3)[number, :2].double() for number in range(40)]
    by_hand = sum(float(a @ b / a.norm() / b.norm()) for a, b in pairs) / 40
    assert found["cosine"][-1] == pytest.approx(by_hand, abs=1e-5)
