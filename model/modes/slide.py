"""A slide and detections on it: a prediction for every detection, and what they amount to.

What is written where, and how a run goes on: `model.modes.slide_tables`. While the network works on one block of crops,
threads read others ahead, so the network does not wait for the slide, and no more pixels are held than a few blocks'.
"""

import json
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from tqdm import tqdm

from model.constants import MICROMETRES_PER_PIXEL
from model.errors import CropError, one_line
from model.images.checks import remark
from model.modes.grand_challenge import DECIMALS, result
from model.modes.in_order import predict_in_order
from model.modes.slide_options import SlideOptions, SlideTask
from model.modes.slide_summary import SlideContent, Tally, summarise
from model.modes.slide_tables import CROPS, GEOJSON, SUMMARY, Numbered, SlideTables
from model.modes.writing import Whole, make_folder, unwritable, write_bytes
from model.network.calibration import posterior
from model.network.weights_folder import file_sha256
from model.predictor import Predictor
from model.slides.output import Figure, write_geojson
from model.slides.reader import SAVED_SIDE, SlideReader
from model.slides.recognise import read_detections
from model.slides.sifting import OTHER_CLASS, sift
from model.slides.wanted import Wanted

logger = logging.getLogger(__name__)

CROPS_PER_BLOCK = 64
CROPS_AHEAD = 256
READERS = 2
"""Threads, for each GPU."""
SECONDS_BETWEEN_REPORTS = 60
"""Of progress, where there is no terminal to show a bar on."""


@dataclass(frozen=True)
class Done:
    """What was found on a slide.

    Attributes:
        summary: the content of summary.json.
        failed: detections whose crop could not be read.
    """

    summary: dict[str, Any] = field(repr=False)
    failed: int

    def sentence(self) -> str:
        """The figures, how many are atypical, and the share with its interval."""
        found = self.summary["statistics"]
        said = f"{found['figures']} figures, {found['atypical']} of them atypical"
        if found["share_interval_95"]:
            low, high = found["share_interval_95"]
            said += f" ({found['share_atypical']:.0%}, 95 % interval {low:.0%} to {high:.0%})"
        return said


def classify_slide(predictor: Predictor, task: SlideTask, options: SlideOptions | None = None) -> Done:
    """Classifies every detection on a slide and writes what they amount to.

    Args:
        predictor: the network, which uses all GPUs that it has copies on.
        task: the slide.
        options: None for the defaults.

    Raises:
        CropError: the slide or the detections cannot be read, or none of them can be used.
        CaseError: the target cannot be written, another process writes there, or it holds another run to go on with.
    """
    options = options or SlideOptions()
    side = max(SAVED_SIDE, predictor.config.preprocessing.largest_side)
    with SlideReader(task.slide, task.mpp, side) as reader, SlideTables(task.target) as tables:
        run = _Run(predictor, task, options, reader)
        done = tables.start(run.settings(), options.resume)
        tables.write_left_out(run.content.sifted.left_out)
        run.classify(tables, done)
        return run.finish(tables)


