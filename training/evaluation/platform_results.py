"""Results as the platform stores them against a ground truth, by the rules of MIDOG 2025 track 2.

RESULTS/predictions.json, RESULTS/PK/output/…      as the challenge's evaluation gets them
RESULTS/CASE/[output/]multiple-mitotic-figure-classification.json    one folder a case
RESULTS/predictions.json                           as `process.py folder` writes it

The rules are those of the organisers' evaluation (github.com/DeepMicroscopy/MIDOG25_T2_evaluation_docker): a result is
a list with an object for each crop, its `class` one of two, its `confidence` a float; anything else refuses the whole
submission. Balanced accuracy, sensitivity and specificity are of the classes as written, ROC AUC of the confidences,
which are P(atypical).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from model.constants import CLASSES, THRESHOLD
from model.modes.grand_challenge import INPUT_SLUG, RESULT_FILE
from training.evaluation.answers import Answers, figures
from training.evaluation.ground_truth import INDEX, ResultsError, TruthCase, read_json

JOBS = "predictions.json"


@dataclass(frozen=True)
class Scored:
    """Results that could be scored, and what is wrong with the rest.

    Attributes:
        answers: of all crops of all cases without a problem.
        names: of these crops: their case, and where in it they are.
        domains: of each of these crops.
        problems: sentences; for each of them the official evaluation refuses the submission.
        doubts: sentences on what it takes, but what is hardly meant.
    """

    answers: Answers
    names: list[str]
    domains: list[str]
    problems: list[str]
    doubts: list[str]


def read_results(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The results in a folder.

    Returns:
        Each case's result as it was read, by the name that the platform knows its image by or by its folder's; and
        sentences on those that cannot be read.

    Raises:
        ResultsError: there are none, or the index that `process.py folder` gives a file's answers tells no order.
    """
    path = folder / JOBS
    content = read_json(path) if path.is_file() else None
    results: dict[str, Any] = {}
    problems: list[str] = []
    if isinstance(content, list) and content and all(isinstance(entry, dict) and "pk" in entry for entry in content):
        for job in content:
            _read_job(folder, job, results, problems)
        return results, problems
    if isinstance(content, list) and content and all(isinstance(e, dict) and "file" in e for e in content):
        for entry in content:
            results.setdefault(str(entry["file"]), []).append(entry)
        return {name: _in_order(path, name, entries) for name, entries in results.items()}, problems
    if content is not None:
        raise ResultsError(f"{path} is neither a list of the platform's jobs nor what `process.py folder` writes.")
    for file in sorted(folder.rglob(RESULT_FILE)):
        parts = [part for part in file.parent.relative_to(folder).parts if part != "output"]
        _read_case(file, "/".join(parts) or folder.resolve().name, results, problems)
    if not results and not problems:
        raise ResultsError(f"{folder} holds neither {JOBS} nor a {RESULT_FILE}; give a folder of results.")
    return results, problems


