"""Chapter 10's question: what does a teacher bring, and what a token of its own?

    python -m book.experiments.distillation --scale gpu --jobs 6

trains a small convolutional teacher, and then students with no teacher, a soft or a hard one, each with a class token
alone and with a distillation token beside it; and one whose two tokens enter late. In all runs of a seed the same
images come in the same order. The teacher is kept in `runs/distillation`, where students look for it, and beside it the
students of two tokens of seed 0: where that folder was removed, remove the teacher's record too. What was expected is
in `book/predictions.md`, committed before the first run.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dtl_lib import data, record
from dtl_lib.checkpoint import save_model
from dtl_lib.config import CIFAR_MEAN, CIFAR_STD, ViTConfig
from dtl_lib.data import loader
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe, fit
from dtl_lib.train.device import autocast
from dtl_lib.train.evaluation import wilson

from .study import Run, Study, main

EXPERIMENT, RUNS, TEACHER = "distillation", Path("runs/distillation"), "teacher"
WHO, TOKENS = ("no teacher", "soft", "hard"), ("class token", "both tokens")
LATE = "hard, both tokens, from block {}"
LOOKS = 1000  # test images whose tokens and maps are compared
BATCH = 500


@dataclass(frozen=True)
class Scale:
    """How large all of it is.

    Attributes:
        sets: gives the images.
        config: of the student with a class token alone.
        recipe: of the students, without a teacher.
        width, layers: channels of the teacher's first stage, and blocks of its four stages.
        teaching: passes over the images that the teacher learns from.
        lr: its peak learning rate.
        seeds: of each condition.
    """

    sets: Callable[[], data.Sets]
    config: ViTConfig
    recipe: Recipe
    width: int
    layers: tuple[int, ...]
    teaching: float
    lr: float
    seeds: tuple[int, ...] = (0, 1, 2)


def _cifar(dim: int, depth: int) -> ViTConfig:
    return ViTConfig(32, 4, dim=dim, depth=depth, heads=4, classes=10, mean=CIFAR_MEAN, std=CIFAR_STD, crop=1.0)


_SHAPES = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=10)
_SHARED = {"crop": 4, "flip": True, "smoothing": 0.1}
SCALES = {
    "gpu": Scale(
        partial(data.load, "cifar10"), _cifar(128, 6),
        Recipe(epochs=15, batch_size=512, lr=2e-3, warmup_epochs=1, amp="bf16", eval_every=3 * 87, **_SHARED),
        32, (2, 2, 2, 1), 24, 0.4,
    ),
    "cpu": Scale(
        partial(data.load, "cifar10"), _cifar(64, 4),
        Recipe(epochs=1, batch_size=64, lr=2e-3, warmup_steps=100, **_SHARED), 16, (1, 1, 1, 1), 2, 0.1,
    ),
    "toy": Scale(
        partial(data.load, "shapes", image_size=16, samples=64), _SHAPES,
        Recipe(max_steps=2, batch_size=16, lr=1e-3, flip=True), 8, (1, 1, 1, 1), 0.5, 0.05, (0, 1),
    ),
}  # fmt: skip


def study(scale: str) -> Study:
    """The teacher, then every condition's first seed before any second."""
    sizes = SCALES[scale]
    runs = [
        Run(what, seed, config, replace(sizes.recipe, seed=seed, **taught))
        for seed in sizes.seeds
        for what, config, taught in conditions(sizes.config)
    ]
    runs.insert(0, Run(TEACHER, 0, sizes.config, sizes.recipe))
    command = f"python -m book.experiments.distillation --scale {scale}"
    return Study(EXPERIMENT, command, tuple(runs), partial(measure, scale), first=1)


