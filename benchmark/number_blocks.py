"""How long must blocks of file numbers be to stand in for slides? Colour of neighbours, on AtNorM-MD.

    python -m benchmark.number_blocks DIR

A slide's stain is its own, so crops of one slide are alike in colour. Colour is the mean of a crop in L*a*b*, each axis
divided by its standard deviation over the crops of the tumour. Printed are, by tumour,

* the distance in colour of crops whose numbers are so and so far apart, as a share of that of any two of the tumour:
  the numbers up to which it stays below 1 are what slides reach to;
* for each length of blocks, the share of crops whose nearest crop in colour is in another of five folds of whole
  blocks, and what that would be if folds did not follow numbers. The smaller the share, the less of a slide is on both
  sides of a split.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from model.images.read import read_crops
from training.data.blocks import file_number, in_blocks
from training.data.published_sets import read_atnorm_md
from training.data.sample import Sample

APART = ((1, 1), (2, 5), (6, 10), (11, 20), (21, 40), (41, 80), (81, 160), (161, 320))
"""Ranges of differences of numbers."""
LENGTHS = (10, 25, 50, 75, 100, 200)
FOLDS = 5
DRAWS = 200
"""How many assignments of blocks to folds the shares are means of."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="AtNorM-MD, with domains.csv beside the crops")
    samples = read_atnorm_md(parser.parse_args().folder).samples
    samples = [Sample(each.path, each.label, each.domain, each.source, each.source) for each in samples]
    tumours = sorted({sample.domain for sample in samples})
    for tumour in tumours:
        inside = [sample for sample in samples if sample.domain == tumour]
        between = distances(np.array([colour(sample.path) for sample in inside]))
        numbers = np.array([file_number(sample.path) for sample in inside])
        print(f"\n{tumour}, {len(inside)} crops\n")
        for (first, last), share in zip(APART, distance_by_number(between, numbers, APART), strict=True):
            print(f"  {f'{first} to {last} apart':16} {share:.2f}")
        for length in LENGTHS:
            groups = np.unique([each.group for each in in_blocks(inside, length)], return_inverse=True)[1]
            share, chance = nearest_elsewhere(between, groups, FOLDS)
            count = f"{groups.max() + 1} blocks of {length}"
            print(f"  {count:16} {share:.2f} nearest in another fold, {chance:.2f} by chance")


def colour(path: Path) -> np.ndarray:
    """(3,) mean of a crop in L*a*b*."""
    (crop,) = read_crops(path)
    return cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3).mean(axis=0)


def distances(colours: np.ndarray) -> np.ndarray:
    """(N, N) Euclidean distances of colours (N, 3), each axis divided by its standard deviation."""
    scaled = colours / colours.std(axis=0)
    return np.sqrt(((scaled[:, None] - scaled[None]) ** 2).sum(axis=-1))


def distance_by_number(between: np.ndarray, numbers: np.ndarray, apart: Sequence[tuple[int, int]]) -> list[float]:
    """Mean distance of pairs whose numbers are so far apart, as a share of that of all pairs; NaN where there is none.

    Args:
        between: (N, N) distances.
        numbers: (N,) of the files.
        apart: the smallest and the largest difference of each range.
    """
    pairs = np.triu_indices(len(numbers), 1)
    distance, difference = between[pairs], np.abs(numbers[:, None] - numbers[None])[pairs]
    inside = [(difference >= first) & (difference <= last) for first, last in apart]
    return [float(distance[chosen].mean() / distance.mean()) if chosen.any() else float("nan") for chosen in inside]


def nearest_elsewhere(between: np.ndarray, groups: np.ndarray, folds: int) -> tuple[float, float]:
    """Share of crops whose nearest is in another fold: of whole groups, and of the same folds' crops shuffled.

    Args:
        between: (N, N) distances.
        groups: (N,) number of the group of each, from 0.
        folds: how many; groups are dealt to them at random.
    """
    nearest = (between + np.diag(np.full(len(groups), np.inf))).argmin(axis=1)
    random = np.random.default_rng(0)
    shares = []
    for _ in range(DRAWS):
        fold = (random.permutation(groups.max() + 1) % folds)[groups]
        shuffled = random.permutation(fold)
        shares.append([(each != each[nearest]).mean() for each in (fold, shuffled)])
    share, chance = np.mean(shares, axis=0)
    return float(share), float(chance)


if __name__ == "__main__":
    main()
