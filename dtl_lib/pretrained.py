"""Weights in: from a live timm model, from DTL_DATA, from the hub, from a checkpoint of ours, from the zoo."""

import contextlib
import logging
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from . import zoo
from .checkpoint import load_model
from .checks import first_line
from .host import data_folder
from .models import ViT
from .paths import require, user_path
from .timm_models import from_timm
from .timm_parts import is_cait, refuse_unknown
from .tokens import TokenPlan
from .weights import check_same_architecture, has_card, model_from, read_weights

__all__ = ["LoadReport", "from_timm", "is_ours", "load_pretrained", "load_shared", "timm_model"]
log = logging.getLogger("dtl_lib")


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor when weights met a model.

    Attributes:
        shared: loaded.
        initialised: in the model and not in the weights; fresh.
        left: in the weights and not in the model.
        said: what else there is to know about them, in sentences, such as what the file says of itself.
    """

    shared: tuple[str, ...]
    initialised: tuple[str, ...]
    left: tuple[str, ...]
    said: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{len(self.shared)} tensors loaded"]
        lines += [f"initialised: {', '.join(self.initialised)}"] if self.initialised else []
        lines += [f"left out: {', '.join(self.left)}"] if self.left else []
        lines += self.said
        return "; ".join(lines)


def load_pretrained(
    name: str, plan: TokenPlan | None = None, classes: int | None = None, weights: str | Path | None = None
) -> ViT:
    """A model with trained weights.

    Args:
        name: a timm name (`vit_tiny_patch16_224.augreg_in21k_ft_in1k`, also as the hub writes it, `timm/…`), read from
            `DTL_DATA/weights/<name>.safetensors`, otherwise from the hub; or the path of a checkpoint of ours;
            or `zoo/…`, as `dtl zoo` lists them; then `model.card` says what it was trained on and what it attains.
        plan: another plan than the weights were trained with. Shared tensors load, new groups are initialised;
            `model.loaded`, a `LoadReport`, lists both.
        classes: another number of classes: the head is then fresh.
        weights: a file to read instead, `.safetensors` or `.pth`, of timm's, DINO's (the teacher), DeiT's, DINOv2's
            or ours; `name` is then the architecture's. Half precision becomes float32, prefixes such as `module.` and
            `backbone.` are left out; what is in the file and not in the model is in `model.loaded.left`.

    Raises:
        ValueError: where there are no such weights, with what to do; where a file lacks what the model needs.
    """
    name = str(name)
    report = None
    if weights is not None:
        model, report = _from_weights(name, weights)
    elif is_ours(name):
        model = _checkpoint(name)
    else:
        _refuse_architecture(name)
        model = from_timm(timm_model(name)).eval()
    config = model.config if plan is None else model.config.with_plan(plan)
    if classes is not None:
        config = replace(config, classes=classes)
    if config == model.config:
        model.loaded = report or LoadReport(tuple(model.state_dict()), (), ())
        return model
    fresh = ViT(config)
    fresh.loaded = load_shared(fresh, model.state_dict(), model.plan.depth)
    if report:
        fresh.loaded = replace(fresh.loaded, left=fresh.loaded.left + report.left, said=report.said)
    log.warning("%s: %s", name, fresh.loaded)
    return fresh.eval()


def _from_weights(name: str, path: str | Path) -> tuple[ViT, LoadReport]:
    """A model of timm's architecture `name` with the weights of a file."""
    if is_ours(name):
        raise ValueError(f"weights go with a name of timm's, and {name} is a model with its own: leave one of them out")
    _refuse_architecture(name)
    file = user_path(path)
    require(file, "a file", "give a file of weights, .safetensors or .pth")
    if has_card(file):
        model = load_model(file)
        check_same_architecture(model, _timm_name(name), file)
        return model, LoadReport(tuple(model.state_dict()), (), ())
    theirs, left, said = model_from(read_weights(file), _timm_name(name), file)
    model = from_timm(theirs).eval()
    report = LoadReport(tuple(model.state_dict()), (), left, said)
    if left or said:
        log.warning("%s: %s", file.name, report)
    return model, report


def is_ours(name: str) -> bool:
    """Whether a name means a checkpoint of ours, in the zoo or in a file, and not a timm model."""
    return name.startswith(zoo.PREFIX) or name.endswith(".safetensors")


def load_shared(model: ViT, weights: dict[str, Tensor], depth: int) -> LoadReport:
    """Load the tensors that have the same name and shape, and say what became of all of them.

    Args:
        model: what to load into.
        weights: a `ViT`'s, by name.
        depth: blocks in the trunk of the model they are from: class attention goes to class attention alone.
    """
    own, by_place = model.state_dict(), {_place(name, depth): name for name in weights}
    theirs = {name: by_place.get(_place(name, model.plan.depth)) for name in own}
    shared = {name: weights[t] for name, t in theirs.items() if t and weights[t].shape == own[name].shape}
    model.load_state_dict(shared, strict=False)
    model.trained = bool(shared)
    used = {theirs[name] for name in shared}
    return LoadReport(tuple(shared), tuple(sorted(set(own) - set(shared))), tuple(sorted(set(weights) - used)))


def _place(name: str, depth: int) -> str:
    """A tensor's name that says whether its block is of the trunk or of class attention, and which of them."""
    if not name.startswith("blocks."):
        return name
    _, block, rest = name.split(".", 2)
    return f"trunk {block} {rest}" if int(block) < depth else f"class {int(block) - depth} {rest}"


