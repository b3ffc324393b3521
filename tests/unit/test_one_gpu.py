"""The runs that time a step, tried with small models: what they record, what they leave out, where they go on."""

from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from torch import nn

from book.experiments import one_gpu, peaks
from dtl_lib import ledger
from dtl_lib.config import ViTConfig, named
from dtl_lib.lab import bench
from dtl_lib.tokens import TokenPlan
from tests.unit.pretended import pretended_gpu

TINY = ViTConfig(16, 8, dim=24, depth=12, heads=3, classes=5)
CAIT = replace(TINY, depth=24, plan=one_gpu.CAIT[one_gpu.STANDARD], talking_heads=True, layer_scale=1e-5)
SHORT = "--rounds 2 --batch-size 2".split()


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Small models under the names of large ones, a rate that needs no measuring, and a ledger of its own."""
    monkeypatch.setattr(ledger, "FOLDER", tmp_path)
    monkeypatch.setattr(one_gpu, "named", lambda name: CAIT if "cait" in name else TINY)
    monkeypatch.setattr(one_gpu, "matmul_rate", lambda device, dtype, *_: bench.Rate(1e11, 512, dtype))


def test_the_plans_are_those_of_the_models():
    for name, plans in one_gpu.MODELS.items():
        config = named(name)
        assert config.plan == plans[one_gpu.STANDARD] and all(config.with_plan(plan) for plan in plans.values())
    assert one_gpu.DEIT["class token from 6, 4 registers from 3"] == TokenPlan.of(12, cls_pos=6, reg_pos=3, num_reg=4)


def test_steps(capsys):
    one_gpu.main(["steps", "--device", "cpu", *SHORT])
    records = ledger.read("step_time")
    assert len(records) == 2 * (5 + 5 + 3) == len({record.what for record in records})
    for record in records:
        timed = record.values
        assert record.n == 2 and timed["images_per_s"] == pytest.approx(2 / timed["step_seconds"])
        assert timed["utilisation"] == pytest.approx(timed["flops"] / 1e11)
        assert timed["speed"][1] <= timed["speed"][0] <= timed["speed"][2]
        assert record.command == "python -m book.experiments.one_gpu steps"
        if "standard" in record.what:
            assert timed["speed"] == [1, 1, 1] and timed["predicted"] == 1
        if "4 registers from 0" in record.what:
            assert timed["predicted"] < 1 and len(record.get("config.plan")["groups"]) == 2
        if "class token from 11" in record.what:
            assert timed["predicted"] > 1 and record.get("config.plan")["groups"][0]["enter"] == 11
    steps, passes = ([r for r in records if kind in r.what] for kind in ("training step", "forward pass"))
    for step, forward in zip(steps[:4], passes[:4]):
        assert step.get("multiply_adds") == 3 * forward.get("multiply_adds")
        assert "peak_bytes" in step.values and "peak_bytes" not in forward.values


def test_what_is_recorded_is_not_measured_again(monkeypatch):
    only = ["steps", "--device", "cpu", *SHORT, "--only"]
    one_gpu.main([*only, "deit_tiny_patch16_224, class token from 11: forward"])
    assert [record.what.split(":")[0] for record in ledger.read("step_time")] == [
        "deit_tiny_patch16_224, class token from 11"
    ]
    measured = []

    def measure(runs, rounds, device):
        measured.append(list(runs))
        return was(runs, rounds, device)

    was = bench.measure
    monkeypatch.setattr(bench, "measure", measure)
    one_gpu.main([*only, "deit_tiny_patch16_224"])
    labels = list(one_gpu.DEIT)
    assert measured == [[label for label in labels if "11" not in label], labels]
    one_gpu.main([*only, "deit_tiny_patch16_224"])
    assert len(measured) == 2 and len(ledger.read("step_time")) == 10


def test_a_dry_run_records_nothing(tmp_path, capsys):
    one_gpu.main(["steps", "--device", "cpu", "--dry", "--only", "cait", *SHORT])
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out.count("times the first's time") == 6


def test_speed_changes_one_thing_at_a_time(monkeypatch):
    was, subjects, compiling = bench.warm_step, [], []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **how: compiling.append(module))  # it would take a minute
    monkeypatch.setattr(bench, "warm_step", lambda *how: subjects.append(how[-1].__self__) or was(*how))
    one_gpu.main(["speed", "--device", "cpu", *SHORT])
    records = ledger.read("step_speed")
    kinds = [record.what.split(", ", 1)[1].split(":")[0] for record in records]
    assert kinds == ["plain", "plain, again", "bf16", "channels last", "compiled", "images made on the device"]
    plain, again, half, last, compiled, made = subjects
    assert plain == again and plain.how.amp == "off" and plain.make is None
    assert half.how == replace(plain.how, amp="bf16") and last.how == replace(plain.how, channels_last=True)
    assert compiled.how == replace(plain.how, compiled=True)
    assert made.how == plain.how and made.make is not None
    assert records[0].get("speed") == [1, 1, 1] and len(compiling) == 1


def test_tf32_is_on_in_its_own_steps_alone(monkeypatch):
    seen, was = [], bench.make_step

    def make_step(config, how):
        step = was(config, how)
        return lambda: seen.append(torch.get_float32_matmul_precision()) or step()

    monkeypatch.setattr(bench, "make_step", make_step)
    options = Namespace(device="cpu", rounds=1, only="", folder=None, dry=False, sizes=(), command="none")
    plain = bench.BenchConfig(2, amp="off", device="cpu")
    one_gpu.change_one("tiny", TINY, plain, options, labels=("plain", "TF32"))
    assert seen == ["highest"] * 3 + ["high"] * 3 + ["highest"] * 2 + ["high"] * 2 + ["highest", "high"]
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("name", "dtype", "in_tf32", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, False, 989e12), ("NVIDIA H200", torch.float32, True, 494e12),
        ("NVIDIA A100-SXM4-80GB", torch.float32, False, 19.5e12), ("Tesla T4", torch.float16, False, 65e12),
        ("Tesla T4", torch.bfloat16, False, None), ("NVIDIA H100 PCIe", torch.bfloat16, False, None),
        ("NVIDIA H200 NVL", torch.bfloat16, False, None), ("2 CPU cores (AMD EPYC)", torch.float32, False, None),
    ],
)  # fmt: skip
def test_what_the_data_sheet_says(name, dtype, in_tf32, peak):
    assert peaks.of_sheet(name, dtype, in_tf32) == peak


def test_a_known_gpu_has_its_share_of_the_sheet(monkeypatch):
    monkeypatch.setattr(one_gpu, "device_name", lambda device: "NVIDIA H100 80GB HBM3")
    timing = bench.step_time(TINY, 2, steps=1, amp="off", device="cpu")
    assert one_gpu.shares(timing)["of_sheet"] == pytest.approx(timing.flops / 67e12)


@pytest.mark.slow
def test_on_a_gpu_also_where_images_are_made(monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda module, **how: None)
    with pretended_gpu():
        one_gpu.main(["speed", *SHORT, "--only", "images made"])
    records = ledger.read("step_speed")
    assert {record.device for record in records} == {"a pretended GPU"}
    assert ["CPU" in record.what for record in records] == [False, True, False]
    assert all(record.get("peak_bytes") > 0 for record in records)
