"""One panel of the widget: the picture under the map, its sentence and its numbers."""

import html
import io
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import traitlets
from matplotlib.colors import to_hex
from PIL import Image

from ..figures.overlay import scale_colours
from .saying import FORMS
from .state import State, View, paint

HERE = Path(__file__).parent
STOPS = [to_hex(colour / 255) for colour in scale_colours()[::32].astype(float)]


def png(pixels: np.ndarray) -> bytes:
    """uint8 (height, width, 3) as the bytes of a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def numbers(view: View, state: State, patch: tuple[int, int]) -> list[list[str]]:
    """What stands in a panel's table: the chosen patch, the tokens beside the patches, and the answers."""
    form = FORMS[state.show]
    rows = [] if view.map is None else [[f"patch ({patch[0]}, {patch[1]})", format(float(view.map[patch]), form)]]
    rows += [[name, format(value, form)] for name, value in view.others.items()]
    return rows + [[f"answer: {name}", f"{probability:.1%}"] for name, probability in view.answers[:3]]


def shown(view: View, state: State, patch: tuple[int, int], title: str) -> dict:
    """A view as the values of a panel."""
    high = "" if view.map is None else format(view.range[1], FORMS[state.show]) + " or more" * (state.scale == "shared")
    return {
        "png": png(paint(view, state)),
        "title": title,
        "sentence": view.sentence,
        "numbers": numbers(view, state, patch),
        "scale": ["0", high, view.unit] if high else [],
        "grid": list(view.grid),
        "patch": list(patch),
        "asks": state.query.startswith("patch:"),
    }


class _Panel(traitlets.HasTraits):
    """What a panel is given, and what it gives back.

    Attributes:
        asked: row and column of the patch that a reader chose, and a number that makes each choice a new one; an empty
            list asks the usual token again.
    """

    asked = traitlets.List([]).tag(sync=True)

    def show(self, values: dict) -> None:
        """Draw what `shown` gives."""
        raise NotImplementedError


def panel() -> _Panel:
    """A panel drawn by anywidget, or, where that is not installed, of plain widgets."""
    try:
        import anywidget
    except ImportError:
        return PlainPanel()

    class Picture(_Panel, anywidget.AnyWidget):
        _esm = HERE / "picture.js"
        _css = HERE / "picture.css"
        png = traitlets.Bytes(b"").tag(sync=True)
        seen = traitlets.Dict({}).tag(sync=True)
        colours = traitlets.List(STOPS).tag(sync=True)

        def show(self, values: dict) -> None:
            with self.hold_sync():
                self.png, self.seen = values["png"], {key: value for key, value in values.items() if key != "png"}

    return Picture()


class PlainPanel(_Panel, widgets.VBox):
    """The same without anywidget: an image, two sliders for the patch, and the sentence with the numbers."""

    def __init__(self):
        self.image = widgets.Image(format="png", layout={"max_width": "100%", "width": "336px"})
        self.row, self.column = (widgets.IntSlider(0, 0, 1, description=name) for name in ("patch row", "column"))
        self.text = widgets.HTML()
        self._showing = False
        super().__init__([self.image, self.row, self.column, self.text])
        for slider in (self.row, self.column):
            slider.observe(self._moved, "value")

    def show(self, values: dict) -> None:
        self._showing = True
        self.image.value = values["png"]
        for slider, at, count in zip((self.row, self.column), values["patch"], values["grid"]):
            slider.max = count - 1
            slider.value = at
        cells = [tuple(map(html.escape, row)) for row in values["numbers"]]
        rows = "".join(f"<tr><th scope=row>{name}</th><td>{value}</td></tr>" for name, value in cells)
        title, sentence = html.escape(values["title"]), html.escape(values["sentence"])
        self.text.value = f"<b>{title}</b><p role=status>{sentence}</p><table>{rows}</table>"
        self._showing = False

    def _moved(self, change) -> None:
        if not self._showing:
            self.asked = [self.row.value, self.column.value, len(self.asked) and self.asked[-1] + 1]
