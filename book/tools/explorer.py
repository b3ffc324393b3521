"""The explorer's page in the book: its scripts, what is stored of its models and pictures, and the models themselves.

They are made when the book is built, from the zoo, and made again where the code or the models have changed.
"""

from hashlib import sha256
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from book.tools.project import ROOT

MODELS = {  # in the zoo → on the page
    "shapes_depth6_reg4": "shapes · four registers",
    "cifar10_depth6_reg4": "photos · four registers",
    "cifar10_depth6": "photos · class token early",
    "cifar10_depth6_cls4": "photos · class token late",
}
PHOTOS = ("chelsea", "rocket")
SHAPES = (0, 1)
START = 1  # the block shown first
PAGE = "book/explorer"
STAMP = "made_from.txt"


class Explorer(SphinxDirective):
    """The HTML that loads the explorer."""

    def run(self) -> list[nodes.Node]:
        from dtl_lib.explore import page

        self.env.note_dependency(str(ROOT / "dtl_lib" / "explore" / "web" / "fragment.html"))
        return [nodes.raw("", page.fragment("../_static/explorer/"), format="html")]


def install(app, error) -> None:
    """When the pages are written, and one of them is the explorer's, put its files beside them."""
    if error is None and app.builder.format == "html" and PAGE in app.env.found_docs:
        make(Path(app.outdir) / "_static" / "explorer")


def make(folder: Path) -> None:
    """Write the files, where there are none or they were made from something else."""
    stamp, digest = folder / STAMP, made_from()
    if stamp.is_file() and stamp.read_text("utf8") == digest:
        return
    from dtl_lib.explore import page, shown

    page.write(folder, shown.from_zoo(MODELS), [*shown.shapes(SHAPES), *shown.photos(PHOTOS)], START)
    stamp.write_text(digest, "utf8")


def made_from() -> str:
    """A digest of the code and the models that the files are made from."""
    code = [*(ROOT / "dtl_lib" / "explore").rglob("*.*"), Path(__file__)]
    models = [ROOT / "dtl_lib" / "zoo" / f"{name}.safetensors" for name in MODELS]
    files = [path for path in sorted(code) + models if path.suffix in (".py", ".js", ".css", ".html", ".safetensors")]
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


if __name__ == "__main__":
    make(ROOT / "_build" / "html" / "_static" / "explorer")
