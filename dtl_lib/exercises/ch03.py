"""Checkers of chapter 03, The block and the model."""

import torch
import torch.nn.functional as F
from torch import nn

from ..config import ViTConfig
from ..layers import Block, Mlp
from ..models import ViT
from . import exercise, expect, expect_close, expect_fresh, expect_learns, expect_shape, give_weights


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@exercise
def check_my_mlp(my_mlp) -> None:
    """Random weights, biases included, against the library's."""
    library, x = Mlp(8, 20), _random(2, 5, 8)
    answer = my_mlp(8, 20)
    give_weights(answer, library)
    out, inside = answer(x), library.expand(x)
    expect_shape(out, (2, 5, 8), "an MLP keeps the shape: (batch, tokens, dim)")
    _not(out, library.contract(inside), "the GELU is missing: two linear maps in a row are one linear map")
    _not(out, library.contract(inside.relu()), "this is a ReLU: use F.gelu")
    _not(out, library.contract(F.gelu(inside, approximate="tanh")), "this is the tanh approximation: use F.gelu(x)")
    _not(out, F.gelu(library.contract(inside)), "the GELU stands between the two maps, not after them")
    expect_close(out, library(x), "contract(gelu(expand(x)))")
    expect_learns(out, dict(answer.named_parameters()))


@exercise
def check_my_block(my_block) -> None:
    """Random weights; tokens of ordinary length, and tokens so short that epsilon counts."""
    library, x = Block(8, 2), _random(2, 5, 8)
    answer = my_block(8, 2)
    give_weights(answer, library)
    norm1, attention, norm2, mlp = library.norm1, library.attention, library.norm2, library.mlp
    out = answer(x)
    expect_shape(out, (2, 5, 8), "a block keeps the shape: (batch, tokens, dim)")
    middle = x + attention(norm1(x))
    _not(out, mlp(norm2(attention(norm1(x)))), "nothing is added to x: without the residual, x is replaced")
    _not(out, middle + mlp(norm2(x)), "the MLP reads what attention has added, not the block's input")
    after = norm1(x + attention(x))
    _not(out, norm2(after + mlp(after)), "this is post-norm: normalise what a branch reads, not the stream itself")
    first = x + mlp(norm2(x))
    _not(out, first + attention(norm1(first)), "attention comes first, then the MLP")
    normed = norm1(x)
    second = norm2(normed + attention(normed))
    _not(out, second + mlp(second), "each branch adds to x, not to the normalised x")
    _not(out, middle + mlp(norm1(middle)), "the second branch has a norm of its own, norm2")
    _not(out, x + attention(x) + mlp(x + attention(x)), "the norms are there, but not used")
    expect(getattr(answer.attention, "heads", 2) == 2, "give the number of heads to Attention")
    expect_close(out, library(x), "x = x + attention(norm1(x)), then x + mlp(norm2(x))")
    short = 1e-3 * x
    expect_close(answer(short), library(short), "the norms' eps is 1e-6; PyTorch's default is another")
    x = x.requires_grad_()
    expect_learns(answer(x), {"x": x} | dict(answer.named_parameters()))
    mine, right = (torch.autograd.grad(block(x).square().sum(), x)[0] for block in (answer, library))
    expect_close(mine, right, "the gradient of x is wrong: road and branches lead back to x, without detach()", 1e-4)


@exercise
def check_my_initialise(my_initialise) -> None:
    """A linear map, a convolution and a norm; many weights, so that a standard deviation is sharp."""
    change = getattr(my_initialise, "__wrapped__", my_initialise)  # it changes a module in place, and returns nothing
    torch.manual_seed(0)
    linear, convolution, norm = nn.Linear(300, 200), nn.Conv2d(3, 64, (4, 16)), nn.LayerNorm(64)
    bare, again = nn.Linear(8, 8, bias=False), nn.Linear(300, 200)
    for module in (linear, convolution, norm, bare, again):
        with torch.no_grad():
            for value in module.parameters():
                value.add_(0.3)
        change(module)
    expect(not torch.equal(linear.weight, again.weight), "two maps get the same numbers: draw anew, without a seed")
    _spread(linear.weight, 0.02, "the weight of a linear map")
    spread = (3 * 4 * 16) ** -0.5
    hint = "the fan-in of a convolution is channels · kernel height · kernel width"
    _spread(convolution.weight, spread, f"the weight of nn.Conv2d(3, 64, (4, 16)) ({hint})")
    for name, value in (("a linear map", linear.bias), ("a convolution", convolution.bias)):
        expect(bool((value == 0).all()), f"the bias of {name} starts at 0")
    kept = bool((norm.weight == 1.3).all() and (norm.bias == 0.3).all())
    expect(kept, "leave a norm as it is, whatever its scale and shift are")


