"""Whether a run's gradients are still numbers, and what is done where they are not."""

import torch
from torch import Tensor

from .distributed.sharding import whole
from .resuming import BEST

NEVER = 2**62
IN_A_ROW = 20  # steps that `on_nan="skip"` leaves out one after the other before it gives up


class Health:
    """Looks at the gradient's norm, which is the same on every process: so is what follows from it.

    Args:
        run: the `Run`; its recipe says how long the gradient may be, and whether to stop or to skip.
    """

    def __init__(self, run):
        self.run, self._row = run, 0
        self._first = torch.full((), NEVER, device=run.device)  # looked at now and then: asking a GPU makes it wait

    def clip(self) -> Tensor:
        """Limit the gradient's norm as the recipe says; the norm before, a scalar."""
        limit, parameters = self.run.recipe.clip, self.run.parameters
        if limit is None:
            norm = torch.nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])
        else:
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        return whole(norm)

    def should_step(self, norm: Tensor) -> bool:
        """Whether to take this step; notes the first that was not a number."""
        run = self.run
        if run.recipe.on_nan == "skip":
            return self._kept(bool(norm.isfinite()))
        if not run.scaler.is_enabled():  # a scaler leaves such steps out itself, and tries a smaller scale
            seen = norm.isfinite() | (self._first < NEVER)
            self._first = torch.where(seen, self._first, run.progress.step + 1)
        return True

    def check(self, loss: float = 0.0) -> None:
        """A ValueError where a step, or this loss, was non-finite."""
        first = int(self._first)
        if first < NEVER or loss != loss or abs(loss) == float("inf"):
            self._stop("the loss is nan or infinite", min(first, self.run.progress.step))

    def _kept(self, finite: bool) -> bool:
        self._row = 0 if finite else self._row + 1
        self.run.progress.skipped += not finite
        if self._row == IN_A_ROW:
            self._stop(f"{IN_A_ROW} steps in a row had nan or infinite gradients", self.run.progress.step + 1)
        return finite

    def _stop(self, what: str, step: int) -> None:
        run, recipe = self.run, self.run.recipe
        best = run.folder and run.folder / BEST
        begin = f" (--finetune {best} begins with its best weights)" if best and best.is_file() else ""
        skip = "" if recipe.on_nan == "skip" else ", or leave such steps out (--on-nan skip)"
        kept = f"; the last good state is in {run.folder}, for --resume" if run.folder else ""
        new = f"lower lr ({recipe.lr}), warm up, or set clip in a new run{begin}"
        raise ValueError(f"{what} at step {step}: {new}{skip}{kept}")
