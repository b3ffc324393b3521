"""The parts of a Vision Transformer, each small enough to read at once.

Every option collapses to `nn.Identity`, so a block is two lines: residual plus dropped-path(scaled(f(normed x))).
`queries` says which tokens of the sequence ask; keys and values always come from all of them.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

ALL = slice(None)


class PatchEmbed(nn.Module):
    """Cut an image into patches and map each to a token (ViT, An image is worth 16×16 words, §3.1, eq. 1).

    A convolution whose stride is its kernel: `(batch, channels, height, width)` → `(batch, rows, columns, dim)`.
    """

    def __init__(self, patch_size: int, dim: int, channels: int = 3):
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return rearrange(self.project(images), "batch dim rows columns -> batch rows columns dim")


def interpolate_positions(positions: Tensor, grid: tuple[int, int], offset: float | None = None) -> Tensor:
    """Learned positions for another grid of patches, bicubic and antialiased (Registers, appendix A).

    Args:
        positions: `(rows, columns, dim)`.
        grid: the rows and columns wanted.
        offset: DINOv2's first checkpoints were made with a scale of (grid + offset) / rows and no antialiasing;
            0.1 reproduces them. None antialiases.

    Returns:
        `(rows, columns, dim)` for the new grid; the same tensor where the grid is the same.
    """
    if positions.shape[:2] == tuple(grid):
        return positions
    image = rearrange(positions, "rows columns dim -> 1 dim rows columns").float()
    if offset is None:
        image = F.interpolate(image, size=grid, mode="bicubic", antialias=True)
    else:
        scale = [(new + offset) / old for new, old in zip(grid, positions.shape)]
        image = F.interpolate(image, scale_factor=scale, mode="bicubic")
    return rearrange(image, "1 dim rows columns -> rows columns dim").to(positions.dtype)


def sincos_positions(grid: tuple[int, int], dim: int, temperature: float = 10_000.0) -> Tensor:
    """Fixed positions from sines and cosines of row and column (Attention is all you need, §3.5, in two dimensions).

    Args:
        grid: rows and columns.
        dim: a multiple of 4: a quarter each for sin(row), cos(row), sin(column), cos(column).

    Returns:
        `(rows, columns, dim)`.

    Raises:
        ValueError: if `dim` is not divisible by 4.
    """
    if dim % 4:
        raise ValueError(f"2-D sin–cos positions need a dim divisible by 4, not {dim}")
    frequency = temperature ** (-torch.arange(dim // 4) / (dim // 4))
    row, column = (torch.arange(length)[:, None] * frequency for length in grid)
    row = row[:, None].expand(*grid, dim // 4)
    column = column[None, :].expand(*grid, dim // 4)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=-1)


class DotProduct(nn.Module):
    """Scaled dot-product attention, fused: softmax(q kᵀ / √head_dim) v (Attention is all you need, eq. 1).

    Without parameters, so that a recorder can stand here and see q, k and v: `(batch, heads, tokens, head_dim)` each.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class TalkingHeads(nn.Module):
    """Attention whose heads are mixed before and after the softmax (Talking-heads attention; CaiT, §4).

    What multiplies v is a mixture of all heads' matrices, so this cannot be fused.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.before = nn.Linear(heads, heads)
        self.after = nn.Linear(heads, heads)

    def attention(self, q: Tensor, k: Tensor, stage: str = "attention") -> Tensor:
        """The matrix that multiplies v, or the softmax before the second mixing (`stage="softmax"`)."""
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
        softmax = self._mix(self.before, scores).softmax(dim=-1)
        return softmax if stage == "softmax" else self._mix(self.after, softmax)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attention(q, k) @ v

    @staticmethod
    def _mix(linear: nn.Linear, maps: Tensor) -> Tensor:
        weight, bias = linear.weight.to(maps.dtype), linear.bias.to(maps.dtype)
        return F.linear(maps.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head self-attention (Attention is all you need, §3.2.2; ViT, appendix A).

    Args:
        dim: width of a token; `heads` divides it.
        heads: how many, each with an attention matrix of its own.
        qkv_bias: whether queries, keys and values have a bias.
        core: what turns q, k, v into an output; `DotProduct` by default.
    """

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True, core: nn.Module | None = None):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.core = core or DotProduct()
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor, queries: slice = ALL) -> Tensor:
        """`(batch, tokens, dim)` → `(batch, queries, dim)`: those tokens ask; keys and values come from all."""
        q, k, v = (
            rearrange(part, "batch tokens (heads dim) -> batch heads tokens dim", heads=self.heads)
            for part in self.project_qkv(x, queries)
        )
        return self.project(rearrange(self.core(q, k, v), "batch heads tokens dim -> batch tokens (heads dim)"))

    def project_qkv(self, x: Tensor, queries: slice) -> tuple[Tensor, ...]:
        """Queries of the tokens that ask, keys and values of every token.

        Without gradients by three products, so that keeping q and k does not keep v; a training step keeps all three.
        """
        if queries == ALL and torch.is_grad_enabled():
            return self.qkv(x).chunk(3, dim=-1)
        weights = self.qkv.weight.chunk(3)
        biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        return tuple(F.linear(part, weight, bias) for part, weight, bias in zip((x[:, queries], x, x), weights, biases))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, applied to each token alone (ViT, §3.1, eq. 3)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(x)))


class LayerScale(nn.Module):
    """Multiply each channel of a branch by a learned factor that starts small (CaiT, §2, eq. 4)."""

    def __init__(self, dim: int, initial: float):
        super().__init__()
        self.factor = nn.Parameter(torch.full((dim,), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a branch for a whole sample and scale the rest (Huang et al. 2016, §3)."""

    def __init__(self, probability: float):
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"drop_path is a probability from 0 to below 1, not {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self.probability
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) < keep
        return x * (kept.to(x.dtype) / keep)  # one pass over x


class Block(nn.Module):
    """A pre-norm transformer block: attention, then an MLP, each added to the residual stream (ViT, eq. 2 and 3).

    Args:
        dim, heads: as in `Attention`.
        mlp_ratio: the MLP's hidden width over `dim`.
        layer_scale: LayerScale's first value; None for none.
        drop_path: probability of stochastic depth.
        core: as in `Attention`.
        norm_eps: the layer norms' epsilon.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        core: nn.Module | None = None,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = Attention(dim, heads, qkv_bias, core)
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, queries: slice = ALL) -> Tensor:
        """`(batch, tokens, dim)` → `(batch, queries, dim)`, the new values of the tokens that ask."""
        x = x[:, queries] + self.drop_path(self.scale1(self.attention(self.norm1(x), queries)))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


class ClassAttention(Block):
    """A block in which only the tokens `queries` ask and are updated; the others stay as they are (CaiT, §3).

    Args: as in `Block`, and
        queries: where the class token (and the distillation token) stand.
    """

    def __init__(self, *args, queries: slice, **kwargs):
        super().__init__(*args, **kwargs)
        self.queries = queries

    def forward(self, x: Tensor, queries: slice = ALL) -> Tensor:
        """`(batch, tokens, dim)` → the same with new values of `self.queries`; those alone where they are asked for."""
        new = super().forward(x, self.queries)
        return new if queries == self.queries else torch.cat([new, x[:, self.queries.stop :]], dim=1)


def initialise(module: nn.Module) -> None:
    """ViT's initialisation: truncated normal of 0.02 for matrices, zero for biases, LeCun normal for the patches."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_in = module.in_channels * math.prod(module.kernel_size)
        # cut at two standard deviations, a normal distribution keeps 0.8796 of its own
        std = fan_in**-0.5 / 0.8796
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
