"""What tests of report pages share: a page's parts by the standard library's parser, and a browser to open it in."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page as BrowserPage

LARGEST = 5_000_000
LOADS = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}
"""Attributes that may name something to fetch."""

OWN = r"data:image/|#|report_pictures/\d+(-map)?\.webp$|[A-Za-z0-9_-]+/report\.html$"
"""What they may name: the page itself, its pictures, and the pages below it."""


class Page(HTMLParser):
    """A page's elements.

    Attributes:
        elements: (tag, attributes) in order.
        texts: what is between tags, scripts and styles left out.
        scripts: the text of each script.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        assert path.stat().st_size < LARGEST
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def check_page(path: Path) -> Page:
    """A page that is whole, fetches nothing, has each id once, and a text for each picture."""
    page = Page(path)
    tags = [tag for tag, _ in page.elements]
    assert page.source.startswith("<!doctype html>") and page.source.rstrip().endswith("</html>")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "link", "base")
        assert not any(name.startswith("on") for name in attributes), f"{tag} has a handler of its own"
        for name in LOADS & attributes.keys():
            assert re.match(OWN, attributes[name] or ""), attributes[name]
        if tag == "img":
            assert (attributes.get("alt") or "").strip()
        if tag == "svg":
            assert attributes.get("role") == "img" and attributes.get("aria-labelledby") in ids
    assert not re.search(r"url\(|@import", page.source[page.source.index("<style>") : page.source.index("</style>")])
    policy = next(a["content"] or "" for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    assert tags.count("h1") == tags.count("main") == 1 and dict(page.elements)["html"]["lang"] == "en"
    return page


@contextmanager
def opened(path: Path, width: int = 1600, scheme: str = "light") -> Iterator["BrowserPage"]:
    """A page opened from the disk in headless Chromium; what its console says, or what it asks of a network, fails.

    The test is skipped where there is no Chromium or no Playwright, or fails when `REQUIRE_BROWSER` is set; nothing is
    installed.
    """
    lacking = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
    try:
        import playwright.sync_api as api
    except ImportError:
        lacking("needs Playwright, which test/requirements.txt lists")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        lacking("needs Chromium; on Debian: apt-get install chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        try:
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
            page = context.new_page()
            said: list[str] = []
            asked: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(path.resolve().as_uri())
            yield page
            assert said == []
            assert all(url.startswith(("file:", "data:")) for url in asked)
        finally:
            browser.close()


def fits(page: "BrowserPage") -> bool:
    """Whether a page is no wider than the window, and none of its visible texts smaller than 10 px."""
    return page.evaluate(
        """() => {
        const small = [...document.querySelectorAll('body *')].filter((node) =>
            [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()) &&
            node.getClientRects().length && parseFloat(getComputedStyle(node).fontSize) *
            (node.getScreenCTM && node.ownerSVGElement ? node.getScreenCTM().a : 1) < 10);
        return small.length === 0 && document.documentElement.scrollWidth <= window.innerWidth;
        }"""
    )


def lowest_contrast(page: "BrowserPage") -> float:
    """The lowest contrast of a text against the page's background or its card's (WCAG 2.1, 1.4.3 asks for 4.5)."""
    return page.evaluate(
        """() => {
        const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const luminance = (colour) => channels(colour).slice(0, 3).map((c) => c / 255)
            .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const background = (node) => {
            for (; node; node = node.parentElement) {
                const colour = getComputedStyle(node).backgroundColor;
                if ((channels(colour)[3] ?? 1) > 0) return colour;
            }
            return 'rgb(255, 255, 255)';
        };
        let lowest = 21;
        for (const node of document.querySelectorAll('body *')) {
            if (node.disabled || node.ownerSVGElement || !node.getClientRects().length) continue;
            if (![...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) continue;
            const [a, b] = [getComputedStyle(node).color, background(node)].map(luminance).sort((x, y) => y - x);
            lowest = Math.min(lowest, (a + 0.05) / (b + 0.05));
        }
        return lowest;
        }"""
    )
