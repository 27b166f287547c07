from pathlib import Path

import pytest

from training.config import Config, ConfigError, load_config, to_yaml
from training.train import CONFIGS

COMPACT = CONFIGS / "compact.yaml"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_survives_being_written(path: Path, tmp_path: Path) -> None:
    config = load_config(path, ["data.root=crops"])
    assert isinstance(config, Config) and config.name == path.stem
    (tmp_path / "written.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "written.yaml", []) == config


def test_overrides_win_and_keep_their_types() -> None:
    config = load_config(COMPACT, ["data.root=7", "optimisation.epochs=3", "network.mean=[0.1,0.2,0.3]"])
    assert config.data.root == "7" and config.optimisation.epochs == 3 and config.network.mean == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], r"leaves data\.root open"),
        (["data.root=x", "optimisation.epoch=3"], "epoch"),
        (["data.root=x", "optimisation.epochs=many"], "many"),
        (["data.root=x", "stored_dtype=fp16"], "choose among float32, float16, bfloat16"),
        (["data.root=x", "network.backbone=unheard_of"], "no architecture unheard_of"),
        (["data.root=[x"], "no valid configuration"),
        (["data.root"], "'data.root' is no override"),
    ],
)
def test_wrong_overrides_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(COMPACT, overrides)


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no recipe .*tiny\.yaml; there are: .*compact"):
        load_config(CONFIGS / "tiny.yaml", [])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.shift_split=slides", r"data\.shift_split is slides; leave it empty"),
        ("optimisation.precision=fp32", "choose among no, bf16, fp16, auto"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_at_once(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(COMPACT, ["data.root=crops", override])


@pytest.mark.parametrize("written", ["no", "false", "'no'"])
def test_no_mixed_precision_can_be_asked_for(written: str) -> None:
    config = load_config(CONFIGS / "compact.yaml", ["data.root=.", f"optimisation.precision={written}"])
    assert config.optimisation.precision == "no"
