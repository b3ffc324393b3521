"""All that the command does, in order."""

from argparse import Namespace

from . import correctness, times, training
from .cifar import Cifar
from .schedule import Deadline, Task
from .sizes import Sizes


def tasks(sizes: Sizes, cifar: Cifar, options: Namespace, deadline: Deadline) -> list[Task]:
    """Every task of every part, recorded or not."""
    return [
        *correctness.tasks(sizes.is_toy, options),
        *times.tasks(sizes, options),
        *training.tasks(sizes, cifar.folder, cifar.is_there, options, deadline),
    ]
