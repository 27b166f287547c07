"""The configuration of a recipe: typed defaults, a YAML file, `key=value` overrides (in that order)."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from model.errors import UserError, first_line
from model.speed.imports import timm
from training.config_ranges import check_ranges


class ConfigError(UserError):
    """The configuration cannot be used."""


@dataclass
class DataConfig:
    """Where the crops are and how they are split.

    Attributes:
        root: folder with `manifest.csv` and the crops.
        about: for the model card, which counts the crops itself: what else is to be known of them.
        split: what is held out in turn (see `training.data.folds.assign_folds`): `slides`, `domains` or `sources`.
        folds: number of folds that the slides are spread over.
        shift_split: `domains` or `sources` fits further networks that hold these out; the calibration then stands on
            both kinds of held-out predictions. Empty for none, as with data of a single one.
        soft_labels: train on the share of experts that called a crop atypical instead of on their majority.
        workers: processes that prepare crops; 0 prepares them in the training process, -1 has as many as half of the
            cores that a training process may use, 1 to 8.
    """

    root: str = MISSING
    about: str = ""
    split: str = "slides"
    folds: int = 4
    shift_split: str = ""
    soft_labels: bool = False
    workers: int = -1


@dataclass
class NetworkConfig:
    """The network (`model.network.classifier`) and how a crop becomes its input (`model.network.preprocessing`).

    Attributes:
        pretrained: where the backbone's weights come from (`training.network.pretrained`); empty for random numbers.
        scales: fields of view whose logits are averaged, in units of `field_of_view`, which is all that training, and
            the validation after each epoch, look at.
    """

    backbone: str = MISSING
    pooling: str = "avg"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    pretrained: str = ""
    dropout: float = 0.0
    field_of_view: int = 128
    input_size: int = 224
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    scales: list[float] = field(default_factory=lambda: [1.0])


@dataclass
class AdapterConfig:
    """Low-rank adapters (see `training.network.adapters`).

    Attributes:
        rank: of the adapters; 0 trains the whole network instead.
        alpha: numerator of the adapters' scale.
        dropout: probability of dropping an input of an adapter.
        targets: which projections get one, of `training.network.adapters.TARGETS`.
        dora: decompose the weights into magnitude and direction.
        rslora: divide alpha by the root of the rank instead of the rank.
        others: train what has no adapter in full, such as norms, depthwise kernels and the stem of a convolutional
            network; otherwise the adapters and the head alone are trained.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.05
    targets: list[str] = field(default_factory=lambda: ["q", "v"])
    dora: bool = False
    rslora: bool = False
    others: bool = False


@dataclass
class AugmentationConfig:
    """How far training crops are altered (see `training.data.augmentation`); 0 switches a change off.

    Attributes:
        rotation: largest rotation either way, degrees, on top of the quarter turns and mirror images.
        scale: largest zoom either way, as a natural logarithm (0.1: from /1.105 to x1.105).
        stretch: the same for the ratio of the two axes.
        shift: largest displacement either way, pixels of the crop.
        elastic: standard deviation of the displacement of the elastic grid's knots, pixels of the crop.
        stain: largest change of the amount of each stain, as a fraction (optical density, haematoxylin-eosin-DAB).
        stain_shift: largest optical density added to each stain.
        brightness: largest change of brightness, as a fraction.
        contrast: largest change of contrast, as a fraction.
        saturation: largest change of saturation, as a fraction.
        hue: largest rotation of hue, degrees.
        gamma: largest change of gamma, as a natural logarithm.
        grey: probability that all colour is taken away.
        blur: largest standard deviation of a Gaussian blur, pixels of the crop; half of the crops are blurred.
        sharpen: largest strength of unsharp masking; a quarter of the crops are sharpened.
        noise: largest standard deviation of Gaussian noise, grey levels of 255; half of the crops get noise.
        jpeg: lowest JPEG quality (1 to 100); half of the crops are compressed; 0 compresses none.
        downscale: largest loss of resolution, as a factor (2: down to half and back up); a quarter of the crops.
        margin: largest width of a black margin, as crops of figures at an image's edge have, pixels of the crop; a
            quarter of the crops get one on one side.
        mixup: concentration of the Beta distribution that shares of two crops and their targets are drawn from.
        cutmix: the same for the share of the area that another crop's rectangle covers.
        mixed: probability of mixing a crop; with both kinds on, each has half of it.
    """

    rotation: float = 180.0
    scale: float = 0.15
    stretch: float = 0.08
    shift: float = 4.0
    elastic: float = 0.0
    stain: float = 0.2
    stain_shift: float = 0.03
    brightness: float = 0.15
    contrast: float = 0.15
    saturation: float = 0.2
    hue: float = 8.0
    gamma: float = 0.1
    grey: float = 0.0
    blur: float = 1.2
    sharpen: float = 0.0
    noise: float = 8.0
    jpeg: int = 40
    downscale: float = 0.0
    margin: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixed: float = 0.5


@dataclass
class LossConfig:
    """Focal loss (see `training.fitting.losses`).

    Attributes:
        gamma: focusing exponent; 0 gives cross-entropy.
        domain_weighted: weight crops by the inverse frequency of their domain and class.
        domain_smoothing: pseudo-frequency added to each domain and class before, in units of their mean frequency; 0
            gives the plain inverse, more draws all weights towards 1.
        label_smoothing: share of the target moved to one half.
        phases: weight of a second task, the cross-entropy of the phases of mitosis that experts named (`phases` of the
            manifest; crops without count for the class alone); 0 leaves it out.
        consistency: weight of the squared difference of the class's logits between a crop and the same crop turned or
            mirrored; both are then learnt from, at twice the cost of a step. 0 shows each crop once.
    """

    gamma: float = 2.0
    domain_weighted: bool = False
    domain_smoothing: float = 0.25
    label_smoothing: float = 0.0
    phases: float = 0.0
    consistency: float = 0.0