def conditions(config: ViTConfig) -> list[tuple[str, ViTConfig, dict]]:
    """The name, model, and what the recipe says of the teacher, of each condition; late is half of the way up."""
    both, half = replace(config, plan=TokenPlan.of(config.depth, dist=True)), config.depth // 2
    late = replace(config, plan=TokenPlan.of(config.depth, half, dist=True))
    how = {who: {} if who == WHO[0] else {"distill": who, "distill_from": TEACHER} for who in WHO}
    made = [(f"{who}, {tokens}", model, how[who]) for who in WHO for tokens, model in zip(TOKENS, (config, both))]
    return [*made, (LATE.format(half), late, how["hard"])]


def measure(scale: str, run: Run, device: str) -> dict:
    """One run: trains, and gives the values of its record."""
    sizes, folder = SCALES[scale], RUNS / scale
    sets = sets_at(scale, device)
    if run.what == TEACHER:
        teacher = make_teacher(sizes, sets, torch.device(device))
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.half().cpu().contiguous() for name, value in teacher.state_dict().items()}
        save_file(weights, teacher_file(scale))
        return of_the_teacher(saved_teacher(scale, device), sets)
    torch.manual_seed(run.seed)
    model, teacher = ViT(run.config), saved_teacher(scale, device)
    teaches = {"teacher": teacher} if run.recipe.distill_from else {}
    result = fit(model, sets, run.recipe, device=device, progress=False, **teaches)
    if run.seed == 0 and "dist" in model.head_names:  # chapter 10 looks into these
        save_model(folder / f"{run.what.replace(', ', '_').replace(' ', '_')}.safetensors", model, model.card)
    curve = [row["accuracy"] for row in result.history if "accuracy" in row]
    values = {"curve": curve, "loss": result.test.loss, "train_seconds": result.seconds}
    return values | of_the_heads(model, teacher, sets) | of_the_tokens(model, sets)


@cache
def sets_at(scale: str, device: str) -> data.Sets:
    sets = SCALES[scale].sets()
    if scale == "toy":
        sets.test.length = sets.held_out.length = 48
    parts = (sets.train, sets.held_out, sets.test)
    return data.Sets(*(part.to(torch.device(device)) if hasattr(part, "to") else part for part in parts))


def teacher_file(scale: str) -> Path:
    """Where the teacher's weights lie, in float16."""
    return RUNS / scale / "teacher.safetensors"


def convnet(sizes: Scale) -> nn.Module:
    """timm's ResNet of basic blocks with the beginning that images of 32 × 32 want: no stride and no pooling."""
    channels = tuple(sizes.width * 2**stage for stage in range(4))
    model = timm.create_model("resnet18", num_classes=10, layers=sizes.layers, channels=channels)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def saved_teacher(scale: str, device: str) -> nn.Module:
    """The teacher as its students meet it."""
    model = convnet(SCALES[scale])
    model.load_state_dict({name: value.float() for name, value in load_file(teacher_file(scale)).items()})
    return model.to(device, memory_format=torch.channels_last).eval()


