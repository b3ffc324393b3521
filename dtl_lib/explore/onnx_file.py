"""A ViT as an ONNX file that also gives what its tokens attend to and how long they are, and a check of that file."""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import TalkingHeads
from ..models import ViT, enter_and_leave

OPSET = 18
AGREES = 1e-3  # the most by which float32 may differ between the two, over the largest value of an output
NEEDED = ("onnx", "onnxscript", "onnxruntime")
REMEDY = "pip install 'dtl_lib[onnx]' installs what dtl export needs"


@dataclass(frozen=True)
class Checked:
    """How an ONNX file compares with PyTorch, over images.

    Attributes:
        differences: by output, its largest difference over its largest value in PyTorch.
        predictions: how many images are classified differently.
        logit: the largest difference of a logit; 0 without classes.
        n: images.
    """

    differences: dict[str, float]
    predictions: int
    logit: float
    n: int

    @property
    def largest(self) -> float:
        """Over all outputs."""
        return max(self.differences.values())


class Outputs(nn.Module):
    """A ViT that returns what `names` lists: logits, queries and keys (or maps) and lengths of tokens, block by block.

    Args:
        model: a `ViT` in evaluation, whose attention this object listens to.
    """

    def __init__(self, model: ViT):
        super().__init__()
        self.model, self._heard = model, []
        for block in model.blocks:
            block.attention.core.register_forward_hook(self._hear)

    @property
    def names(self) -> list[str]:
        """Of the outputs, in order: `logits`; for each block `q_0`, `k_0` (batch, heads, tokens, head_dim), or
        `attention_0` (batch, heads, query, key) where heads are mixed; and `norms_0` (batch, tokens)."""
        names = ["logits"] if self.model.config.classes else []
        for index, block in enumerate(self.model.blocks):
            mixed = isinstance(block.attention.core, TalkingHeads)
            names += [f"attention_{index}"] if mixed else [f"q_{index}", f"k_{index}"]
            names += [f"norms_{index}"]
        return names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        model, looks = self.model, []
        x, grid = model.embed(images)
        learned, places = model.learned(), model.places(grid)
        for change, block in zip(model.changes, model.blocks):
            x = enter_and_leave(x, *change, learned) if change else x
            self._heard.clear()
            x = block(x, slice(None), *places)
            looks += [*self._heard, x.norm(dim=-1)]
        return (self._logits(x), *looks) if model.config.classes else tuple(looks)

    def _logits(self, x: Tensor) -> Tensor:
        model = self.model
        if model.head_tokens is None:
            return model.classify("patches", model.pool_patches(x))
        tokens = model.norm(x[:, model.head_tokens]).unbind(dim=1)
        return torch.stack([model.classify(name, token) for name, token in zip(model.head_names, tokens)]).mean(dim=0)

    def _hear(self, core: nn.Module, given: tuple[Tensor, ...], _) -> None:
        q, k, _ = given
        self._heard += [core.attention(q, k)] if isinstance(core, TalkingHeads) else [q, k]


def require_packages() -> None:
    """A ValueError that names what is not installed and how to install it."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f"an ONNX file needs {' and '.join(missing)}, not installed here: {REMEDY}")


def write(model: ViT, file: Path, int8: bool = False) -> None:
    """Write a model as ONNX, with any number of images in a batch of the configuration's image size.

    Args:
        model: a `ViT`.
        file: to write.
        int8: matrices as int8, what they multiply as uint8 with one factor for all tokens (onnxruntime's dynamic
            quantisation).

    Raises:
        ValueError: where a package is missing.
    """
    require_packages()
    outputs = Outputs(copy.deepcopy(model).cpu().float().eval())
    example = torch.zeros(2, model.config.channels, *model.config.size)
    # with gradients, queries, keys and values are one product: one matrix in the file
    with _quiet(), torch.enable_grad():
        program = torch.onnx.export(
            outputs,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=outputs.names,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    program.save(str(file), external_data=False)
    if int8:
        _quantise(file)


def _quantise(file: Path) -> None:
    onnx, quantization = import_module("onnx"), import_module("onnxruntime.quantization")
    graph = onnx.load(str(file))
    del graph.graph.value_info[:]  # shapes that the quantiser would take for those of its own values
    with _quiet():
        quantization.quantize_dynamic(graph, str(file), per_channel=True, weight_type=quantization.QuantType.QInt8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, torch and onnxruntime do not say what they will change in their exporters, or would rather be given."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def compare(model: ViT, file: Path, images: Tensor) -> Checked:
    """Run a written file by onnxruntime, image by image, and compare every output with PyTorch's.

    Args:
        model: what it was written from.
        file: the ONNX file.
        images: `(batch, channels, height, width)`.
    """
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    outputs = Outputs(copy.deepcopy(model).cpu().float().eval())
    most, largest, predictions, logit = {}, {}, 0, 0.0
    for image in images.split(1):
        with torch.inference_mode():
            wanted = [value.numpy() for value in outputs(image)]
        got = session.run(outputs.names, {"images": image.numpy()})
        for name, ours, theirs in zip(outputs.names, wanted, got):
            most[name] = max(most.get(name, 0.0), _difference(ours, theirs))
            largest[name] = max(largest.get(name, 0.0), float(np.abs(ours).max()))
        if model.config.classes:
            predictions += int(wanted[0].argmax() != got[0].argmax())
            logit = most["logits"]
    return Checked({name: most[name] / (largest[name] or 1.0) for name in most}, predictions, logit, len(images))


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest; infinite where the shapes differ or a value is not finite."""
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        return float("inf")
    return float(np.abs(ours - theirs).max())


def summary(names: Sequence[str]) -> str:
    """The outputs in one line: `logits, q_0 … q_5, k_0 … k_5, norms_0 … norms_5`."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.partition("_")[0], []).append(name)
    return ", ".join(each[0] if len(each) == 1 else f"{each[0]} … {each[-1]}" for each in kinds.values())