@dataclass
class OptimisationConfig:
    """AdamW with warm-up and cosine decay, and an average of the weights.

    Attributes:
        epochs: passes; one draws as many crops as the training fold has.
        batch_size: crops per step, over all processes.
        learning_rate: at its peak.
        weight_decay: of weight matrices and kernels; biases, norms and scales get none.
        warmup: share of all steps in which the learning rate rises.
        average_decay: decay per step of the weights' exponential moving average, which is what is kept.
        gradient_clip: largest norm of the gradient; 0 clips nothing.
        balance: share of the class-balancing in the sampling; 0 draws every crop alike, 1 both classes equally often.
        precision: `no`, `bf16` or `fp16` (mixed precision), or `auto`: bf16 where the GPU computes in it, fp16 on
            older ones, none on the CPU.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them; `auto`: on the
            CPU, and where the GPU's memory would not hold them.
        accumulation: batches whose gradients are averaged before the weights change.
    """

    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    average_decay: float = 0.99
    gradient_clip: float = 1.0
    balance: float = 1.0
    precision: str = "no"
    gradient_checkpointing: bool | str = False
    accumulation: int = 1


PARTS = (DataConfig, NetworkConfig, AdapterConfig, AugmentationConfig, LossConfig, OptimisationConfig)


@dataclass
class Config:
    """A recipe.

    Attributes:
        name: name of the recipe.
        version: version written into the weights folder.
        seed: everything random derives from it.
        output: the weights folder to write.
        run: folder for checkpoints, TensorBoard logs and held-out predictions; an interrupted run goes on from it.
        stored_dtype: precision of the tensors in the weights folder.
        ensemble: what becomes of the networks of `data.split`'s folds (see `training.fitting.ensembles`): `soup`
            averages their weights into one network, `members` keeps them and averages their logits; empty for neither,
            but one more fit to all crops.
    """

    name: str = MISSING
    version: str = "1.0.0"
    seed: int = 0
    output: str = MISSING
    run: str = MISSING
    stored_dtype: str = "float16"
    ensemble: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)


def load_config(path: Path, overrides: list[str]) -> Config:
    """A recipe's file with overrides.

    Args:
        path: a YAML file.
        overrides: `key=value` with dotted keys, such as `data.root=crops` or `optimisation.epochs=3`. An empty value is
            an empty text. Free-form arguments replace those of the recipe (`network.backbone_args={}` leaves all
            out), or are added one by one (`network.backbone_args.drop_path_rate=0`).

    Raises:
        ConfigError: the file is missing, a key is unknown, a value has the wrong type, or a required one is missing.
    """
    recipes = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
    if not path.is_file():
        raise ConfigError(f"There is no recipe {path}; there are: {recipes}.")
    for override in overrides:
        if override.find("=") < 1:
            raise ConfigError(f"'{override}' is no override; write key=value, such as data.root=DIR.")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        for override in overrides:
            _override(merged, override)
        missing = OmegaConf.missing_keys(merged)
        if missing:
            raise ConfigError(f"{path} leaves {', '.join(sorted(missing))} open; add {sorted(missing)[0]}=VALUE.")
        config = cast(Config, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, yaml.YAMLError, TypeError, KeyError) as error:
        key, reason = getattr(error, "full_key", None), first_line(error)
        where = f"the value of {key} cannot be used" if key else "this is no valid configuration"
        raise ConfigError(f"{path} with its overrides ({', '.join(overrides)}): {where}: {reason}.") from error
    if config.optimisation.precision == str(False):  # what YAML makes of an unquoted no
        config.optimisation.precision = "no"
    try:
        check_ranges(flat(config))
    except ValueError as error:
        raise ConfigError(f"{str(error).rstrip('.')}.") from error
    if config.ensemble and config.adapter.rank > 0 and config.adapter.dora:
        raise ConfigError(
            "ensemble puts adapters side by side, which DoRA's magnitudes do not allow; give adapter.dora=false, or "
            "leave out ensemble."
        )
    if config.data.shift_split == config.data.split:
        raise ConfigError(
            f"data.shift_split is {config.data.shift_split}, as data.split is; leave it empty, or choose the other of "
            "domains and sources."
        )
    if not timm.is_model(config.network.backbone):
        raise ConfigError(f"timm has no architecture {config.network.backbone}; write one of its names.")
    return config


def _override(config: Any, override: str) -> None:
    """Sets one value, as `load_config` says.

    Raises:
        KeyError: the key is none.
    """
    key, _, text = override.partition("=")
    value: Any = OmegaConf.to_container(OmegaConf.from_dotlist([override]))  # interpolations are resolved where they go
    for name in key.split("."):
        value = value[name]
    _set(config, key, value if text else "")


def _set(config: Any, key: str, value: Any) -> None:
    present = OmegaConf.select(config, key)
    if isinstance(value, dict) and OmegaConf.is_dict(present) and OmegaConf.get_type(present) is not dict:
        for name, part in value.items():
            _set(config, f"{key}.{name}", part)
    else:  # not merged: what free-form arguments leave out would stay in silence
        OmegaConf.update(config, key, value, merge=False)


def to_yaml(config: Config) -> str:
    """The whole configuration, every default written out."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def flat(config: Config) -> dict[str, Any]:
    """The values of a configuration by dotted key, such as `data.root`."""
    values: dict[str, Any] = {}
    for name, value in asdict(config).items():
        inside = isinstance(getattr(config, name), PARTS)
        values |= {f"{name}.{key}": inner for key, inner in value.items()} if inside else {name: value}
    return values