def _in_order(path: Path, name: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A file's answers in the stack's order, by their index where they have one."""
    if not any(INDEX in entry for entry in entries):
        return entries
    indices = [entry.get(INDEX) for entry in entries]
    if any(type(index) is not int for index in indices) or {*indices} != {*range(len(entries))}:
        raise ResultsError(
            f"{path}: the index of the {len(entries)} answers on {name} is not 0 to {len(entries) - 1}, each once; run "
            "`process.py folder` again."
        )
    return sorted(entries, key=itemgetter(INDEX))


def _read_job(folder: Path, job: dict[str, Any], results: dict[str, Any], problems: list[str]) -> None:
    """Adds the result of one of the platform's jobs."""
    pk, status = str(job["pk"]), job.get("status", "Succeeded")
    image = _of_socket(job.get("inputs"), INPUT_SLUG).get("image")
    name = image.get("name") if isinstance(image, dict) else None
    if not isinstance(name, str):
        problems.append(f"{folder / JOBS}: the job {pk} names no image of {INPUT_SLUG}.")
        return
    if status != "Succeeded":
        problems.append(f"The job {pk} of {name} has the status {status}; run it again.")
        return
    socket = _socket(_of_socket(job.get("outputs"), RESULT_FILE.removesuffix(".json")))
    relative = Path(str(socket.get("relative_path", RESULT_FILE)))
    if relative.is_absolute() or ".." in (*relative.parts, *Path(pk).parts) or Path(pk).is_absolute():
        problems.append(f"{folder / JOBS}: the job {pk} names a result outside the folder.")
        return
    _read_case(folder / pk / "output" / relative, name, results, problems)


def _socket(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An entry's socket, in the spelling until 2025 (`interface`) or since (`socket`)."""
    described = entry.get("socket", entry.get("interface"))
    return described if isinstance(described, dict) else {}


def _of_socket(entries: Any, slug: str) -> Mapping[str, Any]:
    """The entry of a job's inputs or outputs with a slug; empty where there is none."""
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and _socket(entry).get("slug") == slug:
            return entry
    return {}


def _read_case(path: Path, name: str, results: dict[str, Any], problems: list[str]) -> None:
    if name in results:
        problems.append(f"There are two results of {name}; {path} is the second.")
        return
    try:
        results[name] = read_json(path)
    except ResultsError as error:
        problems.append(f"The result of {name} is missing or damaged: {error}")


def problem_of(result: Any, crops: int) -> str:
    """What the official evaluation refuses a case's result for; empty where it takes it.

    Args:
        result: as read from JSON.
        crops: how many the case has.
    """
    if not isinstance(result, list):
        return f"it is no list, but {_kind(result)}"
    if len(result) != crops:
        return f"it has {len(result)} answers, but the case {crops} crops"
    for number, entry in enumerate(result, start=1):
        if not isinstance(entry, dict) or "class" not in entry or "confidence" not in entry:
            return f"answer {number} is no object with class and confidence"
        if entry["class"] not in CLASSES:
            return f"the class of answer {number} is {entry['class']!r}; write normal or atypical"
        confidence = entry["confidence"]
        if not isinstance(confidence, float):
            return f"the confidence of answer {number} is {_kind(confidence)}; write a number with a decimal point"
        if not math.isfinite(confidence):
            return f"the confidence of answer {number} is {confidence}, of which ROC AUC cannot be computed"
    return ""


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "an integer"}
    return f"{names.get(type(value), 'null')} ({json.dumps(value)[:40]})"


def score(results: Mapping[str, Any], cases: Mapping[str, TruthCase], aliases: Mapping[str, str]) -> Scored:
    """Scores results against a ground truth.

    Args:
        results: of `read_results`.
        cases: of `read_truth`, as
        aliases: are.

    Raises:
        ResultsError: no case is left to score.
    """
    problems: list[str] = []
    truth, entries, names, domains = TruthCase(), [], [], []
    unscored = dict(cases)
    for name, found in results.items():
        known = aliases.get(name) or aliases.get(Path(name).stem)
        if known is None:
            problems.append(f"There is a result of {name}, but no ground truth; is it of another data set?")
            continue
        case = unscored.pop(known, None)
        if case is None:
            problems.append(f"There are two results of {known}.")
        elif problem := problem_of(found, len(case.labels)):
            problems.append(f"The result of {name} is refused: {problem}.")
        else:
            entries += found
            names += [f"{name}, crop {number}" for number in range(1, len(found) + 1)]
            domains += case.domains
            truth.labels += case.labels
            truth.groups += case.groups
    problems += [f"There is no result of {name}." for name in unscored]
    if not entries:
        first = problems[0] if problems else "There are no results."
        raise ResultsError(f"No case can be scored. {first}")
    called = np.array([CLASSES.index(entry["class"]) for entry in entries])
    confidences = np.array([entry["confidence"] for entry in entries])
    groups = np.array(truth.groups) if all(truth.groups) else None
    answers = Answers(np.array(truth.labels), called, confidences, groups)
    return Scored(answers, names, domains, problems, _doubts(answers))


def _doubts(answers: Answers) -> list[str]:
    """Sentences on confidences that are hardly meant as P(atypical)."""
    doubts = []
    outside = int(np.sum((answers.probabilities < 0) | (answers.probabilities > 1)))
    if outside:
        doubts.append(f"{outside} of {len(answers)} confidences are outside 0 to 1.")
    against = int(np.sum((answers.probabilities >= THRESHOLD) != answers.called))
    if against:
        doubts.append(
            f"{against} of {len(answers)} answers contradict themselves: class and confidence are on different sides "
            f"of {THRESHOLD}. The confidence is P(atypical), not that of the class that was given."
        )
        stated = figures(answers).get("roc_auc")
        turned = np.where(answers.called == 1, answers.probabilities, 1 - answers.probabilities)
        meant = figures(Answers(answers.labels, answers.called, turned)).get("roc_auc")
        if stated is not None and meant is not None and meant > stated:
            doubts.append(
                f"Were the confidences those of the class that was given, ROC AUC would be {meant:.3f} instead of "
                f"{stated:.3f}; write 1 - confidence where the class is normal."
            )
    return doubts


def official(scored: Scored) -> dict[str, Any]:
    """The figures under the names of the organisers' metrics.json, those that the labels allow.

    Of a domain without one of the classes theirs are of no meaning, and are left out.
    """
    names = ("sensitivity", "specificity", "balanced_accuracy", "roc_auc")

    def named(answers: Answers) -> dict[str, float]:
        found = figures(answers)
        accuracy = float(np.mean(answers.labels == answers.called))
        return {name: found[name] for name in names if name in found} | {"accuracy": accuracy}

    overall = {f"overall_{name}": value for name, value in named(scored.answers).items()}
    every = np.array(scored.domains, dtype=str)
    by_domain = {f"domain_{name}": named(scored.answers.subset(every == name)) for name in np.unique(every) if name}
    return overall | by_domain
