"""The values that a configuration may have, key by key: a wrong one is refused before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.checks import check_list, check_number, check_whole
from model.network.preprocessing import LARGEST_FIELD, LARGEST_INPUT, MOST_SCALES
from model.network.weights_config import DTYPES

SPLITS = ("slides", "domains", "sources")
"""What a fold is made of: some slides of every domain, or all of one domain, or all of one data set."""

PRECISIONS = ("no", "bf16", "fp16", "auto")


@dataclass(frozen=True)
class Whole:
    """Whole numbers from `low` to `high`."""

    low: int
    high: int

    def check(self, key: str, value: object) -> None:
        """Raises ValueError for another value."""
        check_whole(key, value, self.low, self.high)


@dataclass(frozen=True)
class Number:
    """Finite numbers from `low` to `high`; `low` itself may be left out."""

    low: float
    high: float
    without_low: bool = False

    def check(self, key: str, value: Any) -> None:
        """Raises ValueError for another value."""
        check_number(key, value)
        if not self.low <= value <= self.high or (self.without_low and value == self.low):
            low = f"above {self.low:g}" if self.without_low else f"from {self.low:g}"
            raise ValueError(f"{key} must be a number {low} to {self.high:g}, not {value!r}")


@dataclass(frozen=True)
class Numbers:
    """Lists of `shortest` to `longest` numbers of one range."""

    shortest: int
    longest: int
    each: Number

    def check(self, key: str, value: object) -> None:
        """Raises ValueError for another value."""
        for number in check_list(key, value, self.shortest, self.longest):
            self.each.check(key, number)


@dataclass(frozen=True)
class OneOf:
    """Some texts, or yes and no."""

    choices: Sequence[str | bool]

    def check(self, key: str, value: object) -> None:
        """Raises ValueError for another value."""
        if value not in self.choices:
            shown = ["'' (none)" if choice == "" else str(choice).lower() for choice in self.choices]
            raise ValueError(f"{key} is {value!r}; choose among {', '.join(shown)}")


@dataclass(frozen=True)
class Line:
    """Texts of one line that are not empty."""

    def check(self, key: str, value: object) -> None:
        """Raises ValueError for another value."""
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise ValueError(f"{key} is {value!r}; write a text of one line")


SHARE = Number(0, 1)
SHARE_BELOW_ONE = Number(0, 0.999)
RELATIVE_CHANGE = Number(0, 0.99)
"""Of a factor: 1 would let it become zero."""

RANGES: dict[str, Whole | Number | Numbers | OneOf | Line] = {
    "name": Line(),
    "version": Line(),
    "seed": Whole(0, 2**32 - 1),
    "output": Line(),
    "run": Line(),
    "stored_dtype": OneOf(list(DTYPES)),
    "ensemble": OneOf(("", "soup", "members")),
    "data.root": Line(),
    "data.split": OneOf(SPLITS),
    "data.folds": Whole(2, 100),
    "data.shift_split": OneOf(("", *SPLITS[1:])),
    "data.workers": Whole(-1, 256),
    "network.backbone": Line(),
    "network.pooling": Line(),
    "network.dropout": SHARE_BELOW_ONE,
    "network.field_of_view": Whole(1, LARGEST_FIELD),
    "network.input_size": Whole(1, LARGEST_INPUT),
    "network.mean": Numbers(3, 3, Number(0, 1)),
    "network.std": Numbers(3, 3, Number(0, 10, without_low=True)),
    "network.scales": Numbers(1, MOST_SCALES, Number(0, 100, without_low=True)),
    "adapter.rank": Whole(0, 4096),
    "adapter.alpha": Number(0, 1e5, without_low=True),
    "adapter.dropout": SHARE_BELOW_ONE,
    "augmentation.rotation": Number(0, 180),
    "augmentation.scale": Number(0, 2),
    "augmentation.stretch": Number(0, 2),
    "augmentation.shift": Number(0, LARGEST_FIELD),
    "augmentation.elastic": Number(0, LARGEST_FIELD),
    "augmentation.stain": RELATIVE_CHANGE,
    "augmentation.stain_shift": Number(0, 5),
    "augmentation.brightness": RELATIVE_CHANGE,
    "augmentation.contrast": RELATIVE_CHANGE,
    "augmentation.saturation": SHARE,
    "augmentation.hue": Number(0, 180),
    "augmentation.gamma": Number(0, 5),
    "augmentation.grey": SHARE,
    "augmentation.blur": Number(0, 100),
    "augmentation.sharpen": Number(0, 100),
    "augmentation.noise": Number(0, 255),
    "augmentation.jpeg": Whole(0, 100),
    "augmentation.downscale": Number(0, 16),
    "augmentation.margin": Number(0, 64),
    "augmentation.mixup": Number(0, 1e3),
    "augmentation.cutmix": Number(0, 1e3),
    "augmentation.mixed": SHARE,
    "loss.gamma": Number(0, 100),
    "loss.domain_smoothing": Number(0, 1e6),
    "loss.label_smoothing": SHARE_BELOW_ONE,
    "loss.phases": Number(0, 1e3),
    "loss.consistency": Number(0, 1e3),
    "optimisation.epochs": Whole(1, 10**6),
    "optimisation.batch_size": Whole(1, 10**6),
    "optimisation.learning_rate": Number(0, 1e6, without_low=True),
    "optimisation.weight_decay": Number(0, 1e3),
    "optimisation.warmup": SHARE,
    "optimisation.average_decay": Number(0, 0.9999999),
    "optimisation.gradient_clip": Number(0, 1e9),
    "optimisation.balance": SHARE,
    "optimisation.precision": OneOf(PRECISIONS),
    "optimisation.gradient_checkpointing": OneOf((False, True, "auto")),
    "optimisation.accumulation": Whole(1, 10**4),
}
"""What every key may be whose type alone does not say it."""


def check_ranges(values: dict[str, Any]) -> None:
    """Checks the values of a configuration.

    Args:
        values: by dotted key.

    Raises:
        ValueError: one is out of its range; the sentence begins with its key.
    """
    for key, range_ in RANGES.items():
        range_.check(key, values[key])
