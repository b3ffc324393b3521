"""One model's forward pass over one picture, kept, and each number that the explorer asks of it, made once."""

import re
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ..data.photos import prepare, undo
from ..data.shapes import Shapes
from ..hashing import of_parts
from ..hooks import evaluating
from ..layers import ALL
from ..models import ViT
from ..outputs.looking import split_rows, stage_of
from ..probes import lens, rollouts
from ..recordable import unwrapped
from ..tape import Tape, Token, record
from ..tokens import PATCH, PATCHES
from ..train.classes import SYNSET, class_names, shown_names

KEPT = 8  # recordings: two models side by side, and four photos to go back to
SHOWN = 0.995  # of all values lie on a shared scale; the rest would leave everything else dark
TOP = 5  # classes that are named
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
UNNAMED = {"shapes ": Shapes.classes, "cifar10 ": CIFAR10}  # the ten classes of cards from before they named them
Row = tuple[Tensor, dict[str, slice]]  # values by token, and where each group of tokens stands


class NoClasses(ValueError):
    """A model without classes was asked about one."""


class Recording:
    """What a forward pass left behind, asked by name.

    Attributes:
        model: that was recorded.
        tape: of the forward pass.
        grid: rows and columns of the patches.
        photo: what the model saw, uint8 (height, width, 3): resized, cut and without its normalisation.
        answers: the likeliest classes with their probabilities, the likeliest first; empty where there are no classes.
    """

    def __init__(self, model: ViT, x: Tensor):
        self.model, self._x = model, x.to(next(model.parameters()).device)
        self._kept: dict[tuple, object] = {}
        with evaluating(model), torch.no_grad(), record(model) as tape:
            logits = model(self._x)
            last = model.plan.blocks - 1
            tape.queries(last)  # with the model as it is now
            finite = all(tape.tokens(block).isfinite().all() for block in range(last + 1))
        self.tape = tape
        if not finite:
            raise ValueError("the tokens are non-finite: the model's weights are damaged, or the image is")
        self.grid = self.tape.grid
        shown = undo(x[0], model.config.mean, model.config.std)
        self.photo = np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown
        self._class, self.answers = None, ()
        if model.config.classes:
            self._class = int(logits[0].argmax())
            self.answers = tuple(lens.likeliest(logits[0].float(), class_labels(model), min(TOP, model.config.classes)))

    def row(self, show: str, block: int, head: int | None, of: Token) -> Row:
        """The values of every token in a block and who these are: `(tokens,)`, and where each group stands in it.

        Raises:
            TokenNotThere: where the token that asks is not in that block, or is no query there.
            ValueError: for a block or head that is not there, and where a model without classes is asked for one.
        """
        block = self.tape.plan.check_block(block)
        rows, layout = self._rows(show, block, of)
        if show != "attention":
            return rows[0], layout
        if head is not None and not 0 <= head < len(rows):
            raise ValueError(f"there is no head {head}: block {block} has heads 0 … {len(rows) - 1}")
        return rows.mean(dim=0) if head is None else rows[head], layout

    def heads(self, block: int) -> int:
        """How many heads a block has."""
        return self.tape.keys(block).shape[1]

    def largest(self, show: str, of: Token) -> float:
        """Where a scale ends that all blocks and heads share: all but the largest few of their values lie on it."""

        def found() -> float:
            values = []
            for block in range(self.tape.plan.blocks):
                try:
                    rows, layout = self._rows(show, block, of)
                except ValueError:
                    continue
                values.append(rows[:, layout[PATCHES]].flatten())
            every = torch.cat(values).cpu().numpy()
            return float(np.quantile(every, SHOWN)) or float(every.max()) or 1.0

        return self._once(("largest", show, of), found)

    def _rows(self, show: str, block: int, of: Token) -> Row:
        """Of attention each head's row, `(heads, tokens)`; of all else `(1, tokens)`."""
        of = of if show in ("attention", "rollout", "relevance") else "cls"
        return self._once((show, block, of), lambda: getattr(self, f"_{show}")(block, of))

    def _attention(self, block: int, of: Token) -> Row:
        (row,) = split_rows(self.tape, block, of, stage_of(self.model, block)).values()
        return row[0], self.tape.plan.layout(block)

    def _rollout(self, block: int, of: Token) -> Row:
        return self._followed("rollout", self.tape, rollouts.rollout_shares, block, of)

    def _relevance(self, block: int, of: Token) -> Row:
        self._check_classes()
        return self._followed("relevance", self._gradients(), rollouts.relevance_shares, block, of)

    def _followed(self, name: str, tape: Tape, shares: Callable, block: int, of: Token) -> Row:
        """A token's row from a block back to the one it enters before."""
        if of != PATCHES or block >= tape.plan.depth:
            tape.queries_of(block, (PATCH, 0, 0) if of == PATCHES else of)  # says where it does not attend

        def kept(block: int, queries: slice):
            own, matrix = self._once((name, "shares", block), lambda: shares(tape, block, ALL))
            return own[:, queries] if isinstance(own, Tensor) else own, matrix[:, queries]

        row = rollouts.follow(tape, of, kept, last=block)
        return row[0], tape.plan.layout(rollouts.life(tape, of)[0])

    def _norms(self, block: int, of: Token) -> Row:
        return self.tape.tokens(block).float().norm(dim=-1), self.tape.plan.layout(block)

    def _lens(self, block: int, of: Token) -> Row:
        self._check_classes()
        with evaluating(self.model):
            logits = lens.logit_lens(self.model, self.tape, block)
        return logits.softmax(dim=-1)[..., self._class], self.tape.plan.layout(block)

    def _check_classes(self) -> None:
        if self._class is None:
            raise NoClasses("this model has no classes to be asked about: look at attention, rollout or norms")

    def _gradients(self) -> Tape:
        """A tape with the gradients of the likeliest class's logit, which leaves no gradient in the model."""

        def found() -> Tape:
            with evaluating(self.model), torch.inference_mode(False), torch.enable_grad():
                x = self._x.clone().requires_grad_()
                with record(self.model, grad=True, stream=False) as tape:
                    torch.autograd.grad(self.model(x)[0, self._class], x)
            return tape

        return self._once(("gradients",), found)

    def _once(self, key: tuple, make: Callable):
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


