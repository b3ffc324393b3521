"""The experiment of chapter 17: on a model in which one neuron is known to write the long patches."""

import pytest
import torch

from book.experiments import test_time as experiment
from book.experiments.int8 import int8, largest, rounded
from dtl_lib import ledger
from dtl_lib.registers import find_register_neurons, test_time_registers
from tests.unit.test_registers import BLOCK, WRITER, images, planted


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_every_row_once_and_what_it_says(tmp_path):
    model, (made, _) = planted(), images(4)
    labels = model(made).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 5
    batches = [(made[:3], labels[:3]), (made[3:], labels[3:])]
    folder = str(tmp_path / "records")
    rows = list(experiment.measure(model, made, batches, folder))
    assert not list(experiment.measure(model, made, batches, folder))
    assert ledger.read("test_time", folder) == rows
    of = {(row.what, row.seed): row for row in rows}
    found = of["neurons", 0]
    assert (found.get("block")[0], found.get("neuron")[0]) == (BLOCK, WRITER) and found.n == 4
    plain, moved, zero = (of[what, 0] for what in ("untouched", "1 neuron moved", "1 neuron zeroed, no token"))
    assert plain.get("accuracy") == 0.75 and plain.get("right") == [0, 1, 1, 1] and plain.get("agreement") == 1
    longest = plain.get("longest")
    assert plain.get("long") == 1 and max(moved.get("longest"), zero.get("longest")) < 0.2 * longest
    assert plain.get("token") == 0 == zero.get("token") and moved.get("token") > 5
    assert plain.get("at_token") == [0] * 4 and moved.get("at_token")[BLOCK + 1] > 0
    for what in ("1 random neuron moved", "10 random neurons moved", "empty token from the neuron's block"):
        assert of[what, 0].get("longest") > 0.8 * longest
    assert {row.seed for row in rows if row.what == "1 random neuron moved"} == set(range(5))
    less = of["1 neuron moved less 1 neuron zeroed, no token", 0]
    assert less.get("difference") == pytest.approx(moved.get("accuracy") - zero.get("accuracy"))
    assert sum(row.what.startswith("int8") for row in rows) == len(experiment.QUANTISED)
    assert of["int8, scale image: untouched", 0].get("error") > 0


def made_up(folder, long: float, low: float, share: float) -> list[str]:
    for what, of in (("untouched", (4.0, 0.0, 0.3)), ("1 neuron moved", (long, low, share))):
        values = {"long": of[0], "token": 500.0, "longest": 2.0, "difference": -0.01, "difference_low": of[1],
                  "difference_high": 0.02, "at_long": [0.1] * 8 + [of[2]] * 4}  # fmt: skip
        ledger.add("test_time", what, "none", "cpu", values, n=9, seed=0, folder=folder)
    rows = [one.what.rpartition(": ")[2] for one in experiment.claims(folder)]
    assert not list(experiment.claims(folder)), "each once"
    return rows


def test_claims_are_judged_by_the_rules_of_the_predictions(tmp_path):
    good, bad = "reproduced", "null at this scale"
    assert made_up(str(tmp_path / "a"), 0.0, -0.05, 0.05) == [good, good, good]
    assert made_up(str(tmp_path / "b"), 0.2, -0.07, 0.1) == [bad, bad, bad]
    assert made_up(str(tmp_path / "c"), 0.0, 0.01, 0.2) == [good, bad, bad]


def test_attention_is_followed_at_the_places_that_were_long():
    model, (made, long) = planted(), images()
    seen, places = experiment.look(model, [(made, None)])
    assert torch.equal(places, long)
    elsewhere, _ = experiment.look(model, [(made, None)], long.roll(1, dims=2))
    assert not torch.allclose(seen.at_long, elsewhere.at_long)


def test_a_value_is_at_most_half_a_step_off_and_each_scale_has_its_own_largest():
    x = torch.randn(2, 6, 5)
    x[:, 2] *= 100
    for scale, own in (("image", None), ("token", None), ("own", slice(2, 3))):
        limit = largest(x, scale, own)
        assert ((rounded(x, limit) - x).abs() <= limit / 254 + 1e-6).all()
    assert largest(x, "image", None).shape == (2, 1, 1)
    own = largest(x, "own", slice(2, 3))
    assert torch.equal(own[:, 2], x[:, 2].abs().amax(dim=-1, keepdim=True))
    rest = [0, 1, 3, 4, 5]
    assert torch.equal(own[:, 0, 0], x[:, rest].abs().amax(dim=(1, 2))) and own[:, 0].max() < own[:, 2].min()


def test_int8_leaves_the_model_as_it_was_and_depends_on_its_scale():
    model, (made, long) = planted(), images()
    before, state = model(made), {name: value.clone() for name, value in model.state_dict().items()}
    results = {}
    with test_time_registers(model, find_register_neurons(model, made, long, BLOCK)):
        exact = model(made)
        for scale in ("weights", "image", "own", "token"):
            with int8(model, scale):
                results[scale] = model(made)
                alone = torch.cat([model(one[None]) for one in made])
                assert torch.allclose(results[scale], alone, atol=1e-4 * float(alone.abs().max()))
            assert torch.equal(model(made), exact)
    errors = [float((one - exact).norm()) for one in results.values()]
    assert len(set(errors)) == 4 and min(errors) > 0
    assert torch.equal(model(made), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="scale is one of"), int8(model, "tensor"):
        pass
