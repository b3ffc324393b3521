"""A room imports only from the rooms under it, also where an import stands inside a function."""

import ast
import re
from pathlib import Path

import pytest

import dtl_lib

PACKAGE = Path(dtl_lib.__file__).parent
GROUND = {"paths", "host", "checks", "hashing", "atomic", "progress"}
CORE = {
    "tokens", "config", "config_checks", "architectures", "cost", "layers", "variants", "hooks", "models", "tape",
    "deferred", "recordable", "pretrained", "timm_models", "timm_parts", "timm_layers", "timm_weights", "weights",
    "checkpoint", "zoo", "folding", "moving", "registers", "added", "probes", "figures", "exercises",
}  # fmt: skip
ROOMS = (
    GROUND,
    CORE,
    {"data"},
    {"outputs"},
    {"ledger"},
    {"train"},
    {"stored"},
    {"explore"},
    {"lab"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}
MACHINERY = {name for names in ROOMS[2:] for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyi"))


def imported(source: str, module: str, is_package: bool) -> set[str]:
    """The rooms of `dtl_lib` that a module imports from, wherever in its source; the front door is none."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    dotted = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            dotted |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and _name(node.func) in ("import_module", "__import__"):
            if isinstance(node.args[0], ast.Constant):
                dotted.add(node.args[0].value)
    parts = [name.split(".") for name in dotted if name == "dtl_lib" or name.startswith("dtl_lib.")]
    return {names[1] if len(names) > 1 and names[1] in LEVEL else "__init__" for names in parts} - {"__init__"}


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(path.suffix)


def above(path: Path, source: str | None = None) -> set[str]:
    """What a file imports although it stands above the file's own room."""
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    rooms = imported(path.read_text(encoding="utf-8") if source is None else source, module, path.stem == "__init__")
    return {room for room in rooms if LEVEL[room] > LEVEL[room_of(path)]}


def test_every_room_is_known():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_those_under_it(path):
    if room_of(path) != "__init__":  # the front door names what it opens to
        assert not above(path)


def test_no_file_in_the_core_imports_the_machinery():
    for path in FILES:
        if room_of(path) in GROUND | CORE:
            assert not above(path) & MACHINERY, path


@pytest.mark.parametrize(
    ("line", "room"),
    [
        ("from .data import photos", "data"),
        ("from . import train", "train"),
        ("import dtl_lib.lab.bench", "lab"),
        ("from dtl_lib.cli.main import parser", "cli"),
        ("def later():\n    from .ledger import Record", "ledger"),
        ("import importlib\nimportlib.import_module('dtl_lib.stored')", "stored"),
    ],
)
def test_an_import_of_the_machinery_is_seen(line, room):
    assert above(PACKAGE / "tape.py", line) == {room}
    assert not above(PACKAGE / "cli" / "main.py", line.replace("from .", "from .."))
    assert above(PACKAGE / "probes" / "norms.py", line.replace("from .", "from ..")) == {room}


def test_the_map_of_the_house_is_true():
    """Every file that `dtl_lib/README.md` names is there, every name in it is, and no file of the core is left out."""
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    words = re.findall(r"`([^`]+)`", text)
    paths = {word for word in words if re.fullmatch(r"[\w/]+(\.py|/)", word)}
    roots = (PACKAGE, PACKAGE / "data", PACKAGE / "train", PACKAGE / "lab", PACKAGE.parent)
    assert not [path for path in paths if not any((root / path).exists() for root in roots)]
    flat = {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    assert (
        flat <= paths and {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} <= paths
    )
    for row in re.findall(r"^\| [^|]+ \| `([\w/]+)\.py` \| (.*) \|$", text, re.MULTILINE):
        source = (PACKAGE / f"{row[0]}.py").read_text(encoding="utf-8")
        name = re.search(r"`([\w.]+)`", row[1]).group(1).split(".")[-1]
        assert re.search(rf"(def|class) {name}\b", source), (row[0], name)
