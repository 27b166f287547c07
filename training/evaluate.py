"""How good answers are on labelled crops: a weights folder's, a platform's results, or a run's held-out predictions.

python -m training.evaluate model/weights/default data.root=DIR    # DIR/manifest.csv; writes evaluation/default/
python -m training.evaluate RESULTS --truth ground_truth.json      # a folder of results, by the challenge's rules
python -m training.evaluate runs/compact/held_out_slides.csv       # prints JSON; --output DIR writes it and a page

`training/evaluate.sh` does the same after setting up .venv.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from model.constants import DEFAULT_VIEWS, VIEW_SETS
from model.errors import UserError
from model.files import read_bounded
from model.network.weights_folder import refuse_address
from model.predictor import Predictor
from training.data.text import listing
from training.evaluation import answers, platform_results, scores, weights_report
from training.evaluation.ground_truth import read_truth
from training.evaluation.held_out import table_path
from training.evaluation.report import About, Crops, report_held_out, write_evaluation
from training.run_folder import CONFIG, LARGEST_CONFIG, LOG

ROOT = "data.root="


class UsageError(UserError):
    """The command line does not say what to evaluate."""


def evaluate_weights(arguments: argparse.Namespace, root: Path) -> None:
    """A weights folder on labelled crops: prints a table, writes metrics.json, predictions.csv and a page."""
    output = arguments.output or Path("evaluation") / arguments.what.resolve().name
    weights_report.check_output(output)
    refuse_address(arguments.what)
    predictor = Predictor(arguments.what, arguments.device, arguments.views)
    classified = weights_report.classify(predictor, root, progress=sys.stderr.isatty())
    said = [] if arguments.unseen else [weights_report.maybe_seen(classified, arguments.what)]
    metrics = {"data": str(root)} | weights_report.report(classified, predictor, said)
    weights_report.write_report(output, metrics, weights_report.predictions_table(classified))
    page = weights_report.write_page(output, classified, metrics, root)
    config = predictor.config
    print(f"{config.name} {config.version} ({arguments.what}) on {root}, {predictor.view_count} views\n")
    print_figures(metrics["overall"], {"domain": metrics["domains"], "source": metrics["sources"]}, metrics["remarks"])
    print(f"\nWrote {output / weights_report.METRICS}, {output / weights_report.PREDICTIONS} and {page}.")


def tables_of_run(table: Path) -> tuple[list[Path], int, str]:
    """What the model card has the figures of a table from, as the `config.yaml` of its run says.

    Args:
        table: `held_out_SPLIT.csv` in the run's folder.

    Returns:
        The table and, where the operating point stands on it, too, the one of `data.shift_split`; the seed of the
        resampling; and a sentence where the card's tables and seed cannot be told, else an empty text.
    """
    alone = f"The operating point is from {table} alone, so the figures may differ from the model card's: "
    try:
        config = yaml.safe_load(read_bounded(table.with_name(CONFIG), LARGEST_CONFIG))
        split, shift_split, seed = config["data"]["split"], config["data"]["shift_split"], int(config["seed"])
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError, RecursionError):
        return [table], 0, f"{alone}beside it is no {CONFIG} of its run, which names the other table and the seed."
    if table.name not in (names := [table_path(table.parent, name).name for name in (split, shift_split)]):
        return [table], seed, f"{alone}{table.with_name(CONFIG)} is of a run with {split} as data.split."
    if table.name == names[1] or not shift_split:
        return [table], seed, ""
    further = table.with_name(names[1])
    if not further.is_file():
        return [table], seed, f"{alone}{further.name}, which the run's calibration stands on, too, is not beside it."
    return [table, further], seed, ""


def evaluate_table(table: Path, output: Path | None) -> None:
    """A run's held-out predictions: prints JSON, and with --output writes metrics.json and a page."""
    if output is not None:
        weights_report.check_output(output)
    tables, seed, remark = tables_of_run(table)
    metrics = scores.report_run(tables, seed)
    print(json.dumps(metrics, indent=2))
    if remark:
        print(remark, file=sys.stderr)
    if output is not None:
        weights_report.write_report(output, metrics)
        sentence = f"{metrics['crops']} crops of {table}, calibrated on {metrics['calibrated_on']}."
        said = [remark] if remark else []
        about = About("Evaluation of held-out predictions", sentence, said, log=table.with_name(LOG))
        page = report_held_out(output, about, tables, metrics)
        print(f"Wrote {output / weights_report.METRICS} and {page}.", file=sys.stderr)


