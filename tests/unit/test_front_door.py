"""`from dtl_lib import …` opens to the core at no cost until a name is used; the stubs name only what there is."""

import ast
import copy
import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import dtl_lib
from tests.unit.test_rooms import PACKAGE

STUBS = sorted(PACKAGE.rglob("*.pyi"))
PROMISED = "TokenPlan Group ViT ViTConfig record from_timm load_pretrained data probes figures train".split()


def told_by(code: str) -> str:
    """What a fresh Python prints."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


def names_of(stub: Path) -> dict[str, str]:
    """Each name that a stub gives, and the module that holds it, relative to the stub's package."""
    imports = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    for node in imports:
        assert all(alias.asname == alias.name for alias in node.names), f"{stub}: `as` makes a name public"
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_importing_the_library_imports_nothing_heavy():
    code = """
import sys, time
start = time.process_time()
import dtl_lib
print(time.process_time() - start, *(name for name in ("torch", "numpy", "timm", "matplotlib") if name in sys.modules))
assert {"TokenPlan", "ViT", "record"} <= set(dir(dtl_lib)) and "torch" not in sys.modules
dtl_lib.TokenPlan.of(12, cls_pos=6)
assert "torch" not in sys.modules
dtl_lib.ViT
assert "torch" in sys.modules
"""
    seconds, *heavy = told_by(code).split()
    assert not heavy
    assert float(seconds) <= 0.1  # of this process's own work, whatever else the machine does


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_a_lazy_door_imports_nothing_heavy(stub):
    package = ".".join(stub.parent.relative_to(PACKAGE.parent).parts)
    assert told_by(f"import sys, {package}; print('torch' in sys.modules)") == "False\n"


@pytest.mark.parametrize("name", PROMISED)
def test_what_the_front_door_promises(name):
    assert name in dir(dtl_lib) and name in dtl_lib.__all__ and getattr(dtl_lib, name) is not None


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_nothing_bears_the_name_of_its_file(stub):
    """Whoever imports such a file first would find the module under the name of what is in it."""
    assert not [name for name, module in names_of(stub).items() if module.split(".")[-1] == name]


def test_what_it_does_not_have_it_says():
    with pytest.raises(AttributeError, match="Tokenplan"):
        _ = dtl_lib.Tokenplan


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: str(stub.relative_to(PACKAGE)))
def test_every_name_in_a_stub_resolves_to_the_thing_itself(stub):
    package = ".".join(stub.parent.relative_to(PACKAGE.parent).parts)
    names, door = names_of(stub), importlib.import_module(package)
    assert names and set(names) == set(door.__all__) and set(names) <= set(dir(door))
    for name, module in names.items():
        if module:
            assert getattr(door, name) is getattr(importlib.import_module(f"{package}.{module}"), name)
        else:
            assert getattr(door, name) is importlib.import_module(f"{package}.{name}")


def test_values_survive_pickling_copying_and_a_star():
    config = dtl_lib.ViTConfig(32, 8, dim=24, depth=2, heads=2, plan=dtl_lib.TokenPlan.of(2, 1, 0, 3))
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(dtl_lib.ViT)) is dtl_lib.ViT
    everything = {}
    exec("from dtl_lib import *", everything)
    assert set(dtl_lib.__all__) <= set(everything) and everything["record"] is dtl_lib.record


def test_types_are_published():
    assert (PACKAGE / "py.typed").is_file()
