"""Crops that show the same pixels: which of them are used."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.constants import CLASSES
from training.data.sample import Sample


@dataclass(frozen=True)
class Duplicate:
    """A crop that is left out.

    Attributes:
        index: which of the samples.
        contradicted: whether the label is not that of the crop that stays, or none stays.
        sentence: which crop it is the same as, and the labels of both.
    """

    index: int
    contradicted: bool
    sentence: str


def pixels_digest(crop: np.ndarray) -> bytes:
    """16 bytes that tell crops (H, W, 3) uint8 of one size apart by their pixels."""
    return hashlib.blake2b(np.ascontiguousarray(crop).data, digest_size=16).digest()


def find_duplicates(samples: Sequence[Sample], digests: Sequence[bytes]) -> list[Duplicate]:
    """The crops to leave out so that every picture is there once, on one side of a split, with one label.

    That is the label which most of its crops have; the first crop with it stays. Where both labels are as frequent none
    stays, as nothing says which is right.

    Args:
        samples: N, what is known of the crops.
        digests: N, `pixels_digest` of them.

    Returns:
        What to leave out, in the order of the samples.
    """
    pictures: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        pictures.setdefault(digest, []).append(index)
    duplicates = []
    for indices in pictures.values():
        labels = [samples[index].label for index in indices]
        atypical, normal = labels.count(1), labels.count(0)
        first = {label: samples[index] for label, index in reversed(list(zip(labels, indices, strict=True)))}
        kept = None if atypical == normal else first[int(atypical > normal)]
        for label, index in zip(labels, indices, strict=True):
            sample = samples[index]
            if sample is not kept:
                other = kept or first[1 - label]
                names = f"{sample.path} ({CLASSES[label]}) is {other.path} ({CLASSES[other.label]})"
                duplicates.append(Duplicate(index, other.label != label, names))
    return sorted(duplicates, key=lambda duplicate: duplicate.index)
