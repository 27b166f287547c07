from pathlib import Path

import numpy as np
import pytest

from model.errors import UserError
from training.data.sample import Sample
from training.evaluation.held_out import Predictions, table_path, write_predictions
from training.evaluation.scores import (
    domain_roc_auc,
    expected_calibration_error,
    reliability,
    report,
    report_run,
    resamplings,
    scores,
)


def test_scores_against_counting() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    probabilities = np.array([0.9, 0.5, 0.2, 0.6, 0.4, 0.3, 0.1, 0.0])
    found = scores(labels, probabilities)
    assert found["sensitivity"] == pytest.approx(2 / 3) and found["specificity"] == pytest.approx(4 / 5)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    pairs = [(p > n) for p in probabilities[labels == 1] for n in probabilities[labels == 0]]
    assert found["roc_auc"] == pytest.approx(np.mean(pairs))


def test_calibration_error_is_zero_for_calibrated_and_a_half_for_sure_and_wrong_half_the_time() -> None:
    labels = np.array([0, 1] * 50)
    assert expected_calibration_error(labels, np.full(100, 0.5)) == pytest.approx(0)
    assert expected_calibration_error(labels, np.full(100, 1.0)) == pytest.approx(0.5)


def test_reliability_compares_like_with_like_at_equal_prevalence() -> None:
    """80 normal and 20 atypical crops at P = 0.25, of which 60 and 5 are there: 0.75 and 0.25 of equal weight."""
    labels = np.array([0] * 80 + [1] * 20)
    probabilities = np.array([0.25] * 60 + [0.85] * 20 + [0.25] * 5 + [0.85] * 15)
    assert reliability(labels, probabilities) == [
        {"crops": 65, "predicted": 0.25, "observed": 0.25},
        {"crops": 35, "predicted": 0.85, "observed": 0.75},
    ]


@pytest.mark.usefixtures("few_resamples")
def test_intervals_are_over_slides() -> None:
    """Copying every crop within its slide adds no information: the interval must not shrink."""
    random = np.random.default_rng(0)
    labels = np.tile([0, 0, 1], 40)
    probabilities = np.clip(random.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    groups, domains = np.repeat(np.arange(40), 3), np.array(["a"] * 60 + ["b"] * 60)

    def repeated(times: int) -> dict:
        parts = [np.repeat(part, times) for part in (labels, probabilities, probabilities, labels, groups, domains)]
        return report(Predictions(*parts), np.repeat(probabilities, times))

    once, many = repeated(1), repeated(10)
    assert once["slides"] == many["slides"] == 40
    assert set(once["overall"]) == {"roc_auc", "balanced_accuracy", "sensitivity", "specificity"}
    for name, entry in once["overall"].items():
        assert entry == many["overall"][name]
        assert entry["interval_95"][0] < entry["value"] < entry["interval_95"][1]
    assert set(once["domains"]) == {"a", "b"}
    for domain, figures in once["domains"].items():
        assert (figures["crops"], figures["slides"]) == (60, 20)
        for name, (low, high) in figures["interval_95"].items():
            assert low < figures[name] < high and [low, high] == many["domains"][domain]["interval_95"][name]
            width = np.subtract(*once["overall"][name]["interval_95"][::-1])
            assert high - low > width, "half of the slides tell less"


@pytest.mark.usefixtures("few_resamples")
def test_a_domain_of_one_slide_has_no_interval() -> None:
    labels, probabilities = np.tile([0, 1], 6), np.linspace(0.1, 0.9, 12)
    groups, domains = np.array(["s"] * 6 + ["t"] * 3 + ["u"] * 3), np.array(["a"] * 6 + ["b"] * 6)
    found = report(Predictions(labels, probabilities, probabilities, labels, groups, domains), probabilities)
    assert "interval_95" not in found["domains"]["a"] and "interval_95" in found["domains"]["b"]


@pytest.mark.usefixtures("few_resamples")
def test_of_a_domain_with_a_class_on_one_slide_the_other_class_alone_has_an_interval() -> None:
    random = np.random.default_rng(0)
    labels, groups = np.repeat([1, 0, 1, 0], [30, 120, 30, 120]), np.repeat(np.arange(60), 5)
    groups[:30] = 0
    domains = np.repeat(["a", "b"], 150)
    probabilities = np.clip(random.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    found = report(Predictions(labels, probabilities, probabilities, labels, groups, domains), probabilities)
    assert found["domains"]["a"]["interval_95"].keys() == {"specificity"}
    assert found["domains"]["b"]["interval_95"].keys() == set(found["overall"])


def test_the_mean_of_the_domains_is_of_unrounded_figures() -> None:
    """1 of 3, 1 of 3 and 3 of 3 pairs are in order, and a domain of one class has none."""
    domains = np.repeat(["a", "b", "c", "d"], [4, 4, 4, 2])
    labels = np.array([1, 0, 0, 0] * 3 + [1, 1])
    logits = np.array([1, 0, 2, 3] * 2 + [4, 0, 1, 2, 0, 1])
    assert domain_roc_auc(labels, domains, logits) == pytest.approx(5 / 9, abs=1e-12)


def test_tables_of_other_crops_are_not_calibrated_together(tmp_path: Path) -> None:
    for split, slides in (("slides", 4), ("sources", 2)):
        samples = [Sample(Path(f"{i}.png"), i % 2, "d", f"slide {i % slides}") for i in range(8)]
        write_predictions(table_path(tmp_path, split), samples, np.arange(8) // 4, np.ones((8, 2)))
    with pytest.raises(UserError, match=r"held_out_sources\.csv is of other crops than held_out_slides\.csv beside it"):
        report_run([table_path(tmp_path, "slides"), table_path(tmp_path, "sources")])


def test_crops_of_one_class_are_refused_instead_of_resampled_for_ever() -> None:
    nothing = np.zeros(4)
    one_class = Predictions(np.ones(4, dtype=int), nothing, nothing, nothing, np.arange(4), nothing)
    with pytest.raises(UserError, match="Crops of one class alone have no ROC AUC"):
        next(resamplings(one_class, 0))


@pytest.mark.usefixtures("few_resamples")
def test_each_fold_has_a_roc_auc_of_its_own() -> None:
    """Two networks that rank alike but say other logits are as good as each; pooled they look worse."""
    labels = np.tile([0, 1], 20)
    folds = np.repeat([0, 1, 2], [18, 18, 4])
    labels[folds == 2] = 1
    probabilities = np.where(folds == 0, 0.1, 0.6) + 0.2 * labels
    nowhere = np.arange(40).astype(str)
    found = report(Predictions(labels, probabilities, probabilities, folds, nowhere, nowhere), probabilities)
    assert found["roc_auc_within_folds"] == [1.0, 1.0, None] and found["overall"]["roc_auc"]["value"] < 0.9
