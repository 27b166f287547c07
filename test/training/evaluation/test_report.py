"""The page of an evaluation, of drawn answers with hostile names."""

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from pages import Page, check_page, fits, lowest_contrast, opened

from model.report.page import ReportError
from training.evaluation.answers import NARROW, Answers, in_parts, with_intervals
from training.evaluation.figures import over_thresholds, roc
from training.evaluation.report import About, Crops, read_curves, write_evaluation

pytestmark = pytest.mark.usefixtures("few_resamples")

DOMAINS = ("<script>alert(1)</script>", "$\\frac{1}{$ & \u202e\x07", "plain", "病理 <b>")
COUNT = 240
LOG = """2026-01-01 00:00:00 slides_0 epoch 1/2  loss/train 1.5  learning_rate 0.001  roc_auc/validation 0.6
2026-01-01 00:00:01 slides_0 epoch 2/2  loss/train 1.1  learning_rate 0.001  roc_auc/validation 0.7
2026-01-01 00:00:02 slides_0 epoch 2/2  loss/train 1  learning_rate 0.001  roc_auc/validation 0.8
2026-01-01 00:00:03 final epoch 1/1  loss/train 0.9  learning_rate 1e-05
2026-01-01 00:00:04 this epoch 3/4  was a long one
"""


def drawn(labels: np.ndarray | None = None) -> Answers:
    """Answers that are mostly right, to crops of twelve slides."""
    random = np.random.default_rng(0)
    labels = (np.arange(COUNT) % 3 == 0).astype(int) if labels is None else labels
    probabilities = 1 / (1 + np.exp(-random.normal(2.0 * labels - 1, 1)))
    return Answers(labels, (probabilities >= 0.5).astype(int), probabilities, np.arange(COUNT) // 20)


def write(folder: Path, answers: Answers, **about: object) -> Page:
    domains = [DOMAINS[i % 4] for i in range(COUNT)]
    agreement = [2 / 3 if i % 10 == 0 else 1.0 for i in range(COUNT)]
    crop = np.full((64, 64, 3), 128, np.uint8)
    crops = Crops([f"<i>{i}.png" for i in range(COUNT)], domains, agreement, lambda i: crop if i % 2 else None)
    words = About(title="An <evaluation>", sentence="Of drawn answers & more.", **about)
    path = write_evaluation(folder, words, answers, crops, (with_intervals(answers), in_parts(answers, domains)))
    return check_page(path)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "training.log").write_text(LOG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.evaluation.scores.RESAMPLES", 60)
        write(folder, drawn(), remarks=["<u>Few</u> crops."], settings="a: <b>", log=folder / "training.log")
    return folder / "report.html"


def pictures(page: Page) -> dict[str, str]:
    """Alternative text -> SVG of the page's figures."""
    start = "data:image/svg+xml;base64,"
    return {
        attributes["alt"] or "": base64.b64decode((attributes["src"] or "").removeprefix(start)).decode()
        for tag, attributes in page.elements
        if tag == "img" and (attributes["src"] or "").startswith(start)
    }


def test_it_says_what_the_figures_are(page_path: Path) -> None:
    page, answers = check_page(page_path), drawn()
    overall = with_intervals(answers)
    for name in ("roc_auc", "balanced_accuracy", "sensitivity", "specificity"):
        assert f"{overall[name]['value']:.3f} (" in page.text
    atypical = answers.labels == 1
    counts = [int(((answers.called == called) & (atypical == label)).sum()) for label in (1, 0) for called in (1, 0)]
    assert "atypical {} {} normal {} {}".format(*counts) in page.text
    wrong = np.flatnonzero(answers.called != answers.labels)
    assert f"24 of {len(wrong)} crops called wrong." in page.text and "24 of 24 crops on which" in page.text
    listed = [int(name) for name in re.findall(r"<i>(\d+)\.png", page.text)]
    distance = np.abs(answers.probabilities - answers.labels)
    assert listed[:24] == sorted(wrong.tolist(), key=lambda i: -distance[i])[:24]
    assert sorted(listed[24:]) == list(range(0, COUNT, 10))


def test_names_are_text_and_figures_are_whole(page_path: Path) -> None:
    page = check_page(page_path)
    assert not {"i", "u", "b"} & {tag for tag, _ in page.elements}
    assert "<u>Few</u> crops." in page.text and "a: <b>" in page.text and DOMAINS[0] in page.text
    found = pictures(page)
    assert len(found) == 6
    for svg in found.values():
        root = ElementTree.fromstring(svg)
        assert not root.findall(".//{http://www.w3.org/2000/svg}script")
        assert "prefers-color-scheme: dark" in svg and "#010101" not in svg and "#020202" not in svg
        assert not re.search(r"url\(\s*[^#)]", svg)
    forest = next(svg for alt, svg in found.items() if "by domain" in alt)
    texts = {
        "".join(node.itertext()) for node in ElementTree.fromstring(forest).iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"plain", "病理 <b>", "$\\frac{1}{$ & \\u202e\\x07", "all crops"} <= texts


def test_answers_of_one_class_have_no_curves(tmp_path: Path) -> None:
    page = write(tmp_path, drawn(np.zeros(COUNT, int)))
    assert not pictures(page) and "specificity" in page.text and "Worst errors" in page.text


def test_right_answers_have_no_errors(tmp_path: Path) -> None:
    labels = np.arange(COUNT) % 2
    answers = Answers(labels, labels, labels.astype(float), np.zeros(COUNT))
    page = write(tmp_path, answers)
    assert "There is no crop called wrong." in page.text and len(pictures(page)) == 4


def test_domains_of_few_slides_are_marked(page_path: Path, tmp_path: Path) -> None:
    answers = drawn()
    groups = np.where(np.arange(COUNT) % 4 == 1, np.arange(COUNT) % 3, answers.groups)  # the second domain's
    page = write(tmp_path, Answers(answers.labels, answers.called, answers.probabilities, groups))
    marked = "3 slides only, normal on 2 slides only, atypical on 1 slide only"
    assert page.text.count(" only") == 3 and marked in page.text and NARROW in page.text
    assert " only" not in check_page(page_path).text and NARROW not in check_page(page_path).text


def test_the_curve_of_a_class_on_one_slide_has_no_band() -> None:
    answers = drawn()
    groups = np.where(answers.labels == 1, 99, answers.groups)
    assert "band" in roc(answers).caption
    assert "band" not in roc(Answers(answers.labels, answers.called, answers.probabilities, groups)).caption


def test_the_figures_state_the_operating_point_and_the_best_threshold() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    probabilities = np.array([0.1, 0.2, 0.3, 0.6, 0.55, 0.7, 0.8, 0.9])
    answers = Answers(labels, (probabilities >= 0.5).astype(int), probabilities, None)
    assert "sensitivity 1.000, specificity 0.750" in roc(answers).alternative
    assert "highest, 0.875, at 0.30" in over_thresholds(answers).caption


def test_curves_are_of_the_last_time_that_an_epoch_was_run(tmp_path: Path) -> None:
    (tmp_path / "training.log").write_text(LOG)
    curves = read_curves(tmp_path / "training.log")
    assert curves["slides_0"]["loss/train"] == {1: 1.5, 2: 1.0}
    assert curves["slides_0"]["roc_auc/validation"] == {1: 0.6, 2: 0.8}
    assert curves["final"] == {"loss/train": {1: 0.9}, "learning_rate": {1: 1e-05}}
    assert read_curves(tmp_path / "none.log") == {}


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(ReportError, match=r"report\.html cannot be written"):
        write(tmp_path, drawn())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), pytest.param(1600, "light", marks=pytest.mark.slow)])
def test_in_a_browser_it_is_legible(page_path: Path, width: int, scheme: str) -> None:
    with opened(page_path, width, scheme) as page:
        assert fits(page)
        assert lowest_contrast(page) >= 4.5
        sizes = page.locator("img").evaluate_all("all => all.map((one) => one.complete && one.naturalWidth)")
        assert len(sizes) > 6 and min(sizes) > 0
        figure = page.locator("figure img").first
        shown, drawn_at = figure.evaluate("one => [one.clientWidth, one.naturalWidth]")
        assert shown / drawn_at > 0.75  # of 10 pt
        # The darkest and the lightest pixel of the figure: its lines and text must stand out from the page.
        values = figure.evaluate(
            """one => {
            const canvas = document.createElement('canvas');
            canvas.width = one.naturalWidth; canvas.height = one.naturalHeight;
            const context = canvas.getContext('2d');
            context.drawImage(one, 0, 0);
            const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
            const found = [];
            for (let i = 0; i < data.length; i += 4)
                if (data[i + 3] === 255) found.push(data[i] + data[i + 1] + data[i + 2]);
            return [Math.min(...found), Math.max(...found)];
            }"""
        )
        assert values[1] > 600 if scheme == "dark" else values[0] < 150
