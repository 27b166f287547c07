"""What the figures of a slide, or of a region of it, amount to: shares, their intervals, counts for an area.

Formulas: Wilson 1927 (J Am Stat Assoc 22:209) for the share as counted; Rogan and Gladen 1978 (Am J Epidemiol 107:71)
for the share that a classifier of known sensitivity and specificity must have seen; its interval from Lang and
Reiczigel 2014 (Prev Vet Med 113:13), which includes that these two are themselves estimates.
"""

import math
from dataclasses import dataclass
from typing import Any

Z = 1.959964
"""Quantile of the normal distribution for intervals of 95 %."""

TEN_FIELDS_MM2 = 2.37
"""Ten high-power fields of 0.55 mm diameter, in which mitoses are counted (Meuten 2016, Vet Pathol 53:7)."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Accuracy:
    """How good a classifier is, as estimated.

    Attributes:
        sensitivity, specificity: in [0, 1].
        positives, negatives: independent crops that these rest on; as many as would give their intervals.
        sensitivity_spread, specificity_spread: standard deviation of the rates of single slides about these.
    """

    sensitivity: float
    specificity: float
    positives: float
    negatives: float
    sensitivity_spread: float = 0.0
    specificity_spread: float = 0.0


def wilson(count: int, total: int) -> Interval:
    """Wilson's score interval, of 95 %, of a share `count / total`; `total` is at least 1."""
    share, square = count / total, Z * Z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = Z / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def corrected(count: int, total: int, accuracy: Accuracy) -> tuple[float, Interval] | None:
    """The true share behind `count` positives of `total`, and its interval of 95 %.

    The estimate is Rogan and Gladen's, kept in [0, 1]. The interval is Lang and Reiczigel's: z² / 2 positives and as
    many negatives are added to the sample, one right and one wrong answer to each of the samples behind sensitivity and
    specificity, and the normal interval of the estimate is shifted. The rates of one slide are none of all slides', so
    here the variance of either has that between slides added to it.

    Returns:
        None where nothing can be corrected: the classifier is no better than chance, or the interval lies outside
        [0, 1], as where fewer are positive than these rates make of no positives at all.
    """
    se, sp = accuracy.sensitivity, accuracy.specificity
    if se + sp <= 1:
        return None
    estimate = (count / total + sp - 1) / (se + sp - 1)
    n = total + Z * Z
    p = (count + Z * Z / 2) / n
    positives, negatives = accuracy.positives + 2, accuracy.negatives + 2
    se, sp = (accuracy.positives * se + 1) / positives, (accuracy.negatives * sp + 1) / negatives
    if se + sp <= 1:
        return None
    middle = (p + sp - 1) / (se + sp - 1)
    of_se, of_sp = se * (1 - se) / positives, sp * (1 - sp) / negatives
    of_slide = (of_se + accuracy.sensitivity_spread**2) * middle**2
    of_slide += (of_sp + accuracy.specificity_spread**2) * (1 - middle) ** 2
    error = math.sqrt(p * (1 - p) / n + of_slide) / (se + sp - 1)
    shift = 2 * Z * Z * (middle * of_se - (1 - middle) * of_sp)
    low, high = middle + shift - Z * error, middle + shift + Z * error
    if high <= 0 or low >= 1:
        return None
    return _share(estimate), (_share(low), _share(high))


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


def describe(atypical: int, total: int, accuracy: Accuracy | None, area_mm2: float | None) -> dict[str, Any]:
    """The figures of a slide or region, for summary.json; what is unknown is None.

    Args:
        atypical: figures classified as atypical.
        total: figures.
        accuracy: of the classifier; None: unknown.
        area_mm2: that the figures were looked for in; None: unknown.
    """
    normal = total - atypical
    found = corrected(atypical, total, accuracy) if total and accuracy else None
    described: dict[str, Any] = {
        "figures": total,
        "atypical": atypical,
        "normal": normal,
        "share_atypical": _rounded(atypical / total) if total else None,
        "share_interval_95": [_rounded(end) for end in wilson(atypical, total)] if total else None,
        "ratio_atypical_to_normal": _rounded(atypical / normal) if normal else None,
        "corrected_share": _rounded(found[0]) if found else None,
        "corrected_share_interval_95": [_rounded(end) for end in found[1]] if found else None,
        "area_mm2": area_mm2,
    }
    for name, count in (("figures", total), ("atypical", atypical)):
        density = count / area_mm2 if area_mm2 else None
        described[f"{name}_per_mm2"] = None if density is None else _rounded(density)
        described[f"{name}_per_2.37_mm2"] = None if density is None else _rounded(density * TEN_FIELDS_MM2)
    return described


def _rounded(value: float) -> float:
    return round(value, 4)
