"""The way training goes on a GPU, on one that is pretended: the numbers of the CPU, and nothing left behind on it.

Each part is also given a tensor on the CPU in its middle, and has to fail.
"""

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

from dtl_lib import layers, models
from dtl_lib.__main__ import main
from dtl_lib.data import Augment, keyed
from dtl_lib.data.augment import transforms as augment
from dtl_lib.data.augment.mixing import mixer
from dtl_lib.data.images import Images, InMemory, Sets
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tokens import Group, TokenPlan
from dtl_lib.train import Recipe, evaluate, fit, run
from dtl_lib.train import optim as schedule
from dtl_lib.train.device import autocast, precision
from dtl_lib.train.loss import Objective
from tests.unit.fixed import noise
from tests.unit.pretended import OnGpu, asked, pretended_gpu

CONFIG = ViTConfig(16, 4, dim=24, depth=3, heads=3, classes=5)
MODELS = {
    "ViT": {},
    "late tokens": {"plan": TokenPlan.of(3, cls_pos=2, reg_pos=1, num_reg=2), "drop_path": 0.2},
    "leaving, LayerScale": {"plan": TokenPlan(3, (Group("cls", 1), Group("reg", 2, 0, 2))), "layer_scale": 1e-4},
    "patches, sin-cos": {"plan": TokenPlan.of(3, None), "pool": "patches", "positions": "sincos"},
    "CaiT": {"plan": TokenPlan.of(3, 3, class_blocks=1), "talking_heads": True, "layer_scale": 1e-4, "drop_path": 0.1},
}
RECIPE = Recipe(
    epochs=2, batch_size=16, accumulate=2, lr=3e-3, warmup_steps=2, crop=2, flip=True, erase=0.5, mixup=0.8, cutmix=1.0,
    smoothing=0.1, ema=0.9, amp="off",
)  # fmt: skip
RECIPES = {
    "everything": RECIPE,
    "binary cross-entropy, LAMB": replace(RECIPE, loss="bce", optimizer="lamb", mixup=0.0),
    "trivial, no clip": replace(RECIPE, trivial=True, clip=None, cutmix=0.0, ema=None),
    "skipping": replace(RECIPE, on_nan="skip"),
}
AUGMENTS = {
    "none": None,
    "crop and flip": Augment(crop=2),
    "erase": Augment(crop=0, flip=False, erase=0.7),
    "trivial": Augment(crop=2, trivial=True, erase=0.3),
}


def images(count: int = 64, seed: int = 0, image_size=None) -> InMemory:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=draw)
    names, targets = tuple("abcde"), torch.randint(5, (count,), generator=draw)
    return InMemory(f"noise {seed}", names, (0.5, 0.4, 0.6), (0.2, 0.3, 0.25), pixels, targets, image_size)


def trained(device: str, config: ViTConfig = CONFIG, recipe: Recipe = RECIPE, **how):
    torch.manual_seed(0)
    model = ViT(config)
    sets = Sets(images(), images(16, 1), images(16, 2))
    return model, fit(model, sets, recipe, device=device, progress=False, **how)


def same(ours: torch.Tensor, gpus: torch.Tensor) -> None:
    """Equal to the last bit: the same kernels have computed both."""
    assert type(gpus) is OnGpu and not isinstance(ours, OnGpu)
    torch.testing.assert_close(gpus.held, ours, rtol=0, atol=0)


class TestBatches:
    @pytest.mark.parametrize("kind", AUGMENTS)
    def test_are_made_there_and_are_the_cpu_s(self, kind):
        asked = torch.tensor([5, 3, 60, 3, 9]), AUGMENTS[kind], (7, 2)
        x, y = images().batch(*asked)
        with pretended_gpu():
            there = images().to("cuda")
            for indices in (asked[0], asked[0].to("cuda")):
                gpus, labels = there.batch(indices, *asked[1:])
                same(x, gpus)
                same(y, labels)
            assert there.fingerprint() == images().fingerprint()

    def test_of_another_size(self):
        x, _ = images(image_size=(8, 24)).batch([1, 2], Augment(crop=2), (0, 0))
        with pretended_gpu():
            same(x, images(image_size=(8, 24)).to("cuda").batch([1, 2], Augment(crop=2), (0, 0))[0])

    @pytest.mark.parametrize("place", ["keys", "mean", "border", "noise"])
    def test_planted(self, place, monkeypatch):
        plants = {
            "keys": (keyed, "uniform", lambda was: lambda tail, key, at, stream: was(tail, key, at, stream).cpu()),
            "mean": (
                Images,
                "normalised",
                lambda was: lambda self, x: x.float() - torch.tensor(self.mean).view(3, 1, 1),
            ),
            "border": (augment, "padded", lambda was: lambda pixels, by: was(pixels.cpu(), by)),
            "noise": (augment, "_normal", lambda was: lambda *args: was(*args).cpu()),
        }
        module, name, plant = plants[place]
        monkeypatch.setattr(module, name, plant(getattr(module, name)))
        with pretended_gpu(), pytest.raises(RuntimeError, match="one device"):
            images().to("cuda").batch(torch.arange(32), Augment(crop=2, erase=1.0), (0, 0))

    @pytest.mark.parametrize("kind", ["mixup", "cutmix"])
    def test_mixing(self, kind):
        mix, x, y = (
            mixer(**{"mixup": 0.0, "cutmix": 0.0, kind: 0.8}, classes=5),
            noise(6, 3, 16, 16),
            torch.arange(6) % 5,
        )
        torch.manual_seed(3)
        mixed, shares = mix(x, y)
        with pretended_gpu():
            torch.manual_seed(3)
            gpus, theirs = mix(x.to("cuda"), y.to("cuda"))
            same(mixed, gpus)
            same(shares, theirs)
            objective, labels = Objective(ViT(CONFIG).to("cuda"), RECIPE), mix(x, y)[1]
            objective(gpus.float(), theirs)
            with pytest.raises(RuntimeError, match="one device"):
                objective(gpus.float(), labels)