class _Run:
    """One slide being classified."""

    def __init__(self, predictor: Predictor, task: SlideTask, options: SlideOptions, reader: SlideReader) -> None:
        self.predictor, self.task, self.options, self.reader = predictor, task, options, reader
        wanted = Wanted(
            task.detections, task.slide.name, options.only, options.everything, options.region, options.unit
        )
        found = read_detections(wanted)
        scanned = options.origin == "scanned" or (options.origin is None and found.from_qupath)
        pyramid = reader.pyramid
        self.content = SlideContent(pyramid, found, sift(found, pyramid, scanned))
        self.origin = (0, 0) if options.origin == "slide" else pyramid.origin
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
        self._say_what_is_left_out()

    def _say_what_is_left_out(self) -> None:
        counts = {reason: count for reason, count in self.content.sifted.counts().items() if count}
        listed = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        total = len(self.content.found.detections)
        if not self.content.sifted.used and set(counts) - {OTHER_CLASS}:
            raise CropError(
                f"None of the {total} detections of {self.task.detections} can be used on {self.task.slide} "
                f"({listed}); give its own detections, or look at --unit and --origin."
            )
        logger.info("%s: %s, %d detections.", self.task.detections, self.content.found.format, total)
        if not total:
            logger.warning("%s holds no detection; the slide is counted as one without figures.", self.task.detections)
        if counts:
            logger.warning("%s: %s were left out; left_out.csv names them.", self.task.detections, listed)

    def settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on.

        Raises:
            CropError: slide or detections cannot be read any more.
        """
        try:
            found = self.task.slide.stat()
            detections = file_sha256(self.task.detections)
        except OSError as error:
            raise CropError(f"{self.task.slide} or its detections are gone ({error.strerror}); run again.") from error
        return {
            "weights": self.predictor.fingerprint(),
            "views": self.predictor.view_set,
            "slide": [self.task.slide.name, found.st_size, found.st_mtime_ns],
            "detections": detections,
            "mpp": self.task.mpp,
            "options": json.loads(json.dumps(self.options.settings())),
        }

    def classify(self, tables: SlideTables, done: int) -> None:
        """Classifies the detections from the `done`-th on."""
        if self.options.save_crops:
            make_folder(self.task.target / CROPS)
        used = self.content.sifted.used
        report = _Report(self.task.slide, done, len(used))
        with tqdm(total=len(used), initial=done, unit="figure", disable=not self.options.show_progress) as bar:
            for block, figures in predict_in_order(
                self.predictor, _blocks(self._read_ahead(used[done:])), self._predict
            ):
                tables.append(figures, [(item, reason) for item, reason in block if isinstance(reason, str)])
                bar.update(len(block))
                report.update(len(block), say=not self.options.show_progress)

    def _read_ahead(self, items: Sequence[Numbered]) -> "Iterator[tuple[Numbered, _Read | str]]":
        """Each detection with its crop, or why there is none, in order; at most `CROPS_AHEAD` wait."""
        waiting: deque[tuple[Numbered, Future[_Read | str]]] = deque()
        readers = ThreadPoolExecutor(READERS * (1 + len(self.predictor.copies)))
        try:
            for item in items:
                if len(waiting) >= CROPS_AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
                waiting.append((item, readers.submit(self._read, item)))
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            readers.shutdown(wait=True, cancel_futures=True)

    def _read(self, item: Numbered) -> "_Read | str":
        number, detection = item
        try:
            crop = self.reader.read(detection.x, detection.y)
        except CropError as error:
            return one_line(error)
        if self.options.save_crops:
            content = cv2.imencode(".png", cv2.cvtColor(crop.pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
            write_bytes(self.task.target / CROPS / f"{number:07}.png", content)
        # What is black is flagged already, and would hide what else is odd.
        odd = "" if crop.padded else remark(crop.pixels) or ""
        return _Read(self.predictor.config.preprocessing.cut_out([crop.pixels]), crop.padded, odd)

    def _predict(self, predictor: Predictor, block: "Sequence[tuple[Numbered, _Read | str]]") -> list[Figure]:
        reads = [(item, read) for item, read in block if isinstance(read, _Read)]
        if not reads:
            return []
        fields = torch.cat([read.field for _, read in reads])
        probabilities, spreads = predictor.predict_with_spread(fields)
        figures = []
        for ((number, detection), read), entry, spread in zip(reads, result(probabilities), spreads, strict=True):
            figure = Figure(
                number=number,
                detection=detection,
                label=entry["class"],
                confidence=entry["confidence"],
                spread=round(float(spread), 4),
                padded=read.padded,
                remark=read.remark,
                in_region=self.content.sifted.counts_in(detection),
            )
            if self.options.prevalence is not None:
                later = posterior(figure.confidence, self.options.prevalence)
                figure = replace(figure, posterior=round(later, DECIMALS))
            figures.append(figure)
        return figures

    def finish(self, tables: SlideTables) -> Done:
        """Writes what QuPath opens, and the summary."""
        tally, folder = Tally(), self.task.target
        failed = tables.failed()
        try:
            with Whole(folder / GEOJSON) as file:
                write_geojson(file, tally(tables.figures(self.content.sifted.used)), self.origin)
                if tally.figures + failed != len(self.content.sifted.used):
                    raise tables.contradiction("its tables do not have the rows of all detections")
            summary = summarise(self.predictor, self.task, self.options, self.content, tally)
            with Whole(folder / SUMMARY) as file:
                json.dump(summary, file, indent=2, allow_nan=False)
                file.write("\n")
        except OSError as error:
            raise unwritable(folder, error) from error
        return Done(summary, failed)


@dataclass(frozen=True)
class _Read:
    """A crop that was read: (1, F, F, 3) uint8 for the network, and what is odd about it."""

    field: Tensor
    padded: float
    remark: str


def _blocks(items: "Iterator[tuple[Numbered, _Read | str]]") -> "Iterator[list[tuple[Numbered, _Read | str]]]":
    block = []
    for item in items:
        block.append(item)
        if len(block) >= CROPS_PER_BLOCK:
            yield block
            block = []
    if block:
        yield block


class _Report:
    """Says now and then how far a slide is, where there is no terminal to show a bar on."""

    def __init__(self, slide: Path, done: int, total: int) -> None:
        self.slide, self.before, self.done, self.total = slide, done, done, total
        self.start = self.said = time.monotonic()

    def update(self, count: int, say: bool) -> None:
        """Counts figures that are done, and says so if it is time to."""
        self.done += count
        now = time.monotonic()
        if say and now - self.said > SECONDS_BETWEEN_REPORTS:
            self.said = now
            left = (now - self.start) / (self.done - self.before) * (self.total - self.done)
            logger.info("%s: %d of %d figures, %.0f minutes left.", self.slide, self.done, self.total, left / 60)
