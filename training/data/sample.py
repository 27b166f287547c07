"""One labelled crop, as everything in training knows it."""

from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError


class DataError(UserError):
    """The training data cannot be used."""


@dataclass(frozen=True)
class Sample:
    """One labelled crop.

    Attributes:
        path: image file.
        label: 1 for atypical, 0 for normal, by the majority of the experts.
        domain: what may look different: scanner and centre, tumour and species, as far as known.
        group: slide; crops of one slide are never split between training and validation.
        source: the data set it was published in.
        agreement: share of the experts that gave the label, 1/2 to 1; 1 where their votes are not known.
        phases: what each expert called its phase or, where it is atypical, its form, such as `NMF metaphase` and `AMF
            multipolar`; empty where that is not known.
    """

    path: Path
    label: int
    domain: str
    group: str
    source: str = ""
    agreement: float = 1.0
    phases: tuple[str, ...] = ()

    @property
    def soft_label(self) -> float:
        """Share of the experts that called it atypical, 0 to 1."""
        return self.agreement if self.label else 1 - self.agreement
