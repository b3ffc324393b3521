"""Wrong answers that the checkers of chapter 03 have to refuse."""

import torch
import torch.nn.functional as F
from torch import nn

from dtl_lib import ViT
from dtl_lib.layers import ALL, Attention, Block, Mlp, PatchEmbed, initialise


class NoGelu(Mlp):
    def forward(self, x):
        return self.contract(self.expand(x))


class Relu(Mlp):
    def forward(self, x):
        return self.contract(self.expand(x).relu())


class TanhGelu(Mlp):
    def forward(self, x):
        return self.contract(F.gelu(self.expand(x), approximate="tanh"))


class DetachedMlp(Mlp):
    def forward(self, x):
        return super().forward(x).detach()


class GeluLast(Mlp):
    def forward(self, x):
        return F.gelu(self.contract(self.expand(x)))


class OtherNames(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.first, self.second = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.second(F.gelu(self.first(x)))


class NoBias(Mlp):
    def __init__(self, dim, hidden):
        super().__init__(dim, hidden)
        self.expand = nn.Linear(dim, hidden, bias=False)


class PostNorm(Block):
    def forward(self, x, queries=ALL):
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class DetachedRoad(Block):
    def forward(self, x, queries=ALL):
        x = x.detach() + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DetachedBranch(Block):
    def forward(self, x, queries=ALL):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x.detach()))


class SideBySide(Block):
    def forward(self, x, queries=ALL):
        return x + self.attention(self.norm1(x)) + self.mlp(self.norm2(x))


class NoResidual(Block):
    def forward(self, x, queries=ALL):
        return self.mlp(self.norm2(self.attention(self.norm1(x))))


class MlpFirst(Block):
    def forward(self, x, queries=ALL):
        x = x + self.mlp(self.norm2(x))
        return x + self.attention(self.norm1(x))


class NormedResidual(Block):
    def forward(self, x, queries=ALL):
        x = self.norm1(x)
        x = self.norm2(x + self.attention(x))
        return x + self.mlp(x)


class OneNorm(Block):
    def forward(self, x, queries=ALL):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm1(x))


class NoNorm(Block):
    def forward(self, x, queries=ALL):
        x = x + self.attention(x)
        return x + self.mlp(x)


class OneHead(Block):
    def __init__(self, dim, heads):
        super().__init__(dim, heads)
        self.attention = Attention(dim, 1)


class DefaultEpsilon(Block):
    def __init__(self, dim, heads):
        super().__init__(dim, heads, norm_eps=1e-5)


class ThinMlp(Block):
    def __init__(self, dim, heads):
        super().__init__(dim, heads, mlp_ratio=2)


def pytorchs_default(module):
    module.train()


def matrices_of_one(module):
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def convolution_like_linear(module):
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def channels_alone(module):
    initialise(module)
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)


def biases_left(module):
    if getattr(module, "bias", None) is None or isinstance(module, nn.LayerNorm):
        return initialise(module)
    bias = module.bias.detach().clone()
    initialise(module)
    with torch.no_grad():
        module.bias.copy_(bias)


def uniform(module):
    initialise(module)
    if isinstance(module, nn.Linear):
        nn.init.uniform_(module.weight, -0.02 * 3**0.5, 0.02 * 3**0.5)


def square_kernel(module):
    initialise(module)
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=(module.in_channels * module.kernel_size[0] ** 2) ** -0.5)


def seeded(module):
    torch.manual_seed(0)
    initialise(module)


def norms_reset(module):
    initialise(module)
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()


def norms_too(module):
    initialise(module)
    if isinstance(module, nn.LayerNorm):
        nn.init.trunc_normal_(module.weight, std=0.02)


