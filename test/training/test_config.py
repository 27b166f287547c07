from pathlib import Path

import pytest

from training.config import Config, ConfigError, flat, load_config, to_yaml
from training.config_ranges import RANGES
from training.network.cost import check_network
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
        (["data.root=x", "network.backbone_args=[1]"], r"the value of network\.backbone_args cannot be used"),
        (["data.root=x", "network.backbone_args"], "is no override"),
        (["data.root=x", "=3"], "'=3' is no override"),
        (["data.root=x", "optimisation.epochs="], r"the value of optimisation\.epochs cannot be used"),
        (["data.root=x", "network.scales=[a]"], r"the value of network\.scales\[0\] cannot be used: Value 'a'"),
        (["data.root=x", "seed=1.5"], "the value of seed cannot be used: Value '1.5'"),
        (["data.root=x", "network.scales[0]=1"], "no valid configuration"),
        (["data.root"], "'data.root' is no override"),
    ],
)
def test_wrong_overrides_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(COMPACT, overrides)


@pytest.mark.parametrize(
    ("overrides", "arguments"),
    [
        ([], {"drop_path_rate": 0.15}),
        (["network.backbone_args={}"], {}),
        (["network.backbone_args={act_layer: relu}"], {"act_layer": "relu"}),
        (["network.backbone_args.act_layer=relu"], {"drop_path_rate": 0.15, "act_layer": "relu"}),
        (["network.backbone_args.drop_path_rate=0"], {"drop_path_rate": 0}),
        (["network={backbone_args: {}, input_size: 64}"], {}),
        (["network.backbone_args={}", "network.backbone_args.act_layer=relu"], {"act_layer": "relu"}),
    ],
    ids=str,
)
def test_arguments_of_the_backbone_replace_the_recipe_s(overrides: list[str], arguments: dict[str, object]) -> None:
    assert load_config(COMPACT, ["data.root=x", *overrides]).network.backbone_args == arguments


def test_a_value_may_name_others() -> None:
    config = load_config(COMPACT, ["data.root=x", "seed=3", "run=runs/${name}-${seed}"])
    assert config.run == "runs/compact-3"


def test_an_empty_value_is_an_empty_text() -> None:
    """A shell leaves nothing of the quotes of `data.shift_split=''`."""
    assert load_config(COMPACT, ["data.root=x", "data.shift_split="]).data.shift_split == ""
    assert load_config(COMPACT, ["data.root=x", "data.shift_split=''"]).data.shift_split == ""


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no recipe .*tiny\.yaml; there are: .*compact"):
        load_config(CONFIGS / "tiny.yaml", [])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.shift_split=slides", r"data\.shift_split is 'slides'; choose among '' \(none\), domains, sources"),
        ("data.split=sources", r"data\.shift_split is sources, as data\.split is; leave it empty"),
        ("optimisation.precision=fp32", "choose among no, bf16, fp16, auto"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_at_once(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(COMPACT, ["data.root=crops", override])


@pytest.mark.parametrize(
    "override",
    [
        *("seed=-1", "seed=4294967296", "optimisation.batch_size=0", "optimisation.epochs=0", "data.folds=1"),
        *("network.scales=[]", "network.mean=[0.5]", "network.std=[0.5,0.5,0]", "network.scales=[0]"),
        *("network.mean=[0.5,.nan,0.5]", "augmentation.jpeg=200", "augmentation.brightness=1", "augmentation.mixed=-1"),
        *("optimisation.learning_rate=0", "optimisation.learning_rate=.inf", "optimisation.average_decay=1"),
        *("optimisation.warmup=1.5", "adapter.rank=-1", "adapter.dropout=1", "loss.gamma=-1", "data.workers=-2"),
        *("network.input_size=0", "network.field_of_view=99999", "name=''", "output=' '", 'run="a\\nb"'),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_its_key(override: str) -> None:
    key = override.split("=")[0].replace(".", r"\.")
    with pytest.raises(ConfigError, match=rf"^{key} (must be|is) .*\.$"):
        load_config(COMPACT, ["data.root=crops", override])


def test_every_number_and_every_text_has_a_range() -> None:
    values = flat(load_config(COMPACT, ["data.root=crops"]))
    free = {"data.about", "network.pretrained", "network.backbone_args", "adapter.targets"}
    either = {"optimisation.gradient_checkpointing"}  # a text, or yes or no
    assert {key for key, value in values.items() if not isinstance(value, bool)} - free | either == RANGES.keys()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["network.backbone=vit_tiny_patch16_224", "network.pooling=token", "network.input_size=50"], "50"),
        (["network.backbone_args={depht: 2}"], "depht"),
        (["network.pooling=token"], "token"),
    ],
    ids=str,
)
def test_a_network_that_refuses_its_settings_is_refused_by_them(overrides: list[str], reason: str) -> None:
    config = load_config(COMPACT, ["data.root=crops", *overrides])
    with pytest.raises(ConfigError, match=rf"^\S+ does not work with network\.input_size=.*{reason}.*; change one"):
        check_network(config)


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [("[zz]", "Unknown adapter target 'zz'"), ("[]", "targets is empty"), ("[q]", "has no layers for")],
)
def test_adapters_that_have_no_place_are_refused(targets: str, sentence: str) -> None:
    overrides = ["data.root=crops", "adapter.rank=4", f"adapter.targets={targets}"]
    with pytest.raises(ConfigError, match=sentence):
        check_network(load_config(COMPACT, overrides))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_s_network_works(path: Path) -> None:
    check_network(load_config(path, ["data.root=crops"]))


@pytest.mark.parametrize("written", ["no", "false", "'no'"])
def test_no_mixed_precision_can_be_asked_for(written: str) -> None:
    config = load_config(CONFIGS / "compact.yaml", ["data.root=.", f"optimisation.precision={written}"])
    assert config.optimisation.precision == "no"
