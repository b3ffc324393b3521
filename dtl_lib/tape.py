"""Look inside a forward pass: hidden states, queries, keys and exact attention maps, by name.

Attention stays fused while it is recorded. The tape keeps q and k, by reference, and computes afterwards, in float32,
the part of the map that is asked for. Without gradients the last block stays as narrow as in a plain forward pass: its
other queries, too, are computed when they are asked for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from .checks import as_whole, is_whole
from .deferred import DeferredQueries, can_run_again
from .hooks import Hook, full_precision, recording
from .layers import ALL, Block, TalkingHeads
from .models import ViT
from .recordable import unwrapped
from .tokens import PATCH, PATCHES, READ_BY_HEAD, TokenNotThere
from .variants import AttentionPool

Token = str | tuple[str, int] | tuple[str, int, int]


@contextmanager
def record(model: nn.Module, grad: bool = False, all_queries: bool = True, stream: bool = True) -> Iterator["Tape"]:
    """Record the forward passes of a `ViT` inside a `with` block, in this thread; a second one replaces the first.

    A model is recorded once at a time. A copy made inside (`copy.deepcopy`, `pickle`, `torch.save`) is not recorded.

    Args:
        model: a `ViT`, also inside DistributedDataParallel.
        grad: keep v and the gradient of attention's output too, for `Tape.attention_gradient`.
        all_queries: False keeps of the last block only the tokens that the classifier reads, enough for maps of cls and
            dist: less memory, and with gradients faster.
        stream: False does not keep the residual stream: less memory where only maps are wanted.

    Raises:
        ValueError: for a compiled model, whose modules are not called, one that is no `ViT`, or is recorded already,
            and for DataParallel on several devices, whose replicas see a part of the images each.
    """
    vit, modules = unwrapped(model)
    tape = Tape(vit, grad, all_queries, stream)
    with recording(modules):
        try:
            tape._attach()
            yield tape
        finally:
            for handle in tape._handles:
                handle.remove()


class Tape:
    """What one forward pass left behind. Blocks count over the trunk and class attention; names are the plan's.

    Attributes:
        plan: the model's token plan.
        grid: rows and columns of the patches of the images recorded; (0, 0) before.
        patch_size: pixels along a patch's side.
    """

    def __init__(self, model: ViT, grad: bool = False, all_queries: bool = True, stream: bool = True):
        self.plan = model.plan
        self.grid: tuple[int, int] = (0, 0)
        self.patch_size = model.config.patch_size
        self._model, self._grad, self._all_queries, self._stream = model, grad, all_queries, stream
        self._last, self._handles = model.plan.blocks - 1, []
        self._clear()

    def tokens(self, block: int | Literal["input"]) -> Tensor:
        """The residual stream after a block, `(batch, tokens, dim)`; `"input"` is the stream before block 0."""
        number = self._check(0 if block == "input" else block)
        if not self._stream:
            raise ValueError("the residual stream was not kept: leave stream=False out")
        block = block if block == "input" else number
        kept, deferred = self._tokens[block], self._deferred if block == self._last else None
        return kept if deferred is None else torch.cat([kept, deferred.tokens], dim=1)

    def queries(self, block: int) -> Tensor:
        """Queries of a block, `(batch, heads, query, head_dim)`; in class attention only cls and dist are queries."""
        block = self._check(block)
        q, _ = self._qk[block]
        return q if block != self._last or self._deferred is None else torch.cat([q, self._deferred.queries], dim=2)

    def keys(self, block: int) -> Tensor:
        """Keys of a block, `(batch, heads, key, head_dim)`."""
        return self._qk[self._check(block, every_query=False)][1]

    def attention(self, block: int, stage: str = "attention", queries: slice = ALL) -> Tensor:
        """What multiplies v in a block, `(batch, heads, query, key)`, float32.

        Args:
            block: 0 … blocks − 1.
            stage: `"softmax"` for the matrix before talking heads mix it a second time; the same elsewhere.
            queries: the rows to compute.
        """
        return self._attention(self._check(block, every_query=queries == ALL), queries, stage)

    def maps(self, block: int, of: Token = "cls", stage: str = "attention") -> Tensor:
        """How much a token attends to each patch: `(batch, heads, rows, columns)`, float32.

        Args:
            block: 0 … blocks − 1.
            of: `"cls"`, `"dist"`, `("reg", 2)` for one register, `("patch", row, column)`; a register group by name
                gives `(batch, heads, tokens, rows, columns)`, also when it has one token.
            stage: as in `attention`.

        Raises:
            TokenNotThere: where the token is not in that block, or is no query there.
        """
        row = self.row(block, of, stage)[..., self.plan.layout(block)[PATCHES]]
        return rearrange(row, "... (rows columns) -> ... rows columns", rows=self.grid[0])

    def row(self, block: int, of: Token = "cls", stage: str = "attention") -> Tensor:
        """How much a token attends to each token that is there: `(batch, heads, key)`, float32.

        Args:
            block, of, stage: as in `maps`; a register group by name gives `(batch, heads, tokens, key)`.

        Raises:
            TokenNotThere: as in `maps`.
        """
        block = self._check(block, every_query=False)
        rows = self._attention(block, self.queries_of(block, of), stage)
        return rows if isinstance(of, str) and of not in READ_BY_HEAD else rows.squeeze(2)

    def pool_maps(self) -> Tensor:
        """How much attention pooling draws from each patch, `(batch, heads, rows, columns)`, float32; a ValueError
        where the head reads something else."""
        if self._pool is None:
            raise ValueError('nothing is recorded of attention pooling, which a model with pool="attention" has')
        q, k = (part.float() for part in self._pool)
        rows, columns = self.grid
        with torch.no_grad(), full_precision(q.device):
            row = _scores(q * q.shape[-1] ** -0.5, k).softmax(dim=-1)[:, :, 0, -rows * columns :]
        return rearrange(row, "batch heads (rows columns) -> batch heads rows columns", rows=rows)

    def norms(self, block: int | Literal["input"]) -> dict[str, Tensor]:
        """Length of each token after a block: `(batch, tokens)` by group, `(batch, rows, columns)` for the patches,
        `(batch,)` for cls and dist."""
        lengths = self.tokens(block).float().norm(dim=-1)
        layout = self.plan.layout(0 if block == "input" else block)
        norms = {name: lengths[:, where] for name, where in layout.items()}
        norms |= {name: norms[name].squeeze(1) for name in READ_BY_HEAD if name in norms}
        return norms | {PATCHES: rearrange(norms[PATCHES], "b (rows columns) -> b rows columns", rows=self.grid[0])}

    def attention_gradient(self, block: int, queries: slice = ALL) -> Tensor:
        """The loss's gradient with respect to what multiplies v: dL/dO · vᵀ, `(batch, heads, query, key)`, float32.

        Raises:
            ValueError: without `grad=True`, or before `backward` has been called.
        """
        block = self._check(block, every_query=queries == ALL)
        if not self._grad:
            raise ValueError("gradients were not kept: record(model, grad=True) keeps them")
        if block not in self._output_gradients:
            raise ValueError(f"no gradient has reached block {block}: call backward on a loss of the recorded forward")
        gradient, v = self._output_gradients[block][:, :, queries].float(), self._v[block].float()
        with full_precision(v.device):
            return gradient @ v.transpose(-2, -1)

    def _attention(self, block: int, queries: slice, stage: str) -> Tensor:
        if stage not in ("attention", "softmax"):
            raise ValueError(f'stage is "attention" or "softmax", not {stage!r}')
        q, k = self._qk[block]
        if queries == ALL or queries.stop > q.shape[2]:
            q = self.queries(block)
        q, k = q[:, :, queries].float(), k.float()
        core = self._core(block)
        with torch.no_grad(), full_precision(q.device):
            if not isinstance(core, TalkingHeads):
                return _scores(q * q.shape[-1] ** -0.5, k).softmax(dim=-1)
            if _versions(core) != self._mixing[block]:
                raise ValueError(
                    f"block {block} mixes heads by weights that changed since: read the tape before a step"
                )
            return core.attention(q, k, stage)

    def queries_of(self, block: int, of: Token) -> slice:
        """Where a token stands in the sequence of `block`, as a query; `of` and the errors are those of `maps`."""
        name, *index = (of,) if isinstance(of, str) else of if isinstance(of, tuple | list) and of else (None,)
        if not isinstance(name, str) or not all(map(is_whole, index)):
            raise ValueError(f'of is a name, ("reg", 2) or ("patch", row, column), not {of!r}')
        index, name = [cast(int, as_whole(part)) for part in index], PATCHES if name == PATCH else name
        layout = self.plan.layout(block)
        if name not in layout:
            raise TokenNotThere(f"{self.plan.where(name)}; in block {block} the sequence holds {_only(layout)}")
        if name not in READ_BY_HEAD:
            self._check(block)
        if block >= self.plan.depth and name not in READ_BY_HEAD:
            queries = " and ".join(n for n in READ_BY_HEAD if n in layout)
            raise TokenNotThere(f"in block {block}, class attention, only {queries} attends: {name} has no map there")
        if name == PATCHES:
            return self._patch(index, layout[name].start)
        where = layout[name]
        if not index:
            return where
        if len(index) > 1 or not 0 <= index[0] < where.stop - where.start:
            given = ", ".join(map(str, index))
            raise ValueError(f"{name} has tokens 0 … {where.stop - where.start - 1}, not {given}")
        return slice(where.start + index[0], where.start + index[0] + 1)

    def _patch(self, index: list[int], first: int) -> slice:
        rows, columns = self.grid
        if len(index) != 2:
            raise ValueError('a patch is given as ("patch", row, column)')
        row, column = index
        if not (0 <= row < rows and 0 <= column < columns):
            raise ValueError(f"there is no patch ({row}, {column}): the grid has {rows} rows and {columns} columns")
        here = first + row * columns + column
        return slice(here, here + 1)

    def _check(self, block: int, every_query: bool = True) -> int:
        block = self.plan.check_block(block)
        if block not in self._qk:
            raise ValueError("nothing is recorded: call the model inside the with block, in the same thread")
        if every_query and block == self._last and self._narrow and not self._all_queries:
            raise ValueError(f"block {block} was recorded for the classifier alone: leave all_queries=False out")
        return block

    def _core(self, block: int) -> nn.Module:
        return cast(Block, self._model.blocks[block]).attention.core

    def _clear(self, *_) -> None:
        self._tokens, self._qk, self._v, self._output_gradients, self._mixing = {}, {}, {}, {}, {}
        self._narrow, self._deferred, self._pool = False, None, None

    def _attach(self) -> None:
        model = self._model
        self._before(model.patch_embed, self._clear)
        self._after(model.patch_embed, self._keep_grid)
        self._before(model.blocks[-1], self._enter_last)
        for index in range(model.plan.blocks):
            keep_heads = lambda _, args, output, index=index: self._keep_heads(index, args, output)  # noqa: E731
            self._after(self._core(index), keep_heads)
        if isinstance(model.pool, AttentionPool):
            self._after(model.pool.core, self._keep_pool)
        if not self._stream:
            return
        self._before(model.blocks[0], lambda _, args: self._keep_tokens("input", args[0]))
        for index, block in enumerate(model.blocks):
            keep_tokens = lambda _, args, output, index=index: self._keep_tokens(index, output)  # noqa: E731
            self._after(block, keep_tokens)

    def _before(self, module: nn.Module, call: Callable) -> None:
        self._handles.append(module.register_forward_pre_hook(Hook(module, call)))

    def _after(self, module: nn.Module, call: Callable) -> None:
        self._handles.append(module.register_forward_hook(Hook(module, call)))

    def _enter_last(self, block: Block, args: tuple) -> tuple:
        """Have every token ask in the last block, unless those that the head does not read can be computed later."""
        x, queries, *places = args
        own = {handle.id for handle in self._handles}
        later = not self._grad and can_run_again(block, own)
        if self._all_queries and not later:
            queries = ALL
        self._narrow = queries != ALL
        later = self._narrow and self._all_queries
        self._deferred = DeferredQueries(block, x.detach(), queries, own, places) if later else None
        return x, queries, *places

    def _keep_grid(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self.grid = output.shape[1], output.shape[2]

    def _keep_pool(self, module: nn.Module, qkv: tuple[Tensor, ...], output: Tensor) -> None:
        self._pool = qkv[0].detach(), qkv[1].detach()

    def _keep_tokens(self, block: int | Literal["input"], tokens: Tensor) -> None:
        self._tokens[block] = tokens.detach()

    def _keep_heads(self, block: int, qkv: tuple[Tensor, ...], output: Tensor) -> None:
        if block in self._qk:  # the last block runs again, for its other tokens
            return
        q, k, v = qkv
        self._qk[block] = (q.detach(), k.detach())
        if isinstance(core := self._core(block), TalkingHeads):
            self._mixing[block] = _versions(core)
        if self._grad:
            self._v[block] = v.detach()
            if output.requires_grad:
                gradients = self._output_gradients
                output.register_hook(lambda gradient: gradients.__setitem__(block, gradient.detach()))


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """q kᵀ, `(batch, heads, query, key)`; one query without the copy of k that a matrix product makes of its heads."""
    return (q * k).sum(dim=-1).unsqueeze(2) if q.shape[2] == 1 else q @ k.transpose(-2, -1)


def _versions(core: TalkingHeads) -> list[int]:
    return [parameter._version for parameter in core.parameters() if not parameter.is_inference()]


def _only(layout: dict[str, slice]) -> str:
    return f"only {PATCHES}" if len(layout) == 1 else ", ".join(layout)