@exercise
def check_my_vit(my_vit) -> None:
    """The library's weights in the reader's model, then what a fresh one holds."""
    library = ViT(ViTConfig(image_size=12, patch_size=4, dim=8, depth=3, heads=2, classes=5))
    torch.manual_seed(0)
    answer = my_vit(12, 4, 8, 3, 2, 5)
    give_weights(answer, library)
    learned = dict(answer.named_parameters())
    missing = [name for name, _ in library.named_parameters() if name not in learned]
    expect(not any("blocks" in name for name in missing), "all blocks share their weights: make a new Block for each")
    expect(not missing, f"{', '.join(missing)} cannot learn: wrap the tensor in nn.Parameter")
    images = _random(2, 3, 12, 12)
    first: list[torch.Tensor] = []
    hook = answer.blocks[0].register_forward_pre_hook(lambda _, inputs: first.append(inputs[0]))
    out = answer(images)
    hook.remove()
    expect_shape(out, (2, 5), "(batch, classes): the classifier reads one token")
    for wrong, hint in _wrong_models(library, images):
        _not(out, wrong, hint)
    expect_close(out, library(images), "patches + positions, the class token in front, blocks, norm, head", 1e-4)
    expect(bool(first), "block 0 is not called: x = block(x)")
    cls = answer.get_parameter("tokens.cls")[0]
    expect_close(first[0][:, 0], cls.expand(2, -1), "the class token stands first in the sequence, before the patches")
    expect(getattr(answer.norm, "eps", 1e-6) == 1e-6, "the last norm's eps is 1e-6, too; PyTorch's default is another")
    out.square().sum().backward()
    for name in ("tokens.cls", "positions"):
        grad = learned[name].grad
        expect(
            grad is not None and bool(grad.any()),
            f"no gradient reaches {name}, so it never learns: use the parameter itself, not a detached copy",
        )
    _fresh(my_vit(64, 8, 64, 2, 4, 40))


@exercise
def check_parameters(parameters) -> None:
    """ViT-Tiny, ViT-Base, and a small one whose every number differs."""
    tiny = parameters(192, 12, 16, 224, 1000)
    expect(tiny != 5_717_224 - 192, "nearly: the class token is a parameter too")
    expect(tiny != 5_717_224 + 192, "nearly: positions are of the patches alone, the class token has none")
    expect(tiny != 5_717_224 - 12 * 4 * 192, "nearly: each block has two norms, with a scale and a shift each")
    expect(tiny != 5_717_224 - 2 * 192, "nearly: there is one more norm after the last block")
    expect(tiny == 5_717_224, f"ViT-Tiny has 5,717,224 parameters; yours gives {tiny:,}")
    expect(parameters(768, 12, 16, 224, 1000) == 86_566_888, "right for ViT-Tiny, wrong for ViT-Base (86,566,888)")
    expect(parameters(8, 2, 4, 16, 5) == 2_333, "the grid comes from image_size and patch_size, the head from classes")


@exercise
def check_needed_queries(needed_queries) -> None:
    """Both kinds of head, and a model of one block."""
    cls = needed_queries(3, False)
    expect(isinstance(cls, list) and len(cls) == 3, "a list with one entry for each block")
    expect(cls[-1] == "cls", "the classifier reads the class token alone: in the last block it is enough")
    expect(
        cls[:-1] == ["all", "all"], "a block before the last makes the tokens whose keys and values the next one uses"
    )
    expect(needed_queries(3, True) == ["all"] * 3, "a head that reads the mean of the patches needs them all")
    expect(needed_queries(1, False) == ["cls"], "in a model of one block, that block is the last")
    expect(needed_queries(1, True) == ["all"], "a head that reads the mean of the patches needs them all")


@exercise
def check_written(written) -> None:
    """A model of three blocks with random weights, two images."""
    model = ViT(ViTConfig(image_size=12, patch_size=4, dim=8, depth=3, heads=2, classes=5))
    give_weights(model, model)
    images = _random(2, 3, 12, 12)
    with torch.no_grad():
        parts = written(model, images)
        expected, streams = _written(model, images)
    expect(isinstance(parts, list) and len(parts) == 7, "a list of 1 + 2 · depth parts: 7 for three blocks")
    for part in parts:
        expect_shape(part, (2, 8), "(batch, dim): what is added to the class token alone")
    _not(parts[2], streams[2], "this is the stream after each branch: return what the branch added to it")
    _not(
        parts[2], _mlp_before_attention(model, images), "an MLP reads the stream after its block's attention was added"
    )
    expect_close(parts[0], expected[0], "the first part is the class token as it enters block 0")
    for index, (part, right) in enumerate(zip(parts, expected)):
        where = f"{'MLP' if index % 2 == 0 else 'attention'} of block {(index - 1) // 2}"
        expect_close(part, right, f"part {index} is not what the {where} adds to the class token", 1e-4)


