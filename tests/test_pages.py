"""The whole book in a browser: every page, served and opened from disk, in light and dark, wide and on a phone.

`SSLMEM_PAGES=FOLDER` looks at pages that are built already instead of building the committed results.
"""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from sslmem_utils.paths import ROOT

pytestmark = [pytest.mark.grid, pytest.mark.slow]  # the whole book is built once, and read twice by a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
PAGES += ["search", "genindex", "404"]
# One of each kind: what a page loads is the same wherever it lies
FROM_DISK = [PAGES[0], "book/scorecard", "book/explorer", "book/glossary", "book/api/score", "book/results/score"]
FROM_DISK += [f"notebooks/{name}" for name in ("01_score_definition", "04_cifar_scoring", "15_layers_and_units")]
PAGE_BYTES, SITE_BYTES = 1_500_000, 60_000_000
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}

READY = "() => !window.MathJax || (MathJax.startup && MathJax.startup.promise.then(() => true))"
RAW_MATH = """() => [...document.querySelectorAll('.bd-article .math')]
    .filter(each => !each.querySelector('mjx-container') || each.querySelector('mjx-merror'))
    .map(each => `formula not shown: ${each.textContent.slice(0, 60)}`)"""
# Folds are opened, so that what they hide is looked at too: five of each kind, for axe takes minutes for hundreds
OPEN = """() => {
    const opened = {};
    document.querySelectorAll('details').forEach(each => {
        opened[each.className] = (opened[each.className] || 0) + 1;
        each.open = opened[each.className] <= 5;
    });
    document.querySelectorAll('.toggle-hidden').forEach(each => each.classList.remove('toggle-hidden'));
}"""
# The first element of each look: axe's contrast rule takes half a minute for a page's thousand pieces of code
LOOKS = """() => {
    const looks = new Map();
    for (const each of document.querySelectorAll('body *')) {
        const words = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        if (!words || !each.checkVisibility() || each.closest('mjx-container')) continue;
        let under = each;
        while (under.parentElement && /, 0\\)$|transparent/.test(getComputedStyle(under).backgroundColor))
            under = under.parentElement;
        const style = getComputedStyle(each);
        const look = [style.color, style.fontSize, style.fontWeight, getComputedStyle(under).backgroundColor];
        if (!looks.has(look.join())) looks.set(look.join(), each);
    }
    document.querySelectorAll('[data-look]').forEach(each => delete each.dataset.look);
    looks.forEach(each => each.dataset.look = '');
}"""
AXE = """async ([context, options]) =>
    (await axe.run(context, {...options, resultTypes: ['violations'], preload: false})).violations
    .filter(each => ['serious', 'critical'].includes(each.impact)).flatMap(each => each.nodes.map(node =>
        `${each.impact} ${each.id}: ${node.html.slice(0, 200)} ${(node.any[0] || {}).message || ''}`))"""
FIGURES = "() => [...document.querySelectorAll('img.dark-light')].map(each => getComputedStyle(each).filter)"
TOO_WIDE = """() => {
    const wide = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= wide) return [];
    return [`scrolls sideways, ${document.documentElement.scrollWidth} of ${wide} px: ` +
        [...document.querySelectorAll('.bd-main *')].filter(each => each.getBoundingClientRect().right > wide + 1)
        .slice(0, 3).map(each => each.outerHTML.slice(0, 80)).join(' | ')];
}"""