def _checkpoint(name: str) -> ViT:
    if not name.startswith(zoo.PREFIX):
        return load_model(name)
    card, model = zoo.read_card(name), load_model(zoo.path(name))
    if model.card != card:
        raise ValueError(f"{zoo.path(name)} and the card beside it do not belong together: {zoo.REMEDY}")
    return model


def timm_model(name: str) -> nn.Module:
    """A live timm model of any kind with its published weights, ready to evaluate.

    Args:
        name: read from `DTL_DATA/weights/<name>.safetensors`, otherwise from the hub.

    Raises:
        ValueError: where there are no such weights, with what to do.
    """
    name = _timm_name(name)
    given, tagged, files = _places(name)
    file = next((file for file in files if file.is_file()), None) or _cached(tagged)
    if file is None:
        return _download(name, files[-1]).eval()
    return _from_file(tagged, file, given).eval()


def is_here(name: str) -> bool:
    """Whether a model's weights are on this machine, so that loading them asks no network."""
    if is_ours(name):
        return True
    _, tagged, files = _places(_timm_name(name))
    return any(file.is_file() for file in files) or _cached(tagged) is not None


def _places(name: str) -> tuple:
    """timm's configuration of weights, their name with its tag, and the files they may lie in."""
    import timm

    if name != (base := name.split(".")[0]) and name not in timm.list_pretrained(f"{base}.*"):
        raise ValueError(
            f"timm has no weights {name!r}; it has {', '.join(timm.list_pretrained(f'{base}.*')) or 'none'}"
        )
    given = timm.get_pretrained_cfg(name)
    tagged = f"{given.architecture}.{given.tag}" if given is not None and given.tag else name
    names = dict.fromkeys((name, tagged))
    return given, tagged, [data_folder() / "weights" / f"{known}.safetensors" for known in names]


def _timm_name(name: str) -> str:
    """A timm model's name, without the hub's prefixes; a ValueError where there is no such model."""
    import timm

    bare = re.sub("^(hf[-_]hub:)?(timm/)?", "", name)
    if not timm.is_model(bare.split(".")[0]):
        raise ValueError(f"{name!r} is no timm model, no zoo/… and no path to a .safetensors file")
    return bare


def _refuse_architecture(name: str) -> None:
    """A ValueError for a timm model that no `ViT` can be, before its weights are fetched."""
    import timm

    try:
        with torch.device("meta"):
            model = timm.create_model(_timm_name(name).split(".")[0], pretrained=False)
    except ValueError:
        raise
    except Exception:  # what cannot be built without memory is looked at afterwards
        return
    refuse_unknown(model, is_cait(model))


def _from_file(name: str, file: Path, given) -> nn.Module:
    """A timm model with the weights in a file, also where they are called as part of another model, or have their head.

    Args:
        name: timm's.
        file: safetensors.
        given: timm's configuration of these weights.
    """
    import timm
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    def create(classes=None, **overlay):  # through timm's loader, which knows the older names some checkpoints use
        options, overlay = {}, {"custom_load": False, **overlay}
        if classes is not None:  # also in the configuration: timm is not strict where the two differ
            options, overlay = {"num_classes": classes}, {**overlay, "num_classes": classes}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)

    try:
        return create(file=str(file))
    except (SafetensorError, RuntimeError) as error:
        why = f"{file} does not hold the weights of {name} ({first_line(error, lines=2)}): fetch it again"
    try:
        weights, classes, differs = _as_timm_calls_them(load_file(file), given)
        if not differs:
            raise ValueError(why)
        model = create(classes, state_dict=weights)
    except (SafetensorError, RuntimeError):
        raise ValueError(why) from None
    log.warning("%s: %s", file, differs)
    return model


def _as_timm_calls_them(weights: dict[str, Tensor], given) -> tuple[dict[str, Tensor], int | None, str]:
    """Weights without the prefix that a larger model gave their names, how many classes they tell apart, and a sentence
    about what differs from timm's."""
    first, head = f"{given.first_conv}.weight", given.classifier
    head = head if isinstance(head, str) else (head or ("head",))[0]
    prefix = next((name.removesuffix(first) for name in weights if name.endswith(first)), "")
    weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    classes = len(weights[f"{head}.weight"]) if f"{head}.weight" in weights else 0
    said = [f"its names begin with {prefix!r}, which is left out"] if prefix else []
    if classes != given.num_classes:
        said.append(f"it has a head of its own, for {classes} classes" if classes else "it has no head: classes=0")
    return weights, classes, "; ".join(said)


def _cached(name: str) -> Path | None:
    """The weights, where the hub's client has fetched them before."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(f"timm/{name}", "model.safetensors")
    return Path(file) if isinstance(file, str) else None


def _download(name: str, file: Path) -> nn.Module:
    import timm

    try:
        _reach_hub()
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the hub's client raises, the reader needs one thing: where to put the file
        raise ValueError(
            f"no weights for {name}: put them at {file}, or connect to the hub ({first_line(error, lines=2)})"
        ) from None


def _reach_hub() -> None:
    """An OSError at once where there is no network: the hub's client would try again for most of a minute."""
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    with contextlib.suppress(urllib.error.HTTPError):  # it answers
        urllib.request.urlopen(request, timeout=5).close()
