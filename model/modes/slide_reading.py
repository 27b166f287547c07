"""A slide, and the detections on it that can be used: what is known of it before a network has looked at any crop."""

import logging
from dataclasses import dataclass, replace
from typing import Self

import cv2
from torch import Tensor

from model.constants import MICROMETRES_PER_PIXEL
from model.errors import CropError, one_line
from model.images.checks import remark
from model.modes.slide_options import SlideOptions, SlideTask
from model.modes.slide_summary import SlideContent
from model.modes.slide_tables import CROPS, GEOJSON, Numbered
from model.modes.writing import write_bytes
from model.network.preprocessing import Preprocessing
from model.slides.reader import SlideReader
from model.slides.recognise import read_detections
from model.slides.sifting import OTHER_CLASS, sift
from model.slides.wanted import Wanted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FigureCrop:
    """A crop that was read.

    Attributes:
        field: (1, F, F, 3) uint8, for the network.
        padded: share of it that lies outside the slide.
        remark: what is odd about it; empty where nothing is.
    """

    field: Tensor
    padded: float
    remark: str


class SlideFigures:
    """The figures of a slide, whose crops several threads may read at once; a context manager.

    Args:
        task: the slide.
        options: which detections, and whether crops are kept.
        preprocessing: of the network.

    Attributes:
        content: the slide, and which of its detections can be used; of a shard, its own alone.
        origin: left and top, in pixels of level 0, of where the output counts from.

    Raises:
        CropError: the slide or the detections cannot be read, or none of them can be used.
    """

    def __init__(self, task: SlideTask, options: SlideOptions, preprocessing: Preprocessing) -> None:
        self.task, self.options, self.preprocessing = task, options, preprocessing
        self._reader = SlideReader(task.slide, task.mpp, preprocessing.largest_side)
        try:
            content, self.origin = self._look_through()
        except BaseException:
            self._reader.close()
            raise
        if options.shard is not None:
            sifted = content.sifted
            own = [item for item in sifted.used if options.shard.takes(str(item[0]))]
            content = replace(content, sifted=replace(sifted, used=own))
        self.content = content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def _look_through(self) -> tuple[SlideContent, tuple[int, int]]:
        """Content and origin."""
        task, options, pyramid = self.task, self.options, self._reader.pyramid
        wanted = Wanted(
            task.detections, task.slide.name, options.only, options.everything, options.region, options.unit
        )
        found = read_detections(wanted)
        scanned = options.origin == "scanned" or (options.origin is None and found.from_qupath)
        try:
            content = SlideContent(pyramid, found, sift(found, pyramid, scanned))
        except CropError as error:  # of regions, which do not know their file
            raise CropError(f"{task.detections}: {error}") from error
        if any(pyramid.origin):
            logger.info(
                "%s was scanned from %d, %d on; its detections are counted from %s, %s from there (--origin).",
                *(task.slide, *pyramid.origin, "there" if scanned else "the slide's corner", GEOJSON),
            )
        stated = sum(pyramid.stated) / 2
        if pyramid.said is not None and stated and not 1 / 1.1 <= pyramid.said / stated <= 1.1:
            logger.warning("%s states %.4g µm per pixel, but --mpp says %g.", task.slide, stated, pyramid.said)
        _, mpp = pyramid.level()
        if mpp != MICROMETRES_PER_PIXEL:
            logger.info("%s is read at %.4g µm per pixel; its crops are rescaled to 0.25.", task.slide, mpp)
        self._say_what_is_left_out(content)
        return content, (0, 0) if options.origin == "slide" else pyramid.origin

    def _say_what_is_left_out(self, content: SlideContent) -> None:
        counts = {reason: count for reason, count in content.sifted.counts().items() if count}
        listed = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        total = len(content.found.detections)
        self._look_for_the_classes(content)
        if not content.sifted.used and set(counts) - {OTHER_CLASS}:
            raise CropError(
                f"None of the {total} detections of {self.task.detections} can be used on {self.task.slide} "
                f"({listed}); give its own detections, or look at --unit and --origin."
            )
        logger.info("%s: %s, %d detections.", self.task.detections, content.found.format, total)
        if not total:
            logger.warning("%s holds no detection; the slide is counted as one without figures.", self.task.detections)
        if counts:
            logger.warning("%s: %s were left out; left_out.csv names them.", self.task.detections, listed)

    def _look_for_the_classes(self, content: SlideContent) -> None:
        """Where no detection is of a class that was asked for: is it spelt otherwise, or is there really none?"""
        found, path = content.found.detections, self.task.detections
        if not found or any(detection.wanted for detection in found):
            return
        there = sorted({detection.classification for detection in found} - {""})
        for name in self.options.only:
            if name in there:
                raise CropError(
                    f"{path} has detections of the class '{name}' as hard negatives alone; give --all, too."
                )
            if others := [other for other in there if other.casefold() == name.casefold()]:
                raise CropError(
                    f"{path} has no detection of the class '{name}', but of '{others[0]}'; give --only as it is there."
                )
        asked = ", ".join(f"of the class '{name}'" for name in self.options.only) or "a mitotic figure"
        logger.warning("%s: none of its detections is %s; the slide is counted as one without figures.", path, asked)

    def read(self, item: Numbered) -> FigureCrop | str:
        """The crop of a detection, or why there is none."""
        number, detection = item
        try:
            crop = self._reader.read(detection.x, detection.y)
        except CropError as error:
            return one_line(error)
        if self.options.save_crops:
            content = cv2.imencode(".png", cv2.cvtColor(crop.pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
            write_bytes(self.task.target / CROPS / f"{number:07}.png", content)
        # What is black is flagged already, and would hide what else is odd.
        odd = "" if crop.padded else remark(crop.pixels) or ""
        return FigureCrop(self.preprocessing.cut_out([crop.pixels]), crop.padded, odd)
