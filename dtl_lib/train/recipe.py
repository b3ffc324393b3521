"""How to train, as one frozen value that every log row and checkpoint carries."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

from ..checks import check_types, shortened
from ..data.augment import Augment

AMP = ("auto", "off", "bf16", "fp16")
OPTIMIZERS = ("adamw", "lamb")
LOSSES = ("ce", "bce")
DISTILL = ("hard", "soft")
ON_NAN = ("stop", "skip")


def _note(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what training does to given weights on given data (`dtl train --help` lists the fields).

    Raises:
        ValueError: where a value is out of range or two contradict each other, with what would be right.
    """

    epochs: float | None = _note(None, "passes over the training images; 1 if max_steps is not given either")
    max_steps: int | None = _note(None, "optimiser steps; with epochs, whichever ends first")
    batch_size: int = _note(128, "images in one optimiser step, over all processes")
    accumulate: int = _note(1, "gradient accumulation: parts that a batch is split into, to save memory")
    optimizer: str = _note("adamw", "adamw or lamb")
    lr: float = _note(1e-3, "peak learning rate; it is not scaled by the batch size")
    min_lr: float = _note(0.0, "learning rate at the end of the cosine schedule")
    warmup_steps: int = _note(0, "steps of linear warm-up to lr")
    warmup_epochs: float = _note(0.0, "epochs of linear warm-up, instead of warmup_steps")
    weight_decay: float = _note(
        0.05, "weight decay, on weight matrices only: not on tokens, positions, norms or biases"
    )
    layer_decay: float | None = _note(
        None, "layer-wise learning-rate decay for fine-tuning: factor from a block to the one before it (0.75 is usual)"
    )
    freeze: str | None = _note(
        None,
        "parameters to freeze: backbone (all but the classifiers), or patterns of names, such as blocks.[0-5].*,norm.*",
    )
    betas: tuple[float, float] = _note((0.9, 0.99), "decay rates of the averages of the gradient and of its square")
    clip: float | None = _note(1.0, "maximum norm of the gradient; none: no clipping")
    loss: str = _note("ce", "ce: cross-entropy over the classes; bce: a binary cross-entropy for each class")
    smoothing: float = _note(0.0, "label smoothing")
    mixup: float = _note(0.0, "mixup's alpha; 0: off")
    cutmix: float = _note(0.0, "CutMix's alpha; 0: off; with mixup, each is used half of the time")
    repeats: int = _note(1, "copies of each image in a batch, augmented independently (repeated augmentation)")
    crop: int = _note(0, "pixels of reflect padding for random crops; for photos, any value means random resized crops")
    scale: float = _note(0.08, "smallest fraction of a photo's area that a random resized crop keeps")
    flip: bool = _note(False, "flip horizontally half of the time")
    randaugment: int = _note(0, "RandAugment's magnitude, 1 to 10; 0: off")
    trivial: bool = _note(False, "TrivialAugment: one random operation of random strength for each image")
    three_augment: bool = _note(False, "DeiT III's 3-Augment: grey scale, solarisation or blur")
    color_jitter: float = _note(0.0, "strength of random brightness, contrast and saturation")
    erase: float = _note(0.0, "probability of random erasing")
    distill: str | None = _note(
        None, "learn from the teacher's predicted class (hard, the default with a teacher) or its logits (soft)"
    )
    distill_from: str | None = _note(None, "teacher: a timm name, zoo/… or a path")
    distill_weight: float = _note(0.5, "weight of the teacher's term in the loss, from 0 to 1")
    distill_temperature: float = _note(3.0, "temperature of soft distillation")
    ema: float | None = _note(None, "decay of the moving average of the weights, which is then evaluated and saved")
    amp: str = _note("auto", "mixed precision: auto (on a GPU), off, bf16 or fp16")
    on_nan: str = _note("stop", "on a non-finite loss: stop, or skip the step")
    seed: int = _note(0, "sets everything random: initial weights, data order, augmentation, mixing, stochastic depth")
    eval_every: int | None = _note(None, "steps between evaluations on held-out images; none: once an epoch")
    log_every: int = _note(50, "steps between rows of the log")

    def __post_init__(self):
        check_types(self)
        for name, least in _LEAST.items():
            _check(self, name, least)
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is from 0 to 1, not {getattr(self, name)}")
        if self.epochs is None and self.max_steps is None:
            object.__setattr__(self, "epochs", 1.0)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are two numbers from 0 to below 1, such as 0.9 0.99, not {self.betas}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is between 0 and 1, such as 0.999, or none; not {self.ema}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is above 0 and at most 1, such as 0.75, or none; not {self.layer_decay}")
        if self.freeze is not None and not self.freeze.strip(", "):
            raise ValueError(
                f"freeze is backbone, or patterns of parameter names separated by commas, not {self.freeze!r}"
            )
        if self.distill_from is not None and self.distill is None:
            object.__setattr__(self, "distill", "hard")
        self._choose()
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} does not divide batch_size={self.batch_size}")
        if self.warmup_steps and self.warmup_epochs:
            raise ValueError("warmup_steps and warmup_epochs set the same thing: give one")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr} is above lr={self.lr}: the learning rate falls from lr to min_lr")

    def _choose(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                names = ", ".join("none" if choice is None else choice for choice in choices)
                raise ValueError(f"{name} is one of {names}, not {value!r}")
        if self.distill and not self.distill_from:
            raise ValueError(f"distill={self.distill!r} needs a teacher: give distill_from, such as regnety_160")
        self.augment()  # whose fields may contradict each other
        if self.repeats > self.batch_size:
            raise ValueError(f"repeats={self.repeats} copies of an image are more than batch_size={self.batch_size}")

    def steps(self, images: int) -> int:
        """Optimiser steps in all, on `images` training images; the rest of a batch at an epoch's end is left out."""
        by_epochs = None if self.epochs is None else max(1, round(self.epochs * self.steps_per_epoch(images)))
        return min(steps for steps in (by_epochs, self.max_steps) if steps is not None)

    def steps_per_epoch(self, images: int) -> int:
        """Whole batches in one pass."""
        if images < self.batch_size:
            raise ValueError(
                f"batch_size={self.batch_size} is more than the {images} training images there are: lower it"
            )
        return images // self.batch_size

    def augment(self):
        """The `data.Augment` these fields ask for; None where none is on."""
        asked = {name: getattr(self, name) for name in _AUGMENT}
        return Augment(**asked, scale=self.scale) if any(asked.values()) else None

    @property
    def slow_augmentation(self) -> bool:
        """Whether images are augmented one by one, by Pillow, on the CPU."""
        return bool(self.randaugment or self.three_augment or self.color_jitter)

    def __repr__(self) -> str:
        """The call that makes it, with what differs from the defaults."""
        usual, own = vars(Recipe(max_steps=self.max_steps)) | {"max_steps": None}, vars(self)
        return f"Recipe({', '.join(f'{name}={value!r}' for name, value in own.items() if value != usual[name])})"

    def to_dict(self) -> dict:
        """Plain values for JSON; `from_dict` is its inverse."""
        return asdict(self) | {"betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Recipe":
        """A recipe from `to_dict`'s values; an unknown field is a ValueError."""
        if not isinstance(values, Mapping):
            raise ValueError(f"a recipe is a dictionary of its fields, not {shortened(values)}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"a recipe has no {', '.join(unknown)}; its fields are {', '.join(sorted(known))}")
        return cls(**values)


_AUGMENT = ("crop", "flip", "randaugment", "trivial", "three_augment", "color_jitter", "erase")
_SHARES = ("smoothing", "erase", "color_jitter", "scale", "distill_weight")
_CHOICES = {"optimizer": OPTIMIZERS, "loss": LOSSES, "distill": (None, *DISTILL), "amp": AMP, "on_nan": ON_NAN}
_LEAST = {
    "layer_decay": 0.0,
    "epochs": 0.0, "max_steps": 1, "batch_size": 1, "accumulate": 1, "lr": 0.0, "min_lr": 0.0, "warmup_steps": 0,
    "warmup_epochs": 0.0, "weight_decay": 0.0, "clip": 0.0, "mixup": 0.0, "cutmix": 0.0, "crop": 0, "randaugment": 0,
    "seed": 0, "eval_every": 1, "log_every": 1, "repeats": 1, "distill_weight": 0.0, "distill_temperature": 0.0,
}  # fmt: skip
_ABOVE = ("epochs", "lr", "clip", "distill_temperature")


def _check(recipe: Recipe, name: str, least: int | float) -> None:
    value = getattr(recipe, name)
    if value is not None and (value < least or (name in _ABOVE and value == 0)):
        raise ValueError(f"{name} is {'above 0' if name in _ABOVE else f'{least} or more'}, not {value}")


def recipes() -> dict[str, Recipe]:
    """Recipes by name: one to begin with for each data set, two more for CIFAR on a GPU, and those of papers.

    Learning rates are for the batch size beside them; nothing scales them when it changes. Stochastic depth belongs to
    the model: `--drop-path`.
    """
    cifar = Recipe(
        epochs=100, batch_size=128, lr=1e-3, warmup_epochs=5, smoothing=0.1, crop=4, flip=True, erase=0.1, ema=0.999
    )
    imagenet = Recipe(
        epochs=300, batch_size=1024, lr=1e-3, min_lr=1e-5, warmup_epochs=5, betas=(0.9, 0.999), smoothing=0.1,
        mixup=0.8, cutmix=1.0, crop=1, flip=True, randaugment=9, color_jitter=0.3, erase=0.25, ema=0.9999,
    )  # fmt: skip
    return {
        "shapes": Recipe(max_steps=1100, batch_size=32, lr=2e-3, warmup_steps=50),
        "cifar10": cifar,
        "cifar100": cifar,
        "imagenet": imagenet,
        **_cifar_on_a_gpu(),
        **_papers(),
    }


def _cifar_on_a_gpu() -> dict[str, Recipe]:
    """The long one aims at the best test accuracy, for vit_cifar_patch2_32 or vit_cifar_wide_patch4_32; the fast one at
    a good one in about a minute, for vit_cifar_small_patch4_32. Both look at the held-out images every fifth epoch."""
    five_epochs = 5 * (45_000 // 512)
    full = Recipe(
        epochs=300, batch_size=512, lr=1e-3, min_lr=1e-5, warmup_epochs=10, betas=(0.9, 0.999), smoothing=0.1,
        mixup=0.8, cutmix=1.0, crop=4, flip=True, trivial=True, erase=0.25, ema=0.999, eval_every=five_epochs,
    )  # fmt: skip
    fast = Recipe(
        epochs=60, batch_size=512, lr=2e-3, warmup_epochs=3, smoothing=0.1, crop=4, flip=True, trivial=True,
        eval_every=five_epochs,
    )  # fmt: skip
    return {"cifar10_full": full, "cifar10_fast": fast}


def _papers() -> dict[str, Recipe]:
    """DeiT (Touvron et al. 2021, table 9): 1e-3 is 5e-4 · 1024 / 512, and RandAugment takes colour jitter's place.

    CaiT (Touvron et al. 2021): DeiT's, for 400 epochs. DeiT III (Touvron et al. 2022, table 1, ImageNet-1k; 400 epochs
    are its shorter schedule), whose authors' commands have a weight decay of 0.05 and for the small model a learning
    rate of 4e-3. Stochastic depth: DeiT 0.1, CaiT the configuration's own, DeiT III 0.05 (small) or 0.2 (base).
    """
    shared = dict(min_lr=1e-5, warmup_epochs=5, betas=(0.9, 0.999), mixup=0.8, cutmix=1.0, repeats=3, crop=1, flip=True)
    deit = Recipe(
        **shared, epochs=300, batch_size=1024, lr=1e-3, weight_decay=0.05, clip=None, smoothing=0.1, randaugment=9,
        erase=0.25,
    )  # fmt: skip
    deit3 = Recipe(
        **shared, epochs=800, batch_size=2048, optimizer="lamb", lr=3e-3, weight_decay=0.02, loss="bce",
        three_augment=True, color_jitter=0.3,
    )  # fmt: skip
    return {"deit": deit, "cait": replace(deit, epochs=400), "deit3": deit3}
