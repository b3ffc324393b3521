"""What moves the weights: the learning rate of a step, the optimizer, the gradient's guard, the EMA of the weights."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..checkpoint import BEST
from .distributed.sharding import reshard, whole
from .finetuning import layer_scales
from .recipe import Recipe

log = logging.getLogger("dtl_lib")
NO_STEP = 2**62
MAX_SKIPS_IN_A_ROW = 20  # steps that `on_nan="skip"` leaves out one after the other before it gives up


def learning_rate(recipe: Recipe, step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine from `lr` to `min_lr` (SGDR, Loshchilov and Hutter 2017, §3, eq. 5).

    Args:
        step: counts from 0.
        total: steps in all.
        warmup: steps of warm-up; the first step is already above 0.
    """
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Schedule:
    """The steps of a run, and the learning rate of each.

    Attributes:
        recipe: says how the learning rate rises and falls.
        total: optimizer steps of the whole run.
        per_epoch: steps of one pass over the training images.
    """

    recipe: Recipe
    total: int
    per_epoch: int

    @classmethod
    def of(cls, recipe: Recipe, images: int) -> "Schedule":
        """That of a recipe on so many training images."""
        schedule = cls(recipe, recipe.steps(images), recipe.steps_per_epoch(images))
        if schedule.warmup >= schedule.total > 1:
            log.warning(
                "the warm-up of %d steps does not end within the run's %d: lr rises to %.3g of %.3g; shorten it",
                schedule.warmup, schedule.total, schedule.lr(schedule.total - 1), recipe.lr,
            )  # fmt: skip
        return schedule

    @property
    def warmup(self) -> int:
        """Steps of linear warm-up."""
        return self.recipe.warmup_steps or round(self.recipe.warmup_epochs * self.per_epoch)

    @property
    def eval_every(self) -> int:
        """Steps between evaluations on the held-out images; an epoch unless the recipe says otherwise."""
        return self.recipe.eval_every or self.per_epoch

    def lr(self, step: int) -> float:
        """The learning rate of a step, which counts from 0."""
        return learning_rate(self.recipe, step, self.total, self.warmup)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer of what is not frozen, which decays matrices alone.

    AdamW (Decoupled weight decay regularization, Loshchilov and Hutter 2019, alg. 2), or LAMB (Large batch optimization
    for deep learning, You et al. 2020, alg. 2), whose step is as long as the weights it moves say; it leaves limiting
    the gradient to the recipe's `clip`. The learning rate is the recipe's, whatever the batch size, times a group's
    `lr_scale`.
    """
    free = model.no_weight_decay()
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    if not trained:
        raise ValueError(
            "every parameter of the model is frozen, so that nothing can learn: freeze fewer (--freeze backbone leaves "
            "the classifiers free), or set requires_grad on some, such as model.classifiers.requires_grad_(True)"
        )
    scales = layer_scales(model, recipe.layer_decay) if recipe.layer_decay else {}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for scale in sorted({scales.get(name, 1.0) for name, _ in trained}):
        for undecayed in (False, True):
            groups[scale, undecayed] = []
    for name, value in trained:
        groups[scales.get(name, 1.0), name in free].append(value)
    groups = [
        {"params": values, "weight_decay": 0.0 if undecayed else recipe.weight_decay, "lr_scale": scale}
        for (scale, undecayed), values in groups.items() if values
    ]  # fmt: skip
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
    from timm.optim import Lamb

    return Lamb(groups, lr=recipe.lr, betas=recipe.betas, max_grad_norm=None)


def optimizer_state(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What the next step depends on: `step/NAME`, `exp_avg/NAME` and `exp_avg_sq/NAME` of every parameter moved so far.

    Args:
        optimizer: of `make_optimizer`.
        named: the model's parameters by name. Averages come as the parameters are: sharded where those are.
    """
    packed, order = optimizer.state_dict(), _order(optimizer, named)
    moments_by_name = {}
    for index, moments in packed["state"].items():
        moments_by_name |= {f"{moment}/{order[index]}": tensor for moment, tensor in moments.items()}
    for group in packed["param_groups"]:
        if "step" in group:  # LAMB counts once for a group
            moved = (order[index] for index in group["params"] if index in packed["state"])
            moments_by_name |= {f"step/{name}": torch.tensor(float(group["step"])) for name in moved}
    return moments_by_name


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Give a new optimiser what `optimizer_state` has read.

    Args:
        optimizer: of `make_optimizer`, before its first step.
        named: the model's parameters by name.
        tensors: sharded where the parameters are.

    Raises:
        ValueError: for a tensor that belongs to no parameter, or has another shape.
    """
    packed, places = optimizer.state_dict(), {name: at for at, name in enumerate(_order(optimizer, named))}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        moment, _, name = key.partition("/")
        shape = None if name not in places else () if moment == "step" else named[name].shape
        if tensor.shape != shape or not tensor.is_floating_point():
            raise ValueError(f"the optimizer's {moment} of {name} does not fit the model")
        state.setdefault(places[name], {})[moment] = tensor.detach().clone()
    if not isinstance(optimizer, torch.optim.AdamW):
        for group in packed["param_groups"]:
            for index in group["params"]:
                if index in state:
                    group["step"] = int(state[index].pop("step"))
    optimizer.load_state_dict({"state": state, "param_groups": packed["param_groups"]})


def _order(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> list[str]:
    """The parameters' names in the order in which the optimizer numbers them."""
    names = {id(value): name for name, value in named.items()}
    return [names[id(value)] for group in optimizer.param_groups for value in group["params"]]


