"""Scripts, fonts and icons that the pages load, taken from installed packages at build time."""

import base64
import importlib.util
import io
import re
import shutil
from pathlib import Path

from fontTools.subset import Subsetter
from fontTools.ttLib import TTFont
from PIL import Image

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
ICON_RULE = re.compile(r'((?:\.fa-[a-z0-9-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')
FONT_SOURCES = re.compile(r"src:url\((\.\./vendor/fontawesome/webfonts/fa-[a-z]+-\d+)\.woff2\)[^;}]*")
SVG_IMAGE = re.compile(r'<img\b[^>]*\bsrc="(?:\.\./)*_images/([\w-]+\.svg)"[^>]*/?>')
TAG = re.compile(r"<[^>]*>")
COORDINATE = re.compile(r"(?<![\w/+])-?\d+\.\d{3,}(?![\w/+])")
INDEX = re.compile(r'\s*<script src="(?:\.\./)*searchindex\.js"></script>')
POINT = 1.5  # pixels a point: a figure's text is then about as large as the page's
HEAVY = 40_000  # bytes; below this an image is not worth converting


def is_foreign(item) -> bool:
    """Whether a script or style sheet of a page's context comes from another host, or serves one that does."""
    return any(mark in _name(item) for mark in FOREIGN) or "thebe" in _inline(item)


def is_math(item) -> bool:
    """Whether a script of a page's context is the one that renders math, or its configuration."""
    return "mathjax/" in _name(item) or "MathJax" in _inline(item)


def _name(item) -> str:
    return str(getattr(item, "filename", item) or "")


def _inline(item) -> str:
    return str(getattr(item, "attributes", {}).get("body", ""))


def install(app, error) -> None:
    """When all pages are written, put math beside them and make icons and images small."""
    if error is None and app.builder.format == "html":
        out = Path(app.outdir)
        copy_math(out / "_static" / "mathjax")
        trim_icons(out)
        inline_figures(out)
        index_for_search_alone(out)
        convert_images(out)


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


def trim_icons(out: Path) -> None:
    """Keep of the theme's icons the ones in use: fonts and rules of a few kB in place of 1.7 MB, and no script."""
    package = Path(importlib.util.find_spec("pydata_sphinx_theme").origin).parent
    theme = package / "theme" / package.name / "static"
    pages = [path.read_text("utf8") for path in out.rglob("*.html")]
    used = {name for page in pages for name in re.findall(r"\bfa-[a-z0-9-]+", page)}
    styles = (theme / "styles" / "pydata-sphinx-theme.css").read_text("utf8")
    points = {ord(char) for value in re.findall(r'--pst-[a-z-]+:"([^"\\]+)"', styles) for char in value}

    def keep(match: re.Match) -> str:
        if not used & set(re.findall(r"fa-[a-z0-9-]+", match[1])):
            return ""
        points.add(int(match[2], 16))
        return match[0]

    styles = FONT_SOURCES.sub(r'src:url(\1.ttf) format("truetype")', ICON_RULE.sub(keep, styles))
    static = out / "_static"
    (static / "styles" / "pydata-sphinx-theme.css").write_text(styles, "utf8")
    (static / "scripts" / "fontawesome.js").write_text("", "utf8")
    for font in (theme / "vendor" / "fontawesome" / "webfonts").glob("*.ttf"):
        target = static / font.relative_to(theme)
        subset_font(font, target, points)
        target.with_suffix(".woff2").unlink(missing_ok=True)


def subset_font(font: Path, target: Path, points: set[int]) -> None:
    """Write the part of a font that draws these characters."""
    whole = TTFont(font)
    subsetter = Subsetter()
    subsetter.populate(unicodes=points)
    subsetter.subset(whole)
    whole.save(target)


def index_for_search_alone(out: Path) -> None:
    """The index of all words, which the theme has every page load, is loaded where it is used: on the search page."""
    for page in out.rglob("*.html"):
        text = page.read_text("utf8")
        if page.name != "search.html" and INDEX.search(text):
            page.write_text(INDEX.sub("", text), "utf8")


def inline_figures(out: Path) -> None:
    """Put each SVG figure into its page, on transparent ground, with its text in the page's colour."""
    figures = {path.name: path for path in (out / "_images").glob("*.svg")}
    for page in out.rglob("*.html") if figures else ():
        text = page.read_text("utf8")
        changed = SVG_IMAGE.sub(lambda match: _inlined(match, figures), text)
        if changed != text:
            page.write_text(changed, "utf8")
    for path in figures.values():
        path.unlink()


def _inlined(match: re.Match, figures: dict[str, Path]) -> str:
    alt = re.search(r'\balt="([^"]*)"', match[0])
    source = figures[match[1]].read_text("utf8")
    svg = source[source.index("<svg") :].strip()
    if "data-drawing" not in svg:
        svg = _themed(svg)
    svg = re.sub(r' (?:role|aria-label)="[^"]*"', "", svg, count=2)
    name = match[1].partition(".")[0][:8]
    svg = re.sub(r'(\bid="|href="#|url\(#)', lambda mark: f"{mark[1]}f{name}-", svg)
    return svg.replace("<svg", f'<svg class="figure" role="img" aria-label="{alt[1] if alt else ""}"', 1)


def _themed(svg: str) -> str:
    """A matplotlib figure without its white ground; what is black takes the colour of the text around it."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<g id="patch_\d+">\s*<path [^>]*?style="fill: )#ffffff', r"\1none", svg)
    svg = re.sub(r"(fill|stroke): #000000", r"\1: currentColor", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", svg)
    svg = TAG.sub(lambda tag: COORDINATE.sub(_rounded, tag[0]), re.sub(r"\s+", " ", svg))
    svg = re.sub(r'data:image/png;base64,\s*([^"]*)"', _smaller, svg)
    width = float(re.search(r'<svg[^>]*?\bwidth="([\d.]+)pt"', svg)[1])
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg fill="currentColor" width="{POINT * width:.0f}"', 1)


def _rounded(match: re.Match) -> str:
    """A coordinate to a hundredth of a point; what is smaller than one keeps four digits."""
    return f"{round(float(match[0]), 2 if abs(float(match[0])) >= 1 else 4):g}"


def _smaller(match: re.Match) -> str:
    """An image inside a figure: WebP where that is smaller."""
    png, packed = base64.b64decode(match[1]), io.BytesIO()
    Image.open(io.BytesIO(png)).save(packed, "WEBP", quality=90, method=6)
    kind, data = min(("png", png), ("webp", packed.getvalue()), key=lambda item: len(item[1]))
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}"'


def convert_images(out: Path) -> None:
    """Turn heavy PNG figures into WebP and point the pages at them: a photograph shrinks to a tenth."""
    converted = {}
    for image in (out / "_images").glob("*.png"):
        if image.stat().st_size > HEAVY:
            target = image.with_suffix(".webp")
            Image.open(image).save(target, quality=90, method=6)
            converted[image.name] = target.name
            image.unlink()
    for page in out.rglob("*.html") if converted else ():
        text = page.read_text("utf8")
        changed = re.sub(r"_images/([\w-]+\.png)", lambda match: f"_images/{converted.get(match[1], match[1])}", text)
        if changed != text:
            page.write_text(changed, "utf8")
