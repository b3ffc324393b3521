"""What a view shows, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..outputs.looking import called, stage_of
from ..probes.rollouts import life
from .recording import Recording

if TYPE_CHECKING:
    from .state import State

FORMS = {"attention": ".1%", "rollout": ".1%", "relevance": ".2g", "norms": ".1f", "lens": ".1%"}


def sentence(
    recorded: Recording,
    state: State,
    values: np.ndarray,
    others: Mapping[str, float],
    high: float,
    off: float | None,
    models: int,
) -> str:
    """What a map shows: the token, the block, what lies off the patches, where most is, and what the colours mean.

    Args:
        recorded: what was looked at.
        state: how.
        values: of the patches, (rows, columns).
        others: values of the other tokens, by name.
        high: where the colours end.
        off: the share off the patches, or None.
        models: how many are side by side.
    """
    form = FORMS[state.show]
    most = f"({', '.join(map(str, np.unravel_index(values.argmax(), values.shape)))})"
    top = format(float(values.max()), form)
    parts = {"attention": _attention, "rollout": _rollout, "relevance": _relevance, "norms": _norms, "lens": _lens}
    said = parts[state.show](recorded, state, values, others, off, most, top)
    return f"{said[0].upper()}{said[1:]}; {_colours(state, format(high, form), models)}."


def _attention(recorded, state, values, others, off, most, top) -> str:
    heads = f"mean of {recorded.heads(state.block)} heads" if state.head is None else f"head {state.head}"
    mixed = " (softmax, before the heads are mixed again)" if stage_of(recorded.model, state.block) == "softmax" else ""
    where = f" ({_groups(others)})" if others else ""
    return (
        f"{called(state.token)}, block {state.block}, {heads}{mixed}: {off:.1%} of its attention lies off the "
        f"patches{where}, and the patch that gets most, {most}, has {top}"
    )


def _rollout(recorded, state, values, others, off, most, top) -> str:
    return (
        f"{called(state.token)}, {_blocks(recorded, state)} rolled out: {off:.1%} of what reaches it is from no patch, "
        f"and the patch that gives most, {most}, has {top}"
    )


def _relevance(recorded, state, values, others, off, most, top) -> str:
    return (
        f"{called(state.token)}, {_blocks(recorded, state)}, asked about “{recorded.answers[0][0]}”: the most relevant "
        f"patch, {most}, has {top}"
    )


def _norms(recorded, state, values, others, off, most, top) -> str:
    ratio = float(values.max() / (np.median(values) or 1))
    return (
        f"after block {state.block} the longest patch token, {most}, has length {top}, {ratio:.1f} times the median"
        f"{_beside(others, '.1f')}"
    )


def _lens(recorded, state, values, others, off, most, top) -> str:
    return (
        f"after block {state.block} the classifier would give “{recorded.answers[0][0]}” {top} at patch {most}, the "
        f"most of any patch{_beside(others, '.1%')}"
    )


def _groups(others: Mapping[str, float]) -> str:
    """The shares by group: all registers of a group together."""
    sums: dict[str, float] = {}
    for name, value in others.items():
        group = name.partition(":")[0]
        sums[group] = sums.get(group, 0.0) + value
    return ", ".join(f"{name} {value:.1%}" for name, value in sums.items())


def _beside(others: Mapping[str, float], form: str) -> str:
    return f"; {', '.join(f'{name} has {format(value, form)}' for name, value in others.items())}" if others else ""


def _blocks(recorded: Recording, state: State) -> str:
    first, _ = life(recorded.tape, state.token)
    return f"blocks {first} to {state.block}" if first < state.block else f"block {state.block}"


def _colours(state: State, high: str, models: int) -> str:
    if state.scale == "own":
        return f"colours from 0 to {high}, this map’s own maximum"
    over = "all blocks and heads" if state.show == "attention" else "all blocks"
    return f"colours from 0 to {high} or more, one scale for {over}{' of all models shown' if models > 1 else ''}"
