"""One Vision Transformer: by configuration alone ViT, DeiT, CLIP, SigLIP, DINOv2, DINOv3, EVA-02, CaiT, and others."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .config import Cost, ViTConfig, configurations, named
from .hooks import drop_gone
from .layers import (
    ALL,
    Block,
    ClassAttention,
    PatchEmbed,
    TalkingHeads,
    initialise,
    interpolate_positions,
    sincos_positions,
)
from .moving import movers
from .tokens import PATCHES, TokenNotThere, TokenPlan
from .variants import AttentionPool, MeanPool, RotaryBlock, equip, norm_of, rotary_places

if TYPE_CHECKING:
    from .pretrained import LoadReport

__all__ = ["ViT", "ViTConfig", "Cost", "Features", "enter_and_leave", "configurations", "named"]


def enter_and_leave(
    x: Tensor, layout: dict[str, slice], next_layout: dict[str, slice], learned: dict[str, Tensor]
) -> Tensor:
    """The sequence `x` in its next layout: groups that are not in it yet enter, groups that the layout lacks leave.

    Args:
        x: `(batch, tokens, dim)`, laid out as `layout`.
        layout, next_layout: layouts of a token plan, names → slices.
        learned: by name the learned tokens that can enter, `(tokens, dim)` each.
    """
    parts = [
        x[:, layout[name]]
        if name in layout
        else repeat(learned[name], "tokens dim -> batch tokens dim", batch=x.shape[0])
        for name in next_layout
    ]
    return torch.cat(parts, dim=1)


def changes_of(plan: TokenPlan) -> list[tuple[dict[str, slice], dict[str, slice]] | None]:
    """For each block the layouts before and in it, where they differ; None where no group enters or leaves."""
    layouts = [{PATCHES: ALL}, *(plan.layout(block) for block in range(plan.blocks)), plan.final]
    return [
        (layout, next_layout) if list(layout) != list(next_layout) else None
        for layout, next_layout in zip(layouts, layouts[1:])
    ]


@dataclass(frozen=True)
class Features:
    """The normalised tokens after the last block, by name: `f.cls`, `f.reg`, `f["late"]`, `f.patches`.

    Attributes:
        tokens: name → `(batch, tokens, dim)`.
        grid: rows and columns of the patches.
        plan: for the message about a token that is not here.
    """

    tokens: dict[str, Tensor]
    grid: tuple[int, int]
    plan: TokenPlan

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tokens:
            raise TokenNotThere(f"{self.plan.where(name)}; after the last block there are {', '.join(self.tokens)}")
        return self.tokens[name]

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_") or name in ("tokens", "grid", "plan"):  # looked up on any value by pickle
            raise AttributeError(name)
        return self[name]


class ViT(nn.Module):
    """A Vision Transformer whose tokens enter and leave as its plan says (ViT, §3.1; Registers, §3; CaiT, §3).

    Args:
        config: what to build.
    """

    positions: Tensor
    card: dict  # of a model from a file: what it was saved with
    loaded: "LoadReport"  # of a model from `load_pretrained`
    trained = False  # whether the weights come from training: then `fit` keeps their mean and std

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config, self.plan = config, config.plan
        self.head_tokens, self.head_names = config.head_tokens, config.head_names
        self.all_queries = False  # True where a hook on the last block needs the tokens that the head does not read
        self.patch_embed = PatchEmbed(config.patch_size, config.dim, config.channels)
        if not config.patch_bias:
            self.patch_embed.project.register_parameter("bias", None)
        self.norm_patches = norm_of(config, config.dim) if config.patch_norm else nn.Identity()
        if config.positions == "learned":
            self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(*config.grid, config.dim), std=0.02))
        elif config.positions == "sincos":
            self.register_buffer("positions", sincos_positions(config.grid, config.dim), persistent=False)
        self.tokens = nn.ParameterDict()
        for group in self.plan.groups:
            if hasattr(self.tokens, group.name):
                raise ValueError(f"{group.name!r} cannot name a group: PyTorch's ParameterDict uses that name")
            self.tokens[group.name] = nn.init.trunc_normal_(torch.empty(group.tokens, config.dim), std=0.02)
        self.norm_before = norm_of(config, config.dim) if config.norm_before else nn.Identity()
        self.blocks = nn.ModuleList(self._build_block(block) for block in range(self.plan.blocks))
        for block, mover in movers(config):
            self.blocks[block].mlp.contract.register_forward_pre_hook(mover)
        self.norm = norm_of(config, config.dim) if config.final_norm else nn.Identity()
        self.pool = AttentionPool(config) if config.pool == "attention" else MeanPool()
        self.classifiers = nn.ModuleDict(
            {name: nn.Linear(config.dim, config.classes) for name in config.head_names} if config.classes else {}
        )
        self.apply(initialise)
        self.changes = changes_of(self.plan)

    @classmethod
    def build(cls, name: str, plan: TokenPlan | None = None, **changes) -> "ViT":
        """A named configuration with fresh weights, with another plan or other fields where given."""
        config = named(name)
        return cls(replace(config if plan is None else config.with_plan(plan), **changes))

    def _build_block(self, block: int) -> Block:
        config = self.config
        common = {name: getattr(config, name) for name in ("mlp_ratio", "qkv_bias", "layer_scale", "norm_eps")}
        if block >= config.depth:
            queries = cast(slice, config.head_tokens)
            return equip(ClassAttention(config.dim, config.heads, queries=queries, **common), config)
        core = TalkingHeads(config.heads) if config.talking_heads else None
        kind, drop_path = RotaryBlock if config.rotary else Block, config.drop_path_rates()[block]
        return equip(kind(config.dim, config.heads, drop_path=drop_path, core=core, **common), config)

    def __setstate__(self, state):
        """Of a copy or a pickle: the hooks of a record stay with the model that is recorded."""
        super().__setstate__(state)
        drop_gone(self)

    def forward(self, images: Tensor) -> Tensor:
        """`(batch, channels, height, width)` → logits `(batch, classes)`, the mean of the heads where there are two."""
        heads = self.heads(images)
        return heads[0] if len(heads) == 1 else torch.stack(heads).mean(dim=0)

    def heads(self, images: Tensor) -> tuple[Tensor, ...]:
        """The logits of each head: `(cls, dist)` where there is a distillation token, otherwise one."""
        if self.head_tokens is None:
            x, _ = self.encode(images)
            return (self.classify(PATCHES, self.pool_patches(x)),)
        x, _ = self.encode(images, queries=ALL if self.all_queries else self.head_tokens)
        x = self.norm(x[:, self.head_tokens])
        return tuple(self.classify(name, token) for name, token in zip(self.head_names, x.unbind(dim=1)))

    def features(self, images: Tensor) -> Features:
        """The tokens after the last block and its norm, by name."""
        x, grid = self.encode(images)
        if not self.config.norm_after_pool:
            x = self.norm(x)
        if change := self.changes[-1]:
            x = enter_and_leave(x, *change, cast(dict, self.tokens))
        return Features({name: x[:, where] for name, where in self.plan.final.items()}, grid, self.plan)

    def encode(self, images: Tensor, queries: slice = ALL) -> tuple[Tensor, tuple[int, int]]:
        """The residual stream after the last block, before the norm, and the grid of patches.

        Args:
            images: `(batch, channels, height, width)`; positions are interpolated for other sizes.
            queries: the tokens to compute in the last block; the others are keys and values there, and cost no more.

        Returns:
            `(batch, queries, dim)`, and (rows, columns) of the patches.
        """
        x, grid = self.embed(images)
        last, learned, places = len(self.blocks) - 1, self.learned(), self.places(grid)
        for index, block in enumerate(self.blocks):
            if change := self.changes[index]:  # the class token or registers enter before this block, or some leave
                x = enter_and_leave(x, *change, learned)
            x = block(x, queries if index == last else ALL, *places)
        return x, grid

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patches with their positions, `(batch, patches, dim)`, and their grid."""
        self._check_images(images)
        x = self.norm_patches(self.patch_embed(images))
        grid = tuple(x.shape[1:3])
        if self.config.positions != "none":
            x = x + interpolate_positions(self.positions, grid, self.config.position_offset)
        x = rearrange(x, "batch rows columns dim -> batch (rows columns) dim").contiguous()
        return self.norm_before(x), grid

    def learned(self) -> dict[str, Tensor]:
        """The tokens beside the patches as they enter, by name: `(tokens, dim)` each."""
        return {name: self.norm_before(token) for name, token in self.tokens.items()}

    def places(self, grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """What blocks take besides tokens and queries: nothing, or with rotary positions where the patches are."""
        return rotary_places(self.config, grid, self.patch_embed.project.weight.device)

    def pool_patches(self, x: Tensor, layout: dict[str, slice] | None = None) -> Tensor:
        """What is read of the patches: their mean, never of registers, or what attention pooling draws from them.

        Normalised before or after as the configuration says; with `pool_prefix` the tokens beside the patches are read
        as well.

        Args:
            x: `(batch, tokens, dim)`, after the last block.
            layout: of x; by default that of the last block.
        """
        layout = layout or self.plan.layout(self.plan.blocks - 1)
        read = x[:, layout[PATCHES]]
        if self.config.pool_prefix:
            read = torch.cat([x[:, where] for name, where in layout.items() if name in self.plan.final], dim=1)
        if self.config.norm_after_pool:
            return self.norm(self.pool(read))
        return self.pool(self.norm(read))

    def classify(self, name: str, token: Tensor) -> Tensor:
        """Logits of one head, or the token itself in a model without classes."""
        return self.classifiers[name](token) if self.config.classes else token

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed: tokens, positions, frequencies, LayerScale, norms and biases."""
        start, end = ("tokens.", "positions", "pool.query"), ".frequencies"
        free = {name for name, value in self.named_parameters() if name.startswith(start) or value.ndim < 2}
        return free | {name for name, _ in self.named_parameters() if name.endswith(end)}

    def _check_images(self, images: Tensor) -> None:
        channels = self.config.channels
        if not isinstance(images, Tensor):
            raise ValueError(
                f"images are a tensor (batch, {channels}, height, width), not a {type(images).__name__}: "
                "data.prepare makes one of an image, torch.from_numpy of an array"
            )
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images are (batch, {channels}, height, width), not {tuple(images.shape)}")
        if not images.is_floating_point():
            raise ValueError(f"images are floating point, with mean and std taken out, not {images.dtype}")
        weight = self.patch_embed.project.weight
        if images.dtype != weight.dtype and not torch.is_autocast_enabled(images.device.type):
            raise ValueError(f"images are {images.dtype} and the model {weight.dtype}: images.to(…), or model.float()")
        self.config.grid_of(*images.shape[2:])
