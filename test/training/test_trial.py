"""Trials are logged in a table."""

import csv
from pathlib import Path

import numpy as np
import pytest
from helpers import OVERRIDES

from training import trial
from training.data.sample import Sample
from training.evaluation.held_out import table_path, write_predictions

pytestmark = pytest.mark.usefixtures("few_resamples")


def write_trial(folder: Path, name: str, split: str, slides_per_fold: int = 5) -> None:
    """The table of a split, or of one fit, that a trial has left."""
    samples = [Sample(Path(f"{i}.png"), int(i % 4 == 0), "x", f"s{i // 10:02}") for i in range(200)]
    logits = np.random.default_rng(0).normal(np.arange(200) % 4 == 0, size=(2, 200)).T
    (folder / name).mkdir(parents=True, exist_ok=True)
    folds = np.arange(200) // 10 // slides_per_fold if split in ("slides", "sources") else np.zeros(200, int)
    write_predictions(table_path(folder / name, split), samples, folds, logits)


def compare(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["trial", "--compare", *arguments])
    trial.main()


def test_trials_of_unlike_splits_or_folds_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "RUNS", tmp_path)
    for name, split in (("a", "slides"), ("b", "sources"), ("c", "slides"), ("d", "sources_0"), ("e", "sources_2")):
        write_trial(tmp_path, name, split, slides_per_fold=10 if name == "c" else 5)
    unlike = r"share no table: .*a has held_out_slides\.csv; .*b has held_out_sources\.csv; compare trials of one split"
    none = "share no table"
    for names, sentence in (("ab", unlike), ("ac", "in other folds"), ("de", none), ("ad", none)):
        with pytest.raises(SystemExit, match=sentence):
            compare(monkeypatch, *names)


def test_of_several_tables_only_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial, "RUNS", tmp_path)
    for name in ("x", "y"):
        for split in ("sources_0", "sources_2"):
            write_trial(tmp_path, name, split)
    write_trial(tmp_path, "z", "sources_2")
    several = r"share several tables: .*x has held_out_sources_0\.csv, held_out_sources_2\.csv; .* say by --only which"
    with pytest.raises(SystemExit, match=several):
        compare(monkeypatch, "x", "y")
    with pytest.raises(SystemExit, match="share no table of sources_0: "):
        compare(monkeypatch, "x", "z", "--only", "sources_0")
    compare(monkeypatch, "x", "y", "--only", "sources_2")
    assert capsys.readouterr().out.startswith("roc_auc ")
    assert trial.shared_tables(["x", "z"]) == [tmp_path / name / "held_out_sources_2.csv" for name in "xz"]


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
