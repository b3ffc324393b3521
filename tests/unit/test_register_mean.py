"""The experiment on registers averaged with patches, on a model in which a known neuron writes long patches."""

from types import SimpleNamespace

import pytest
import torch

from book.experiments import register_mean as experiment
from dtl_lib import record
from dtl_lib.registers import test_time_registers as moved
from tests.unit.test_registers import images, planted

NEAREST = {"distance": torch.cdist, "cosine": lambda a, b: -torch.cosine_similarity(a[:, None], b[None], dim=2)}


@pytest.fixture(scope="module")
def given():
    made, _ = images(12)
    classes = torch.arange(12) % 3
    return [(made[:5], classes[:5]), (made[5:8], classes[5:8])], [(made[8:], classes[8:])]


@pytest.fixture
def rows(tmp_path, given):
    model = planted()
    found = experiment.find(model, given[0][0][0])
    made = [*experiment.measure(model, found, lambda: given, str(tmp_path))]
    assert not [*experiment.measure(model, found, None, str(tmp_path))], "each once"
    return model, found, {row.what: row for row in made}


def test_a_row_says_what_a_loop_says(rows, given):
    model, found, of = rows
    assert set(of) == set(experiment.ways(model, found)) and all(row.n == 4 for row in of.values())
    one, new = of["1 neuron moved, 4 tokens"], given[1][0][0]

    def pooled(x, stage, where):
        with torch.no_grad(), moved(model, found[:1], n=4), record(model) as tape:
            model(x)
            tokens = tape.tokens(model.plan.blocks - 1)
            tokens = model.norm(tokens) if stage == "after the norm" else tokens
        assert tape.plan.layout(model.plan.blocks - 1)["test"] == slice(1, 5)
        return tokens[:, where].mean(dim=1)

    fit = torch.cat([x for x, _ in given[0]]), torch.cat([classes for _, classes in given[0]])
    places = {"all": slice(1, None), "patches": slice(5, None), "registers": slice(1, 5)}
    for stage in experiment.STAGES:
        shares = {}
        for name, where in places.items():
            centres = torch.stack([pooled(fit[0], stage, where)[fit[1] == number].mean(dim=0) for number in range(3)])
            x = pooled(new, stage, where)
            for how, apart in NEAREST.items():
                shares[name, how] = (apart(x, centres).argmin(dim=1) == given[1][0][1]).float().mean().item()
                assert one.get(f"right: {name}, {stage}, {how}") == pytest.approx(shares[name, how])
            cosines = torch.cosine_similarity(x[:, None], x[None], dim=2)
            off = cosines[~torch.eye(4, dtype=torch.bool)].mean().item()
            assert one.get(f"likeness: {name}, {stage}") == pytest.approx(off, abs=1e-5)
        patches, registers = (pooled(new, stage, places[name]).mean(dim=0) for name in ("patches", "registers"))
        likeness = torch.cosine_similarity(patches, registers, dim=0).item()
        assert one.get(f"cosine of patches and registers, {stage}") == pytest.approx(likeness, abs=1e-5)
        for how in experiment.NEAREST:
            gap = shares["all", how] - shares["patches", how]
            assert one.get(f"difference: {stage}, {how}") == pytest.approx(gap, abs=1e-6)


def test_lengths_are_those_of_the_tokens(rows):
    _, _, of = rows
    one, control = of["1 neuron moved"], of["1 random neuron moved"]
    assert one.get("length: registers, before the norm") > 10 * one.get("length: patches, before the norm")
    assert control.get("length: registers, before the norm") < one.get("length: registers, before the norm")


def test_nearest_by_distance_and_by_cosine_are_two_things():
    fit, classes = torch.tensor([[1.0, 0.0], [0.0, 10.0]]), torch.tensor([4, 7])
    new = torch.tensor([[3.0, 3.5], [0.1, 0.0]])
    assert experiment.nearest(fit, classes, new, "distance").tolist() == [4, 4]
    assert experiment.nearest(fit, classes, new, "cosine").tolist() == [7, 4]


def test_a_way_moves_as_many_neurons_to_as_many_tokens_as_it_says(monkeypatch):
    monkeypatch.setattr(experiment, "test_time_registers", lambda model, neurons, n=1: (neurons, n))
    found = experiment.find(model := planted(), images(4)[0])
    monkeypatch.setattr(experiment, "at_random", lambda *given: ["another"])
    made = {what: way() for what, way in experiment.ways(model, found).items()}
    assert made == {
        "1 neuron moved": (found[:1], 1),
        "1 neuron moved, 4 tokens": (found[:1], 4),
        "10 neurons moved": (found[:10], 1),
        "10 neurons moved, 4 tokens": (found[:10], 4),
        "1 random neuron moved": (["another"], 1),
        "10 random neurons moved, 4 tokens": (["another"], 4),
    }


def test_classes_lie_where_images_for_training_say(monkeypatch):
    monkeypatch.setattr(experiment, "load_pretrained", lambda name: planted())
    monkeypatch.setattr(experiment, "bundled", lambda model: images(4)[0])
    monkeypatch.setattr(experiment.data, "load", lambda *given: SimpleNamespace(train="train", test="test"))
    monkeypatch.setattr(experiment, "enlarged", lambda model, part, count: [(part, count)])
    seen = []
    monkeypatch.setattr(experiment, "measure", lambda model, found, batches, folder: seen.append(batches()) or [])
    experiment.main([])
    assert seen == [[[("train", 1000)], [("test", 1000)]]]
