"""Any tree of images: a prediction for every crop in it, with what could not be used set apart.

What is written where, and how a run goes on: `model.modes.tables`. While the network works on one block of images,
threads read others ahead and write the results of the one before, so the network does not wait for files, and memory
does not grow with their number.
"""

import hashlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.constants import MICROMETRES_PER_PIXEL
from model.errors import CaseError, CropError, one_line
from model.images.checks import warn_of
from model.images.read import SUFFIXES, read_stack
from model.images.resampling import rescale, resolution
from model.images.rgb import check_size
from model.modes.grand_challenge import DECIMALS, result
from model.modes.in_order import predict_in_order
from model.modes.listing import Listed, list_images
from model.modes.shard import Shard, ShardNote, write_note
from model.modes.tables import Known, Progress, Record, RunTables
from model.network.preprocessing import Preprocessing
from model.predictor import Predictor

logger = logging.getLogger(__name__)

CROPS_PER_BLOCK = 256
FILES_PER_BLOCK = 256
FILES_AHEAD = 256
BYTES_AHEAD = 1 << 26
READERS = 2
"""Threads, for each GPU."""

Content = Tensor | Record
"""The fields of view of an image's crops, (N, F, F, 3) uint8, or what is known of it already."""

Block = list[tuple[Listed, Content]]


@dataclass(frozen=True)
class FolderOptions:
    """How a folder is gone through.

    Attributes:
        mpp: µm per pixel of all images; None takes what an image states, and 0.25 where it states nothing plausible.
        prevalence: share of atypical figures, in (0, 1), to add a column with the posterior for; None for none.
        resume: keep what an earlier run found of images that are unchanged.
        show_progress: show a bar with rate and time left on stderr.
        shard: whose images to classify alone; None for all.
    """

    mpp: float | None = None
    prevalence: float | None = None
    resume: bool = False
    show_progress: bool = False
    shard: Shard | None = None

    def takes(self, image: Listed) -> bool:
        """Whether an image is to be classified."""
        return self.shard is None or self.shard.takes(image.name)


def classify_folder(predictor: Predictor, source: Path, target: Path, options: FolderOptions | None = None) -> Progress:
    """Classifies every crop of every image in a folder and the folders below it.

    Args:
        predictor: the network, which uses all GPUs that it has copies on.
        source: folder of images; files with other suffixes than `model.images.read.SUFFIXES` are passed over.
        target: folder for the tables, made when missing.
        options: None for the defaults.

    Returns:
        What is done, with what an earlier run did.

    Raises:
        CaseError: `source` holds no image; or `target` cannot be written, another process writes there, or it holds
            another run to go on with.
    """
    options = options or FolderOptions()
    if not source.is_dir():
        raise CaseError(f"{source} is no folder; give a folder of images.")
    total, identity = _look_through(source, options)
    if identity is None:
        raise CaseError(f"{source} holds no image ({', '.join(SUFFIXES)}); give a folder of images.")
    settings: dict[str, Any] = {"weights": predictor.fingerprint(), "views": predictor.view_set, "mpp": options.mpp}
    if options.prevalence is not None:
        settings["prevalence"] = options.prevalence
    if options.shard is not None:
        settings["shard"] = asdict(options.shard)
    with RunTables(target) as tables:
        known = tables.start(settings, options.resume)
        read = ImageReader(source, predictor.config.preprocessing, options.mpp)
        with tqdm(total=total, unit="file", disable=not options.show_progress) as bar:
            written: Future[None] = Future()
            written.set_result(None)
            with ThreadPoolExecutor(1) as writer:
                wanted = filter(options.takes, list_images(source, say=False))
                with closing(_read_ahead(wanted, known, read, READERS * (1 + len(predictor.copies)))) as images:
                    for block, records in predict_in_order(predictor, _blocks(images), _predict):
                        written.result()
                        written = writer.submit(tables.append, records)
                        bar.update(len(block))
                written.result()
        tables.finish()
        if options.shard is not None:
            write_note(target, ShardNote("folder", options.shard, identity))
        return tables.progress


def _look_through(source: Path, options: FolderOptions) -> tuple[int, str | None]:
    """How many images are to be classified, and SHA-256 of the names and sizes of all; None where there is none."""
    wanted, listed, digest = 0, 0, hashlib.sha256()
    for image in list_images(source):
        wanted += options.takes(image)
        listed += 1
        digest.update(f"{image.name}\0{image.bytes}\0".encode("utf-8", "surrogateescape"))
    return wanted, digest.hexdigest() if listed else None


