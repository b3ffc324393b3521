"""Scripts, fonts and icons that the pages load, taken from installed packages at build time."""

import importlib.util
import re
import shutil
import urllib.parse
from pathlib import Path

FOREIGN = ("thebe", "require.js", "html-manager", "//")
MATH = (
    "startup.js",
    "core.js",
    "input/tex.js",
    "input/tex/extensions",
    "output/chtml.js",
    "output/chtml/fonts",
    "a11y/assistive-mml.js",
)
THEBE = re.compile(r'<script type="text/x-thebe-config">.*?</script>', re.DOTALL)
ICON = r'[{{,]"?{name}"?:\[(\d+),(\d+),\[[^\]]*\],"[^"]*","(M[^"]+)"\]'


def is_foreign(item) -> bool:
    """Whether a script or style sheet of a page's context comes from another host, or serves what does."""
    return any(mark in _name(item) for mark in FOREIGN) or "thebe" in _inline(item)


def is_math(item) -> bool:
    """Whether a script of a page's context is the one that renders math, or its configuration."""
    return "mathjax/" in _name(item) or "MathJax" in _inline(item)


def _name(item) -> str:
    return str(getattr(item, "filename", item) or "")


def _inline(item) -> str:
    return str(getattr(item, "attributes", {}).get("body", ""))


def install(app, error) -> None:
    """Put math and icons beside the pages, when all pages are written."""
    if error is None and app.builder.format == "html":
        static = Path(app.outdir) / "_static"
        copy_math(static / "mathjax")
        icons_as_css(Path(app.outdir))


def copy_math(target: Path) -> None:
    """The parts of MathJax that a page with TeX loads: 0.8 MB of the package's 15."""
    package = importlib.util.find_spec("sphinx-mathjax-offline").origin
    source = Path(package).parent / "static" / "mathjax"
    for name in MATH:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def icons_as_css(out: Path) -> None:
    """Replace the theme's icon script (1.5 MB, every icon there is) by style rules for the icons in use."""
    theme = Path(importlib.util.find_spec("pydata_sphinx_theme").origin).parent
    code = (theme / "theme" / "pydata_sphinx_theme" / "static" / "scripts" / "fontawesome.js").read_text("utf8")
    used = {
        name for page in out.rglob("*.html") for name in re.findall(r"\bfa-([a-z][a-z0-9-]*)", page.read_text("utf8"))
    }
    rules = [
        ".fa, .fas, .far, .fab, .fa-solid, .fa-regular, .fa-brands { display: inline-block; width: 1em; height: 1em;"
        " background: currentColor; vertical-align: -0.125em;"
        " mask: var(--icon, linear-gradient(#0000, #0000)) center / contain no-repeat; }",
        ".fa-lg { font-size: 1.25em; }",
    ]
    for name in sorted(used):
        if found := re.search(ICON.format(name=re.escape(name)), code):
            width, height, path = found.groups()
            svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'><path d='{path}'/></svg>"
            rules.append(f'.fa-{name} {{ --icon: url("data:image/svg+xml,{urllib.parse.quote(svg)}"); }}')
    (out / "_static" / "icons.css").write_text("\n".join(rules), "utf8")
    (out / "_static" / "scripts" / "fontawesome.js").write_text("", "utf8")
