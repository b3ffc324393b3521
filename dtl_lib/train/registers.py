"""Training registers into a finished model: they and, if wanted, the norms learn, and nothing else moves."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checkpoint
from ..checks import check_types
from ..data.keyed import keyed_generators
from ..data.loader import indices
from ..hashing import checksum, plain
from ..hooks import evaluating
from ..models import ViT
from ..progress import progress_bar
from ..registers import RegisterNeuron, move_to_registers
from ..tokens import PATCHES, READ_BY_HEAD
from .distributed.signals import between_steps
from .optim import load_optimizer_state, optimizer_state

NORMS = (".norm1.", ".norm2.")  # of every block
NORM_LR = 0.1  # of the registers' learning rate: a norm is where it should be, a register is not
DRAWN = 0.02  # standard deviation of what new registers begin with beside their start
SAVE_EVERY = 25  # steps between states
Teacher = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class RegisterRecipe:
    """How registers are trained.

    Attributes:
        steps: of the optimizer, AdamW without decay.
        batch_size: images in a step, in an order keyed by the seed and the epoch.
        lr: the learning rate of the first step, which falls to 0 as half a cosine; of the norms a tenth.
        norms: whether the norms of the blocks learn as well.
        seed: of the order of images, and of what the registers begin with.
    """

    steps: int = 200
    batch_size: int = 8
    lr: float = 0.05
    norms: bool = False
    seed: int = 0

    def __post_init__(self):
        check_types(self)
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")
        if not 0 < self.lr <= 10:
            raise ValueError(f"lr is above 0 and at most 10 (0.05 is usual), not {self.lr}")


class Paused(KeyboardInterrupt):
    """Training was asked to stop, and its state is saved.

    Attributes:
        status: what the command should exit with.
    """

    def __init__(self, step: int, total: int, path: Path, status: int):
        super().__init__(
            f"stopped at step {step} of {total}, saved in {path}; go on with the same command and --resume"
        )
        self.status = status


def clean_states(model: ViT, neurons: Sequence[RegisterNeuron]) -> Teacher:
    """A teacher: what the patches of a model are without their outliers, and what its head reads as it is.

    The patches are those of the same model with the neurons that write the outliers moved to an empty token
    (`move_to_registers`), so a target differs from what the model computes only by what that changes. Self-distilled
    registers (Chen et al. 2025) average over shifted and mirrored images instead; that takes several passes an image,
    and takes from a patch what it knows of its place, which a model whose weights are frozen cannot unlearn.

    Args:
        model: a `ViT` before it is given registers.
        neurons: of `find_register_neurons`.

    Returns:
        A function of images, which gives by name the tokens after the last block and before the norm,
        `(batch, tokens, dim)`.
    """
    moved = move_to_registers(model, neurons).eval()

    def teach(images: Tensor) -> dict[str, Tensor]:
        with evaluating(model):
            head = {name: token for name, token in states(model, images).items() if name in READ_BY_HEAD}
        return {**head, PATCHES: states(moved, images)[PATCHES]}

    return teach


def states(model: ViT, images: Tensor) -> dict[str, Tensor]:
    """By name the tokens after the last block, before the norm, `(batch, tokens, dim)`."""
    x, _ = model.encode(images)
    return {name: x[:, where] for name, where in model.plan.layout(model.plan.blocks - 1).items()}


def distance(states: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """The loss: 1 − cosine, and the squared distance over the target's squared length, added up over the groups.

    Both are means over tokens. (Chen et al. 2025, Vision Transformers with Self-Distilled Registers, distil by the two
    as well.)

    Args:
        states: by name `(batch, tokens, dim)`.
        targets: of the same shapes; a group without one is left alone.
    """
    loss = torch.zeros(())
    for name, target in targets.items():
        state = states[name]
        apart = (state - target).square().sum(dim=-1).mean() / target.square().sum(dim=-1).mean()
        loss = loss.to(apart.device) + apart + (1 - F.cosine_similarity(state, target, dim=-1)).mean()
    return loss


def learns(model: ViT, groups: Sequence[str], norms: bool) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    own = {f"tokens.{name}" for name in groups}
    if not (own or norms):
        raise ValueError("name a group of tokens to train, such as reg, or train the norms")
    named = dict(model.named_parameters())
    if any(named[name].dtype == torch.float16 for name in own & set(named)):
        raise ValueError("in float16 AdamW divides by 0: train model.float()")
    if missing := sorted(own - set(named)):
        there = ", ".join(model.tokens.keys()) or "none"
        raise ValueError(f"the model has no {missing[0].partition('.')[2]} to train; its groups of tokens are {there}")
    return {name: p for name, p in named.items() if name in own or (norms and any(part in name for part in NORMS))}


@contextmanager
def only(model: ViT, learning: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Inside, nothing else has gradients, and the model is in evaluation mode: what the targets are of is not drawn."""
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in learning)
        with evaluating(model):
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
        for parameter in learning.values():
            parameter.grad = None