class Plain(nn.Module):
    """A right answer, which the wrong ones change."""

    def __init__(self, image_size, patch_size, dim, depth, heads, classes):
        super().__init__()
        side = image_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(side, side, dim))
        self.tokens = nn.ParameterDict({"cls": nn.Parameter(0.02 * torch.randn(1, dim))})
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.classifiers = nn.ModuleDict({"cls": nn.Linear(dim, classes)})
        self.apply(initialise)

    def patches(self, images):
        return (self.patch_embed(images) + self.positions).flatten(1, 2)

    def cls(self, x):
        return self.tokens["cls"].expand(len(x), -1, -1)

    def sequence(self, images):
        x = self.patches(images)
        return torch.cat([self.cls(x), x], dim=1)

    def through(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def head(self, x):
        return self.classifiers["cls"](self.norm(x)[:, 0])

    def forward(self, images):
        return self.head(self.through(self.sequence(images)))


class NoPositions(Plain):
    def patches(self, images):
        return self.patch_embed(images).flatten(1, 2)


class SwappedPositions(Plain):
    def patches(self, images):
        return (self.patch_embed(images) + self.positions.transpose(0, 1)).flatten(1, 2)


class ClassTokenLast(Plain):
    def sequence(self, images):
        x = self.patches(images)
        return torch.cat([x, self.cls(x)], dim=1)


class ClassTokenLastAndRead(ClassTokenLast):
    def head(self, x):
        return self.classifiers["cls"](self.norm(x)[:, -1])


class InitialisedEarly(Plain):
    def __init__(self, image_size, patch_size, dim, depth, heads, classes):
        super().__init__(image_size, patch_size, dim, depth, heads, classes)
        self.classifiers = nn.ModuleDict({"cls": nn.Linear(dim, classes)})


class DefaultLastEpsilon(Plain):
    def __init__(self, image_size, patch_size, dim, depth, heads, classes):
        super().__init__(image_size, patch_size, dim, depth, heads, classes)
        self.norm = nn.LayerNorm(dim)


class NoLastNorm(Plain):
    def head(self, x):
        return self.classifiers["cls"](x[:, 0])


class MeanOfAll(Plain):
    def head(self, x):
        return self.classifiers["cls"](self.norm(x).mean(dim=1))


class LastToken(Plain):
    def head(self, x):
        return self.classifiers["cls"](self.norm(x)[:, -1])


class NoBlocks(Plain):
    def through(self, x):
        for block in self.blocks:
            block(x)
        return x


class DetachedClassToken(Plain):
    def cls(self, x):
        return super().cls(x).detach()


class ClassTokenFromData(Plain):
    def cls(self, x):
        return torch.tensor(self.tokens["cls"].tolist()).expand(len(x), -1, -1)


class BufferForPositions(Plain):
    def __init__(self, *args):
        super().__init__(*args)
        positions = self.positions.detach()
        del self.positions
        self.register_buffer("positions", positions)


class SharedBlocks(Plain):
    def __init__(self, image_size, patch_size, dim, depth, heads, classes):
        super().__init__(image_size, patch_size, dim, depth, heads, classes)
        self.blocks = nn.ModuleList([Block(dim, heads)] * depth)


class LargePositions(Plain):
    def __init__(self, image_size, patch_size, dim, depth, heads, classes):
        super().__init__(image_size, patch_size, dim, depth, heads, classes)
        self.positions = nn.Parameter(torch.randn_like(self.positions))


class ZeroClassToken(Plain):
    def __init__(self, *args):
        super().__init__(*args)
        nn.init.zeros_(self.tokens["cls"])


class NotInitialised(Plain):
    def __init__(self, image_size, patch_size, dim, depth, heads, classes):
        super().__init__(image_size, patch_size, dim, depth, heads, classes)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))


