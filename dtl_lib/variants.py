"""What some ViTs have in the places of a plain block's parts: other norms, MLPs, rotary positions, attention pooling.

A block stays two lines: `equip` puts a variant's parts in their places, and leaves a plain block as it is.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import ViTConfig
from .layers import ALL, Attention, Block, DotProduct, Mlp


def norm_of(config: ViTConfig, width: int) -> nn.Module:
    """The norm that a configuration has everywhere: a LayerNorm, or an RMSNorm (Zhang and Sennrich 2019, §4)."""
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(width, eps=config.norm_eps)


class NormedLinear(nn.Linear):
    """A linear map that normalises what it is given (NormFormer, §2): the last one of attention, or of an MLP."""

    def __init__(self, inputs: int, outputs: int, norm: nn.Module):
        super().__init__(inputs, outputs)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


def quick_gelu(x: Tensor) -> Tensor:
    """x σ(1.702 x), which OpenAI's CLIP has for a GELU (Hendrycks and Gimpel 2016, §2)."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU's approximation by a tanh (Hendrycks and Gimpel 2016, §2)."""
    return F.gelu(x, approximate="tanh")


def swiglu(x: Tensor) -> Tensor:
    """The first half of the channels gates the second: silu(gate) · value (GLU variants, eq. 6)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu, "swiglu": swiglu}


