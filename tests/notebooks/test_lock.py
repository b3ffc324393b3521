"""What the reader types is the library's; planted drift, in syntax and in what names mean, is found."""

import ast
import inspect
import textwrap

import pytest

from book.tools.definitions import Drift, library, locked, namespace, same_numbers, same_syntax, tags
from book.tools.project import Project, read
from tests.notebooks.conftest import code
from tests.notebooks.lock_cases import NUMERIC

LAYER_SCALE = "lock:dtl_lib.layers.LayerScale"
IMPORTS = "import torch\nfrom torch import Tensor, nn"
TYPED = textwrap.dedent('''
    class LayerScale(nn.Module):
        """Said in other words."""

        def __init__(self, dim: int, initial: float):
            super().__init__()
            self.factor = nn.Parameter(torch.full((dim,), float(initial)))  # a comment

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor
''')


def check(notebook) -> int:
    """Both halves of the lock over a notebook; returns how many definitions it locks."""
    definitions = locked(notebook)
    for n, dotted, definition in definitions:
        same_syntax(dotted, definition)
        assert dotted in NUMERIC, f"{dotted} is locked: it needs a case in tests/notebooks/lock_cases.py"
        same_numbers(dotted, namespace(notebook, n)[dotted.rpartition(".")[2]], NUMERIC[dotted])
    return len(definitions)


@pytest.mark.parametrize("path", Project().notebooks, ids=lambda path: path.stem)
def test_the_chapters_definitions_are_the_librarys(path):
    notebook = read(path)
    assert check(notebook) == sum(tag.startswith("lock:") for cell in notebook.cells for tag in tags(cell))


def test_the_librarys_definition_passes(notebook):
    assert check(notebook("%matplotlib inline\n!ls\n" + IMPORTS, code(TYPED, LAYER_SCALE), "x = 1")) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * self.factor", "x + self.factor"),
        ("x * self.factor", "self.factor * x"),
        ("initial: float", "initial"),
        ("dim: int", "width: int"),
        ("nn.Parameter", "torch.nn.Parameter"),
        ("class LayerScale(nn.Module)", "class LayerScale(nn.Identity)"),
    ],
)
def test_drift_in_syntax_is_found(notebook, old, new):
    with pytest.raises(Drift, match=r"LayerScale differs|stops"):
        check(notebook(IMPORTS, code(TYPED.replace(old, new), LAYER_SCALE)))


GELU = "from torch.nn import functional as F"


@pytest.mark.parametrize(
    ("imports", "drifts"),
    [(GELU, False), ("class F:\n    pass\nimport types\n" + GELU, False), ("import fake_functional as F", True)],
)
def test_drift_in_what_a_global_means_is_found(notebook, imports, drifts, tmp_path, monkeypatch):
    (tmp_path / "fake_functional.py").write_text("from torch.nn.functional import relu as gelu")
    monkeypatch.syspath_prepend(tmp_path)
    mlp = textwrap.dedent(inspect.getsource(library("dtl_lib.layers.Mlp")))
    planted = notebook(IMPORTS, imports, code(mlp, "lock:dtl_lib.layers.Mlp"))
    if drifts:
        with pytest.raises(Drift, match="other numbers"):
            check(planted)
    else:
        assert check(planted) == 1


def test_a_missing_import_is_found(notebook):
    with pytest.raises((Drift, NameError), match="nn"):
        check(
            notebook("import torch", code(TYPED.replace("Tensor", "torch.Tensor"), LAYER_SCALE), "from torch import nn")
        )


def test_a_definition_twice_is_refused(notebook):
    with pytest.raises(Drift, match="cell 3 defines LayerScale again, after cell 2"):
        check(notebook(IMPORTS, code(TYPED, LAYER_SCALE), TYPED))


def test_a_locked_cell_holds_one_definition_of_that_name(notebook):
    for source in (TYPED + "\nx = 1", "x = 1", TYPED.replace("LayerScale", "Scale")):
        with pytest.raises(Drift, match="it holds imports and one definition, LayerScale"):
            check(notebook(IMPORTS, code(source, LAYER_SCALE)))


def test_a_name_the_library_does_not_have_is_refused(notebook):
    with pytest.raises(Drift, match=r"no dtl_lib\.layers\.Scale"):
        check(notebook(IMPORTS, code(TYPED.replace("LayerScale", "Scale"), "lock:dtl_lib.layers.Scale")))


def test_a_method_can_be_locked():
    method = textwrap.dedent(inspect.getsource(library("dtl_lib.layers.LayerScale.forward")))
    same_syntax("dtl_lib.layers.LayerScale.forward", ast.parse(method).body[0])


@pytest.mark.parametrize("dotted", sorted(NUMERIC))
def test_a_numeric_case_sees_what_the_definition_computes(dotted):
    """A case passes for the library itself, and fails when its result is scaled by a hair."""
    case, theirs = NUMERIC[dotted], library(dotted)
    same_numbers(dotted, theirs, case)
    with pytest.raises(Drift):
        same_numbers(dotted, _scaled(theirs), case)


def _scaled(theirs):
    if not inspect.isclass(theirs):
        return lambda *args: theirs(*args) * 1.001

    class Scaled(theirs):
        def forward(self, *args):
            return super().forward(*args) * 1.001

    return Scaled
