"""What `dtl_lib.lab.bench` times: the arithmetic by hand, planted delays, a step that is the loop's."""

import statistics
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from dtl_lib.config import ViTConfig
from dtl_lib.lab import bench
from dtl_lib.lab.bench import timing
from dtl_lib.lab.bench.step import BenchConfig, build_inputs, make_step
from dtl_lib.models import ViT
from dtl_lib.train import Recipe
from dtl_lib.train.optim import Guard, make_optimizer
from tests.unit.pretended import pretended_gpu

SMALL = ViTConfig(16, 8, dim=24, depth=2, heads=3, classes=5)
CPU = {"device": "cpu", "amp": "off"}


def made(*seconds: float, training: bool = True, batch: int = 10) -> bench.Timing:
    return bench.Timing("training step", BenchConfig(batch, training, **CPU), seconds, 1.0, 3 * 10**9, None, "")


class TestArithmetic:
    def test_quartiles_turn_round_when_seconds_become_a_rate(self):
        timed = made(0.1, 0.5, 0.2, 0.4, 0.3)
        assert timed.quartiles == pytest.approx((0.2, 0.3, 0.4)) and timed.median == pytest.approx(0.3)
        assert timed.images_per_s == pytest.approx((10 / 0.4, 10 / 0.3, 10 / 0.2))
        assert made(0.2).images_per_s == (50, 50, 50)

    def test_flops_and_utilisation(self):
        timed = made(0.5, 0.5, 0.5)
        assert timed.flops == pytest.approx(2 * 3e9 / 0.5)
        assert timed.utilisation(bench.Rate(48e9, 512, torch.float32)) == pytest.approx(0.25)

    def test_a_step_counts_as_three_forward_passes(self):
        forward, step = (run(SMALL, 4, steps=2, **CPU) for run in (bench.forward_time, bench.step_time))
        assert forward.multiply_adds == 4 * SMALL.cost().total and step.multiply_adds == 3 * forward.multiply_adds
        assert (forward.what, step.what) == ("forward pass", "training step")
        assert len(forward.seconds) == 2 == len(step.seconds)

    def test_memory_says_how_it_is_known(self):
        forward, step = (run(SMALL, 4, steps=1, **CPU) for run in (bench.forward_time, bench.step_time))
        cost = SMALL.cost()
        assert step.peak_bytes == 4 * cost.activation_bytes + 16 * cost.parameters and "cost model" in step.memory
        assert forward.peak_bytes is None and "not measured" in forward.memory
        assert "peak_bytes" in step.to_dict() and "peak_bytes" not in forward.to_dict()

    def test_the_rate_is_that_of_the_best_size(self, monkeypatch):
        seconds = {512: [0.01, 0.02, 0.9], 1024: [0.05, 0.04, 0.06]}
        sizes = iter(seconds)
        monkeypatch.setattr(timing, "step_seconds", lambda *args, **how: seconds[next(sizes)])
        rate = bench.matmul_rate("cpu", torch.float32, sizes=tuple(seconds))
        assert rate == bench.Rate(2 * 1024**3 / 0.05, 1024, torch.float32)

    def test_a_rate_that_a_machine_can_have(self):
        rate = bench.matmul_rate("cpu", sizes=(64, 256))
        assert rate.size in (64, 256) and 1e8 < rate.flops < 1e15


class TestDelays:
    """What is planted is what is measured, and nowhere else."""

    def test_of_every_step(self, monkeypatch):
        before = ViT.forward
        monkeypatch.setattr(ViT, "forward", lambda self, x: (time.sleep(0.05), before(self, x))[1])
        for run in (bench.forward_time, bench.step_time):
            assert min(run(SMALL, 2, steps=3, **CPU).seconds) >= 0.05

    def test_of_the_first_step_alone(self, monkeypatch):
        before, first = ViT.forward, iter([2.0])
        monkeypatch.setattr(ViT, "forward", lambda self, x: (time.sleep(next(first, 0)), before(self, x))[1])
        timed = bench.step_time(SMALL, 2, steps=3, **CPU)
        assert timed.first_seconds >= 2 > statistics.median(timed.seconds)


