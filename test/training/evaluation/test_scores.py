import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY

from training.evaluate import expected_calibration_error, reliability, report, scores


def test_scores_against_counting() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    probabilities = np.array([0.9, 0.5, 0.2, 0.6, 0.4, 0.3, 0.1, 0.0])
    found = scores(labels, probabilities)
    assert found["sensitivity"] == pytest.approx(2 / 3) and found["specificity"] == pytest.approx(4 / 5)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    pairs = [(p > n) for p in probabilities[labels == 1] for n in probabilities[labels == 0]]
    assert found["roc_auc"] == pytest.approx(np.mean(pairs))


def test_calibration_error_is_zero_for_calibrated_and_a_half_for_sure_and_wrong_half_the_time() -> None:
    labels = np.array([0, 1] * 50)
    assert expected_calibration_error(labels, np.full(100, 0.5)) == pytest.approx(0)
    assert expected_calibration_error(labels, np.full(100, 1.0)) == pytest.approx(0.5)


def test_reliability_compares_like_with_like_at_equal_prevalence() -> None:
    """80 normal and 20 atypical crops at P = 0.25, of which 60 and 5 are there: 0.75 and 0.25 of equal weight."""
    labels = np.array([0] * 80 + [1] * 20)
    probabilities = np.array([0.25] * 60 + [0.85] * 20 + [0.25] * 5 + [0.85] * 15)
    assert reliability(labels, probabilities) == [
        {"crops": 65, "predicted": 0.25, "observed": 0.25},
        {"crops": 35, "predicted": 0.85, "observed": 0.75},
    ]


@pytest.mark.slow
def test_intervals_are_over_slides() -> None:
    """Copying every crop within its slide adds no information: the interval must not shrink."""
    random = np.random.default_rng(0)
    labels = np.tile([0, 0, 1], 40)
    probabilities = np.clip(random.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    groups, domains = np.repeat(np.arange(40), 3), np.array(["a"] * 60 + ["b"] * 60)
    once = report(labels, probabilities, groups, domains)
    many = report(*(np.repeat(part, 10) for part in (labels, probabilities, groups, domains)))
    assert once["slides"] == many["slides"] == 40
    for name, entry in once["overall"].items():
        assert entry == many["overall"][name]
        assert entry["interval_95"][0] < entry["value"] < entry["interval_95"][1]
    assert set(once["domains"]) == {"a", "b"} and once["domains"]["a"]["crops"] == 60


@pytest.mark.slow
def test_command_line_reports_a_table(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    with (tmp_path / "held_out.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "domain", "group", "fold", "logit", "shifted_logit"])
        for i in range(200):
            atypical = i % 4 == 0
            label = "atypical" if atypical else "normal"
            logits = [random.normal(atypical), random.normal(atypical)]
            writer.writerow([f"{i}.png", label, "x", f"s{i // 5}", i // 5 % 4, *logits])
    command = [sys.executable, "-m", "training.evaluate"]
    done = subprocess.run(
        [*command, tmp_path / "held_out.csv"], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    report = json.loads(done.stdout)
    assert report["crops"] == 200
    assert report["overall"].keys() == report["shifted"].keys() and report["overall"] != report["shifted"]
    missing = subprocess.run([*command, "nowhere.csv"], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert missing.returncode == 1 and missing.stderr.strip().startswith("There is no table nowhere.csv")
