"""Which tokens are in the sequence, block by block."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..tokens import PATCHES, Group, TokenPlan
from .style import WIDTH, styled, token_colours


@styled
def show_timeline(plan: TokenPlan, width: float = WIDTH) -> Figure:
    """A token plan as bars from the block each group enters to the block it leaves."""
    groups = [*plan.groups, Group(PATCHES, 1)]
    figure, axis = plt.subplots(figsize=(width, 0.6 + 0.42 * len(groups)))
    colours = token_colours(group.name for group in groups)
    for row, group in enumerate(groups):
        end = plan.blocks if group.leave is None else group.leave
        axis.barh(row, end - group.enter, left=group.enter - 0.5, height=0.62, color=colours[group.name])
    names = [f"{group.name} × {group.tokens}" for group in plan.groups] + [PATCHES]
    axis.set_yticks(range(len(groups)), names)
    axis.invert_yaxis()
    axis.set_xticks(range(plan.blocks))
    axis.set(xlabel="block", xlim=(-0.6, plan.blocks - 0.4))
    if plan.class_blocks:
        axis.axvline(plan.depth - 0.5, color="black", linestyle=":", linewidth=1.5)
        axis.text(plan.depth - 0.4, -0.55, "class attention", va="bottom")
    axis.spines["left"].set_visible(False)
    axis.tick_params(left=False)
    return figure
