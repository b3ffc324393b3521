"""What a training run came to."""

from dataclasses import dataclass
from pathlib import Path

from .evaluation import Evaluation


@dataclass(frozen=True)
class FitResult:
    """What training came to.

    Attributes:
        history: the log's rows: step, epoch, loss, lr, seconds, images_per_s; where the run was evaluated also
            accuracy, low, high, n, held_out_loss and norms.
        best: the row of the weights that are kept, picked on held-out images.
        test: those weights on the test images.
        seconds: wall time of the run, evaluations included.
        images_per_s: training images a second over all processes; evaluations and first steps left out.
        folder: where `best.safetensors`, its card, the state and the log are; None where nothing was saved.
        skipped: steps left out because their gradients were non-finite.
        corrupt: names of images that could not be read, where others stood in.
    """

    history: list[dict]
    best: dict
    test: Evaluation
    seconds: float
    images_per_s: float
    folder: Path | None
    skipped: int = 0
    corrupt: tuple[str, ...] = ()

    def seconds_to(self, accuracy: float) -> float | None:
        """Wall time until the held-out accuracy was first as high as that; None where it never was."""
        rows = (row for row in self.history if row.get("accuracy", 0.0) >= accuracy)
        return next((row["seconds"] for row in rows), None)

    def __str__(self) -> str:
        return (
            f"test {self.test} after {self.seconds:.0f} s, {self.images_per_s:,.0f} images/s; "
            f"held out {self.best['accuracy']:.1%} at step {self.best['step']}"
        )
