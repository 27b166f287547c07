"""Whose a run's folder is, and its log."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
from helpers import config_for

from model.errors import UserError
from training.config import Config, ConfigError
from training.fitting.run import note_fit
from training.run_folder import open_run
from training.train import smoke_config, train


def begin_a_fit(config: Config) -> Path:
    """A run with a fit that has got as far as its note; returns the fit's folder."""
    with open_run(config) as run:
        folder = run.folder / "slides_0"
        folder.mkdir()
        note_fit(folder, run.identity)
    return folder


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=5", "with seed=0 instead of 5"),
        ("network.scales=[1.0,0.8]", r"with network\.scales=\[1\.0\] instead of \[1\.0, 0\.8\]"),
        ("augmentation.blur=1", r"with augmentation\.blur=1\.2 instead of 1\.0"),
    ],
)
def test_a_run_with_a_fit_of_another_recipe_is_refused_by_the_key(
    data: Path, tmp_path: Path, override: str, sentence: str
) -> None:
    fit = begin_a_fit(config_for(data, tmp_path))
    with pytest.raises(ConfigError, match=rf"slides_0 holds a fit {sentence}; go on with that, give another run=DIR"):
        train(config_for(data, tmp_path, override))
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["config.yaml", "slides_0", "training.log"]
    (fit / "fit.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"slides_0 holds a fit, but its fit\.json.* cannot be read .*; remove"):
        train(config_for(data, tmp_path))
    (fit / "fit.json").rename(fit / "checkpoint.pt")
    with pytest.raises(ConfigError, match=r"slides_0 holds a fit, but its fit\.json.* cannot be read .*; remove"):
        train(config_for(data, tmp_path))


def test_what_changes_no_fit_bars_no_run_from_going_on(data: Path, tmp_path: Path) -> None:
    begin_a_fit(config_for(data, tmp_path))
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    changes = [
        "data.workers=1",
        f"output={tmp_path / 'elsewhere'}",
        "version=7",
        "optimisation.gradient_checkpointing=true",
    ]
    with open_run(config_for(moved, tmp_path, *changes)) as run:
        assert run.config.data.root == str(moved)


def test_a_note_from_before_a_key_was_there_is_of_its_default(data: Path, tmp_path: Path) -> None:
    fit = begin_a_fit(config_for(data, tmp_path))
    note = json.loads((fit / "fit.json").read_text())
    del note["adapter.others"]
    (fit / "fit.json").write_text(json.dumps(note))
    with open_run(config_for(data, tmp_path)):
        pass
    with pytest.raises(ConfigError, match=r"with adapter\.others=False instead of True"):
        train(config_for(data, tmp_path, "adapter.others=true"))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("network.backbone_args={depht: 2}", "does not work with"),
        ("data.root=/nowhere", "cannot be read"),
        ("network.pretrained=file:/nowhere.pth", "no file /nowhere.pth"),
        ("data.folds=99", "cannot be split into 99 folds"),
    ],
)
def test_a_start_that_failed_does_not_bind_the_run_s_folder(
    data: Path, tmp_path: Path, wrong: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(config_for(data, tmp_path, wrong))
    with open_run(config_for(data, tmp_path)):
        pass


def test_folders_that_cannot_be_made_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file.* cannot be made \(.*\); give another run or output"):
        train(config_for(data, tmp_path / "file"))


def test_weights_of_another_run_are_replaced_only_when_that_is_asked_for(data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("of another run")
    with pytest.raises(ConfigError, match=r"weights holds the weights of another run; give another output=DIR, or --r"):
        train(config_for(data, tmp_path))
    assert not (tmp_path / "run").exists()
    with open_run(config_for(data, tmp_path), replace=True):
        pass
    begin_a_fit(config_for(data, tmp_path, f"output={tmp_path / 'elsewhere'}"))
    with (
        pytest.raises(ConfigError, match="weights holds the weights of another run"),
        open_run(config_for(data, tmp_path)),
    ):
        pass
    with open_run(config_for(data, tmp_path), replace=True):
        pass
    with open_run(config_for(data, tmp_path)):
        """Going on, it has been asked for before."""


def test_a_run_of_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    """Corrected labels must not meet what was computed with the old ones."""
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    begin_a_fit(config_for(copied, tmp_path))
    manifest = (copied / "manifest.csv").read_text()
    (copied / "manifest.csv").write_text(manifest.replace("1.png,normal", "1.png,atypical", 1))
    with pytest.raises(ConfigError, match="slides_0 holds a fit on other crops or labels; go on"):
        train(config_for(copied, tmp_path))


def test_a_run_s_log_is_added_to_when_it_goes_on(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = config_for(data, tmp_path, "loss.phases=0.3")
    logging.info("before the run")
    for attempt in ("first", "second"):
        with open_run(config) as run:
            assert len(run.crops) == 96 and run.folder == tmp_path / "run"
            logging.info("the %s attempt", attempt)
        logging.info("after the run")
    lines = (tmp_path / "run" / "training.log").read_text(encoding="utf-8").splitlines()
    assert [line[20:] for line in lines] == [
        "Of 96 of the 96 crops a phase of mitosis is known (loss.phases).",
        "the first attempt",
        "Of 96 of the 96 crops a phase of mitosis is known (loss.phases).",
        "the second attempt",
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line[:20]) for line in lines)


def test_a_split_by_source_of_one_source_is_refused_and_the_folder_can_be_used_without(
    data: Path, tmp_path: Path
) -> None:
    """The sentence says what to do, and doing it is not refused as another configuration."""
    with (
        pytest.raises(
            ConfigError, match=r"all crops of .* are of one, 'MIDOG21'; give data\.shift_split= \(nothing\) to"
        ),
        open_run(config_for(data, tmp_path, "data.shift_split=sources")),
    ):
        pass
    assert not (tmp_path / "run" / "config.yaml").exists()
    with open_run(config_for(data, tmp_path, "data.shift_split=''")):
        pass


def test_a_folder_of_other_things_is_never_written_to(data: Path, tmp_path: Path) -> None:
    """With output=. the model card would replace the repository's README."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"weights holds other things than weights; give another output=DIR"):
        train(config_for(data, tmp_path), replace=True)
    config = smoke_config(config_for(data, tmp_path, f"output={tmp_path / 'elsewhere'}"))
    Path(config.run).mkdir()
    (Path(config.run) / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="run-smoke is in the way of the dry run, and of none before it; move it"):
        train(config, smoke=True)
    assert (Path(config.run) / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("key", ["run", "output"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_hours(key: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/proc.* cannot be made \(.*\); give another run or output"):
        train(config_for(data, tmp_path, f"{key}=/proc/x"))
