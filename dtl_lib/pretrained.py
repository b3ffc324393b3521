"""Weights in: from a live timm model, from DTL_DATA, from the hub, from a checkpoint of ours, from the zoo."""

import contextlib
import logging
import os
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from . import zoo
from .checks import first_line
from .host import data_folder
from .models import ViT
from .timm_models import from_timm
from .tokens import TokenPlan

__all__ = ["LoadReport", "from_timm", "is_ours", "load_pretrained", "load_shared", "timm_model"]
log = logging.getLogger("dtl_lib")


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor when weights met a model.

    Attributes:
        shared: loaded.
        initialised: in the model and not in the weights; fresh.
        left: in the weights and not in the model.
    """

    shared: tuple[str, ...]
    initialised: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.shared)} tensors loaded"]
        lines += [f"initialised: {', '.join(self.initialised)}"] if self.initialised else []
        lines += [f"left out: {', '.join(self.left)}"] if self.left else []
        return "; ".join(lines)


def load_pretrained(name: str, plan: TokenPlan | None = None, classes: int | None = None) -> ViT:
    """A model with trained weights.

    Args:
        name: a timm name (`vit_tiny_patch16_224.augreg_in21k_ft_in1k`), read from
            `DTL_DATA/weights/<name>.safetensors`, otherwise from the hub; or the path of a checkpoint of ours;
            or `zoo/…`, as `dtl zoo` lists them; then `model.card` says what it was trained on and what it attains.
        plan: another plan than the weights were trained with. Shared tensors load, new groups are initialised;
            `model.loaded`, a `LoadReport`, lists both.
        classes: another number of classes: the head is then fresh.

    Raises:
        ValueError: where there are no such weights, with what to do.
    """
    name = str(name)
    model = _checkpoint(name) if is_ours(name) else from_timm(timm_model(name)).eval()
    config = model.config if plan is None else model.config.with_plan(plan)
    if classes is not None:
        config = replace(config, classes=classes)
    if config == model.config:
        model.loaded = LoadReport(tuple(model.state_dict()), (), ())
        return model
    fresh = ViT(config)
    fresh.loaded = load_shared(fresh, model.state_dict(), model.plan.depth)
    log.warning("%s: %s", name, fresh.loaded)
    return fresh.eval()


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
    from .checkpoint import load_model

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
    import timm
    from safetensors import SafetensorError

    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"{name!r} is no timm model, no zoo/… and no path to a .safetensors file")
    if name != (base := name.split(".")[0]) and name not in timm.list_pretrained(f"{base}.*"):
        raise ValueError(
            f"timm has no weights {name!r}; it has {', '.join(timm.list_pretrained(f'{base}.*')) or 'none'}"
        )
    given = timm.get_pretrained_cfg(name)
    tagged = f"{given.architecture}.{given.tag}" if given is not None and given.tag else name
    files = [data_folder() / "weights" / f"{known}.safetensors" for known in dict.fromkeys((name, tagged))]
    file = next((file for file in files if file.is_file()), None) or _cached(tagged)
    if file is None:
        return _download(name, files[-1]).eval()
    try:  # through timm's loader, which knows the older names some checkpoints use
        overlay = {"file": str(file), "custom_load": False}
        return timm.create_model(tagged, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{file} does not hold the weights of {name} ({first_line(error, lines=2)}): fetch it again"
        ) from None


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
