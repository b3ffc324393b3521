"""CIFAR-10 in 10 and in 30 minutes of two CPU cores: ours, and timm's model under timm-style loading.

    python -m book.experiments.minutes rate
    python -m book.experiments.minutes run ours 10 --seed 0
    python -m book.experiments.minutes run late 10 --seed 0

`rate` measures how many training steps each makes in a minute, alone on the machine, and records it. `run` takes from
that record the steps that fit into so many minutes and makes them, however long it takes on a machine that is busy:
what is compared is the accuracy after the same minutes of a quiet machine. Both train the same architecture with the
same recipe (`RECIPE`); they differ in the code of the model, of the loop, and in how images are loaded. A run that is
killed continues where it stopped (ours), or starts again (timm's). `late` and `registers` are ours with other tokens:
the steps that they make in the same time follow from their multiply–adds.
"""

import argparse
import math
import time
from dataclasses import replace

import torch

from dtl_lib import data, ledger
from dtl_lib.config import CIFAR_MEAN, CIFAR_STD, ViTConfig
from dtl_lib.host import data_folder
from dtl_lib.models import ViT
from dtl_lib.tokens import TokenPlan
from dtl_lib.train import Recipe, fit
from dtl_lib.train.evaluation import wilson

CONFIG = ViTConfig(32, 4, dim=96, depth=6, heads=3, classes=10, mean=CIFAR_MEAN, std=CIFAR_STD, crop=1.0)
RECIPE = Recipe(max_steps=1, batch_size=64, lr=2e-3, warmup_steps=200, crop=4, flip=True, smoothing=0.1)
TOKENS = {  # plans that are trained for the same minutes, with their names in the ledger
    "late": ("class token from 3", TokenPlan.of(CONFIG.depth, 3, None, 0)),
    "registers": ("4 registers", TokenPlan.of(CONFIG.depth, 0, 0, 4)),
}
EXPERIMENT, RATES = "cifar10_same_minutes", "cifar10_step_rate"
WARM, TIMED = 20, 60  # steps, seconds
WORKERS = 2


def timm_model():
    """timm's ViT of the same shape."""
    import timm

    shape = {"img_size": 32, "patch_size": 4, "embed_dim": CONFIG.dim, "depth": CONFIG.depth, "num_heads": CONFIG.heads}
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, **shape)


def timm_loader(train: bool, samples, seed: int, workers: int):
    """The same images through torchvision's transforms and a DataLoader with worker processes, as timm's scripts do."""
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms
    from torchvision.datasets import CIFAR10

    steps = [transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)]
    if train:
        steps = [transforms.RandomCrop(32, 4, padding_mode="reflect"), transforms.RandomHorizontalFlip(), *steps]
    images = CIFAR10(data_folder(), train=samples is not None, transform=transforms.Compose(steps))
    images = images if samples is None else Subset(images, samples)
    order = torch.Generator().manual_seed(seed)
    return DataLoader(
        images, RECIPE.batch_size, shuffle=train, drop_last=train, num_workers=workers, generator=order,
        persistent_workers=workers > 0,
    )  # fmt: skip


def timm_steps(seed: int, total: int, workers: int = WORKERS):
    """Trains step by step; yields (step, model)."""
    from timm.optim import create_optimizer_v2

    torch.manual_seed(seed)
    model = timm_model()
    optimizer = create_optimizer_v2(model, "adamw", lr=RECIPE.lr, weight_decay=RECIPE.weight_decay, betas=RECIPE.betas)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=RECIPE.smoothing)
    loader, step = timm_loader(True, _training_samples(), seed, workers), 0
    while step < total:
        for x, y in loader:
            warm = step < RECIPE.warmup_steps
            share = (step - RECIPE.warmup_steps) / max(1, total - RECIPE.warmup_steps)
            rise, fall = (step + 1) / (RECIPE.warmup_steps + 1), (1 + math.cos(math.pi * share)) / 2
            for group in optimizer.param_groups:
                group["lr"] = RECIPE.lr * (rise if warm else fall)
            loss_of(model(x), y).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            yield step, model
            if step == total:
                break


def rate() -> None:
    """Steps a minute of each, three times in turn; the fastest counts, since other work can only slow them down.

    The first record of each sets how many steps a run makes; later ones, "again", say how well it was measured.
    """
    rates = {"ours": [], "timm": []}
    for _ in range(3):
        for which, measured in rates.items():
            measured.append(_rate(which))
            print(f"{which}: {measured[-1]:.0f} steps a minute", flush=True)
    for which, measured in rates.items():
        values = {"steps_a_minute": max(measured), "all": measured, "batch_size": RECIPE.batch_size}
        about = {"n": len(measured), "seed": None, "config": CONFIG.to_dict(), "recipe": RECIPE.to_dict()}
        again = ", again" * any(record.what == which for record in ledger.read(RATES, missing_ok=True))
        ledger.add(RATES, which + again, "python -m book.experiments.minutes rate", "cpu", values, **about)


