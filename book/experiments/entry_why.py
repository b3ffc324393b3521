"""What do the patches of an early block use the class token for? One block is changed, and all others are not.

    python -m book.experiments.entry_why --photos DIR

Models and photos are those of `book.experiments.entry`. In one block each patch receives something else than it does
in the untouched model (`WAYS`); the class token's own row stays. Recorded are the patches' share of attention on the
token, what is left of the accuracy, and what becomes of the patches that are long after block 7. What has a record is
not measured again. What was expected is in `book/predictions.md`, committed before the first run.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from book.experiments.entry import PHOTOS, SALIENCY, VIT, each_model, load, photos
from dtl_lib import ledger
from dtl_lib.models import ViT
from dtl_lib.probes.entry_rows import PRESENT, Tally, mean
from dtl_lib.tokens import PATCHES

EXPERIMENT, COMMAND = "entry_why", "python -m book.experiments.entry_why"
WAYS = ("absent", "key alone", "value alone", "constant share", "offset")
BLOCKS = {VIT: (0, 1, 2, 4, 6), SALIENCY: (0, 1, 4)}
LONG_AFTER, LONG = 7, 5.0  # a long patch is longer, after this block, than so many medians
BACK = ("long patches", "as many others", "class token")


class Changed(nn.Module):
    """Attention whose patches receive something else from the class token.

    Args:
        way: one of `WAYS`, or `untouched`.
        cls, patches: where they stand.
        usual: what `Usual` has found in this block; the batch's photos are taken out of its means.
        heads: in which it is changed; all where None.
    """

    def __init__(self, way: str, cls: slice, patches: slice, usual: "Usual", heads: Sequence[int] | None = None):
        super().__init__()
        self.way, self.cls, self.patches, self.usual, self.heads, self.start = way, cls, patches, usual, heads, 0

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        share, among, value, out = parts(q, k, v, self.cls, self.patches)
        of_others, lack = self.usual.of_others(self.start, len(q))
        self.start += len(q)
        new = {
            "untouched": (1 - share) * among + share * value,
            "absent": among,
            "key alone": (1 - share) * among,
            "value alone": among + share * value,
            "constant share": (1 - of_others) * among + of_others * value,
            "offset": among + lack,
        }[self.way]
        heads = list(range(q.shape[1]) if self.heads is None else self.heads)
        out[:, heads, self.patches] = new[:, heads]
        return out


def parts(q: Tensor, k: Tensor, v: Tensor, cls: slice, patches: slice) -> tuple[Tensor, ...]:
    """A patch's attention in two parts, by head.

    Returns:
        its share on the class token, `(batch, heads, patches, 1)`; what it gathers from patches, their softmax taken
        without the token, `(batch, heads, patches, head_dim)`; the token's value, `(batch, heads, 1, head_dim)`; and
        the untouched output of all tokens.
    """
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    share = scores.softmax(dim=-1)[:, :, patches, cls]
    among = scores[:, :, patches, patches].softmax(dim=-1) @ v[:, :, patches]
    return share, among, v[:, :, cls], scores.softmax(dim=-1) @ v


class Usual(nn.Module):
    """Attention that is not changed, and keeps of each photo, by name and `(photos, heads, …)` in all:

    - `share`, of the patches on the class token, their mean;
    - `lack`, what `absent` takes away from them, their mean, `(photos, heads, head_dim)`;
    - `value`, the token's, of the same shape, its `length`, and `patch_length`, the patches' mean.
    """

    def __init__(self, cls: slice, patches: slice):
        super().__init__()
        self.cls, self.patches, self.kept = cls, patches, {}

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        share, among, value, out = parts(q, k, v, self.cls, self.patches)
        found = {
            "share": share.mean(dim=(2, 3)), "lack": (out[:, :, self.patches] - among).mean(dim=2),
            "value": value[:, :, 0], "length": value[:, :, 0].norm(dim=-1),
            "patch_length": v[:, :, self.patches].norm(dim=-1).mean(dim=2),
        }  # fmt: skip
        for name, values in found.items():
            self.kept.setdefault(name, []).append(values)
        return out

    def all(self, name: str) -> Tensor:
        """Of every photo so far."""
        return torch.cat(self.kept[name])

    def of_others(self, start: int, batch: int) -> tuple[Tensor, Tensor]:
        """Means over the other photos, by photo: `(batch, heads, 1, 1)` and `(batch, heads, 1, head_dim)`."""
        shares, lacks = self.all("share"), self.all("lack")
        own = slice(start, start + batch)
        share, lack = ((kept.sum(dim=0) - kept[own]) / (len(kept) - 1) for kept in (shares, lacks))
        return share[:, :, None, None], lack[:, :, None]


@contextmanager
def cores(model: ViT, new: Mapping[int, nn.Module]):
    """Inside, some blocks have another core."""
    with ExitStack() as stack:
        for block, core in new.items():
            attention = model.blocks[block].attention
            stack.callback(setattr, attention, "core", attention.core)
            attention.core = core
        yield


class Study:
    """A model on photos: its untouched pass, kept as far as it is needed, and passes that differ from it.

    Args:
        model: a plain `ViT` in evaluation mode, with a class token from block 0.
        batches: pairs of images and labels; labels of a model without classes are not used.
        blocks: those to change.
        long_after: the block whose output has the long patches.
    """

    def __init__(self, model: ViT, batches: Sequence, blocks: Sequence[int], long_after: int = LONG_AFTER):
        self.model, self.batches, self.long_after = model, batches, long_after
        layout = model.plan.layout(0)
        self.cls, self.patches = layout["cls"], layout[PATCHES]
        self.usual = [Usual(self.cls, self.patches) for _ in model.blocks]
        self.streams, self.reads, self.lengths = {block: [] for block in (*blocks, long_after + 1)}, [], []
        with cores(model, dict(enumerate(self.usual))):
            for images, _ in batches:
                x, _ = model.embed(images)
                x = torch.cat([model.tokens["cls"].expand(len(x), -1, -1), x], dim=1)
                self.reads.append(self.run(x, 0, self.streams))
        lengths = torch.cat([self.length(x) for x in self.streams[long_after + 1]])
        self.medians = lengths.median(dim=1, keepdim=True).values
        self.lengths, self.long = lengths, lengths > LONG * self.medians

    def run(self, x: Tensor, first: int, keep: Mapping[int, list]) -> Tensor:
        """What the classifier reads, `(batch, 1, dim)`; streams before blocks in `keep` are added there."""
        for block in range(first, len(self.model.blocks)):
            if block in keep:
                keep[block].append(x)
            x = self.model.blocks[block](x)
        return self.model.norm(x[:, self.cls])

    def length(self, x: Tensor) -> Tensor:
        return x[:, self.patches].norm(dim=-1)

    def changed(self, way: str, blocks: Sequence[int], heads: Sequence[int] | None = None) -> tuple[dict, list[Tensor]]:
        """Values for a record where these blocks are changed, and the streams after the block of the long patches."""
        new = {b: Changed(way, self.cls, self.patches, self.usual[b], heads) for b in blocks}
        streams, tally = {self.long_after + 1: []}, Tally()
        with cores(self.model, new):
            for number, x in enumerate(self.streams[blocks[0]]):
                self.count(tally, self.run(x, blocks[0], streams), number)
        after = streams[self.long_after + 1]
        return self.values(tally) | self.of_long(torch.cat([self.length(x) for x in after])), after

    def put_back(self, into: list[Tensor], source: list[Tensor], choose: Callable[[int], Tensor]) -> dict:
        """Values where tokens of one stream, chosen by photo, are replaced by another's, before the block after."""
        tally, start = Tally(), 0
        for number, (x, other) in enumerate(zip(into, source)):
            chosen = torch.stack([choose(photo) for photo in range(start, start + len(x))])
            start += len(x)
            x = torch.where(chosen[..., None], other, x)
            self.count(tally, self.run(x, self.long_after + 1, {}), number)
        return self.values(tally)

    def count(self, tally: Tally, read: Tensor, number: int) -> None:
        classify, usual = self.model.classify, self.reads[number]
        labels = self.batches[number][1] if self.model.config.classes else None
        logits, expected = (classify("cls", tokens[:, 0]) for tokens in (read, usual))
        tally.add(read, usual, logits, expected, labels, self.model.config.classes > 0)

    def values(self, tally: Tally) -> dict[str, float]:
        found = tally.row(0, "", PRESENT, 1.0).values()
        return {name: value for name, value in found.items() if name not in ("block", "cost")}

    def of_long(self, lengths: Tensor) -> dict[str, float]:
        """How many patches of a photo are long, how many more than usual, overlap with the usual ones, and length."""
        long = lengths > LONG * self.medians
        either, both = (long | self.long).sum(dim=1), (long & self.long).sum(dim=1)
        per_photo = {
            "long": long.sum(dim=1).double(), "more_long": (long.sum(dim=1) - self.long.sum(dim=1)).double(),
            "overlap": (both / either)[either > 0].double(),
            "length": ((lengths * long).sum(dim=1) / long.sum(dim=1))[long.any(dim=1)].double(),
        }  # fmt: skip
        values = {"with_long": float(long.any(dim=1).double().mean())}
        for name, numbers in per_photo.items():
            if len(numbers) > 1:
                values |= interval(name, numbers)
        return values

    def tokens(self, of: str) -> Callable[[int], Tensor]:
        """Which tokens of a photo `put_back` replaces: one of `BACK`."""

        def choose(photo: int) -> Tensor:
            chosen = torch.zeros(self.patches.start + self.long.shape[1], dtype=torch.bool)
            if of == "class token":
                chosen[self.cls] = True
                return chosen
            long = self.long[photo]
            if of == "as many others":
                shuffled = torch.randperm(len(long), generator=torch.Generator().manual_seed(photo))
                others = shuffled[~long[shuffled]][: int(long.sum())]
                long = torch.zeros_like(long).index_fill(0, others, True)
            chosen[self.patches.start :] = long
            return chosen

        return choose