class ActivatedMlp(Mlp):
    """An MLP with another activation. SwiGLU's gate and value are one product, the gate first.

    Args:
        dim: width of a token.
        hidden: channels that the second linear map takes.
        activation: a name in `ACTIVATIONS`.
    """

    def __init__(self, dim: int, hidden: int, activation: str):
        super().__init__(dim, hidden)
        self.activation = activation
        if activation == "swiglu":
            self.expand = nn.Linear(dim, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(ACTIVATIONS[self.activation](self.expand(x)))


class QKNormAttention(Attention):
    """Attention with a norm of each head's queries and keys (ViT-22B, §2). Args: as in `Attention`, and `config`."""

    def __init__(self, *args, config: ViTConfig, **kwargs):
        super().__init__(*args, **kwargs)
        width = config.dim // config.heads
        self.norm_q = norm_of(config, width) if config.qk_norm else nn.Identity()
        self.norm_k = norm_of(config, width) if config.qk_norm else nn.Identity()

    def project_qkv(self, x: Tensor, queries: slice) -> tuple[Tensor, ...]:
        q, k, v = super().project_qkv(x, queries)
        q, k = (norm(self._split(part)).flatten(2).to(v.dtype) for norm, part in ((self.norm_q, q), (self.norm_k, k)))
        return q, k, v

    def _split(self, part: Tensor) -> Tensor:
        return rearrange(part, "batch tokens (heads dim) -> batch tokens heads dim", heads=self.heads)


class RotaryAttention(QKNormAttention):
    """Attention whose queries and keys are turned by where their patch is; other tokens have no place and do not turn.

    Args: as in `QKNormAttention`.
    """

    def __init__(self, *args, config: ViTConfig, **kwargs):
        super().__init__(*args, config=config, **kwargs)
        self.halves = config.rotary_halves
        self.angles = MixedAngles(config) if config.rotary == "mixed" else nn.Identity()

    def forward(self, x: Tensor, queries: slice = ALL, *places: Tensor) -> Tensor:
        """As in `Attention`; `places` is what `rotary_places` gives, of the patches, which are the last tokens of x."""
        q, k, v = (
            rearrange(part, "batch tokens (heads dim) -> batch heads tokens dim", heads=self.heads)
            for part in self.project_qkv(x, queries, *places)
        )
        return self.project(rearrange(self.core(q, k, v), "batch heads tokens dim -> batch tokens (heads dim)"))

    def project_qkv(self, x: Tensor, queries: slice, *places: Tensor) -> tuple[Tensor, ...]:
        if not places:
            raise ValueError("rotary positions need to know where patches are: block(x, queries, *model.places(grid))")
        q, k, v = super().project_qkv(x, queries)
        angles = self.angles(*places)
        angles = F.pad(angles, (0, 0, 0, 0, x.shape[1] - angles.shape[0], 0))
        cos, sin = angles.cos(), angles.sin()
        q = rotate(self._split(q), cos[queries], sin[queries], self.halves).flatten(2)
        return q, rotate(self._split(k), cos, sin, self.halves).flatten(2), v


class RotaryBlock(Block):
    """A block that knows where the patches are."""

    def forward(self, x: Tensor, queries: slice = ALL, *places: Tensor) -> Tensor:
        """As in `Block`; `places` as in `RotaryAttention`."""
        x = x[:, queries] + self.drop_path(self.scale1(self.attention(self.norm1(x), queries, *places)))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


class MixedAngles(nn.Module):
    """Learned frequencies, for each head a row's and a column's (RoPE-ViT, Heo et al. 2024, §3.2)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        rates, turn = _frequencies(config), 2 * math.pi * torch.rand(config.heads, 1)  # each head has axes of its own
        row = torch.cat([rates * turn.cos(), -rates * turn.sin()], dim=-1)
        column = torch.cat([rates * turn.sin(), rates * turn.cos()], dim=-1)
        self.frequencies = nn.Parameter(torch.stack([row, column]))  # (2, heads, pairs)

    def forward(self, places: Tensor) -> Tensor:
        """`(patches, 2)`, row and column → angles, `(patches, heads, pairs)`, float32."""
        row, column = self.frequencies.float()
        return places[:, 0, None, None] * row + places[:, 1, None, None] * column


def rotary_places(config: ViTConfig, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, ...]:
    """What blocks are given besides tokens: nothing without rotary positions, otherwise one tensor, float32.

    Args:
        config: whose `rotary` says how.
        grid: rows and columns of the patches.
        device: where.

    Returns:
        For "mixed" each patch's row and column, `(patches, 2)`. For "axial" (EVA-02, §2.2) and "centred" (DINOv3, §3.2)
        how far each pair of channels turns, `(patches, 1, head_dim / 2)`, half of them by the row, half by the column.
    """
    if config.rotary is None:
        return ()
    axes = [torch.arange(length, device=device, dtype=torch.float32) + config.rotary_offset for length in grid]
    if config.rotary == "centred":
        axes = [2 * math.pi * (2 * (axis + 0.5) / length - 1) for axis, length in zip(axes, grid)]
    if config.rotary_reference:
        axes = [axis / length * size for axis, length, size in zip(axes, grid, config.rotary_reference)]
    places = torch.cartesian_prod(*axes)
    if config.rotary == "mixed":
        return (places,)
    first, second = places.flip(1).unbind(1) if config.rotary_columns_first else places.unbind(1)
    rates = _frequencies(config, device)
    return (torch.cat([first[:, None, None] * rates, second[:, None, None] * rates], dim=-1),)


def _frequencies(config: ViTConfig, device: torch.device | None = None) -> Tensor:
    """How fast each pair of channels of an axis turns, `(head_dim / 4,)`: temperature^(−i / (head_dim / 4))."""
    count = config.dim // config.heads // 4
    return config.rotary_temperature ** (-torch.arange(count, dtype=torch.float32, device=device) / count)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, halves: bool) -> Tensor:
    """Turn pairs of channels (RoFormer, §3.2): neighbours, or one of each half of the channels.

    Args:
        x: `(batch, tokens, heads, head_dim)`.
        cos, sin: of each pair's angle, `(tokens, heads or 1, head_dim / 2)`, float32.
        halves: whether a pair is a channel of the first half and one of the second.
    """
    a, b = x.chunk(2, dim=-1) if halves else (x[..., ::2], x[..., 1::2])
    turned = a * cos - b * sin, b * cos + a * sin
    return (torch.cat(turned, dim=-1) if halves else torch.stack(turned, dim=-1).flatten(-2)).to(x.dtype)


def equip(block: Block, config: ViTConfig) -> Block:
    """The block with a variant's parts in the places of its own; a plain one stays as it is."""
    if config.norm != "layer":
        block.norm1, block.norm2 = norm_of(config, config.dim), norm_of(config, config.dim)
    if config.mlp != "gelu":
        block.mlp = ActivatedMlp(config.dim, config.hidden, config.mlp)
    if config.mlp_norm:
        block.mlp.contract = NormedLinear(config.hidden, config.dim, norm_of(config, config.hidden))
    if config.qk_norm or isinstance(block, RotaryBlock):
        kind = RotaryAttention if isinstance(block, RotaryBlock) else QKNormAttention
        block.attention = kind(config.dim, config.heads, config.qkv_bias, block.attention.core, config=config)
    if config.attention_norm:
        block.attention.project = NormedLinear(config.dim, config.dim, norm_of(config, config.dim))
    if not config.linear_bias:
        for linear in (block.attention.project, block.mlp.expand, block.mlp.contract):
            linear.register_parameter("bias", None)
    if not config.mlp_scale:
        block.scale2 = nn.Identity()
    return block


class MeanPool(nn.Module):
    """The mean of the tokens: `(batch, tokens, dim)` → `(batch, dim)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class AttentionPool(nn.Module):
    """A learned query that attends to the tokens, and an MLP (SigLIP; Scaling Vision Transformers, §2.1).

    `(batch, tokens, dim)` → `(batch, dim)`.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        dim, hidden = config.dim, config.pool_hidden
        self.heads = config.pool_heads or config.heads
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, dim), std=dim**-0.5))
        self.ask, self.answer = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.core = DotProduct()
        self.project = nn.Linear(dim, dim)
        self.norm = norm_of(config, dim)
        self.mlp = Mlp(dim, hidden) if config.pool_mlp == "gelu" else ActivatedMlp(dim, hidden, config.pool_mlp)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.ask(self.query).expand(x.shape[0], 1, -1), *self.answer(x).chunk(2, dim=-1)
        q, k, v = (rearrange(part, "b tokens (heads dim) -> b heads tokens dim", heads=self.heads) for part in parts)
        x = self.project(rearrange(self.core(q, k, v), "batch heads tokens dim -> batch (tokens heads dim)"))
        return x + self.mlp(self.norm(x))
