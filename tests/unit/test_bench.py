"""What `dtl_lib.bench` measures: arithmetic by hand, planted delays where they belong, timm's models, the command."""

import re
import statistics
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dtl_lib import bench, ledger
from dtl_lib.__main__ import main
from dtl_lib.bench import against, parts, timing
from dtl_lib.bench.work import How, placed, training_step, work
from dtl_lib.config import ViTConfig, named
from dtl_lib.layers import Attention, Mlp
from dtl_lib.models import ViT
from dtl_lib.pretrained import from_timm
from dtl_lib.tokens import Group, TokenPlan
from dtl_lib.train import Recipe
from dtl_lib.train.objective import Objective
from dtl_lib.train.schedule import optimiser
from tests.unit.pretended import pretended_gpu

SMALL = ViTConfig(16, 8, dim=24, depth=2, heads=3, classes=5)
CPU = {"device": "cpu", "amp": "off"}
SHORT = "--image-size 16 --patch-size 8 --dim 24 --depth 2 --heads 3 --device cpu --batch-size 2 --steps 3".split()
CAIT = {"talking_heads": True, "layer_scale": 1e-5, "drop_path_schedule": "uniform"}
STILL = {
    "plain": {},
    "wide, with drop path": {"image_size": (16, 24), "drop_path": 0.1, "mlp_ratio": 2.0},
    "without bias, with LayerScale": {"qkv_bias": False, "layer_scale": 1e-5},
    "registers": {"plan": TokenPlan.of(2, reg_pos=0, num_reg=3)},
    "distilled": {"plan": TokenPlan.of(2, dist=True)},
    "patches": {"plan": TokenPlan.of(2, None), "pool": "patches"},
    "patches, normalised after": {"plan": TokenPlan.of(2, None), "pool": "patches", "norm_after_pool": True},
    "patches beside a class token": {"pool": "patches"},
    "CaiT": {"plan": TokenPlan.of(2, 2, class_blocks=1), **CAIT},
}
MOVED = {
    "late": TokenPlan.of(2, cls_pos=1),
    "late registers": TokenPlan.of(2, reg_pos=1, num_reg=3),
    "leaving": TokenPlan(2, (Group("cls", 1), Group("reg", 3, 0, 1))),
    "another name": TokenPlan(2, (Group("cls", 1), Group("sink", 3))),
    "distilled with registers": TokenPlan.of(2, reg_pos=0, num_reg=3, dist=True),
}


def made(*seconds: float, training: bool = True, batch: int = 10) -> bench.Timing:
    return bench.Timing("training step", How(batch, training, **CPU), seconds, 1.0, 3 * 10**9, None, "")


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
        before, first = ViT.forward, iter([0.2])
        monkeypatch.setattr(ViT, "forward", lambda self, x: (time.sleep(next(first, 0)), before(self, x))[1])
        timed = bench.step_time(SMALL, 2, steps=3, **CPU)
        assert timed.first_seconds >= 0.2 and statistics.median(timed.seconds) < 0.2

    @pytest.mark.parametrize("where", ["forward", "backward"])
    def test_of_one_part(self, where, monkeypatch):
        before, delay = Mlp.forward, Delay[where]
        monkeypatch.setattr(Mlp, "forward", lambda self, x: before(self, delay.apply(x)))
        found = dict(bench.profile_step(SMALL, 2, steps=2, **CPU))
        slow = "MLP" + parts.BACKWARD * (where == "backward")
        assert found.pop(slow) >= 2 * 0.05 > max(found.values()), "two blocks, 50 ms each"

    def test_of_the_update(self, monkeypatch):
        before = torch.nn.utils.clip_grad_norm_
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: (time.sleep(0.1), before(*a, **k))[1])
        found = dict(bench.profile_step(SMALL, 2, steps=1, **CPU))
        assert found.pop(parts.UPDATE) >= 0.1 > max(found.values())


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        time.sleep(0.05)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(0.05)
        return gradient


Delay = {"forward": _Forward, "backward": _Backward}


