"""Figures of labelled answers, whatever is missing."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from training.evaluation.answers import Answers, few_slides, figures, in_parts, remarks, table, with_intervals

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


def of_one_slide(label: int, slides: int = 30) -> Answers:
    """60 crops of a class, all of one slide, and as many of the other class of each slide."""
    random = np.random.default_rng(0)
    labels = np.repeat([label, 1 - label], [60, 60 * slides])
    groups = np.concatenate([np.zeros(60, int), np.repeat(np.arange(slides), 60)])
    probabilities = 1 / (1 + np.exp(-random.normal(3.0 * labels - 1.5)))
    return Answers(labels, (probabilities >= 0.5).astype(int), probabilities, groups)


@pytest.mark.parametrize(("label", "name", "own"), [(1, "atypical", "sensitivity"), (0, "normal", "specificity")])
def test_a_class_of_one_slide_has_a_sentence_instead_of_intervals(label: int, name: str, own: str) -> None:
    report = with_intervals(of_one_slide(label))
    assert report["slides"] == 30 and report["slides_by_class"][name] == 1
    for figure in ("roc_auc", "balanced_accuracy", own):
        assert report[figure].keys() == {"value"}, figure
    assert "interval_95" in report["specificity" if label else "sensitivity"]
    (sentence,) = remarks(report)
    assert sentence.startswith(f"All {name} crops are of one slide (group), so how far ROC AUC, balanced accuracy and")


def test_a_class_on_few_slides_has_a_sentence() -> None:
    answers = draw()
    few = answers.subset(np.flatnonzero((answers.labels == 0) | (np.arange(len(answers)) < 30)))
    report = with_intervals(few)
    assert report["slides_by_class"] == {"normal": 24, "atypical": 3} and "interval_95" in report["roc_auc"]
    assert "The atypical crops are of 3 slides only; intervals are narrower than they should be." in remarks(report)


def test_parts_of_few_slides_are_marked_in_the_table() -> None:
    one = of_one_slide(1)
    joined = [one, draw(slides=4), draw(slides=12)]
    counts = [len(part) for part in joined]
    groups = np.repeat(["a", "b", "c"], counts).astype(object) + np.concatenate([p.groups for p in joined]).astype(str)
    columns = zip(*[(part.labels, part.called, part.probabilities) for part in joined], strict=True)
    answers = Answers(*map(np.concatenate, columns), groups.astype(str))
    parts = {"domain": in_parts(answers, np.repeat(["one", "four", "twelve"], counts).tolist())}
    lines = table(with_intervals(answers), parts).splitlines()[1:]
    marks = {line.split("  ")[0]: line.rpartition(")")[2].strip() for line in lines}
    assert marks == {
        "all crops": "",
        "domain four": "4 slides only",
        "domain one": "atypical on 1 slide only",
        "domain twelve": "",
    }
    unknown = with_intervals(Answers(one.labels, one.called, one.probabilities))
    assert few_slides(unknown) == "" and unknown["slides_by_class"] is None


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
