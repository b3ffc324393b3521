"""Brings every notebook to the form that lint wants: first cell, badge, ids, kernel, outputs of the tagged cells alone.

With `--outputs` the notebooks are run first and the outputs of the tagged cells stored.
"""

import argparse
import re

import nbformat

from book.tools.definitions import LOCK, tags
from book.tools.execute import execute
from book.tools.lint import CHECKED, RAN
from book.tools.project import Project, read

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sync(project: Project, path, outputs: bool = False) -> bool:
    """Rewrite one notebook where that changes it; returns whether it did."""
    before = path.read_text("utf8")
    notebook = read(path)
    if outputs:
        executed, _ = execute(path)
        for cell, executed_cell in zip(notebook.cells, executed.cells):
            if CHECKED in tags(cell):
                cell.outputs = executed_cell.outputs
    for number, cell in enumerate(notebook.cells):
        cell["id"] = cell.get("id") or f"cell-{number}"
        if cell.cell_type == "code":
            _fold(cell)
            cell.outputs = cell.outputs if CHECKED in tags(cell) else []
            cell.execution_count = RAN if cell.outputs else None
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = RAN
    _first_cell(project, notebook)
    _badge(project, path, notebook.cells[0])
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    after = nbformat.writes(notebook) + "\n"
    if after != before:
        path.write_text(after, "utf8")
    return after != before


def _fold(cell) -> None:
    """A definition of the library that follows the reader's own is folded, on the page and in JupyterLab."""
    if "hide-input" in tags(cell) and any(tag.startswith(LOCK) for tag in tags(cell)):
        cell.metadata["jupyter"] = {"source_hidden": True}
        cell.metadata.setdefault("mystnb", {})["code_prompt_show"] = "The library's version"
        cell.metadata["mystnb"]["code_prompt_hide"] = "Hide the library's version"


def _first_cell(project: Project, notebook) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if code and 'find_spec("dtl_lib")' in code[0].source:
        code[0].source = project.first_cell
    else:
        cell = nbformat.v4.new_code_cell(project.first_cell, id="install", metadata={"tags": ["hide-input"]})
        notebook.cells.insert(1, cell)


def _badge(project: Project, path, cell) -> None:
    badge = project.badge(path)
    source, replaced = re.subn(r"\[[^\]]*\]\(https://colab[^)]*\)", lambda _: badge, cell.source, count=1)
    title, _, rest = cell.source.partition("\n")
    cell.source = source if replaced else f"{title}\n\n{badge}\n{rest}".rstrip()


def main() -> None:
    """Rewrite the notebooks and say which changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", action="store_true", help="run the notebooks and store the tagged cells' outputs")
    options = parser.parse_args()
    project = Project()
    for path in project.notebooks:
        if sync(project, path, options.outputs):
            print(f"{path.name}: rewritten")


if __name__ == "__main__":
    main()
