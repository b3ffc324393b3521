"""Builds the book: runs the notebooks whose outputs are out of date, checks them, renders them into `_build/html`."""

import subprocess
import sys

from book.tools import figures, lint, numbers
from book.tools.budget import over_budget
from book.tools.execute import Cache, refresh
from book.tools.project import Project, read

RENDER = ("-c", "from jupyter_book.cli.main import main; main()", "build", ".", "-W", "-n", "--keep-going", "-q")


def check_executed(project: Project) -> list[str]:
    """What only the outputs and the ledger show: figures without alt text, numbers in prose that are in neither."""
    cache, problems = Cache(project), numbers.pages(project.root)
    for path in project.notebooks:
        chapter = lint.Chapter(project, path, read(path), cache.executed(path))
        for rule in (figures.described, numbers.backed):
            problems += [f"notebooks/{path.name}, cell {n}: {message}" for n, message in rule(chapter)]
    return problems


def build(project: Project) -> int:
    """Build the book; returns the exit status, 0 where every notebook ran and no page warned."""
    problems = refresh(project) or check_executed(project)
    if slow := over_budget({name: run.cost for name, run in Cache(project).runs().items()}):
        print("over budget, unless this machine is slow or busy ('make budget' decides):", *slow, sep="\n")
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    rendered = subprocess.run([sys.executable, *RENDER], cwd=project.root)
    if rendered.returncode == 0:
        print(f"the book is at {(project.built / 'html' / 'index.html').relative_to(project.root)}")
    return rendered.returncode


if __name__ == "__main__":
    sys.exit(build(Project()))
