"""A plain ViT for the reader's browser: what `web/vit.js` computes, and its weights as JavaScript files."""

import base64
import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import ViTConfig
from ..layers import interpolate_positions
from ..models import ViT

WEB = Path(__file__).parent / "web"
STORAGES = {"float32": 4, "float16": 2, "int8": 1}  # bytes a weight
PART = 192 * 1024  # bytes of weights in one file: each that arrives is a step of the progress bar
LARGEST = 6_000_000  # bytes of one model's files in float16; a larger one is stored as int8
HEAVIEST = 40_000_000  # bytes of those: more than a browser computes with in a minute


class TooLarge(ValueError):
    """A weight that float16 cannot hold."""


@dataclass(frozen=True)
class Packed:
    """A model as the browser takes it.

    Attributes:
        spec: configuration, plan, preprocessing and the order of the tensors, as plain values for JSON.
        data: the tensors' bytes, one after the other.
        model: the ViT with the weights as they are stored, for comparing.
    """

    spec: dict
    data: bytes
    model: ViT

    def files(self, name: str) -> Iterator[tuple[str, str]]:
        """Names and texts of the JavaScript files, `dtlWeights("NAME", number, "base64")` each.

        Args:
            name: of the model on the page.
        """
        for number, start in enumerate(range(0, len(self.data), PART)):
            text = base64.b64encode(self.data[start : start + PART]).decode()
            yield f"{name}_{number}.js", f"dtlWeights({json.dumps(name)},{number},{json.dumps(text)});\n"


def refused(config: ViTConfig) -> list[str]:
    """What of a configuration the browser's ViT does not compute, by the names of its fields."""
    reasons = [f"{name}={getattr(config, name)!r}" for name in config.variants]
    reasons += ["talking_heads=True"] if config.talking_heads else []
    reasons += [f"pool={config.pool!r}"] if config.pool == "attention" else []
    return reasons


def pack(model: ViT, storage: str = "float16", image_size: tuple[int, int] | None = None) -> Packed:
    """A model's weights and what the browser has to know of it.

    Args:
        model: a plain ViT.
        storage: "float32", "float16", or "int8": matrices as int8 with a factor for each output channel, the rest in
            float16.
        image_size: height and width of the images in the browser; positions are interpolated to it here.

    Raises:
        ValueError: for a model with parts that the browser's ViT lacks, named; an unknown storage; weights that
            float16 cannot hold.
    """
    if storage not in STORAGES:
        raise ValueError(f"weights are stored as {', '.join(STORAGES)}, not {storage!r}")
    if reasons := refused(model.config):
        raise ValueError(f"the ViT in the browser is a plain one, without {', '.join(reasons)}")
    model = _resized(model, image_size or model.config.size)
    tensors = dict(model.state_dict())
    if model.config.positions == "sincos":
        tensors["positions"] = model.positions  # fixed, so not in the state
    order, parts, kept = [], [], {}
    for name, value in tensors.items():
        kind = "float16" if storage == "int8" and not _is_matrix(name, value) else storage
        data, kept[name] = _stored(name, value.float().cpu(), kind)
        order.append([name, list(value.shape), kind])
        parts.append(data)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(kept[name])
        model.positions.data.copy_(kept["positions"]) if "positions" in kept else None
    return Packed({**_described(model.config), "tensors": order, "storage": storage}, b"".join(parts), model)


def packed_to_fit(model: ViT) -> Packed:
    """A model in float16, or where its files would be heavy in int8.

    Raises:
        ValueError: as `pack`, and for a model too large for a browser.
    """
    try:
        packed = pack(model, "float16")
    except TooLarge:
        packed = None
    if packed is None or _file_size(packed) > LARGEST:
        packed = pack(model, "int8")
    if (size := _file_size(packed)) > HEAVIEST:
        raise ValueError(f"its weights take {size / 1e6:.0f} MB, and a browser is given {HEAVIEST / 1e6:.0f} at most")
    return packed


def _file_size(packed: Packed) -> int:
    return 4 * len(packed.data) // 3


def _described(config: ViTConfig) -> dict:
    return {
        "config": {
            "channels": config.channels,
            "size": list(config.size),
            "patch": config.patch_size,
            "dim": config.dim,
            "heads": config.heads,
            "eps": config.norm_eps,
            "pool": config.pool,
            "normAfterPool": config.norm_after_pool,
            "classes": config.classes,
            "mean": list(config.mean),
            "std": list(config.std),
            "crop": config.crop,
        },
        "plan": asdict(config.plan),
    }


def _resized(model: ViT, size: tuple[int, int]) -> ViT:
    """A copy on the CPU, in float32, for images of another size."""
    model = deepcopy(model).cpu().float().eval()
    config = replace(model.config, image_size=tuple(size))
    if config.positions != "none" and config.grid != model.config.grid:
        positions = interpolate_positions(model.positions.detach(), config.grid, config.position_offset)
        if config.positions == "sincos":
            model.positions = positions
        else:
            model.positions = torch.nn.Parameter(positions)
    model.config = config
    return model


def _is_matrix(name: str, value: Tensor) -> bool:
    """Whether a tensor multiplies tokens: the projection of patches, and every linear map."""
    return name.endswith(".weight") and value.ndim > 1


def _stored(name: str, value: Tensor, kind: str) -> tuple[bytes, Tensor]:
    """The bytes of a tensor, and the values that they hold."""
    if kind == "int8":
        rows = value.flatten(1)
        factor = (rows.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        codes = (rows / factor[:, None]).round().to(torch.int8)
        kept = (codes.float() * factor[:, None]).reshape(value.shape)
        return _little(factor.numpy(), "<f4") + codes.numpy().tobytes(), kept
    if kind == "float16":
        kept = value.half()
        if not kept.isfinite().all():
            raise TooLarge(f"{name} has values up to {value.abs().max():.3g}, which float16 cannot hold: take float32")
        return _little(kept.numpy(), "<f2"), kept.float()
    return _little(value.numpy(), "<f4"), value


def _little(values: np.ndarray, kind: str) -> bytes:
    return values.astype(kind).tobytes()


def error(packed: Packed, model: ViT, images: Tensor) -> Mapping[str, float]:
    """What the storage changes: the largest change of a logit, and of a class, over images `(batch, …)`."""
    with torch.inference_mode():
        before, after = model(images), packed.model(images)
    return {
        "logit": (before - after).abs().max().item(),
        "largest logit": before.abs().max().item(),
        "classes": (before.argmax(dim=1) != after.argmax(dim=1)).float().mean().item(),
    }
