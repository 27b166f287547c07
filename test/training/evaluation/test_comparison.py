from dataclasses import replace

import numpy as np
import pytest

from model.errors import UserError
from training.evaluation.comparison import compare
from training.evaluation.held_out import Predictions

pytestmark = pytest.mark.usefixtures("few_resamples")


def predictions(strength: float, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    labels = np.tile([0, 0, 1, 0], 100)
    logits = strength * labels + random.normal(size=400)
    return Predictions(
        labels=labels,
        logits=logits,
        shifted_logits=logits + random.normal(size=400),
        folds=np.arange(400) // 20 % 2,
        groups=np.array([f"slide {i // 20}" for i in range(400)]),
        domains=np.array(["a", "b"])[np.arange(400) // 200],
    )


@pytest.mark.slow
def test_a_better_trial_is_told_from_an_equal_one() -> None:
    baseline = predictions(1.0)
    better = compare(baseline, predictions(3.0))
    for name in ("roc_auc", "domain_roc_auc", "balanced_accuracy", "shifted_roc_auc"):
        value, low, high = better[name]
        assert 0 < low < value < high, name
    same = compare(baseline, replace(baseline, logits=2 * baseline.logits - 1))
    assert same["roc_auc"] == pytest.approx((0, 0, 0), abs=1e-9), "a ranking does not change with scale and offset"
    equal = compare(baseline, predictions(1.0, seed=1))
    assert equal["roc_auc"][1] < 0 < equal["roc_auc"][2]


def test_trials_of_other_crops_are_not_compared() -> None:
    baseline = predictions(1.0)
    others = replace(baseline, groups=baseline.groups[::-1])
    with pytest.raises(UserError, match="other crops; compare trials on the same data"):
        compare(baseline, others)


def test_trials_with_other_folds_are_not_compared() -> None:
    baseline = predictions(1.0)
    others = replace(baseline, folds=np.arange(400) // 40 % 2)
    with pytest.raises(UserError, match=r"other folds, .* compare trials of the same data\.split and data\.folds and"):
        compare(baseline, others)
