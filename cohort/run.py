"""A cohort from its input to its tables: passes over what is not done, until everything is."""

import gc
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from tqdm import tqdm

from cohort.inputs import Inputs, Unit
from cohort.machines import Machines
from cohort.parts import Parts
from cohort.rows import UNITS, problem_of
from cohort.steps import Predict, read_images, read_slides
from cohort.tables import Totals, clear_tables, write_tables
from model.errors import PredictionError, first_line
from model.modes.slide_options import SlideOptions
from model.modes.writing import unwritable
from model.network.weights_config import read_config

logger = logging.getLogger(__name__)

BLOCK_BYTES = 4 << 20
"""Size from which Ray passes a block on: crops of some seconds. With its own 128 MB, little of a run would be kept when
it is killed."""
UNITS_A_BLOCK = {"images": 64, "slides": 1}
UNITS_A_PASS = {"images": 200_000, "slides": 20_000}
"""What Ray is given at once: it remembers every block."""
CROPS_A_BATCH = {0: 64, 1: 512}
"""By GPUs of a predictor."""
PREDICTOR_CPUS = 0.1
"""Logical processors that a predictor is counted as. Those of a machine that is lost begin again on the others, and
must leave room there for the tasks that read for them."""
PASSES_WITHOUT_PROGRESS = 3
SECONDS_BETWEEN_REPORTS, SECONDS_STALLED = 60.0, 600.0


@dataclass(frozen=True)
class CohortOptions:
    """How a cohort is gone through.

    Attributes:
        weights: weights folder, at the same path on every machine.
        view_set: one of `model.constants.VIEW_SETS`.
        mpp: µm per pixel of all images; None takes what an image states.
        slide: which detections of slides, and what their coordinates mean.
        show_progress: show a bar on stderr.
    """

    weights: Path
    view_set: str
    mpp: float | None = None
    slide: SlideOptions = field(default_factory=SlideOptions)
    show_progress: bool = False


def classify_cohort(inputs: Inputs, target: Path, machines: Machines, options: CohortOptions) -> Totals:
    """Classifies what is not done of a cohort, and writes the tables.

    Args:
        inputs: the cohort.
        target: folder for the results, made when missing; what an earlier run of the same cohort left there is kept.
        machines: to use.
        options: how.

    Raises:
        CaseError: `target` cannot be written, another process writes there, or it holds another run.
        WeightsError: the weights cannot be used on all machines.
        PredictionError: the network cannot run, or the machines fail again and again.
    """
    config = read_config(options.weights)
    settings: dict[str, Any] = {"kind": inputs.kind, "weights": config.fingerprint(), "views": options.view_set}
    if inputs.kind == "images":
        settings["mpp"] = options.mpp
    else:
        settings["options"] = json.loads(json.dumps(options.slide.settings()))
    with Parts(target) as parts:
        parts.start(settings)
        left = [unit for unit in inputs.units if not parts.done(unit.key)]
        try:
            clear_tables(target)
        except OSError as error:
            raise unwritable(target, error) from error
        if len(left) < len(inputs.units):
            logger.info("%d of %d %s are done already.", len(inputs.units) - len(left), len(inputs.units), inputs.kind)
        steps = _Steps(inputs, machines, options)
        with _Report(left, parts, options.show_progress) as report:
            for start in range(0, len(left), UNITS_A_PASS[inputs.kind]):
                _answer(left[start : start + UNITS_A_PASS[inputs.kind]], parts, steps, report)
        return write_tables(parts, inputs)


def _answer(units: Sequence[Unit], parts: Parts, steps: "_Steps", report: "_Report") -> None:
    """Goes over units until all are answered: once, if no machine fails."""
    without_progress = 0
    left = list(units)
    while left:
        parts.begin_pass()
        why = "results are missing"
        try:
            for results in steps.results(left):
                if (problem := problem_of(results)) is not None:
                    raise PredictionError(problem)
                parts.add(results)
                report.update(results.num_rows)
        except ray.exceptions.UserCodeException:  # a fault of the program, which it will have again
            raise
        except ray.exceptions.RayError as error:
            why = first_line(error)
        gc.collect()  # what of the pass still holds processors of machines that are there
        parts.flush()
        before, left = len(left), [unit for unit in left if not parts.answered(unit.key)]
        without_progress = without_progress + 1 if len(left) == before else 0
        if without_progress == PASSES_WITHOUT_PROGRESS:
            raise PredictionError(f"The machines failed {without_progress} times in a row ({why}); look at their logs.")
        if left:
            logger.warning("A machine failed (%s); %d %s are done again.", why, len(left), steps.kind)


