"""Scripts, fonts and icons that the pages load, taken from installed packages at build time."""

import importlib.util
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
