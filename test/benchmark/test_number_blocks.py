"""The measure of how long blocks of file numbers must be."""

import numpy as np

from benchmark.number_blocks import distance_by_number, distances, nearest_elsewhere

SLIDE = np.repeat(np.arange(10), 20)
"""Ten slides of twenty crops, numbered one after the other."""


def test_blocks_that_are_slides_leave_nothing_of_a_slide_elsewhere() -> None:
    random = np.random.default_rng(1)
    between = distances(random.normal(size=(10, 3))[SLIDE] + 1e-3 * random.normal(size=(200, 3)))
    whole, chance = nearest_elsewhere(between, SLIDE, folds=5)
    halves, _ = nearest_elsewhere(between, np.arange(200) // 10, folds=5)
    shifted, _ = nearest_elsewhere(between, (np.arange(200) + 10) // 20, folds=5)
    assert whole == 0 and 0.75 < chance < 0.85
    assert 0.3 < halves < 0.5 and 0.3 < shifted < 0.5, "half of the nearest are beyond a border, four in five elsewhere"
    near, far = distance_by_number(between, np.arange(200), [(1, 1), (20, 199)])
    assert near < 0.1 and 1 < far < 1.3
    assert np.isnan(distance_by_number(between, np.arange(200), [(500, 600)])[0])
