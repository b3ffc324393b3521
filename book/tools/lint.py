"""The book's rules for notebooks, one function a rule: `python -m book.tools.lint` prints what breaks them.

A rule yields `(cell, message)`; `cell` counts from 1, 0 is the whole notebook. A message says what would be right.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from book.tools import exercises, figures, numbers
from book.tools.definitions import LOCK, parse, tags
from book.tools.project import Project, read

LINES = 12
CHECKED = "nbval-check-output"
RAN = 1  # the count of every cell with stored output: nbval refuses outputs without one
MYST = re.compile(
    r"^\s*(?:`{3,}|:{3,}|~{3,})\s*\{[^}]+\}"  # a directive
    r"|(?<![`\w])\{[a-z][\w:-]*\}`[^`]+`"  # a role
    r"|^\([\w:-]+\)=\s*$"  # a target
    r"|^\$\$\s*\([\w:-]+\)\s*$",  # a labelled equation
    re.MULTILINE,
)
# the chapter that teaches a term
TAUGHT = {
    "class token": 3, "multiply–add": 3, "token plan": 5, "register": 6, "LayerScale": 8, "stochastic depth": 8,
    "class attention": 9, "talking heads": 9, "distillation": 10, "rollout": 12, "bf16": 20, "all-reduce": 21,
}  # fmt: skip
FENCE = re.compile(r"^(```+|~~~+).*?^\1", re.MULTILINE | re.DOTALL)

Problems = Iterator[tuple[int, str]]


@dataclass(frozen=True)
class Chapter:
    """A notebook to check; `executed` is the same notebook with outputs, where it has been run."""

    project: Project
    path: Path
    notebook: object
    executed: object = None

    def cells(self, kind: str) -> Iterator[tuple[int, object]]:
        """The cells of one kind with their numbers."""
        return ((n, cell) for n, cell in enumerate(self.notebook.cells, 1) if cell.cell_type == kind)


def one_title(chapter: Chapter) -> Problems:
    """The first cell opens with the only h1, and the badge follows it."""
    titles = [
        (n, line)
        for n, cell in chapter.cells("markdown")
        for line in FENCE.sub("", cell.source).splitlines()
        if re.match(r"#\s", line) or "<h1" in line
    ]
    if not titles or not chapter.notebook.cells[0].source.startswith("# "):
        yield 1, "the first cell is Markdown and opens with the chapter's title, '# …'"
    for n, line in titles[1:]:
        yield n, f"a second h1, {line!r}: a chapter has one; sections are '##'"


def head(chapter: Chapter) -> Problems:
    """The title is numbered, and below it one quote says the question, the time and what to read before."""
    first = chapter.notebook.cells[0].source
    number = int(chapter.path.name[:2])
    if not first.startswith(f"# {number}. "):
        yield 1, f"the title has the chapter's number: '# {number}. …'"
    quote = "\n".join(line for line in first.splitlines() if line.startswith(">"))
    for label in ("The question.", "Time.", "Before this."):
        if f"**{label}**" not in quote:
            yield 1, f"the quote below the title needs '> … **{label}** …'"
    efforts = (re.search(r"\*Difficulty \d of 3 · (\d+) minutes", cell.source) for _, cell in chapter.cells("markdown"))
    minutes = sum(int(effort[1]) for effort in efforts if effort)
    if minutes and f"{minutes} for what you build and the exercises" not in quote:
        yield 1, f"the exercises' minutes come to {minutes}: '{minutes} for what you build and the exercises'"


def chapter_links(chapter: Chapter) -> Problems:
    """A link to a chapter gives its number: readers of paper and of Colab have no sidebar."""
    for n, cell in chapter.cells("markdown"):
        for text, number in re.findall(r"\[([^\]]*)\]\((?:\.\./notebooks/)?(\d\d)_\w+\.ipynb[^)]*\)", cell.source):
            if not re.search(rf"[Cc]hapter {int(number)}\b", text):
                yield n, f"the link {text!r} does not say 'chapter {int(number)}'"


def terms(chapter: Chapter) -> Problems:
    """Before the chapter that teaches it, a term's first paragraph defines it in bold or links to a definition."""
    number = int(chapter.path.name[:2])
    for term in (term for term, taught in TAUGHT.items() if number < taught):
        for n, cell in chapter.cells("markdown"):
            paragraphs = re.split(r"\n\s*\n", FENCE.sub("", cell.source))
            if uses := [text for text in paragraphs if re.search(rf"\b{term}s?\b", text, re.IGNORECASE)]:
                link = rf"glossary\.md|\({TAUGHT[term]:02}_\w+\.ipynb|\*\*{term}"
                if not re.search(link, uses[0], re.IGNORECASE):
                    yield n, f"{term!r} is first used here: define it in **bold**, or link to ../book/glossary.md"
                break