def _rate(which: str) -> float:
    start, steps = None, 0
    for step in _our_steps() if which == "ours" else (step for step, _ in timm_steps(0, 10**9)):
        if step == WARM:
            start, steps = time.perf_counter(), step
        if start is not None and time.perf_counter() - start > TIMED:
            return (step - steps) * 60 / (time.perf_counter() - start)
    raise RuntimeError("training ended before the time was up")


def _our_steps():
    """The numbers of the library's steps, as they are made."""
    import queue
    import threading

    steps: queue.Queue = queue.Queue()
    stop = threading.Event()

    class TimeIsUp(Exception):
        pass

    def on_step(step, loss, model):
        steps.put(step)
        if stop.is_set():
            raise TimeIsUp

    def train():
        torch.manual_seed(0)
        try:
            fit(ViT(CONFIG), data.load("cifar10"), replace(RECIPE, max_steps=10**6, eval_every=10**6), None,
                on_step=on_step, progress=False)  # fmt: skip
        except TimeIsUp:
            pass

    thread = threading.Thread(target=train)
    thread.start()
    try:
        while True:
            yield steps.get(timeout=120)
    finally:
        stop.set()
        thread.join()


def run(which: str, minutes: int, seed: int) -> None:
    """One run of as many steps as fit into the minutes, and its record."""
    label, plan = TOKENS.get(which, (which, CONFIG.plan))
    name, config = f"{label}, {minutes} minutes", replace(CONFIG, plan=plan)
    if any((record.what, record.seed) == (name, seed) for record in ledger.read(EXPERIMENT, missing_ok=True)):
        return
    rates = {record.what: record.get("steps_a_minute") for record in ledger.read(RATES)}
    rate = rates["timm" if which == "timm" else "ours"]
    total = round(rate * minutes * CONFIG.cost().total / config.cost().total)
    accuracy, right, n = _timm(total, seed) if which == "timm" else _ours(config, total, seed, name)
    low, high = wilson(right, n)
    values = {"accuracy": accuracy, "low": low, "high": high, "steps": total, "minutes": minutes}
    values |= {"images": total * RECIPE.batch_size}
    command = f"python -m book.experiments.minutes run {which} {minutes} --seed {seed}"
    recipe = replace(RECIPE, max_steps=total, seed=seed).to_dict()
    ledger.add(EXPERIMENT, name, command, "cpu", values, n=n, seed=seed, config=config.to_dict(), recipe=recipe)
    print(f"{name}, seed {seed}: {accuracy:.2%} of {n} after {total} steps", flush=True)


def _ours(config: ViTConfig, total: int, seed: int, name: str) -> tuple[float, int, int]:
    torch.manual_seed(seed)
    recipe = replace(RECIPE, max_steps=total, seed=seed, eval_every=total, log_every=500)
    folder = data_folder() / "runs" / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    resume = (folder / "state.safetensors").exists()
    test = fit(
        ViT(config), data.load("cifar10"), recipe, folder, resume=resume, progress=False, checkpoint_every=1000
    ).test
    return test.accuracy, round(test.accuracy * test.n), test.n


def _timm(total: int, seed: int) -> tuple[float, int, int]:
    for step, model in timm_steps(seed, total, workers=1):  # noqa: B007
        if step % 500 == 0:
            print(f"timm, seed {seed}: step {step} of {total}", flush=True)
    model.eval()
    right = n = 0
    with torch.inference_mode():
        for x, y in timm_loader(False, None, 0, 0):
            right, n = right + int((model(x).argmax(dim=1) == y).sum()), n + len(y)
    return right / n, right, n


def _training_samples() -> list[int]:
    """The samples that our split trains on; timm's run leaves the held-out 5,000 out too."""
    from dtl_lib.data.splits import held_out_of, split

    return split(50_000, held_out_of(50_000, "cifar10"))[0].tolist()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("rate")
    run_parser = kinds.add_parser("run")
    run_parser.add_argument("which", choices=("ours", "timm", *TOKENS))
    run_parser.add_argument("minutes", type=int)
    run_parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rate() if args.kind == "rate" else run(args.which, args.minutes, args.seed)


if __name__ == "__main__":
    main()
