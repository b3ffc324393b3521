"""The flags that several commands share: which ViT, which images, on what machine, in how many processes."""

from argparse import ArgumentTypeError, Namespace
from dataclasses import fields, replace

from ..config import ViTConfig, configurations
from ..data.sources import SOURCES
from ..host import check_memory
from ..tokens import TokenPlan
from .parser import Parser, add_field, fraction, given, identifier, positive, whole

DATA = ", ".join(SOURCES)
LONGEST_TIMEOUT = 10**6  # seconds, eleven days; torch's clocks overflow on what is much longer
PLAN = {
    "cls_pos": (int | None, "the class token enters before this block; none: no class token"),
    "reg_pos": (int | None, "the registers enter before this block"),
    "num_reg": (int, "number of registers"),
    "dist": (bool, "add a distillation token, which enters with the class token"),
    "class_blocks": (int, "number of class-attention blocks after the trunk"),
}
CONFIG = {
    "depth": "number of blocks in the trunk",
    "dim": "width of a token",
    "heads": "number of attention heads; dim has to be divisible by it",
    "mlp_ratio": "hidden width of the MLP, as a multiple of dim",
    "image_size": "image height and width in pixels; one number for a square",
    "patch_size": "side of a patch in pixels",
    "channels": "channels of an image: 3, or 1 for grey",
    "layer_scale": "initial value of LayerScale; none: no LayerScale",
    "drop_path": "probability of dropping a residual branch (stochastic depth)",
    "drop_path_schedule": "linear: it rises to --drop-path over the blocks; uniform: it is the same in all",
    "talking_heads": "mix the heads before and after the softmax",
    "pool": "what the classifier reads: cls, patches for their mean, or attention",
    "norm_after_pool": "normalise after pooling instead of before",
    "positions": "position embedding: learned, sincos or none",
}
PLAIN_POOL = {
    "pool": "cls",
    "norm_after_pool": False,
    "pool_prefix": False,
    "pool_heads": None,
    "pool_mlp_ratio": None,
}  # of a model that reads its class token


def add_model(parser: Parser, default: str) -> None:
    """`--model`, and a flag for each number of the plan and field of the configuration."""
    text = f"a named configuration (default: {default}): {', '.join(sorted(configurations()))}"
    parser.add_argument("--model", metavar="NAME", help=text)
    decides = (
        "Without these flags, tokens are those of the configuration. For a group that leaves, build the plan in Python."
    )
    tokens = parser.add_argument_group("tokens", decides)
    for name, (kind, text) in PLAN.items():
        add_field(tokens, name, kind, text)
    configuration = parser.add_argument_group("configuration")
    kinds = {field.name: field.type for field in fields(ViTConfig)}
    for name, text in CONFIG.items():
        add_field(configuration, name, kinds[name], text, "--input-size" if name == "image_size" else None)


def configured(base: ViTConfig, args: Namespace) -> ViTConfig:
    """`base` with the tokens and fields that were given as flags."""
    changed = given(args, CONFIG)
    if (changed.get("layer_scale") or 0) < 0:  # a trained one may be negative, and is kept as the model's
        raise ValueError(f"layer_scale is 0 or more, or none, not {changed['layer_scale']}")
    depth = changed.get("depth", base.depth)
    tokens = given(args, PLAN)
    if tokens or depth != base.depth:
        if base.plan != TokenPlan.of(base.depth, **_numbers(base.plan, base.depth)):
            names = dict.fromkeys([*tokens, *given(args, ["depth"])])
            raise ValueError(
                "the plan of these weights has groups that flags cannot express: leave out "
                f"{', '.join('--' + name.replace('_', '-') for name in names)}, or build the model in Python"
            )
        plan = TokenPlan.of(depth, **{**_numbers(base.plan, depth), **tokens})
        changed |= {"plan": plan, "depth": depth}
        if plan.group("cls") is None and base.pool != "attention":
            changed.setdefault("pool", "patches")
        elif base.plan.group("cls") is None and base.pool != "attention":
            changed = {**PLAIN_POOL, **changed}
    return replace(base, **changed)