def make_teacher(sizes: Scale, sets: data.Sets, device: torch.device) -> nn.Module:
    """A teacher that has learned from labels: SGD with momentum, the learning rate up and down once."""
    torch.manual_seed(0)
    recipe = replace(sizes.recipe, epochs=sizes.teaching, max_steps=None, smoothing=0)
    total = recipe.steps(len(sets.train))
    model = convnet(sizes).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, sizes.lr, total_steps=max(2, total), pct_start=0.25, cycle_momentum=False
    )
    for images, labels in loader.training_batches(sets.train, recipe, 0, total, device=device):
        images = images.to(device, memory_format=torch.channels_last)
        with autocast(device, recipe.amp):
            loss = F.cross_entropy(model(images).float(), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def _logits(heads: Callable[[Tensor], tuple[Tensor, ...]], sets: data.Sets) -> tuple[list[Tensor], Tensor]:
    """For each head the logits of all test images, in float64, and their labels."""
    device = sets.test.device
    parts = [sets.test.batch(some) for some in torch.arange(len(sets.test)).split(BATCH)]
    said = [heads(images) for images, _ in parts]
    return [torch.cat(head).double().to(device) for head in zip(*said)], torch.cat([y for _, y in parts])


def of_the_teacher(teacher: nn.Module, sets: data.Sets) -> dict:
    """How often it is right, and by true class the mean of the shares it gives, at temperature 1 and 3."""
    (logits,), labels = _logits(lambda images: (teacher(images),), sets)
    right = int((logits.argmax(dim=1) == labels).sum())
    low, high = wilson(right, len(labels))
    values: dict = {"accuracy": right / len(labels), "low": low, "high": high, "n": len(labels)}
    for temperature in (1, 3):
        shares = (logits / temperature).softmax(dim=1)
        means = torch.stack([shares[labels == label].mean(dim=0) for label in range(10)])
        values[f"shares_{temperature}"] = means.nan_to_num().flatten().tolist()
    values["parameters"] = sum(parameter.numel() for parameter in teacher.parameters())
    return values


def of_the_heads(model: ViT, teacher: nn.Module, sets: data.Sets) -> dict:
    """What each head gets right, where it agrees with the teacher, and how often it repeats the teacher's mistakes."""
    (taught,), labels = _logits(lambda images: (teacher(images),), sets)
    heads, _ = _logits(model.heads, sets)
    answers = dict(zip(model.head_names, (head.argmax(dim=1) for head in heads)))
    answers["mean"] = torch.stack(heads).mean(dim=0).argmax(dim=1)
    said, wrong = taught.argmax(dim=1), taught.argmax(dim=1) != labels
    values: dict = {"n": len(labels), "teacher_wrong": int(wrong.sum())}
    for name, answer in answers.items():
        values[f"accuracy_{name}"] = (answer == labels).double().mean().item()
        values[f"agreement_{name}"] = (answer == said).double().mean().item()
        values[f"repeated_{name}"] = int((answer == said)[wrong].sum())  # mistakes of the teacher that it makes too
    values["accuracy"] = values["accuracy_mean"]
    if "dist" in answers:
        values["same"] = (answers["cls"] == answers["dist"]).double().mean().item()
    return values


@torch.no_grad()
def of_the_tokens(model: ViT, sets: data.Sets) -> dict:
    """How alike the two tokens are, and their maps, by block.

    Tokens by their cosine, as learned and after each block; centred: without each one's mean over the images. Maps by
    their distance, half of the sum of absolute differences, from 0 to 1: of the means over heads.
    """
    if "dist" not in model.head_names:
        return {}
    images = sets.test.batch(torch.arange(min(LOOKS, len(sets.test))))[0]
    learned, first = model.learned(), min(group.enter for group in model.plan.groups if group.name == "dist")
    with record(model.eval()) as tape:
        features = model.features(images)
    cosines, centred = [F.cosine_similarity(learned["cls"], learned["dist"]).item()], []
    distances, patches = [], {}
    for block in range(first, model.plan.blocks):
        layout, tokens = model.plan.layout(block), tape.tokens(block)
        pair = [tokens[:, layout[name]].flatten(1).double() for name in ("cls", "dist")]
        cosines.append(F.cosine_similarity(*pair).mean().item())
        centred.append(F.cosine_similarity(*(token - token.mean(dim=0) for token in pair)).mean().item())
        rows = {name: tape.row(block, name).mean(dim=1).double() for name in ("cls", "dist")}
        distances.append(((rows["cls"] - rows["dist"]).abs().sum(dim=-1) / 2).mean().item())
        for name, row in rows.items():
            patches.setdefault(name, []).append(row[:, layout["patches"]].sum(dim=-1).mean().item())
    last = F.cosine_similarity(features.cls.flatten(1).double(), features.dist.flatten(1).double()).mean().item()
    values = {"cosine": cosines, "cosine_centred": centred, "cosine_final": last}
    values |= {"map_distance": distances, "first_block": first}
    return values | {f"patches_{name}": shares for name, shares in patches.items()}


if __name__ == "__main__":
    main(study, sys.argv[1:], __doc__.splitlines()[0])