@exercise
def check_no_residual(no_residual) -> None:
    """Each block against its own parts, the initialisation, and that nothing else changed."""
    model = no_residual()
    expect(isinstance(model, nn.Module), f"return a model, not {type(model).__name__}")
    expect_fresh(no_residual)
    blocks = list(getattr(model, "blocks", []))
    expect(len(blocks) == 4, f"change the four blocks, and nothing else: model.blocks has {len(blocks)}")
    for block in blocks:
        spread = float(block.attention.qkv.weight.detach().std())
        hint = "initialise the new blocks as the others are: model.apply(initialise)"
        expect(abs(spread - 0.02) < 0.002, f"the weights' standard deviation is {spread:.3f}, not 0.02: {hint}")
    x = _random(2, 17, 64)
    for index, block in enumerate(blocks):
        with torch.no_grad():
            out, attended = block(x), block.attention(block.norm1(x))
            _not(out, x + attended + block.mlp(block.norm2(x + attended)), f"block {index} still adds to x")
            _not(
                out, attended + block.mlp(block.norm2(attended)), "the MLP's branch is still added: no residual at all"
            )
            first = x + attended
            _not(out, block.mlp(block.norm2(first)), "attention's branch is still added: no residual at all")
            expect_close(out, block.mlp(block.norm2(attended)), "mlp(norm2(attention(norm1(x)))), with nothing added")


def _not(out: torch.Tensor, wrong: torch.Tensor, hint: str) -> None:
    """Refuse the result of a known mistake."""
    expect(out.shape != wrong.shape or not torch.allclose(out, wrong, atol=1e-5, rtol=1e-4), hint)


def _spread(weight: torch.Tensor, std: float, what: str) -> None:
    """Refuse weights that are not normal around 0 with this standard deviation (truncated or not)."""
    weight = weight.detach()
    found, mean = float(weight.std()), float(weight.mean())
    expect(abs(found / std - 1) < 0.05, f"{what} has a standard deviation of {found:.4f}, and should have {std:.4f}")
    expect(abs(mean) < 0.1 * std, f"{what} has the mean {mean:.3f}, and should have 0")
    within = float((weight.abs() < std).float().mean())
    expect(within > 0.62, f"{what} is not normally distributed: is it uniform?")


def _fresh(model: nn.Module) -> None:
    """Refuse a new model that does not start from the small numbers that the text asks for."""
    values = {name: value.detach() for name, value in model.named_parameters()}
    for name, share in (("positions", 0.1), ("tokens.cls", 0.5)):
        found = float(values[name].std())
        expect(
            abs(found / 0.02 - 1) < share,
            f"{name} starts with a standard deviation of {found:.3f}, and should with about 0.02",
        )
    drawn = {"blocks.1.mlp.expand.weight": 0.02, "patch_embed.project.weight": (3 * 8 * 8) ** -0.5}
    for name, std in (drawn | {"classifiers.cls.weight": 0.02}).items():
        found = float(values[name].std())
        expect(
            abs(found / std - 1) < 0.1,
            f"{name} starts with a standard deviation of {found:.4f}, not {std:.4f}: call self.apply(initialise) last",
        )


def _wrong_models(model: ViT, images: torch.Tensor):
    """What a plain ViT gives with one mistake, and the hint."""
    patches = model.patch_embed(images)
    x, cls = (patches + model.positions).flatten(1, 2), model.tokens["cls"].expand(len(images), -1, -1)
    head, norm = model.classifiers["cls"], model.norm

    def through(x):
        for block in model.blocks:
            x = block(x)
        return x

    bare = patches.flatten(1, 2)
    swapped = (patches + model.positions.transpose(0, 1)).flatten(1, 2)
    end = through(torch.cat([cls, x], dim=1))
    yield head(norm(through(torch.cat([cls, bare], dim=1)))[:, 0]), "add the positions to the patches"
    yield (
        head(norm(through(torch.cat([cls, swapped], dim=1)))[:, 0]),
        "the positions are (rows, columns, dim), in this order",
    )
    yield head(norm(through(torch.cat([x, cls], dim=1)))[:, 0]), "the class token comes first, and token 0 is read"
    yield head(end[:, 0]), "one more norm stands after the last block"
    yield head(norm(end).mean(dim=1)), "the classifier reads the class token alone, not the mean of all tokens"
    yield head(norm(end)[:, -1]), "the classifier reads the class token, which is first"
    yield head(norm(torch.cat([cls, x], dim=1))[:, 0]), "the blocks are there, but x does not go through them"


def _written(model: ViT, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    x, _ = model.embed(images)
    x = torch.cat([model.tokens["cls"].expand(len(x), -1, -1), x], dim=1)
    parts, streams = [x[:, 0]], [x[:, 0]]
    for block in model.blocks:
        attended = block.attention(block.norm1(x))
        computed = block.mlp(block.norm2(x + attended))
        for added in (attended, computed):
            x = x + added
            parts.append(added[:, 0])
            streams.append(x[:, 0])
    return parts, streams


def _mlp_before_attention(model: ViT, images: torch.Tensor) -> torch.Tensor:
    x, _ = model.embed(images)
    x = torch.cat([model.tokens["cls"].expand(len(x), -1, -1), x], dim=1)
    block = model.blocks[0]
    return block.mlp(block.norm2(x))[:, 0].detach()