def _count(dim, depth, patch_size, image_size, classes, cls=1, norms=4, last=2):
    places = (image_size // patch_size) ** 2 + cls
    patches = 3 * patch_size**2 * dim + dim
    block = 12 * dim**2 + (9 + norms) * dim
    return patches + places * dim + depth * block + last * dim + (dim + 1) * classes


def no_class_token(dim, depth, patch_size, image_size, classes):
    return _count(dim, depth, patch_size, image_size, classes, cls=0)


def a_position_for_the_class_token(dim, depth, patch_size, image_size, classes):
    return _count(dim, depth, patch_size, image_size, classes, cls=2)


def no_norms(dim, depth, patch_size, image_size, classes):
    return _count(dim, depth, patch_size, image_size, classes, norms=0)


def no_last_norm(dim, depth, patch_size, image_size, classes):
    return _count(dim, depth, patch_size, image_size, classes, last=0)


def tiny_alone(dim, depth, patch_size, image_size, classes):
    return 5_717_224


def always_196_places(dim, depth, patch_size, image_size, classes):
    return _count(dim, depth, patch_size, 14 * patch_size, classes)


def every_block_idle(depth, reads_patches):
    return ["all" if reads_patches else "cls"] * depth


def never_idle(depth, reads_patches):
    return ["all"] * depth


def idle_for_patches_too(depth, reads_patches):
    return ["all"] * (depth - 1) + ["cls"]


def first_instead(depth, reads_patches):
    return ["all" if reads_patches else "cls"] + ["all"] * (depth - 1)


def _sequence(model, images):
    x, _ = model.embed(images)
    return torch.cat([model.tokens["cls"].expand(len(x), -1, -1), x], dim=1)


def the_stream_itself(model, images):
    x = _sequence(model, images)
    parts = [x[:, 0]]
    for block in model.blocks:
        x = x + block.attention(block.norm1(x))
        parts.append(x[:, 0])
        x = x + block.mlp(block.norm2(x))
        parts.append(x[:, 0])
    return parts


def mlp_of_the_blocks_input(model, images):
    x = _sequence(model, images)
    parts = [x[:, 0]]
    for block in model.blocks:
        parts += [block.attention(block.norm1(x))[:, 0], block.mlp(block.norm2(x))[:, 0]]
        x = block(x)
    return parts


def one_part_a_block(model, images):
    x = _sequence(model, images)
    parts = [x[:, 0]]
    for block in model.blocks:
        parts.append((block(x) - x)[:, 0])
        x = block(x)
    return parts


def of_all_tokens(model, images):
    x = _sequence(model, images)
    parts = [x]
    for block in model.blocks:
        after = x + block.attention(block.norm1(x))
        parts += [after - x, block.mlp(block.norm2(after))]
        x = block(x)
    return parts


def of_the_last_token(model, images):
    return [part[:, -1] for part in of_all_tokens(model, images)]


def the_first_block_again(model, images):
    parts = [part[:, 0] for part in of_all_tokens(model, images)]
    return parts[:3] + parts[1:3] + parts[1:3]


def _model(kind, fresh=True, depth=4):
    model = ViT.build("vit_shapes_patch8_32")
    model.blocks = nn.ModuleList(kind(64, 4) for _ in range(depth))
    return model.apply(initialise) if fresh else model


class NoFirstResidual(Block):
    def forward(self, x, queries=ALL):
        x = self.attention(self.norm1(x), queries)
        return x + self.mlp(self.norm2(x))


class NoSecondResidual(Block):
    def forward(self, x, queries=ALL):
        x = x[:, queries] + self.attention(self.norm1(x), queries)
        return self.mlp(self.norm2(x))


class NoResidualNoNorm(Block):
    def forward(self, x, queries=ALL):
        return self.mlp(self.attention(x, queries))


class WithoutResidual(Block):
    def forward(self, x, queries=ALL):
        return self.mlp(self.norm2(self.attention(self.norm1(x), queries)))


def nothing_changed():
    return ViT.build("vit_shapes_patch8_32")


def attention_still_added():
    return _model(NoSecondResidual)


def mlp_still_added():
    return _model(NoFirstResidual)


def norms_gone_too():
    return _model(NoResidualNoNorm)


def not_initialised():
    return _model(WithoutResidual, fresh=False)


def fewer_blocks():
    return _model(WithoutResidual, depth=2)


_once = _model(WithoutResidual)


def the_same_twice():
    return _once


def a_block_instead():
    return WithoutResidual


WRONG = {
    "check_my_mlp": [NoGelu, Relu, TanhGelu, GeluLast, OtherNames, NoBias, DetachedMlp],
    "check_my_block": [
        PostNorm, SideBySide, NoResidual, MlpFirst, NormedResidual, OneNorm, NoNorm, OneHead, DefaultEpsilon, ThinMlp,
        DetachedRoad, DetachedBranch,
    ],
    "check_my_initialise": [
        pytorchs_default, matrices_of_one, convolution_like_linear, channels_alone, biases_left, uniform, norms_too,
        square_kernel, seeded, norms_reset,
    ],
    "check_my_vit": [
        NoPositions, SwappedPositions, ClassTokenLast, NoLastNorm, MeanOfAll, LastToken, NoBlocks, DetachedClassToken,
        ClassTokenFromData, BufferForPositions, SharedBlocks, LargePositions, ZeroClassToken, NotInitialised,
        ClassTokenLastAndRead, InitialisedEarly, DefaultLastEpsilon,
    ],
    "check_parameters": [
        no_class_token, a_position_for_the_class_token, no_norms, no_last_norm, tiny_alone, always_196_places,
    ],
    "check_needed_queries": [every_block_idle, never_idle, idle_for_patches_too, first_instead],
    "check_written": [
        the_stream_itself, mlp_of_the_blocks_input, one_part_a_block, of_all_tokens, of_the_last_token,
        the_first_block_again,
    ],
    "check_no_residual": [
        nothing_changed, attention_still_added, mlp_still_added, norms_gone_too, not_initialised, fewer_blocks,
        a_block_instead, the_same_twice,
    ],
}  # fmt: skip
