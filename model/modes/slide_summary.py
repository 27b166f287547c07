"""What is said of a slide as a whole: the content of summary.json."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from model.constants import MICROMETRES_PER_PIXEL
from model.modes.slide_options import SlideOptions, SlideTask
from model.predictor import Predictor
from model.slides.accuracy import read_accuracy
from model.slides.detections import Found
from model.slides.output import Figure
from model.slides.pyramid import Pyramid
from model.slides.sifting import Sifted
from model.slides.statistics import describe


@dataclass
class Tally:
    """Counts figures as they go by."""

    labels: Counter[str] = field(default_factory=Counter)
    outside_region: int = 0
    at_the_edge: int = 0
    remarkable: int = 0

    def __call__(self, figures: Iterable[Figure]) -> Iterator[Figure]:
        for figure in figures:
            self.labels[figure.label] += figure.in_region
            self.outside_region += not figure.in_region
            self.at_the_edge += figure.padded > 0
            self.remarkable += bool(figure.remark)
            yield figure

    @property
    def figures(self) -> int:
        """All that went by."""
        return self.labels.total() + self.outside_region


@dataclass(frozen=True)
class SlideContent:
    """A slide with its detections.

    Attributes:
        pyramid: of the slide.
        found: in the file of detections.
        sifted: which of them can be used.
    """

    pyramid: Pyramid
    found: Found
    sifted: Sifted

    def area_mm2(self) -> float | None:
        """Of the regions that figures are counted in; None where there is none."""
        across, down = self.pyramid.mpp_xy
        area = sum(region.area() for region in self.sifted.regions) * across * down / 1e6
        return round(area, 6) if self.sifted.regions else None


def summarise(
    predictor: Predictor, task: SlideTask, options: SlideOptions, content: SlideContent, tally: Tally
) -> dict[str, Any]:
    """The content of summary.json."""
    pyramid, sifted, config = content.pyramid, content.sifted, predictor.config
    accuracy = read_accuracy(predictor.folder, predictor.view_set)
    level, mpp = pyramid.level()
    region = {"name": options.region, "figures_outside": tally.outside_region}
    area = content.area_mm2() if sifted.regions else task.area_mm2
    return {
        "slide": task.slide.name.encode("utf-8", "replace").decode(),
        "format": pyramid.format,
        "size": [pyramid.width, pyramid.height],
        "mpp": round(pyramid.mpp, 5),
        "mpp_from": "the slide" if pyramid.said is None else "the user",
        "read_at": {"level": level, "mpp": round(mpp, 5), "resampled": mpp != MICROMETRES_PER_PIXEL},
        "detections": {
            "format": content.found.format,
            "read": len(content.found.detections),
            "classified": tally.figures,
            "failed": len(sifted.used) - tally.figures,
            "left_out": sifted.counts(),
            "at_the_edge": tally.at_the_edge,
            "remarkable": tally.remarkable,
        },
        "region": region if options.region else None,
        "statistics": describe(tally.labels["atypical"], tally.labels.total(), accuracy, area),
        "accuracy": asdict(accuracy) if accuracy else None,
        "prevalence": options.prevalence,
        "weights": {"name": config.name, "version": config.version, "sha256": config.sha256},
        "views": predictor.view_set,
    }
