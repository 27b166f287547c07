"""Draws the README's first picture: the report of the example case, as a browser shows it.

    make screenshot     # or: .venv/bin/python -m docs.screenshot

Chromium must be there (on Debian: apt-get install chromium). The crops are synthetic
(`test/tools/draw_example_case.py`); the numbers are those of the default weights for them.
"""

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import sync_playwright

from docs.figure import REPOSITORY, WEIGHTS, source
from model.modes.case import process_case
from model.modes.loader import Loader
from model.report.predictions import report_case

CASE = REPOSITORY / "test/input"
PICTURE = REPOSITORY / "docs/report.png"

WIDTH = 1000
"""Pixels of the window, which is as high as the page."""


def photograph(page: Path, chromium: str) -> bytes:
    """A page as Chromium shows it in light mode, as PNG."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        try:
            tab = browser.new_page(viewport={"width": WIDTH, "height": 600}, color_scheme="light")
            tab.goto(page.as_uri())
            return tab.screenshot(full_page=True)
        finally:
            browser.close()


def main() -> None:
    """Writes the picture."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("There is no Chromium; install it (on Debian: apt-get install chromium).")
    loader = Loader(WEIGHTS, "cpu", "d4")
    with tempfile.TemporaryDirectory() as folder:
        _, entries = process_case(CASE, Path(folder), loader)
        here = Path.cwd()
        os.chdir(REPOSITORY)  # the page names the case as the README's command does
        try:
            page = report_case(CASE.relative_to(REPOSITORY), Path(folder), entries, loader.predictor())
        finally:
            os.chdir(here)
        content = photograph(page, chromium)
    information = PngInfo()
    information.add_text("Source", source())
    small = Image.open(io.BytesIO(content)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(PICTURE, optimize=True, pnginfo=information)
    print(f"Wrote {PICTURE}")


if __name__ == "__main__":
    main()