class TestWork:
    def test_a_step_is_the_loop_s(self):
        """The same weights as forward, cross-entropy, backward, clip and AdamW written out here."""
        recipe = Recipe(lr=0.01, clip=0.1, smoothing=0.1, weight_decay=0.3)
        models = [ViT(SMALL) for _ in range(2)]
        models[1].load_state_dict(models[0].state_dict())
        images = torch.randn(4, 3, 16, 16)
        how = BenchConfig(4, recipe=recipe, **CPU)
        step = make_step(SMALL, how, models[0], batch=lambda: images)
        optimizer = make_optimizer(models[1], recipe)
        for _ in range(3):
            step()
            logits = models[1](images)
            nn.functional.cross_entropy(logits, torch.arange(4) % 5, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(models[1].parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        for ours, other in zip(models[0].parameters(), models[1].parameters()):
            torch.testing.assert_close(ours, other, rtol=0, atol=0)

    def test_what_stops_the_loop_stops_what_is_timed(self, monkeypatch):
        """The guard, the schedule and the count of `train_step` are in the step that is timed."""
        model, seen = ViT(SMALL), []
        before = [value.clone() for value in model.parameters()]
        monkeypatch.setattr(Guard, "should_step", lambda guard, norm, step, scaled: seen.append(step))
        step = make_step(SMALL, BenchConfig(4, recipe=Recipe(lr=0.01), **CPU), model)
        for _ in range(3):
            step()
        assert seen == [1, 2, 3] and all(torch.equal(*pair) for pair in zip(before, model.parameters()))

    def test_steps_learn_and_forward_passes_do_not(self):
        model = ViT(SMALL)
        before = [value.clone() for value in model.parameters()]
        forward = make_step(SMALL, BenchConfig(4, training=False, **CPU), model)
        assert torch.equal(forward(), forward()) and not forward().requires_grad and not model.training
        assert all(torch.equal(*pair) for pair in zip(before, model.parameters()))
        step = make_step(SMALL, BenchConfig(4, recipe=Recipe(lr=0.01), **CPU), model)
        losses = [step().item() for _ in range(30)]
        assert losses[-1] < 0.5 * losses[0] and model.training

    def test_a_model_without_classes_is_given_some_to_learn(self):
        bare = replace(SMALL, classes=0)
        timed, forward = bench.step_time(bare, 2, steps=1, **CPU), bench.forward_time(bare, 2, steps=1, **CPU)
        assert timed.multiply_adds == 3 * 2 * replace(SMALL, classes=1000).cost().total
        assert forward.multiply_adds == 2 * bare.cost().total

    def test_precision_layout_and_compiling_are_apart(self, monkeypatch):
        seen = []
        monkeypatch.setattr(nn.Module, "compile", lambda model, backend: seen.append((type(model), backend)))
        for bits in range(8):
            half, last, compiled = (bool(bits >> place & 1) for place in range(3))
            how = BenchConfig(2, False, "bf16" if half else "off", compiled, last, "cpu")
            seen.clear()
            assert make_step(SMALL, how)().dtype == (torch.bfloat16 if half else torch.float32)
            assert seen == [(ViT, "inductor")] * compiled
            model, images = build_inputs(SMALL, how)
            for tensor in (images, model.patch_embed.project.weight):
                assert tensor.is_contiguous(memory_format=torch.channels_last) == last
            assert how.dtype == (torch.bfloat16 if half else torch.float32)

    def test_layout_changes_no_number(self):
        torch.manual_seed(0)
        model, images = build_inputs(SMALL, BenchConfig(2, channels_last=True, **CPU))
        other = ViT(SMALL)
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(images), other(images.contiguous()))

    @pytest.mark.slow
    def test_compiled_steps_are_the_same_steps(self):
        losses = []
        for compiled in (False, "aot_eager"):
            torch.manual_seed(3)
            step = make_step(SMALL, BenchConfig(4, compiled=compiled, recipe=Recipe(lr=0.01), **CPU))
            losses.append([step().item() for _ in range(4)])
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"batch_size": 0}, "batch_size"),
            ({"amp": "fp8"}, "amp is one of"),
            ({"device": "warp"}, "no device 'warp'"),
        ],
    )
    def test_wrong_input(self, change, words):
        with pytest.raises(ValueError, match=words):
            BenchConfig(**{"batch_size": 2, "device": "cpu", **change})
        with pytest.raises(ValueError, match="steps is a whole number"):
            bench.step_time(SMALL, 2, steps=0, **CPU)


class TestOnAGpu:
    """The branches that a GPU takes, on one that is pretended."""

    @pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
    def test_timing(self, amp):
        with pretended_gpu():
            timed = bench.step_time(SMALL, 2, steps=3, amp=amp)
            assert timed.how.place.type == "cuda" and timed.how.precision == amp and len(timed.seconds) == 3
            assert min(timed.seconds) > 0 and timed.peak_bytes == 2**30 - 2**20 and timed.memory.startswith("measured")
            assert bench.forward_time(SMALL, 2, steps=1).how.precision == "bf16"

    def test_the_rate_is_that_of_clocks_that_have_settled(self, monkeypatch):
        """A GPU is fast for a moment, and slower once it is warm: it multiplies for a second, and the end counts."""
        asked = []

        def seconds(run, steps, device, **how):
            asked.append(steps)
            return (
                [0.001] * (steps // 2) + [0.004] * (steps - steps // 2) if steps > timing.REPEATS else [0.001] * steps
            )

        monkeypatch.setattr(timing, "step_seconds", seconds)
        with pretended_gpu():
            assert bench.matmul_rate(sizes=(32,)).flops == 2 * 32**3 / 0.004
        assert asked == [timing.REPEATS, 1000]
        assert bench.matmul_rate("cpu", sizes=(32,)).flops == 2 * 32**3 / 0.001 and asked[2:] == [timing.REPEATS]

    def test_rate_and_timm(self):
        with pretended_gpu():
            assert bench.matmul_rate(sizes=(32,)).flops > 0
            assert bench.against_timm(SMALL, 2, rounds=2, amp="off").speed.n == 2
