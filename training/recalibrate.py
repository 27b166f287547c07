"""A weights folder with its operating point fitted to a lab's own labelled crops; the network stays as it is.

python -m training.recalibrate model/weights/default data.root=DIR --output model/weights/mine

DIR holds manifest.csv and the crops (docs/data.md). It says how much is gained, measured on slides that took no part in
the fit, and whether so many crops are enough. --replace changes the folder itself.
"""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from model.errors import WeightsError
from model.network.weights_config import WeightsConfig, read_config, write_config
from model.network.weights_folder import CONFIG_FILE, refuse_address
from model.predictor import Predictor
from training.evaluate import data_root, run_command
from training.evaluation.recalibration import Recalibrated, recalibrate
from training.evaluation.weights_report import METRICS, Classified, classify, read_metrics

CARD = "README.md"

SUFFIX = "+recalibrated"
"""Of the version of weights with another operating point."""

NOTE = """> **Recalibrated.** The calibration, and with it the operating point, of these weights was fitted anew to
> {crops} crops ({atypical} atypical) of {slides} slides: {domains}. The network is that of {name} {version}.
> P(atypical) is now sigmoid({scale:.4f} x logit + {bias:.4f}). On slides that took no part in it, balanced accuracy is
> {new} instead of {old}. {sentence}
> What is said below of the calibration and of figures at the operating point is of {version}.

"""


def write_recalibrated(
    source: Path, output: Path, recalibrated: Recalibrated, classified: Classified, views: str
) -> WeightsConfig:
    """Writes the weights folder: the same tensors, the new calibration, what it stands on.

    Args:
        source: the weights folder.
        output: replaced as a whole; may be `source`.
        recalibrated: to the crops of
        classified: the lab's.
        views: that they were classified with.

    Returns:
        The new config.json.

    Raises:
        WeightsError: the folder cannot be written.
    """
    old, report = read_config(source), recalibrated.report
    domains = sorted(set(classified.names("domain")))
    about = report | {"domains": domains, "views": views}
    about |= {"of_version": old.version, "old_calibration": asdict(old.calibration)}
    config = replace(
        old,
        version=old.version if old.version.endswith(SUFFIX) else old.version + SUFFIX,
        calibration=recalibrated.calibration,
        training=old.training | {"recalibration": about},
    )
    partial = output.with_name(f".{output.name}.partial")
    earlier = output.with_name(f".{output.name}.earlier")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, partial)
        write_config(partial, config)
        metrics = read_metrics(partial) | {"recalibration": about}
        (partial / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        card = partial / CARD
        text = card.read_text(encoding="utf-8") if card.is_file() else f"# {old.name}\n"
        card.write_text(_with_note(text, old, config, recalibrated.sentence), encoding="utf-8")
        if output.exists():
            output.rename(earlier)
        partial.rename(output)
        shutil.rmtree(earlier, ignore_errors=True)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            _put_back(output)
        raise WeightsError(f"{output} cannot be written ({error}); give another --output.") from error
    return config


def _put_back(output: Path) -> None:
    """Ends what an interrupted replacement has left: the earlier weights are put back where the new ones never came."""
    earlier = output.with_name(f".{output.name}.earlier")
    if output.exists():
        shutil.rmtree(earlier, ignore_errors=True)
    elif earlier.exists():
        earlier.rename(output)


def _with_note(text: str, old: WeightsConfig, new: WeightsConfig, sentence: str) -> str:
    """A model card with the note below its title, in the place of an earlier one."""
    report = new.training["recalibration"]
    note = NOTE.format(
        **{name: report[name] for name in ("crops", "atypical", "slides")},
        domains=", ".join(report["domains"]),
        name=old.name,
        version=old.version,
        scale=new.calibration.scale,
        bias=new.calibration.bias,
        new=_said(report["new"]["balanced_accuracy"]),
        old=_said(report["old"]["balanced_accuracy"]),
        sentence=sentence,
    )
    title, _, rest = text.partition("\n")
    paragraphs = rest.lstrip("\n").split("\n\n")
    kept = [paragraph for paragraph in paragraphs if not paragraph.startswith("> **Recalibrated.**")]
    return f"{title}\n\n{note}" + "\n\n".join(kept)


def _said(entry: dict[str, Any]) -> str:
    low, high = entry["interval_95"]
    return f"{entry['value']:.3f} ({low:.3f} to {high:.3f})"


def print_report(recalibrated: Recalibrated) -> None:
    """Prints what is gained and how certain it is."""
    report = recalibrated.report
    print(f"{'':18}  {'old operating point':24}  new, fitted on other slides")
    for figure, old in report["old"].items():
        print(f"{figure.replace('_', ' '):18}  {_said(old):24}  {_said(report['new'][figure])}")
    print("\nIn brackets: 95 % intervals over resampled slides. Gain of balanced accuracy: " + _said(report["gain"]))
    print(f"A crop is now called atypical from {_said(report['threshold'])} of the old P(atypical).")
    print(recalibrated.sentence)
    if report["gain"]["interval_95"][0] <= 0:
        print("These crops do not show that the new operating point is better than the old one.")


def run(arguments: argparse.Namespace) -> None:
    """Does what the command line says.

    Raises:
        UserError: with a sentence for the user.
    """
    refuse_address(arguments.weights)
    weights = arguments.weights.resolve()
    if arguments.output is None and not arguments.replace:
        raise WeightsError(f"Say where the new weights go, --output DIR, or --replace to change {weights} itself.")
    output = arguments.output.resolve() if arguments.output else weights
    _put_back(output)
    if output.exists() and not arguments.replace:
        raise WeightsError(f"{output} is there already; give another --output, or --replace to replace it.")
    if output.exists() and not (output / CONFIG_FILE).is_file():
        raise WeightsError(f"{output} is no weights folder, and is not replaced; give another --output.")
    root = data_root(arguments.overrides)
    predictor = Predictor(weights, arguments.device, arguments.views)
    classified = classify(predictor, root, progress=sys.stderr.isatty())
    exact = replace(classified.answers, probabilities=classified.probabilities)
    recalibrated = recalibrate(exact, predictor.config.calibration)
    config = write_recalibrated(weights, output, recalibrated, classified, predictor.view_set)
    print_report(recalibrated)
    print(f"Wrote {output} ({config.name} {config.version}).")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recalibrate", description="Fit the operating point of weights to your labelled crops."
    )
    parser.add_argument("weights", type=Path, help="weights folder, which is not changed")
    parser.add_argument("--output", type=Path, metavar="DIR", help="weights folder to write")
    parser.add_argument("--replace", action="store_true", help="replace the output, or change the weights themselves")
    run_command(parser, run, arguments)


if __name__ == "__main__":
    main()