def drawn(chapter: Chapter) -> Problems:
    """A chapter has at least one drawing."""
    if not any(re.search(r"\bfigures\.draw_\w+\(", cell.source) for _, cell in chapter.cells("code")):
        yield 0, "nothing is drawn: show the sequence, a block, attention, the model or a step with figures.draw_…"


def badge(chapter: Chapter) -> Problems:
    """The first cell holds the link to Colab, at the address that `_config.yml` gives."""
    links = re.findall(r"https://colab[^)\s\"]*", "\n".join(cell.source for _, cell in chapter.cells("markdown")))
    if links != [chapter.project.colab(chapter.path)]:
        yield 1, f"needs one link to Colab, {chapter.project.badge(chapter.path)}: run 'make notebooks-sync'"


def first_cell(chapter: Chapter) -> Problems:
    """The first code cell is the book's, with the address from `_config.yml`."""
    n, cell = next(chapter.cells("code"), (1, None))
    if cell is None or cell.source != chapter.project.first_cell:
        yield n, "the first code cell is not the book's: run 'make notebooks-sync'"


def plain_markdown(chapter: Chapter) -> Problems:
    """No MyST: Colab shows it raw."""
    for n, cell in chapter.cells("markdown"):
        for match in MYST.finditer(cell.source):
            text = match.group().strip()
            yield n, f"MyST ({text[:40]!r}) shows raw in Colab: use plain Markdown, a link, a block quote or <details>"


def outputs(chapter: Chapter) -> Problems:
    """Outputs are stored for the tagged cells alone, and no cell tells when it ran."""
    for n, cell in chapter.cells("code"):
        checked = CHECKED in tags(cell)
        if cell.outputs and not checked:
            yield n, f"stored output: clear it ('make notebooks-sync'), or tag the cell {CHECKED!r} to have it compared"
        if checked and not cell.outputs:
            yield n, f"tagged {CHECKED!r} but has no stored output to compare with: run 'make notebooks-outputs'"
        counts = [cell.execution_count, *(item.execution_count for item in cell.outputs if "execution_count" in item)]
        if set(counts) != {RAN if cell.outputs else None}:
            yield n, "has an execution count that depends on how it was run: run 'make notebooks-sync'"


def short_cells(chapter: Chapter) -> Problems:
    """One idea a cell; a whole library definition is exempt."""
    for n, cell in chapter.cells("code"):
        lines = len(cell.source.splitlines())
        if lines > LINES and not any(tag.startswith(LOCK) for tag in tags(cell)):
            yield n, f"{lines} lines: a cell has at most {LINES}, one idea each (a cell tagged 'lock:…' is exempt)"


def kernel(chapter: Chapter) -> Problems:
    """The kernel is python3, cells have ids, and no metadata that changes from machine to machine."""
    spec = chapter.notebook.metadata.get("kernelspec", {})
    if spec.get("name") != "python3":
        yield 0, f"the kernel is {spec.get('name')!r}, not 'python3': run 'make notebooks-sync'"
    extra = set(chapter.notebook.metadata) - {"kernelspec", "language_info"}
    if extra or set(chapter.notebook.metadata.get("language_info", {})) - {"name"}:
        yield 0, f"metadata that differs by machine ({', '.join(extra) or 'language_info'}): run 'make notebooks-sync'"
    if (chapter.notebook.nbformat, chapter.notebook.nbformat_minor) < (4, 5):
        yield 0, "needs notebook format 4.5, with cell ids: run 'make notebooks-sync'"
    ids = [cell.get("id") for cell in chapter.notebook.cells]
    for n, name in enumerate(ids, 1):
        if not name or ids.index(name) != n - 1:
            yield n, f"the id {name!r} is missing or taken: run 'make notebooks-sync'"


