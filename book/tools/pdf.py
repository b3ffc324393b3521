"""Prints the built book: a PDF of each chapter and one of the whole, into `_build/pdf`: `make pdf`."""

import functools
import html
import http.server
import re
import shutil
import sys
import threading
from pathlib import Path

import yaml
from pypdf import PdfWriter
from pypdf.generic import ArrayObject, NameObject

from book.tools.project import Project

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 300_000  # ms that the browser may take for one page, however busy the machine
FOOTER = """<div style="width: 100%; margin: 0 16mm; font: 8px sans-serif; color: #555; display: flex;
    justify-content: space-between"><span>{title}</span><span><span class="pageNumber"></span> /
    <span class="totalPages"></span></span></div>"""
SETTLED = "() => Promise.all([window.MathJax?.startup?.promise, document.fonts.ready]).then(() => true)"
# Answers are open; links that leave the page have the public address; places in it have names of this page's own.
READY = """([slug, address]) => {
    document.querySelectorAll('.bd-article details').forEach(one => { one.open = true; });
    document.querySelectorAll('img[loading=lazy]').forEach(one => { one.loading = 'eager'; });
    const own = link => link.getAttribute('href').startsWith('#');
    const links = [...document.querySelectorAll('.bd-article a[href]')];
    const targets = new Set(links.filter(own).map(link => decodeURIComponent(link.hash.slice(1))));
    targets.forEach(id => { const at = document.getElementById(id); if (at) at.id = `${slug}--${id}`; });
    links.forEach(link => {
        if (own(link)) link.href = `#${slug}--${link.getAttribute('href').slice(1)}`;
        else if (link.origin === location.origin) link.href = address + link.pathname + link.hash;
    });
}"""


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_): ...


def pages(project: Project) -> list[str]:
    """The book's pages in order, without the sections of the API: `book/intro`, `notebooks/01_…`, …"""
    toc = yaml.safe_load((project.root / "_toc.yml").read_text("utf8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def print_pages(browser, site: Path, names: list[str], out: Path, address: str) -> dict[str, Path]:
    """Print each page of a built site to `out`; returns the files by title.

    Args:
        browser: of playwright.
        site: the folder of the built book.
        names: pages, as `pages` gives them.
        out: the folder to write to.
        address: where the book is public; links to other pages lead there.
    """
    handler = functools.partial(QuietFiles, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    files = {}
    try:
        for name in names:
            page = browser.new_page(color_scheme="light")
            page.set_default_timeout(PATIENCE)
            page.goto(f"http://127.0.0.1:{server.server_port}/{name}.html", wait_until="load")
            page.evaluate(SETTLED)
            slug = re.sub(r"\W", "-", name)
            page.evaluate(READY, [slug, address])
            title = page.locator("h1").first.evaluate("one => one.firstChild.textContent").strip()
            files[title] = out / f"{Path(name).name}.pdf"
            footer = FOOTER.format(title=html.escape(title))
            lines = {"display_header_footer": True, "header_template": "<span></span>", "footer_template": footer}
            more = {"prefer_css_page_size": True, "print_background": True, "outline": True, "tagged": True}
            page.pdf(path=files[title], format="A4", **lines, **more)
            page.close()
    finally:
        server.shutdown()
    return files


def merge(files: dict[str, Path], names: list[str], out: Path, address: str, about: dict[str, str]) -> Path:
    """One PDF of many: an outline with each page's title, and links between pages lead to each other.

    Args:
        files: the PDFs by title, in order.
        names: the pages that they are of.
        out: the file to write.
        address: where the pages are public.
        about: the document's title and author, as PDF names them.
    """
    whole, starts = PdfWriter(), {}
    for name, (title, file) in zip(names, files.items(), strict=True):
        starts[f"{address}/{name}.html"] = len(whole.pages)
        whole.append(file, outline_item=title, import_outline=False)
    for page in whole.pages:
        for annotation in page.get("/Annots", ()):
            action = annotation.get_object().get("/A", {})
            start = starts.get(str(action.get("/URI", "")).partition("#")[0])
            if start is not None:
                to = [whole.pages[start].indirect_reference, NameObject("/Fit")]
                annotation.get_object()[NameObject("/Dest")] = ArrayObject(to)
                del annotation.get_object()["/A"]
    whole.add_metadata(about)
    whole.page_layout, whole.page_mode = "/OneColumn", "/UseOutlines"
    whole.write(out)
    return out


def main(project: Project) -> int:
    """Print everything, or say in one line why not; returns the exit status."""
    site, out = project.built / "html", project.built / "pdf"
    if not (site / "index.html").is_file():
        print("no PDF: the book is not built; run 'make book' first", file=sys.stderr)
        return 2
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        print(f"no PDF: none of {', '.join(CHROMIUM)} is on this machine")
        return 0
    from playwright.sync_api import sync_playwright

    names, address = pages(project), project.config["html"]["baseurl"].rstrip("/")
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        files = print_pages(browser, site, names, out, address)
        browser.close()
    about = {"/Title": project.config["title"], "/Author": project.config["author"]}
    whole = merge(files, names, out / "book.pdf", address, about)
    print(f"{len(files)} PDFs and {whole.name} are in {out.relative_to(project.root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Project()))
