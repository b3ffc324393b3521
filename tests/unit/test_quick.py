"""Which tests `make quick` runs."""

import subprocess

import pytest

from tests.quick import CORE, ROOT, changed, imported, selected

ALWAYS = [f"tests/unit/test_{name}.py" for name in CORE]


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit on main, and a branch."""

    def git(*command):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *command], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "tests/unit").mkdir(parents=True)
    for name, source in {"a": "from dtl_lib.part import x", "b": "import dtl_lib.other", "tokens": ""}.items():
        (tmp_path / f"tests/unit/test_{name}.py").write_text(source)
    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "first")
    git("checkout", "-b", "branch")
    return tmp_path, git


def test_all_that_a_branch_changed_counts(repository):
    root, git = repository
    assert changed(root) == []
    (root / "tests/unit/test_b.py").write_text("changed")
    git("commit", "-am", "second")
    (root / "tests/unit/test_a.py").write_text("changed")
    (root / "new.py").write_text("")
    assert sorted(changed(root)) == ["new.py", "tests/unit/test_a.py", "tests/unit/test_b.py"]


def test_without_a_repository_the_core_alone(tmp_path):
    assert changed(tmp_path) == []


def test_the_core_a_changed_test_and_the_tests_of_a_changed_module(repository):
    root, _ = repository
    tests = {name: f"tests/unit/test_{name}.py" for name in ("a", "b", "tokens")}
    assert selected([], root) == [tests["tokens"]]
    assert selected(["dtl_lib/part.py"], root) == [tests["a"], tests["tokens"]]
    assert selected([tests["b"], "README.md"], root) == [tests["b"], tests["tokens"]]


def test_here_the_core_is_there_and_the_rest_is_left_out():
    assert set(ALWAYS) <= set(selected([]))
    assert "tests/unit/test_train.py" in selected(["dtl_lib/train/loop.py"])
    assert len(selected([])) == len(CORE) < len(list((ROOT / "tests/unit").glob("test_*.py"))) / 4


def test_what_is_stored_is_tested_where_its_module_changes():
    """No test is called after a module in `stored` alone: each imports its own."""
    for test in (ROOT / "tests/unit").glob("test_stored_*.py"):
        name = test.stem.removeprefix("test_stored_")
        assert (ROOT / f"dtl_lib/stored/{name}.py").is_file()
        assert f"dtl_lib.stored.{name}" in imported(test.read_text("utf8")), test


def test_a_name_may_be_a_module():
    source = "import a.b\nfrom c.d import e, f\nfrom g import h"
    assert imported(source) == {"a.b", "c.d", "c.d.e", "c.d.f", "g", "g.h"}
