"""The learning rate at a step, the optimiser, and the weights' moving average."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .recipe import Recipe


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


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser, which decays matrices alone.

    AdamW (Decoupled weight decay regularization, Loshchilov and Hutter 2019, alg. 2), or LAMB (Large batch optimization
    for deep learning, You et al. 2020, alg. 2), whose step is as long as the weights it moves say; it leaves limiting
    the gradient to the recipe's `clip`. The learning rate is the recipe's, whatever the batch size.
    """
    free = model.no_weight_decay()
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    groups = [
        {"params": [value for name, value in trained if name not in free], "weight_decay": recipe.weight_decay},
        {"params": [value for name, value in trained if name in free], "weight_decay": 0.0},
    ]
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
    found = {}
    for index, moments in packed["state"].items():
        found |= {f"{moment}/{order[index]}": tensor for moment, tensor in moments.items()}
    for group in packed["param_groups"]:
        if "step" in group:  # LAMB counts once for a group
            moved = (order[index] for index in group["params"] if index in packed["state"])
            found |= {f"step/{name}": torch.tensor(float(group["step"])) for name in moved}
    return found


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
            raise ValueError(f"the optimiser's {moment} of {name} does not fit the model")
        state.setdefault(places[name], {})[moment] = tensor.detach().clone()
    if not isinstance(optimizer, torch.optim.AdamW):
        for group in packed["param_groups"]:
            for index in group["params"]:
                if index in state:
                    group["step"] = int(state[index].pop("step"))
    optimizer.load_state_dict({"state": state, "param_groups": packed["param_groups"]})


def _order(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> list[str]:
    """The parameters' names in the order in which the optimiser numbers them."""
    names = {id(value): name for name, value in named.items()}
    return [names[id(value)] for group in optimizer.param_groups for value in group["params"]]


class Average:
    """An exponential moving average of a model's weights, short-sighted at first: decay ≤ (1 + step) / (10 + step).

    Args:
        model: in its first state, on its device, and cut over the processes if it is going to be.
        decay: of what was, in a step.

    Attributes:
        values: the average by the parameters' names; buffers are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._weights = dict(model.named_parameters())
        self.values = {name: value.detach().clone() for name, value in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(list(self.values.values()), list(self._weights.values()), None)

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
        for module in model.modules():
            if hasattr(module, "reshard"):  # of fully_shard: what it has gathered is out of date
                module.reshard()
