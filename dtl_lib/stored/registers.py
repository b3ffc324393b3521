"""What test-time registers do to pretrained weights on bundled photos, stored for readers without the weights.

`python -m dtl_lib.stored.registers make` recomputes it with weights from under DTL_DATA or the hub.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__
from ..models import ViT
from ..registers import NAME, RegisterNeuron, find_register_neurons, neuron_shares, test_time_registers
from ..tape import record
from ..tokens import PATCHES
from .files import LEDGER, make_files, opened, quantise

FOLDER = LEDGER / "real" / "registers"
ORIGINS = {  # name → weights, licence, the photos that are shown
    "vit_tiny": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0", ("chelsea", "coffee")),
}
MOVED = 10  # neurons, in the third state
HALVES = ("shares", "high", "usual", "norms", "token_norms", "token_share", "activation")


@dataclass(frozen=True)
class StoredRegisters:
    """One model as it is, with its first register neuron moved, and with ten moved: three states, float32.

    Attributes:
        shares, high, usual: `neuron_shares` of the blocks up to the last but one, over all bundled photos,
            `(blocks − 1, neurons)`.
        norms: of the patches, in the three states, `(photos, 3, blocks, rows, columns)`.
        class_maps: attention of the class token to each patch, mean over heads, of the same shape.
        token_norms, token_share: of the new token, its norm and the class token's attention to it, `(photos, 3,
            blocks)`; 0 where it is not there.
        activation: of the first neuron, `(photos, rows, columns)`, in the model as it is.
        photos: their names.
        source: weights, photos, their licences, the library's version and the command.
    """

    shares: Tensor
    high: Tensor
    usual: Tensor
    norms: Tensor
    class_maps: Tensor
    token_norms: Tensor
    token_share: Tensor
    activation: Tensor
    photos: tuple[str, ...]
    source: dict[str, str]

    @property
    def neuron(self) -> RegisterNeuron:
        """The one with the largest share, which is moved."""
        block, neuron = divmod(int(self.shares.argmax()), self.shares.shape[1])
        about = (float(values[block, neuron]) for values in (self.shares, self.high, self.usual))
        return RegisterNeuron(block, neuron, 1.0, *about)


def load(name: str = "vit_tiny", folder: Path = FOLDER) -> StoredRegisters:
    """A stored result: roots of maps exact to half of 1/255 of their largest value, the rest float16.

    Raises:
        ValueError: for a name that is not stored, or a file that is damaged.
    """
    with opened(Path(folder) / f"{name}.safetensors", "python -m dtl_lib.stored.registers make") as content:
        found = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        card = json.loads(content.metadata()["card"])
        maps = (found["class_maps"] * found["class_maps_scale"]).square()
        halves = {key: found[key].float() for key in HALVES}
        return StoredRegisters(**halves, class_maps=maps, photos=tuple(card["photos"]), source=card["source"])


def compute(name: str = "vit_tiny") -> StoredRegisters:
    """The result computed from the weights and the photos, not quantised.

    Raises:
        ValueError: for a name of unknown origin, or where the weights cannot be had.
    """
    from ..data.photos import PHOTOS, photo, prepare
    from ..pretrained import load_pretrained

    if name not in ORIGINS:
        raise ValueError(f"nothing is stored as {name!r}; there are {', '.join(ORIGINS)}")
    weights, licence, shown = ORIGINS[name]
    model = load_pretrained(weights).eval()
    images = torch.cat([prepare(photo(one), config=model.config) for one in PHOTOS])
    return measure(model, images, [list(PHOTOS).index(one) for one in shown], shown, _source(name, weights, licence))


def measure(
    model: ViT, images: Tensor, shown: Sequence[int], photos: Sequence[str], source: dict[str, str]
) -> StoredRegisters:
    """What is stored, of any model: long are patches of more than twice the median after the last block but one.

    Args:
        model: with a class token.
        images: `(batch, channels, height, width)`, on which the neuron is found.
        shown: which of them are kept.
        photos, source: what the result says of them.
    """
    block = model.plan.depth - 2
    with torch.no_grad(), record(model) as tape:
        model(images)
    norms, images_shown = tape.norms(block)[PATCHES], images[list(shown)]
    long = norms > 2 * norms.flatten(1).median(dim=1).values[:, None, None]
    shares, high, usual = (torch.stack(parts) for parts in zip(*neuron_shares(model, images, long, block)))
    neurons = find_register_neurons(model, images, long, block, share=1.0, most=MOVED)
    states = [_look(model, images_shown, neurons[:count]) for count in (0, 1, MOVED)]
    found = {key: torch.stack([state[key] for state in states], dim=1) for key in states[0]}
    found["activation"] = _activation(model, images_shown, neurons[0])
    return StoredRegisters(shares, high, usual, **found, photos=tuple(photos), source=source)


def save(result: StoredRegisters, name: str, folder: Path = FOLDER) -> Path:
    """Write a result; returns the file."""
    tensors = {key: getattr(result, key).half().contiguous() for key in HALVES}
    tensors["class_maps"], tensors["class_maps_scale"] = quantise(result.class_maps)
    card = json.dumps({"photos": result.photos, "source": result.source})
    file = Path(folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata={"card": card})
    return file


def _look(model: ViT, images: Tensor, neurons: Sequence[RegisterNeuron]) -> dict[str, Tensor]:
    """Norms, maps and what the new token is and gets, each `(photos, blocks, …)`."""
    changed = test_time_registers(model, neurons) if neurons else nullcontext()
    with changed, torch.no_grad(), record(model) as tape:
        model(images)
    found: dict[str, list[Tensor]] = {"norms": [], "class_maps": [], "token_norms": [], "token_share": []}
    for block in range(tape.plan.depth):
        norms, new = tape.norms(block), tape.plan.layout(block).get(NAME, slice(0))
        found["norms"].append(norms[PATCHES])
        found["class_maps"].append(tape.maps(block).mean(dim=1))
        found["token_norms"].append(norms[NAME][:, 0] if NAME in norms else images.new_zeros(len(images)))
        found["token_share"].append(tape.row(block).mean(dim=1)[:, new].sum(dim=1))
    return {key: torch.stack(values, dim=1) for key, values in found.items()}


def _activation(model: ViT, images: Tensor, neuron: RegisterNeuron) -> Tensor:
    """Of one neuron at every patch, `(photos, rows, columns)`."""
    seen: list[Tensor] = []
    hook = model.blocks[neuron.block].mlp.contract.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(images)
    hook.remove()
    patches = seen[0][:, model.plan.layout(neuron.block)[PATCHES], neuron.neuron]
    return patches.unflatten(1, model.config.grid_of(*images.shape[-2:]))


def _source(name: str, weights: str, licence: str) -> dict[str, str]:
    from ..data.photos import PHOTOS

    return {
        "weights": weights,
        "weights_licence": licence,
        "photos": "; ".join(f"scikit-image's {one.file}, {one.source}, {one.licence}" for one in PHOTOS.values()),
        "library": f"dtl_lib {__version__}",
        "command": f"python -m dtl_lib.stored.registers make {name}",
    }


def main(arguments: list[str]) -> int:
    """`make [NAME …]`: recompute results and write them; all of them where no name is given."""
    jobs = {name: lambda name=name: save(compute(name), name) for name in ORIGINS}
    return make_files("dtl_lib.stored.registers", jobs, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