def check_trainable(config: ViTConfig) -> None:
    """A ValueError where this machine cannot hold a model with its gradients and their two averages, in float32."""
    parameters = config.cost().parameters
    check_memory(parameters * 16, f"training a model of {parameters / 1e9:,.1f} G parameters")


def _numbers(plan: TokenPlan, depth: int) -> dict:
    """The five numbers of a plan that `TokenPlan.of` makes; what enters after the trunk still does."""
    cls, reg = plan.group("cls"), plan.group("reg")

    def enter(group):
        return group and (depth if group.enter == plan.depth else group.enter)

    return {
        "cls_pos": enter(cls), "reg_pos": enter(reg), "num_reg": reg.tokens if reg else 0,
        "dist": plan.group("dist") is not None, "class_blocks": plan.class_blocks,
    }  # fmt: skip


def add_weights(parser: Parser, of: str = "--model") -> None:
    """The file that a model of timm's has its weights from."""
    text = f"a file with the weights of {of}, a name of timm's: .safetensors or .pth, timm's, DINO's, DeiT's or ours"
    parser.add_argument("--weights", metavar="FILE", help=text)


def add_data(parser: Parser, purpose: str) -> None:
    """Which images."""
    names = f"{DATA}, or a data set that one of timm's readers finds, such as hfds/NAME"
    parser.add_argument("--data", metavar="NAME", help=f"{purpose}: {names}")
    parser.add_argument("--data-path", metavar="DIR", help="folder that holds the data (default: under DTL_DATA)")
    parser.add_argument("--level", type=positive, metavar="N", help="difficulty of shapes, 1 to 3 (default: 1)")


def check_level(args: Namespace, data: str) -> None:
    """A ValueError where `--level` is given for images that have none."""
    if args.level is not None and data != "shapes":
        raise ValueError(f"--level is how difficult shapes are, and the images are {data}: leave it out")


def add_device(group) -> None:
    """Where to compute."""
    group.add_argument("--device", metavar="NAME", help="cuda, cpu, … (default: the GPU if there is one)")


def query(text: str):
    """A token that attends."""
    from ..outputs import parse_query

    try:
        return parse_query(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def add_machine(group, max_corrupt: float | None = 0.001, said: str = "0.001") -> None:
    """Where to compute, and how images are read; the default of `--max-corrupt`, and what the help says of it."""
    add_device(group)
    workers = "worker processes that read images from files (default: one for each core of the process, at most 16)"
    group.add_argument("--workers", type=whole, metavar="N", help=workers)
    add_max_corrupt(group, max_corrupt, said)
    group.add_argument("--quiet", action="store_true", help="show no progress bar")


def add_max_corrupt(group, default: float | None = 0.001, said: str = "0.001") -> None:
    """How many images may be unreadable; the default, and what the help says of it."""
    text = f"fraction of the images that may be unreadable before the command stops (default: {said})"
    group.add_argument("--max-corrupt", "--broken", type=fraction, default=default, metavar="X", help=text)


def add_record(group) -> None:
    """Whether a record is kept."""
    group.add_argument(
        "--record", type=identifier, metavar="EXPERIMENT", help="add the results to the ledger, under this name"
    )


def add_processes(parser: Parser):
    """How several processes work together; the group, for more flags."""
    text = "The processes find each other under torchrun and Slurm's srun; no flag is needed."
    group = parser.add_argument_group("several processes", text)
    for ignored in ("--distributed", "--dist-eval"):
        group.add_argument(ignored, action="store_true", help="accepted for compatibility; ignored")
    group.add_argument(
        "--timeout", type=lambda text: min(positive(text), LONGEST_TIMEOUT), default=600, metavar="SECONDS",
        help="how long to wait for another process (default: 600)",
    )  # fmt: skip
    return group
