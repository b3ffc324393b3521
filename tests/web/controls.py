"""What can be moved on a page, a row for each kind of control, and how a reader moves it: by keys alone, by pointer."""

from collections.abc import Callable
from dataclasses import dataclass

CONTROLS = (
    "a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex='-1']), [contenteditable=true], "
    "[role=gridcell], [role=slider], video[controls]"
)
MOST = 150  # presses of Tab until everything has been reached
UNKNOWN = """([root, controls, known]) => [...document.querySelector(root).querySelectorAll(controls)]
    .filter((each) => !each.matches(known)).map((each) => each.outerHTML.slice(0, 120))"""


def clicked(tab, one):
    tab.locator(one).first.click()


def slid(tab, one):
    """A slider, to its end on the right."""
    box = tab.locator(one).first.bounding_box()
    tab.locator(one).first.click(position={"x": 0.99 * box["width"], "y": box["height"] / 2})


def wheeled(tab, one):
    tab.locator(one).first.hover()
    tab.mouse.wheel(0, 20)


@dataclass(frozen=True)
class Control:
    """A kind of control, and what moves when one of its kind is moved.

    Attributes:
        every: selector of all of this kind.
        one: of the one that is moved; the first of all by default.
        keys: pressed once Tab has reached it; none where another control is its way by keys.
        point: moves it with the pointer.
        changes: JavaScript, the value that then is another.
        before: what has to be done on the page first.
    """

    every: str
    one: str = ""
    keys: tuple[str, ...] = ("Enter",)
    point: Callable = clicked
    changes: str = "shown()"
    before: Callable = lambda tab: None

    def by_keys(self, tab) -> None:
        """Go there with Tab, and press its keys."""
        for _ in range(MOST):
            tab.keyboard.press("Tab")
            if tab.evaluate("one => document.activeElement.matches(one)", self.one or self.every):
                break
        else:
            raise AssertionError(f"Tab does not lead to {self.one or self.every}")
        for key in self.keys:
            tab.keyboard.press(key)

    def by_pointer(self, tab) -> None:
        """Move it with the pointer."""
        self.point(tab, self.one or self.every)

    def moves(self, tab, act: Callable) -> None:
        """That what it changes is another after `act` than before."""
        self.before(tab)
        old = tab.evaluate(f"JSON.stringify({self.changes})")
        act(tab)
        tab.wait_for_function(f"(old) => JSON.stringify({self.changes}) !== old", arg=old)


def unknown(tab, root: str, table) -> list[str]:
    """Controls inside `root` that no row of the table is about."""
    return tab.evaluate(UNKNOWN, [root, CONTROLS, ", ".join(row.every for row in table)])
