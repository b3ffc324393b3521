"""Every hash of the library: of plain values (cards, records), of parts (data sets), of tensors (weights).

Stored cards and records carry these, so what a function returns for given values may never change.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping

DIGITS = 12
_UNWRITABLE = re.compile("[\x85\u2028\u2029\ud800-\udfff]")  # other ends of a line, and what no UTF-8 holds


def plain(values):
    """Values as JSON gives them back: tuples become lists, keys text."""
    return json.loads(json.dumps(values))


def to_json(values, indent: int | None = None) -> str:
    """Plain values as JSON, in one line unless indented, that every name of a file can stand in, whatever its bytes."""
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    return _UNWRITABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def of_values(values: Mapping) -> str:
    """Twelve hexadecimal digits of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(plain(values), sort_keys=True).encode()).hexdigest()[:DIGITS]


def of_parts(parts: Iterable) -> str:
    """Twelve hexadecimal digits of a sequence of bytes and of values with a `repr`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:DIGITS]


def of_weights(tensors: Mapping) -> str:
    """SHA-256 of tensors by name, their types and shapes: the same whichever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def checksum(tensors: Mapping) -> str:
    """Eight hexadecimal digits (CRC-32) that change with any byte of tensors on the CPU: quick, for every save."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(_bytes(tensors[name]), value)
    return f"{value:08x}"


def seal(card: Mapping) -> str:
    """A hash of all that a card says, apart from the seal it bears: a card changed by hand or by a bad disk shows."""
    return of_values({name: value for name, value in card.items() if name != "seal"})


def seal_holds(card: Mapping) -> bool:
    """Whether a card is as it was sealed; one from before there were seals is taken as it is."""
    return card.get("seal") in (None, seal(card))


def _bytes(tensor):
    import torch

    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy()
