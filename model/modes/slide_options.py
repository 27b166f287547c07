"""What is to be done with a slide."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.modes.shard import Shard


@dataclass(frozen=True)
class SlideTask:
    """One slide.

    Attributes:
        slide: its file.
        detections: their file.
        target: folder for the results, made when missing.
        mpp: µm per pixel of level 0; None: what the slide states.
        area_mm2: that figures were looked for in; None: unknown, or that of the regions.
    """

    slide: Path
    detections: Path
    target: Path
    mpp: float | None = None
    area_mm2: float | None = None


@dataclass(frozen=True)
class SlideOptions:
    """How slides are gone through.

    Attributes:
        only: classes of detections to classify; empty for all.
        everything: also what MIDOG's files call hard negatives.
        region: name or class of the areas in the detections' file to count figures in; empty for the whole slide.
        unit: of coordinates in tables, and points in JSON, that do not say it, `px` or `um`; None for pixels.
        origin: what coordinates are counted from: the corner of the `slide`, or of the `scanned` part; None: the latter
            in QuPath's files.
        prevalence: share of atypical figures to give a posterior for, in (0, 1); None for no posterior.
        save_crops: write the crops as PNG files.
        resume: go on with an interrupted run.
        show_progress: show a bar with rate and time left on stderr.
        shard: whose detections, or of a table of slides whose slides, to classify alone; None for all.
    """

    only: tuple[str, ...] = ()
    everything: bool = False
    region: str = ""
    unit: str | None = None
    origin: str | None = None
    prevalence: float | None = None
    save_crops: bool = False
    resume: bool = False
    show_progress: bool = False
    shard: Shard | None = None

    def settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        said = asdict(self)
        passed_over = {"resume", "show_progress", *(["shard"] if self.shard is None else [])}
        return {name: said[name] for name in sorted(said) if name not in passed_over}
