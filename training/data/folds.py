"""Which crops are held out together, and the fits that this takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from model.constants import CLASSES
from training.config import Config, ConfigError
from training.data.sample import DataError, Sample


@dataclass(frozen=True)
class HoldOut:
    """One fit without a part of the N samples, which it predicts.

    Attributes:
        name: of the fit, such as `slides_0`.
        training: (N,) bool, what it is fitted to.
        held_out: (N,) bool, what it predicts; no slide is in both.
    """

    name: str
    training: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True)
class Split:
    """A way of holding out every sample once.

    Attributes:
        name: `slides`, `domains` or `sources`.
        folds: (N,) int, in which fold each sample is held out.
        fits: one for each fold.
        calibrating: where whole domains or sources are held out, one more fit for each fold: its training and its
            held-out samples are both of the fold's training side, so that the fold can be calibrated by what never saw
            it. Empty for `slides`.
    """

    name: str
    folds: np.ndarray
    fits: list[HoldOut]
    calibrating: list[HoldOut] = field(default_factory=list)

    @property
    def all_fits(self) -> list[HoldOut]:
        """In the order in which they are done."""
        return [*self.fits, *self.calibrating]


def splits_of(config: Config, samples: Sequence[Sample]) -> list[Split]:
    """The splits that a recipe asks for: `data.split` and, where that is not empty, `data.shift_split`.

    Raises:
        ConfigError: the samples are of fewer than two of the sources or domains that `data.shift_split` holds out.
        DataError: as `make_split`.
    """
    data = config.data
    splits = [data.split]
    if data.shift_split:
        names = {getattr(sample, data.shift_split.removesuffix("s")) for sample in samples}
        if len(names) < 2:
            raise ConfigError(
                f"data.shift_split={data.shift_split} holds out one of the {data.shift_split} after the other, but all "
                f"crops of {data.root} are of one, '{min(names, default='')}'; give data.shift_split= (nothing) to do "
                "without, or more data."
            )
        splits.append(data.shift_split)
    return [make_split(samples, split, data.folds, config.seed) for split in splits]


def make_split(samples: Sequence[Sample], split: str, folds: int, seed: int) -> Split:
    """Folds and fits of a split; see `assign_folds`, whose arguments and errors these are.

    Where whole domains or sources are held out, the rest of them must be large enough for `folds` folds of slides, of
    which the first serves the calibration.

    Raises:
        DataError: also where a fit would lack a class.
    """
    fold_of = assign_folds(samples, split, folds, seed)
    fits, calibrating = [], []
    for fold in range(fold_of.max() + 1):
        held_out = fold_of == fold
        fits.append(HoldOut(f"{split}_{fold}", ~held_out, held_out))
        if split != "slides":
            rest = np.flatnonzero(~held_out)
            inner = np.full(len(samples), -1)
            inner[rest] = assign_folds([samples[i] for i in rest.tolist()], "slides", folds, seed)
            calibrating.append(HoldOut(f"{split}_{fold}_calibration", inner > 0, inner == 0))
    for fit in fits:
        _check_classes(samples, fit, [fit.training])
    for fit in calibrating:
        _check_classes(samples, fit, [fit.training, fit.held_out])
    return Split(split, fold_of, fits, calibrating)


def _check_classes(samples: Sequence[Sample], fit: HoldOut, sides: Sequence[np.ndarray]) -> None:
    """Refuses a fit one of whose sides has one class alone, as where all crops of the other are of a slide or two."""
    labels = np.array([sample.label for sample in samples])
    for side in sides:
        for label, name in enumerate(CLASSES):
            if not np.any(labels[side] == label):
                there = fit.training | fit.held_out
                slides = len(
                    {s.group for s, used in zip(samples, there.tolist(), strict=True) if used and s.label == label}
                )
                raise DataError(
                    f"The fit {fit.name} would learn from, or be measured on, no {name} crops: those that it may use "
                    f"are of too few slides ({slides}); give {name} crops of more, another data.folds or another seed."
                )


def few_of_each(samples: Sequence[Sample], config: Config) -> list[Sample]:
    """Some samples of each source, domain and class, of as many slides as there are: enough for a dry run.

    Every fold gets some, and every fit two batches or more.
    """
    kinds: dict[tuple[str, str, int], dict[str, list[Sample]]] = {}
    for sample in samples:
        slides = kinds.setdefault((sample.source, sample.domain, sample.label), {})
        slides.setdefault(sample.group, []).append(sample)
    batches = 4 * config.optimisation.batch_size * config.optimisation.accumulation
    wanted = max(3 * config.data.folds, -(-batches // max(1, len(kinds))))
    chosen: list[Sample] = []
    for slides in kinds.values():
        in_turn = [sample for row in zip_longest(*slides.values()) for sample in row if sample is not None]
        chosen += in_turn[:wanted]
    return chosen


def assign_folds(samples: Sequence[Sample], split: str, folds: int, seed: int) -> np.ndarray:
    """The fold in which each sample is held out: (N,) int from 0.

    Whole slides are held out in any case, so a slide of two domains or two sources is refused.

    Args:
        samples: all of them.
        split: `slides` spreads the slides over the folds, with the labels' shares kept alike; `domains` and `sources`
            hold out one domain or data set after the other, in alphabetical order.
        folds: their number; only for `slides`.
        seed: of the spreading.

    Raises:
        DataError: there are fewer slides, or fewer crops of a class, than folds; a domain to be held out lacks a
            class, or leaves none of it; or a slide is in two domains.
    """
    labels = np.array([sample.label for sample in samples])
    groups = np.array([sample.group for sample in samples])
    if split != "slides":
        names, held_out = np.unique([getattr(sample, split[:-1]) for sample in samples], return_inverse=True)
        fold_of: dict[str, int] = {}
        for group, fold in zip(groups.tolist(), held_out.tolist(), strict=True):
            if fold_of.setdefault(group, fold) != fold:
                raise DataError(
                    f"The slide (group) '{group}' is in the {split} '{names[fold_of[group]]}' and '{names[fold]}', so "
                    f"it would be on both sides of the split; give its crops one {split[:-1]} in the manifest, or "
                    "change data.split and data.shift_split."
                )
        for fold, name in enumerate(names):
            if len({*labels[held_out == fold]}) < 2 or len({*labels[held_out != fold]}) < 2:
                raise DataError(
                    f"The {split[:-1]} '{name}' cannot be held out: it or the rest lacks a class; leave it out of the "
                    "manifest, or change data.split and data.shift_split."
                )
        return held_out
    if folds < 2 or len(set(groups)) < folds or min(np.sum(labels == 0), np.sum(labels == 1)) < folds:
        raise DataError(
            f"{len(set(groups))} slides with {np.sum(labels == 0)} normal and {np.sum(labels == 1)} atypical crops "
            f"cannot be split into {folds} folds; give more data or another data.folds."
        )
    held_out = np.empty(len(samples), dtype=int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, validation) in enumerate(splitter.split(labels, labels, groups)):
        held_out[validation] = fold
    return held_out
