"""Draws the pictures of report pages in README and docs/report.md, as a browser shows them.

    make screenshot     # or: .venv/bin/python -m docs.screenshot [report.png ...]

Chromium must be there (on Debian: apt-get install chromium). Crops and slide are synthetic
(`test/tools/draw_example_case.py`, `docs/slide_figure.py`); the numbers are those of the default weights for them. The
answers that are evaluated are drawn at random.
"""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import sync_playwright

from docs.figure import REPOSITORY, STACK, WEIGHTS, source
from docs.slide_figure import draw_slide, write_inputs
from model.images.read import read_crops
from model.modes.case import process_case
from model.modes.loader import Loader
from model.modes.slide import classify_slide
from model.modes.slide_options import SlideOptions
from model.predictor import Predictor
from model.report.explain import Explainer
from model.report.predictions import report_case
from model.report.slide import report_slide
from training.evaluation.answers import Answers, in_parts, remarks, with_intervals
from training.evaluation.report import About, Crops, write_evaluation

CASE = REPOSITORY / "test/input"

WIDTH = 1000
"""Pixels of the window, which is as high as the page."""

HIGHEST = 1580
"""Pixels of a picture; a longer page is cut."""


def report_of_the_case(folder: Path, explain: bool = False) -> Path:
    """The page of the example case."""
    loader = Loader(WEIGHTS, "cpu", "d4")
    done = process_case(CASE, folder, loader)
    predictor = loader.predictor()
    explainer = Explainer.of(predictor) if explain else None
    with _working_in(REPOSITORY):  # the page names the case as the README's command does
        return report_case(CASE.relative_to(REPOSITORY), done, predictor, explainer)


def report_of_a_slide(folder: Path) -> Path:
    """The page of a drawn slide."""
    predictor = Predictor(WEIGHTS, "cpu")
    with _working_in(folder):  # the page names the slide as the documents' commands do
        task = write_inputs(Path(), *draw_slide())
        classify_slide(predictor, task, SlideOptions(region="hot spot"))
        return folder / report_slide(task, predictor)


def report_of_an_evaluation(folder: Path) -> Path:
    """The page of answers that are drawn at random, to the crops of the example case, over and over."""
    random = np.random.default_rng(1)
    count, crops = 600, read_crops(STACK)
    labels = (random.random(count) < 0.3).astype(int)
    probabilities = 1 / (1 + np.exp(-random.normal(3.2 * labels - 1.6, 1.3)))
    answers = Answers(labels, (probabilities >= 0.5).astype(int), probabilities, np.arange(count) // 15)
    domains = [("first scanner", "second scanner", "third scanner")[i // 15 % 3] for i in range(count)]
    agreement = np.where(random.random(count) < 0.2, 2 / 3, 1.0).tolist()
    known = Crops([f"{i:03}.png" for i in range(count)], domains, agreement, lambda i: crops[i % len(crops)])
    overall = with_intervals(answers)
    about = About("Evaluation of drawn answers", f"{count} answers, drawn at random.", remarks(overall))
    return write_evaluation(folder, about, answers, known, (overall, in_parts(answers, domains)))


PICTURES: dict[Path, tuple[Callable[[Path], Path], str]] = {
    REPOSITORY / "docs/report.png": (report_of_the_case, "body"),
    REPOSITORY / "docs/report-slide.png": (report_of_a_slide, "body"),
    REPOSITORY / "docs/report-explain.png": (partial(report_of_the_case, explain=True), "#crops"),
    REPOSITORY / "docs/report-evaluation.png": (report_of_an_evaluation, "body"),
}
"""What writes the page that each is of into a folder, and which element of it is shown."""


def photograph(page: Path, element: str, chromium: str) -> bytes:
    """An element of a page as Chromium shows it in light mode, as PNG."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        try:
            tab = browser.new_page(viewport={"width": WIDTH, "height": 600}, color_scheme="light")
            tab.goto(page.as_uri())
            return tab.locator(element).screenshot()
        finally:
            browser.close()


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    here = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)


def main() -> None:
    """Writes the pictures, or those that are named."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("There is no Chromium; install it (on Debian: apt-get install chromium).")
    information = PngInfo()
    information.add_text("Source", source())
    for picture, (report, element) in PICTURES.items():
        if sys.argv[1:] and picture.name not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            content = photograph(report(Path(folder)).resolve(), element, chromium)
        whole = Image.open(io.BytesIO(content)).convert("RGB")
        shown = whole.crop((0, 0, whole.width, min(whole.height, HIGHEST)))
        few = shown.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # no colour is lost
        few.save(picture, optimize=True, pnginfo=information)
        print(f"Wrote {picture}")


if __name__ == "__main__":
    main()
