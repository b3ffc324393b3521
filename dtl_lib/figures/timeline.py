"""Which tokens are in the sequence, block by block."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..tokens import PATCHES, Group, TokenPlan
from .style import MARK, WIDTH, styled, token_colours

MOST_TICKS = 16  # of more blocks, not every one is numbered


@styled
def show_timeline(plan: TokenPlan, width: float = WIDTH) -> Figure:
    """A token plan as bars from the block each group enters to the block it leaves."""
    figure, axis = plt.subplots(figsize=(width, timeline_height(plan, 0.42)))
    draw_timeline(axis, plan)
    return figure


def timeline_height(plan: TokenPlan, row: float = 0.24) -> float:
    """Inches that a timeline takes with its axis, `row` for each group."""
    return 0.6 + row * (len(plan.groups) + 1)


def draw_timeline(axis, plan: TokenPlan, mark: int | None = None) -> None:
    """The bars of a plan on a given axis.

    Args:
        mark: a block to frame; nothing then stands beyond the axis on the right.
    """
    groups = [*plan.groups, Group(PATCHES, 1)]
    colours = token_colours(group.name for group in groups)
    for row, group in enumerate(groups):
        end = plan.blocks if group.leave is None else group.leave
        axis.barh(row, end - group.enter, left=group.enter - 0.5, height=0.62, color=colours[group.name])
    names = [f"{group.name} × {group.tokens}" for group in plan.groups] + [PATCHES]
    axis.set_yticks(range(len(groups)), names)
    axis.invert_yaxis()
    axis.set_xticks(range(0, plan.blocks, -(-plan.blocks // MOST_TICKS)))
    axis.set(xlabel="block", xlim=(-0.6, plan.blocks - 0.4))
    if plan.class_blocks:
        axis.axvline(plan.depth - 0.5, color="black", linestyle=":", linewidth=1.5)
        place = (plan.depth - 0.4, "left") if mark is None else (plan.blocks - 0.5, "right")
        axis.text(place[0], -0.55, "class attention", ha=place[1], va="bottom")
    if mark is not None:
        frame = (mark - 0.5, -0.5), 1, len(groups)
        axis.add_patch(Rectangle(*frame, fill=False, edgecolor=MARK, linewidth=2, clip_on=False, zorder=3))
    axis.spines["left"].set_visible(False)
    axis.tick_params(left=False)
