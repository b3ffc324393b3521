"""Registers put into a finished model: what they leave as it was, what is trained, and what a checkpoint holds."""

import copy
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import dtl_lib
from dtl_lib import Group, add_registers, find_register_neurons, move_to_registers, record
from dtl_lib.added import logit_change
from dtl_lib.checkpoint import CheckpointError, load_model, save_model
from dtl_lib.config import ViTConfig
from dtl_lib.registers import RegisterNeuron
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import RegisterRecipe, clean_states, train_registers
from dtl_lib.train import registers as training
from tests.unit.test_registers import BLOCK, PLANS, WRITER, found, images, lengths, planted

RECIPE = RegisterRecipe(steps=4, batch_size=2)


def state_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def differs(before: dict, after: dict) -> set[str]:
    return {name for name, value in after.items() if name not in before or not torch.equal(value, before[name])}


class TestAdd:
    @pytest.mark.parametrize("plan", PLANS)
    def test_the_model_given_stays_and_the_new_one_has_its_weights(self, plan):
        model, (made, _) = planted(plan), images(size=(16, 40))
        before, config = state_of(model), model.config
        wider = add_registers(model, 3, at=1, leave=3, name="late", images=made)
        assert not differs(before, model.state_dict()) and model.config is config
        assert differs(before, wider.state_dict()) == {"tokens.late"} and not wider.training
        assert wider.plan.group("late") == Group("late", 3, 1, 3)
        assert "late" in wider.plan.layout(2) and "late" not in wider.plan.layout(3)
        with torch.no_grad():
            assert wider(made).shape == model(made).shape

    @pytest.mark.parametrize("at", [0, 2])
    def test_the_start_is_the_one_that_changes_less_and_what_is_said_is_so(self, at):
        model, (made, _) = planted(), images()
        wider = add_registers(model, 2, at=at, images=made)
        said = wider.card["added"]
        with torch.no_grad():
            now = float(logit_change(wider(made), model(made)).mean())
            assert now == pytest.approx(min(said["zero"], said["mean patch"]), rel=1e-4)
            with record(model) as tape:
                model(made)
            patches = tape.tokens("input" if at == 0 else at - 1)[:, 1:].mean(dim=(0, 1))
            for start, value in (("zero", torch.zeros_like(patches)), ("mean patch", patches)):
                wider.tokens["reg"].copy_(value.expand(2, -1))
                assert float(logit_change(wider(made), model(made)).mean()) == pytest.approx(said[start], rel=1e-3)
        assert not add_registers(model, 2, at=at).tokens["reg"].any()

    def test_bad_input(self):
        model = planted("late, with registers")
        for given, why in (
            ({"n": 0}, "n is a whole number, 1 or more"),
            ({"n": 1, "at": 4, "name": "new"}, "choose a block from 0 to 3"),
            ({"n": 1, "at": 2, "leave": 2, "name": "new"}, "leave has to be from 3 to 4"),
            ({"n": 1}, "a group called 'reg' already"),
            ({"n": 1, "name": "patches"}, "cannot name a group"),
            ({"n": 1, "name": "dist"}, "dist is a token that the head reads"),
            ({"n": 1, "name": "new", "images": images()[0][:0]}, "there are no images"),
            ({"n": 1, "name": "new", "images": images()[0] / 0}, "non-finite"),
        ):
            with pytest.raises(ValueError, match=why):
                add_registers(model, **given)