_recordings: OrderedDict[tuple, Recording] = OrderedDict()


def recording(model: nn.Module, picture) -> Recording:
    """The recording of this model, with these weights, and this picture: the one made before, while it is kept.

    Args:
        model: a `ViT`, in training or not.
        picture: a photo, uint8 (height, width, 3), which is preprocessed as the model expects; or what already is,
            float32 (1, channels, height, width).
    """
    vit, _ = unwrapped(model)
    tensor = isinstance(picture, Tensor)
    values = picture.detach().cpu().numpy() if tensor else np.ascontiguousarray(picture)
    weights = [(part.data_ptr(), 0 if part.is_inference() else part._version) for part in vit.state_dict().values()]
    key = (id(vit), of_parts([weights, tensor, values.shape, values.tobytes()]))
    if key not in _recordings:
        _recordings[key] = Recording(vit, picture if tensor else prepare(picture, config=vit.config))
        while len(_recordings) > KEPT:
            _recordings.popitem(last=False)
    _recordings.move_to_end(key)
    return _recordings[key]


def forget() -> None:
    """Drop every recording, and with it the memory that it takes."""
    _recordings.clear()


def class_labels(model: ViT) -> list[str]:
    """What its classes are called, shortly; their numbers where nobody knows."""
    names = class_names(model)
    trained_on = str((getattr(model, "card", {}).get("data") or {}).get("name"))
    if names is None and model.config.classes == 10:
        names = next((known for begin, known in UNNAMED.items() if trained_on.startswith(begin)), None)
    if not names:
        return [f"class {number}" for number in range(model.config.classes)]
    return [re.sub(rf" \({SYNSET.pattern}\)$", "", name) for name in shown_names(names)]
