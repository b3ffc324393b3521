"""How long a chapter may take. A build only says what is over: a busy machine is no fault of the chapter's.

`python -m book.tools.budget`, on a machine that does nothing else, decides: it runs every chapter, one at a time, and
exits with 1 where one or the median is over.
"""

import statistics
import sys
from collections.abc import Mapping

from book.tools.execute import NotebookFailed, execute
from book.tools.meter import Cost
from book.tools.project import Project

CHAPTER, MEDIAN = 30.0, 15.0  # seconds


def over_budget(costs: Mapping[str, Cost]) -> list[str]:
    """What is over, one message each.

    Args:
        costs: by the notebook's name.
    """
    problems = [
        f"{name} took {cost.seconds:.0f} s ({cost.cpu:.0f} s of CPU time) of at most {CHAPTER:.0f}: "
        "compute less in it, or compute it by the command line and read the result from the ledger"
        for name, cost in costs.items()
        if cost.seconds > CHAPTER
    ]
    median = statistics.median(cost.seconds for cost in costs.values()) if costs else 0.0
    if median > MEDIAN:
        problems.append(f"the median notebook took {median:.0f} s of at most {MEDIAN:.0f}")
    return problems


def main(project: Project) -> int:
    """Measure every chapter; the exit status is 1 where one is over its budget or does not run."""
    costs, problems = {}, []
    for notebook in project.notebooks:
        try:
            _, costs[notebook.name] = execute(notebook)
        except NotebookFailed as error:
            problems.append(str(error))
        else:
            print(f"{notebook.name}: {costs[notebook.name]}", flush=True)
    problems += over_budget(costs)
    print("\n".join(problems) or "every chapter keeps its budget", file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Project()))