class Guard:
    """Limits the gradient's norm, and looks out for one that is non-finite; all processes see the same norm.

    Args:
        recipe: says how long the gradient may be, and whether a non-finite one stops the run or skips the step.
        device: of the model.
        folder: of the run, which errors name; None where nothing is saved.
    """

    def __init__(self, recipe: Recipe, device: torch.device, folder: Path | None = None):
        self.recipe, self.folder, self._skipped_in_a_row = recipe, folder, 0
        self._first_bad = torch.full((), NO_STEP, device=device)  # read now and then: asking a GPU makes it wait
        self._left_out = torch.zeros((), dtype=torch.int64, device=device)

    def clip_grad_norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Limit the gradient's norm as the recipe says; the norm before, a scalar."""
        if self.recipe.clip is None:
            norm = nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])
        else:
            norm = nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        return whole(norm)

    def should_step(self, grad_norm: Tensor, step: int, scaled: bool = False) -> bool:
        """Whether to take a step, given its gradient's norm; notes the first that was non-finite.

        Args:
            grad_norm: as `clip_grad_norm` gives it.
            step: its number, from 1.
            scaled: whether a gradient scaler is at work, which leaves such steps out itself and lowers its scale.

        Raises:
            ValueError: where the recipe skips such steps and too many have come in a row.
        """
        if self.recipe.on_nan == "skip":
            finite = bool(grad_norm.isfinite())
            self._skipped_in_a_row = 0 if finite else self._skipped_in_a_row + 1
            if self._skipped_in_a_row == MAX_SKIPS_IN_A_ROW:
                raise self._error(f"{MAX_SKIPS_IN_A_ROW} steps in a row had nan or infinite gradients", step)
            return finite
        if scaled:
            self._left_out += ~grad_norm.isfinite()
        else:
            seen = grad_norm.isfinite() | (self._first_bad < NO_STEP)
            self._first_bad = torch.where(seen, self._first_bad, step)
        return True

    def left_out(self) -> int:
        """How many steps the scaler has left out since this was last asked; a GPU has to be waited for."""
        count = int(self._left_out)
        self._left_out.zero_()
        return count

    def check(self, step: int, loss: float = 0.0) -> None:
        """A ValueError where a step until now, or this loss, was non-finite."""
        first = int(self._first_bad)
        if first < NO_STEP or not math.isfinite(loss):
            raise self._error("the loss is nan or infinite", min(first, step))

    def _error(self, what: str, step: int) -> ValueError:
        recipe, best = self.recipe, self.folder and self.folder / BEST
        begin = f" (--finetune {best} begins with its best weights)" if best and best.is_file() else ""
        skip = "" if recipe.on_nan == "skip" else ", or leave such steps out (--on-nan skip)"
        kept = f"; the last good state is in {self.folder}, for --resume" if self.folder else ""
        return ValueError(
            f"{what} at step {step}: lower lr ({recipe.lr}), warm up, or set clip in a new run{begin}{skip}{kept}"
        )


class EMA:
    """An exponential moving average of a model's weights, short-sighted at first: decay ≤ (1 + step) / (10 + step).

    Args:
        model: in its first state, on its device, and sharded if it is going to be.
        decay: of what was, in a step.

    Attributes:
        values: the average by the parameters' names; buffers are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._weights = dict(model.named_parameters())
        self.values = {name: value.detach().clone() for name, value in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int, moved: Tensor | None = None) -> None:
        """Move the average towards the weights after step `step`.

        Args:
            moved: a scalar: whether the step has moved them, where the device alone knows; otherwise it has.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        values, weights = list(self.values.values()), list(self._weights.values())
        if moved is None:
            get_ema_multi_avg_fn(decay)(values, weights, None)
            return
        way = torch._foreach_sub(weights, values)
        torch._foreach_mul_(way, moved * (1 - decay))
        torch._foreach_add_(values, way)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[nn.Module]:
        """Inside, the model that is averaged has the averaged weights, and `values` holds its own."""
        self._swap(model)
        try:
            yield model
        finally:
            self._swap(model)

    def state_dict(self) -> dict[str, Tensor]:
        """The average by name: the tensors themselves."""
        return self.values

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        """Exchange contents, one parameter at a time: who holds a parameter sees it, and memory stays as it is."""
        for name, value in self._weights.items():
            held = value.clone()
            value.copy_(self.values[name])
            self.values[name].copy_(held)
        reshard(model)  # what a forward pass has gathered is out of date
