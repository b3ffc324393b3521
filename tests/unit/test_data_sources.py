"""The registry of data sets: one file a kind of source, one row a name; and the room imports no model."""

import inspect
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest

from dtl_lib.config import configurations
from dtl_lib.data import sources
from dtl_lib.train.recipe import recipes

ROWS = {**sources.SOURCES, "hfds/…": sources.TIMM}
IMPORT_ALL = """
import importlib, pkgutil, sys
import dtl_lib.data
for module in pkgutil.walk_packages(dtl_lib.data.__path__, "dtl_lib.data."):
    importlib.import_module(module.name)
print(*sorted(name for name in sys.modules if name.startswith("dtl_lib.")))
"""


@pytest.mark.parametrize("name", ROWS)
def test_a_row_names_a_file_with_a_load_function_like_the_others(name):
    module = import_module(f"dtl_lib.data.sources.{ROWS[name].module}")
    parameters = list(inspect.signature(module.load).parameters)
    order = [parameter for parameter in inspect.signature(sources.load).parameters if parameter in parameters]
    assert parameters == order, "the parameters of data.load, in its order"
    assert {"samples", "image_size"} <= set(parameters)
    assert ROWS[name].in_files == ("path" in parameters)
    assert ROWS[name].model in configurations() and ROWS[name].recipe in recipes()


def test_load_hands_over_the_arguments_that_a_source_takes(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "new", sources.Source("new"))
    monkeypatch.setitem(sources.SOURCES, "other", sources.Source("new"))
    module = SimpleNamespace(load=lambda name, path, samples=None: (name, path, samples))
    monkeypatch.setitem(sys.modules, "dtl_lib.data.sources.new", module)
    assert sources.load("new", "there", image_size=8, level=2, samples=3) == ("new", "there", 3)
    assert sources.load("other") == ("other", None, None)


def test_the_data_room_imports_no_model():
    run = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    imported = set(run.stdout.split())
    assert {"dtl_lib.data.loader", "dtl_lib.data.sources.timm_readers", "dtl_lib.data.shapes.generator"} <= imported
    core = {"layers", "models", "tape", "pretrained", "timm_models", "checkpoint", "probes", "lab", "cli"}
    assert not imported & {f"dtl_lib.{name}" for name in core}