class TestWork:
    def test_a_step_is_the_loop_s(self):
        """The same weights as forward, cross-entropy, backward, clip and AdamW written out here."""
        recipe = Recipe(lr=0.01, clip=0.1, smoothing=0.1, weight_decay=0.3)
        models = [ViT(SMALL) for _ in range(2)]
        models[1].load_state_dict(models[0].state_dict())
        images = torch.randn(4, 3, 16, 16)
        step = training_step(Objective(models[0], recipe), SMALL, How(4, recipe=recipe, **CPU), lambda: images)
        optimizer = optimiser(models[1], recipe)
        for _ in range(3):
            step()
            logits = models[1](images)
            nn.functional.cross_entropy(logits, torch.arange(4) % 5, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(models[1].parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        for ours, other in zip(models[0].parameters(), models[1].parameters()):
            torch.testing.assert_close(ours, other, rtol=0, atol=0)

    def test_steps_learn_and_forward_passes_do_not(self):
        model = ViT(SMALL)
        before = [value.clone() for value in model.parameters()]
        forward = work(SMALL, How(4, training=False, **CPU), model)
        assert torch.equal(forward(), forward()) and not forward().requires_grad and not model.training
        assert all(torch.equal(*pair) for pair in zip(before, model.parameters()))
        step = work(SMALL, How(4, recipe=Recipe(lr=0.01), **CPU), model)
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
            how = How(2, False, "bf16" if half else "off", compiled, last, "cpu")
            seen.clear()
            assert work(SMALL, how)().dtype == (torch.bfloat16 if half else torch.float32)
            assert seen == [(ViT, "inductor")] * compiled
            model, images = placed(SMALL, how)
            for tensor in (images, model.patch_embed.project.weight):
                assert tensor.is_contiguous(memory_format=torch.channels_last) == last
            assert how.dtype == (torch.bfloat16 if half else torch.float32)

    def test_layout_changes_no_number(self):
        torch.manual_seed(0)
        model, images = placed(SMALL, How(2, channels_last=True, **CPU))
        other = ViT(SMALL)
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(images), other(images.contiguous()))

    def test_compiled_steps_are_the_same_steps(self):
        losses = []
        for compiled in (False, "aot_eager"):
            torch.manual_seed(3)
            step = work(SMALL, How(4, compiled=compiled, recipe=Recipe(lr=0.01), **CPU))
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
            How(**{"batch_size": 2, "device": "cpu", **change})
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

    def test_rate_and_timm(self):
        with pretended_gpu():
            assert bench.matmul_rate(sizes=(32,)).flops > 0
            assert bench.against_timm(SMALL, 2, rounds=2, amp="off").speed.n == 2


class TestAgainstTimm:
    @pytest.mark.parametrize("kind", STILL)
    def test_timm_s_model_is_of_the_same_configuration(self, kind):
        config = replace(SMALL, **{"plan": None, **STILL[kind]})
        assert against.stands_still(config)
        theirs = from_timm(bench.timm_of(config)).config
        for name in ("layer_scale", "drop_path"):  # read off float32
            assert getattr(theirs, name) == (getattr(config, name) and pytest.approx(getattr(config, name), rel=1e-6))
        same = ("mean", "std", "crop", "interpolation", "position_offset", "layer_scale", "drop_path")
        assert replace(theirs, **{name: getattr(config, name) for name in same}) == config

    @pytest.mark.parametrize("kind", MOVED)
    def test_of_tokens_that_move_it_is_the_standard_model(self, kind):
        config = replace(SMALL, plan=MOVED[kind])
        assert not against.stands_still(config)
        assert from_timm(bench.timm_of(config)).config.plan == TokenPlan.of(2, dist=kind.startswith("distilled"))
        moved = replace(SMALL, plan=TokenPlan.of(2, 1, reg_pos=1, num_reg=2, class_blocks=1), **CAIT)
        assert from_timm(bench.timm_of(moved)).config.plan == TokenPlan.of(2, 2, class_blocks=1)

    @pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "cait_xxs24_224", "vit_small_patch14_reg4_dinov2"])
    def test_named_configurations(self, name):
        with torch.device("meta"):
            theirs = bench.timm_of(named(name))
        counted = sum(value.numel() for value in theirs.parameters())
        prefix = sum(group.tokens for group in named(name).plan.groups) * named(name).dim  # positions of tokens
        assert counted - named(name).cost().parameters in (0, prefix)

    def test_what_timm_has_not(self):
        with pytest.raises(ValueError, match="as in CaiT"):
            bench.timm_of(replace(SMALL, talking_heads=True))

    def test_both_compute_the_same_in_the_same_rounds(self, monkeypatch):
        outputs = {}

        def measure(runs, rounds, device):
            outputs.update({name: run() for name, run in runs.items()})
            return {name: np.array([0.2, 0.2] if "timm" in name else [0.1, 0.1]) for name in runs}

        monkeypatch.setattr(against, "measure", measure)
        monkeypatch.setattr(torch, "randn", lambda *shape, device=None: torch.linspace(0, 1, 2 * 768).view(*shape))
        found = bench.against_timm(SMALL, 2, training=False, rounds=2, **CPU)
        torch.testing.assert_close(outputs["ours"], outputs["timm"], rtol=1e-4, atol=1e-5)
        assert found.speed.value == 2 and found.control.value == 1 and found.same
        assert not torch.allclose(outputs["timm"], outputs["timm, a copy"])
        assert "standard model" in str(bench.against_timm(replace(SMALL, plan=MOVED["late"]), 2, rounds=2, **CPU))


