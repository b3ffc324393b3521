"""The explorer in a notebook: controls of ipywidgets around pictures of anywidget, all fed by `explore`."""

import base64
import html
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import ipywidgets as widgets
from IPython.display import display
from torch import nn

from ..data.photos import PHOTOS, open_image, photo
from ..pretrained import load_pretrained
from .picture import panel, png, shown
from .state import BY_HEAD, BY_QUERY, SCALES, SHOWS, State, View, explore, paint, queries
from .uploads import open_upload, uploaded

MEAN, PATCH, NOBODY = "mean", "the chosen patch", "nothing"
NO_KERNEL = "The controls move where a kernel runs, in Jupyter or in Colab. This is what they show at first:"
PAUSE = 800  # ms that the player shows each block
WORDS = {"description_width": "6em"}


class Explorer:
    """One picture, every block, head and token, by hand; in JupyterLab, Notebook 7, VS Code and Colab.

        >>> from dtl_lib import Explorer
        >>> explorer = Explorer("zoo/shapes_depth6_reg4", ["chelsea", "coffee"])
        >>> explorer.block.value = 5
        >>> explorer.views[0].sentence[:32]
        'Class token, block 5, mean of 4 '

    Args:
        models: a `ViT`, the name of one that `load_pretrained` knows, or several, by name or in a list.
        pictures: as `explore` takes them, the names of bundled photos, or paths of image files, by name or in a list;
            all bundled photos where none are given.

    Raises:
        ValueError: for models and pictures that cannot be had.
    """

    def __init__(self, models, pictures=None):
        self._models = _named(models, "model")
        self._pictures = _named(list(PHOTOS) if pictures is None else pictures, "picture")
        self.views: tuple[View, ...] = ()
        self._patch, self._busy = (0, 0), False
        first, *_ = self._models
        self.picture = _dropdown("picture", list(self._pictures))
        self.upload = widgets.FileUpload(
            accept="image/*", multiple=False, description="your own picture", layout={"width": "14em"}
        )
        self.model = _dropdown("model", list(self._models))
        self.beside = _dropdown("beside it", [NOBODY, *self._models])
        self.block = widgets.IntSlider(0, 0, 1, description="block", style=WORDS, continuous_update=True)
        self.play = widgets.Play(min=0, max=1, interval=PAUSE, description="play")
        self.head = _dropdown("head", [MEAN])
        self.query = _dropdown("asks", ["cls"])
        self.show = _dropdown("show", list(SHOWS))
        self.scale = _dropdown("colours", list(SCALES))
        self.overlay = widgets.FloatSlider(State.overlay, min=0, max=1, step=0.02, description="overlay", style=WORDS)
        self.message = widgets.HTML()
        self._panels = [panel(), panel()]
        self._pictures_shown = widgets.HBox(layout={"flex_flow": "row wrap"})
        self.box = self._arranged()
        self._connect()
        self._fit()

    @property
    def state(self) -> State:
        """What is looked at; set it to look at something else."""
        query = "patch:{},{}".format(*self._patch) if self.query.value == PATCH else self.query.value
        head = None if self.head.value == MEAN else int(self.head.value)
        return State(self.block.value, head, query, self.show.value, self.scale.value, self.overlay.value)

    @state.setter
    def state(self, state: State) -> None:
        self._busy = True
        try:
            if state.query.startswith("patch:"):
                self._patch = state.token[1:]
            self.query.value = PATCH if state.query.startswith("patch:") else state.query
            self.head.value = MEAN if state.head is None else str(state.head)
            self.block.value, self.show.value, self.scale.value = state.block, state.show, state.scale
            self.overlay.value = state.overlay
        finally:
            self._busy = False
        self._draw()

    @property
    def chosen(self) -> list[str]:
        """The names of the models that are shown."""
        beside = self.beside.value
        return [self.model.value, *([] if beside in (NOBODY, self.model.value) else [beside])]

    def _arranged(self) -> widgets.VBox:
        rows = [
            [self.picture, self.upload],
            [self.model, *([self.beside] if len(self._models) > 1 else [])],
            [self.block, self.play],
            [self.query, self.head, self.show],
            [self.scale, self.overlay],
        ]
        wrapped = [widgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows]
        box = widgets.VBox([*wrapped, self.message, self._pictures_shown])
        return box.add_class("dtl-box")

    def _connect(self) -> None:
        widgets.link((self.play, "value"), (self.block, "value"))
        for control in (self.model, self.beside):
            control.observe(self._guarded(self._fit), "value")
        for control in (self.picture, self.block, self.query, self.head, self.show, self.scale, self.overlay):
            control.observe(self._guarded(self._draw), "value")
        self.upload.observe(self._guarded(self._take), "value")
        for each in self._panels:
            each.observe(self._asked, "asked")

    def _guarded(self, act: Callable[[], None]) -> Callable:
        """Runs when a control is moved: what goes wrong is a line in the widget, never a traceback in the kernel."""

        def moved(_) -> None:
            if self._busy:
                return
            try:
                self._say("")
                act()
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                self._say(str(error) or "there is not enough memory for this")

        return moved

    def _say(self, text: str) -> None:
        line = " ".join(text.split())
        self.message.value = f"<p role=alert>{html.escape(line)}</p>" if line else ""

    def _fit(self) -> None:
        """The controls have what the chosen models have."""
        models = [self._model(name) for name in self.chosen]
        self._busy = True
        try:
            last = max(model.plan.blocks for model in models) - 1
            self.block.max = self.play.max = last
            heads = max(model.config.heads for model in models)
            _offer(self.head, [MEAN, *map(str, range(heads))])
            _offer(self.query, list(dict.fromkeys([*(q for m in models for q in queries(m.plan)), PATCH])))
        finally:
            self._busy = False
        self._draw()

    def _draw(self) -> None:
        state, names = self.state, self.chosen
        self.head.disabled, self.query.disabled = state.show not in BY_HEAD, state.show not in BY_QUERY
        picture = self._opened(self.picture.value)
        self.views = explore([self._model(name) for name in names], picture, state)
        for each, view, name in zip(self._panels, self.views, names):
            patch = tuple(min(at, count - 1) for at, count in zip(self._patch, view.grid))
            each.show(shown(view, state, patch, name))
        self._pictures_shown.children = tuple(self._panels[: len(names)])

    def _take(self) -> None:
        """Read what was uploaded and show it."""
        for name, content in uploaded(self.upload.value):
            picture = open_upload(name, content)
            known = [*self._pictures]
            while name in self._pictures:
                name = f"{name} (again)"
            self._pictures[name] = picture
            self._busy = True
            self.picture.options = [*known, name]
            self._busy = False
            self.picture.value = name

    def _asked(self, change) -> None:
        """A patch was chosen in a picture; or, with Escape, none."""
        asked = change["new"]
        self._busy = True
        if len(asked) == 3:
            self._patch = tuple(asked[:2])
        self.query.value = PATCH if len(asked) == 3 else self.query.options[0]
        self._busy = False
        self._guarded(self._draw)(change)

    def _model(self, name: str):
        if isinstance(self._models[name], str):
            self._models[name] = load_pretrained(self._models[name])
        return self._models[name]

    def _opened(self, name: str):
        if isinstance(picture := self._pictures[name], str | Path):
            self._pictures[name] = photo(picture) if picture in PHOTOS else open_image(picture)
        return self._pictures[name]

    def _ipython_display_(self, **_) -> None:
        """As a display rather than a cell's result: Colab loads anywidget's front for those alone."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        shown = {"text/plain": repr(self), "application/vnd.jupyter.widget-view+json": view}
        display(shown if "google.colab" in sys.modules else {**shown, "text/html": self._still()}, raw=True)

    def _still(self) -> str:
        """What is seen now, for a page without a kernel."""
        parts = []
        for name, view in zip(self.chosen, self.views):
            picture = base64.b64encode(png(paint(view, self.state))).decode()
            words = html.escape(view.sentence)
            image = f'<img src="data:image/png;base64,{picture}" alt="{words}" width="224">'
            parts.append(f"<figure><figcaption><b>{html.escape(name)}</b></figcaption>{image}<p>{words}</p></figure>")
        return f"<p>{NO_KERNEL}</p>{''.join(parts)}"

    def __repr__(self) -> str:
        return f"Explorer of {', '.join(self._models)}"


def _named(things, what: str) -> dict:
    """Things by name: their own, or a number."""
    if isinstance(things, Mapping):
        named = {str(name): thing for name, thing in things.items()}
    else:
        single = isinstance(things, str | Path | nn.Module) or hasattr(things, "shape")
        named = {}
        for number, thing in enumerate([things] if single else list(things)):
            name = str(thing) if isinstance(thing, str | Path) else f"{what} {number}"
            named[name] = thing
    if not named:
        raise ValueError(f"give at least one {what}")
    return named


def _dropdown(name: str, options: Iterable[str]) -> widgets.Dropdown:
    return widgets.Dropdown(options=list(options), description=name, style=WORDS)


def _offer(control: widgets.Dropdown, options: list[str]) -> None:
    """Offer these, and keep what was chosen where it is still there."""
    kept = control.value
    if list(control.options) != options:
        control.options = options
        control.value = kept if kept in options else options[0]
