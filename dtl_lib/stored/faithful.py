"""What a real model's maps are worth on bundled photos, stored for readers without the weights.

`python -m dtl_lib.stored.faithful make` recomputes it with weights from under DTL_DATA or the hub.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..models import ViT
from ..probes import gradient_rollout, insertion_deletion, patch_state, relevance, rollout
from ..probes.replacing import REPLACEMENTS
from ..registers import RegisterNeuron, find_register_neurons, test_time_registers
from ..tape import record
from ..tokens import PATCHES
from .attention import class_names
from .files import LEDGER, make_files, opened, quantise, source_of

FOLDER = LEDGER / "real" / "faithful"
WEIGHTS, LICENCE = "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0"
ORIGINS = {"vit_tiny": (WEIGHTS, LICENCE, ("coffee", "chelsea"))}  # the photo that is taken apart, and another
LONG, FOUND = 2.0, 10  # a long patch has so many medians; neurons moved
STEPS, DRAWS = 14, 8
LAST, MASKED = "last block", "last block, long places 0"
ROLLOUT, GRADIENT, RELEVANCE = "rollout", "gradient rollout", "relevance"
TEST_TIME = {count: f"last block, {count} neuron{'s' * (count > 1)} moved" for count in (1, FOUND)}
HALVES = ("deletion", "insertion", "random", "swapped")


@dataclass(frozen=True)
class StoredFaithful:
    """One photo taken apart in the order of several maps, and the tokens of another put into it; float32.

    Attributes:
        names: of the maps.
        maps: `(maps, rows, columns)`.
        deletion, insertion: the photo's class's probability, by what replaces its patches (`REPLACEMENTS`), `(4, maps,
            steps + 1)`.
        random: the gap, insertion less deletion, of random rankings, `(4, draws)`.
        tokens: which were taken from the other photo.
        swapped: the probability of the photo's class and of the other's, where a token at a block's input is the other
            photo's, `(tokens, blocks, 2)`.
        classes: names of the photo's class and of the other's.
        source: weights, photos, their licences, the library's version and the command.
    """

    names: tuple[str, ...]
    maps: Tensor
    deletion: Tensor
    insertion: Tensor
    random: Tensor
    tokens: tuple[str, ...]
    swapped: Tensor
    classes: tuple[str, ...]
    source: dict[str, str]

    @property
    def gap(self) -> Tensor:
        """Insertion less deletion, the areas under the curves, `(4, maps)`."""
        shares = torch.linspace(0, 1, self.deletion.shape[-1])
        return torch.trapezoid(self.insertion, shares) - torch.trapezoid(self.deletion, shares)


def long_patches(model: ViT, images: Tensor) -> Tensor:
    """Which are longer, after the last block but one, than twice their image's median: `(batch, rows, columns)`."""
    with torch.no_grad(), record(model) as tape:
        model(images)
    norms = tape.norms(model.plan.depth - 2)[PATCHES]
    return norms > LONG * norms.flatten(1).median(dim=1).values[:, None, None]


def maps_of(
    model: ViT, images: Tensor, target: Tensor | None = None, neurons: Sequence[RegisterNeuron] = ()
) -> dict[str, Tensor]:
    """The maps that chapter 18 compares, by name, `(batch, rows, columns)` each.

    Args:
        model: with a class token in its last block.
        images: `(batch, channels, height, width)`.
        target: the class that gradients ask about, `(batch,)`; the model's own where None.
        neurons: of `find_register_neurons`: adds the map of the model in which they have moved, one of them and all,
            and the plain map with the long patches at 0.
    """
    with torch.enable_grad(), record(model, grad=True) as tape:
        logits = model(images)
        chosen = logits.argmax(dim=1) if target is None else target
        logits.gather(1, chosen[:, None]).sum().backward()
    model.zero_grad()
    last = model.plan.blocks - 1
    found = {LAST: tape.maps(last).mean(dim=1).detach()}
    if neurons:
        found[MASKED] = found[LAST].masked_fill(long_patches(model, images), 0)
    found |= {ROLLOUT: rollout(tape), GRADIENT: gradient_rollout(tape), RELEVANCE: relevance(tape)}
    for count in TEST_TIME if neurons else ():
        with torch.no_grad(), test_time_registers(model, neurons[:count]), record(model) as moved:
            model(images)
        found[TEST_TIME[count]] = moved.maps(last).mean(dim=1)
    return found


