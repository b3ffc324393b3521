"""Change, run, explain: a small model and a changed one learn `shapes`, side by side, in under 20 seconds."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ..data import load
from ..data.images import Images
from ..exercises import WrongAnswer, is_stub
from ..models import ViT
from .optim import learning_rate
from .recipe import Recipe

PLAIN = "vit_shapes_patch8_32"
CHANCE = {"what": 10, "where": 25}  # percent
RECIPE = Recipe(max_steps=300, batch_size=32, lr=3e-3, warmup_steps=50, clip=1.0)


def compare(
    changed: Callable[[], nn.Module],
    plain: str | Callable[[], nn.Module] = PLAIN,
    steps: int = 300,
    level: int = 1,
    ask: str = "what",
    seed: int = 0,
) -> None:
    """Train the plain model and the changed one on the same images from the same seed, and print how each fares.

    A stub prints "not attempted" and trains nothing. The accuracies are of 500 held-out images, so that they are
    within 4 points of the truth; another seed can move them by more.

    Args:
        changed: returns a model that maps `(batch, 3, 32, 32)` to `(batch, 10)` logits, with fresh weights.
        plain: what to compare it with: a named configuration, or a function like `changed`.
        steps: of 32 images each.
        level: of `shapes`, 1 to 3.
        ask: "what" is shown, one of ten kinds; or "where": images are rolled by half their width, their height, both
            or neither, and which of the four is asked. The patches are the same, their places are not.
        seed: of the fresh weights, and of the images: another seed sees others.

    Raises:
        WrongAnswer: if `changed` does not return such a model.
        ValueError: for another `ask`.
    """
    if ask not in CHANCE:
        raise ValueError(f"ask is {ask!r}: it is 'what' or 'where'")
    if is_stub(changed):
        print("not attempted")
        return
    make = plain if callable(plain) else lambda: ViT.build(plain)
    marks = sorted({max(1, round(steps * part)) for part in (0.25, 0.5, 0.75, 1)})
    plain_curve, changed_curve = (_learn(_fresh(model, seed), marks, level, ask, seed) for model in (make, changed))
    print(" step   plain   changed")
    for step, first, second in zip(marks, plain_curve, changed_curve):
        print(f"{step:5}   {first:5.0%}   {second:7.0%}")
    print(f"held-out accuracy on 500 images; chance is {CHANCE[ask]} %")


def trained(
    make: Callable[[], nn.Module], steps: int = 300, level: int = 1, ask: str = "what", seed: int = 0
) -> nn.Module:
    """One of the two models of `compare` as it is at the end, in evaluation mode, to look at.

    Args:
        make: as `changed` in `compare`.
        steps, level, ask, seed: as in `compare`.
    """
    model = _fresh(make, seed)
    _learn(model, [steps], level, ask, seed)
    return model.eval()


def compare_batches(changed: Callable[[int, int, float], tuple[int, int, float]], steps: int = 300) -> None:
    """Train the plain model twice on the same images: in steps of 32 of them, and as `changed` says; print both.

    Args:
        changed: (batch_size, steps, lr) of the plain run → those of the other; a stub trains nothing.
        steps: of the plain run.

    Raises:
        WrongAnswer: where the other run does not see as many images.
    """
    if is_stub(changed):
        print("not attempted")
        return
    print("batch   steps       lr   accuracy")
    before = (RECIPE.batch_size, steps, RECIPE.lr)
    for batch_size, total, lr in (before, changed(*before)):
        if batch_size * total != RECIPE.batch_size * steps:
            raise WrongAnswer(f"{total} steps of {batch_size} images are not {steps} of {RECIPE.batch_size}")
        (accuracy,) = _learn(_fresh(lambda: ViT.build(PLAIN)), [total], 1, batch_size=batch_size, lr=lr)
        print(f"{batch_size:5} {total:7} {lr:8.4f} {accuracy:10.0%}")
    print("held-out accuracy on 500 images; chance is 10 %")


def _fresh(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = make()
    if not isinstance(model, nn.Module):
        raise WrongAnswer(f"return a model, not {type(model).__name__}")
    with torch.no_grad():
        shape = tuple(model.eval()(torch.zeros(2, 3, 32, 32)).shape)
    if shape != (2, 10):
        raise WrongAnswer(f"the model maps (2, 3, 32, 32) to {shape}: ten logits for each image, (2, 10), are needed")
    return model


def _batch(images: Images, indices: torch.Tensor, ask: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and what is asked about them."""
    batch, labels = images.batch(indices)
    if ask == "what":
        return batch, labels
    moves = indices % 4  # neither, right, down, both: as often as one another
    half = batch.shape[-1] // 2
    moved = [
        image.roll((half * (move // 2), half * (move % 2)), dims=(1, 2)) for image, move in zip(batch, moves.tolist())
    ]
    return torch.stack(moved), moves


def _learn(
    model: nn.Module,
    marks: list[int],
    level: int,
    ask: str = "what",
    seed: int = 0,
    batch_size: int = RECIPE.batch_size,
    lr: float = RECIPE.lr,
) -> list[float]:
    """Held-out accuracy at each of the steps in `marks`, the last of which ends the training."""
    sets, total = load("shapes", level=level), marks[-1]
    seen = _batch(sets.held_out, torch.arange(500), ask)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=RECIPE.weight_decay)
    curve = []
    torch.manual_seed(seed)
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = lr / RECIPE.lr * learning_rate(RECIPE, step, total, min(RECIPE.warmup_steps, total // 6))
        first = (step + seed * total) * batch_size
        images, labels = _batch(sets.train, torch.arange(first, first + batch_size), ask)
        loss = F.cross_entropy(model.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
        optimizer.step()
        if step + 1 in marks:
            with torch.no_grad():
                curve.append(float((model.eval()(seen[0]).argmax(dim=1) == seen[1]).float().mean()))
    return curve
