"""Files of weights as they are found, timm's, DINO's, DeiT's, DINOv2's, as a live timm model. Nothing is ever run.

What is in a file and not in the model is listed; what the model needs and the file lacks is an error.
"""

import argparse
import contextlib
import io
import pickle
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .checkpoint import CheckpointError, read_card
from .checks import first_line
from .models import ViT
from .paths import require, user_path

# where training programs keep a model's state dictionary, the better weights first
NESTS = ("model_ema", "state_dict_ema", "teacher", "ema", "state_dict", "model", "module", "student", "target_encoder")
NESTS += ("encoder",)
SHOWN = 6  # names in a message


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    Attributes:
        tensors: by the file's names.
        about: what a safetensors file says of itself.
        left: what else is in it.
    """

    tensors: dict[str, Tensor]
    about: dict[str, str]
    left: tuple[str, ...]


def read_weights(path: str | Path) -> Weights:
    """The tensors in a `.safetensors` file or one of `torch.save`, of which nothing but tensors is unpickled.

    Raises:
        ValueError: where there is no such file, it is damaged, or holds something that would have to be run.
    """
    path = user_path(path)
    require(path, "a file", "give a file of weights, .safetensors or .pth")
    if is_safetensors(path):
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                about = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is cut short or damaged ({first_line(error)}): fetch it again") from None
        return Weights(tensors, about, ())
    tensors, left = _state_in(_load(path), path)
    return Weights(tensors, {}, left)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: eight bytes say how long a header of JSON is."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _load(path: Path) -> Any:
    try:  # a Namespace of arguments, as DINO and DeiT keep one beside the weights, holds values and runs nothing
        with torch.serialization.safe_globals([argparse.Namespace]), open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise ValueError(
            f"{path} holds more than tensors{what}, or is damaged; nothing in it is run: save its state dictionary "
            "alone, torch.save(model.state_dict(), …)"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = "" if isinstance(error, KeyError) else f" ({first_line(error)})"  # a number, of a byte that pickle lacks
        raise ValueError(
            f"{path} is neither safetensors nor a whole file of torch.save{what}: fetch it again"
        ) from None


def _state_in(loaded: Any, path: Path, inside: str = "") -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors by name in what a program has saved, wherever it keeps them, and the names of the rest."""
    if isinstance(loaded, Mapping):
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors, tuple(f"{inside}{name}" for name in loaded if str(name) not in tensors)
        if nest := next((name for name in NESTS if isinstance(loaded.get(name), Mapping)), None):
            tensors, left = _state_in(loaded[nest], path, f"{inside}{nest}.")
            return tensors, tuple(f"{inside}{name}" for name in loaded if name != nest) + left
    raise ValueError(f"{path} holds no tensors by name, nor under any of {', '.join(NESTS)}")


def model_from(weights: Weights, name: str, path: str | Path) -> tuple[nn.Module, tuple[str, ...], tuple[str, ...]]:
    """A live timm model with the weights of a file, float32.

    Args:
        weights: of the file.
        name: timm's, of the architecture.
        path: for messages.

    Returns:
        The model, what in the file it does not have, by the file's names, and sentences about what was done.

    Raises:
        ValueError: where the model needs what the file lacks, or of another shape, with the names.
    """
    import timm

    given: Any = timm.get_pretrained_cfg(name)
    heads = given.classifier if isinstance(given.classifier, tuple | list) else (given.classifier or "head",)
    named, left = _without_prefix(weights.tensors, f"{given.first_conv}.weight", heads)
    head = named.get(f"{heads[0]}.weight")
    classes = len(head) if head is not None and head.ndim == 2 else 0
    model = timm.create_model(name, pretrained=False, num_classes=classes)
    state = _as_timm_calls_them(model, named)
    expected = model.state_dict()
    taken = {key: value for key, value in state.items() if key in expected}
    wrong = [
        f"{key} {tuple(value.shape)}, not {tuple(expected[key].shape)}"
        for key, value in taken.items()
        if value.shape != expected[key].shape
    ]
    missing = [key for key in expected if key not in taken]
    problems = [f"lacks {_listed(missing)}"] if missing else []
    problems += [f"has {_listed(wrong)}"] if wrong else []
    left += tuple(key for key in named if not _is_used(key, named[key], taken))
    if problems:
        more = f"; in it and not in the model: {_listed(left)}" if left else ""
        raise ValueError(f"{path} does not hold the weights of {name}: it {' and '.join(problems)}{more}")
    model.load_state_dict({key: value.float() for key, value in taken.items()})
    return model, (*left, *weights.left), tuple(_said(weights, given, classes, named, expected))


