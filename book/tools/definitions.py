"""The definition lock: a definition the reader types is the library's.

A cell tagged `lock:dtl_lib.layers.Block` contains one definition, and it is the library's `Block`: the same syntax
tree, docstrings aside, and the same numbers.
"""

import ast
import importlib
import inspect
import textwrap

import torch

LOCK = "lock:"
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


class Drift(AssertionError):
    """A notebook's definition is not the library's."""


def tags(cell) -> list[str]:
    """A cell's tags."""
    return cell.metadata.get("tags", [])


def locked(notebook) -> list[tuple[int, str, ast.AST]]:
    """The locked definitions in order: (number of the cell from 1, dotted name, syntax tree).

    Raises:
        Drift: where a locked cell holds anything but imports and one definition of that name, or the notebook defines
            the name again.
    """
    definitions = []
    for n, cell in enumerate(notebook.cells, 1):
        names = [tag.removeprefix(LOCK) for tag in tags(cell) if tag.startswith(LOCK)]
        if cell.cell_type != "code" or not names:
            continue
        body = [node for node in parse(cell.source).body if not _is_import(node)]
        name = names[0].rpartition(".")[2]
        if len(body) != 1 or not isinstance(body[0], DEFINITIONS) or body[0].name != name:
            raise Drift(f"cell {n} is locked to {names[0]}: it holds imports and one definition, {name}")
        definitions.append((n, names[0], body[0]))
    _refuse_duplicates(notebook, {dotted.rpartition(".")[2] for _, dotted, _ in definitions})
    return definitions


def same_syntax(dotted: str, definition: ast.AST) -> None:
    """Check a definition against the library's, as syntax trees without docstrings.

    Raises:
        Drift: with both definitions, where they differ.
    """
    source = ast.parse(textwrap.dedent(inspect.getsource(library(dotted)))).body[0]
    notebooks, librarys = _without_docstrings(definition), _without_docstrings(source)
    if ast.dump(notebooks) != ast.dump(librarys):
        raise Drift(f"{dotted} differs.\nnotebook:\n{ast.unparse(notebooks)}\n\nlibrary:\n{ast.unparse(librarys)}")


def library(dotted: str):
    """The library's object of a dotted name: a class, a function, or a class's method.

    Raises:
        Drift: where the library has no such name.
    """
    module, _, name = dotted.rpartition(".")
    try:
        holder = importlib.import_module(module)
    except ModuleNotFoundError:
        holder = library(module)
    if not hasattr(holder, name):
        raise Drift(f"the library has no {dotted}")
    return getattr(holder, name)


def same_numbers(dotted: str, mine, case) -> None:
    """Check that a definition computes what the library's does, on seeded inputs.

    Args:
        dotted: the library's name.
        mine: the notebook's object.
        case: a function of the object that returns a tensor; it is called for both under one seed.

    Raises:
        Drift: with the largest difference, or with the error that only the notebook's raises.
    """
    expected = _seeded(case, library(dotted))
    try:
        actual = _seeded(case, mine)
    except Exception as error:
        raise Drift(f"{dotted}: the notebook's stops with {type(error).__name__}: {error}") from error
    if actual.shape != expected.shape or not torch.allclose(actual, expected, rtol=1e-6, atol=1e-7):
        shapes = f"{actual.shape} for {expected.shape}"
        difference = f"{(actual - expected).abs().max():.2g}" if actual.shape == expected.shape else shapes
        raise Drift(f"{dotted}: same inputs, other numbers ({difference}): do its globals mean the same?")


def namespace(notebook, upto: int) -> dict:
    """What the names in the notebook mean at cell `upto`: its imports and its locked definitions so far, executed."""
    names = {"__name__": "notebook"}
    chosen = {n for n, _, _ in locked(notebook)}
    for n, cell in enumerate(notebook.cells[:upto], 1):
        if cell.cell_type == "code":
            body = [node for node in parse(cell.source).body if n in chosen or _is_import(node)]
            exec(compile(ast.Module(body, []), f"cell {n}", "exec"), names)
    return names


def parse(source: str) -> ast.Module:
    """A cell's syntax tree; lines that are the notebook's own (`%` and `!`) count as `pass`."""
    if source.startswith("%%"):
        return ast.parse("")
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse("\n".join(map(_magic, source.splitlines())))


def _seeded(case, definition) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return case(definition)


def _magic(line: str) -> str:
    stripped = line.lstrip()
    return line[: len(line) - len(stripped)] + "pass" if stripped.startswith(("%", "!")) else line


def _is_import(node: ast.AST) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _refuse_duplicates(notebook, names: set[str]) -> None:
    seen: dict[str, int] = {}
    for n, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        for node in parse(cell.source).body:
            name = getattr(node, "name", None)
            if isinstance(node, DEFINITIONS) and name in names and seen.setdefault(name, n) != n:
                raise Drift(f"cell {n} defines {name} again, after cell {seen[name]}: keep the locked one")


def _without_docstrings(tree: ast.AST) -> ast.AST:
    tree = ast.parse(ast.unparse(tree)).body[0]
    for node in ast.walk(tree):
        if isinstance(node, DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
