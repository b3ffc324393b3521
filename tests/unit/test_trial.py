"""Change, run, explain: both models see the same pictures from the same seed, so that what differs is the change."""

import pytest
import torch
from einops import rearrange
from torch import nn

from dtl_lib import ViT
from dtl_lib.data import load
from dtl_lib.exercises import WrongAnswer
from dtl_lib.train import trial


def plain():
    return ViT.build(trial.PLAIN)


def stub(): ...


def shares(printed: str) -> list[list[str]]:
    return [line.split() for line in printed.splitlines()[1:-1]]


def test_the_same_model_fares_the_same(capsys):
    trial.compare(plain, steps=4)
    lines = shares(capsys.readouterr().out)
    assert [int(step) for step, *_ in lines] == [1, 2, 3, 4]
    assert all(first == second for _, first, second in lines)


def test_a_model_that_cannot_learn_stays_where_it_was(capsys):
    def untrainable():
        model = plain().requires_grad_(False)
        model.norm.weight.requires_grad_(True)  # backward needs one leaf
        model.norm.bias.requires_grad_(True)
        return model

    trial.compare(untrainable, steps=24)
    lines = shares(capsys.readouterr().out)
    assert int(lines[-1][1].rstrip("%")) > int(lines[-1][2].rstrip("%"))


def test_another_seed_has_other_weights_and_sees_other_images(capsys, monkeypatch):
    seen, learn = [], trial._batch
    monkeypatch.setattr(trial, "_batch", lambda images, at, ask: seen.append(at[0].item()) or learn(images, at, ask))
    runs = []
    for seed in (0, 1, 1):
        torch.manual_seed(7)  # what the reader did before does not matter
        weights = []
        trial.compare(lambda kept=weights: kept.append(plain()) or kept[0], plain=plain, steps=4, seed=seed)
        runs.append((shares(capsys.readouterr().out), weights[0].norm.weight.detach().clone(), seen[1:5]))
        seen.clear()
    (first, at_first, images), (second, at_second, others), (again, at_again, same) = runs
    assert second == again and torch.equal(at_second, at_again) and others == same
    assert not torch.equal(at_first, at_second) and not set(images) & set(others)


def test_the_trained_model_is_the_one_that_is_compared(capsys):
    model = trial.trained(plain, steps=24, seed=1)
    images, labels = load("shapes").held_out.batch(range(500))
    with torch.no_grad():
        right = float((model(images).argmax(dim=1) == labels).float().mean())
    trial.compare(plain, steps=24, seed=1)
    assert not model.training and shares(capsys.readouterr().out)[-1][2] == f"{right:.0%}"


def test_a_stub_trains_nothing(capsys):
    trial.compare(stub)
    assert capsys.readouterr().out == "not attempted\n"


def test_where_moves_the_patches_and_leaves_them_as_they_are():
    pictures, moves = trial._batch(load("shapes").train, torch.arange(8), "where")
    before, _ = trial._batch(load("shapes").train, torch.arange(8), "what")
    assert moves.tolist() == [0, 1, 2, 3] * 2
    assert torch.equal(pictures[3, :, :16, :16], before[3, :, 16:, 16:])
    for after, then in zip(pictures, before):
        cut = [rearrange(picture, "c (r p) (s q) -> (r s) (c p q)", p=8, q=8) for picture in (after, then)]
        assert torch.equal(*(patches.sort(dim=0).values for patches in cut))


def test_another_question_is_refused():
    with pytest.raises(ValueError, match="what"):
        trial.compare(plain, ask="when")


@pytest.mark.parametrize("answer", [lambda: 3, lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 7))])
def test_what_is_no_classifier_of_ten_is_refused(answer):
    with pytest.raises(WrongAnswer, match="model"):
        trial.compare(answer, steps=1)
