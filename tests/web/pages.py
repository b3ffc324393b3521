"""Opens one page with every other host out of reach and reports what a reader would miss."""

from dataclasses import dataclass, field

PATIENCE = 180_000  # ms that the browser may take for one thing, however busy the machine
SETTLED = """async patience => {
    const typeset = window.MathJax?.startup?.promise?.then(() => document.fonts.ready);
    const late = new Promise(done => setTimeout(() => done(true), patience));
    return Boolean(await Promise.race([(typeset ?? document.fonts.ready).then(() => false), late]));
}"""
NEXT_FRAME = """() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"""
MATH_LEFT = """() => [...document.querySelectorAll('.math')]
    .filter(e => !e.querySelector('mjx-container') || e.querySelector('mjx-merror'))
    .map(e => e.textContent.slice(0, 60))"""
NO_ALT = """() => [...document.querySelectorAll('img')].filter(e => !e.alt.trim()).map(e => e.src)"""
TOO_WIDE = """() => document.documentElement.scrollWidth - window.innerWidth"""
CUT_OFF = """() => [...document.querySelectorAll('table.dtl-table')].filter(e => e.scrollWidth > e.clientWidth)
    .map(e => `table ${e.scrollWidth - e.clientWidth} px wider than its column: ${e.innerText.slice(0, 40)}`)"""
CONTRAST = """() => {
    const parse = c => {
        const m = c.match(/[\\d.]+/g).map(Number);
        const unit = c.startsWith('color(srgb') ? 255 : 1;  // what color-mix gives: shares, not bytes
        return m.length > 3 && m[3] === 0 ? null : m.slice(0, 3).map(v => v * unit);
    };
    const light = c => c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const ground = e => e ? parse(getComputedStyle(e).backgroundColor) ?? ground(e.parentElement) : [255, 255, 255];
    return [...document.querySelectorAll('article p, article li, article td, article dd, article code, article a')]
        .filter(e => e.innerText?.trim() && e.getClientRects().length)
        .map(e => {
            const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
            return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName + ': ' + e.innerText.slice(0, 40)];
        }).filter(([ratio]) => ratio < 4.5);
}"""


@dataclass
class Report:
    """What was wrong, and how many bytes the page loaded."""

    problems: list[str] = field(default_factory=list)
    weight: int = 0


def open_page(browser, site: str, path: str, widths=(1440, 360), patience: int = PATIENCE) -> Report:
    """Load `site/path` and look at it in light and dark at each width in pixels; `patience` is for the mathematics."""
    report = Report()
    context = browser.new_context(viewport={"width": widths[0], "height": 900}, color_scheme="light")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()

    def route(route):
        url = route.request.url
        if url.startswith((site, "data:", "blob:")):
            return route.continue_()
        report.problems.append(f"asks another host: {url}")
        return route.abort()

    def weigh(response):
        if response.status >= 400:
            report.problems.append(f"{response.status} for {response.url}")
        report.weight += int(response.headers.get("content-length", 0))

    page.route("**/*", route)
    page.on("requestfailed", lambda request: report.problems.append(f"failed: {request.url}"))
    page.on("response", weigh)
    page.on("pageerror", lambda error: report.problems.append(f"script error: {error}"))
    page.on("console", lambda line: line.type == "error" and report.problems.append(f"console: {line.text}"))
    page.goto(f"{site}/{path}", wait_until="load")
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    if page.evaluate(SETTLED, patience):
        report.problems.append(f"mathematics is still being set after {patience / 1000:g} s")
    report.problems += [f"math not rendered: {text}" for text in page.evaluate(MATH_LEFT)]
    report.problems += [f"image without alt text: {source}" for source in page.evaluate(NO_ALT)]
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        if (over := page.evaluate(TOO_WIDE)) > 0:
            report.problems.append(f"{over} px wider than {width} px")
        report.problems += [f"at {width} px, {cut}" for cut in page.evaluate(CUT_OFF)]
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.evaluate(NEXT_FRAME)
            report.problems += [f"contrast {ratio:.1f} in {scheme}, {text}" for ratio, text in page.evaluate(CONTRAST)]
    context.close()
    return report


def open_landing(browser, address):
    """A page on which every request is noted and no script may fail."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.asked, errors = [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".landing[data-ready]")
    yield page
    assert errors == []
    context.close()
