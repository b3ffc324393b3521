"""What a model costs: multiply–adds, parameters and kept activations, counted from its configuration."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        multiply_adds: by part: patches, qkv, attention, mixing, projection, mlp, head.
        blocks: multiply–adds of each block.
        parameters: learned numbers.
        activation_bytes: what autograd keeps of one image for the backward pass, in float32, without stochastic depth.
    """

    multiply_adds: dict[str, int]
    blocks: tuple[int, ...]
    parameters: int
    activation_bytes: int

    @property
    def total(self) -> int:
        """All multiply–adds."""
        return sum(self.multiply_adds.values())


def cost_of(config) -> Cost:
    """`ViTConfig.cost`: every block's products, parameters, and what autograd keeps."""
    rows, columns = config.grid
    patches, dim, hidden = rows * columns, config.dim, config.hidden
    parts = {
        "patches": patches * config.patch_size**2 * config.channels * dim,
        **dict.fromkeys(("qkv", "attention", "mixing", "projection", "mlp"), 0),
        "head": dim * config.classes * len(config.head_names) + _pool(config, patches),
    }
    blocks, activations = [], 0
    for block in range(config.plan.blocks):
        tokens = config.plan.tokens(block) + patches
        queries = len(config.head_names) if _narrow(config, block) else tokens
        talking = config.talking_heads and block < config.depth
        here = {
            "qkv": (queries + 2 * tokens) * dim**2,
            "attention": 2 * queries * tokens * dim,
            "mixing": 2 * queries * tokens * config.heads**2 if talking else 0,
            "projection": queries * dim**2,
            "mlp": (3 if config.mlp == "swiglu" else 2) * queries * dim * hidden,
        }
        parts = {name: value + here.get(name, 0) for name, value in parts.items()}
        blocks.append(sum(here.values()))
        activations += _kept(config, tokens, queries, hidden, talking)
    activations += patches * config.patch_size**2 * config.channels  # the image, for the patch projection
    activations += (config.norm_before + config.patch_norm) * (patches * dim + _kept_by_norm(config, patches, dim))
    activations += _kept_by_head(config, tokens, patches)
    return Cost(parts, tuple(blocks), _parameters(config), 4 * activations)


def _pool(config, patches: int) -> int:
    """Attention pooling's products: one query, keys and values of what it reads, and its MLP."""
    if config.pool != "attention":
        return 0
    read, dim = patches + _beside(config), config.dim
    return 2 * dim**2 + 2 * read * dim**2 + 2 * read * dim + 2 * dim * config.pool_hidden


def _beside(config) -> int:
    """The tokens beside the patches that a pool reads."""
    return config.plan.final["patches"].start if config.pool_prefix else 0


def _narrow(config, block: int) -> bool:
    return block >= config.depth or (config.pool == "cls" and block == config.plan.blocks - 1)


def _kept(config, tokens: int, queries: int, hidden: int, talking: bool) -> int:
    """Numbers that autograd keeps of one block: inputs of norms, products, the GELU, attention and LayerScale."""
    scaled = (1 + config.mlp_scale) * queries * config.dim if config.layer_scale is not None else 0
    normed = 2 * (tokens + queries) * config.dim + _kept_by_norm(config, tokens + queries, config.dim)
    heads = (2 * tokens + 2 * queries) * config.dim  # q, k, v and the output that the projection takes
    copies = 4 if config.heads > 1 else 3  # mixing one head moves nothing, so two of the copies are one
    maps = config.heads * queries * (copies * tokens if talking else 1)  # fused attention keeps one number a row
    for inner, width in ((config.attention_norm, config.dim), (config.mlp_norm, hidden)):
        normed += queries * width + _kept_by_norm(config, queries, width) if inner else 0
    return (
        normed
        + heads
        + _kept_by_turning(config, tokens, queries)
        + maps
        + _mlp_kept(config) * queries * hidden
        + scaled
    )


def _mlp_kept(config) -> int:
    """How many numbers an MLP keeps for a channel of its second linear map: what that takes, and the activation's."""
    return {"swiglu": 4, "quick_gelu": 3}.get(config.mlp, 2)


def _kept_by_norm(config, tokens: int, width: int) -> int:
    """Besides what goes in and comes out: mean and deviation, or what an RMSNorm has divided and by what."""
    return tokens * (2 if config.norm == "layer" else width + 1)


def _kept_by_turning(config, tokens: int, queries: int) -> int:
    """Queries and keys before they are normalised or turned; those before are a part of what keeps the values."""
    both, heads = (tokens + queries) * config.dim, config.heads
    if config.qk_norm:
        return both * (2 if config.rotary == "mixed" else 1) + _kept_by_norm(
            config, (tokens + queries) * heads, config.dim // heads
        )
    return both if config.rotary == "mixed" or (config.rotary and tokens == queries) else 0


def _kept_by_head(config, tokens: int, patches: int) -> int:
    """The same of the last norm, the pool and the classifiers."""
    dim, read = config.dim, config.dim if config.classes else 0
    if config.pool == "cls":
        return len(config.head_names) * (config.final_norm * (dim + _kept_by_norm(config, 1, dim)) + read)
    if config.norm_after_pool:
        return config.final_norm * (dim + _kept_by_norm(config, 1, dim)) + read
    pooled = patches + _beside(config)
    kept = read + config.final_norm * (
        (pooled if config.pool_prefix else tokens) * dim + _kept_by_norm(config, pooled, dim)
    )
    if config.pool == "attention":
        mlp = (3 if config.pool_mlp == "quick_gelu" else 2) * config.pool_hidden
        kept += 3 * pooled * dim + 3 * dim + (config.pool_heads or config.heads) + _kept_by_norm(config, 1, dim) + mlp
    return kept


def _parameters(config) -> int:
    dim, hidden = config.dim, config.hidden
    rows, columns = config.grid
    norm = 2 if config.norm == "layer" else 1  # numbers a channel
    bias, expand = config.linear_bias, (2 if config.mlp == "swiglu" else 1) * hidden
    block = 3 * dim**2 + 3 * dim * config.qkv_bias + dim**2 + dim * bias
    block += dim * expand + expand * bias + hidden * dim + dim * bias + 2 * norm * dim
    block += (1 + config.mlp_scale) * dim * (config.layer_scale is not None)
    block += norm * (2 * dim // config.heads * config.qk_norm + dim * config.attention_norm + hidden * config.mlp_norm)
    trunk = 2 * (config.heads**2 + config.heads) * config.talking_heads + dim * (config.rotary == "mixed")
    tokens = sum(group.tokens for group in config.plan.groups) * dim
    positions = rows * columns * dim * (config.positions == "learned")
    patch = config.patch_size**2 * config.channels * dim + dim * config.patch_bias
    norms = norm * dim * (config.final_norm + config.norm_before + config.patch_norm)
    head = (dim + 1) * config.classes * len(config.head_names) + norms
    if config.pool == "attention":
        head += dim + 4 * (dim**2 + dim) + norm * dim + 2 * dim * config.pool_hidden + config.pool_hidden + dim
    return patch + positions + tokens + block * config.plan.blocks + trunk * config.depth + head