def parses(chapter: Chapter) -> Problems:
    """Every code cell is Python, `%` and `!` lines aside."""
    for n, cell in chapter.cells("code"):
        try:
            parse(cell.source)
        except SyntaxError as error:
            yield n, f"is not Python: {error.msg} in line {error.lineno}"


def locks(chapter: Chapter) -> Problems:
    """A locked cell names one definition of the library."""
    for n, cell in chapter.cells("code"):
        names = [tag for tag in tags(cell) if tag.split(":")[0] == LOCK.rstrip(":")]
        if len(names) > 1 or any(not re.fullmatch(r"lock:dtl_lib(\.\w+)+", name) for name in names):
            yield n, f"the tags {names}: a locked cell has one, such as 'lock:dtl_lib.layers.Block'"


def alt_text(chapter: Chapter) -> Problems:
    """Images in Markdown say what they show."""
    for n, cell in chapter.cells("markdown"):
        text = FENCE.sub("", cell.source)
        for match in re.finditer(r"!\[\s*\]\([^)]*\)|<img(?![^>]*\balt=\"[^\"]+\")[^>]*>", text):
            yield n, f"an image without alt text, {match.group()[:40]!r}: say what it shows"


RULES = (
    one_title,
    head,
    chapter_links,
    terms,
    badge,
    first_cell,
    plain_markdown,
    outputs,
    short_cells,
    kernel,
    parses,
    locks,
    alt_text,
    figures.described,
    figures.shares,
    numbers.backed,
    exercises.complete,
    exercises.built_first,
    exercises.changed_once,
    drawn,
)


def check(chapter: Chapter) -> list[str]:
    """What is wrong with one notebook, a line each: file, cell, what would be right."""
    if any(parses(chapter)):  # the other rules read the syntax tree
        return [_line(chapter, n, message) for n, message in parses(chapter)]
    return [_line(chapter, n, message) for rule in RULES for n, message in rule(chapter)]


def contents(project: Project) -> list[str]:
    """Whether the table of contents lists exactly the notebooks there are."""
    text = (project.root / "_toc.yml").read_text("utf8")
    listed = {entry for entry in re.findall(r"file:\s*(\S+)", text) if entry.startswith("notebooks/")}
    existing = {f"notebooks/{path.stem}" for path in project.notebooks}
    yaml.safe_load(text)
    return [f"_toc.yml: {name} is not listed: add it to its part" for name in sorted(existing - listed)] + [
        f"_toc.yml: {name} is listed but does not exist" for name in sorted(listed - existing)
    ]


def stray_addresses(project: Project) -> list[str]:
    """Copies of the repository's address where `_config.yml` alone should hold it; README and notebooks are derived."""
    owner = project.address.removeprefix("https://github.com/")
    places = [project.root / name for name in ("CONTRIBUTING.md", "CITATION.cff", "pyproject.toml")]
    places += [path for folder in ("book", "dtl_lib") for path in (project.root / folder).rglob("*.[mp][dy]")]
    return [
        f"{path.relative_to(project.root)}: holds the address {owner!r}, which stands in _config.yml alone"
        for path in places
        if path.is_file() and owner in path.read_text("utf8")
    ]


def _line(chapter: Chapter, n: int, message: str) -> str:
    return f"notebooks/{chapter.path.name}{f', cell {n}' if n else ''}: {message}"


def main(project: Project | None = None) -> int:
    """Print every problem; the exit status is 1 where there is one."""
    project = project or Project()
    problems = [line for path in project.notebooks for line in check(Chapter(project, path, read(path)))]
    problems += figures.named_once(project) + contents(project) + stray_addresses(project)
    problems += numbers.pages(project.root)
    print("\n".join(problems) or f"{len(project.notebooks)} notebooks keep the book's rules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
