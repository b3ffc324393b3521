"""The Sphinx extension of this book: what its pages need beyond Jupyter Book.

- the measured cost under each chapter's title;
- a look of their own for questions, predictions and what is the same as the library;
- math and icons from local files, and no script from elsewhere;
- `{ledger}`, `{command-line}`, `{models}`, `{recipes}` and `{citation}`, made from records, parser and code;
- `{explorer}`, and the files that it loads, made from the zoo;
- references and records that a notebook can link to in plain Markdown;
- a field for each attribute that a docstring describes together with others;
- what stands around the text: `frame`.
"""

import re
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from docutils import nodes  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.errors import ExtensionError  # noqa: E402
from sphinx.util.docutils import SphinxDirective  # noqa: E402

from book.tools import assets, command_line, explorer, frame, records, reference  # noqa: E402
from book.tools.execute import Cache  # noqa: E402
from book.tools.project import Project  # noqa: E402


def need_outputs(app: Sphinx) -> None:
    """Refuse to render outputs that the library as it is now would not give."""
    project, cache = Project(ROOT), Cache(Project(ROOT))
    stale = [path.name for path in project.notebooks if cache.executed(path) is None]
    if stale:
        raise ExtensionError(f"no up-to-date outputs for {', '.join(stale)}: build with 'make book'")


def show_cost(app: Sphinx, doctree: nodes.document) -> None:
    """Put what the run took under the title of a notebook's page."""
    run = Cache(Project(ROOT)).runs().get(f"{app.env.docname.removeprefix('notebooks/')}.ipynb")
    title = next(iter(doctree.findall(nodes.title)), None)
    if run is not None and title is not None:
        line = nodes.paragraph("", str(run.cost), classes=["measured"])
        title.parent.insert(title.parent.index(title) + 1, line)


def mark_boxes(app: Sphinx, doctree: nodes.document) -> None:
    """Give a quote that opens with a label in bold, such as **Predict.**, the class of that label."""
    for quote in doctree.findall(nodes.block_quote):
        paragraph = next(iter(quote.findall(nodes.paragraph)), None)
        label = next((part for part in paragraph or [] if part.astext().strip()), None)
        if isinstance(label, nodes.strong):
            quote["classes"] += ["box", nodes.make_id(label.astext())]


def local_scripts_only(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Drop what comes from other hosts or only serves that, and the math's script where there is no math."""
    math = doctree is not None and any(doctree.findall(lambda node: isinstance(node, (nodes.math, nodes.math_block))))
    for kind in ("script_files", "css_files"):
        context[kind] = [
            item for item in context[kind] if not assets.is_foreign(item) and (math or not assets.is_math(item))
        ]
    context["body"] = assets.THEBE.sub("", context.get("body", ""))


def linkable(app: Sphinx, doctree: nodes.document) -> None:
    """Let `references.md#key` and `ledger.md#id` be the targets of plain Markdown links."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for key, text in {"book/references": records.references, "book/ledger": records.ledger}.items():
        if app.env.docname == key:
            slugs |= {name: (0, name, label) for name, label in text(ROOT).items()}


def one_field_each(app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
    """Split `:ivar low, high: …`: napoleon does so for arguments, and of attributes makes `low,` the type of `high`."""
    split: list[str] = []
    for field in re.split(r"\n(?=\S)", "\n".join(lines)):  # with the lines that are indented under it
        together = re.match(r":ivar ([^:]+, [^:]+):", field)
        names = together[1].split(", ") if together else []
        split += [f":ivar {one}:{field[together.end() :]}" for one in names] if together else [field]
    lines[:] = "\n".join(split).split("\n")


class Ledger(SphinxDirective):
    """The table of all records."""

    def run(self) -> list[nodes.Node]:
        for path in (ROOT / "dtl_lib" / "ledger").glob("*.jsonl"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(records.tables(ROOT))


class CommandLine(SphinxDirective):
    """Every command with its flags, from the parser."""

    def run(self) -> list[nodes.Node]:
        for path in (*(ROOT / "dtl_lib" / "cli").glob("*.py"), ROOT / "dtl_lib" / "train" / "recipe.py"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(command_line.reference(), allow_section_headings=True)


class Made(SphinxDirective):
    """Markdown that is made from the code."""

    def run(self) -> list[nodes.Node]:
        for path in ("config.py", "cost.py", "train/recipe.py"):
            self.env.note_dependency(str(ROOT / "dtl_lib" / path))
        if self.name == "citation":
            self.env.note_reread()  # a commit changes no file
        text = {"models": reference.models, "recipes": reference.recipe_tables}
        made = text[self.name]() if self.name in text else reference.citation(Project(ROOT))
        return self.parse_text_to_nodes(made, allow_section_headings=True)


def setup(app: Sphinx) -> dict:
    """Called by Sphinx."""
    app.connect("builder-inited", need_outputs)
    app.connect("doctree-read", show_cost)
    app.connect("doctree-read", mark_boxes)
    app.connect("doctree-read", linkable)
    app.connect("html-page-context", local_scripts_only, priority=999)
    app.connect("autodoc-process-docstring", one_field_each, priority=501)  # after napoleon
    app.connect("build-finished", assets.install)
    app.connect("build-finished", explorer.install)
    app.add_directive("explorer", explorer.Explorer)
    frame.setup(app)
    app.add_directive("ledger", Ledger)
    app.add_directive("command-line", CommandLine)
    for name in ("models", "recipes", "citation"):
        app.add_directive(name, Made)
    # Sphinx keeps pages that another version of these tools made, unless this number differs.
    tools = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return {"version": "1", "env_version": zlib.crc32(tools), "parallel_read_safe": False}
