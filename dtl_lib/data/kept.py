"""Worker processes that are kept from one evaluation to the next."""

from collections.abc import Iterator

from .corrupt import CorruptImages


class KeptWorkers:
    """Worker processes that stay from one evaluation of a part of a data set to the next.

    Where processes are spawned, each imports torch anew: several seconds, which every evaluation of a training run
    would take again.
    """

    def __init__(self):
        self.loader = None

    def again(self, images, corrupt: CorruptImages | None, workers: int):
        """The loader, where it is of these images, normalised like these; None where it is of others."""
        if self.loader is None or not self.loader.dataset.is_of(images, corrupt, workers, self.loader.num_workers):
            self.close()
        return self.loader

    def close(self) -> None:
        """End the processes."""
        self.loader = None


class Requests:
    """The requests of the evaluation, or the training, that is next: a `DataLoader`'s sampler cannot be exchanged."""

    pieces: Iterator = iter(())

    def __iter__(self):
        return self.pieces
