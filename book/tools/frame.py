"""What stands around a page's text: terms of the glossary marked, how a link to the page looks elsewhere, the sidebar.

Connected by `book_pages.setup`.
"""

import html
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from docutils import nodes
from PIL import Image, ImageDraw, ImageFont
from sphinx.application import Sphinx

GLOSSARY = "book/glossary"
READ = re.compile(r"notebooks/|book/(intro|how_to_read)$")  # the pages with running text
# Terms that running text mostly uses in another sense: a notebook's cell, a table's row, the shapes of tensors.
EVERYDAY = {
    "cell", "contrast", "flow", "group", "interaction", "key", "process", "rank", "record", "row", "shapes", "value"
}  # fmt: skip
APART = (nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw,
         nodes.strong, nodes.caption, nodes.term, nodes.image)  # fmt: skip
TOGGLE = re.compile(r'(<a [^>]*>([^<]*)</a><details[^>]*><summary)(><span class="toctree-toggle")')
CARD = (1200, 630)
STRIP = ("#0072b2", "#d55e00", "#d55e00", *["#8c9299"] * 5)  # the mark of the book, as in book.css


def definitions(env) -> dict[str, tuple[str, str]]:
    """What the glossary says: `{term: (id, definition)}`; several terms before one definition are separate here."""
    found = {}
    if GLOSSARY not in env.found_docs:
        return found
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        meaning = " ".join(item[-1].astext().split())
        for term in item.findall(nodes.term):
            found |= {name.strip(): (term["ids"][0], meaning) for name in term.astext().split(",")}
    return found


def pattern(terms) -> re.Pattern:
    """Finds any of the terms, also in the plural and with a capital; the longest that fits."""
    either = (f"[{term[0].upper()}{term[0]}]{re.escape(term[1:])}" for term in sorted(terms, key=len, reverse=True))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(either)})(?:e?s)?(?![\w-])")


def mark_terms(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Turn the first use of each term on a page of running text into a link to the glossary, for the hover."""
    if not READ.match(page) or app.builder.format != "html":
        return
    terms = {term: ref for term, (ref, _) in definitions(app.env).items() if term not in EVERYDAY}
    if not terms:
        return
    find, seen, home = pattern(terms), set(), app.builder.get_relative_uri(page, GLOSSARY)
    for text in list(doctree.findall(nodes.Text)):
        if not _is_prose(text):
            continue
        parts, end = [], 0
        for match in find.finditer(str(text)):
            place = next(terms[term] for term in _singular(match[0]) if term in terms)
            if place not in seen:
                seen.add(place)
                link = nodes.reference("", match[0], refuri=f"{home}#{place}", internal=True, classes=["term"])
                parts += [nodes.Text(text[end : match.start()]), link]
                end = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(text[end:])])


def _singular(word: str) -> Iterator[str]:
    """What a term may be called in the glossary that reads like this in the text; as it is written comes first."""
    for ending in (0, 1, 2):
        stem = word[: len(word) - ending]
        yield from (stem, stem[0].lower() + stem[1:], stem[0].upper() + stem[1:])


def _is_prose(text: nodes.Text) -> bool:
    above, inside = text.parent, False
    while above is not None:
        if isinstance(above, APART):
            return False
        inside |= isinstance(above, nodes.paragraph)
        above = above.parent
    return inside


def describe(doctree: nodes.document) -> str:
    """The question that a chapter asks, or a page's first paragraph: at most 200 characters."""
    for paragraph in doctree.findall(nodes.paragraph):
        quote = isinstance(paragraph.parent, nodes.block_quote)
        asks = quote and "the-question" in paragraph.parent["classes"]
        if asks or not (quote or "measured" in paragraph["classes"] or "colab.research" in str(paragraph)):
            text = " ".join(paragraph.astext().removeprefix("The question.").split())
            if text:
                return textwrap.shorten(text, 200, placeholder=" …")
    return ""


def share(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Say to other sites what a page is: title, description, address, and a picture made here."""
    if doctree is None:
        return
    title, about = html.unescape(re.sub(r"<[^>]+>", "", context["title"])), describe(doctree)
    base, name = app.config.html_baseurl.rstrip("/"), f"_static/cards/{page.replace('/', '-')}.png"
    card(title, about, app.config.html_title, Path(app.outdir) / name)
    tags = {
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "og:title": title,
        "og:description": about,
        "og:url": f"{base}/{page}.html",
        "og:image": f"{base}/{name}",
        "og:image:width": CARD[0],
        "og:image:height": CARD[1],
        "og:image:alt": f"A card that says: {title}. {about}",
    }
    lines = [f'<meta property="{key}" content="{html.escape(str(value))}" />' for key, value in tags.items()]
    lines += [f'<meta name="description" content="{html.escape(about)}" />']
    lines += ['<meta name="twitter:card" content="summary_large_image" />']
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)


def listed(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """References are the items of a list: docutils gives them a role that has been taken out of the standard."""
    context["body"] = context.get("body", "").replace('role="doc-biblioentry"', 'role="listitem"')


def card(title: str, about: str, book: str, file: Path) -> None:
    """Draw what a link to a page shows elsewhere: the book's mark, the title, what it asks."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    bold, plain, small = (
        ImageFont.truetype(folder / f"DejaVuSans{weight}.ttf", size)
        for weight, size in (("-Bold", 64), ("", 34), ("", 28))
    )
    picture = Image.new("RGB", CARD, "#ffffff")
    draw = ImageDraw.Draw(picture)
    for number, colour in enumerate(STRIP):
        draw.rectangle((80 + 62 * number, 70, 128 + 62 * number, 118), fill=colour)
    heading = "\n".join(textwrap.wrap(title, 27)[:3])
    draw.multiline_text((80, 165), heading, "#14222e", bold, spacing=14)
    below = draw.multiline_textbbox((80, 165), heading, bold, spacing=14)[3] + 34
    lines = textwrap.wrap(about, 54)[: int((535 - below) // 46)]
    draw.multiline_text((80, below), "\n".join(lines), "#48566b", plain, spacing=12)
    draw.text((80, 555), book, "#0b5c8a", small)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(32).save(file, optimize=True)


def finish(app: Sphinx, error) -> None:
    """When all pages are written: the definitions as a script, and names for the sidebar's toggles."""
    if error is not None or app.builder.format != "html":
        return
    meanings = dict(definitions(app.env).values())
    script = f"window.glossaryTerms = {json.dumps(meanings, ensure_ascii=False)};\n"
    (Path(app.outdir) / "_static" / "glossary_terms.js").write_text(script, "utf8")
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text("utf8")
        named = TOGGLE.sub(lambda found: f'{found[1]} aria-label="Pages of {found[2].strip()}"{found[3]}', text)
        if named != text:
            page.write_text(named, "utf8")


def setup(app: Sphinx) -> None:
    """Connect all of it."""
    app.connect("doctree-resolved", mark_terms)
    app.connect("html-page-context", share)
    app.connect("html-page-context", listed)
    app.connect("build-finished", finish)
    for script in ("glossary_terms.js", "glossary.js", "frame.js"):
        app.add_js_file(script, loading_method="defer")
