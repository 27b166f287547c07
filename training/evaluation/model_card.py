"""The model card of a weights folder."""

from collections.abc import Sequence
from typing import Any

from model.network.calibration import Calibration
from training.config import Config
from training.data.sample import Sample
from training.evaluation.scores import RESAMPLES
from training.network.classifier import preprocessing_of

TEMPLATE = """# {name} {version}: atypical against normal mitotic figures

`{backbone}` with one logit on its pooled features; trained on the central {field_of_view} pixels (0.25 µm each) of H&E
crops, resized to {input_size}. P(atypical) = sigmoid({scale:.4f} x logit + {bias:.4f}), the logit averaged over the
eight symmetries of the square{scales}. This calibration is fitted on all
held-out predictions below (eight views, no synthetic shift), which are of other networks of the same recipe.

## Intended use
Research on mitotic figures in H&E-stained histopathology: given crops that are already centred on mitotic figures, tell
atypical from normal. It does not find mitotic figures and does not tell them from look-alikes. **It is no medical
device and must not decide about a patient.**

## Data
{about}{crops} crops ({atypical} atypical) of {slides} slides, each seen by the network in training:

| source | domain | slides | normal | atypical |
|---|---|---|---|---|
{data}

{votes} First weights: {first}. Seed {seed}; every setting is in `training.yaml`.

## Figures
Measured on slides that the measured network was not trained on ({split}; calibration fitted on crops of the
{calibrated_on}; eight views; 95 % intervals over {resamples} resamplings of slides). {stored}{spread}

| figure | value | 95 % interval |
|---|---|---|
{overall}

ROC AUC within each fold, whose crops one network predicted: {within}.

Expected calibration error at equal prevalence: {ece:.3f}; bin by bin:

| crops | mean P(atypical) | frequency of atypical at equal prevalence |
|---|---|---|
{reliability}

By domain, with intervals over its own slides (over fewer than ten they are narrower than they should be; where a class
is of one slide there is none):

{domains}

{proxies}
## Limits
On tissue, species and scanners that are not listed expect less, above all at the operating point. P(atypical) is for
equal prevalence of the classes; where atypical figures are rarer, as they are, fewer of those called atypical are.
"""


PROXIES = """## Proxies for slides from elsewhere
The same crops, measured where it is harder. Calibration is never from changed crops, and that of a data set or domain
held out is from crops of the others, by networks that did not see it either.

| predictions | ROC AUC | 95 % interval | balanced accuracy | 95 % interval |
|---|---|---|---|---|
{rows}

The synthetic shift changes stain, colour, sharpness, noise and compression further than training does
(`training/data/shift.py`). It is no substitute for slides of another laboratory.
{held_out}"""


def model_card(config: Config, metrics: dict[str, Any], calibration: Calibration, samples: Sequence[Sample]) -> str:
    """The card's text.

    Args:
        config: the recipe.
        metrics: of `training.evaluation.scores.report_table`, with the shift split's own where there is one.
        calibration: the one stored.
        samples: that the network is fitted to.
    """
    network = config.network
    overall = "\n".join(
        f"| {name.replace('_', ' ').replace('roc auc', 'ROC AUC')} | {entry['value']:.3f} | {_interval(entry)} |"
        for name, entry in metrics["overall"].items()
    )
    reliability = "\n".join(
        f"| {row['crops']} | {row['predicted']:.2f} | {row['observed']:.2f} |" for row in metrics["reliability"]
    )
    sides = ", ".join(map(str, sorted(preprocessing_of(config).sides)))
    return TEMPLATE.format(
        name=config.name,
        version=config.version,
        about=f"{config.data.about.strip()}\n\n" if config.data.about.strip() else "",
        data=_data(samples),
        votes=votes_sentence(samples),
        first=_first_weights(network.pretrained),
        calibrated_on=metrics["calibrated_on"],
        stored=STORED[config.ensemble],
        spread=_spread(metrics),
        within=", ".join("not known" if auc is None else f"{auc:.3f}" for auc in metrics["roc_auc_within_folds"]),
        seed=config.seed,
        backbone=network.backbone,
        field_of_view=network.field_of_view,
        input_size=network.input_size,
        scales=f" and over the central {sides} pixels" if len(network.scales) > 1 else "",
        scale=calibration.scale,
        bias=calibration.bias,
        crops=metrics["crops"],
        atypical=metrics["atypical"],
        slides=metrics["slides"],
        split=SPLIT_SENTENCES[config.data.split].format(config.data.folds),
        resamples=RESAMPLES,
        overall=overall,
        ece=metrics["expected_calibration_error"],
        reliability=reliability,
        domains=_domains(metrics),
        proxies=_proxies(metrics),
    )


