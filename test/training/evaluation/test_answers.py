"""Figures of labelled answers, whatever is missing."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from training.evaluation.answers import Answers, figures, in_parts, remarks, table, with_intervals

pytestmark = pytest.mark.usefixtures("few_resamples")


def draw(crops: int = 240, slides: int = 24) -> Answers:
    random = np.random.default_rng(0)
    labels = np.arange(crops) % 4 == 0
    probabilities = 1 / (1 + np.exp(-random.normal(np.where(labels, 1, -1))))
    groups = np.array([f"slide {i * slides // crops}" for i in range(crops)])
    return Answers(labels.astype(int), (probabilities >= 0.5).astype(int), probabilities, groups)


def test_figures_are_those_of_scikit_learn() -> None:
    answers = draw()
    assert figures(answers) == pytest.approx(
        {
            "roc_auc": roc_auc_score(answers.labels, answers.probabilities),
            "balanced_accuracy": balanced_accuracy_score(answers.labels, answers.called),
            "sensitivity": recall_score(answers.labels, answers.called),
            "specificity": recall_score(answers.labels, answers.called, pos_label=0),
        }
    )


def test_intervals_stand_on_slides_and_hold_the_value() -> None:
    answers = draw()
    by_slides = with_intervals(answers)
    by_crops = with_intervals(Answers(answers.labels, answers.called, answers.probabilities, np.arange(len(answers))))
    assert by_slides["slides"] == 24 and by_crops["slides"] == 240
    for report in (by_slides, by_crops):
        low, high = report["roc_auc"]["interval_95"]
        assert low < report["roc_auc"]["value"] < high
    assert by_slides["sensitivity"]["interval_95"] != by_crops["sensitivity"]["interval_95"]


def test_of_one_class_its_own_figure_is_given_and_a_sentence() -> None:
    answers = draw()
    report = with_intervals(answers.subset(answers.labels == 1))
    assert "sensitivity" in report and "interval_95" in report["sensitivity"]
    assert not {"roc_auc", "balanced_accuracy", "specificity", "expected_calibration_error"} & report.keys()
    assert "All crops are labelled atypical" in remarks(report)[0]
    report = with_intervals(answers.subset(answers.labels == 0))
    assert "specificity" in report and "All crops are labelled normal" in remarks(report)[0]


def test_one_slide_has_no_interval_and_few_have_a_sentence() -> None:
    one, few = with_intervals(draw(slides=1)), with_intervals(draw(slides=4))
    assert one["roc_auc"].keys() == {"value"} and "one slide" in remarks(one)[0]
    assert "interval_95" in few["roc_auc"] and "4 slides only" in remarks(few)[0]
    assert remarks(with_intervals(draw())) == []


def test_inverted_probabilities_are_told() -> None:
    answers = draw()
    upright = figures(answers)["roc_auc"]
    inverted = Answers(answers.labels, answers.called, 1 - answers.probabilities, answers.groups)
    (sentence,) = remarks(with_intervals(inverted))
    assert f"ROC AUC is {1 - upright:.3f}, below 0.5" in sentence and f"ROC AUC would be {upright:.3f}" in sentence


def test_the_table_has_a_line_for_each_part() -> None:
    answers = draw()
    names = np.where(answers.labels == 1, "only atypical", "other").tolist()
    parts = {"domain": in_parts(answers, names)}
    lines = table(with_intervals(answers), parts).splitlines()
    assert lines[0].split()[:2] == ["crops", "atypical"] and lines[0].count("accuracy") == 1
    assert [line.split("  ")[0] for line in lines[1:]] == ["all crops", "domain only atypical", "domain other"]
    assert lines[2].split()[3:7] == ["60", "60", "-", "-"]


def test_few_crops_are_told_and_look_not_certain() -> None:
    answers = draw()
    kept = np.flatnonzero((answers.labels == 0) | (answers.called == 1))
    right = answers.subset(kept[np.cumsum(answers.labels[kept]) <= 7])
    report = with_intervals(right)
    assert report["sensitivity"] == {"value": 1.0} and "interval_95" in report["specificity"]
    assert "Only 7 crops are atypical: each of them moves the share of them by 0.14." in remarks(report)
