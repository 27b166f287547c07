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

import torch
from tqdm import tqdm

from model.errors import CropError
from model.modes.grand_challenge import DECIMALS, result
from model.modes.in_order import predict_in_order
from model.modes.shard import ShardNote, write_note
from model.modes.slide_options import SlideOptions, SlideTask
from model.modes.slide_reading import FigureCrop, SlideFigures
from model.modes.slide_summary import Tally, summarise
from model.modes.slide_tables import CROPS, GEOJSON, SUMMARY, Numbered, SlideTables
from model.modes.writing import Whole, make_folder, unwritable
from model.network.calibration import posterior
from model.network.weights_folder import file_sha256
from model.predictor import Predictor
from model.slides.output import Figure, write_geojson

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
        """The figures, how many are atypical, and the shares with their intervals."""
        found = self.summary["statistics"]
        said = f"{found['figures']} figures, {found['atypical']} of them atypical"
        if found["share_interval_95"]:
            low, high = found["share_interval_95"]
            said += f" ({found['share_atypical']:.0%}, 95 % interval {low:.0%} to {high:.0%})"
        if found["corrected_share_interval_95"]:
            low, high = found["corrected_share_interval_95"]
            said += f"; corrected for the classifier's errors {found['corrected_share']:.0%} ({low:.0%} to {high:.0%})"
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
    preprocessing = predictor.config.preprocessing
    with SlideFigures(task, options, preprocessing) as figures, SlideTables(task.target) as tables:
        run = _Run(predictor, task, options, figures)
        settings = run.settings()
        done = tables.start(settings, options.resume)
        tables.write_left_out(figures.content.sifted.left_out)
        run.classify(tables, done)
        found = run.finish(tables)
        if options.shard is not None:
            write_note(task.target, ShardNote("slide", options.shard, settings["detections"]))
        return found


class _Run:
    """One slide being classified."""

    def __init__(self, predictor: Predictor, task: SlideTask, options: SlideOptions, figures: SlideFigures) -> None:
        self.predictor, self.task, self.options, self.figures = predictor, task, options, figures

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
        used = self.figures.content.sifted.used
        report = _Report(self.task.slide, done, len(used))
        with tqdm(total=len(used), initial=done, unit="figure", disable=not self.options.show_progress) as bar:
            for block, figures in predict_in_order(
                self.predictor, _blocks(self._read_ahead(used[done:])), self._predict
            ):
                tables.append(figures, [(item, reason) for item, reason in block if isinstance(reason, str)])
                bar.update(len(block))
                report.update(len(block), say=not self.options.show_progress)

    def _read_ahead(self, items: Sequence[Numbered]) -> Iterator[tuple[Numbered, FigureCrop | str]]:
        """Each detection with its crop, or why there is none, in order; at most `CROPS_AHEAD` wait."""
        waiting: deque[tuple[Numbered, Future[FigureCrop | str]]] = deque()
        readers = ThreadPoolExecutor(READERS * (1 + len(self.predictor.copies)))
        try:
            for item in items:
                if len(waiting) >= CROPS_AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
                waiting.append((item, readers.submit(self.figures.read, item)))
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            readers.shutdown(wait=True, cancel_futures=True)

    def _predict(self, predictor: Predictor, block: Sequence[tuple[Numbered, FigureCrop | str]]) -> list[Figure]:
        reads = [(item, read) for item, read in block if isinstance(read, FigureCrop)]
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
                in_region=self.figures.content.sifted.counts_in(detection),
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
                write_geojson(file, tally(tables.figures(self.figures.content.sifted.used)), self.figures.origin)
                if tally.figures + failed != len(self.figures.content.sifted.used):
                    raise tables.contradiction("its tables do not have the rows of all detections")
            summary = summarise(self.predictor, self.task, self.options, self.figures.content, tally)
            with Whole(folder / SUMMARY) as file:
                json.dump(summary, file, indent=2, allow_nan=False)
                file.write("\n")
        except OSError as error:
            raise unwritable(folder, error) from error
        return Done(summary, failed)


def _blocks(
    items: Iterator[tuple[Numbered, FigureCrop | str]],
) -> Iterator[list[tuple[Numbered, FigureCrop | str]]]:
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