class TestMove:
    @pytest.mark.parametrize("size", [(32, 32), (16, 40)])
    @pytest.mark.parametrize("plan", PLANS)
    @pytest.mark.parametrize("leave", [None, 3])
    def test_for_good_is_what_it_was_for_a_while(self, plan, size, leave):
        model, (made, _) = planted(plan), images(size=size)
        neurons = found(model, size)
        before = state_of(model)
        moved = move_to_registers(model, neurons, n=2, leave=leave)
        assert not differs(before, model.state_dict()) and differs(before, moved.state_dict()) == {"tokens.test"}
        with torch.no_grad():
            together, alone = moved(made), torch.cat([moved(one[None]) for one in made])
            untouched = model(made)
            with dtl_lib.test_time_registers(model, neurons, n=2, leave=leave):
                assert torch.equal(together, model(made))
            assert torch.equal(model(made), untouched)
        assert torch.allclose(together, alone, atol=1e-6 * float(alone.abs().max()))
        if leave is None:
            assert lengths(moved, made)["patches"].max() < 0.1 * lengths(model, made)["patches"].max()
        again = copy.deepcopy(moved)
        with torch.no_grad():
            assert torch.equal(again(made), together)

    def test_a_negative_neuron_and_the_last_block_are_as_for_a_while(self):
        model, (made, long) = planted(), images()
        (writer,) = find_register_neurons(model, made, long, 3)
        other = [writer, RegisterNeuron(3, 7, -1.0, 0.0, 0.0, 0.0), RegisterNeuron(3, 9, 1.0, 0.0, 0.0, 0.0)]
        moved = move_to_registers(model, other)
        with torch.no_grad(), dtl_lib.test_time_registers(model, other):
            assert torch.equal(moved(made), model(made))
        with torch.no_grad(), record(moved) as tape:
            narrow = moved(made)
        with torch.no_grad():
            assert torch.allclose(narrow, moved(made), atol=1e-5)
            patches = moved.features(made).patches
        assert torch.allclose(moved.norm(tape.tokens(3))[:, moved.plan.layout(3)["patches"]], patches, atol=1e-5)

    def test_a_checkpoint_gives_the_same_in_a_fresh_process(self, tmp_path):
        model, (made, _) = planted("late, with registers"), images(size=(16, 40))
        moved = move_to_registers(model, found(model, (16, 40)))
        path = save_model(tmp_path / "moved.safetensors", moved)
        torch.save(made, tmp_path / "images.pt")
        code = (
            "import json, torch; from dtl_lib import load_pretrained; torch.set_num_threads(1); "
            f"m = load_pretrained({str(path)!r}); x = torch.load({str(tmp_path / 'images.pt')!r}); "
            "print(json.dumps([m.config.moved, m(x).tolist()]))"
        )
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        neurons, logits = json.loads(shown)
        assert neurons == [[BLOCK, WRITER, 1]]
        with torch.no_grad():
            assert torch.allclose(torch.tensor(logits), moved(made), atol=1e-5)
        assert load_model(path).config == moved.config

    def test_a_model_without_moved_neurons_is_saved_as_ever_and_an_older_library_refuses_one_with_them(self, tmp_path):
        model = planted()
        assert "moved" not in model.config.to_dict()
        moved = move_to_registers(model, found(model))
        values = moved.config.to_dict()
        assert "moved" in values
        with pytest.raises(ValueError, match="a configuration has no movedx"):  # as one that does not know the field
            ViTConfig.from_dict({**values, "movedx": values["moved"]})

    def test_what_cannot_be_moved(self):
        config = planted().config
        plan = TokenPlan(4, (Group("cls", 1), Group("test", 1, 2)))
        good = replace(config, plan=plan, moved=[[2, 11, 1], [3, 5, -1]])
        assert (
            good.moved == ((2, 11, 1), (3, 5, -1)) == ViTConfig.from_dict(json.loads(json.dumps(good.to_dict()))).moved
        )
        for moved, why in (
            (((2, 11),), "a moved neuron is"),
            (((2, 11, 0),), "a moved neuron is"),
            (((4, 11, 1),), "blocks 0 … 3"),
            (((2, 96, 1),), "96 in each"),
            (((2, 11, 1), (2, 11, -1)), "named once"),
            (((1, 11, 1),), "neurons from block 1 on move to a group called 'test'"),
            ("all", "moved is"),
        ):
            with pytest.raises(ValueError, match=why):
                replace(config, plan=plan, moved=moved)
        with pytest.raises(ValueError, match="keep it, or set moved"):
            good.with_plan(TokenPlan.of(4))


def setting(**more):
    model, (made, _) = planted(), images(6)
    wider = add_registers(model, 2, at=1, images=made)
    return wider, clean_states(model, found(model)), made, replace(RECIPE, **more)


