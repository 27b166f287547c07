"""The model card of a weights folder."""

from model.checkpoint import Calibration
from training.config import Config

TEMPLATE = """# {name} {version}: atypical against normal mitotic figures

`{backbone}` with one logit on its pooled features; looks at the central {field_of_view} pixels (0.25 µm each) of an H&E
crop, resized to {input_size}. P(atypical) = sigmoid({scale:.4f} x logit + {bias:.4f}), the logit averaged over the
eight symmetries of the square.

## Intended use
Research on mitotic figures in H&E-stained histopathology: given crops that are already centred on mitotic figures, tell
atypical from normal. It does not find mitotic figures and does not tell them from look-alikes. **It is no medical
device and must not decide about a patient.**

## Data
{about}

{crops} crops ({atypical} atypical) of {slides} slides, listed by domain below, each seen by the network in training.
Seed {seed}; every setting is in `training.yaml`.

## Figures
Measured on slides that the measured network was not trained on ({folds} folds grouped by slide and stratified by label;
calibration fitted on the other folds; eight views; 95 % intervals over {resamples} resamplings of slides). The stored
network is a further fit on all crops, for which no crop is left to measure on.

| figure | value | 95 % interval |
|---|---|---|
{overall}

Expected calibration error at equal prevalence: {ece:.3f}.

| domain | crops | ROC AUC | balanced accuracy | sensitivity | specificity |
|---|---|---|---|---|---|
{domains}

## Limits
On tissue, species and scanners that are not listed expect less, above all at the operating point. P(atypical) is for
equal prevalence of the classes; where atypical figures are rarer, as they are, fewer of those called atypical are.
"""


def model_card(config: Config, metrics: dict, calibration: Calibration) -> str:
    """The card's text.

    Args:
        config: the recipe.
        metrics: of `training.evaluate.report`.
        calibration: the one stored.
    """
    from training.evaluate import RESAMPLES

    overall = "\n".join(
        f"| {name.replace('_', ' ').replace('roc auc', 'ROC AUC')} | {entry['value']:.3f} "
        f"| {entry['interval_95'][0]:.3f} to {entry['interval_95'][1]:.3f} |"
        for name, entry in metrics["overall"].items()
    )
    columns = ("roc_auc", "balanced_accuracy", "sensitivity", "specificity")
    domains = "\n".join(
        f"| {domain} | {entry['crops']} | " + " | ".join(f"{entry[column]:.3f}" for column in columns) + " |"
        for domain, entry in metrics["domains"].items()
    )
    return TEMPLATE.format(
        name=config.name, about=config.data.about, version=config.version, backbone=config.network.backbone,
        field_of_view=config.network.field_of_view, input_size=config.network.input_size,
        scale=calibration.scale, bias=calibration.bias, crops=metrics["crops"], atypical=metrics["atypical"],
        slides=metrics["slides"], seed=config.seed, folds=config.data.folds, resamples=RESAMPLES, overall=overall,
        ece=metrics["expected_calibration_error"], domains=domains,
    )  # fmt: skip