def evaluate_results(arguments: argparse.Namespace) -> None:
    """A folder of results against a ground truth: prints a table, and with --output writes metrics.json and a page.

    Raises:
        UsageError: the official evaluation would refuse these results; after the figures of what it would take.
        WeightsError: the output is a weights folder.
    """
    if arguments.output is not None:
        weights_report.check_output(arguments.output)
    results, problems = platform_results.read_results(arguments.what)
    cases, aliases = read_truth(arguments.truth)
    scored = platform_results.score(results, cases, aliases)
    problems = problems + scored.problems
    overall = answers.with_intervals(scored.answers)
    domains = answers.in_parts(scored.answers, scored.domains) if any(scored.domains) else {}
    said = answers.remarks(overall) + scored.doubts
    print(f"{arguments.what} against {arguments.truth}, by the rules of MIDOG 2025 track 2\n")
    print_figures(overall, {"domain": domains}, said)
    if arguments.output is not None:
        content = {"aggregates": platform_results.official(scored), "overall": overall, "domains": domains}
        verdict = {"accepted": not problems, "problems": problems, "remarks": said}
        weights_report.write_report(arguments.output, content | verdict)
        about = About("Evaluation of results", f"{arguments.what} against {arguments.truth}.", [*problems, *said])
        known = Crops(scored.names, scored.domains, [1.0] * len(scored.names), lambda index: None)
        page = write_evaluation(arguments.output, about, scored.answers, known, (overall, domains))
        print(f"\nWrote {arguments.output / weights_report.METRICS} and {page}.")
    if problems:
        raise UsageError(
            listing("faults, for each of which the challenge's evaluation gives no figures at all", problems)
        )


def print_figures(
    overall: Mapping[str, Any], parts: Mapping[str, Mapping[str, Mapping[str, Any]]], said: Sequence[str]
) -> None:
    """Prints the figures for a person, with what they mean and what is to be said of them.

    Args:
        overall: of `training.evaluation.answers.with_intervals`.
        parts: for `training.evaluation.answers.table`.
        said: sentences.
    """
    print(answers.table(overall, parts))
    if any(answers.few_slides(entry) for entry in (overall, *(e for part in parts.values() for e in part.values()))):
        print(answers.NARROW)
    print(f"\n{answers.EXPLANATION}")
    if any(isinstance(entry, dict) and "interval_95" in entry for entry in overall.values()):
        print(f"In brackets: 95 % intervals over {scores.RESAMPLES} resamplings of slides.")
    if "expected_calibration_error" in overall:
        print(f"Expected calibration error at equal prevalence: {overall['expected_calibration_error']:.3f}")
    for sentence in said:
        print(f"* {sentence}")


def data_root(overrides: Sequence[str]) -> Path:
    """The folder that `data.root=DIR` names.

    Raises:
        UsageError: something else is said, or nothing.
    """
    for override in overrides:
        if not override.startswith(ROOT) or override == ROOT:
            raise UsageError(f"'{override}' is not understood; write data.root=DIR, a folder with manifest.csv.")
    if len(overrides) != 1:
        raise UsageError(
            "Give the labelled crops as data.root=DIR, a folder with manifest.csv; or the truth of results as --truth."
        )
    return Path(overrides[0].removeprefix(ROOT))


def run_command(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], given: Sequence[str] | None
) -> None:
    """Reads a command line about labelled crops and does what it says, or ends with a sentence.

    Args:
        parser: knows all other arguments than those that are added here: data.root=DIR, and what `process.py` takes,
            too, --views and --device.
        run: does it; raises UserError.
        given: the arguments; None for the program's own.
    """
    parser.add_argument("overrides", nargs="*", metavar="data.root=DIR", help="folder with manifest.csv and the crops")
    parser.add_argument("--views", choices=VIEW_SETS, default=DEFAULT_VIEWS, help="(default: the container's)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    parsed = parser.parse_intermixed_args(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        run(parsed)
    except UserError as error:
        sys.exit(str(error))


def run(arguments: argparse.Namespace) -> None:
    """Does what the command line says.

    Raises:
        UserError: with a sentence for the user.
    """
    what: Path = arguments.what
    if arguments.truth is not None:
        if arguments.overrides:
            raise UsageError("Give either data.root=DIR, to evaluate weights, or --truth, to evaluate results.")
        if not what.is_dir():
            raise UsageError(f"{what} is no folder; give the folder of results that --truth is of.")
        evaluate_results(arguments)
    elif what.suffix == ".csv" and not arguments.overrides:
        if not what.is_file():
            raise UsageError(f"There is no table {what}; a training run writes held_out_SPLIT.csv into its run folder.")
        evaluate_table(what, arguments.output)
    else:
        evaluate_weights(arguments, data_root(arguments.overrides))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="training/evaluate.sh",
        description="Evaluate a weights folder on labelled crops, or results against a ground truth.",
        epilog="Example: training/evaluate.sh model/weights/default data.root=DIR",
    )
    parser.add_argument("what", type=Path, help="weights folder, folder of results, or held_out_SPLIT.csv of a run")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="ground truth of a folder of results")
    parser.add_argument("--output", type=Path, metavar="DIR", help="(default: evaluation/WEIGHTS; of results, none)")
    parser.add_argument("--unseen", action="store_true", help="say that the weights were trained on none of the slides")
    run_command(parser, run, arguments)


if __name__ == "__main__":
    main()