class _Steps:
    """The steps that units go through."""

    def __init__(self, inputs: Inputs, machines: Machines, options: CohortOptions) -> None:
        self.kind, self._machines = inputs.kind, machines
        config = read_config(options.weights)
        root, preprocessing = inputs.root, config.preprocessing
        if inputs.kind == "images":
            self._read = partial(read_images, root=root, preprocessing=preprocessing, mpp=options.mpp)
        else:
            self._read = partial(read_slides, root=root, preprocessing=preprocessing, options=options.slide)
        self._predictor = {
            "weights": options.weights,
            "fingerprint": config.fingerprint(),
            "view_set": options.view_set,
        }

    def results(self, units: Sequence[Unit]) -> Iterator[pa.Table]:
        """Rows of `cohort.rows.RESULTS`, in the order in which they are finished.

        Raises:
            ray.exceptions.RayError: a step, or a machine, failed.
        """
        context = DataContext.get_current()
        context.target_max_block_size = BLOCK_BYTES
        context.enable_progress_bars = False
        machines = self._machines
        blocks = self._blocks(units)
        crops = ray.data.from_arrow(blocks).map_batches(
            self._read,
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=TaskPoolStrategy(size=machines.readers and min(machines.readers, len(blocks))),
            num_cpus=machines.reader_cpus,
        )
        predictors, threads = machines.predictors, machines.threads
        if not machines.gpus and self.kind == "images" and len(blocks) < predictors:
            predictors, threads = len(blocks), threads * predictors // len(blocks)  # none starts for nothing
        results = crops.map_batches(
            Predict,
            fn_constructor_kwargs=self._predictor | {"threads": threads},
            batch_size=CROPS_A_BATCH[machines.gpus],
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(size=predictors),
            num_cpus=PREDICTOR_CPUS,
            num_gpus=machines.gpus,
        )
        yield from results.iter_batches(batch_size=None, batch_format="pyarrow")

    def _blocks(self, units: Sequence[Unit]) -> list[pa.Table]:
        """Rows of `cohort.rows.UNITS`, as many in a block as a task reads."""
        many = UNITS_A_BLOCK[self.kind]
        parts = (units[start : start + many] for start in range(0, len(units), many))
        return [pa.table([[u.key for u in part], [u.said for u in part]], schema=UNITS) for part in parts]


class _Report:
    """Says how far the run is: by a bar on a terminal, else now and then in the log; a context manager."""

    def __init__(self, units: Sequence[Unit], parts: Parts, bar: bool) -> None:
        self._units, self._parts = units, parts
        self._bar = tqdm(unit="crop", disable=not bar)
        self._start = self._said = self._last = time.monotonic()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._bar.close()

    def update(self, rows: int) -> None:
        """Counts rows that are done, and says so if it is time to."""
        self._bar.update(rows)
        self._last = time.monotonic()
        if self._bar.disable and self._last - self._said > SECONDS_BETWEEN_REPORTS:
            self._said = self._last
            done = sum(self._parts.done(unit.key) for unit in self._units)
            left = (self._last - self._start) / max(done, 1) * (len(self._units) - done)
            logger.info("%d of %d are done, %.0f minutes left.", done, len(self._units), left / 60)

    def _watch(self) -> None:
        """Says when nothing comes: where a machine with a GPU was lost, Ray waits for another one, perhaps for ever."""
        while not self._over.wait(SECONDS_STALLED):
            waited = time.monotonic() - self._last
            if waited >= SECONDS_STALLED:
                logger.warning("Nothing was done for %.0f minutes; if a machine is gone, run this again.", waited / 60)