class ImageReader:
    """Reads images of a folder as crops at 0.25 µm per pixel.

    Args:
        source: the folder.
        preprocessing: of the network.
        mpp: µm per pixel of all images; None takes what an image states.
    """

    def __init__(self, source: Path, preprocessing: Preprocessing, mpp: float | None) -> None:
        self.source, self.preprocessing, self.mpp = source, preprocessing, mpp

    def __call__(self, image: Listed) -> Content:
        """Its fields of view; what is wrong with it becomes its record."""
        try:
            crops = self.crops(image)
            warn_of(self.source / image.name, crops)
            return self.preprocessing.cut_out(crops)
        except CropError as error:
            return Record(image, reason=one_line(error))

    def crops(self, image: Listed) -> list[np.ndarray]:
        """Its crops, (H, W, 3) uint8 RGB.

        Raises:
            CropError: they cannot be read.
        """
        path = self.source / image.name
        if image.problem:
            raise CropError(image.problem)
        try:
            crops, mpp = self._crops(path)
            if mpp != MICROMETRES_PER_PIXEL:
                longest = max(max(crop.shape[:2]) for crop in crops) * mpp / MICROMETRES_PER_PIXEL
                check_size(path, len(crops), round(longest) ** 2)
                crops = [rescale(crop, mpp) for crop in crops]
            return crops
        except OSError as error:  # of the image: the tables have a thread and errors of their own
            raise CropError(f"{path} cannot be read ({error.strerror}); copy it again.") from error

    def _crops(self, path: Path) -> tuple[list[np.ndarray], float]:
        """Crops, and their µm per pixel."""
        stack = read_stack(path)
        mpp = resolution(self.mpp, stack.mpp)
        if self.mpp is None and mpp != MICROMETRES_PER_PIXEL:
            logger.info("%s states %.4g µm per pixel; its crops are rescaled to 0.25.", path, mpp)
        return stack.crops, mpp


def _read_ahead(
    images: Iterable[Listed], known: Known, read: Callable[[Listed], Content], threads: int = READERS
) -> Generator[tuple[Listed, Content]]:
    """Each image with what is known of it or what `read` makes of it, in order.

    At most `FILES_AHEAD` wait, or `BYTES_AHEAD` of files, or as many of decoded crops, and one more for each thread.
    """
    waiting: deque[tuple[Listed, Future[Content]]] = deque()
    held = 0
    room = _Room(BYTES_AHEAD)

    def first() -> tuple[Listed, Content]:
        nonlocal held
        image, future = waiting.popleft()
        held -= image.bytes
        content = future.result()
        room.give_back(content)
        return image, content

    readers = ThreadPoolExecutor(threads)
    try:
        for number, image in enumerate(images):
            while waiting and (len(waiting) >= FILES_AHEAD or held >= BYTES_AHEAD):
                yield first()
            record = known.take(image)
            if record is None:
                future = readers.submit(room.take, number, read, image)
            else:
                future = Future()
                future.set_result(record)
            held += image.bytes
            waiting.append((image, future))
        while waiting:
            yield first()
    finally:
        readers.shutdown(wait=False, cancel_futures=True)
        room.open()


class _Room:
    """Keeps threads from reading on while what they have decoded takes too much memory: a file tells only what it has
    compressed.

    Args:
        limit: bytes of crops from which on none but the image that is waited for is read.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._taken, self._next, self._changed = limit, 0, 0, threading.Condition()

    def take(self, number: int, read: Callable[[Listed], Content], image: Listed) -> Content:
        """Reads the image of this number, once there is room."""
        with self._changed:
            # The image that is waited for needs none: it makes room.
            self._changed.wait_for(lambda: self._taken < self._limit or number <= self._next)
        content = read(image)
        with self._changed:
            self._taken += _bytes(content)
        return content

    def give_back(self, content: Content) -> None:
        """The next image's content is handed on."""
        with self._changed:
            self._taken -= _bytes(content)
            self._next += 1
            self._changed.notify_all()

    def open(self) -> None:
        """Lets everybody go on, in the end."""
        with self._changed:
            self._limit = sys.maxsize
            self._changed.notify_all()


def _bytes(content: Content) -> int:
    return content.nbytes if isinstance(content, Tensor) else 0


def _blocks(images: Iterable[tuple[Listed, Content]]) -> Iterator[Block]:
    block, crops = [], 0
    for image, content in images:
        block.append((image, content))
        crops += len(content) if isinstance(content, Tensor) else 0
        if crops >= CROPS_PER_BLOCK or len(block) >= FILES_PER_BLOCK:
            yield block
            block, crops = [], 0
    if block:
        yield block


def _predict(predictor: Predictor, block: Block) -> list[Record]:
    """The records of a block's images, in order."""
    fields = [content for _, content in block if isinstance(content, Tensor)]
    probabilities, spreads = predictor.predict_with_spread(torch.cat(fields)) if fields else (np.zeros(0), np.zeros(0))
    results = iter(
        (entry["class"], f"{entry['confidence']:.{DECIMALS}f}", f"{spread:.4f}")
        for entry, spread in zip(result(probabilities), spreads, strict=True)
    )
    records = []
    for image, content in block:
        if isinstance(content, Tensor):
            content = Record(image, [next(results) for _ in range(len(content))])
        records.append(content)
    return records