STORED = {
    "": "The stored network is a further fit\non all crops, for which no crop is left to measure on.",
    "soup": "The stored network has the average\nof the measured networks' weights; of it as a whole, no crop is left "
    "to measure on.",
    "members": "What is stored is all the measured\nnetworks, whose logits are averaged; of them together, no crop is "
    "left to measure on.",
}

SPLIT_SENTENCES = {
    "slides": "{} folds grouped by slide and stratified by label",
    "domains": "each domain held out in turn",
    "sources": "each data set held out in turn",
}


def _data(samples: Sequence[Sample]) -> str:
    """Rows of the table of sources and domains."""
    parts: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        parts.setdefault((sample.source, sample.domain), []).append(sample)
    rows = []
    for (source, domain), inside in sorted(parts.items()):
        atypical, slides = sum(sample.label for sample in inside), len({sample.group for sample in inside})
        rows.append(f"| {source or '-'} | {domain} | {slides} | {len(inside) - atypical} | {atypical} |")
    return "\n".join(rows)


def votes_sentence(samples: Sequence[Sample]) -> str:
    """On how many crops the experts disagree: at least, as unknown votes look like votes that agree."""
    disputed = sum(sample.agreement < 1 for sample in samples)
    if not disputed:
        return "Where labels are the majority of several experts, how many of them agreed is not known."
    return (
        f"Labels are the majority of experts, who disagree on {100 * disputed // len(samples)}% of the crops at least: "
        "crops\nwhose votes are not known count as agreed on."
    )


def _first_weights(source: str) -> str:
    if source.startswith("weights:"):
        return (
            f"`{source}`, so crops that those weights were trained on, and others of their slides, flatter the figures "
            "below"
        )
    return f"`{source}`" if source else "random numbers"


def _spread(metrics: dict[str, Any]) -> str:
    ratio = metrics["logit_spread"]["ratio"]
    return f" Its logits spread {ratio:.2f} times as far as those of the networks measured."


def _domains(metrics: dict[str, Any]) -> str:
    """A table with a row for each domain."""
    rows = [
        "| domain | crops | slides | ROC AUC | 95 % interval | balanced accuracy | 95 % interval | sensitivity "
        "| specificity |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for domain, entry in metrics["domains"].items():
        cells = [domain, str(entry["crops"]), str(entry["slides"])]
        for name in ("roc_auc", "balanced_accuracy"):
            ends = entry.get("interval_95", {}).get(name)
            cells += [f"{entry[name]:.3f}", f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "one slide"]
        cells += [f"{entry[name]:.3f}" for name in ("sensitivity", "specificity")]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _proxies(metrics: dict[str, Any]) -> str:
    sources = {"held-out slides under a synthetic shift": metrics["shifted"]}
    for split in ("sources", "domains"):
        if f"held_out_{split}" in metrics:
            what = "data set" if split == "sources" else "domain"
            sources[f"a whole {what} held out"] = metrics[f"held_out_{split}"]["overall"]
            sources[f"a whole {what} held out, under the shift"] = metrics[f"held_out_{split}"]["shifted"]
    held_out = "".join(
        f"\nBy domain, with {'its data set' if split == 'sources' else 'the domain'} held out:\n\n"
        f"{_domains(metrics[f'held_out_{split}'])}\n"
        for split in ("sources", "domains")
        if f"held_out_{split}" in metrics
    )
    rows = []
    for name, figures in sources.items():
        entries = [figures[key] for key in ("roc_auc", "balanced_accuracy")]
        cells = [f"{entry['value']:.3f} | {_interval(entry)}" for entry in entries]
        rows.append(" | ".join([f"| {name}", *cells]) + " |")
    return PROXIES.format(rows="\n".join(rows), held_out=held_out)


def _interval(entry: dict[str, Any]) -> str:
    return f"{entry['interval_95'][0]:.3f} to {entry['interval_95'][1]:.3f}"
