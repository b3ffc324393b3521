"""Do the patches of a trained ViT have to change in its last blocks, or is it enough that its class token reads them?

    python -m book.experiments.cait_frozen --photos DIR

Model and photos are those of `book.experiments.entry`: ViT-Ti/16 and 200 ImageNet photos. Its blocks from k on become
class attention, with the weights they have: there the patches stay as they are after block k − 1, and the class token
alone goes on. Beside it the same blocks are left out, and the class token is read after block k − 1. Nothing is
trained. What was expected is in `book/predictions.md`, committed before the first run.
"""

import argparse
from collections.abc import Sequence

import torch

from book.experiments.entry import VIT, photos
from dtl_lib import ledger
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.pretrained import load_pretrained
from dtl_lib.tokens import TokenPlan

EXPERIMENT, COMMAND = "cait_frozen", "python -m book.experiments.cait_frozen"
BLOCKS = (11, 10, 9, 8, 6, 4, 2)
WAYS = ("class attention", "left out")


def changed(model: ViT, way: str, block: int) -> ViT:
    """A plain ViT whose blocks from `block` on are class attention, or left out; its weights are shared.

    Raises:
        ValueError: for another way.
    """
    if way not in WAYS:
        raise ValueError(f"way is one of {', '.join(WAYS)}, not {way!r}")
    later = model.plan.depth - block if way == WAYS[0] else 0
    new = ViT(model.config.with_plan(TokenPlan.of(block, class_blocks=later))).eval()
    names = new.state_dict().keys()
    new.load_state_dict({name: value for name, value in model.state_dict().items() if name in names}, assign=True)
    return new


@torch.no_grad()
def classes(model: ViT, batches: Sequence) -> torch.Tensor:
    """The class that a model gives each photo."""
    return torch.cat([model(x).argmax(dim=1) for x, _ in batches])


def main(arguments: Sequence[str] | None = None) -> None:
    """Every row that has no record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", metavar="DIR", help="the folder of the photos (default: imagenet under DTL_DATA)")
    parser.add_argument("--folder", help="where the records go; the library's ledger where left out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    done = {record.what for record in ledger.read(EXPERIMENT, options.folder, missing_ok=True)}
    rows = [(way, block) for block in BLOCKS for way in WAYS]
    if not (left := [row for row in rows if f"{row[0]} from block {row[1]}" not in done]):
        return
    model = load_pretrained(VIT)
    batches = photos(options.photos or str(data_folder() / "imagenet"), model, None)
    usual, labels = classes(model, batches), torch.cat([y for _, y in batches])
    for way, block in left:
        new = changed(model, way, block)
        found = classes(new, batches)
        values = {
            "agreement": float((found == usual).double().mean()), "same": (found == usual).int().tolist(),
            "accuracy": float((found == labels).double().mean()), "right": (found == labels).int().tolist(),
            "untouched": float((usual == labels).double().mean()), "multiply_adds": new.config.cost().total,
        }  # fmt: skip
        about = {"n": len(labels), "seed": None, "config": new.config.to_dict(), "folder": options.folder}
        ledger.add(EXPERIMENT, title := f"{way} from block {block}", COMMAND, "cpu", values, **about)
        print(f"{title}: {values['agreement']:.1%} the same", flush=True)


if __name__ == "__main__":
    main()
