"""What a model is, as one frozen value: `ViTConfig`, what it costs, and the configurations that have a name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import cast

from .checks import as_whole, check_types, is_whole, shortened, whole
from .config_checks import LIMITS, MAX_SIDE, check
from .cost import Cost, cost_of
from .tokens import READ_BY_HEAD, TokenPlan

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ViTConfig:
    """Everything a `ViT` is built from; a checkpoint carries it.

    Args:
        image_size: height and width in pixels (one int for a square); sets the grid of learned positions.
        patch_size: pixels along a patch's side.
        dim, depth, heads, mlp_ratio: width of a token, blocks in the trunk, heads, hidden width of an MLP over dim.
        plan: which tokens enter where; a class token from block 0 by default.
        classes: outputs; 0 for features alone.
        pool: what the classifier reads: "cls" (and dist), "patches": their mean, never of registers, or "attention":
            what a learned query draws from them (SigLIP).
        norm_after_pool: pool first, then normalise (timm's `fc_norm`).
        layer_scale: first value of LayerScale; None for none.
        drop_path: stochastic depth's probability, rising to it ("linear") or the same in every block ("uniform").
        talking_heads: mix heads before and after the softmax in the trunk (CaiT).
        positions: "learned", fixed "sincos", or "none" (besides rotary ones).
        position_offset: DINOv2's way of interpolating (see `interpolate_positions`); None antialiases.
        patch_bias: whether the projection of patches has a bias (CLIP: no).
        patch_norm: a norm of patches, before positions are added (AIMv2).
        linear_bias: whether the last linear map of attention and both of the MLP have a bias (AIMv2: no).
        mlp_scale: whether LayerScale, where there is one, is in the MLP's branch too (Sapiens2: no).
        norm_before: a norm of what enters the blocks, patches and learned tokens (CLIP).
        final_norm: a norm after the last block.
        norm: "layer" or "rms", of every norm.
        qk_norm: a norm of each head's queries and keys.
        attention_norm, mlp_norm: a norm before the last linear map of attention, of the MLP (NormFormer).
        mlp: the MLP's activation: "gelu", "gelu_tanh", "quick_gelu" (OpenAI's CLIP) or "swiglu"; `mlp_ratio` is then
            of the gate's width.
        pool_prefix: the pool reads the tokens beside the patches too.
        pool_heads, pool_mlp_ratio: of attention pooling; None for those of the blocks.
        rotary: positions that turn queries and keys, of patches alone: "axial" (EVA-02), "centred" (DINOv3), "mixed"
            (RoPE-ViT, with learned frequencies), or None.
        rotary_temperature: ratio of the fastest to the slowest frequency, nearly.
        rotary_reference: the grid, (rows, columns), whose places are stretched over every other; None counts patches.
        rotary_offset: added to a patch's row and column.
        rotary_columns_first: the first channels turn by the column, not by the row.
        rotary_halves: a pair is a channel of the first half and one of the second, not two neighbours.
        moved: register neurons, (block, neuron, sign): each one's largest activation of an image moves to the tokens
            of the group `test` (`move_to_registers`); the sign is −1 for one that works with negative activations.
        mean, std, crop, interpolation: the preprocessing the weights expect. Of one channel, grey, the mean and std of
            three become those of their luma.

    Raises:
        ValueError: where the values do not fit together, or are beyond 1,000 blocks, a width of 65,536, 65,536 pixels a
            side or 10 million classes, with what would be right.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    channels: int = 3
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    plan: TokenPlan = None  # pyright: ignore[reportAssignmentType]  # __post_init__ puts a plan in its place
    classes: int = 1000
    pool: str = "cls"
    norm_after_pool: bool = False
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    layer_scale: float | None = None
    drop_path: float = 0.0
    drop_path_schedule: str = "linear"
    talking_heads: bool = False
    positions: str = "learned"
    position_offset: float | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: float = 0.9
    interpolation: str = "bicubic"
    patch_bias: bool = True
    patch_norm: bool = False
    linear_bias: bool = True
    mlp_scale: bool = True
    norm_before: bool = False
    final_norm: bool = True
    norm: str = "layer"
    qk_norm: bool = False
    attention_norm: bool = False
    mlp_norm: bool = False
    mlp: str = "gelu"
    pool_prefix: bool = False
    pool_heads: int | None = None
    pool_mlp_ratio: float | None = None
    rotary: str | None = None
    rotary_temperature: float = 10_000.0
    rotary_reference: tuple[int, int] | None = None
    rotary_offset: float = 0.0
    rotary_columns_first: bool = False
    rotary_halves: bool = False
    moved: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self):
        size = (self.image_size,) * 2 if is_whole(self.image_size) else self.image_size
        if not (isinstance(size, tuple | list) and len(size) == 2 and all(map(is_whole, size))):
            raise ValueError(
                f"image_size is one whole number, or (height, width), in pixels, not {shortened(self.image_size)}"
            )
        object.__setattr__(self, "image_size", tuple(map(as_whole, size)))
        for name in ("mean", "std"):
            if not isinstance(getattr(self, name), tuple | list):
                raise ValueError(
                    f"{name} is one number a channel, such as {HALF}, not {shortened(getattr(self, name))}"
                )
        for name, (least, most) in LIMITS.items():
            whole(name, getattr(self, name), least, most)
        check_types(self, skip=("plan",))
        if self.channels == 1:
            for name in ("mean", "std"):
                object.__setattr__(self, name, grey_values(getattr(self, name)))
        if self.plan is None:
            object.__setattr__(self, "plan", TokenPlan.of(self.depth, cls_pos=0 if self.pool == "cls" else None))
        check(self)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image in pixels, also where `image_size` was given as one number."""
        return cast(tuple[int, int], self.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image of `image_size`."""
        return self.grid_of(*self.size)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image, or a ValueError with the nearest sizes that fit."""
        patch = self.patch_size
        if height < patch or width < patch or height % patch or width % patch:
            near = [max(patch, round(length / patch) * patch) for length in (height, width)]
            raise ValueError(
                f"an image of {height}×{width} does not divide into patches of {patch}: the nearest that does is "
                f"{near[0]}×{near[1]}"
            )
        if max(height, width) > MAX_SIDE:
            raise ValueError(f"an image is at most {MAX_SIDE:,} pixels high or wide, not {height}×{width}")
        return height // patch, width // patch

    @property
    def hidden(self) -> int:
        """Channels that the MLP's second linear map takes."""
        return int(self.dim * self.mlp_ratio)

    @property
    def pool_hidden(self) -> int:
        """The same of attention pooling's MLP."""
        return int(self.dim * (self.pool_mlp_ratio or self.mlp_ratio))

    @property
    def pool_mlp(self) -> str:
        """The activation of attention pooling's MLP, which is never gated."""
        return "gelu" if self.mlp == "swiglu" else self.mlp

    @property
    def variants(self) -> tuple[str, ...]:
        """The fields in which this is no plain ViT."""
        return tuple(name for name, value in _PLAIN.items() if getattr(self, name) != value)

    @property
    def head_tokens(self) -> slice | None:
        """Where the tokens that the classifier reads stand in the final sequence; None where it reads patches."""
        return None if self.pool != "cls" else slice(0, len(self.head_names))

    @property
    def head_names(self) -> tuple[str, ...]:
        """The names of what has a classifier of its own, ("cls",), ("cls", "dist") or ("patches",)."""
        if self.pool != "cls":
            return ("patches",)
        return tuple(name for name in READ_BY_HEAD if self.plan.group(name))

    def drop_path_rates(self) -> list[float]:
        """Stochastic depth of each trunk block; class attention has none (CaiT, appendix A)."""
        if self.drop_path_schedule == "uniform":
            return [self.drop_path] * self.depth
        return [self.drop_path * block / max(1, self.depth - 1) for block in range(self.depth)]

    def with_plan(self, plan: TokenPlan) -> "ViTConfig":
        """The same model with another plan; reading patches where the plan has no class token."""
        if not isinstance(plan, TokenPlan):
            raise ValueError(f"plan is a TokenPlan, such as TokenPlan.of({self.depth}), not {plan!r}")
        pool = "patches" if self.pool == "cls" and plan.group("cls") is None else self.pool
        return replace(self, plan=plan, depth=plan.depth, pool=pool)

    def to_dict(self) -> dict:
        """Plain values for JSON; `from_dict` is its inverse.

        Fields of variants are left out where they are as in a plain ViT: what was saved before there were any is alike.
        """
        return {name: value for name, value in asdict(self).items() if name not in _PLAIN or value != _PLAIN[name]}

    @classmethod
    def from_dict(cls, values: Mapping) -> "ViTConfig":
        """A configuration from `to_dict`'s values; an unknown field is a ValueError."""
        if not isinstance(values, Mapping):
            raise ValueError(f"a configuration is a dictionary of its fields, not {shortened(values)}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"a configuration has no {', '.join(unknown)}; its fields are {', '.join(sorted(known))}")
        tupled = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        plan = tupled.get("plan")
        return cls(**{**tupled, "plan": TokenPlan.from_json(plan) if isinstance(plan, Mapping | str) else plan})

    def cost(self) -> Cost:
        """What a forward pass over one image of `image_size` costs, from the plan.

        The last block computes the tokens that the classifier reads, as `model(images)` does.
        """
        return cost_of(self)


LUMA = 0.299, 0.587, 0.114  # ITU-R BT.601
_PLAIN = {  # the fields of variants, and what they are in a plain ViT
    field.name: field.default
    for field in fields(ViTConfig)[[field.name for field in fields(ViTConfig)].index("patch_bias") :]
}


def grey_values(values: tuple[float, ...]) -> tuple[float, ...]:
    """A mean (or, to first order, a standard deviation) of three channels as that of grey images; one stays."""
    return (sum(share * value for share, value in zip(LUMA, values)),) if len(values) == 3 else tuple(values)


def named(name: str) -> ViTConfig:
    """The configuration of that name, timm's name where timm has it (a tag after a dot is ignored).

    Raises:
        ValueError: for a name that is not here, with the nearest that are.
    """
    table = configurations()
    if (base := name.split(".")[0]) not in table:
        near = get_close_matches(base, table, n=3, cutoff=0.4) or sorted(table)[:3]
        raise ValueError(f"no configuration is called {name!r}; did you mean {' or '.join(near)}?")
    return table[base]


def configurations() -> dict[str, ViTConfig]:
    """Every named configuration."""
    from .architectures import table

    return table()
