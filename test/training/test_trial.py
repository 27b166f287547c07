"""Trials are logged in a table and compared on the same samples."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import OVERRIDES

from training import trial
from training.evaluate import Predictions

pytestmark = pytest.mark.usefixtures("few_resamples")


def predictions(strength: float, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    labels = np.tile([0, 0, 1, 0], 100)
    logits = strength * labels + random.normal(size=400)
    return Predictions(
        labels=labels, logits=logits, shifted_logits=logits + random.normal(size=400),
        folds=np.arange(400) // 20 % 2, groups=np.array([f"slide {i // 20}" for i in range(400)]),
        domains=np.array(["a", "b"])[np.arange(400) // 200],
    )  # fmt: skip


@pytest.mark.slow
def test_a_better_trial_is_told_from_an_equal_one() -> None:
    baseline = predictions(1.0)
    better = trial.compare(baseline, predictions(3.0))
    for name in ("roc_auc", "domain_roc_auc", "balanced_accuracy", "shifted_roc_auc"):
        value, low, high = better[name]
        assert 0 < low < value < high, name
    same = trial.compare(baseline, replace(baseline, logits=2 * baseline.logits - 1))
    assert same["roc_auc"] == pytest.approx((0, 0, 0), abs=1e-9), "a ranking does not change with scale and offset"
    equal = trial.compare(baseline, predictions(1.0, seed=1))
    assert equal["roc_auc"][1] < 0 < equal["roc_auc"][2]


@pytest.mark.slow
def test_trials_add_rows_and_replace_their_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial, "TABLE", tmp_path / "trials.csv")
    monkeypatch.setattr(trial, "RUNS", tmp_path / "runs")
    common = ["compact", f"data.root={data}", *OVERRIDES]
    for name, override in (("first", "seed=0"), ("second", "augmentation.mixup=0.4"), ("first", "seed=0")):
        monkeypatch.setattr("sys.argv", ["trial", name, *common, override])
        trial.main()
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["second", "first"]
    assert "augmentation.mixup=0.4" in rows[0]["changes"] and rows[0]["split"] == "slides"
    assert 0 <= float(rows[0]["roc_auc"]) <= 1 and "-" in rows[0]["roc_auc_95"]
    monkeypatch.setattr("sys.argv", ["trial", "--compare", "first", "second"])
    trial.main()
    assert "balanced_accuracy" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["trial", "--compare", "first", "third"])
    with pytest.raises(SystemExit, match="third holds no predictions; run the trial first"):
        trial.main()
