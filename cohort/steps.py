"""What Ray runs: tasks that read units into crops, and actors that each hold a predictor.

A unit that cannot be read becomes a row that says why, so it stops nothing. What is wrong with a machine, its weights
or its network ends the run with a sentence.
"""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import torch

from cohort.inputs import to_image, to_task
from cohort.rows import NO_INDEX, RESULTS, CropRows, fields_of, problem_table
from model.errors import CropError, UserError, WeightsError, one_line
from model.images.checks import remark
from model.modes.folder import ImageReader
from model.modes.grand_challenge import result
from model.modes.slide_options import SlideOptions
from model.modes.slide_reading import SlideFigures
from model.network.preprocessing import Preprocessing
from model.predictor import Predictor

READERS_PRIORITY = 10
"""Niceness of what reads: on the CPU it gets what the predictor leaves, which otherwise waits for it at every layer."""

CROPS_A_TABLE = 64
"""Crops that are passed on together; with two fields of view of up to 96 pixels they have 1.8 MB."""


def read_images(units: pa.Table, root: Path, preprocessing: Preprocessing, mpp: float | None) -> Iterator[pa.Table]:
    """Rows of `CROPS` of images.

    Args:
        units: rows of `UNITS`.
        root: folder that they are in.
        preprocessing: of the network.
        mpp: µm per pixel of all images; None takes what an image states.
    """
    _step_back()
    reader, found = ImageReader(root, preprocessing, mpp), CropRows()
    for key, unit in zip(*(units.column(name).to_pylist() for name in ("key", "unit")), strict=True):
        try:
            crops = reader.crops(to_image(unit))
            fields = preprocessing.cut_out(crops).numpy()
        except CropError as error:
            found.add(key, 1, NO_INDEX, failure=one_line(error))
        else:
            for index, crop in enumerate(crops):
                found.add(key, len(crops), index, field=fields[index].tobytes(), remark=remark(crop))
                if len(found) >= CROPS_A_TABLE:
                    yield found.take()
    if len(found):
        yield found.take()


def read_slides(units: pa.Table, root: Path, preprocessing: Preprocessing, options: SlideOptions) -> Iterator[pa.Table]:
    """Rows of `CROPS` of slides: one for each detection, whether it is looked at or left out.

    Args:
        units: rows of `UNITS`.
        root: folder that their paths are relative to.
        preprocessing: of the network.
        options: which detections.
    """
    _step_back()
    found = CropRows()
    for key, unit in zip(*(units.column(name).to_pylist() for name in ("key", "unit")), strict=True):
        try:
            with SlideFigures(to_task(unit, root), options, preprocessing) as figures:
                for _ in _read_slide(key, figures, found):
                    yield found.take()
        except CropError as error:
            found.add(key, 1, NO_INDEX, failure=one_line(error))
    if len(found):
        yield found.take()


def _step_back() -> None:
    """Gives this process `READERS_PRIORITY`, unless it has a lower one already."""
    os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), READERS_PRIORITY))


def _read_slide(key: bytes, figures: SlideFigures, found: CropRows) -> Iterator[None]:
    """Adds the rows of a slide; yields when there are enough."""
    sifted = figures.content.sifted
    rows = len(sifted.used) + len(sifted.left_out)
    if not rows:
        found.add(key, 1, NO_INDEX, left_out="the file holds no detection")
    for out in sifted.left_out:
        reason = f"{out.reason}: {out.detail}" if out.detail else out.reason
        place = {"id": out.detection.id, "x": out.detection.x, "y": out.detection.y}
        found.add(key, rows, out.number, left_out=reason, **place)
        if len(found) >= CROPS_A_TABLE:
            yield
    for number, detection in sifted.used:
        crop = figures.read((number, detection))
        place = {"id": detection.id, "x": detection.x, "y": detection.y}
        if isinstance(crop, str):
            found.add(key, rows, number, failure=crop, **place)
        else:
            said = {"outside_slide": crop.padded, "remark": crop.remark or None}
            found.add(key, rows, number, field=crop.field.numpy().tobytes(), **place, **said)
        if len(found) >= CROPS_A_TABLE:
            yield


class Predict:
    """An actor: a predictor that is built once.

    Args:
        weights: weights folder, at the same path on every machine.
        fingerprint: of the weights that the run began with.
        view_set: one of `model.constants.VIEW_SETS`.
        threads: processors to use, at most those that are there; 0 for a GPU.
    """

    def __init__(self, weights: Path, fingerprint: str, view_set: str, threads: int) -> None:
        self._problem = ""
        # Ray calls from one thread and another, and OpenMP would give each of them helpers of its own; where there are
        # more of them than processors, none stays awake until the next layer.
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._load, weights, fingerprint, view_set, threads).result()

    def _load(self, weights: Path, fingerprint: str, view_set: str, threads: int) -> None:
        try:
            if threads:
                torch.set_num_threads(min(threads, len(os.sched_getaffinity(0))))
            self._predictor = Predictor(weights, "cpu" if threads else "cuda", view_set)
            if self._predictor.fingerprint() != fingerprint:
                raise WeightsError(
                    f"{weights} on {socket.gethostname()} holds other weights than where the run began; give a folder "
                    "that all machines share."
                )
        except UserError as error:
            self._problem = one_line(error)

    def __call__(self, crops: pa.Table) -> pa.Table:
        """Rows of `RESULTS` for rows of `CROPS`; a `problem_table` where the weights or the network cannot be used."""
        try:
            return problem_table(self._problem) if self._problem else self._thread.submit(self._predict, crops).result()
        except UserError as error:
            return problem_table(one_line(error))

    def _predict(self, crops: pa.Table) -> pa.Table:
        there, fields = fields_of(crops)
        probabilities, spreads = self._predictor.predict_with_spread(torch.from_numpy(fields.copy()))
        entries = iter(zip(result(probabilities), spreads, strict=True))
        found = [next(entries) if has else None for has in there]
        answers = {
            "class": [entry and entry[0]["class"] for entry in found],
            "confidence": [entry and entry[0]["confidence"] for entry in found],
            "view_spread": [entry and round(float(entry[1]), 4) for entry in found],
        }
        columns = {name: answers[name] if name in answers else crops.column(name) for name in RESULTS.names}
        return pa.table(columns, schema=RESULTS)