class TestTrain:
    @pytest.mark.parametrize("norms", [False, True])
    def test_what_is_frozen_keeps_every_bit_and_the_rest_learns(self, norms):
        wider, teach, made, recipe = setting(norms=norms, steps=6)
        wider.train()
        before, flags = state_of(wider), [p.requires_grad for p in wider.parameters()]
        losses = train_registers(wider, teach, made, recipe)
        moved = differs(before, wider.state_dict())
        assert "tokens.reg" in moved and len(losses) == 6
        if norms:
            assert any(".norm1." in name for name in moved) and any(".norm2." in name for name in moved)
        assert all(name == "tokens.reg" or (norms and ".norm" in name) for name in moved)
        assert "norm.weight" not in moved and wider.training
        assert flags == [p.requires_grad for p in wider.parameters()] and all(
            p.grad is None for p in wider.parameters()
        )
        assert not torch.equal(wider.tokens["reg"][0], wider.tokens["reg"][1]), "equal ones would stay equal"

    def test_the_loss_falls_and_the_seed_decides(self):
        wider, teach, made, recipe = setting(norms=True, steps=20)
        other, third = copy.deepcopy(wider), copy.deepcopy(wider)
        losses = train_registers(wider, teach, made, recipe)
        assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
        assert losses == train_registers(other, teach, made, recipe)
        assert losses != train_registers(third, teach, made, replace(recipe, seed=1))

    def test_the_targets_are_clean_patches_and_the_head_as_it_was(self):
        model, (made, _) = planted("late, with registers"), images()
        with torch.no_grad():
            targets = clean_states(model, found(model))(made)
            plain = training.states(model, made)
        assert set(targets) == {"cls", "patches"} and torch.equal(targets["cls"], plain["cls"])
        assert targets["patches"].shape == plain["patches"].shape
        assert targets["patches"].norm(dim=-1).max() < 0.2 * plain["patches"].norm(dim=-1).max()

    def test_a_teacher_in_training_says_the_same_without_gradients_or_with(self):
        wider, _, made, recipe = setting()
        model, results = planted(drop_path=0.5), []
        neurons = found(model)
        for mode in (False, True):
            student = copy.deepcopy(wider)
            with torch.no_grad():
                results.append(train_registers(student, clean_states(model.train(mode), neurons), made, recipe, "reg"))
            assert model.training == mode
        assert results[0] == results[1]

    def test_the_loss_is_what_it_says(self):
        a, b = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
        by_hand = 0.0
        for x, y in zip(a.flatten(0, 1), b.flatten(0, 1)):
            by_hand += (1 - float(x @ y / x.norm() / y.norm())) / 10
        by_hand += float((a - b).square().sum() / b.square().sum())
        assert float(training.distance({"p": a, "q": b}, {"p": b})) == pytest.approx(by_hand, rel=1e-5)
        assert float(training.distance({"p": a, "q": b}, {"p": b, "q": b})) == pytest.approx(by_hand, rel=1e-5)

    def test_one_that_was_stopped_goes_on_to_the_same(self, tmp_path, monkeypatch):
        monkeypatch.setattr(training, "SAVE_EVERY", 3)
        whole, teach, made, recipe = setting(norms=True, steps=7)
        stopped, resumed = copy.deepcopy(whole), copy.deepcopy(whole)
        losses, path, calls = train_registers(whole, teach, made, recipe), tmp_path / "state.safetensors", []

        def until(x):
            calls.append(len(x))
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return teach(x)

        with pytest.raises(KeyboardInterrupt, match="stopped at step 5 of 7") as caught:
            train_registers(stopped, until, made, recipe, state=path)
        assert caught.value.status == 130
        with pytest.raises(ValueError, match="add --resume"):
            train_registers(copy.deepcopy(resumed), teach, made, recipe, state=path)
        with pytest.raises(ValueError, match="with other recipe"):
            train_registers(copy.deepcopy(resumed), teach, made, replace(recipe, seed=3), state=path, resume=True)
        other = copy.deepcopy(resumed)
        with torch.no_grad():
            other.blocks[0].mlp.expand.weight[0] += 1
        with pytest.raises(ValueError, match="with other frozen"):
            train_registers(other, teach, made, recipe, state=path, resume=True)
        again = train_registers(resumed, teach, made, recipe, state=path, resume=True)
        assert again == losses and not differs(whole.state_dict(), resumed.state_dict())

    def test_one_that_is_killed_has_the_last_state_saved(self, tmp_path, monkeypatch):
        monkeypatch.setattr(training, "SAVE_EVERY", 2)
        whole, teach, made, recipe = setting(steps=6)
        killed, resumed = copy.deepcopy(whole), copy.deepcopy(whole)
        losses, path, calls = train_registers(whole, teach, made, recipe), tmp_path / "state.safetensors", []

        def until(x):
            calls.append(len(x))
            if len(calls) == 4:
                raise RuntimeError("power cut")
            return teach(x)

        with pytest.raises(RuntimeError, match="power cut"):
            train_registers(killed, until, made, recipe, state=path)
        assert train_registers(resumed, teach, made, recipe, state=path, resume=True) == losses

    def test_bad_input(self, tmp_path):
        wider, teach, made, recipe = setting()
        with pytest.raises(ValueError, match="fewer than the 9 of a step"):
            train_registers(wider, teach, made, replace(recipe, batch_size=9))
        with pytest.raises(ValueError, match="no late to train; its groups of tokens are cls, reg"):
            train_registers(wider, teach, made, recipe, ["late"])
        with pytest.raises(ValueError, match="name a group of tokens"):
            train_registers(wider, teach, made, recipe, [])
        with pytest.raises(ValueError, match="add_registers makes one"):
            train_registers(torch.nn.Linear(2, 2), teach, made, recipe)
        with pytest.raises(ValueError, match=r"train model.float\(\)"):
            train_registers(copy.deepcopy(wider).half(), teach, made, recipe)
        with pytest.raises(ValueError, match="the loss of step 1 is non-finite"):
            train_registers(wider, lambda x: {"patches": torch.full((2, 16, 24), torch.nan)}, made, recipe)
        with pytest.raises(CheckpointError, match="does not exist"):
            train_registers(wider, teach, made, recipe, state=tmp_path / "none.safetensors", resume=True)
        for name, value in (("steps", 0), ("batch_size", 0), ("lr", 0), ("lr", 11), ("norms", 3)):
            with pytest.raises(ValueError, match=name):
                replace(recipe, **{name: value})