class TestTraining:
    @pytest.mark.parametrize("kind", MODELS)
    def test_models(self, kind):
        config = replace(CONFIG, **{"plan": None, **MODELS[kind]})
        ours, ran = trained("cpu", config)
        with pretended_gpu():
            gpus, there = trained("cuda", config)
            for mine, theirs in zip((*ours.parameters(), *ours.buffers()), (*gpus.parameters(), *gpus.buffers())):
                same(mine, theirs)
            assert [row["loss"] for row in there.history] == [row["loss"] for row in ran.history]
            assert there.test.accuracy == ran.test.accuracy and there.test.loss == ran.test.loss

    @pytest.mark.parametrize("kind", list(RECIPES)[1:])
    def test_recipes(self, kind):
        ours, _ = trained("cpu", recipe=RECIPES[kind])
        with pretended_gpu():
            for mine, theirs in zip(ours.parameters(), trained("cuda", recipe=RECIPES[kind])[0].parameters()):
                same(mine, theirs)

    @pytest.mark.parametrize("amp", ["bf16", "fp16"])
    def test_half_precision(self, amp):
        recipe = replace(RECIPE, amp=amp)
        ours, _ = trained("cpu", recipe=recipe)
        with pretended_gpu() as gpu:
            assert precision(gpu, "auto") == "bf16" and precision(torch.device("cpu"), "auto") == "off"
            for mine, theirs in zip(ours.parameters(), trained("cuda", recipe=recipe)[0].parameters()):
                same(mine, theirs)

    def test_a_state_saved_there_goes_on_here(self, tmp_path):
        half = replace(RECIPE, max_steps=4, log_every=2)
        whole, _ = trained("cpu", recipe=half, output_dir=tmp_path / "here")

        def stop(step, loss, model):
            if step == 2:
                raise KeyboardInterrupt

        with pretended_gpu(), pytest.raises(KeyboardInterrupt):
            trained("cuda", recipe=half, output_dir=tmp_path / "there", checkpoint_every=1, on_step=stop)
        gone_on, _ = trained("cpu", recipe=half, output_dir=tmp_path / "there", resume=True)
        for mine, theirs in zip(whole.parameters(), gone_on.parameters()):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)

    @pytest.mark.parametrize(
        "place", ["drop path", "entering tokens", "positions", "labels", "moving average", "evaluation"]
    )
    def test_planted(self, place, monkeypatch):
        def rand(self, x):
            return x * (torch.rand(len(x), 1, 1) < 0.9)

        def enter(x, now, then, tokens):
            return torch.cat([x[:, now[n]] if n in now else tokens[n].cpu().expand(len(x), -1, -1) for n in then], 1)

        def ema(self, step, moved=None):
            torch._foreach_lerp_([value.cpu() for value in self.values.values()], list(self._weights.values()), 0.1)

        plants = {
            "drop path": (layers.DropPath, "forward", rand),
            "entering tokens": (models, "enter_and_leave", enter),
            "positions": (models, "interpolate_positions", lambda positions, grid, offset: positions.cpu()),
            "labels": (Objective, "from_labels", lambda self, logits, targets: F.cross_entropy(logits, targets.cpu())),
            "moving average": (schedule.EMA, "update", ema),
            "evaluation": (run, "token_norms", lambda model, x: {"cls": model.encode(x.cpu())}),
        }
        monkeypatch.setattr(*plants[place])
        config = replace(CONFIG, plan=TokenPlan.of(3, 1, 1, 2), drop_path=0.1)
        with pretended_gpu(), pytest.raises(RuntimeError, match="one device"):
            trained("cuda", config)

    @pytest.mark.parametrize(
        ("kind", "amp", "looking", "waits"),
        [
            ("everything", "off", False, 0),
            ("everything", "fp16", False, 0),
            ("trivial, no clip", "bf16", False, 0),
            ("skipping", "off", False, 1),  # whether this step is skipped
            ("everything", "off", True, 1),
        ],
    )
    def test_how_often_a_step_waits_for_the_gpu(self, kind, amp, looking, waits):
        """Batches, mixing, loss, backward, clip, optimiser, average; the first step sets up, the last is evaluated."""
        counts = []

        def look(step, loss, model):
            if looking:
                loss.item()
            counts.append(len(asked))

        recipe = replace(RECIPES[kind], amp=amp, epochs=None, max_steps=10, log_every=100, eval_every=100)
        with pretended_gpu():
            trained("cuda", recipe=recipe, on_step=look)
        assert counts[8] - counts[1] == 7 * waits, asked

    def test_the_command_line(self, tmp_path, capsys):
        small = "--image-size 16 --dim 16 --depth 1 --heads 2 --batch-size 16 --samples 64 --max-steps 4".split()
        with pretended_gpu():
            folder = str(tmp_path / "run")
            assert main(["train", *small, "--quiet", "--output-dir", folder, "--ema", "0.9"]) == 0
            assert (
                main(["evaluate", "--model-path", f"{folder}/best.safetensors", "--quiet", "--part", "held_out"]) == 0
            )
        out = capsys.readouterr().out
        assert out.count("on a pretended GPU") >= 2 and "(n = 2,000)" in out

    def test_evaluation_alone(self):
        model = ViT(CONFIG)
        ours = evaluate(model, images(40))
        with pretended_gpu():
            there = evaluate(model.to("cuda"), images(40).to("cuda"), amp="off")
            assert (there.loss, there.accuracy, there.n) == (ours.loss, ours.accuracy, 40)
            assert evaluate(model, images(40), amp="off").loss == ours.loss, "images that lie on the CPU are brought"