def interval(name: str, numbers: Tensor) -> dict[str, float]:
    """Mean over photos and Student's 95 % interval, as a record has them."""
    found = mean(float(numbers.sum()), float(numbers.square().sum()), len(numbers))
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def shares(study: Study) -> dict[str, list[float]]:
    """By block, one number a head: the patches' mean share on the token, the photos' standard deviation of it, and
    the length of the token's value in mean lengths of a patch's."""
    values = {}
    for block, usual in enumerate(study.usual):
        share = usual.all("share")
        ratio = usual.all("length").mean(dim=0) / usual.all("patch_length").mean(dim=0)
        values |= {f"share_{block}": share.mean(dim=0).tolist(), f"deviation_{block}": share.std(dim=0).tolist()}
        values |= {f"value_{block}": ratio.tolist()}
    return values


def jobs(study: Study, blocks: Sequence[int]) -> dict[str, Callable[[], dict]]:
    """What is measured, by what its record is called."""
    found: dict[str, Callable[[], dict]] = {"attention on the class token": lambda: shares(study)}
    found["untouched, by the changed code"] = lambda: study.changed("untouched", (0,))[0]
    for block in blocks:
        for way in WAYS:
            found[f"{way} in block {block}"] = lambda way=way, block=block: study.changed(way, (block,))[0]
    if not study.model.config.classes:
        return found
    for head in range(study.model.config.heads):
        found[f"absent in block 0, head {head}"] = lambda head=head: study.changed("absent", (0,), (head,))[0]
    found["absent in blocks 0 to 3"] = lambda: study.changed("absent", (0, 1, 2, 3))[0]
    usual = study.streams[study.long_after + 1]
    for of in BACK:
        found[f"absent in block 0, {of} put back"] = lambda of=of: study.put_back(
            study.changed("absent", (0,))[1], usual, study.tokens(of)
        )
    found["untouched, long patches of absent in block 0"] = lambda: study.put_back(
        usual, study.changed("absent", (0,))[1], study.tokens("long patches")
    )
    return found


def measure(name: str, folder: str, records: str | None) -> None:
    """Measure what has no record."""
    done = {record.what for record in ledger.read(EXPERIMENT, records, missing_ok=True)}
    model = load(name)
    batches = photos(folder, model, PHOTOS[name])
    with torch.inference_mode():
        study = Study(model, batches, BLOCKS[name])
        n, config = sum(len(x) for x, _ in batches), replace(model.config, image_size=tuple(batches[0][0].shape[-2:]))
        for job, values in jobs(study, BLOCKS[name]).items():
            if (what := f"{name}: {job}") in done:
                continue
            found = values()
            ledger.add(EXPERIMENT, what, COMMAND, "cpu", found, n=n, seed=0, config=config.to_dict(), folder=records)
            print(what, found.get("accuracy", found.get("similarity")), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Every record of these models that is not there."""
    each_model(measure, __doc__.splitlines()[0], arguments)


if __name__ == "__main__":
    main()
