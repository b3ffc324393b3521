"""Finds the exercises of a notebook: heading, stub, checker, folded solution.

There are three kinds. `### Build it: …` stands before a locked definition and asks for a plain version of it;
`### Exercise …` stands at the end of a chapter, and so does its one `### Change, run, explain: …`.
An exercise is a Markdown cell that opens with such a heading and says `Difficulty 1 of 3 · 10 minutes`, a code cell
that leaves a name as a stub, a call such as `ch01.check_patchify(patchify)` in the same or a later cell, and, in the
Markdown cell after that call, `<details><summary>Solution</summary>` around a fenced Python block.
"""

import ast
import re
from dataclasses import dataclass

from book.tools.definitions import LOCK, parse, tags

BUILD, CHANGE = "Build it", "Change, run, explain"
HEADING = re.compile(rf"^### (Exercise|{BUILD}|{CHANGE})\b", re.MULTILINE)
EFFORT = re.compile(r"[Dd]ifficulty:?\s*([1-3]) of 3\s*·\s*(\d+) minutes")
SOLUTION = re.compile(r"<details>\s*<summary>Solution</summary>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
FEWEST, MOST = 3, 5


@dataclass(frozen=True)
class Exercise:
    """One exercise; cells count from 1, what is missing is None."""

    module: str
    checker: str
    answer: str
    cell: int
    stub: int | None
    effort: tuple[int, int] | None
    solution: str | None
    kind: str = "Exercise"


def find(notebook) -> list[Exercise]:
    """Every exercise, in order: one for each call of a checker."""
    exercises = []
    for n, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            calls = [node for node in ast.walk(parse(cell.source)) if _is_check(node)]
            exercises += [_exercise(notebook, n, call) for call in calls]
    return exercises


def complete(chapter) -> "Problems":  # noqa: F821
    """Three to five exercises besides what is built, each with heading, effort, stub and folded solution."""
    exercises = find(chapter.notebook)
    count = sum(exercise.kind != BUILD for exercise in exercises)
    if not FEWEST <= count <= MOST:
        yield 0, f"{count} exercises: a chapter has {FEWEST} to {MOST}, each with a call, ch01.check_name(name)"
    number = chapter.path.name[:2]
    for exercise in exercises:
        name = f"{exercise.module}.{exercise.checker}({exercise.answer})"
        if exercise.module != f"ch{number}":
            yield exercise.cell, f"{name}: this chapter's checkers are in ch{number}"
        if exercise.effort is None:
            yield exercise.cell, f"{name} needs a cell '### Exercise …' that says 'Difficulty 1 of 3 · 10 minutes'"
        if exercise.stub is None:
            yield exercise.cell, f"{name} needs a cell before it that leaves {exercise.answer!r} as a stub"
        if exercise.solution is None:
            yield (
                exercise.cell,
                (
                    f"{name} needs, in the Markdown cell right after it, <details><summary>Solution</summary> "
                    "around a ```python block"
                ),
            )


def built_first(chapter) -> "Problems":  # noqa: F821
    """Before each locked definition the reader builds a plain one; the library's is folded."""
    built = [exercise.cell for exercise in find(chapter.notebook) if exercise.kind == BUILD]
    last = 0
    for n, cell in chapter.cells("code"):
        name = next((tag.removeprefix(LOCK) for tag in tags(cell) if tag.startswith(LOCK)), None)
        if name is None:
            continue
        if not any(last < cell < n for cell in built):
            yield (
                n,
                f"{name} is shown before the reader could build it: put a '### {BUILD}: …' with its checker before it",
            )
        if "hide-input" not in tags(cell):
            yield n, f"{name} is in full view: tag the cell 'hide-input', so that it is folded"
        last = n


def changed_once(chapter) -> "Problems":  # noqa: F821
    """A chapter has one exercise that changes the model, runs both and explains."""
    cells = [cell.source for _, cell in chapter.cells("markdown")]
    count = sum(HEADING.findall(source).count(CHANGE) for source in cells)
    if count != 1:
        yield 0, f"{count} exercises '### {CHANGE}: …': a chapter has one"


def definitions_before(notebook, n: int) -> dict:
    """What a reader has at cell `n`: imports, definitions and literal constants of the cells before it, executed."""
    names: dict = {"__name__": "notebook"}
    for cell in notebook.cells[: n - 1]:
        if cell.cell_type == "code":
            body = [node for node in parse(cell.source).body if _is_declaration(node)]
            exec(compile(ast.Module(body, []), "notebook", "exec"), names)
    return names


def _exercise(notebook, n: int, call: ast.Call) -> Exercise:
    answer = call.args[0].id
    before = notebook.cells[:n]
    stubs = [i for i, cell in enumerate(before, 1) if cell.cell_type == "code" and answer in _defined(cell.source)]
    headings = [cell.source for cell in before if cell.cell_type == "markdown" and HEADING.search(cell.source)]
    effort = EFFORT.search(headings[-1]) if headings else None
    kinds = HEADING.findall(headings[-1]) if headings else ["Exercise"]
    following = notebook.cells[n] if n < len(notebook.cells) else None
    solution = SOLUTION.search(following.source) if following and following.cell_type == "markdown" else None
    return Exercise(
        module=call.func.value.id,
        checker=call.func.attr,
        answer=answer,
        cell=n,
        stub=stubs[-1] if stubs else None,
        effort=(int(effort[1]), int(effort[2])) if effort else None,
        solution=solution[1] if solution else None,
        kind=kinds[-1],
    )


def _is_check(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1):
        return False
    module = getattr(node.func.value, "id", "")
    return bool(re.fullmatch(r"ch\d\d", module)) and node.func.attr.startswith("check_") and hasattr(node.args[0], "id")


def _defined(source: str) -> set[str]:
    names = set()
    for node in parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _is_declaration(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        try:
            ast.literal_eval(node.value)
        except ValueError:
            return False
        return True
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))