class TestParts:
    def test_they_add_up_to_the_step(self):
        """Own times of everything inside a step are the step, to the profiler's rounding."""
        from torch.profiler import ProfilerActivity, profile, record_function

        step = work(SMALL, How(2, **CPU))
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            for _ in range(3):
                with record_function(parts.MARK + parts.REST):
                    step()
        steps = [event for event in watched.events() if event.name == parts.MARK + parts.REST]
        whole = sum(event.time_range.elapsed_us() for event in steps) / 1e6
        assert len(steps) == 3 and sum(parts.by_part(watched.events()).values()) == pytest.approx(whole, rel=0.01)

    def test_a_backward_pass_on_a_thread_of_its_own(self):
        """As on a GPU: nothing is around it but sequence numbers, and each operation has the time of its kernels."""

        def event(name, start, sequence=-1, gpu=0.0, children=(), backward=0):
            made = SimpleNamespace(
                name=name, sequence_nr=sequence, self_device_time_total=gpu, cpu_children=children, cpu_parent=None,
                scope=0, fwd_thread=backward, device_type=SimpleNamespace(name="CPU"),
                time_range=SimpleNamespace(start=start),
            )  # fmt: skip
            for child in children:
                child.cpu_parent = made
            return made

        mark, node = parts.MARK, "autograd::engine::evaluate_function: "
        mlp = event(f"{mark}MLP", 1, children=[event("aten::view", 1, 7), event("aten::addmm", 2, 8, gpu=30)])
        norm = event(f"{mark}layer norms", 3, children=[event("aten::layer_norm", 3, 9, gpu=5)])
        update = event(f"{mark}{parts.UPDATE}", 9, children=[event("aten::add_", 9, gpu=2)])
        step = event(f"{mark}{parts.REST}", 0, children=[mlp, norm, event("aten::add", 4, 10, gpu=1), update])
        back = [event(f"{node}Layer", 5, 9, children=[event("aten::back", 5, gpu=10)], backward=1)]
        back += [event(f"{node}Addmm", 6, 8, children=[event("aten::mm", 6, gpu=60)], backward=1)]
        back += [event(f"{node}AccumulateGrad", 7, children=[event("aten::detach", 7, gpu=4)])]
        before = event("aten::before", -1, 3, gpu=1000)
        found = parts.by_part([before, *reversed(back), step], "self_device_time_total")
        busy = {"MLP": 30, "layer norms": 5, parts.REST: 1, parts.UPDATE: 2, parts.KEPT: 4}
        busy |= {"layer norms, backward": 10, "MLP, backward": 60}
        assert found == pytest.approx({name: time / 1e6 for name, time in busy.items()})

    def test_each_is_there_forward_and_backward(self):
        found = dict(bench.profile_step(SMALL, 2, **CPU))
        for name in parts.FORWARD:
            assert found[name] > 0 and found[name + parts.BACKWARD] > 0
        assert set(found) == {
            parts.DATA, parts.KEPT, parts.UPDATE, *parts.FORWARD, *(name + parts.BACKWARD for name in parts.FORWARD)
        }  # fmt: skip

    @pytest.mark.parametrize("kind", ["distilled", "patches, normalised after", "CaiT"])
    def test_other_models_have_the_same_parts(self, kind):
        config = replace(SMALL, **{"plan": None, **STILL[kind]})
        assert {"MLP", "attention product", "head, backward"} <= dict(bench.profile_step(config, 2, **CPU)).keys()
        assert bench.profile_step(replace(SMALL, classes=0), 2, **CPU)

    def test_nothing_is_left_of_the_marks(self):
        model, seen = ViT(SMALL), []

        class Mark:
            def __init__(self, name):
                self.name = name

            def __enter__(self):
                seen.append(self.name)

            def __exit__(self, *error):
                seen.append(f"/{self.name}")

        images = torch.randn(1, 3, 16, 16)
        plain = model(images)
        with parts.marked(model, Mark):
            assert torch.equal(model(images), plain)
        per_block = ["queries, keys, values", "attention product", "/attention product", "projection", "/projection"]
        assert seen[1:3] == ["patches", "/patches"] and seen[5:10] == per_block
        assert seen.count("MLP") == seen.count("/MLP") == 2 and seen.count("layer norms") == 5
        seen.clear()
        model(images)
        assert not seen and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    def test_an_error_inside_leaves_nothing_either(self, monkeypatch):
        model = ViT(SMALL)
        monkeypatch.setattr(Attention, "ask", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError), parts.marked(model, torch.profiler.record_function):
            model(torch.randn(1, 3, 16, 16))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    def test_a_compiled_step_has_no_parts(self):
        with pytest.raises(ValueError, match="not compiled"):
            bench.profile_step(SMALL, 2, compiled=True, **CPU)


