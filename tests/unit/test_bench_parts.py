"""Where the time goes: parts that add up, planted delays where they belong, and nothing left of the marks."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dtl_lib.config import ViTConfig
from dtl_lib.lab import bench
from dtl_lib.lab.bench import parts
from dtl_lib.lab.bench.step import BenchConfig, make_step
from dtl_lib.layers import Attention, Mlp
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan

SMALL = ViTConfig(16, 8, dim=24, depth=2, heads=3, classes=5)
CPU = {"device": "cpu", "amp": "off"}
CAIT = {"talking_heads": True, "layer_scale": 1e-5, "drop_path_schedule": "uniform"}
KINDS = {
    "distilled": {"plan": TokenPlan.of(2, dist=True)},
    "patches": {"plan": TokenPlan.of(2, None), "pool": "patches", "norm_after_pool": True},
    "CaiT": {"plan": TokenPlan.of(2, 2, class_blocks=1), **CAIT},
}


DELAY = 0.5  # seconds: so long no part of so small a step takes, however busy the machine


class TestDelays:
    @pytest.mark.parametrize("where", ["forward", "backward"])
    def test_of_one_part(self, where, monkeypatch):
        before, delay = Mlp.forward, Delay[where]
        monkeypatch.setattr(Mlp, "forward", lambda self, x: before(self, delay.apply(x)))
        found = dict(bench.profile_step(SMALL, 2, steps=2, **CPU))
        slow = "MLP" + parts.BACKWARD * (where == "backward")
        assert found.pop(slow) >= 2 * DELAY > max(found.values()), "two blocks"

    def test_of_the_update(self, monkeypatch):
        before = torch.nn.utils.clip_grad_norm_
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: (time.sleep(DELAY), before(*a, **k))[1])
        found = dict(bench.profile_step(SMALL, 2, steps=1, **CPU))
        assert found.pop(parts.UPDATE) >= DELAY > max(found.values())


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        time.sleep(DELAY)
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
        time.sleep(DELAY)
        return gradient


Delay = {"forward": _Forward, "backward": _Backward}


class TestParts:
    def test_they_add_up_to_the_step(self):
        """Own times of everything inside a step are the step, to the profiler's rounding."""
        from torch.profiler import ProfilerActivity, profile, record_function

        step = make_step(SMALL, BenchConfig(2, **CPU))
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

    @pytest.mark.parametrize("kind", KINDS)
    def test_other_models_have_the_same_parts(self, kind):
        config = replace(SMALL, **KINDS[kind])
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
        monkeypatch.setattr(Attention, "project_qkv", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError), parts.marked(model, torch.profiler.record_function):
            model(torch.randn(1, 3, 16, 16))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    def test_a_compiled_step_has_no_parts(self):
        with pytest.raises(ValueError, match="not compiled"):
            bench.profile_step(SMALL, 2, compiled=True, **CPU)
