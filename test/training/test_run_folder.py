"""Whose a run's folder is, and its log."""

import logging
import re
import shutil
from pathlib import Path

import pytest
from helpers import config_for

from training.config import ConfigError
from training.run_folder import open_run
from training.train import train


def test_a_run_folder_of_another_configuration_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 5\n")
    with pytest.raises(ConfigError, match="belongs to a run with another configuration"):
        train(config_for(data, tmp_path))
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]
    with pytest.raises(ConfigError, match=r"config\.yaml.* cannot be made: .*; give another run=DIR"):
        train(config_for(data, tmp_path / "run" / "config.yaml"))


def test_a_run_of_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    """Corrected labels must not meet what was computed with the old ones."""
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    with open_run(config_for(copied, tmp_path)):
        pass
    manifest = (copied / "manifest.csv").read_text()
    (copied / "manifest.csv").write_text(manifest.replace("1.png,normal", "1.png,atypical", 1))
    with pytest.raises(ConfigError, match="belongs to a run with other data"):
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
        pytest.raises(ConfigError, match=r"all crops of .* are of one, 'MIDOG21'; give data\.shift_split='' to"),
        open_run(config_for(data, tmp_path, "data.shift_split=sources")),
    ):
        pass
    assert not (tmp_path / "run" / "config.yaml").exists()
    with open_run(config_for(data, tmp_path, "data.shift_split=''")):
        pass