def train_registers(
    model: ViT,
    teach: Teacher,
    images,
    recipe: RegisterRecipe = RegisterRecipe(),
    groups: Sequence[str] = ("reg",),
    *,
    state: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    about: Mapping | None = None,
) -> list[float]:
    """Train the registers of a model, in place, until its patches are what a teacher says; the rest is frozen.

    Args:
        model: a `ViT` with registers, such as `add_registers` gives.
        teach: gives the targets of a batch, such as `clean_states` makes.
        images: a part of a data set, whose labels are not looked at, or a tensor `(images, channels, height, width)`.
        recipe: how.
        groups: which groups of tokens learn.
        state: a file, `.safetensors`, that keeps where the training stands. It is still there when the training has
            ended: remove it once the model is saved.
        resume: whether to go on from that file.
        progress: whether to show a bar.
        about: what else has to be the same where a training goes on, as plain values.

    Returns:
        The loss of each step.

    Raises:
        ValueError: for a model that is no `ViT` or has float16 weights, groups that it lacks, fewer images than a
            batch, a loss that is non-finite, and a state of another model or recipe, or one that is there already and
            is not to be resumed.
        Paused: after Ctrl-C or SIGTERM where there is a `state`, in which all of it is kept.
    """
    if not isinstance(model, ViT):
        raise ValueError("give a ViT with registers: add_registers makes one")
    groups = (groups,) if isinstance(groups, str) else groups
    if len(images) < recipe.batch_size:
        raise ValueError(f"there are {len(images)} images, fewer than the {recipe.batch_size} of a step")
    learning, device = learns(model, groups, recipe.norms), next(model.parameters()).device
    kept = _Kept(Path(state) if state else None, model, learning, recipe, {**(about or {}), "images": len(images)})
    with torch.enable_grad(), only(model, learning), between_steps(enabled=state is not None) as stop:
        optimizer = _optimizer(learning, recipe)
        losses = kept.load(optimizer) if resume else kept.begin(device)
        order = indices(len(images), recipe.batch_size, recipe.seed, len(losses), recipe.steps)
        bar = progress_bar(recipe.steps, "step", shown=progress, initial=len(losses))
        for _, numbers in order:
            x = (images[numbers] if isinstance(images, Tensor) else images.batch(numbers)[0]).to(device)
            losses.append(_step(model, teach, x, optimizer, recipe, len(losses)))
            bar.update()
            last = len(losses) == recipe.steps
            if stop.stop or len(losses) % SAVE_EVERY == 0 or last:
                kept.save(optimizer, losses)
            if stop.stop and not last:
                bar.close()
                raise Paused(len(losses), recipe.steps, kept.path, stop.status)
        bar.close()
    return losses


def _optimizer(learning: Mapping[str, nn.Parameter], recipe: RegisterRecipe) -> torch.optim.Optimizer:
    kinds = {1.0: [], NORM_LR: []}
    for name, parameter in learning.items():
        kinds[1.0 if name.startswith("tokens.") else NORM_LR].append(parameter)
    groups = [{"params": values, "scale": scale} for scale, values in kinds.items() if values]
    return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=0.0)


def _step(model: ViT, teach: Teacher, x: Tensor, optimizer, recipe: RegisterRecipe, step: int) -> float:
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * group["scale"] * (1 + math.cos(math.pi * step / recipe.steps)) / 2
    with torch.no_grad():
        targets = teach(x)
    loss = distance(states(model, x), targets)
    if not loss.isfinite():
        why = f"lower lr, now {recipe.lr}" if step else "the weights, the teacher's targets or the images are damaged"
        raise ValueError(f"the loss of step {step + 1} is non-finite: {why}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


class _Kept:
    """Where a training stands, in a file: what learns, the optimizer's averages, and the losses."""

    def __init__(self, path: Path | None, model: ViT, learning: Mapping[str, nn.Parameter], recipe, about):
        self.path, self.model, self.learning, self.recipe = path, model, learning, recipe
        frozen = {name: p.detach().cpu() for name, p in model.named_parameters() if name not in learning}
        self.about = {"recipe": asdict(recipe), "learns": sorted(learning), "about": about,
                      "config": model.config.to_dict(), "frozen": checksum(frozen) if path else ""}  # fmt: skip

    def begin(self, device: torch.device) -> list[float]:
        """Equal registers would stay equal: each begins a little away from its start."""
        if self.path and self.path.exists():
            raise ValueError(f"{self.path} holds a training that was stopped: add --resume to go on, or remove it")
        with torch.no_grad(), keyed_generators(device, self.recipe.seed):
            for name, parameter in self.learning.items():
                if name.startswith("tokens."):
                    parameter.add_(DRAWN * torch.randn_like(parameter))
        return []

    def save(self, optimizer, losses: Sequence[float]) -> None:
        if self.path is None:
            return
        tensors = {f"model/{name}": value for name, value in self.learning.items()}
        moments = optimizer_state(optimizer, self.learning)
        tensors |= {f"optimizer/{name}": value for name, value in moments.items()}
        checkpoint.write(self.path, tensors, {**self.about, "losses": list(losses)}, checkpoint.STATE)

    def load(self, optimizer) -> list[float]:
        if self.path is None:
            raise ValueError("resume goes on from a state: name its file")
        tensors, card = checkpoint.read(self.path)
        for name, value in self.about.items():
            if card.get(name) != plain(value):
                raise ValueError(f"{self.path} is of another training, with other {name}: give what it was begun with")
        own = {f"model/{name}": value for name, value in self.learning.items()}
        checkpoint.fits(self.path, {name: tensors[name] for name in tensors if name in own}, own)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])
        moments = {name.partition("/")[2]: value for name, value in tensors.items() if name not in own}
        load_optimizer_state(optimizer, self.learning, moments)
        return list(card["losses"])
