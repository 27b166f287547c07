"""Results as the platform stores them, against a ground truth."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import shared

from model.constants import CLASSES
from model.modes.grand_challenge import INPUT_SLUG, RESULT_FILE
from training.evaluate import main
from training.evaluation.ground_truth import ResultsError, read_truth
from training.evaluation.platform_results import official, problem_of, read_results, score

TRUTH = [
    {"image": "stack_1.tiff", "labels": ["normal", "atypical", "normal", "atypical"], "tumordomains": [1, 1, 1, 1]},
    {"image": "stack_2.tiff", "labels": ["normal", "normal", "atypical"], "tumordomains": [1, 2, 2]},
]
RESULTS: dict[str, list[Any]] = {
    "stack_1.tiff": [("normal", 0.1), ("atypical", 0.9), ("atypical", 0.6), ("normal", 0.4)],
    "stack_2.tiff": [("normal", 0.2), ("normal", 0.3), ("atypical", 0.7)],
}


def entries(answers: list[tuple[Any, Any]]) -> list[dict]:
    return [{"class": name, "confidence": confidence} for name, confidence in answers]


def write(folder: Path, results: dict[str, Any] | None = None, socket: str = "interface") -> tuple[Path, Path]:
    """Results and truth as the challenge has them."""
    jobs = []
    for number, (image, answers) in enumerate((results or {n: entries(a) for n, a in RESULTS.items()}).items()):
        pk = f"{number:08}-4db4-890c"
        path = folder / "results" / pk / "output" / RESULT_FILE
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(answers))
        inputs = [{"image": {"name": image}, socket: {"slug": INPUT_SLUG}}]
        outputs = [{socket: {"slug": RESULT_FILE.removesuffix(".json"), "relative_path": RESULT_FILE}}]
        jobs.append({"pk": pk, "inputs": inputs, "outputs": outputs, "status": "Succeeded"})
    (folder / "results" / "predictions.json").write_text(json.dumps(jobs))
    (folder / "truth.json").write_text(json.dumps(TRUTH))
    return folder / "results", folder / "truth.json"


@pytest.mark.parametrize("socket", ["interface", "socket"])
def test_the_official_figures_of_jobs(tmp_path: Path, socket: str) -> None:
    """Counted by hand: 2 of 3 atypical, 3 of 4 normal; of 12 pairs of both classes one is in the wrong order."""
    results, truth = write(tmp_path, socket=socket)
    scored = score(read_results(results)[0], *read_truth(truth))
    assert scored.problems == [] and scored.doubts == []
    figures = official(scored)
    assert figures["overall_sensitivity"] == pytest.approx(2 / 3)
    assert figures["overall_specificity"] == pytest.approx(3 / 4)
    assert figures["overall_balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert figures["overall_roc_auc"] == pytest.approx(11 / 12)
    assert figures["overall_accuracy"] == pytest.approx(5 / 7)
    names = ("sensitivity", "specificity", "balanced_accuracy", "roc_auc", "accuracy")
    assert figures["domain_2"] == dict.fromkeys(names, 1.0)


def test_folders_of_cases_and_a_table_are_the_same(tmp_path: Path) -> None:
    expected = official(score(read_results(write(tmp_path)[0])[0], *read_truth(tmp_path / "truth.json")))
    rows = ["image;label;domain".replace(";", ",")]
    for case in TRUTH:
        stem = Path(str(case["image"])).stem
        folder = tmp_path / "cases" / stem / ("output" if stem == "stack_1" else "")
        folder.mkdir(parents=True)
        (folder / RESULT_FILE).write_text(json.dumps(entries(RESULTS[str(case["image"])])))
        rows += [f"{stem}.tiff,{a},{b}" for a, b in zip(case["labels"], case["tumordomains"], strict=True)]
    (tmp_path / "truth.csv").write_text("\n".join(rows))
    scored = score(read_results(tmp_path / "cases")[0], *read_truth(tmp_path / "truth.csv"))
    assert official(scored) == expected and scored.problems == []


SORTED = (3, 0, 4, 1, 5, 2)
"""Places in a stack in the order that a spreadsheet has put them."""


def write_folder_mode(folder: Path, indices: tuple[Any, ...]) -> None:
    """What `process.py folder` writes of a stack of three normal and then three atypical crops, all of them right."""
    found = entries([("normal", 0.1), ("normal", 0.2), ("normal", 0.3), *[("atypical", 0.9)] * 3])
    listed = [{"file": "stack.tiff", "index": index, **found[number]} for number, index in enumerate(indices)]
    (folder / "predictions.json").write_text(json.dumps(listed))


def write_truth(folder: Path, places: Sequence[int], indices: Sequence[Any]) -> Path:
    """The ground truth of that stack: rows of the crops in some places, with what their index is said to be."""
    rows = [f"stack.tiff,{i},{CLASSES[place // 3]},d{place},s{place}" for i, place in zip(indices, places, strict=True)]
    (folder / "truth.csv").write_text("\n".join(["file,index,label,domain,slide", *rows]))
    return folder / "truth.csv"


def test_rows_that_a_spreadsheet_has_sorted_are_paired_by_their_index(tmp_path: Path) -> None:
    write_folder_mode(tmp_path, (0, 1, 2, 3, 4, 5))
    truth = read_truth(write_truth(tmp_path, SORTED, SORTED))
    assert truth[0]["stack.tiff"].groups == [f"s{place}" for place in range(6)]
    scored = score(read_results(tmp_path)[0], *truth)
    assert official(scored)["overall_roc_auc"] == 1 and scored.domains == [f"d{place}" for place in range(6)]
    assert scored.problems == [] and scored.doubts == []


def test_answers_of_a_folder_are_paired_by_their_index(tmp_path: Path) -> None:
    write_folder_mode(tmp_path, (0, 1, 2, 3, 4, 5))
    listed = json.loads((tmp_path / "predictions.json").read_text())
    (tmp_path / "predictions.json").write_text(json.dumps([listed[place] for place in SORTED]))
    scored = score(read_results(tmp_path)[0], *read_truth(write_truth(tmp_path, range(6), range(6))))
    assert official(scored)["overall_roc_auc"] == 1


@pytest.mark.parametrize("first", [1, 40])
def test_an_index_may_count_from_one_or_over_all_files(tmp_path: Path, first: int) -> None:
    write_folder_mode(tmp_path, (0, 1, 2, 3, 4, 5))
    truth = read_truth(write_truth(tmp_path, SORTED, [first + place for place in SORTED]))
    assert official(score(read_results(tmp_path)[0], *truth))["overall_roc_auc"] == 1


def test_a_case_whose_row_is_missing_is_named(tmp_path: Path) -> None:
    write_folder_mode(tmp_path, (0, 1, 2, 3, 4, 5))
    truth = read_truth(write_truth(tmp_path, SORTED[1:], SORTED[1:]))
    with pytest.raises(ResultsError, match="has 6 answers, but the case 5 crops"):
        score(read_results(tmp_path)[0], *truth)


@pytest.mark.parametrize("indices", [(0, 1, 2, 3, 4, 4), (0, 1, 2, 3, 4, "x"), (0, 1, 2, 3, 4, "")])
def test_an_index_that_tells_no_order_is_refused(tmp_path: Path, indices: tuple[Any, ...]) -> None:
    whole = r"truth\.csv: the same index stands in two rows of stack\.tiff; correct it or"
    cell = rf"truth\.csv, line 7: the index is '{indices[5]}'; write the crop's place in the stack, from 0"
    with pytest.raises(ResultsError, match=whole if isinstance(indices[5], int) else cell):
        read_truth(write_truth(tmp_path, SORTED, indices))
    write_folder_mode(tmp_path, indices)
    with pytest.raises(ResultsError, match=r"predictions\.json: the index of the 6 answers on stack\.tiff is not 0 to"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ({"class": "normal"}, "no list, but an object"),
        (entries(RESULTS["stack_2.tiff"][:2]), "has 2 answers, but the case 3 crops"),
        (["normal"] * 3, "answer 1 is no object"),
        (entries([("normal", 0.1), ("Atypical", 0.9), ("normal", 0.1)]), "class of answer 2 is 'Atypical'"),
        (entries([("normal", 0.1), ("normal", 0.1), ("normal", 0)]), "confidence of answer 3 is an integer"),
        (entries([("normal", 0.1), ("normal", "0.1"), ("normal", 0.1)]), "confidence of answer 2 is a text"),
        (entries([("normal", 0.1), ("normal", True), ("normal", 0.1)]), "confidence of answer 2 is true or false"),
        (entries([("normal", float("nan"))] * 3), "confidence of answer 1 is nan"),
        (entries([("normal", None)] * 3), "confidence of answer 1 is null"),
    ],
)
def test_what_the_official_evaluation_refuses_is_named(result: Any, sentence: str) -> None:
    assert sentence in problem_of(result, 3)


def test_missing_strange_and_failed_cases_are_problems(tmp_path: Path) -> None:
    results, truth = write(tmp_path, {"stack_1.tiff": entries(RESULTS["stack_1.tiff"]), "other.tiff": []})
    found, problems = read_results(results)
    scored = score(found, *read_truth(truth))
    assert problems == []
    assert [sentence.split(",")[0] for sentence in scored.problems] == [
        "There is a result of other.tiff",
        "There is no result of stack_2.tiff.",
    ]
    assert len(scored.answers) == 4
    jobs = json.loads((results / "predictions.json").read_text())
    jobs[0]["status"] = "Failed"
    jobs[1]["outputs"][0]["interface"]["relative_path"] = "../../truth.json"
    (results / "predictions.json").write_text(json.dumps(jobs))
    found, problems = read_results(results)
    assert found == {} and "status Failed" in problems[0] and "outside the folder" in problems[1]
    with pytest.raises(ResultsError, match=r"No case can be scored\. There is no result of stack_1"):
        score(found, *read_truth(truth))


def test_confidences_of_the_given_class_are_recognised(tmp_path: Path) -> None:
    turned = {
        name: entries([(kind, p if kind == "atypical" else 1 - p) for kind, p in answers])
        for name, answers in RESULTS.items()
    }
    results, truth = write(tmp_path, turned)
    doubts = score(read_results(results)[0], *read_truth(truth)).doubts
    assert "4 of 7 answers contradict themselves" in doubts[0]
    assert "ROC AUC would be 0.917 instead of" in doubts[1]


def test_command_line_says_all_of_it_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inverted = {n: entries([(kind, round(1 - p, 3)) for kind, p in answers]) for n, answers in RESULTS.items()}
    inverted["stack_2.tiff"].pop()
    results, truth = write(tmp_path, inverted)
    with pytest.raises(SystemExit, match=r"1 faults.*\n.*stack_2.tiff is refused: it has 2 answers, but the case 3"):
        main([str(results), "--truth", str(truth), "--output", str(tmp_path / "report")])
    printed = capsys.readouterr().out
    assert "below 0.5" in printed and "ROC AUC would be 0.750" in printed
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert not report["accepted"] and report["aggregates"]["overall_roc_auc"] == 0.25
    for arguments, sentence in (
        ([str(tmp_path / "nowhere"), "--truth", str(truth)], "is no folder"),
        ([str(tmp_path / "report"), "--truth", str(truth)], "holds neither"),
        ([str(results), "--truth", str(tmp_path / "none.json")], "cannot be read"),
        ([str(results), "--truth", str(truth), "data.root=x"], "either data.root"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            main(arguments)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{}", "no list of cases"),
        ('[{"labels": []}]', "entry 1 has no image"),
        ('[{"image": "a", "labels": ["mitosis"]}]', "labels of a are no list of normal and atypical"),
        ('[{"image": "a", "labels": ["normal"], "tumordomains": [1, 2]}]', "another number of tumordomains"),
        ('[{"image": "a", "labels": ["normal"]}, {"image": "a", "labels": ["normal"]}]', "has a twice"),
        ("no", "not valid JSON"),
    ],
)
def test_a_damaged_ground_truth_is_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(ResultsError, match=sentence):
        read_truth(tmp_path / "truth.json")


def test_the_ground_truth_of_the_real_cases_is_understood() -> None:
    cases, aliases = read_truth(shared("cases") / "ground_truth.json")
    assert [len(case.labels) for case in cases.values()] == [16, 16, 16, 16, 5, 1]
    assert {aliases[f"case_0{i}"] for i in range(1, 7)} == set(cases)