def _said(weights: Weights, given: Any, classes: int, named: Mapping[str, Tensor], expected: Mapping[str, Tensor]):
    if about := weights.about.get("about") or weights.about.get("description"):
        yield f"it says of itself: {about}"
    if kinds := {str(v.dtype).removeprefix("torch.") for v in named.values() if v.is_floating_point()} - {"float32"}:
        yield f"{' and '.join(sorted(kinds))} becomes float32"
    if classes != given.num_classes:
        yield f"it has a head of its own, for {classes} classes" if classes else "it has no head: classes=0"
    for key in ("pos_embed", "patch_embed.proj.weight"):
        if key in named and key in expected and named[key].shape[1:3] != expected[key].shape[1:3]:
            yield f"{key} is interpolated from {tuple(named[key].shape)} to {tuple(expected[key].shape)}"


def _without_prefix(tensors: dict[str, Tensor], first: str, heads) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors without what programs put before their names, `module.backbone.`; and the names of other parts'."""
    prefixes = [name.removesuffix(first) for name in tensors if name.endswith(first)]
    if not prefixes:  # another naming, which timm's own conversion may know
        return dict(tensors), ()
    prefix = min(
        prefixes, key=lambda prefix: ("teacher" not in prefix and any("teacher" in p for p in prefixes), len(prefix))
    )
    own = {f"{head}.{part}" for head in heads for part in ("weight", "bias")}
    kept = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    kept |= {name: value for name, value in tensors.items() if name in own and name not in kept}
    return kept, tuple(name for name in tensors if not name.startswith(prefix) and name not in own)


def _as_timm_calls_them(model: nn.Module, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes of other programs' files as timm's conversion for this family of models makes them."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return named
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        state = convert(dict(named), model)
    if any(hasattr(block, "ls1") for block in model.blocks):  # DeiT-III's own names
        state = {re.sub(r"\.gamma_(\d)$", r".ls\1.gamma", key): value for key, value in state.items()}
    return state


def _is_used(name: str, tensor: Tensor, taken: Mapping[str, Tensor]) -> bool:
    """Whether a tensor of the file is in the model, under its own name, or as a whole or a part under another."""
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    return name in taken or any(start <= value.data_ptr() < end for value in taken.values())


def _listed(names) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def has_card(path: Path) -> bool:
    """Whether a file is a checkpoint of ours."""
    try:
        return is_safetensors(path) and bool(read_card(path))
    except CheckpointError:
        return False


def check_same_architecture(model: ViT, name: str, path: Path) -> None:
    """A ValueError where a checkpoint of ours is no model of timm's architecture `name`."""
    import timm

    with torch.device("meta"):
        theirs: Any = timm.create_model(name, pretrained=False)
    wanted = {
        "dim": theirs.embed_dim, "depth": len(theirs.blocks), "heads": theirs.blocks[0].attn.num_heads,
        "patch_size": theirs.patch_embed.patch_size[0],
    }  # fmt: skip
    have = {field: getattr(model.config, field) for field in wanted}
    if wrong := [f"{field} {have[field]}, not {number}" for field, number in wanted.items() if have[field] != number]:
        raise ValueError(f"{path} is a checkpoint of ours, and no {name}: it has {', '.join(wrong)}")
