"""What an audit costs over plain forward passes: all measurements of `probes.audit`, and the pages of `dtl audit`.

`python -m tests.benchmarks.bench_audit [--record]`: ViT-Ti/16 at 224 with outliers planted, 64 images. Asked of it, as
a multiple of the plain forward passes: ≤ 2.5 with the page, the PDF and the numbers.
"""

import json
import tempfile
from pathlib import Path

import torch

from dtl_lib import outputs, probes
from dtl_lib.host import keep_memory
from dtl_lib.lab.bench import measure, ratio
from dtl_lib.models import ViT
from tests.benchmarks.pairs import parser, record, report, values
from tests.unit.planted import planted, random_mask

NAME, IMAGES = "vit_tiny_patch16_224", 64


def audited(model: ViT, images: torch.Tensor, folder: Path | None = None):
    """A function that audits the model, and writes what `dtl audit` writes where there is a folder."""

    def run() -> None:
        found = probes.audit(model, [images])
        assert found.start is not None
        if folder:
            (folder / "a.html").write_text(outputs.audit_html(found, NAME, "made up"), encoding="utf-8")
            (folder / "a.json").write_text(json.dumps(found.to_dict()))
            outputs.save_pages(outputs.audit_pages(found, NAME, "made up"), folder / "a.pdf")

    return run


def main() -> None:
    options = parser(__doc__, rounds=8).parse_args()
    torch.manual_seed(0)
    model = ViT.build(NAME).eval().to(options.device)
    images = torch.randn(IMAGES, 3, 224, 224)
    mask = random_mask(IMAGES, (14, 14), 0.02).to(options.device)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(), planted(model, mask, 5):
        ways = {
            "plain": lambda: model(images.to(options.device)),
            "plain, again": lambda: model(images.to(options.device)),
            "audit": audited(model, images),
            "audit and its pages": audited(model, images, Path(folder)),
        }
        seconds = measure(ways, options.rounds, options.device)
    asked = {"plain, again": "control: 1", "audit": "for comparison", "audit and its pages": "≤ 2.5"}
    ratios = {name: ratio(seconds, name, "plain") for name in asked}
    case = f"{NAME}: audit of {IMAGES} images, over plain forward passes"
    report(case, seconds, {name: (value, asked[name]) for name, value in ratios.items()})
    if options.record:
        record("bench_audit", options, case, values(seconds, ratios, images=IMAGES), model.config)


if __name__ == "__main__":
    keep_memory()
    main()