class Page(HTMLParser):
    """What a page links to, its anchors and its images."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.anchors: set[str] = {"", "top"}
        self.images: list[dict[str, str | None]] = []
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := about.get(name))}
        if tag == "a" and (link := about.get("href")):
            self.links.add(link)
        if tag in ("img", "script", "link", "iframe", "source", "video"):
            self.loads |= {link for name in ("src", "href") if (link := about.get(name))}
        if tag == "img":
            self.images.append(about)


@pytest.fixture(scope="module")
def parsed(book_site: Path) -> dict[Path, Page]:
    """All pages of the book by their files."""
    return {path: Page(path) for path in sorted(book_site.rglob("*.html")) if "_static" not in path.parts}


@pytest.fixture(scope="module")
def address(book_site: Path) -> Iterator[str]:
    """The book served from this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(book_site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (extra dev)")
    if CHROMIUM is None:
        pytest.skip("needs Chromium; install it (Debian, Ubuntu: apt install chromium)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab in which nothing is stored yet; `tab.faults` collects what the console says and what is asked elsewhere."""
    context = browser.new_context(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    tab.faults = []
    tab.on("console", lambda said: tab.faults.append(f"console: {said.text}") if said.type == "error" else None)
    tab.on("pageerror", lambda error: tab.faults.append(f"error: {error}"))
    tab.on("requestfailed", lambda request: tab.faults.append(f"not loaded: {request.url}"))
    here = re.compile(r"(http://127\.0\.0\.1:\d+/|file:|data:|blob:)")
    tab.on("request", lambda r: None if here.match(r.url) else tab.faults.append(f"another host: {r.url}"))
    yield tab
    context.close()


def show(tab: Any, address: str) -> None:
    tab.goto(address)
    tab.wait_for_function(READY)


def theme(tab: Any, name: str) -> None:
    tab.evaluate("name => { document.documentElement.dataset.theme = name }", name)


def contrast(tab: Any) -> list[str]:
    tab.evaluate(LOOKS)
    return tab.evaluate(AXE, [{"include": [["[data-look]"]]}, {"runOnly": ["color-contrast"]}])


# ---------------------------------------------------------------- every page
@pytest.mark.parametrize("page", PAGES)
def test_page_served(page: str, address: str, tab: Any) -> None:
    """Nothing in the console, no other host, formulas, axe in light and dark, figures follow, no sideways scrolling."""
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    show(tab, f"{address}/{page}.html")
    tab.faults += tab.evaluate(RAW_MATH)
    tab.evaluate(OPEN)
    tab.evaluate(axe)
    # MathJax writes its own text for screen readers
    rules = {"rules": {"color-contrast": {"enabled": False}}}
    tab.faults += tab.evaluate(AXE, [{"exclude": [["mjx-container"]]}, rules])
    light = tab.evaluate(FIGURES)
    tab.faults += [f"light {fault}" for fault in contrast(tab)]
    theme(tab, "dark")
    tab.faults += [f"dark {fault}" for fault in contrast(tab)]
    same = [number for number, pair in enumerate(zip(light, tab.evaluate(FIGURES), strict=True)) if len(set(pair)) == 1]
    tab.faults += [f"figure {number} looks the same in the dark" for number in same]
    tab.set_viewport_size(PHONE)
    tab.faults += tab.evaluate(TOO_WIDE)
    assert not tab.faults, "\n".join([page, *tab.faults])


@pytest.mark.parametrize("page", FROM_DISK)
def test_page_from_disk_without_a_network(page: str, book_site: Path, tab: Any) -> None:
    tab.context.set_offline(True)
    show(tab, (book_site / f"{page}.html").as_uri())
    tab.faults += tab.evaluate(RAW_MATH)
    assert not tab.faults, "\n".join([page, *tab.faults])


# ---------------------------------------------------------------- all pages as files
def test_no_link_is_dead(parsed: dict[Path, Page]) -> None:
    dead = []
    for path, page in parsed.items():
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                dead.append(f"{path.name}: {link}")
            elif target in parsed and unquote(parts.fragment) not in parsed[target].anchors:
                dead.append(f"{path.name}: {link} (no such anchor)")
    assert not dead


def test_every_image_has_alt_text_and_a_size(parsed: dict[Path, Page]) -> None:
    for path, page in parsed.items():
        for image in page.images:
            if "logo__image" in (image.get("class") or ""):
                continue  # sized in custom.css, described by the title beside it
            assert image.get("alt"), f"{path.name}: {image['src']} has no alt text"
            if image["src"].startswith("data:"):
                continue  # in the page itself, as on slides
            assert image.get("width") and image.get("height"), f"{path.name}: {image['src']} moves the text"
            assert image.get("loading") == "lazy", f"{path.name}: {image['src']} is loaded at once"


def test_pages_are_light(book_site: Path, parsed: dict[Path, Page]) -> None:
    """A page with its pictures, without what all pages share."""
    heavy = {}
    for path, page in parsed.items():
        files = {(path.parent / unquote(urlsplit(link).path)).resolve() for link in page.loads if ":" not in link[:9]}
        own = [file for file in files if file.is_file() and "_images" in file.parts]
        heavy[path.name] = path.stat().st_size + sum(file.stat().st_size for file in own)
    assert max(heavy.values()) < PAGE_BYTES, {name: size for name, size in heavy.items() if size >= PAGE_BYTES}
    assert sum(file.stat().st_size for file in book_site.rglob("*") if file.is_file()) < SITE_BYTES


def test_the_card_for_links_elsewhere(book_site: Path, parsed: dict[Path, Page]) -> None:
    assert (book_site / "_static/card.png").stat().st_size < 200_000
    for page in PAGES[:-3]:
        text = parsed[book_site / f"{page}.html"].text
        assert all(f'property="og:{name}"' in text for name in ("title", "type", "image", "image:alt", "description"))


# ---------------------------------------------------------------- with mouse and keyboard
def test_the_keyboard_reaches_everything(address: str, tab: Any) -> None:
    """The skip link comes first; then search, pages of the sidebar, and the theme switch, which works with Enter."""
    show(tab, f"{address}/notebooks/03_four_sets.html")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.getAttribute('href')") == "#main-content"
    reached = set()
    for _ in range(150):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.className"))
        if "theme-switch-button" in tab.evaluate("document.activeElement.className"):
            break
    reached = " ".join(reached)
    assert all(name in reached for name in ("search-button", "reference internal", "theme-switch-button"))
    before = tab.evaluate("document.documentElement.dataset.mode")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.documentElement.dataset.mode") != before


def test_dark_pages_are_printed_as_light_ones(address: str, tab: Any) -> None:
    show(tab, f"{address}/notebooks/03_four_sets.html")
    theme(tab, "dark")
    seen = tab.evaluate("""() => {
        const seen = {};
        for (const event of ['beforeprint', 'afterprint']) {
            dispatchEvent(new Event(event));
            seen[event] = document.documentElement.dataset.theme;
        }
        return seen;
    }""")
    assert seen == {"beforeprint": "light", "afterprint": "dark"}


def test_solutions_fold_and_unfold(book_site: Path, parsed: dict[Path, Page], address: str, tab: Any) -> None:
    path = next((path for path, page in parsed.items() if "solution dropdown" in page.text), None)
    if path is None:
        pytest.skip("no page has a solution that folds")
    show(tab, f"{address}/{path.relative_to(book_site).as_posix()}")
    fold = tab.locator(".solution.dropdown").first
    inside, button = fold.locator(".admonition-title ~ *").first, fold.locator("button.toggle-button").first
    inside.wait_for(state="hidden")
    button.click()
    inside.wait_for(state="visible")
    button.focus()
    tab.keyboard.press("Enter")
    inside.wait_for(state="hidden")


@pytest.mark.parametrize("where", ["served", "disk"])
def test_search_finds(where: str, book_site: Path, address: str, tab: Any) -> None:
    root = address if where == "served" else book_site.as_uri()
    show(tab, f"{root}/notebooks/03_four_sets.html")
    tab.keyboard.press("Control+k")
    tab.keyboard.type("alignment")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results li a")
    tab.wait_for_function("() => /\\d+ page|finished/.test(document.querySelector('#search-results').textContent)")
    found = tab.locator("#search-results li > a").all_inner_texts()
    assert any("definition" in title.lower() for title in found), found
    assert not tab.faults