class TestCommand:
    def test_prints_what_it_measured(self, capsys):
        assert main(["bench", *SHORT, "--reg_pos", "1", "--num_reg", "2"]) == 0
        out = capsys.readouterr().out
        config = ViTConfig(16, 8, dim=24, depth=2, heads=3, plan=TokenPlan.of(2, 0, 1, 2))
        assert str(config.plan) in out and f"{config.cost().parameters / 1e6:.2f} M parameters" in out
        assert "batches of 2, float32" in out and "n = 3 steps" in out and "CPU core" in out
        rates, milliseconds, flops = (
            [float(x.replace(",", "")) for x in re.findall(r"[\d.,]*\d", line.partition("  ")[2])]
            for start in ("images/s, median", "ms a step", "GFLOP/s")
            for line in out.splitlines()
            if line.startswith(start)
        )
        assert [2e3 / images for images in rates] == pytest.approx(milliseconds, abs=0.006)
        assert len(flops) == 2

    def test_the_rest_where_asked_for(self, capsys):
        more = "--against timm --profile --gpus 1 16 --epochs 90 --loader-rate 3 --core-rate 2".split()
        assert main(["bench", *SHORT, *more]) == 0
        out = capsys.readouterr().out
        assert out.count("times the speed of timm's model of the same function") == 2
        assert "MLP, backward" in out and "a step, watched" in out
        rows = [line.split() for line in out.splitlines() if line.endswith(("loader", "compute", "communication"))]
        assert [row[0] for row in rows] == ["1", "16"] and rows[1][-1] == "loader"
        assert "90 epochs" in out and "3 images/s a host" in out and re.search(r"[\d,]+ cores at 2 each", out)

    def test_records(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ledger, "FOLDER", tmp_path)
        assert main(["bench", *SHORT, "--against", "timm", "--record", "tries"]) == 0
        forward, step = ledger.read("tries")
        assert "forward pass" in forward.what and "training step" in step.what and step.n == 3
        assert step.get("utilisation") == pytest.approx(step.get("flops") / step.get("matmul_flops"))
        assert step.get("config.dim") == 24 and len(step.get("speed")) == 3 and step.get("batch") == 2
        assert step.command.startswith("dtl bench --image-size 16")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ("--batch-size 0", "--batch-size: give a whole number, 1 or more"),
            ("--steps none", "--steps: give a whole number"),
            ("--device warp", "there is no device 'warp' here"),
            ("--profile --compile", "leave --compile out"),
            ("--amp fp8", "--amp: invalid choice"),
            ("--against torchvision", "--against: invalid choice"),
            ("--overlap 2", "overlap is a share from 0 to 1"),
            ("--within 0", "bandwidth"),
            ("--epochs -3", "epochs is a number above 0"),
            ("--epochs 0", "epochs is a number above 0"),
            ("--core-rate 0", "core's rate"),
            ("--model deit_huge", "no configuration is called 'deit_huge'"),
            ("--against timm --talking-heads", "as in CaiT"),
        ],
    )
    def test_wrong_input_is_one_line_before_the_work(self, arguments, words, capsys):
        assert main(["bench", *SHORT[:-4], *arguments.split()]) == 2
        out, err = capsys.readouterr()
        assert words in err and len(err.splitlines()) == 1 and not out
