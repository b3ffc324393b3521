"""Every figure a notebook draws has alt text and a caption, in its cell's metadata.

{"mystnb": {"image": {"alt": "…"}, "figure": {"caption": "…", "name": "fig-patches"}}}
"""

import ast

from book.tools.definitions import parse
from book.tools.project import read

DRAWN = ("image/png", "image/jpeg", "image/svg+xml")
LEAST_ALT = 20  # characters: "figure" or "attention map" tells nothing to somebody who cannot see it


def described(chapter):
    """Alt text and caption on every cell that draws: seen in the code, and in the outputs where there are some."""
    for n, cell in chapter.cells("code"):
        executed = chapter.executed.cells[n - 1] if chapter.executed else cell
        if not (_draws(cell.source) or _has_image(executed)):
            continue
        described = cell.metadata.get("mystnb", {})
        alt = described.get("image", {}).get("alt", "")
        if len(alt) < LEAST_ALT:
            yield n, f"draws a figure: needs metadata mystnb.image.alt that says what is to be seen (it is {alt!r})"
        if not described.get("figure", {}).get("caption"):
            yield n, "draws a figure: needs metadata mystnb.figure.caption, which also says how to read it"


def shares(chapter):
    """Maps of attention show the patches alone: `notes=` says what share lies elsewhere."""
    for n, cell in chapter.cells("code"):
        for call in _calls(cell.source):
            given = {word.arg: word.value for word in call.keywords}
            label = given.get("label")
            of_attention = not isinstance(label, ast.Constant) or "attention" in label.value
            if ast.unparse(call.func) == "figures.show_maps" and of_attention and "notes" not in given:
                yield n, "draws attention on the patches alone: notes= says what share each map leaves out"


def named_once(project) -> list[str]:
    """Figures of two chapters, or of one, that have the same name: a link to it would lead to either."""
    seen, problems = {}, []
    for path in project.notebooks:
        for cell in read(path).cells:
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            if name in seen:
                problems.append(f"notebooks/{path.name}: {seen[name]} has a figure {name!r} too: choose another name")
            elif name:
                seen[name] = path.name
    return problems


def _draws(source: str) -> bool:
    functions = (call.func for call in _calls(source))
    return any(isinstance(one, ast.Attribute) and ast.unparse(one.value) in ("plt", "figures") for one in functions)


def _calls(source: str) -> list[ast.Call]:
    return [node for node in ast.walk(parse(source)) if isinstance(node, ast.Call)]


def _has_image(cell) -> bool:
    return any(kind in output.get("data", {}) for output in cell.get("outputs", []) for kind in DRAWN)
