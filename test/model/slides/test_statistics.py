"""Shares, intervals and densities, against published figures and by simulation."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import DEFAULT_WEIGHTS

from model.slides.accuracy import read_accuracy
from model.slides.statistics import Accuracy, corrected, describe, wilson


@pytest.mark.parametrize(
    ("count", "total", "expected"),
    # Newcombe 1998, Stat Med 17:857, table I, method 3
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (29, 29, (0.8830, 1.0)),
    ],
)
def test_wilson_as_published(count: int, total: int, expected: tuple[float, float]) -> None:
    assert wilson(count, total) == pytest.approx(expected, abs=6e-5)


def test_a_perfect_classifier_is_not_corrected() -> None:
    found = corrected(30, 100, Accuracy(1.0, 1.0, 1e9, 1e9))
    assert found is not None
    share, (low, high) = found
    assert share == pytest.approx(0.3)
    # With nothing uncertain in the classifier what is left is the interval of Agresti and Coull 1998, Am Stat 52:119.
    n = 100 + 1.959964**2
    middle = (30 + 1.959964**2 / 2) / n
    half = 1.959964 * (middle * (1 - middle) / n) ** 0.5
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_rogan_and_gladen_by_hand() -> None:
    """(0.3 + 0.9 - 1) / (0.8 + 0.9 - 1) = 2 / 7; and, in a sample of few, nothing below none or above all."""
    found = corrected(30, 100, Accuracy(0.8, 0.9, 200, 400))
    assert found is not None and found[0] == pytest.approx(2 / 7)
    few, many = corrected(0, 10, Accuracy(0.8, 0.9, 200, 400)), corrected(10, 10, Accuracy(0.8, 0.9, 200, 400))
    assert few is not None and few[0] == few[1][0] == 0 and 0 < few[1][1] < 0.5
    assert many is not None and many[0] == many[1][1] == 1 and many[1][0] > 0.5
    assert corrected(30, 100, Accuracy(0.5, 0.5, 200, 400)) is None


@pytest.mark.parametrize(("truth", "total"), [(0.1, 60), (0.2, 200), (0.5, 100), (0.2, 2000)])
def test_nineteen_of_twenty_intervals_hold_the_truth(truth: float, total: int) -> None:
    """With sensitivity and specificity estimated anew each time, of samples as large as behind the default weights."""
    random = np.random.default_rng(0)
    sensitivity, specificity, positives, negatives = 0.855, 0.842, 399, 515
    seen = truth * sensitivity + (1 - truth) * (1 - specificity)
    held = ignoring = 0
    for _ in range(2000):
        se, sp = (
            random.binomial(positives, sensitivity) / positives,
            random.binomial(negatives, specificity) / negatives,
        )
        count = int(random.binomial(total, seen))
        found = corrected(count, total, Accuracy(se, sp, positives, negatives))
        certain = corrected(count, total, Accuracy(se, sp, 1e9, 1e9))
        held += found is not None and found[1][0] <= truth <= found[1][1]
        ignoring += certain is not None and certain[1][0] <= truth <= certain[1][1]
    assert 0.93 < held / 2000 < 0.985
    assert ignoring < held or total < 100


@pytest.mark.parametrize(("truth", "total"), [(0.1, 60), (0.2, 200), (0.07, 400)])
def test_an_interval_holds_the_truth_of_a_slide_whose_rates_are_its_own(truth: float, total: int) -> None:
    random = np.random.default_rng(0)
    sensitivity, specificity, spreads = 0.855, 0.842, (0.067, 0.094)
    alike, differing = (
        Accuracy(sensitivity, specificity, 400, 500),
        Accuracy(sensitivity, specificity, 400, 500, *spreads),
    )
    held = ignoring = 0
    for _ in range(2000):
        se, sp = np.clip(random.normal((sensitivity, specificity), spreads), 0, 1)
        atypical = round(truth * total)
        count = int(random.binomial(atypical, se) + random.binomial(total - atypical, 1 - sp))
        found, narrow = corrected(count, total, differing), corrected(count, total, alike)
        held += found is not None and found[1][0] <= truth <= found[1][1]
        ignoring += narrow is not None and narrow[1][0] <= truth <= narrow[1][1]
    assert 0.93 < held / 2000 < 0.99 and ignoring / 2000 < 0.9


def test_where_the_rates_cannot_be_this_slide_s_nothing_is_corrected() -> None:
    """16 of 200 called atypical, where a specificity of 0.84 makes 32 of none; and all of 200, where it makes fewer."""
    accuracy = Accuracy(0.9, 0.84, 400, 500)
    assert corrected(16, 200, accuracy) is None and corrected(200, 200, accuracy) is None
    assert corrected(32, 200, accuracy) is not None
    assert describe(16, 200, accuracy, None)["corrected_share_interval_95"] is None


def test_the_summary_by_hand() -> None:
    described = describe(5, 20, None, 2.0)
    assert described == {
        "figures": 20,
        "atypical": 5,
        "normal": 15,
        "share_atypical": 0.25,
        "share_interval_95": [0.1119, 0.4687],
        "ratio_atypical_to_normal": 0.3333,
        "corrected_share": None,
        "corrected_share_interval_95": None,
        "area_mm2": 2.0,
        "figures_per_mm2": 10.0,
        "figures_per_2.37_mm2": 23.7,
        "atypical_per_mm2": 2.5,
        "atypical_per_2.37_mm2": 5.925,
    }


def test_what_cannot_be_computed_is_none() -> None:
    nothing = describe(0, 0, Accuracy(0.9, 0.9, 100, 100), None)
    assert {name for name, value in nothing.items() if value is not None} == {"figures", "atypical", "normal"}
    assert describe(3, 3, None, None)["ratio_atypical_to_normal"] is None


def test_the_default_weights_tell_how_good_they_are() -> None:
    """Fewer independent crops than crops: those of a slide are alike."""
    accuracy = read_accuracy(DEFAULT_WEIGHTS)
    metrics = json.loads((DEFAULT_WEIGHTS / "metrics.json").read_text())
    assert accuracy is not None
    assert accuracy.sensitivity == metrics["overall"]["sensitivity"]["value"]
    assert accuracy.specificity == metrics["overall"]["specificity"]["value"]
    assert 100 < accuracy.positives <= metrics["atypical"]
    assert accuracy.specificity_spread == metrics["between_slides"]["specificity"] > 0.05
    low, high = metrics["overall"]["sensitivity"]["interval_95"]
    error = (accuracy.sensitivity * (1 - accuracy.sensitivity) / accuracy.positives) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * error, rel=1e-3) or accuracy.positives == metrics["atypical"]


@pytest.mark.parametrize(
    "change",
    [
        None,
        "no json",
        "[]",
        {"crops": "many"},
        {"atypical": 0},
        {"overall": {}},
        {"overall": {"sensitivity": {"value": 1.5, "interval_95": [0, 1]}}},
        {"overall": {"sensitivity": {"value": 0.9, "interval_95": [0.95, 0.9]}}},
        {"overall": {"sensitivity": {"value": 0.9, "interval_95": "wide"}}},
        {"between_slides": {"sensitivity": 1.5}},
        {"between_slides": "wide"},
    ],
)
def test_without_figures_shares_are_not_corrected(
    tmp_path: Path, change: dict | str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(change, dict):
        metrics = json.loads((DEFAULT_WEIGHTS / "metrics.json").read_text())
        overall = metrics["overall"] | change.get("overall", {}) if change.get("overall") else change.get("overall")
        changed = metrics | change | ({"overall": overall} if overall is not None else {})
        (tmp_path / "metrics.json").write_text(json.dumps(changed))
    elif change is not None:
        (tmp_path / "metrics.json").write_text(change)
    with caplog.at_level(logging.WARNING):
        assert read_accuracy(tmp_path) is None
    assert "shares are not corrected" in caplog.text


def test_recalibrated_weights_have_the_rates_of_their_own_operating_point(tmp_path: Path) -> None:
    new = {
        "sensitivity": {"value": 0.80, "interval_95": [0.72, 0.88]},
        "specificity": {"value": 0.93, "interval_95": [0.90, 0.96]},
    }
    metrics = json.loads((DEFAULT_WEIGHTS / "metrics.json").read_text())
    metrics["recalibration"] = {"crops": 300, "atypical": 60, "old": metrics["overall"], "new": new}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    accuracy = read_accuracy(tmp_path)
    assert accuracy is not None
    assert (accuracy.sensitivity, accuracy.specificity) == (0.80, 0.93)
    assert accuracy.positives <= 60 and accuracy.negatives <= 240
    assert read_accuracy(tmp_path, "none") is not None, "weights of earlier days do not tell their views"
    metrics["recalibration"]["views"] = "none"
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert read_accuracy(tmp_path, "none") is not None and read_accuracy(tmp_path) is None
    metrics["recalibration"] = []
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert read_accuracy(tmp_path) is None


def test_figures_on_one_slide_alone_count_all_crops(tmp_path: Path) -> None:
    shutil.copy(DEFAULT_WEIGHTS / "metrics.json", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    metrics["overall"]["sensitivity"] = {"value": 1.0, "interval_95": [1.0, 1.0]}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    accuracy = read_accuracy(tmp_path)
    assert accuracy is not None and accuracy.positives == metrics["atypical"]
