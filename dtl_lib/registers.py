"""Registers without training: the few neurons that write high-norm tokens write into an empty token instead."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .checks import as_whole, check_finite, typed, whole
from .config import ViTConfig
from .hooks import Hook, evaluating
from .models import ViT, changes_of
from .moving import Mover
from .recordable import unwrapped
from .tape import record
from .tokens import MOVED_TO, PATCHES, Group, TokenPlan

NAME = MOVED_TO  # of the group of tokens that a model gets
SHARE, MOST = 0.8, 10


@dataclass(frozen=True)
class RegisterNeuron:
    """A hidden neuron of an MLP that makes some patches long.

    Attributes:
        block, neuron: where it is: channel `neuron` of what `blocks[block].mlp.contract` reads.
        sign: 1.0 or −1.0, that of its activation on the long patches.
        share: its part of what separates long patches from the others, along the direction that does so.
        high, usual: its mean activation on the long patches, and on the others.
    """

    block: int
    neuron: int
    sign: float
    share: float
    high: float
    usual: float


def find_register_neurons(
    model: nn.Module, images: Tensor, long: Tensor, block: int, share: float = SHARE, most: int = MOST
) -> tuple[RegisterNeuron, ...]:
    """The neurons that write the long patches after a block, the one that writes most first.

    After `block`, the long patches' mean state less that of the others is a direction. Each neuron of each block up to
    there adds to it: the difference of its mean activations times its column of the MLP's second matrix (with
    LayerScale), along that direction. Taken are the largest, until they come to `share` of what separates the two, but
    at most `most`. (Jiang et al. 2025, Vision Transformers Don't Need Trained Registers, §3, rank neurons by their mean
    activation on the long patches; what a neuron writes counts here as well.)

    Args:
        model: a `ViT`; `from_timm` makes one of a timm model.
        images: `(batch, channels, height, width)`, normalised as the model expects.
        long: bool `(batch, rows, columns)`: which patches are long, such as `probes.find_outliers(tape).mask(block)`.
        block: after which they are.
        share: of the distance to explain, above 0 and up to 1.
        most: neurons.

    Raises:
        ValueError: where no patch is long, all are, or the neurons of the MLPs bring the long ones nothing, and for
            non-finite tokens.
    """
    vit, _ = unwrapped(model)
    block, most = vit.plan.check_block(block), whole("most", most, 1)
    if not 0 < typed("share", share, float) <= 1:
        raise ValueError(f"share is above 0 and up to 1, not {share}")
    found = []
    for number, (shares, high, usual) in enumerate(neuron_shares(vit, images, long, block)):
        for neuron in shares.topk(min(most, len(shares))).indices.tolist():
            about = shares[neuron].item(), high[neuron].item(), usual[neuron].item()
            found.append(RegisterNeuron(number, neuron, 1.0 if about[1] >= about[2] else -1.0, *about))
    found.sort(key=lambda neuron: -neuron.share)
    kept, explained = [], 0.0
    for neuron in found[:most]:
        if explained >= share or neuron.share <= 0:
            break
        kept.append(neuron)
        explained += neuron.share
    if not kept:
        raise ValueError(f"no neuron up to block {block} writes what makes these patches long")
    return tuple(kept)


def neuron_shares(model: ViT, images: Tensor, long: Tensor, block: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What `find_register_neurons` sorts: the share of every neuron, block by block up to `block`.

    Args:
        model, images, long, block: as there.

    Returns:
        for each block the shares, and the mean activations on the long patches and on the others, `(neurons,)` each.

    Raises:
        ValueError: as there.
    """
    block, long, hidden = model.plan.check_block(block), _flat(long, images, model), {}
    if block >= model.plan.depth:
        raise ValueError(f"block {block} is class attention, where patches are not computed: give an earlier one")
    with evaluating(model), torch.inference_mode(), ExitStack() as stack, record(model) as tape:
        for number in range(block + 1):
            _on_hidden(model, number, lambda _, given, number=number: hidden.update({number: given[0]}), stack)
        model(images)
        tokens = tape.tokens(block)[:, model.plan.layout(block)[PATCHES]].float()
    check_finite(tokens, *hidden.values())
    apart = tokens[long].mean(dim=0) - tokens[~long].mean(dim=0)
    distance, direction, found = apart.norm(), apart / apart.norm(), []
    for number, activations in hidden.items():
        patches = activations[:, model.plan.layout(number)[PATCHES]].float()
        high, usual = patches[long].mean(dim=0), patches[~long].mean(dim=0)
        found.append(((high - usual) * (direction @ _columns(model.blocks[number])) / distance, high, usual))
    return found