class TestHalfOnTheCpu:
    """Autocast and the scaler for real, as far as a CPU has them."""

    def test_bf16_is_near_float32(self):
        torch.manual_seed(0)
        model, x, y = ViT(CONFIG), torch.randn(32, 3, 16, 16), torch.arange(32) % 5
        objective, losses, gradients = Objective(model, RECIPE), {}, {}
        for amp in ("off", "bf16"):
            model.zero_grad()
            with autocast(torch.device("cpu"), amp):
                assert model.blocks[0].mlp(torch.randn(1, 2, 24)).dtype == {"bf16": torch.bfloat16}.get(
                    amp, torch.float
                )
                loss = objective(x, y)
            loss.backward()
            losses[amp], gradients[amp] = loss.item(), torch.cat([value.grad.flatten() for value in model.parameters()])
        assert losses["bf16"] != losses["off"] and losses["bf16"] == pytest.approx(losses["off"], rel=0.01)
        assert gradients["bf16"].dtype == torch.float32 and gradients["bf16"].isfinite().all()
        assert F.cosine_similarity(gradients["bf16"], gradients["off"], dim=0) > 0.99

    def test_a_run_in_bf16_comes_near_one_in_float32(self):
        losses = [trained("cpu", recipe=replace(RECIPE, amp=amp))[1].history[-1]["loss"] for amp in ("off", "bf16")]
        assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)

    def test_the_scaler_steps_where_it_can_and_halves_where_it_cannot(self, monkeypatch):
        """Of four steps in fp16 the second has infinite gradients: its weights stay, the scale is halved."""
        forward, update, seen, scales = Objective.forward, torch.amp.GradScaler.update, [], []

        def planted(self, x, y, teacher_logits=None):
            loss = forward(self, x, y, teacher_logits)
            if len(seen) == 1:
                loss.register_hook(lambda gradient: gradient * float("inf"))
            return loss

        def look(step, loss, model):
            seen.append([value.detach().clone() for value in model.parameters()])

        monkeypatch.setattr(
            torch.amp.GradScaler, "update", lambda self: (update(self), scales.append(self.get_scale()))[0]
        )
        monkeypatch.setattr(Objective, "forward", planted)
        _, found = trained("cpu", recipe=Recipe(max_steps=4, batch_size=16, amp="fp16"), on_step=look)
        moved = [not all(torch.equal(*pair) for pair in zip(*pairs)) for pairs in zip(seen, seen[1:])]
        assert moved == [False, True, True] and found.history[-1]["loss"] < 3
        assert scales[1] == scales[0] / 2 == scales[2] == scales[3]
        assert found.skipped == 1 and found.history[-1]["skipped"] == 1, "the log says so"

    def test_a_step_that_the_scaler_leaves_out_does_not_move_the_average(self):
        """It is that of the steps taken, as float32's is; its decay counts all steps, as the learning rate does."""
        weights = ViT(CONFIG)
        average, usual = schedule.EMA(weights, 0.9), schedule.EMA(weights, 0.9)
        for step, moved in enumerate((True, False, True)):
            with torch.no_grad():
                for value in weights.parameters():
                    value.add_(1.0 + step)
            average.update(step, torch.tensor(moved))
            if moved:
                usual.update(step)
            for name, value in average.values.items():
                torch.testing.assert_close(value, usual.values[name], rtol=1e-6, atol=1e-6)


def test_no_augmentation_is_left_out():
    """A new kind of augmentation belongs in AUGMENTS, unless it is Pillow's, on the CPU image by image."""
    tried = {field.name for kind in AUGMENTS.values() if kind for field in fields(Augment) if getattr(kind, field.name)}
    assert tried >= {field.name for field in fields(Augment)} - {
        "randaugment",
        "three_augment",
        "color_jitter",
        "scale",
    }
