"""Change, run, explain: a small model and a changed one learn `shapes`, side by side, in under 20 seconds."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ..data import load
from ..exercises import WrongAnswer, is_stub
from ..models import ViT
from .optim import learning_rate
from .recipe import Recipe

PLAIN = "vit_shapes_patch8_32"
RECIPE = Recipe(max_steps=300, batch_size=32, lr=3e-3, warmup_steps=50, clip=1.0)


def compare(
    changed: Callable[[], nn.Module], plain: str | Callable[[], nn.Module] = PLAIN, steps: int = 300, level: int = 1
) -> None:
    """Train the plain model and the changed one on the same images from the same seed, and print how each fares.

    A stub prints "not attempted" and trains nothing. The accuracies are of 500 held-out images, so that they are
    within 4 points of the truth; another seed can move them by more.

    Args:
        changed: returns a model that maps `(batch, 3, 32, 32)` to `(batch, 10)` logits, with fresh weights.
        plain: what to compare it with: a named configuration, or a function like `changed`.
        steps: of 32 images each.
        level: of `shapes`, 1 to 3.

    Raises:
        WrongAnswer: if `changed` does not return such a model.
    """
    if is_stub(changed):
        print("not attempted")
        return
    make = plain if callable(plain) else lambda: ViT.build(plain)
    marks = sorted({max(1, round(steps * part)) for part in (0.25, 0.5, 0.75, 1)})
    plain_curve, changed_curve = (_learn(_fresh(model), marks, level) for model in (make, changed))
    print(" step   plain   changed")
    for step, first, second in zip(marks, plain_curve, changed_curve):
        print(f"{step:5}   {first:5.0%}   {second:7.0%}")
    print("held-out accuracy on 500 images; chance is 10 %")


def _fresh(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    if not isinstance(model, nn.Module):
        raise WrongAnswer(f"return a model, not {type(model).__name__}")
    with torch.no_grad():
        shape = tuple(model.eval()(torch.zeros(2, 3, 32, 32)).shape)
    if shape != (2, 10):
        raise WrongAnswer(f"the model maps (2, 3, 32, 32) to {shape}: ten logits for each image, (2, 10), are needed")
    return model


def _learn(model: nn.Module, marks: list[int], level: int) -> list[float]:
    """Held-out accuracy at each of the steps in `marks`, the last of which ends the training."""
    sets, total = load("shapes", level=level), marks[-1]
    seen = sets.held_out.batch(torch.arange(500))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=RECIPE.weight_decay)
    curve = []
    torch.manual_seed(0)
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(RECIPE, step, total, min(RECIPE.warmup_steps, total // 6))
        first = step * RECIPE.batch_size
        images, labels = sets.train.batch(torch.arange(first, first + RECIPE.batch_size))
        loss = F.cross_entropy(model.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
        optimizer.step()
        if step + 1 in marks:
            with torch.no_grad():
                curve.append(float((model.eval()(seen[0]).argmax(dim=1) == seen[1]).float().mean()))
    return curve
