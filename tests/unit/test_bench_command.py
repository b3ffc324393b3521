"""timm's models beside ours, and what `dtl bench` prints, records and refuses."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from dtl_lib import ledger
from dtl_lib.__main__ import main
from dtl_lib.config import ViTConfig, named
from dtl_lib.lab import bench
from dtl_lib.lab.bench import against
from dtl_lib.pretrained import from_timm
from dtl_lib.tokens import Group, TokenPlan

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


class TestAgainstTimm:
    @pytest.mark.parametrize("kind", STILL)
    def test_timm_s_model_is_of_the_same_configuration(self, kind):
        config = replace(SMALL, **{"plan": None, **STILL[kind]})
        assert against.is_standard_plan(config)
        theirs = from_timm(bench.timm_of(config)).config
        for name in ("layer_scale", "drop_path"):  # read off float32
            assert getattr(theirs, name) == (getattr(config, name) and pytest.approx(getattr(config, name), rel=1e-6))
        same = ("mean", "std", "crop", "interpolation", "position_offset", "layer_scale", "drop_path")
        assert replace(theirs, **{name: getattr(config, name) for name in same}) == config

    @pytest.mark.parametrize("kind", MOVED)
    def test_of_tokens_that_move_it_is_the_standard_model(self, kind):
        config = replace(SMALL, plan=MOVED[kind])
        assert not against.is_standard_plan(config)
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
        real = torch.randn

        def randn(*shape, device=None, **how):  # the benchmark's images; the check of a conversion draws its own
            return real(*shape, device=device, **how) if how else torch.linspace(0, 1, 2 * 768).view(*shape)

        monkeypatch.setattr(torch, "randn", randn)
        found = bench.against_timm(SMALL, 2, training=False, rounds=2, **CPU)
        torch.testing.assert_close(outputs["ours"], outputs["timm"], rtol=1e-4, atol=1e-5)
        assert found.speed.value == 2 and found.control.value == 1 and found.same
        assert not torch.allclose(outputs["timm"], outputs["timm, a copy"])
        assert "standard model" in str(bench.against_timm(replace(SMALL, plan=MOVED["late"]), 2, rounds=2, **CPU))


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
        for rate, shown in zip(rates, milliseconds, strict=True):
            lowest, highest = (2e3 / (rate + rounded) for rounded in (0.05, -0.05))  # printed to a tenth
            assert lowest - 0.006 <= shown <= highest + 0.006
        assert len(flops) == 2

    def test_the_rest_where_asked_for(self, capsys):
        more = "--against timm --profile --gpus 1 16 --epochs 90 --loader-rate 3 --core-rate 2".split()
        assert main(["bench", *SHORT, *more]) == 0
        out = capsys.readouterr().out
        assert out.count("times the speed of timm's model of the same function") == 2
        assert "MLP, backward" in out and "a step under the profiler" in out
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
            ("--profile --compile", "leave out --compile"),
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
