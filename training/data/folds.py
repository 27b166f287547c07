"""Which crops are held out together."""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from training.config import Config, ConfigError
from training.data.sample import DataError, Sample


def splits_of(config: Config, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """The fold in which each sample is held out, (N,) int, in each of the splits that a recipe asks for.

    Raises:
        ConfigError: the samples are of fewer than two of the sources or domains that `data.shift_split` holds out.
        DataError: as `assign_folds`.
    """
    data = config.data
    splits = [data.split]
    if data.shift_split:
        names = {getattr(sample, data.shift_split.removesuffix("s")) for sample in samples}
        if len(names) < 2:
            raise ConfigError(
                f"data.shift_split={data.shift_split} holds out one of the {data.shift_split} after the other, but all "
                f"crops of {data.root} are of one, '{min(names, default='')}'; give data.shift_split='' to do without, "
                "or more data."
            )
        splits.append(data.shift_split)
    return {split: assign_folds(samples, split, data.folds, config.seed) for split in splits}


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
