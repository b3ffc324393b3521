"""Which unit tests are worth a minute: the core's, and those of what changed since `main`; `make quick` runs them."""

import ast
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = ("tokens", "tokens_refused", "config", "cost", "layers", "blocks", "models", "tape", "probes", "progress")


def changed(root: Path = ROOT) -> list[str]:
    """Paths that differ from where this branch left main, files that git does not know yet among them."""
    for base in ("origin/main", "main"):
        fork = _git(root, "merge-base", "HEAD", base)
        if fork:
            break
    return _git(root, "diff", "--name-only", *(fork or ["HEAD"])) + _git(
        root, "ls-files", "--others", "--exclude-standard"
    )


def selected(paths: Iterable[str], root: Path = ROOT) -> list[str]:
    """The core's tests, the tests among `paths`, and those of a module among them.

    A module's tests import it by its own name, or are called after it or its package.
    """
    paths = set(paths)
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in paths}
    called = {f"test_{name}" for module in modules if module.startswith("dtl_lib.") for name in module.split(".")[-2:]}
    found = []
    for test in sorted((root / "tests/unit").glob("test_*.py")):
        name = str(test.relative_to(root))
        core = test.stem.removeprefix("test_") in CORE
        if core or name in paths or test.stem in called or modules & imported(test.read_text("utf8")):
            found.append(name)
    return found


def imported(source: str) -> set[str]:
    """Dotted names of all that a source imports, where it may be a module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _git(root: Path, *command) -> list[str]:
    """The lines it prints; none where git or the repository is missing."""
    try:
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


if __name__ == "__main__":
    print(*selected(changed()))