def neurons_of(model: ViT, images: Tensor) -> tuple[RegisterNeuron, ...]:
    """The ten that write most of what makes these images' long patches long."""
    return find_register_neurons(model, images, long_patches(model, images), model.plan.depth - 2, 1.0, FOUND)


def load(name: str = "vit_tiny", folder: Path = FOLDER) -> StoredFaithful:
    """A stored result: roots of maps exact to half of 1/255 of their largest value, the rest float16.

    Raises:
        ValueError: for a name that is not stored, or a file that is damaged.
    """
    with opened(Path(folder) / f"{name}.safetensors", "python -m dtl_lib.stored.faithful make") as content:
        found = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        card = json.loads(content.metadata()["card"])
        halves = {key: found[key].float() for key in HALVES}
        words = {key: tuple(card[key]) for key in ("names", "tokens", "classes")}
        maps = (found["maps"] * found["maps_scale"]).square()
        return StoredFaithful(maps=maps, source=card["source"], **halves, **words)


def compute(name: str = "vit_tiny") -> StoredFaithful:
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
    images = {one: prepare(photo(one), config=model.config) for one in PHOTOS}
    source = source_of(f"python -m dtl_lib.stored.faithful make {name}", weights, licence, *shown)
    return measure(model, images, *shown, source)


def measure(model: ViT, images: dict[str, Tensor], shown: str, other: str, source: dict[str, str]) -> StoredFaithful:
    """What is stored, of any model with long patches.

    Args:
        model: with a class token.
        images: by name, `(1, channels, height, width)` each; all but the one shown are the reference.
        shown: the photo that is taken apart.
        other: the one whose tokens are put into it.
        source: what the result says of where it is from.
    """
    image, reference = images[shown], torch.cat([one for name, one in images.items() if name != shown])
    maps = maps_of(model, image, neurons=neurons_of(model, torch.cat([*images.values()])))
    drawn = torch.Generator().manual_seed(0)
    stacked = torch.stack([*maps.values()])
    random = torch.rand(DRAWS, *stacked.shape[1:], generator=drawn)
    curves = [
        insertion_deletion(model, image, torch.cat([stacked, random]), None, by, reference, STEPS)
        for by in REPLACEMENTS
    ]
    count, pair = len(maps), torch.cat([image, images[other]])
    with torch.no_grad():
        classes = model(pair).argmax(dim=1)
    return StoredFaithful(
        names=tuple(maps),
        maps=stacked[:, 0].detach(),
        deletion=torch.stack([one.deletion[:count, 0] for one in curves]),
        insertion=torch.stack([one.insertion[:count, 0] for one in curves]),
        random=torch.stack([one.gap[count:, 0] for one in curves]),
        classes=class_names(classes) if model.config.classes == 1000 else tuple(map(str, classes.tolist())),
        source=source,
        **_swapped(model, image, images[other], classes),
    )


def _swapped(model: ViT, image: Tensor, other: Tensor, classes: Tensor) -> dict:
    """Both classes' probabilities, token by token and block by block."""
    corners = long_patches(model, torch.cat([image, other])).any(dim=0, keepdim=True)
    tokens = {"class token": "cls", "the long patches": corners}
    blocks = range(model.plan.group("cls").enter, model.plan.blocks)
    found = [[patch_state(model, other, image, token, block) for block in blocks] for token in tokens.values()]
    chances = torch.stack([torch.stack([one.softmax(dim=-1)[0, classes] for one in each]) for each in found])
    return {"tokens": tuple(tokens), "swapped": chances}


def save(result: StoredFaithful, name: str, folder: Path = FOLDER) -> Path:
    """Write a result; returns the file."""
    tensors = {key: getattr(result, key).half().contiguous() for key in HALVES}
    tensors["maps"], tensors["maps_scale"] = quantise(result.maps)
    words = {key: getattr(result, key) for key in ("names", "tokens", "classes")}
    file = Path(folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata={"card": json.dumps(words | {"source": result.source})})
    return file


def main(arguments: list[str]) -> int:
    """`make [NAME …]`: recompute results and write them; all of them where no name is given."""
    jobs = {name: lambda name=name: save(compute(name), name) for name in ORIGINS}
    return make_files("dtl_lib.stored.faithful", jobs, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
