"""Trials are logged in a table."""

import csv
from pathlib import Path

import pytest
from helpers import OVERRIDES

from training import trial

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.mark.slow
def test_trials_add_rows_and_replace_their_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial, "TABLE", tmp_path / "trials.csv")
    monkeypatch.setattr(trial, "RUNS", tmp_path / "runs")
    weights = tmp_path / "weights"  # what the recipe has written before is in no trial's way
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    common = ["compact", f"data.root={data}", *OVERRIDES, f"output={weights}"]
    for name, override in (("first", "seed=0"), ("second", "augmentation.mixup=0.4"), ("first", "seed=0")):
        monkeypatch.setattr("sys.argv", ["trial", name, *common, override])
        trial.main()
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [file.name for file in weights.iterdir()] == ["config.json"]
    assert [row["trial"] for row in rows] == ["second", "first"]
    assert "augmentation.mixup=0.4" in rows[0]["changes"] and rows[0]["split"] == "slides"
    assert 0 <= float(rows[0]["roc_auc"]) <= 1 and "-" in rows[0]["roc_auc_95"]
    monkeypatch.setattr("sys.argv", ["trial", "--compare", "first", "second"])
    trial.main()
    assert "balanced_accuracy" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["trial", "--compare", "first", "third"])
    with pytest.raises(SystemExit, match="third holds no predictions; run the trial first"):
        trial.main()
    for name, override in (("first", "seed=0"), ("one", "augmentation.mixup=0.4")):
        monkeypatch.setattr("sys.argv", ["trial", name, *common, override, "--only", "slides_1"])
        trial.main()
    with (tmp_path / "trials.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    assert (row["trial"], row["split"], row["balanced_accuracy"]) == ("one", "slides_1", "")
    assert 0 <= float(row["roc_auc"]) <= 1 and 0 <= float(row["shifted_roc_auc"]) <= 1
    (tmp_path / "runs" / "first" / "held_out_slides.csv").unlink()
    monkeypatch.setattr("sys.argv", ["trial", "--compare", "first", "one"])
    capsys.readouterr()
    trial.main()
    compared = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert compared == ["roc_auc", "domain_roc_auc", "shifted_roc_auc"]
    monkeypatch.setattr("sys.argv", ["trial", "none", *common, "--only", "slides_9"])
    with pytest.raises(SystemExit, match="The split has no fit 'slides_9'; there are: slides_0, slides_1"):
        trial.main()
