"""Numbers → matplotlib, structures → SVG. A function here draws what it is given; it computes nothing."""

from .blocks import show_flow, show_heads
from .boxes import draw_lost, show_boxes
from .charts import draw_curves
from .curves import (
    show_agreement,
    show_bars,
    show_curves,
    show_histograms,
    show_intervals,
    show_lines,
    show_ratios,
    show_roofline,
    show_runs,
)
from .diagrams import draw_attention, draw_block, draw_data_parallel, draw_model, draw_sequence, draw_step
from .drawing import Drawing
from .frames import FrameLayout
from .images import show_images, show_patches
from .looking import draw_lens, draw_probe, draw_sinks
from .maps import show_cosines, show_maps, show_matrix, show_similarity, show_table
from .modes import show_modes
from .moved import draw_moved
from .overlay import overlay
from .pages import attention_page
from .routes import draw_routes
from .style import COLOURS, styled, token_colours
from .surface import show_atlas, show_pareto, show_surface
from .tables import Table, table
from .taken import draw_deletion
from .teaching import draw_distillation
from .timeline import show_timeline
from .verdicts import draw_verdicts, show_tiles
from .weights import show_filters, show_positions

__all__ = [
    "COLOURS",
    "Drawing",
    "FrameLayout",
    "Table",
    "attention_page",
    "draw_attention",
    "draw_block",
    "draw_curves",
    "draw_data_parallel",
    "draw_deletion",
    "draw_distillation",
    "draw_lens",
    "draw_lost",
    "draw_model",
    "draw_moved",
    "draw_probe",
    "draw_routes",
    "draw_sequence",
    "draw_sinks",
    "draw_step",
    "draw_verdicts",
    "overlay",
    "show_agreement",
    "show_atlas",
    "show_bars",
    "show_boxes",
    "show_cosines",
    "show_curves",
    "show_filters",
    "show_flow",
    "show_heads",
    "show_histograms",
    "show_images",
    "show_intervals",
    "show_lines",
    "show_maps",
    "show_matrix",
    "show_modes",
    "show_pareto",
    "show_patches",
    "show_positions",
    "show_ratios",
    "show_roofline",
    "show_runs",
    "show_similarity",
    "show_surface",
    "show_table",
    "show_tiles",
    "show_timeline",
    "styled",
    "table",
    "token_colours",
]