@contextmanager
def test_time_registers(
    model: nn.Module,
    neurons: Sequence[RegisterNeuron],
    n: int = 1,  # noqa: PT028  # it is no test, whatever it is called
    enter: int | None = None,  # noqa: PT028
    leave: int | None = None,  # noqa: PT028
) -> Iterator[ViT]:
    """Inside, the model has `n` more tokens, zero as they enter, and the neurons' activations move to them.

    Nothing is trained. The tokens are a group of the plan, `"test"`. In each image, each neuron's largest activation
    among the patches and the new tokens becomes that of the new tokens, and every other token's becomes 0 (Jiang et al.
    2025, §4). Afterwards the model is what it was: the same parameters, plan and hooks.

    Args:
        model: a `ViT`, not compiled.
        neurons: of `find_register_neurons`, or others, for a control.
        n: tokens.
        enter: the block that they enter before, at the latest that of the first neuron, which is where they enter if
            None.
        leave: the block that they leave before, as in `Group`; None for never. Where they have left, neurons of later
            blocks are set to 0.

    Yields:
        the `ViT` itself.

    Raises:
        ValueError: where there are no neurons, one is none of this model's or is there twice, the tokens enter after
            its block, or the model has tokens called "test".
    """
    vit, _ = unwrapped(model)
    by_block, plan = _by_block(vit, neurons), _plan_with_tokens(vit, neurons, n, enter, leave)
    config = replace(vit.config, plan=plan)
    before = {name: getattr(vit, name) for name in ("config", "plan", "changes")}
    weight = vit.patch_embed.project.weight
    with ExitStack() as stack:
        for block, of_block in by_block.items():
            mover = Mover(plan.layout(block), [(one.neuron, int(one.sign)) for one in of_block])
            _on_hidden(vit, block, mover, stack)
        try:
            vit.config, vit.plan, vit.changes = config, plan, changes_of(plan)
            vit.tokens[NAME] = nn.Parameter(weight.new_zeros(n, vit.config.dim), requires_grad=False)
            yield vit
        finally:
            del vit.tokens[NAME]
            for name, value in before.items():
                setattr(vit, name, value)


test_time_registers.__test__ = False  # pytest


def move_to_registers(
    model: nn.Module,
    neurons: Sequence[RegisterNeuron],
    n: int = 1,
    enter: int | None = None,
    leave: int | None = None,
) -> ViT:
    """A new model that is for good what `test_time_registers` makes of one for a while: its configuration says so.

    It is saved, loaded, recorded and trained like any other.

    Args:
        model: a `ViT`, which stays as it is.
        neurons, n, enter, leave: as in `test_time_registers`.

    Raises:
        ValueError: as there.
    """
    vit, _ = unwrapped(model)
    plan = _plan_with_tokens(vit, neurons, n, enter, leave)
    moved = [(one.block, one.neuron, int(one.sign)) for one in neurons]
    return with_tokens(vit, replace(vit.config, plan=plan, moved=(*vit.config.moved, *moved)))


def with_tokens(model: ViT, config: ViTConfig) -> ViT:
    """A copy of a model with the groups of tokens that another configuration has beside its own, all of them 0."""
    weight = model.patch_embed.project.weight
    made = ViT(config).to(weight.device, weight.dtype)
    new = {name: torch.zeros_like(token) for name, token in made.state_dict().items() if name.startswith("tokens.")}
    made.load_state_dict({**new, **model.state_dict()})
    made.trained = model.trained
    made.card = dict(getattr(model, "card", {}))
    return made.train(model.training)


def _plan_with_tokens(model: ViT, neurons: Sequence[RegisterNeuron], n, enter, leave) -> TokenPlan:
    """The model's plan with the group that neurons move to; a ValueError where they cannot."""
    first, n = min(_by_block(model, neurons)), whole("n", n, 1)
    enter = first if enter is None else whole("enter", enter, 0)
    if enter > first:
        raise ValueError(f"the tokens have to enter before block {first}, where the first neuron is, or an earlier one")
    if model.plan.group(NAME):
        raise ValueError(
            f'the model has tokens called "{NAME}" already: leave the with block that gave them, or give the model '
            "without them"
        )
    groups = (*model.plan.groups, Group(NAME, n, enter=enter, leave=leave))
    return TokenPlan(model.plan.depth, groups, model.plan.class_blocks)


def _on_hidden(model: ViT, block: int, call, stack: ExitStack) -> None:
    """Until the stack closes, `call` goes before the second matrix of a block's MLP, and may give it something else."""
    second = model.blocks[block].mlp.contract
    handle = second.register_forward_pre_hook(Hook(second, call))
    stack.callback(handle.remove)


def _columns(block: nn.Module) -> Tensor:
    """What each neuron adds to the stream for an activation of 1: `(dim, neurons)`."""
    written = block.mlp.contract.weight.detach().float()
    factor = getattr(block.scale2, "factor", None)
    return written if factor is None else written * factor.detach().float()[:, None]


def _flat(long: Tensor, images: Tensor, model: ViT) -> Tensor:
    grid = model.config.grid_of(*images.shape[-2:])
    if not isinstance(long, Tensor) or long.dtype != torch.bool or tuple(long.shape) != (len(images), *grid):
        raise ValueError(f"long is a bool tensor of {(len(images), *grid)}: a mask of the patches of these images")
    if not long.any() or long.all():
        raise ValueError("some patches have to be long and some not: give images that have both")
    return long.flatten(1).to(images.device)


def _by_block(model: ViT, neurons: Sequence[RegisterNeuron]) -> dict[int, list[RegisterNeuron]]:
    if isinstance(neurons, RegisterNeuron) or not neurons:
        raise ValueError("give at least one neuron, in a list: find_register_neurons finds them")
    found: dict[int, list[RegisterNeuron]] = {}
    for one in neurons:
        if not isinstance(one, RegisterNeuron) or one.sign not in (1, -1):
            raise ValueError(f"neurons are RegisterNeurons, each with a sign of 1 or -1, not {one!r}")
        width = model.blocks[model.plan.check_block(one.block)].mlp.contract.in_features
        if any(one.neuron == other.neuron for other in found.get(one.block, ())):
            raise ValueError(f"neuron {one.neuron} of block {one.block} is there twice: name each once")
        if (number := as_whole(one.neuron)) is None or not 0 <= number < width:
            raise ValueError(f"block {one.block} has neurons 0 … {width - 1}, not {one.neuron}")
        if one.block >= model.plan.depth:
            raise ValueError(
                f"block {one.block} is class attention, where patches are not computed: give an earlier one"
            )
        found.setdefault(one.block, []).append(one)
    return found
