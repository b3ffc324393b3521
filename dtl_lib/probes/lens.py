"""What would the head say of each token after each block, long before the last one?"""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from ..checks import check_tape
from ..models import ViT
from ..tape import Tape
from ..tokens import PATCHES, READ_BY_HEAD


def logit_lens(model: ViT, tape: Tape, block: int | Literal["input"]) -> Tensor:
    """The logits of each token after a block, as if it were the last: final norm and head, applied to every token.

    The logit lens (nostalgebraist 2020, interpreting GPT: the logit lens), of which the language model's unembedding is
    the classifier here. A token that has a head of its own, the class token and the distillation token, is read by it;
    every other token by the mean of the heads. After the last block the class token's row is then the model's own
    logits. Where the head reads the mean of the patches and normalises before it (`norm_after_pool=False`), the
    patches' rows have the model's logits as their mean; where it normalises after, each patch is normalised alone, and
    they do not. Attention pooling is asked of each token alone. Class attention changes only the tokens that ask: the
    others stand as they were after the trunk.

        >>> import torch
        >>> from dtl_lib import data, load_pretrained, probes, record
        >>> model = load_pretrained("zoo/shapes_depth6_reg4")
        >>> images, _ = data.load("shapes").test.batch(range(2))
        >>> with torch.no_grad(), record(model) as tape:
        ...     logits = model(images)
        >>> lens = probes.logit_lens(model, tape, 5)
        >>> lens.shape, torch.allclose(lens[:, 0], logits, atol=1e-4)
        (torch.Size([2, 69, 10]), True)

    Args:
        model: the model that was recorded.
        tape: from `record(model)`.
        block: 0 … blocks − 1, or `"input"` for the stream before block 0.

    Returns:
        `(batch, tokens, classes)`, float32 (float64 of such a model); `tape.plan.layout(block)` says which is which.

    Raises:
        ValueError: for a model without classes, and one that is not the tape's.
    """
    check_tape(tape)
    if not isinstance(model, ViT) or model.plan != tape.plan:
        raise ValueError("give the model that was recorded: the tape is of another plan")
    if not model.config.classes:
        raise ValueError("this model has no classes, so that its head says nothing of a token: load one that has")
    with torch.no_grad():
        tokens = _read(model, tape.tokens(block))
        logits = torch.stack([model.classify(name, tokens) for name in model.head_names])
    logits = logits if logits.dtype == torch.float64 else logits.float()
    mixed, layout = logits.mean(dim=0), tape.plan.layout(0 if block == "input" else block)
    for number, name in enumerate(model.head_names):
        if name in READ_BY_HEAD and name in layout:
            mixed[:, layout[name]] = logits[number][:, layout[name]]
    return mixed


def _read(model: ViT, tokens: Tensor) -> Tensor:
    """What the classifiers would read of each token, `(batch, tokens, dim)`."""
    if model.config.pool != "attention":
        return model.norm(tokens)
    alone = rearrange(tokens, "batch tokens dim -> (batch tokens) 1 dim")
    return rearrange(model.pool(model.norm(alone)), "(batch tokens) dim -> batch tokens dim", batch=len(tokens))


def class_map(model: ViT, tape: Tape, block: int | Literal["input"], number: int) -> Tensor:
    """The probability that the lens gives one class at each patch: `(batch, rows, columns)`.

    Args:
        model, tape, block: as in `logit_lens`.
        number: of the class.

    Raises:
        ValueError: as in `logit_lens`, and for a class that the model does not have.
    """
    logits = logit_lens(model, tape, block)
    if not 0 <= number < logits.shape[-1]:
        raise ValueError(f"the model has classes 0 … {logits.shape[-1] - 1}, not {number}")
    patches = tape.plan.layout(0 if block == "input" else block)[PATCHES]
    probabilities = logits[:, patches].softmax(dim=-1)[..., number]
    return rearrange(probabilities, "batch (rows columns) -> batch rows columns", rows=tape.grid[0])


def likeliest(logits: Tensor, names: Sequence[str] | None = None, top: int = 1) -> list:
    """The likeliest classes of each token, by name, with their probabilities.

        >>> import torch
        >>> from dtl_lib import probes
        >>> probes.likeliest(torch.tensor([[0.0, 9.0], [3.0, 3.0]]).log(), ["cat", "dog"])
        [[('dog', 1.0)], [('cat', 0.5)]]

    Args:
        logits: `(…, classes)`, such as `logit_lens` gives.
        names: one a class; their numbers where None.
        top: how many.

    Returns:
        Lists nested as the leading axes are; innermost `top` pairs (name, probability), the likeliest first.

    Raises:
        ValueError: where there are more or fewer names than classes.
    """
    classes = logits.shape[-1]
    if names is not None and len(names) != classes:
        raise ValueError(f"give a name for each of the {classes} classes, not {len(names)}")

    def named(probabilities: list, numbers: list) -> list:
        if probabilities and isinstance(probabilities[0], list):
            return [named(*pair) for pair in zip(probabilities, numbers)]
        called = [str(number) if names is None else names[number] for number in numbers]
        return list(zip(called, probabilities))

    found = logits.softmax(dim=-1).topk(min(top, classes))
    return named(found.values.tolist(), found.indices.tolist())
