"""Run under torchrun: the bytes of tensors that each process holds of a sharded model, saved by each."""

import gc
import json
import sys
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dtl_lib.data import InMemory
from dtl_lib.data import loader as batches
from dtl_lib.data.keyed import keyed_generators
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.train import Recipe, evaluate
from dtl_lib.train.distributed.processes import joined
from dtl_lib.train.distributed.sharding import collect
from dtl_lib.train.distributed.signals import StopRequest
from dtl_lib.train.evaluation import EvaluationStopped
from dtl_lib.train.loop import train_step
from dtl_lib.train.run import Run

CONFIG = ViTConfig(16, 8, dim=128, depth=12, heads=2, classes=5)
RECIPE = Recipe(max_steps=4, batch_size=8, ema=0.9)
SEED = 3


class Sets:
    """Tiny pictures, so that bytes are the model's; three to look at are too few for four processes."""

    def __init__(self, count: int = 3):
        torch.manual_seed(0)
        pixels, targets = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8), torch.arange(24) % 5
        what = "random", tuple("abcde"), (0.5,) * 3, (0.25,) * 3
        self.train = InMemory(*what, pixels, targets)
        self.held_out = self.test = InMemory(*what, pixels[:count], targets[:count])


class Held(TorchDispatchMode):
    """Inside, `most` is the largest number of bytes of tensors alive, beyond those alive before.

    The allocations that `peak_bytes` reads say too much here: gloo's threads let go of tensors unseen.
    """

    def __init__(self):
        super().__init__()
        gc.collect()
        self.known, self.most = {}, 0
        for one in gc.get_objects():
            self._know(one)
        self.before = self.now()

    def now(self) -> int:
        """Bytes of the tensors that are alive."""
        there = {key: torch.UntypedStorage._new_with_weak_ptr(ref.cdata) for key, ref in self.known.items()}
        self.known = {key: self.known[key] for key, storage in there.items() if storage is not None}
        return sum(storage.nbytes() for storage in there.values() if storage is not None)

    def __torch_dispatch__(self, act, types, args=(), kwargs=None):
        if any(issubclass(one, DTensor) for one in types):
            return NotImplemented  # what it does to its part comes here too
        found = act(*args, **(kwargs or {}))
        before = len(self.known)
        for one in tree_leaves(found):
            self._know(one)
        if len(self.known) > before or act.namespace != "aten":  # others change no memory, and looking takes long
            self.most = max(self.most, self.now() - self.before)
        return found

    def _know(self, tensor) -> None:
        if type(tensor) in (torch.Tensor, torch.nn.Parameter):  # what wraps others has no memory of its own
            storage = tensor.untyped_storage()
            self.known.setdefault(storage._cdata, StorageWeakRef(storage))


def most(act) -> int:
    """Bytes that are held at most while `act` runs, beyond those from before."""
    with Held() as held:
        act()
    return held.most


def fresh() -> ViT:
    """The model that `dtl train` would make."""
    with keyed_generators(torch.device("cpu"), SEED):
        return ViT(CONFIG)


def begun(processes, folder: Path, resume: bool = False) -> Run:
    """A run of the sharded model."""
    return Run(
        fresh(), Sets(), RECIPE, folder, device="cpu", resume=resume, card={}, tensorboard=False, progress=False,
        processes=processes, shard=True, compiled=False, workers=0, max_corrupt=0.0,
    )  # fmt: skip


def steps(run: Run, number: int) -> None:
    """As the loop takes them."""
    rank, world_size, begin = run.processes.rank, run.processes.world_size, run.train_state.step
    for x, y in batches.training_batches(
        run.sets.train, RECIPE, begin, begin + number, 0, rank=rank, world_size=world_size
    ):
        run.count(train_step(run.learner, x, y, run.train_state.step))


def measured(processes, folder: Path, stack: ExitStack) -> dict[str, int]:
    """What is held between steps, and by what the run does then, the peak beyond that."""
    before = Held().before
    run = stack.enter_context(begun(processes, folder))
    found = {"same": _is_fresh(run)}
    steps(run, 2)
    found |= {"held": Held().before - before, "save": most(run.save), "evaluate": most(run.evaluate)}
    run.save()
    found["held after"] = Held().before - before
    found["step"] = most(lambda: steps(run, 1))
    found["resume"] = most(lambda: begun(processes, folder, resume=True))
    found["end"] = most(run.end)
    found["abandoned"] = _is_abandoned(run)
    return found


def _is_fresh(run: Run) -> bool:
    """Whether the run begins with the weights that one process would begin with, to the last bit."""
    found = collect(run.learner.model.state_dict(), run.processes.is_main)
    expected = fresh().state_dict() if run.processes.is_main else {}
    return len(found) == len(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


def _is_abandoned(run: Run) -> bool:
    """Whether an evaluation ends here when the last process alone is asked to stop on the way."""
    asked = StopRequest()
    asked.stop = run.processes.rank == run.processes.world_size - 1
    try:
        evaluate(run.learner.model, Sets(24).test, 1, processes=run.processes, stop_request=asked)
    except EvaluationStopped:
        return True
    return False


def main(folder: str) -> None:
    with joined(torch.device("cpu"), 60) as processes, ExitStack() as stack:
        place = Path(folder) / str(processes.world_size)
        found = measured(processes, place, stack)
        (place / f"{processes.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
